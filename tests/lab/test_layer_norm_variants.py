"""Experiment 15: its declaration, what its arms train, gradients at the start, its plots."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.lab import stability, statistics, verdicts
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import layer_norm_variants as module
from bertcraft.lab.figures import layer_norm_variants as figures
from bertcraft.lab.runner import replay_arm, run_arm
from bertcraft.tensor import tree

EXPERIMENT = module.EXPERIMENT
TINY = {"layers": 2, "hidden": 16, "length": 8, "texts": 32, "held_out": 20, "batch": 8, "shard": 8, "steps": 6, "evaluations": 2,
        "rates": [1e-3, 4e-3]}  # fmt: skip
TRAINED = [arm.name for arm in EXPERIMENT.arms if not arm.trivial and "depths" not in arm.settings]


def tiny(name, **changes):
    arm = EXPERIMENT.arm(name)
    own = {"depths": [2, 4]} if "depths" in arm.settings else {}
    own |= {"checked_warmup": 2} if "checked_warmup" in arm.settings else {}
    return replace(arm, settings={**arm.settings, **TINY, **own, **changes})


def found(name, seed=0, **changes):
    return run_arm(EXPERIMENT, tiny(name, **changes), seed, Context())["figures"]


def planted(shares, **more):
    """Runs of ten seeds with these shares of rates, and a spread that every arm of a seed shares."""
    return [
        {"arm": name, "seed": seed, "figures": {"share": share + seed % 3 + 0.1 * ((7 * seed + len(name)) % 5), **more}}
        for name, share in shares.items()
        for seed in range(10)
    ]


def test_the_claim_is_the_share_of_rates_that_train_and_needs_a_post_layer_norm_that_can():
    primary = EXPERIMENT.primary
    assert (primary.treatment, primary.baseline, primary.metric) == ("pre", "post", "share")
    assert (primary.form, primary.better) == (statistics.SUPERIOR, 1)
    assert {arm.name for arm in EXPERIMENT.arms if EXPERIMENT.seeds_of(arm) == 10} == {"pre", "post"}
    able, warm = {"able": 1.0, "with_warmup": 1.0}, lambda runs: verdicts.outcomes(EXPERIMENT, runs)[0].verdict
    assert warm(planted({"pre": 80.0, "post": 40.0}, **able)) == statistics.REPRODUCED
    assert warm(planted({"pre": 40.0, "post": 80.0}, **able)) == statistics.CONTRADICTED
    assert warm(planted({"pre": 80.0, "post": 0.0}, able=1.0, with_warmup=0.0)) == statistics.NOT_TESTABLE
    assert warm(planted({"pre": 0.0, "post": 0.0}, able=0.0, with_warmup=1.0)) == statistics.NOT_TESTABLE


def test_arms_differ_in_one_thing():
    def differing(one, other):
        a, b = (EXPERIMENT.arm(name).settings for name in (one, other))
        return {key for key in {**a, **b} if a.get(key) != b.get(key)} - {"checked_warmup"}

    for name, keys in {
        "pre": "wiring",
        "deep": "wiring",
        "sandwich": "wiring",
        "post_warm": "warmup",
        "post_clipped": "clip",
    }.items():
        assert differing("post", name) == {keys}
    assert differing("pre", "pre_rms") == {"norms"}
    assert differing("post", "post_low") == {"rates"}
    assert max(EXPERIMENT.arm("post_low").settings["rates"]) < min(EXPERIMENT.arm("post").settings["rates"])
    same = {tuple(EXPERIMENT.arm(name).settings["rates"]) for name in TRAINED if name != "post_low"}
    assert EXPERIMENT.tuning is None and len(same) == 1
    assert EXPERIMENT.arm("post").settings["checked_warmup"] == EXPERIMENT.arm("post_warm").settings["warmup"]


def test_all_start_from_the_same_weights_with_norms_of_their_own():
    def start(name):
        arm = tiny(name)
        return dict(tree.items(stability.task_of(arm.settings, 3, module.build).architecture.start))

    plain = start("post")
    for name in TRAINED:
        own = start(name)
        for key in own.keys() & plain.keys() if name != "deep" else ():
            np.testing.assert_array_equal(own[key], plain[key])
        assert any("LayerNorm" in key for key in own.keys() ^ plain.keys()) == (name in ("pre", "sandwich", "pre_rms"))
    assert any(np.abs(leaf - plain[key]).max() > 0 for key, leaf in start("deep").items())


def test_weights_start_with_berts_deviation_in_proportion_to_the_width():
    arm = EXPERIMENT.arm("post")
    assert arm.settings["deviation"] == pytest.approx(0.02 * (768 / arm.settings["hidden"]) ** 0.5, rel=0.02)
    start = dict(tree.items(stability.task_of(arm.settings, 3, module.build).architecture.start))
    assert np.std(start["bert.encoder.layer.0.output.dense.weight"]) == pytest.approx(arm.settings["deviation"], rel=0.02)


@pytest.mark.parametrize("name", ["post", "pre_rms"])
def test_figures_of_a_run_and_its_replay(name):
    own = found(name)
    assert [each["rate"] for each in own["attempts"]] == TINY["rates"] and 0 <= own["share"] <= 100 and own["time"] > 0
    assert ("with_warmup" in own) == (name == "post")
    assert replay_arm(EXPERIMENT, tiny(name), 0, Context())["first_losses"] == own["attempts"][0]["first_losses"]


def test_progress_is_told_over_all_trainings_of_a_run():
    told = []
    run_arm(EXPERIMENT, tiny("post", evaluations=1), 0, Context(report=lambda done, total, text: told.append((done, total))))
    assert {total for _, total in told} == {3 * TINY["steps"]} and told == sorted(told) and told[-1][0] == 3 * TINY["steps"]


def test_gradients_at_the_start_are_told_by_layer_and_by_depth():
    own = found("start_pre")
    assert np.shape(own["by_layer"]) == (2, 2) and len(own["by_depth"]) == 2 and len(own["states"]) == 2
    assert own["last"] == own["by_depth"][0] == own["by_layer"][-1][1] and own["first"] == own["by_layer"][0][1]
    assert own["slope"] == pytest.approx(np.log(own["by_depth"][1] / own["by_depth"][0]) / np.log(2))
    assert replay_arm(EXPERIMENT, tiny("start_pre"), 0, Context()) == own


def test_plots_are_drawn_and_short_forms_have_arms_of_the_full_one(tmp_path):
    def attempts_of(name):
        *rates, last = EXPERIMENT.arm(name).settings["rates"]
        ended = [{"rate": rate, "trained": True, "loss": 5.0} for rate in rates]
        return [*ended, {"rate": last, "trained": False, "stopped": 3}]

    runs = [
        {"arm": name, "seed": seed, "figures": {"attempts": attempts_of(name), "plateau": 6.3}}
        for name in TRAINED for seed in (0, 1)
    ]  # fmt: skip
    layers, depths = EXPERIMENT.arm("start_pre").settings["layers"], EXPERIMENT.arm("start_pre").settings["depths"]
    start = {"by_layer": np.ones((layers, 2)).tolist(), "by_depth": [1.0] * len(depths), "slope": -0.5, "states": [1.5] * layers}
    runs += [{"arm": f"start_{name}", "seed": 0, "figures": start} for name in figures.WIRINGS]
    paths = figures.show(tmp_path, runs, EXPERIMENT)
    assert [path.name for path in paths] == ["rates.png", "start.png"] and all(path.stat().st_size > 1000 for path in paths)
    for quick in (EXPERIMENT.quick, EXPERIMENT.quick.quick):
        assert {arm.name for arm in quick.arms} < {arm.name for arm in EXPERIMENT.arms} and quick.seeds == 1
        attempts = [{"rate": rate, "trained": True, "loss": 5.0} for rate in quick.arm("pre").settings["rates"]]
        own = [{"arm": name, "seed": 0, "figures": {"attempts": attempts, "plateau": 6.3}} for name in ("post", "pre")]
        assert len(figures.show(tmp_path, own, quick)) == 1
