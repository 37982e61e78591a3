"""The rankings page is what the catalogue and the results say today."""

import re

import pytest

from bertcraft.course import measured, rankings, shelf
from bertcraft.course.catalogue import TECHNIQUES
from bertcraft.lab import experiments
from bertcraft.lab.experiment import Arm, Claim, Comparison, Experiment, Metric
from bertcraft.lab.results import Results

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
    assert "Measured so far: 0 of 25." in page
    assert page.count("**Measured here**: not measured yet.") == 25


def store(folder, treatment: list[float], baseline: list[float]):
    """Runs of a planted claim in the place of technique 06's."""
    experiment = planted()
    for name, losses in (("many", treatment), ("one", baseline)):
        for seed, loss in enumerate(losses):
            run = {"figures": {"loss": loss}, "seconds": 60.0, "peak_mb": 1.0}
            Results(experiment, folder).add(experiment.arm(name), seed, run, {"cpu": "test"})


def planted() -> Experiment:
    return Experiment(
        number=6, slug="gradient_accumulation", title="Planted", question="?", scale="made up", claim=Claim("", "", ""),
        arms=(Arm("many", "micro-batches"), Arm("one", "one batch")),
        metrics={"loss": Metric("loss", "nats")},
        comparisons=(Comparison("many against one", "many", "one", "loss", better=+1),),
        run=lambda *_: {}, replay=lambda *_: {}, minutes=1, code=(),
    )  # fmt: skip


@pytest.fixture
def claim(stored, monkeypatch):
    found = experiments.experiment
    monkeypatch.setattr(experiments, "experiment", lambda which: planted() if which == "gradient_accumulation" else found(which))
    return stored


def test_a_result_stands_in_every_place(claim):
    store(claim, [5.3, 5.42, 5.2], [5.2, 5.3, 5.1])
    page = rankings.text()
    middle, half = 0.106667, 0.028684  # by hand: the half is 4.30265 * 0.011547 / sqrt(3)
    interval = f"{middle:+.3f} [{middle - half:+.3f}, {middle + half:+.3f}]"
    assert page.count(interval) == 3  # at a glance, headline, comparisons
    assert "Measured so far: 1 of 25." in page
    assert page.count("reproduced") > 2
    assert "3 seeds, 6 runs, 6 minutes" in page


def test_one_seed_has_no_interval(claim):
    store(claim, [5.3], [5.2])
    assert "many against one: +0.100 nats; one seed" in rankings.text()
