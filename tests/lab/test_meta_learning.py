"""Experiment 25 in miniature: arms differ in what they claim to, nothing leaks, runs repeat, plots are drawn."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.lab import episodes, flops
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import meta_learning as module
from bertcraft.lab.figures import meta_learning as figures
from bertcraft.lab.runner import replay_arm
from bertcraft.techniques import meta_learning as technique
from bertcraft.tensor.parallel import one_blas_thread

EXPERIMENT = module.EXPERIMENT
METHODS = ("centroid", "maml", "first_order", "anil", "reptile", "prototypes", "classifier", "fine_tune", "regression", "maml_3")
TINY = {"texts": 6, "other_texts": 6, "episodes": 2, "validation_episodes": 1, "data_sets": ["clinc"]}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Six texts of a class are too few for the experiment's own numbers, and fewer classes are encoded sooner."""
    monkeypatch.setattr(module, "TASKS", 2)
    monkeypatch.setattr(module, "JUDGED", 1)
    monkeypatch.setattr(module, "QUERIES", 1)
    monkeypatch.setattr(module, "RATES", (0.05, 0.2))


def tiny(name, **changes):
    arm = EXPERIMENT.arm(name)
    own = {**arm.settings, **TINY, **changes}
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


def test_arms_differ_in_method_layers_and_rates_alone():
    for arm in EXPERIMENT.arms:
        assert {name: arm.settings[name] for name in module._FULL} == module._FULL
        assert set(arm.settings) - set(module._FULL) <= {"method", "depth", "steps", "rate", "inner_rate"}
        assert arm.settings["depth"] == (3 if arm.name.endswith("_3") else 6)
    alike = ("maml", "first_order", "anil")
    assert len({str({**EXPERIMENT.arm(name).settings, "method": ""}) for name in alike}) == 1
    long, short = EXPERIMENT.arm("first_order_long").settings, EXPERIMENT.arm("first_order").settings
    assert {name for name in long if long[name] != short[name]} == {"steps"}
    assert module._FULL["episodes"] >= 300 and EXPERIMENT.seeds == 5


def test_the_longer_arms_take_as_many_operations_as_maml(monkeypatch):
    monkeypatch.setattr(module, "TASKS", 4)

    def operations(name):
        settings = EXPERIMENT.arm(name).settings
        step = module.gradient_function(settings)
        each = [flops.count(step, module.start(settings, 0), random_task(20, shots, 5), 0) for shots in module.SHOTS]
        return np.mean(each) * settings["steps"]

    goal = operations("maml")
    for name in ("first_order_long", "classifier_long"):
        assert operations(name) == pytest.approx(goal, rel=0.02)
    assert operations("first_order") < 0.7 * goal


def test_one_step_on_one_example_is_the_nearest_centroid():
    for seed in range(20):
        task, settings = random_task(5, 1, 8, seed), {"method": "fine_tune"}
        own = module.judge(settings, module.initial(), [task], 0.1)[0]
        assert own[1] == module.by_centroid(module.initial(), task)
        assert own[0] == 20, "before it, all logits are zero"


def test_meta_training_reads_the_same_texts_in_every_arm_and_no_class_of_the_tests():
    split = module.split(TINY, 0)
    batches = [module.meta_batches(tiny(name).settings, 0)(1) for name in ("maml", "prototypes", "classifier")]
    for other in batches[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(batches[0].query.values(), other.query.values(), strict=True))
    assert len(batches[0].support["x"]) == 10 * 5 and len(batches[0].query["x"]) == 10
    assert set(batches[0].query["classes"]) <= set(range(90))
    tested = module.judged_on(tiny("maml").settings, 0, "clinc")
    assert set(tested.classes) == set(split.test)
    assert not set(split.test) & {*split.train, *split.validation}


def test_every_method_runs_repeats_and_is_replayed():
    figures = {}
    for name in METHODS:
        arm = tiny(name)
        figures[name] = run(arm)
        again = replay_arm(EXPERIMENT, arm, 0, Context())
        assert again and {key: figures[name][key] for key in again} == again
        for metric in ("clinc_1", "clinc_5"):
            assert 20 <= figures[name][metric] <= 100
        assert ("gigaflops" in figures[name]) == ("steps" in arm.settings)
    assert run(tiny("maml")) == figures["maml"]
    assert figures["maml"]["gigaflops"] > figures["first_order"]["gigaflops"]
    first = {name: figures[name]["first_loss"] for name in ("maml", "first_order")}
    assert first["maml"] == pytest.approx(first["first_order"], rel=1e-5), "they differ in the gradient, not in the loss"
    assert figures["maml"]["first_loss"] != figures["maml_3"]["first_loss"]
    for name in ("maml", "fine_tune"):
        curve = figures[name]["curve_1"]
        assert len(curve) == 11 and curve[module.INNER_STEPS] == figures[name]["clinc_1"] and curve[0] < 50


def test_anil_moves_the_head_alone():
    task = random_task(5, 1, 4)
    stages = module.adapter({"method": "anil"}, module.initial(), task, 0.1)
    next(stages)
    after = [next(stages) for _ in range(2)][-1]
    assert np.array_equal(after["map"]["weight"], np.eye(384)) and after["head"]["weight"].any()
    stages = module.adapter({"method": "maml"}, module.initial(), task, 0.1)
    next(stages)
    assert not np.array_equal([next(stages) for _ in range(2)][-1]["map"]["weight"], np.eye(384))


def test_the_plots_are_drawn_for_one_seed_and_for_several(tmp_path):
    names = ("centroid", "fine_tune", "centroid_3")
    runs = [{"arm": name, "seed": seed, "figures": run(tiny(name), seed)} for name in names for seed in range(2)]
    for part in (runs, runs[::2]):
        paths = figures.show(tmp_path, part, EXPERIMENT)
        assert [path.name for path in paths] == ["accuracy.png", "steps.png"]
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert len(figures.show(tmp_path, [each for each in runs if each["arm"] == "centroid"], EXPERIMENT)) == 1


def test_the_quick_version_has_arms_of_the_full_one_on_fewer_texts():
    quick = EXPERIMENT.quick
    assert {arm.name for arm in quick.arms} < {arm.name for arm in EXPERIMENT.arms}
    assert quick.comparisons[0] == EXPERIMENT.comparisons[0]
    needed = module.SHOTS[-1] + 10
    assert quick.arms[0].settings["texts"] >= needed
    assert min(map(len, episodes.pool_of("clinc150", needed).texts)) == needed
