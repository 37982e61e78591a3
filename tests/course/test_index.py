"""The index notebook: its tables are today's, its sentences count right, its plots show all techniques."""

import json
import re
from collections import Counter
from contextlib import contextmanager

import pytest
from tests.course import lessons

from bertcraft.course import builder, checks, index, index_plots, progress, shelf, source
from bertcraft.course.catalogue import ADOPTIONS, LEVELS, PATHS, TECHNIQUES
from bertcraft.course.exercises import Exercise
from bertcraft.lab import style

LINK = re.compile(r"\[([^]]*)\]\((\w+)\.ipynb\)")


def cells():
    return json.loads(shelf.notebook(shelf.INDEX).read_text(encoding="utf-8"))["cells"]


def shown() -> list[str]:
    """The tables on the committed page, in Markdown."""
    outputs = [output.get("data", {}) for cell in cells() for output in cell.get("outputs", ())]
    return ["".join(data["text/markdown"]) for data in outputs if "text/markdown" in data]


def prose() -> str:
    path = shelf.folder("lessons") / f"{shelf.INDEX}.py"
    return " ".join(" ".join(cell.text for cell in source.read(path) if cell.type == "markdown").split())


@pytest.mark.parametrize("table", [index.techniques, index.claims, index.paths, index.impact, index.start])
def test_a_table_of_the_committed_page_is_todays(table):
    """But for the links: which notebooks are there may change between two builds of the page."""
    today = LINK.sub(r"\1", table().markdown)
    assert today in [LINK.sub(r"\1", markdown) for markdown in shown()], "stale: bertcraft lessons build index"


def test_a_table_is_there_as_text_too_and_nothing_else():
    for cell in cells():
        outputs = cell.get("outputs", [])
        assert len(outputs) <= 1
        for data in (output.get("data", {}) for output in outputs):
            if "text/markdown" in data:
                assert len("".join(data["text/plain"])) > 100


def test_what_the_committed_page_links_to_is_there():
    names = {name for markdown in shown() for _, name in LINK.findall(markdown)}
    assert all(shelf.notebook(name).exists() for name in names)


def test_the_committed_page_is_built_from_its_source():
    assert builder.stale(lessons.path("index"), solved=False) == ""


def test_the_index_holds_its_parts():
    headings = [line for cell in cells() if cell["cell_type"] == "markdown" for line in cell["source"] if line.startswith("#")]
    for part in (
        "Where to begin?", "The lessons", "Quick start", "What you will be able to do", "Four paths", "Your progress",
        "How to learn", "What each technique changed", "What is claimed", "Resources", "The list in pictures", "Impact levels",
        "Adoption in practice", "Impact against adoption", "When the papers appeared",
    ):  # fmt: skip
        assert any(part in heading for heading in headings), part
    pictures = sum("image/png" in output.get("data", {}) for cell in cells() for output in cell.get("outputs", ()))
    assert pictures >= 5


def test_sentences_with_a_count_count_right():
    years = [t.year for t in TECHNIQUES if t.year]
    before, after = sum(year < 2019 for year in years), sum(year == 2019 for year in years)
    number = {5: "five", 6: "six", 7: "seven"}
    text = prose()
    assert f"{number[before].capitalize()} of these papers are older than BERT, and {number[after]} are of the year after" in text
    assert f"Of the {number[sum(t.adoption == 'Universal' for t in TECHNIQUES)]} that it calls universal" in text
    by_rank = {t.rank: t for t in TECHNIQUES}
    assert (by_rank[4].adoption, by_rank[4].level) == ("Medium", "Revolutionary")
    assert (by_rank[14].adoption, by_rank[14].level) == ("Universal", "Significant")
    assert (by_rank[20].adoption, by_rank[20].level) == ("High", "Specialized")
    assert {len(path.ranks) for path in PATHS} == {5}


def test_the_last_sentences_count_the_claims_as_the_plot_does():
    found = [[t.rank for t in TECHNIQUES if t.judged in judged] for judged in index_plots.FOUND.values()]
    assert list(map(len, found)) == [4, 6, 3, 10, 2] and found[-1] == [5, 12]
    assert {t.rank: t.judged for t in TECHNIQUES if t.judged.startswith("accurate ")}.items() >= {
        (2, "accurate with a condition"), (11, "accurate for 2021"),
    }  # fmt: skip
    text = prose()
    assert "Four are, one of them under a condition (02) and one for its year only (11). For nine there is no figure" in text
    assert "six cite their paper rightly, for three there is no one founding paper." in text
    assert "Ten are imprecise, and two are wrong (05 and 12)." in text


def test_an_alternative_text_names_the_ranks_that_its_plot_shows():
    (alt,) = (
        cell.metadata["alt"] for cell in source.read(lessons.path("index")) if cell.text.strip() == "plots.truth()"
    )  # fmt: skip
    judged = [t.rank for groups in index_plots.FOUND.values() for t in TECHNIQUES if t.judged in groups]
    assert list(map(int, re.findall(r"\d\d", alt))) == judged


