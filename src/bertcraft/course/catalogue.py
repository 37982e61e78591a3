"""The catalogue: the 25 techniques, what is claimed of them and what their papers report, and the four learning paths.

The records are prose and stand in ``techniques.toml``; ranks, levels, adoption, claimed gains and cited papers are those of the
list that this collection follows, everything else was read in the papers or counted (:attr:`Technique.figures` says where).
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from bertcraft.errors import InputError

# The list's judgement, most to least: a level is given by the rank, adoption technique by technique.
LEVELS: Mapping[str, range] = MappingProxyType({
    "Revolutionary": range(1, 5),
    "High": range(5, 11),
    "Significant": range(11, 16),
    "Specialized": range(16, 21),
    "Emerging": range(21, 26),
})  # fmt: skip
ADOPTIONS = ("Universal", "High", "Medium", "Low")


@dataclass(frozen=True)
class Technique:
    """A technique as collections rank it, and as its paper has it."""

    rank: int
    slug: str  # its name in every room: "electra_pretraining"
    title: str
    adoption: str  # one of ADOPTIONS
    cited: str  # what the list cites: "Clark 2020", "standard practice"
    claimed: str  # the gain that the list claims: "4x efficiency"
    judged: str  # that claim held against the paper: "accurate", "imprecise", "wrong", "no figure" ...
    paper: str  # what the paper reports, with its conditions
    source: str  # where: "Clark et al. 2020, table 2, arXiv:2003.10555"
    reference: str  # the paper in full
    innovation: str  # the key innovation, in a few words
    innovations: tuple[str, ...]  # in sentences
    gives: str  # what it really gives, in a sentence: figures are those of ``paper``
    impact: str  # what it changed
    today: str  # its status today: what is used now
    needs: str  # what its lesson builds on: "lesson 00, section 4"
    outcome: str  # what its reader can do afterwards: "draw masks anew ..."
    use: str  # when to use it
    avoid: str  # when not
    figures: Mapping[str, str] = field(hash=False)  # where a figure of this record stands, or "= its calculation" -> the figures
    year: int | None = None  # of the citation; None where it names no paper

    @property
    def name(self) -> str:
        """The stem of its files: "02_electra_pretraining"."""
        return f"{self.rank:02d}_{self.slug}"

    @property
    def level(self) -> str:
        """The list's impact level."""
        return next(level for level, ranks in LEVELS.items() if self.rank in ranks)

    @property
    def paths(self) -> tuple["LearningPath", ...]:
        """The learning paths that it is on."""
        return tuple(path for path in PATHS if self.rank in path.ranks)


@dataclass(frozen=True)
class LearningPath:
    """Techniques to be learnt one after the other."""

    name: str
    ranks: tuple[int, ...]
    reader: str  # for whom it is
    needs: str  # what to know before its first lesson

    @property
    def techniques(self) -> tuple[Technique, ...]:
        """Its techniques, in the order in which to learn them."""
        return tuple(TECHNIQUES[rank - 1] for rank in self.ranks)


def _records() -> tuple[Technique, ...]:
    content = tomllib.loads(Path(__file__).with_name("techniques.toml").read_text(encoding="utf-8"))
    return tuple(Technique(**{name: _value(value) for name, value in record.items()}) for record in content["technique"])


def _value(value):
    """Prose on one line, lists as tuples, tables read-only."""
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, list):
        return tuple(map(_value, value))
    return MappingProxyType({key: _value(text) for key, text in value.items()}) if isinstance(value, dict) else value


_BOTH = "lesson 00, both parts"
PATHS = (
    LearningPath("Efficiency & Deployment", (1, 2, 5, 7, 23), "you pay for training or serving", f"{_BOTH}, and 06 before 07"),
    LearningPath(
        "Architecture & Innovation", (3, 4, 10, 21, 22), "you design models or read papers that do", f"{_BOTH}, and 05 before 22"
    ),
    LearningPath("Training & Optimization", (6, 8, 9, 14, 20), "your training is slow, unstable or too large", _BOTH),
    LearningPath("Applications & Specialization", (11, 12, 13, 17, 19), "you have a task and few labels", _BOTH),
)
TECHNIQUES = _records()  # by rank


def technique(name: str | int) -> Technique:
    """A technique by its rank (6, "06"), slug or both ("06_gradient_accumulation"). Raises InputError where there is none."""
    text = str(name)
    for each in TECHNIQUES:
        if text in (each.slug, each.name) or (text.isdecimal() and int(text) == each.rank):
            return each
    raise InputError(
        f"{name!r} is no technique: give a number from 1 to {len(TECHNIQUES)} or a slug, such as {TECHNIQUES[0].slug}"
    )


def numbered(name: str) -> Technique | None:
    """The technique of a number or name as a user gives it ("3", "03", a slug), None where there is none."""
    try:
        return technique(name)
    except InputError:
        return None


def learning_path(name: str) -> LearningPath:
    """A path by the beginning of its name, in any case: "efficiency". Raises InputError where there is none."""
    found = [path for path in PATHS if path.name.casefold().startswith(name.strip().casefold())]
    if len(found) != 1 or not name.strip():
        raise InputError(f"{name!r} names no learning path; there are {', '.join(path.name for path in PATHS)}")
    return found[0]
