"""The page ``notebooks/00_technique_rankings.md``, from the catalogue and the stored results."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from bertcraft.course import measured, shelf
from bertcraft.course.catalogue import LEVELS, TECHNIQUES, Technique
from bertcraft.lab import words

NAME = "00_technique_rankings.md"

_HEAD = """# The 25 techniques, ranked

Ranks, impact levels and adoption are **the judgement of the list** that this collection follows. They are not measured: no
experiment and no count of downloads stands behind them. Beside them stands what can be checked: the gain that the list claims,
what the paper reports, and what was measured here.

- **The paper** was read, and its figures are given with their conditions. "Reported" marks what was not checked in the paper
  itself.
- **Measured here** is the primary comparison of the technique's experiment: a difference (or ratio) paired over seeds, with its
  95 % interval. The verdict follows a rule of the claim's own form (better, not worse than a margin, equal within one, exact):
  *reproduced*, *contradicted*, *cannot tell*; *not testable here* where the models had not learnt what the question is about.
  Models and texts are small: a verdict is one about the scale beside it.

This page is written by `bertcraft lessons build`; [the index](00_index.ipynb) has the plots and the learning paths."""


def path() -> Path:
    """Where the page stands."""
    return shelf.folder("notebooks") / NAME


def text() -> str:
    """The whole page in Markdown."""
    parts = [_HEAD, _at_a_glance()]
    for level, ranks in LEVELS.items():
        parts.append(f"## {level}: ranks {ranks[0]} to {ranks[-1]}")
        parts += [_technique(each) for each in TECHNIQUES if each.level == level]
    return "\n\n".join(parts) + "\n"


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
        return words.NOT_YET
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