# ---- tables


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """Somebody with two lessons of two exercises each, and nothing solved."""
    folder = shelf.folder
    monkeypatch.setattr(shelf, "folder", lambda name: tmp_path if name == "notebooks" else folder(name))
    monkeypatch.setenv("BERTCRAFT_PROGRESS", str(tmp_path / "progress.json"))
    exercises = tuple(Exercise(name, name, 1, lambda function: None) for name in ("first", "second"))
    written = ("gradient_accumulation", "meta_learning")
    monkeypatch.setattr(checks, "of", lambda slug: exercises if slug in written else ())
    for name in ("06_gradient_accumulation", "25_meta_learning"):
        cells = [{"cell_type": "markdown", "source": ["# A lesson\n", "Set aside 60 to 90\n", "minutes."]}]
        (tmp_path / f"{name}.ipynb").write_text(json.dumps({"cells": cells}))


def test_progress_by_path(reader):
    progress.record("gradient_accumulation", "first", True)
    progress.record("gradient_accumulation", "second", False)
    progress.record("gradient_accumulation", "renamed_since", True)
    rows = index.your_progress().markdown.splitlines()
    assert rows[2] == "| lesson 00 | 0 of 0 | part 1: 0 of 0, part 2: 0 of 0 |  |"
    assert rows[5] == "| Training & Optimization | 1 of 2 | 06: 1 of 2 | 08, 09, 14, 20 |"
    assert rows[3] == "| Efficiency & Deployment | 0 of 0 |  | 01, 02, 05, 07, 23 |"
    assert rows[7] == "| on no path | 0 of 2 | 25: 0 of 2 | 15, 16, 18, 24 |"


def test_the_list_of_lessons_says_what_is_written_and_how_long_it_takes(reader):
    page = index.lessons()
    rows = page.markdown.splitlines()
    assert len(rows) == 2 + 2 + 25
    written, missing = rows[9].split(" | "), rows[10].split(" | ")
    assert written[1] == "[Gradient accumulation](06_gradient_accumulation.ipynb)"
    assert written[3] == "60 to 90" and written[5] == "2, ★" and written[6].startswith("written")
    assert missing[1] == "Mixed-precision training" and missing[3] == "" and missing[6] == "not written yet |"
    assert "](" not in page.text and "60 to 90" in page.text
    assert "[Gradient accumulation (06)](06_gradient_accumulation.ipynb) → Layer-wise" in index.paths().markdown
    assert "1.5 (1 of 5 written)" in index.paths().markdown
    assert "| I am new to transformers | Foundations | not written yet |" in index.start().markdown


# ---- plots


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn."""
    figures, original = [], style.shown

    @contextmanager
    def kept(**settings):
        with original(**settings) as axes:
            figures.append(axes.figure)
            yield axes

    monkeypatch.setattr(style, "shown", kept)
    return figures


def ranks(figure) -> Counter:
    return Counter(int(text.get_text()) for text in figure.axes[0].texts if re.fullmatch(r"0?\d|\d\d", text.get_text()))


@pytest.mark.parametrize("plot", [index_plots.levels, index_plots.adoption, index_plots.truth])
def test_tiles_show_each_technique_once(plot, drawn):
    plot()
    (figure,) = drawn
    axes = figure.axes[0]
    tiles = [text for text in axes.texts if text.get_color() == "white"]
    assert sorted(tile.get_text() for tile in tiles) == [f"{t.rank:02d}" for t in TECHNIQUES]
    counts = [int(text.get_text()) for text in axes.texts if text.get_color() != "white"]
    assert sum(counts) == 25 and len(counts) == len(axes.get_yticks())
    groups = dict(zip([label.get_text() for label in axes.get_yticklabels()], counts, strict=True))
    if plot is index_plots.levels:
        assert groups == Counter(t.level for t in TECHNIQUES) and list(groups) == list(LEVELS)
    if plot is index_plots.adoption:
        assert groups == Counter(t.adoption for t in TECHNIQUES) and list(groups) == list(ADOPTIONS)


def test_every_judgement_has_its_group():
    assert {t.judged for t in TECHNIQUES} == {judged for group in index_plots.FOUND.values() for judged in group}


def test_the_timeline_shows_every_dated_paper(drawn):
    index_plots.timeline()
    axes = drawn[0].axes[0]
    points = sorted(int(x) for line in axes.lines[: len(LEVELS)] for x in line.get_xdata())
    assert points == sorted(t.year for t in TECHNIQUES if t.year)
    assert "06, 09 and 24" in axes.get_title("left")
    assert [t.rank for t in TECHNIQUES if not t.year] == [6, 9, 24]


def test_impact_against_adoption_shows_each_technique_where_it_belongs(drawn):
    index_plots.impact_and_adoption()
    axes = drawn[0].axes[0]
    across = [label.get_text() for label in axes.get_xticklabels()]
    up = [label.get_text() for label in axes.get_yticklabels()]
    found = {}
    for text in axes.texts:
        x, y = text.get_position()
        found[int(text.get_text())] = (across[round(x)], up[round(y)])
    assert found == {t.rank: (t.adoption, t.level) for t in TECHNIQUES}
