"""Experiment 06 with tiny settings: arms differ only as they say, figures are sane, and a replay is the run's beginning."""

import json
import subprocess
import sys

import numpy as np
import pytest

from bertcraft import machine
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import gradient_accumulation as lab
from bertcraft.lab.figures import gradient_accumulation as figures
from bertcraft.lab.runner import replay_arm, run_arm
from bertcraft.techniques import gradient_accumulation as technique
from bertcraft.tensor import tree, value_and_grad

SMALL = {"texts": 120, "held_out": 10, "pairs": 200, "steps": 5}
CUT = {"batch": 16, "micro": 4, "cuts": (1, 4), "cost": ()}
ARM = lab.EXPERIMENT.arm


def arm(name: str, **changes):
    """An arm with little of everything and its own differences."""
    known = ARM(name)
    small = SMALL | ({"cost": ()} if name in ("full", "weighted") else {})
    small = {key: value for key, value in small.items() if key in known.settings}
    return type(known)(name, known.title, known.settings | small | changes)


def test_arms_differ_only_in_what_they_claim():
    base = ARM("weighted").settings
    differences = {
        name: {key for key in base | ARM(name).settings if base.get(key) != ARM(name).settings.get(key)}
        for name in ("full", "mean_of_means", "grouped", "sum_of_means")
    }
    assert differences == {
        "full": {"micro", "cuts", "cost"}, "mean_of_means": {"weight", "cost"}, "grouped": {"weight", "grouped", "cost"},
        "sum_of_means": {"weight", "cost"},
    }  # fmt: skip
    assert len(ARM("adamw").settings["rates"]) == len(ARM("lamb").settings["rates"]), "as many trials for either rule"
    pairs = [ARM(name).settings for name in ("pairs_full", "pairs_accumulated", "pairs_cached")]
    for key in ("steps", "batch", "rate", "rule", "pairs"):
        assert len({own[key] for own in pairs}) == 1


def test_grouping_by_length_changes_the_order_of_a_batch_and_nothing_else():
    random, grouped = (lab.batch_maker(arm(name).settings, 1)(3) for name in ("mean_of_means", "grouped"))
    lengths = grouped["attention_mask"].sum(axis=1)
    assert (np.diff(lengths) >= 0).all() and (np.diff(random["attention_mask"].sum(axis=1)) < 0).any()
    rows = [sorted((*ids, *sorted(labels)) for ids, labels in zip(b["input_ids"].tolist(), b["labels"].tolist(), strict=True))
            for b in (random, grouped)]  # fmt: skip
    assert rows[0] == rows[1]
    assert technique.predicted(random) == technique.predicted(grouped)


@pytest.mark.parametrize("weight", ["tokens", "equal", "none"])
def test_the_gradient_that_is_trained_on_is_the_techniques(weight):
    settings = arm("weighted", weight=weight).settings
    _, params, loss = lab.masked_lm_start(settings, 0)
    batch = lab.batch_maker(settings, 0)(0)
    _, found = lab.gradient_function(settings, loss, 4)(params, batch, 0)
    parts = technique.micro_batches(batch, 4)
    _, expected = technique.accumulate(loss, params, parts, technique.predicted if weight == "tokens" else technique.equally)
    factor = len(parts) if weight == "none" else 1
    for (name, a), b in zip(tree.items(found), tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, factor * b, atol=3e-6, rtol=1e-4, err_msg=name)


def test_gradients_by_tokens_are_exact_and_means_are_not():
    figures = {
        name: run_arm(lab.EXPERIMENT, arm(name, **CUT), 0, Context())["figures"]
        for name in ("weighted", "mean_of_means", "sum_of_means")
    }
    for own in figures.values():
        assert dict(own["gradient_errors"])[1] == 0 and 4 < own["loss"] < 9
        assert min(own["short_loss"], own["long_loss"]) < own["loss"] < max(own["short_loss"], own["long_loss"])
        assert own["gradient_error"] == dict(own["gradient_errors"])[4]
    assert figures["weighted"]["gradient_error"] < 1e-3 < 1 < figures["mean_of_means"]["gradient_error"]
    assert figures["sum_of_means"]["gradient_error"] > 100


