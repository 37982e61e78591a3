"""The tables of the index notebook: what the catalogue, the results, the notebooks and the reader's progress say today."""

import json
import re
from collections.abc import Sequence

from bertcraft.course import checks, display, glossary, measured, progress, rankings, shelf
from bertcraft.course.catalogue import PATHS, TECHNIQUES, Technique
from bertcraft.course.display import Page
from bertcraft.course.standing import FOUNDATIONS

NOT_WRITTEN = "not written yet"
PAGES = {  # that are no technique's: what it builds on, and what its reader can do afterwards
    glossary.FOUNDATIONS[0]: ("NumPy", "read and write a transformer's training as NumPy functions, gradient included"),
    glossary.FOUNDATIONS[1]: ("lesson 00", "make a classifier of an encoder, and judge a difference by its interval"),
}
_START = (
    (
        "I am new to transformers", glossary.FOUNDATIONS[0],
        "It builds attention, an encoder and its training from nothing; all other lessons take it as known.",
    ),
    (
        "I fine-tune on my own labels", "12_adapter_modules",
        "It compares the ways to fine-tune with what is cheapest. For an answer on your own texts, run `bertcraft compare`.",
    ),
    (
        "I pretrain or deploy", "01_roberta_optimizations",
        "It says which part of a recipe is worth its compute, and begins the path Efficiency & Deployment.",
    ),
)  # fmt: skip


def start() -> Page:
    """Where to begin: a lesson for each kind of reader, its minutes and why."""
    rows = [(reader, _named(name), minutes(name) or NOT_WRITTEN, why) for reader, name, why in _START]
    return _page(("who are you?", "begin with", "minutes", "why"), rows)


def lessons() -> Page:
    """All lessons: what each builds on, its minutes, what its reader can do afterwards, its exercises and its state."""
    rows = [
        (name[:2], _named(name), needs, minutes(name), outcome, _exercises(name), "written")
        for name, (needs, outcome) in PAGES.items()
    ]
    for t in TECHNIQUES:
        written = shelf.notebook(t.name).exists()
        state = ("written, measured" if measured.compared(t.slug) else "written, not measured yet") if written else NOT_WRITTEN
        rows.append((f"{t.rank:02d}", _linked(t), t.needs, minutes(t.name), t.outcome, _exercises(t.name), state))
    return _page(("", "lesson", "builds on", "minutes", "after it you can", "checked exercises", "state"), rows)


def paths() -> Page:
    """The four learning paths, each in the order in which it is walked, with the hours of what is written."""
    rows = []
    for path in PATHS:
        lengths = [_longest(t.name) for t in path.techniques if shelf.notebook(t.name).exists()]
        hours = f"{sum(lengths) / 60:.1f} ({len(lengths)} of {len(path.ranks)} written)" if lengths else NOT_WRITTEN
        rows.append((path.name, path.reader, path.needs, " → ".join(_linked(t, numbered=True) for t in path.techniques), hours))
    return _page(("path", "for you if", "builds on", "lessons, in this order", "hours"), rows)


def impact() -> Page:
    """What each technique changed, how widely it is used as the list judges it, and its status today."""
    rows = [(f"{t.rank:02d}", t.title, t.impact, t.adoption, t.today) for t in TECHNIQUES]
    return _page(("", "technique", "what it changed", "adoption", "status today (2026)"), rows)


def claims() -> Page:
    """The claim, what the paper really reports and our measurement of each technique, side by side."""
    columns = ("", "technique", "claimed", "so the claim is", "what it really gives", "measured here [95 % interval]")
    rows = [(f"{t.rank:02d}", t.title, t.claimed, t.judged, t.gives, _measured(t.slug)) for t in TECHNIQUES]
    return _page(columns, rows)


def techniques() -> Page:
    """All techniques as the list ranks them, with the paper it cites and the gain it claims."""
    columns = ("rank", "technique", "impact level", "paper", "key innovation", "claimed gain", "adoption")
    rows = [
        (f"{t.rank:02d}", _linked(t), t.level, t.cited, t.innovation, t.claimed, t.adoption) for t in TECHNIQUES
    ]  # fmt: skip
    return _page(columns, rows)


def minutes(name: str) -> str:
    """The minutes that a lesson says it takes, "230" or "60 to 90"; "" where it is not built or does not say."""
    if not shelf.notebook(name).exists():
        return ""
    cells = json.loads(shelf.notebook(name).read_text(encoding="utf-8"))["cells"]
    text = next(("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"), "")
    found = re.search(r"(\d+(?: to \d+)?) minutes\b", " ".join(text.split()))
    return found[1] if found else ""


def your_progress() -> Page:
    """The exercises that the reader has solved, by path and lesson. Raises DataError where her file cannot be read."""
    done = progress.read()
    first = [_solved(slug, done) for slug in FOUNDATIONS]
    rows = [(
        "lesson 00", f"{sum(solved for solved, _ in first)} of {sum(every for _, every in first)}",
        ", ".join(f"part {i}: {solved} of {every}" for i, (solved, every) in enumerate(first, 1)), "",
    )]  # fmt: skip
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


def _longest(name: str) -> int:
    return int((minutes(name) or "0").split(" to ")[-1])


def _exercises(name: str) -> str:
    """ "4, * to ***"; an exercise's stars say how hard it is."""
    stars = [exercise.stars for exercise in checks.of(name[3:])] if shelf.notebook(name).exists() else []
    if not stars:
        return ""
    easiest, hardest = "★" * min(stars), "★" * max(stars)
    return f"{len(stars)}, {easiest}" + (f" to {hardest}" if hardest != easiest else "")


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


def _named(name: str) -> str:
    """A lesson's title as it stands on its page, a link where that is built."""
    titles = dict(zip(glossary.FOUNDATIONS, ("Foundations", "Foundations, second part"), strict=True))
    title = titles.get(name) or next(t.title for t in TECHNIQUES if t.name == name)
    return f"[{title}]({name}.ipynb)" if shelf.notebook(name).exists() else title


def _page(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Page:
    """A table, in Markdown where links can be followed."""
    bare = [tuple(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", cell) for cell in row) for row in rows]
    return Page(display.table("", columns, bare).text, markdown=rankings.table(columns, rows))
