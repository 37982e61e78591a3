"""Experiment 05 in miniature: what is declared, its checks, arms that differ as they say, no leak, replay equals run, sizes."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.lab import statistics, verdicts
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import knowledge_distillation as module
from bertcraft.lab.figures import knowledge_distillation as figures
from bertcraft.lab.results import Results
from bertcraft.lab.runner import replay_arm, run_arm
from bertcraft.tensor import tree

EXPERIMENT = module.EXPERIMENT
TINY = {"texts": 96, "steps": 4}
LEARNERS = [arm.name for arm in EXPERIMENT.arms if not arm.trivial]
ALL = module.requests
FEW = ("few-teacher", "few-labels", "judged")


def tiny(name, **changes):
    arm = EXPERIMENT.arm(name)
    if "family" in arm.settings:
        return arm
    own = {"texts": TINY["texts"]}
    if not arm.trivial:
        own |= TINY | {"labelled": 70 if name in FEW else 96, "rate": module.TEACHER_RATE}
    return replace(arm, settings={**arm.settings, **own, **changes})


@pytest.fixture(scope="module", autouse=True)
def fewer():
    """Of development and test part a tenth: what is measured here is no accuracy."""
    data, parts = ALL()
    own = parts._replace(dev=parts.dev[::10], test=parts.test[::10])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "requests", lambda: (data, own))
        patch.setattr(module.taught, "ROUNDS", 1)
        patch.setattr(module.taught, "TIMED", 32)
        yield


@pytest.fixture(scope="module")
def measured():
    return {arm.name: run_arm(EXPERIMENT, tiny(arm.name), 0, Context())["figures"] for arm in EXPERIMENT.arms}


def planted(accuracies, spread=0.1):
    """Runs of ten seeds about these mean accuracies."""
    rng = np.random.default_rng(0)
    return [
        {"arm": name, "seed": seed, "figures": {"accuracy": value + spread * rng.standard_normal()}}
        for name, value in accuracies.items()
        for seed in range(10)
    ]


def test_the_primary_comparison_is_the_claim_and_has_ten_seeds_with_what_it_rests_on():
    first = EXPERIMENT.primary
    assert (first.treatment, first.baseline, first.metric) == ("distilled", "teacher", "accuracy")
    assert (first.form, first.margin, first.ratio) == (statistics.NOT_WORSE, 0.03, True)
    assert [arm.name for arm in EXPERIMENT.arms if EXPERIMENT.seeds_of(arm) == 10] == ["teacher", "labels", "distilled", "tfidf"]
    assert EXPERIMENT.metrics["accuracy"].overlap == pytest.approx(1032 / 1920)


def test_it_is_judged_where_there_was_something_to_keep_and_not_elsewhere():
    base = {"teacher": 88, "labels": 85, "tfidf": 75}
    for distilled, verdict in ((87, statistics.REPRODUCED), (82, statistics.CONTRADICTED)):
        assert verdicts.primary(EXPERIMENT, planted({**base, "distilled": distilled})).verdict == verdict
    wide = verdicts.primary(EXPERIMENT, planted({**base, "distilled": 85.5}, spread=3))
    assert wide.verdict == statistics.CANNOT_TELL
    for low in ({"labels": 89}, {"tfidf": 90}):
        outcome = verdicts.primary(EXPERIMENT, planted({**base, "distilled": 88, **low}))
        assert outcome.verdict == statistics.NOT_TESTABLE and outcome.failed


def test_arms_differ_as_they_say_and_every_one_has_as_many_rates():
    settings = {arm.name: arm.settings for arm in EXPERIMENT.arms}
    distilled, labels = settings["distilled"], settings["labels"]
    assert labels == {"texts": 1920, "labelled": 1920, "steps": 240, "layers": 3}
    assert distilled == labels | {"taught": True, "teacher_rate": 1e-4, "temperature": 2.0, "soft": 5 / 7}
    for name, change in (
        ("cool", {"temperature": 1.0}), ("hot", {"temperature": 8.0}), ("states", {"cosine": 1 / 7}),
        ("random", {"random": True}), ("judged", {"labelled": 320, "soft": 1.0}), ("one-layer", {"layers": 1}),
    ):  # fmt: skip
        assert settings[name] == distilled | change
    assert settings["smoothing"] == labels | {"smoothing": 0.1} and settings["few-labels"] == labels | {"labelled": 320}
    assert settings["teacher"] == labels | {"layers": 6, "teacher": True}
    assert settings["labels-longer"] == labels | {"steps": 720}
    assert settings["few-teacher"] == settings["teacher"] | {"labelled": 320}
    assert {*EXPERIMENT.tuning.grids, *EXPERIMENT.tuning.like} == set(LEARNERS)
    for grid in EXPERIMENT.tuning.grids.values():
        assert set(grid) == {"rate"} and np.divide(grid["rate"][1:], grid["rate"][:-1]) == pytest.approx([2, 2, 2, 2])
    assert module.TEACHER_RATE in EXPERIMENT.tuning.grids["teacher"]["rate"][1:-1]


def test_texts_keep_their_parts_and_beginnings_hold_every_class(monkeypatch):
    monkeypatch.setattr(module, "requests", ALL)
    data, parts = ALL()
    assert [len(part) for part in parts] == [7706, 933, module.TESTED]
    hwu, texts = module.task("hwu64"), np.array(data.texts)
    for name, rows in zip(("train", "dev", "test"), parts, strict=True):
        part = getattr(hwu, name)
        assert texts[rows].tolist() == part.texts and data.numbers[rows].tolist() == part.labels.tolist()
    one, again, other = (module.split(400, seed) for seed in (0, 0, 1))
    assert np.array_equal(one.train, again.train) and not np.array_equal(one.train, other.train)
    assert len(set(one.train.tolist())) == 400 and set(one.train) <= set(parts.train)
    assert set(data.numbers[one.train[: module.FEW]]) == set(range(64))
    assert np.array_equal(one.test, parts.test) and np.array_equal(one.dev, parts.dev)


def test_students_of_a_seed_start_alike_from_the_first_third_and_last_layer(measured):
    base = dict(tree.items(module.model().params["bert"]["encoder"]["layer"]))
    _, params = module.start({"layers": 3}, 0)
    assert not params["head"]["weight"].any() and params["head"]["weight"].shape == (64, 384)
    for own, layer in enumerate((0, 2, 5)):
        for name, leaf in tree.items(params["encoder"]["bert"]["encoder"]["layer"][str(own)]):
            assert np.array_equal(leaf, base[f"{layer}.{name}"])
    same = [measured[name] for name in ("distilled", "labels", "smoothing", "cool", "hot", "states", "judged")]
    assert len({each["start_gradient"] for each in same}) == 1
    assert same[0]["start_loss"] == pytest.approx(np.log(64)), "the head says nothing yet"
    assert measured["random"]["start_gradient"] != measured["labels"]["start_gradient"]
    learnt = {measured[name]["losses"][0] for name in ("distilled", "labels", "states", "judged")}
    assert len(learnt) == 4, "and each learns something else"


@pytest.mark.parametrize("name", [arm.name for arm in EXPERIMENT.arms])
def test_a_run_reports_what_is_declared_and_is_replayed(measured, name):
    found = measured[name]
    again = replay_arm(EXPERIMENT, tiny(name), 0, Context(threads=2))
    assert again and again == {key: found[key] for key in again}
    if "millions" in found and "accuracy" not in found:
        return
    assert found["accuracy"] == pytest.approx(100 * (1 - len(found["wrong"]) / 104))
    if name in LEARNERS:
        assert found["ms"] > 0 and len(found["losses"]) == 1
        by_teacher = EXPERIMENT.arm(name).settings.keys() & {"taught", "teacher"}
        assert ("agree" in found) == bool(by_teacher)
    if name in ("teacher", "few-teacher"):
        assert found["agree"] == 100


def test_the_same_run_gives_the_same_figures_and_another_seed_others(measured):
    module.teacher.cache_clear()
    again = run_arm(EXPERIMENT, tiny("states"), 0, Context(threads=2))["figures"]
    assert {**again, "ms": 0} == {**measured["states"], "ms": 0}
    assert run_arm(EXPERIMENT, tiny("labels"), 1, Context())["figures"]["wrong"] != measured["labels"]["wrong"]


@pytest.mark.parametrize("name", ["distilled", "judged"])
def test_a_trial_is_judged_on_development_texts_alone(monkeypatch, name):
    asked, read = [], module.read
    monkeypatch.setattr(module, "read", lambda own, ids, **keep: asked.extend(map(bytes, ids)) or read(own, ids, **keep))
    module.teacher.cache_clear()
    found = run_arm(EXPERIMENT, tiny(name, **EXPERIMENT.tuning.settings), 1000, Context())["figures"]
    _, parts = module.requests()
    assert "dev" in found and "accuracy" not in found
    assert set(asked) == {bytes(module.tokens()[i]) for i in (*parts.dev, *module.split(TINY["texts"], 1000).train)}


def test_a_judged_student_reads_no_label_of_the_texts_without_one(monkeypatch):
    (data, parts), rows = module.requests(), module.split(96, 0)
    forgotten = data.numbers.copy()
    forgotten[rows.train[70:]] = 0
    expected = run_arm(EXPERIMENT, tiny("judged"), 0, Context())["figures"]
    monkeypatch.setattr(module, "requests", lambda: (replace(data, numbers=forgotten), parts))
    monkeypatch.setattr(module, "split", lambda texts, seed: rows)
    module.teacher.cache_clear()
    found = run_arm(EXPERIMENT, tiny("judged"), 0, Context())["figures"]
    module.teacher.cache_clear()
    assert found["losses"] == expected["losses"] and found["wrong"] == expected["wrong"]


def test_students_of_reported_runs_learn_from_the_teacher_whose_rate_its_trials_choose(tmp_path):
    results = Results(EXPERIMENT, tmp_path)
    for trial in results.missing_trials():
        assert trial.arm.settings.get("teacher_rate") == (module.TEACHER_RATE if trial.arm.settings.get("taught") else None)
        best = 2e-4 if trial.arm.name == "teacher" else EXPERIMENT.tuning.grids[trial.arm.name]["rate"][1]
        dev = -abs(np.log(trial.values["rate"] / best))
        results.add(trial.arm, trial.seed, {"figures": {"dev": dev}, "seconds": 1, "peak_mb": 1}, {}, trial.values)
    settled = {name: results.settled(name).settings for name in LEARNERS}
    assert settled["teacher"]["rate"] == settled["few-teacher"]["rate"] == 2e-4
    for name, own in settled.items():
        assert own.get("teacher_rate") == (2e-4 if own.get("taught") else None), name
    assert settled["hot"]["rate"] == settled["distilled"]["rate"]


@pytest.mark.parametrize(
    ("name", "settings", "rate"), [("judged", {"rate": 3e-4, "teacher_rate": 5e-4}, 5e-4), ("few-teacher", {"rate": 3e-4}, 3e-4)]
)
def test_a_teacher_is_trained_at_the_rate_that_its_arm_or_its_students_says(name, settings, rate, monkeypatch):
    class Asked(Exception):
        pass

    def teacher(*given):
        raise Asked(*given)

    monkeypatch.setattr(module, "teacher", teacher)
    with pytest.raises(Asked) as asked:
        module.run(tiny(name, **settings), 0, Context())
    assert asked.value.args == (96, 70, 4, rate, 0, "test")


def test_sizes_are_counted_by_hand(measured):
    """MiniLM: 6 layers of 384, inner 1536; its embeddings 30522 + 512 + 2 rows; the head."""
    layer = 4 * (384 * 384 + 384) + 2 * 384 * 1536 + 1536 + 384 + 4 * 384
    rest = (30522 + 512 + 2) * 384 + 2 * 384 + 64 * 385
    assert measured["teacher"]["millions"] == (rest + 6 * layer) / 1e6
    assert measured["distilled"]["millions"] == (rest + 3 * layer) / 1e6
    assert measured["bert"]["millions"] == 109.48224 and measured["distilbert"]["millions"] == 66.36288
    runs = [{"arm": name, "seed": 0, "figures": found} for name, found in measured.items()]
    exact = {o.comparison.name: o.verdict for o in verdicts.outcomes(EXPERIMENT, runs) if o.comparison.form == "exact"}
    assert exact == {
        "the student's parameters over the teacher's": statistics.HOLDS,
        "DistilBERT has 60 % fewer parameters": statistics.FAILS,
        "DistilBERT has 40 % fewer parameters": statistics.HOLDS,
    }


def test_the_quick_form_has_rates_and_arms_of_the_full_one():
    quick = EXPERIMENT.quick
    assert {arm.name for arm in quick.arms} == {"teacher", "distilled", "labels", "tfidf", "majority"}
    assert quick.primary == EXPERIMENT.primary and quick.seeds == 1 and quick.tuning is None
    rates = {arm.name: arm.settings.get("rate") for arm in quick.arms}
    assert rates == {"teacher": module.TEACHER_RATE, "distilled": 2e-4, "labels": 2e-4, "tfidf": None, "majority": None}


def test_the_plots_are_drawn_for_one_seed_and_for_several(measured, tmp_path):
    runs = [{"arm": name, "seed": seed, "figures": found} for name, found in measured.items() for seed in range(2)]
    for part in (runs, runs[::2], [run for run in runs if run["arm"] in ("teacher", "tfidf")]):
        paths = figures.show(tmp_path, part, EXPERIMENT)
        assert [path.name for path in paths] == ["kept.png", "price.png", "losses.png"]
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