@pytest.mark.parametrize("name", ["full", "grouped", "lamb"])
def test_a_replay_is_the_beginning_of_the_run(name):
    changes = {"batch": 16, "micro": 4} if name != "full" else {"batch": 16, "micro": 16}
    if name == "lamb":
        changes["rates"] = (1e-2, 2e-2)
    if name != "lamb":
        changes["cuts"] = ()
    small = arm(name, **changes)
    figures = run_arm(lab.EXPERIMENT, small, 3, Context())["figures"]
    replayed = replay_arm(lab.EXPERIMENT, small, 3, Context(threads=2))
    assert len(figures["first_losses"]) == lab.REPLAYED
    assert all(figures[key] == value for key, value in replayed.items()), "to the last bit, on other threads"
    if name == "lamb":
        assert figures["rate"] == min(figures["dev_losses"], key=lambda each: each[1])[0]


def test_contrastive_gradients_are_exact_with_the_cache_only():
    cosines = {}
    for name in ("pairs_cached", "pairs_accumulated"):
        small = arm(name, batch=16, micro=4, cuts=(1, 4, 8))
        figures = run_arm(lab.EXPERIMENT, small, 0, Context())["figures"]
        assert replay_arm(lab.EXPERIMENT, small, 0, Context())["first_losses"] == figures["first_losses"]
        assert 0 <= figures["retrieval"] <= 100
        cosines[name] = dict(figures["cosines"])
    assert all(abs(value - 1) < 1e-6 for value in cosines["pairs_cached"].values())
    assert cosines["pairs_accumulated"][8] < cosines["pairs_accumulated"][4] < 0.999


def test_a_process_measures_its_own_memory():
    """One micro-batch needs more than 8: the activations of all texts at once."""
    points = []
    for cut in ("1", "8"):
        command = [sys.executable, "-m", lab.__name__, cut, "2"]
        done = subprocess.run(command, env=machine.child_environment(), capture_output=True, text=True, check=True)
        points.append(json.loads(done.stdout))
    assert points[0]["peak_mb"] > 1.5 * points[1]["peak_mb"]
    assert all(point["step_seconds"] > 0 and point["before_mb"] < point["peak_mb"] for point in points)


def test_the_distance_between_gradients():
    a, b = {"x": np.array([3.0, 0.0])}, {"x": np.array([0.0, 4.0])}
    assert lab.norm(a) == 3 and lab.cosine(a, b) == 0 and lab.cosine(a, a) == pytest.approx(1)

    def loss(p, batch, rng):
        return np.sum(p * batch["at"][:, 0])

    batch, double = {"at": np.ones((4, 1))}, 2.0  # a function that doubles the gradient is off by 100 %
    function = lambda micro: lambda p, b, step: (0, double * value_and_grad(loss)(p, b, None)[1])  # noqa: E731
    assert lab.gradient_errors(np.ones(()), loss, function, [batch], (1, 2)) == [[1, 100.0], [2, 100.0]]


def test_plots_are_drawn_where_arms_are_missing(tmp_path):
    point = {"micro_batches": 1, "peak_mb": 3.0, "before_mb": 1.0, "step_seconds": 0.1}
    losses = {"loss": 1.0, "short_loss": 1.0, "long_loss": 1.0}
    runs = [
        {"arm": "full", "seed": s, "figures": losses} for s in (0, 1)
    ] + [
        {"arm": "weighted", "seed": s, "figures": losses | {"gradient_errors": [[1, 0.0], [2, 0.1]], "cost": [point]}}
        for s in (0, 1)
    ]  # fmt: skip
    paths = figures.show(tmp_path, runs, lab.EXPERIMENT)
    assert len(paths) == 3 and all(path.stat().st_size > 1000 for path in paths)
