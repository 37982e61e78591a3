"""The page ``notebooks/00_technique_rankings.md``, from the catalogue and the stored results."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from bertcraft.course import measured, shelf
from bertcraft.course.catalogue import LEVELS, TECHNIQUES, Technique
from bertcraft.lab.experiment import Comparison
from bertcraft.lab.results import compare
from bertcraft.lab.statistics import Interval

NAME = "00_technique_rankings.md"

_HEAD = """# The 25 techniques, ranked

Ranks, impact levels and adoption are **the judgement of the list** that this collection follows. They are not measured: no
experiment and no count of downloads stands behind them. Beside them stands what can be checked: the gain that the list claims,
what the paper reports, and what was measured here.

- **The paper** was read, and its figures are given with their conditions. "Reported" marks what was not checked in the paper
  itself.
- **Measured here** is the first comparison of the technique's experiment: a difference (or ratio) paired over seeds, with its
  95 % interval. The verdict follows a rule: *reproduced* when the interval lies on the claimed side, *opposite* when it lies on
  the other, *not separated* when it holds both. Models and texts are small: a verdict is one about this scale.

This page is written by `bertcraft lessons build`; [the index](00_index.ipynb) has the plots and the learning paths."""

_EVIDENCE = """## Ranked by the evidence

The same techniques by how surely their first comparison shows what is claimed: the distance of its mean from "no difference",
in half-widths of its 95 % interval, positive on the claimed side. Above 1 the interval lies on the claimed side, below -1 on
the other. It says how sure an effect is, not how large: more seeds or a quieter measurement raise it."""


def path() -> Path:
    """Where the page stands."""
    return shelf.folder("notebooks") / NAME


def text() -> str:
    """The whole page in Markdown."""
    parts = [_HEAD, _at_a_glance(), _EVIDENCE, _by_evidence()]
    for level, ranks in LEVELS.items():
        parts.append(f"## {level}: ranks {ranks[0]} to {ranks[-1]}")
        parts += [_technique(each) for each in TECHNIQUES if each.level == level]
    return "\n\n".join(parts) + "\n"


def evidence(slug: str) -> float | None:
    """How far the first comparison lies on the claimed side of "no difference", in half-widths of its interval.

    Above 1 is what the lab calls reproduced, below -1 opposite. None where nothing is stored, or one seed gives no interval.
    """
    found, stored = measured.experiment(slug), measured.runs(slug)
    outcome = compare(found.comparisons[0], stored) if stored else None
    return _half_widths(found.comparisons[0], outcome[0]) if outcome else None


def _half_widths(comparison: Comparison, interval: Interval) -> float | None:
    if interval.low is None:
        return None
    mean, low, high = (math.log(x) if comparison.ratio else x for x in interval[:3])
    distance, half = comparison.claimed * mean, (high - low) / 2
    if half == 0:  # every seed gave the same
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / half


def _at_a_glance() -> str:
    rows = [
        (
            f"{each.rank:02d}",
            f"[{each.title}](#{_anchor(_title(each))})",
            each.level,
            each.adoption,
            each.claimed,
            each.judged,
            _effect(each.slug),
        )
        for each in TECHNIQUES
    ]
    columns = ("", "technique", "impact level", "adoption", "claimed gain", "held against the paper", "measured here")
    known = sum(bool(measured.compared(each.slug)) for each in TECHNIQUES)
    return f"{table(columns, rows)}\n\nMeasured so far: {known} of {len(TECHNIQUES)}."


def _by_evidence() -> str:
    found = {each: evidence(each.slug) for each in TECHNIQUES}
    ranked = sorted((each for each in found if found[each] is not None), key=lambda each: (-found[each], each.rank))
    if not ranked:
        return "Nothing is measured yet."
    rows = []
    for place, each in enumerate(ranked, 1):
        name, difference, _, seeds, verdict = measured.compared(each.slug)[0]
        rows.append((str(place), each.title, f"{found[each]:+.1f}", name, difference, seeds, verdict))
    columns = ("", "technique", "half-widths", "comparison", "difference", "seeds", "verdict")
    return table(columns, rows)


def _technique(each: Technique) -> str:
    paths = " and ".join(path.name for path in each.paths)
    lines = [
        f"### {_title(each)}",
        f"{each.innovation}. Impact level: {each.level}; adoption: {each.adoption} (the list's judgement)."
        + (f" On the path {paths}." if paths else ""),
        "**Key innovations**",
        "\n".join(f"- {sentence}" for sentence in each.innovations),
        f'**Claimed**: "{each.claimed}" (citing: {each.cited}). Held against the paper: {each.judged}.',
        f"**In the paper**: {each.paper} ({each.source})",
        f"**Measured here**: {measured.headline(each.slug)}.",
    ]
    rows = measured.compared(each.slug)
    if rows:
        lines.append(table(measured.COMPARED, rows))
        lines += [f"- {note}" for note in measured.experiment(each.slug).notes]
    lines += [f"**When to use it**: {each.use}", f"**When not**: {each.avoid}", f"**Reference**: {each.reference}"]
    if origins := _origins(each):
        lines.append(f"<sub>Where the figures stand: {origins}.</sub>")
    if shelf.notebook(each.name).exists():
        lines.append(lesson_line(each))
    return "\n\n".join(lines)


def lesson_line(each: Technique) -> str:
    """The line that leads to a technique's notebook, where there is one."""
    return f"**Lesson**: [{each.name}.ipynb]({each.name}.ipynb)"


def _origins(each: Technique) -> str:
    parts = []
    for origin, shown in each.figures.items():
        figures = ", ".join(shown.split())
        parts.append(f"{figures} {origin}" if origin.startswith("=") else f"{figures}: {origin}")
    return "; ".join(parts).replace("*", "\\*")


def _effect(slug: str) -> str:
    rows = measured.compared(slug)
    if not rows:
        return "not measured yet"
    name, difference, _, _, verdict = rows[0]
    return f"{name}: {difference}; {verdict}"


def _title(each: Technique) -> str:
    return f"{each.rank:02d} {each.title}"


def _anchor(title: str) -> str:
    """The name under which GitHub links a heading."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c == "-")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
