"""The rankings page is what the catalogue and the results say today."""

import re

import pytest

from bertcraft.course import measured, rankings, shelf
from bertcraft.course.catalogue import TECHNIQUES
from bertcraft.lab import experiments
from bertcraft.lab.experiment import Comparison
from bertcraft.lab.results import Results
from bertcraft.lab.statistics import Interval

LESSON = re.compile(r"^\*\*Lesson\*\*: .*\n\n?", re.M)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """An empty folder in the place of results/."""
    folder = shelf.folder
    monkeypatch.setattr(shelf, "folder", lambda name: tmp_path if name == "results" else folder(name))
    return tmp_path


def without_lessons(text: str) -> list[str]:
    """Which notebooks are there may change between two builds of the page; all else may not."""
    return [line for line in LESSON.sub("", text).splitlines() if line]


def test_the_committed_page_is_todays():
    page = rankings.path().read_text(encoding="utf-8")
    assert without_lessons(page) == without_lessons(rankings.text()), "stale: bertcraft lessons build index"
    for name in re.findall(r"^\*\*Lesson\*\*: \[(\w+)\.ipynb\]", page, re.M):
        assert shelf.notebook(name).exists()


def test_every_technique_has_its_section():
    page = rankings.text()
    sections = dict(re.findall(r"^### (\d\d) .*\n((?:(?!^##).*\n)*)", page, re.M))
    assert list(sections) == [f"{t.rank:02d}" for t in TECHNIQUES]
    for technique, section in zip(TECHNIQUES, sections.values(), strict=True):
        for text in (
            technique.claimed,
            technique.cited,
            technique.judged,
            technique.paper,
            technique.source,
            technique.reference,
        ):
            assert text in section
        for text in (technique.level, technique.adoption, technique.use, technique.avoid, *technique.innovations):
            assert text in section
        assert measured.headline(technique.slug) in section


def test_links_lead_to_headings():
    page = rankings.text()
    headings = re.findall(r"^### (.*)$", page, re.M)
    anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert re.findall(r"\(#([^)]*)\)", page) == anchors


def test_tables_are_tables():
    for block in re.findall(r"(?:^\|.*\n)+", rankings.text(), re.M):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block[:200]


def test_nothing_measured_is_said_plainly(stored):
    page = rankings.text()
    assert "Measured so far: 0 of 25." in page and "Nothing is measured yet." in page
    assert page.count("**Measured here**: not measured yet.") == 25


def store(folder, treatment: list[float], baseline: list[float]):
    experiment = experiments.experiment("gradient_accumulation")
    first = experiment.comparisons[0]
    for name, losses in ((first.treatment, treatment), (first.baseline, baseline)):
        for seed, loss in enumerate(losses):
            run = {"figures": {first.metric: loss}, "seconds": 60.0, "peak_mb": 1.0}
            Results(experiment, folder).add(experiment.arm(name), seed, run, {"cpu": "test"})
    return first


def test_a_result_stands_in_every_place(stored):
    first = store(stored, [5.3, 5.42, 5.2], [5.2, 5.3, 5.1])
    page = rankings.text()
    digits = experiments.experiment("gradient_accumulation").metrics[first.metric].digits
    middle, half = 0.106667, 0.028684  # by hand: the half is 4.30265 * 0.011547 / sqrt(3)
    interval = " [".join([f"{middle:+.{digits}f}", f"{middle - half:+.{digits}f}, {middle + half:+.{digits}f}]"])
    assert page.count(interval) == 4  # at a glance, by evidence, headline, comparisons
    assert "Measured so far: 1 of 25." in page
    assert f"| 1 | {TECHNIQUES[5].title} | {3.719 * first.claimed:+.1f} | {first.name} |" in page
    assert "; reproduced" in page if first.claimed > 0 else "; opposite" in page
    assert "(3 seeds, 6 runs, 6 minutes)" in page


def test_one_seed_is_not_ranked(stored):
    store(stored, [5.3], [5.2])
    assert rankings.evidence("gradient_accumulation") is None
    assert rankings.evidence("quantization") is None  # no experiment, or nothing stored
    assert "Nothing is measured yet." in rankings.text()


@pytest.mark.parametrize(
    ("interval", "claimed", "ratio", "expected"),
    [
        (Interval(2.0, 1.0, 3.0, 5), 1, False, 2.0),
        (Interval(2.0, 1.0, 3.0, 5), -1, False, -2.0),
        (Interval(0.5, -0.5, 1.5, 5), 1, False, 0.5),
        (Interval(4.0, 2.0, 8.0, 5), 1, True, 2.0),  # of the logarithms
        (Interval(0.25, 0.125, 0.5, 5), -1, True, 2.0),
        (Interval(1.0, 1.0, 1.0, 5), -1, False, float("-inf")),
        (Interval(1.0, 1.0, 1.0, 5), 1, True, 0.0),
        (Interval(1.0, None, None, 1), 1, False, None),
    ],
)
def test_distance_in_half_widths(interval, claimed, ratio, expected):
    comparison = Comparison("a against b", "a", "b", "loss", claimed, ratio)
    assert rankings._half_widths(comparison, interval) == (expected if expected is None else pytest.approx(expected))


def test_evidence_agrees_with_the_verdicts():
    for technique in TECHNIQUES:
        distance, rows = rankings.evidence(technique.slug), measured.compared(technique.slug)
        if distance is not None:
            expected = "reproduced" if distance > 1 else "opposite" if distance < -1 else "not separated"
            assert rows[0][-1] == expected
