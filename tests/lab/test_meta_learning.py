"""Experiment 25 in miniature: what is declared, its checks, arms that differ as they say, no leak, replay equals run."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.lab import episodes, flops, statistics, verdicts
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import meta_learning as module
from bertcraft.lab.figures import meta_learning as figures
from bertcraft.lab.runner import replay_arm
from bertcraft.techniques import meta_learning as technique
from bertcraft.tensor.parallel import one_blas_thread

EXPERIMENT = module.EXPERIMENT
KINDS = ("maml", "maml_still", "classifier", "prototypes", "fine_tune", "centroid", "regression", "tfidf")
TINY = {"texts": 3, "episodes": 1}
RATES = {"rate": 1e-3, "inner_rate": 1.0, "sharpness": 10.0}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Three texts of a class are too few for the experiment's own numbers, and fewer classes are encoded sooner."""
    monkeypatch.setattr(module, "JUDGED", 2)
    monkeypatch.setattr(module, "QUERIES", 1)


def tiny(name, **changes):
    arm = EXPERIMENT.arm(name)
    own = {**arm.settings, **RATES, **TINY, **changes}
    return replace(arm, settings={**own, "steps": 2} if "steps" in own else own)


def run(arm, seed=0):
    with one_blas_thread():
        return module.run(arm, seed, Context())


def random_task(ways, shots, queries, seed=0):
    rng = np.random.default_rng(seed)

    def batch(each):
        labels = np.repeat(np.arange(ways), each)
        x = rng.standard_normal((len(labels), 384), np.float32)
        return {"x": x / np.linalg.norm(x, axis=1, keepdims=True), "labels": labels, "classes": labels}

    return technique.Task(batch(shots), batch(queries))


def planted(accuracies):
    """Runs of ten seeds with these mean accuracies, and a spread that every arm of a seed shares."""
    return [
        {"arm": name, "seed": seed, "figures": {"accuracy": value + seed % 3 + 0.01 * ((seed * 7 + len(name)) % 5)}}
        for name, value in accuracies.items()
        for seed in range(10)
    ]


def test_the_primary_comparison_is_maml_against_a_classifier_of_the_training_classes():
    primary = EXPERIMENT.primary
    assert (primary.treatment, primary.baseline, primary.metric) == ("maml", "classifier", "accuracy")
    assert primary.form == statistics.SUPERIOR and EXPERIMENT.primary_seeds == 10 and module.WAYS == 20
    assert EXPERIMENT.metrics["accuracy"].overlap == pytest.approx(40 / 90)
    assert [EXPERIMENT.seeds_of(EXPERIMENT.arm(name)) for name in ("maml", "classifier", "centroid", "fine_tune")] == [
        10,
        10,
        10,
        5,
    ]


def test_arms_differ_in_method_layers_and_rates_alone():
    for arm in EXPERIMENT.arms:
        assert {name: arm.settings[name] for name in module._FULL} == module._FULL
        assert set(arm.settings) - set(module._FULL) <= {"method", "steps", "adapts"}
    tuned = {*EXPERIMENT.tuning.grids, *EXPERIMENT.tuning.like}
    assert {arm.name for arm in EXPERIMENT.arms if not arm.trivial} == tuned


def test_a_ceiling_and_a_model_that_learnt_nothing_are_not_testable():
    good = {"maml": 88, "classifier": 87, "centroid": 85, "tfidf": 60}
    assert verdicts.primary(EXPERIMENT, planted(good)).verdict in (statistics.REPRODUCED, statistics.CANNOT_TELL)
    for arm, value in (("classifier", 85.2), ("maml", 97)):
        outcome = verdicts.primary(EXPERIMENT, planted({**good, arm: value}))
        assert outcome.verdict == statistics.NOT_TESTABLE and outcome.failed[0].arm == arm


def test_the_longer_arms_take_as_many_operations_as_maml():
    def operations(name):
        settings = {**EXPERIMENT.arm(name).settings, **RATES}
        return (
            flops.count(module.gradient_function(settings), module.start(settings, 0), random_task(20, 1, 5), 0)
            * settings["steps"]
        )

    goal = operations("maml")
    assert operations("classifier_long") == pytest.approx(goal, rel=0.02)
    assert operations("classifier") < 0.6 * goal


def test_one_step_on_one_example_is_the_nearest_mean():
    for seed in range(10):
        task, settings = random_task(20, 1, 4, seed), {"method": "fine_tune", "inner_rate": 0.1}
        own = module.judge(settings, module.initial(), [task])[0]
        assert own[1] == module.by_mean(module.initial(), task)
        assert own[0] == 5, "before it, all logits are zero"


def test_meta_training_reads_the_same_texts_in_every_arm_and_no_class_of_the_tests():
    split = module.split(TINY, 0)
    batches = [module.tasks_to_learn(tiny(name).settings, 0)(1) for name in ("maml", "prototypes", "classifier")]
    for other in batches[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(batches[0].query.values(), other.query.values(), strict=True))
    tested = module.judged_on(tiny("maml").settings, 0)
    chosen = module.judged_on(tiny("maml", judged_on="validation").settings, 1000)
    assert set(tested.classes) == set(split.test) and set(chosen.classes) == set(split.validation)
    assert not set(split.test) & {*split.train, *split.validation} and not {*split.train} & {*split.validation}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_arm_runs_and_is_replayed(name):
    arm = tiny(name)
    found = run(arm)
    again = replay_arm(EXPERIMENT, arm, 0, Context())
    assert again and {key: found[key] for key in again} == again
    assert 5 < found["accuracy"] <= 100
    assert ("gigaflops" in found) == ("steps" in arm.settings)
    assert ("curve" in found) == (name in ("maml", "fine_tune"))
    if "curve" in found:
        assert len(found["curve"]) == 11 and found["curve"][5] == found["accuracy"]


def test_a_trial_is_judged_on_validation_classes_alone():
    found = run(tiny("prototypes", **EXPERIMENT.tuning.settings), 1000)
    assert "validation" in found and "accuracy" not in found


def test_maml_unadapted_has_the_map_of_maml():
    maps = [module.learn(tiny(name).settings, 0, Context())[0]["map"]["weight"] for name in ("maml", "maml_still")]
    assert np.array_equal(*maps) and not np.array_equal(maps[0], np.eye(384))


def test_the_plots_are_drawn_for_one_seed_and_for_several(tmp_path):
    runs = planted({"maml": 88, "classifier": 87, "fine_tune": 86, "centroid": 85})
    for each in runs:
        if each["arm"] in ("maml", "fine_tune"):
            each["figures"]["curve"] = [5.0] + [80.0 + i for i in range(10)]
    for part in (runs, [each for each in runs if each["seed"] == 0]):
        paths = figures.show(tmp_path, part, EXPERIMENT)
        assert [path.name for path in paths] == ["gains.png", "steps.png"]
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert len(figures.show(tmp_path, [each for each in runs if each["arm"].startswith("c")], EXPERIMENT)) == 1


def test_the_quick_version_has_arms_of_the_full_one_on_fewer_texts():
    quick = EXPERIMENT.quick
    assert quick and {arm.name for arm in quick.arms} < {arm.name for arm in EXPERIMENT.arms}
    needed = quick.arms[0].settings["texts"]
    assert needed < module._FULL["texts"] and quick.seeds == 1 and quick.tuning is None
    assert min(map(len, episodes.pool_of("clinc150", needed).texts)) == needed
    assert all("rate" in arm.settings for arm in quick.arms if "steps" in arm.settings)
