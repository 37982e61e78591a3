"""Experiment 20: its declaration, its rules, what clipping does to a gradient, its plots."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.lab import stability, statistics, verdicts
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import gradient_clipping as module
from bertcraft.lab.figures import gradient_clipping as figures
from bertcraft.lab.runner import replay_arm, run_arm

EXPERIMENT = module.EXPERIMENT
TINY = {"layers": 1, "hidden": 16, "length": 8, "texts": 32, "held_out": 20, "batch": 8, "shard": 8, "steps": 6, "warmup": 1,
        "evaluations": 2, "rates": [1e-3, 4e-3]}  # fmt: skip
TRAINED = [arm.name for arm in EXPERIMENT.arms if not arm.trivial]


def tiny(name, **changes):
    arm = EXPERIMENT.arm(name)
    return replace(arm, settings={**arm.settings, **TINY, **changes})


def found(name, seed=0, **changes):
    return run_arm(EXPERIMENT, tiny(name, **changes), seed, Context())["figures"]


def planted(rates, **more):
    """Runs of ten seeds whose highest rates are these, for some seeds twice as high in both arms."""
    return [
        {"arm": name, "seed": seed, "figures": {"highest": rate * 2 ** (seed % 2), "finite": rate, "able": 1.0, **more}}
        for name, rate in rates.items()
        for seed in range(10)
    ]


def test_the_claim_is_a_ratio_of_highest_rates():
    primary = EXPERIMENT.primary
    assert (primary.treatment, primary.baseline, primary.metric, primary.ratio) == ("norm", "none", "highest", True)
    assert (primary.form, primary.better) == (statistics.SUPERIOR, 1)
    assert {arm.name for arm in EXPERIMENT.arms if EXPERIMENT.seeds_of(arm) == 10} == {"norm", "none"}
    outcome = lambda runs: verdicts.outcomes(EXPERIMENT, runs)[0]  # noqa: E731
    twice = outcome(planted({"none": 4e-3, "norm": 8e-3}))
    assert twice.verdict == statistics.REPRODUCED and twice.interval.mean == pytest.approx(2)
    assert outcome(planted({"none": 4e-3, "norm": 4e-3})).verdict == statistics.CANNOT_TELL
    assert outcome(planted({"none": 8e-3, "norm": 4e-3})).verdict == statistics.CONTRADICTED
    assert outcome(planted({"none": 4e-3, "norm": 8e-3}, able=0.9)).verdict == statistics.NOT_TESTABLE
    descent = verdicts.outcomes(EXPERIMENT, planted({"sgd_none": 0.48, "sgd_norm": 1.92}, able=0.0))[0]
    assert descent.comparison.metric == "finite" and descent.interval.mean == pytest.approx(4)  # asked though it never trains


def test_arms_differ_in_their_clipping():
    def differing(one, other):
        a, b = (EXPERIMENT.arm(name).settings for name in (one, other))
        return {key for key in {**a, **b} if a.get(key) != b.get(key)}

    assert differing("none", "norm") == {"clip"} == differing("sgd_none", "sgd_norm")
    assert differing("norm", "half") == differing("norm", "ten") == {"threshold", "of_mean"}
    assert differing("none", "value") == differing("none", "adaptive") == {"clip", "threshold"}
    assert differing("none", "sgd_none") == {"rule", "rates"}
    for name in TRAINED:
        rates = EXPERIMENT.arm(name).settings["rates"]
        np.testing.assert_allclose(np.array(rates[1:]) / rates[:-1], 2)


def test_thresholds_of_the_mean_are_of_an_unclipped_run_at_the_lowest_rate():
    half, none = found("half"), found("none")
    assert half["threshold"] == pytest.approx(0.5 * none["attempts"][0]["norm"])
    assert found("norm")["threshold"] == 1.0


@pytest.mark.parametrize(("name", "runs"), [("none", 2), ("half", 3)])
def test_progress_is_that_of_all_rates(name, runs):
    told = []
    run_arm(EXPERIMENT, tiny(name), 0, Context(report=lambda done, total, text: told.append((done, total))))
    assert {total for _, total in told} == {runs * TINY["steps"]}
    assert [done for done, _ in told] == sorted({done for done, _ in told}) and told[-1][0] == told[-1][1]


def test_what_clipping_does_to_a_gradient():
    """By the norm its length alone; by value its direction; where nothing is clipped, nothing."""
    none, norm, value = (found(name, threshold=1e-3) for name in ("none", "norm", "value"))
    assert none["kept"] == pytest.approx(100, abs=1e-3) and none["angle"] < 0.1
    assert norm["kept"] < 1 and norm["angle"] < 0.1
    assert value["kept"] < 50 and value["angle"] > 5


@pytest.mark.parametrize("name", ["none", "value", "half", "sgd_norm", "unigram"])
def test_a_replay_is_part_of_the_run(name):
    again, own = replay_arm(EXPERIMENT, tiny(name), 2, Context()), found(name, 2)
    assert again and again == {key: own[key] for key in again}


def test_descent_and_adam_are_what_the_arms_say():
    task = stability.task_of(tiny("none").settings, 0, module.build)
    state = {name: module.rule_of(tiny(name).settings, 1e-3, 1.0).init(task.architecture.start) for name in ("none", "sgd_norm")}
    assert set(state["none"][1]) == {"step", "m", "v"} and set(state["sgd_norm"][1]) == {"step", "velocity"}


def test_plots_are_drawn_and_short_forms_have_arms_of_the_full_one(tmp_path):
    def runs_of(experiment, seeds):
        runs = []
        for arm in (arm for arm in experiment.arms if not arm.trivial):
            attempts = [{"rate": rate, "trained": True, "loss": 5.0, "norms": [2.0, 1.0]} for rate in arm.settings["rates"][:-1]]
            attempts.append({"rate": arm.settings["rates"][-1], "trained": False, "stopped": 2})
            own = {"attempts": attempts, "plateau": 6.3, "highest": attempts[-2]["rate"], "finite": attempts[-2]["rate"]}
            runs += [{"arm": arm.name, "seed": seed, "figures": own} for seed in seeds]
        return runs

    paths = figures.show(tmp_path, runs_of(EXPERIMENT, (0, 1)), EXPERIMENT)
    assert [path.name for path in paths] == ["rates.png", "norms.png", "highest.png"]
    assert all(path.stat().st_size > 1000 for path in paths)
    for quick in (EXPERIMENT.quick, EXPERIMENT.quick.quick):
        assert {arm.name for arm in quick.arms} < {arm.name for arm in EXPERIMENT.arms} and quick.seeds == 1
        assert len(figures.show(tmp_path, runs_of(quick, (0,)), quick)) == 2
