"""The rankings page is what the catalogue and the results say today."""

import re

import pytest

from bertcraft.course import evidence, measured, rankings, shelf
from bertcraft.course.catalogue import TECHNIQUES
from bertcraft.lab import experiments
from bertcraft.lab.experiment import Arm, Claim, Comparison, Experiment, Metric
from bertcraft.lab.results import Results

LESSON = re.compile(r"\[(?:the )?lesson\]\([^)]*\), ")


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """An empty folder in the place of results/."""
    folder = shelf.folder
    monkeypatch.setattr(shelf, "folder", lambda name: tmp_path if name == "results" else folder(name))
    return tmp_path


def without_lessons(text: str) -> str:
    """Which notebooks are there may change between two builds of the page; all else may not."""
    return LESSON.sub("", text)


def test_the_committed_page_is_todays():
    page = rankings.path().read_text(encoding="utf-8")
    assert without_lessons(page) == without_lessons(rankings.text()), "stale: bertcraft lessons build index"
    links = re.findall(r"\]\(([^)]*)\)", page)
    assert len(links) > 25 and all((rankings.path().parent / link).exists() for link in links)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.slug)
def test_a_committed_page_of_evidence_is_todays_and_whole(technique):
    page, place = evidence.text(technique), evidence.path(technique)
    assert without_lessons(place.read_text(encoding="utf-8")) == without_lessons(page), "stale: bertcraft lessons build index"
    for name in ("claimed", "cited", "judged", "paper", "source", "reference", "level", "adoption", "impact", "today"):
        assert getattr(technique, name) in page
    for text in (*technique.innovations, measured.headline(technique.slug)):
        assert text in page
    assert all((place.parent / link).exists() for link in re.findall(r"\]\(([^)]*)\)", page))


def test_every_technique_has_its_section():
    page = rankings.text()
    sections = dict(re.findall(r"^### (\d\d) .*\n((?:(?!^##).*\n)*)", page, re.M))
    assert list(sections) == [f"{t.rank:02d}" for t in TECHNIQUES]
    for technique, section in zip(TECHNIQUES, sections.values(), strict=True):
        for name in ("claimed", "judged", "gives", "use", "avoid", "today"):
            assert getattr(technique, name) in section
        assert measured.headline(technique.slug) in section


def test_a_level_is_a_screen():
    for level in re.split(r"^## ", rankings.text(), flags=re.M)[1:]:
        lines = sum(max(1, -(-len(line) // 150)) for line in level.splitlines())
        assert lines <= 75, level[:60]


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
        run=lambda *_: {}, replay=lambda *_: {}, minutes=1, code=(), seeds=3, primary_seeds=3,
    )  # fmt: skip


@pytest.fixture
def claim(stored, monkeypatch):
    found = experiments.experiment
    monkeypatch.setattr(experiments, "experiment", lambda which: planted() if which == "gradient_accumulation" else found(which))
    return stored


def test_a_result_stands_in_every_place(claim):
    store(claim, [5.3, 5.42, 5.2], [5.2, 5.3, 5.1])
    page = rankings.text() + evidence.text(TECHNIQUES[5])
    middle, half = 0.106667, 0.028684  # by hand: the half is 4.30265 * 0.011547 / sqrt(3)
    interval = f"{middle:+.3f} [{middle - half:+.3f}, {middle + half:+.3f}]"
    assert page.count(interval) == 3  # ranked; in the evidence its headline and its comparisons
    assert "Measured so far: 1 of 25." in page
    assert page.count("reproduced") > 2
    assert "3 seeds, 6 runs, 6 minutes" in page


def test_one_seed_has_no_interval_and_no_verdict(claim):
    store(claim, [5.3], [5.2])
    assert "many against one: +0.100 nats in loss; being measured" in rankings.text()
