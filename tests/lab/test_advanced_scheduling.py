"""Experiment 09 with tiny settings: what is declared, the rates of its arms, figures of a run, replays, plots."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.lab import ruled, statistics, verdicts
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import advanced_scheduling as module
from bertcraft.lab.figures import advanced_scheduling as figures
from bertcraft.lab.runner import replay_arm, run_arm
from bertcraft.train import warmup_linear

EXPERIMENT = module.EXPERIMENT
TINY = {"hidden": 64, "batch": 16, "shard": 16, "steps": 14, "warmup": 2, "evaluations": 2, "texts": 400, "held_out": 60,
        "rate": 2e-3}  # fmt: skip
TRAINED = [arm.name for arm in EXPERIMENT.arms if not arm.trivial]


def tiny(name, **changes):
    """An arm at a tenth of its size; where it has no warm-up it keeps none."""
    arm = EXPERIMENT.arm(name)
    cold = {"warmup": 0} if arm.settings.get("warmup") == 0 else {}
    return replace(arm, settings={**arm.settings, **TINY, **cold, **changes})


def found(name, seed=0, **changes):
    return run_arm(EXPERIMENT, tiny(name, **changes), seed, Context())["figures"]


def planted(losses, **more):
    """Runs of ten seeds with these mean losses, and a spread that every arm of a seed shares."""
    return [
        {"arm": name, "seed": seed, "figures": {"loss": loss + seed % 3 + 0.001 * ((7 * seed + len(name)) % 5), **more}}
        for name, loss in losses.items()
        for seed in range(10)
    ]


def rates(name, setting=None):
    arm = EXPERIMENT.arm(name)
    settings = {**arm.settings, "rate": 0.1}
    known = {key: value for key, value in settings.items() if key in ruled.Setting.__dataclass_fields__}
    schedule = module.schedule_of(settings, ruled.Setting(**known))
    return np.array([float(schedule(step)) for step in range(settings["steps"] + 1)])


def test_the_claim_is_that_a_fall_to_zero_is_better_at_each_ones_best_rate():
    primary = EXPERIMENT.comparisons[0]
    assert (primary.treatment, primary.baseline, primary.metric) == ("linear", "constant", "loss")
    assert (primary.form, primary.better) == (statistics.SUPERIOR, -1)
    seeds = {arm.name: EXPERIMENT.seeds_of(arm) for arm in EXPERIMENT.arms}
    assert {name for name, number in seeds.items() if number == 10} == {"linear", "constant", "unigram"}
    between = ["constant_between", "linear_between"]  # of rates that no grid holds
    assert [*EXPERIMENT.tuning.grids, *between] == TRAINED
    grids = {tuple(grid["rate"]) for grid in EXPERIMENT.tuning.grids.values()}
    assert len(grids) == 1, "as many trials for each"
    assert [arm.name for arm in EXPERIMENT.arms if "rate" in arm.settings] == between, "the others have their own best"
    assert not {EXPERIMENT.arm(name).settings["rate"] for name in between} & {*grids.pop()}
    verdict = lambda **losses: verdicts.outcomes(EXPERIMENT, planted({"unigram": 7.0, **losses}))[0].verdict  # noqa: E731
    assert verdict(constant=5.2, linear=5.0) == statistics.REPRODUCED
    assert verdict(constant=5.0, linear=5.2) == statistics.CONTRADICTED
    assert verdict(constant=6.8, linear=6.7) == statistics.NOT_TESTABLE


def test_the_rates_of_each_arm():
    own = {name: rates(name) for name in TRAINED}
    line, steps = warmup_linear(0.1, 50, 1000), np.arange(1001)
    np.testing.assert_allclose(own["linear"], [line(step) for step in steps], atol=1e-15)
    assert own["constant"][50:].tolist() == [0.1] * 951 and own["constant"][25] == pytest.approx(0.05)
    assert own["cold"][0] == own["radam"][0] == 0.1 and own["linear"][0] == 0
    assert own["stable"][800] == 0.1 and own["stable"][900] == pytest.approx(0.05) and own["stable"][1000] == 0
    assert own["cut"][1000] == pytest.approx(0.1 * 1000 / 1950) and own["cut"][50] == 0.1, "half a line is left"
    at = own["prolonged"]
    np.testing.assert_allclose(at[:376], [warmup_linear(0.1, 50, 500)(step) for step in range(376)], atol=1e-15)
    assert np.abs(np.diff(at)).max() <= 0.1 / 50 + 1e-12 and at[1000] == 0, "no jump"
    assert own["inverse_sqrt"][200] == pytest.approx(0.05) and own["cosine"][525] == pytest.approx(0.05)
    for name in ("linear", "cosine", "stable", "prolonged"):
        assert own[name][1000] == pytest.approx(0, abs=1e-12)


def test_figures_of_a_run_and_what_a_trial_may_see():
    warm, cold = found("linear", texts=400), found("cold")
    assert warm["updates"][0] == 0 and cold["updates"][0] == pytest.approx(1, abs=0.25), "the first update is as long as the rate"
    assert len(warm["curve"]) == 2 and len(warm["rates"]) == 14 and warm["plateau"] in (0.0, 100.0)
    other = found("radam", 1)
    assert "updates" not in other and other["first_losses"][0] == pytest.approx(found("linear", 1)["first_losses"][0], rel=1e-6)
    assert set(found("cut", 1000, **EXPERIMENT.tuning.settings)) == {"dev_loss"}


def test_a_loss_is_held_against_that_of_its_own_batch_before_training():
    """A run that stands still has not risen, however hard its batches are; one that climbs has, by what it climbs."""
    settings = tiny("linear").settings
    still = found("linear", 1, rate=1e-12)
    assert still["rise"] == pytest.approx(0, abs=1e-4) and np.ptp(still["first_losses"]) > 0.01
    task = ruled.task_of(settings, 1)
    params = module.pretraining.initial(task.config, task.texts, 1)
    before = np.array([float(task.loss(params, task.make_batch(step), None)) for step in range(14)])
    assert module.rise(before + np.arange(14) / 10, settings, 1) == pytest.approx(np.mean(np.arange(4, 14)) / 10, abs=1e-6)
    assert module.rise(before - np.arange(14) / 10, settings, 1) == pytest.approx(-0.45, abs=1e-6)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_run_whose_numbers_overflow_knows_nothing():
    lost = found("cold", 1, rate=1e38)
    assert lost == {"loss": pytest.approx(np.log(4096), abs=0.01), "accuracy": 0.0, "plateau": 100.0}


@pytest.mark.parametrize("name", ["prolonged", "radam", "unigram"])
def test_a_replay_is_part_of_the_run(name):
    arm = tiny(name)
    again = replay_arm(EXPERIMENT, arm, 2, Context())
    own = run_arm(EXPERIMENT, arm, 2, Context())["figures"]
    assert again and again == {key: own[key] for key in again}


def test_plots_are_drawn_and_short_forms_have_arms_of_the_full_one(tmp_path):
    own = {"curve": [6.0, 5.0], "steps": [5, 10], "rates": [0.0, 0.1, 0.05], "updates": [0.0, 0.5, 0.7]}
    runs = planted({"constant": 5.2, "linear": 5.0, "cold": 5.1, "unigram": 7.0}, **own)
    names = ["schedules.png", "against_a_line.png", "first_updates.png"]
    for some in (runs, [run for run in runs if run["seed"] == 0]):
        paths = figures.show(tmp_path, some, EXPERIMENT)
        assert [path.name for path in paths] == names and all(path.stat().st_size > 1000 for path in paths)
    for quick, plots in ((EXPERIMENT.quick, 2), (EXPERIMENT.quick.quick, 1)):
        assert {arm.name for arm in quick.arms} < {arm.name for arm in EXPERIMENT.arms} and quick.seeds == 1
        assert all(arm.trivial or "rate" in arm.settings for arm in quick.arms)
        assert len(figures.show(tmp_path, runs, quick)) == plots
