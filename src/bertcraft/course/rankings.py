"""The page ``notebooks/00_technique_rankings.md``, from the catalogue and the stored results."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from bertcraft.course import measured, shelf
from bertcraft.course.catalogue import LEVELS, TECHNIQUES, Technique

NAME = "00_technique_rankings.md"

_HEAD = """# The 25 techniques, ranked

Ranks and impact levels are **the judgement of the list** that this collection follows. They are not measured: no
experiment and no count of downloads stands behind them. Beside them stands what can be checked: the gain that the list claims,
what is true of it, and what was measured here.

- **Really gives** is what the paper or later work supports, in a sentence; the evidence page has its figures with their
  conditions. "Reported" marks what was not checked in the paper itself.
- **Measured here** is the primary comparison of the technique's experiment, and what it must not be read without: a difference
  (or ratio) paired over seeds, with its 95 % interval unless that is too narrow for the digits shown. Of a loss, in nats, less
  is better. The verdict follows a rule of the claim's own form (better, not worse than a margin, equal within one, exact):
  *reproduced*, *contradicted*, *cannot tell*; *not testable here* where the models had not learnt what the question is about.
  Models and texts are small: a verdict is one about the scale beside it.

Each technique's *evidence* is a page of its own: the paper's figures, where they stand, and every comparison of its experiment.
These pages are written by `bertcraft lessons build`; [the index](00_index.ipynb) has lessons, learning paths and plots."""


def path() -> Path:
    """Where the page stands."""
    return shelf.folder("notebooks") / NAME


def text() -> str:
    """The whole page in Markdown: a screen a level."""
    known = sum(bool(measured.compared(each.slug)) for each in TECHNIQUES)
    parts = [_HEAD, f"Measured so far: {known} of {len(TECHNIQUES)}."]
    for level, ranks in LEVELS.items():
        parts.append(f"## {level}: ranks {ranks[0]} to {ranks[-1]}")
        parts += [_technique(each) for each in TECHNIQUES if each.level == level]
    return "\n\n".join(parts) + "\n"


def _technique(each: Technique) -> str:
    links = [f"[evidence](evidence/{each.name}.md)"]
    if shelf.notebook(each.name).exists():
        links.insert(0, f"[lesson]({each.name}.ipynb)")
    return f"""### {each.rank:02d} {each.title} ({", ".join(links)})

- **Really gives**: {each.gives} The claim, "{each.claimed}", is: {each.judged}.
- **Measured here**: {measured.headline(each.slug)}.
- **Use when**: {each.use}
- **Avoid when**: {each.avoid}
- **Today**: {each.today}"""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
