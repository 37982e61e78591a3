"""The tables of the index notebook: what the catalogue, the results, the notebooks and the reader's progress say today."""

import re
from collections.abc import Sequence

from bertcraft.course import checks, display, glossary, measured, progress, rankings, shelf
from bertcraft.course.catalogue import PATHS, TECHNIQUES, Technique
from bertcraft.course.display import Page

PAGES = (*glossary.FOUNDATIONS, glossary.PAGE)  # that are no technique's
NOT_WRITTEN = "not written yet"


def techniques() -> Page:
    """All techniques as the list ranks them, with the paper it cites and the gain it claims."""
    columns = ("rank", "technique", "impact level", "paper", "key innovation", "claimed gain", "adoption")
    rows = [
        (f"{t.rank:02d}", _linked(t), t.level, t.cited, t.innovation, t.claimed, t.adoption) for t in TECHNIQUES
    ]  # fmt: skip
    return _page(columns, rows)


def claims() -> Page:
    """The claim, the paper's figure and our measurement of each technique, side by side."""
    columns = ("", "technique", "claimed", "in the paper", "so the claim is", "measured here [95 % interval]")
    rows = [(f"{t.rank:02d}", t.title, t.claimed, t.paper, t.judged, _measured(t.slug)) for t in TECHNIQUES]
    return _page(columns, rows)


def paths() -> Page:
    """The four learning paths, each in the order in which it is walked."""
    return _page(
        ("path", "first", "then", "then", "then", "last"),
        [(path.name, *(_linked(t, numbered=True) for t in path.techniques)) for path in PATHS],
    )


def notebooks() -> Page:
    """Which notebooks there are: size, checked exercises, whether the technique's experiment is stored."""
    rows = []
    for name in (*PAGES, *(t.name for t in TECHNIQUES)):
        exists = shelf.notebook(name).exists()
        slug = name[3:]
        rows.append((
            f"[{name}]({name}.ipynb)" if exists else name,
            size(shelf.notebook(name).stat().st_size) if exists else NOT_WRITTEN,
            str(len(checks.of(slug)) or "") if exists else "",
            "" if name in PAGES else "yes" if measured.runs(slug) else "not yet",
        ))  # fmt: skip
    return _page(("notebook", "size", "checked exercises", "measured"), rows)


def your_progress() -> Page:
    """The exercises that the reader has solved, by path and lesson. Raises DataError where her file cannot be read."""
    done = progress.read()
    rows = []
    for name, own in (*((path.name, path.techniques) for path in PATHS), ("on no path", [t for t in TECHNIQUES if not t.paths])):
        there = [t for t in own if shelf.notebook(t.name).exists()]
        counts = [_solved(t.slug, done) for t in there]
        rows.append((
            name,
            f"{sum(solved for solved, _ in counts)} of {sum(every for _, every in counts)}",
            ", ".join(f"{t.rank:02d}: {solved} of {every}" for t, (solved, every) in zip(there, counts, strict=True)),
            ", ".join(f"{t.rank:02d}" for t in own if t not in there),
        ))  # fmt: skip
    return _page(("path", "exercises solved", "by lesson", NOT_WRITTEN), rows)


def size(count: int) -> str:
    """Bytes of a notebook in tenths of a megabyte: "0.4 MB"."""
    return f"{max(count, 50_001) / 1e6:.1f} MB"


def _solved(slug: str, done: dict[str, dict[str, dict]]) -> tuple[int, int]:
    """How many of a lesson's checked exercises are solved in a reader's progress, and how many there are."""
    names = {exercise.name for exercise in checks.of(slug)}
    return len([name for name in names if "solved" in done.get(slug, {}).get(name, {})]), len(names)


def _measured(slug: str) -> str:
    rows = measured.compared(slug)
    if not rows:
        return "not measured yet"
    name, difference, _, seeds, verdict = rows[0]
    seeds = "" if seeds == "1" else f" ({seeds} seeds)"  # the verdict says so
    return f"{name}: {difference}; {verdict}{seeds}"


def _linked(technique: Technique, numbered: bool = False) -> str:
    """Its title, a link where its notebook is built."""
    title = f"{technique.title} ({technique.rank:02d})" if numbered else technique.title
    return f"[{title}]({technique.name}.ipynb)" if shelf.notebook(technique.name).exists() else title


def _page(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Page:
    """A table, in Markdown where links can be followed."""
    bare = [tuple(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", cell) for cell in row) for row in rows]
    return Page(display.table("", columns, bare).text, markdown=rankings.table(columns, rows))
