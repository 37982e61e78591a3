"""Experiment 14 with tiny settings: what is declared, the rules of its arms, figures of a run, MiniLM with few labels, plots."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.lab import pretraining, ruled, statistics, style, verdicts
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import weight_decay as module
from bertcraft.lab.figures import weight_decay as figures
from bertcraft.lab.runner import replay_arm, run_arm
from bertcraft.tensor import tree

EXPERIMENT = module.EXPERIMENT
TINY = {"hidden": 64, "batch": 16, "shard": 16, "steps": 14, "warmup": 2, "evaluations": 2, "texts": 400, "held_out": 60,
        "rate": 2e-3}  # fmt: skip
TRAINED = [arm.name for arm in EXPERIMENT.arms if "where" in arm.settings]
FEW = [arm.name for arm in EXPERIMENT.arms if "tuned_rate" in arm.settings]


def tiny(name, **changes):
    arm = EXPERIMENT.arm(name)
    cold = {"warmup": 0} if arm.settings.get("warmup") == 0 else {}
    return replace(arm, settings={**arm.settings, **TINY, **cold, **changes})


def found(name, seed=0, **changes):
    return run_arm(EXPERIMENT, tiny(name, **changes), seed, Context())["figures"]


def planted(losses, **more):
    return [
        {"arm": name, "seed": seed, "figures": {"loss": loss + seed % 3 + 0.001 * ((7 * seed + len(name)) % 5), **more}}
        for name, loss in losses.items()
        for seed in range(10)
    ]


def differing(one, other):
    a, b = (EXPERIMENT.arm(name).settings for name in (one, other))
    return {key for key in {**a, **b} if a.get(key) != b.get(key)}


def test_the_claim_is_that_decay_beside_the_gradient_is_better_at_each_ones_best_rate_and_decay():
    primary = EXPERIMENT.comparisons[0]
    assert (primary.treatment, primary.baseline, primary.metric) == ("adamw", "l2", "loss")
    assert (primary.form, primary.better) == (statistics.SUPERIOR, -1)
    seeds = {arm.name: EXPERIMENT.seeds_of(arm) for arm in EXPERIMENT.arms}
    assert {name for name, number in seeds.items() if number == 10} == {"adamw", "l2", "unigram"}
    assert {len(ruled_grid) for ruled_grid in (list(combinations(name)) for name in EXPERIMENT.tuning.grids)} == {16}
    verdict = lambda **losses: verdicts.outcomes(EXPERIMENT, planted({"unigram": 7.0, **losses}))[0].verdict  # noqa: E731
    assert verdict(l2=5.2, adamw=5.0) == statistics.REPRODUCED
    assert verdict(l2=5.0, adamw=5.2) == statistics.CONTRADICTED
    assert verdict(l2=6.8, adamw=6.7) == statistics.NOT_TESTABLE


def combinations(name):
    from bertcraft.lab import tuning

    return tuning.combinations(EXPERIMENT, name)


def test_arms_differ_in_one_thing():
    assert differing("l2", "adamw") == {"where"} and differing("adamw", "everything") == {"which"}
    assert differing("warm", "uncorrected") == differing("cold", "uncorrected_cold") == {"corrected"}
    assert differing("warm", "cold") == differing("uncorrected", "uncorrected_cold") == {"warmup"}
    assert differing("adamw", "warm") == {"b2"} and differing("adamw", "none") == set()
    assert differing("few", "few_uncorrected") == differing("few_cold", "few_uncorrected_cold") == {"corrected"}
    assert differing("few", "few_cold") == differing("few_uncorrected", "few_uncorrected_cold") == {"warm"}
    assert set(EXPERIMENT.tuning.like.values()) == {"adamw"} and set(EXPERIMENT.tuning.grids) == {
        "l2",
        "adamw",
        "none",
        "dropout",
    }


def test_the_first_update_of_each_arm():
    """Without gradient what is left of a matrix and of a bias tells where and on what decay acts; with one, the correction."""
    weights = {"m": np.full((2, 2), 2.0, np.float32), "bias": np.full(2, 2.0, np.float32)}

    def first(name, gradient, **changes):
        settings = tiny(name, **{"weight_decay": 0.1, "warmup": 0} | changes).settings
        known = {key: value for key, value in settings.items() if key in ruled.Setting.__dataclass_fields__}
        rule = module.rule_of(settings, ruled.Setting(**known))
        return rule.update(tree.map(lambda w: np.full_like(w, gradient), weights), rule.init(weights), weights)[0]

    rate = TINY["rate"]
    np.testing.assert_allclose(first("adamw", 0)["m"], -rate * 0.1 * 2, rtol=1e-5)
    assert not first("adamw", 0)["bias"].any() and first("everything", 0)["bias"].all()
    np.testing.assert_allclose(first("l2", 0)["m"], -rate, rtol=1e-4)
    corrected, plain = first("cold", 0.1, weight_decay=0.0)["bias"], first("uncorrected_cold", 0.1)["bias"]
    np.testing.assert_allclose(plain / corrected, np.sqrt(10), rtol=1e-3)


def test_no_arm_pulls_the_words_frequencies_to_zero():
    settings = tiny("everything").settings
    task = ruled.task_of(settings, 0)
    params = pretraining.initial(task.config, task.texts, 0)
    decaying = {which: {name for name, leaf in tree.items(params) if pulls(name, leaf)} for which, pulls in module.WHICH.items()}
    assert {name for name, _ in tree.items(params)} - decaying["everything"] == {module.FREQUENCIES}
    assert all(("bias" in name or "LayerNorm" in name) for name in decaying["everything"] - decaying["matrices"])


def test_figures_of_a_run_and_what_a_trial_may_see():
    shrunk, whole = found("adamw", weight_decay=30.0), found("none")
    assert shrunk["size_matrices"] < 0.9 * whole["size_matrices"] and whole["plateau"] in (0.0, 100.0)
    assert found("everything", weight_decay=30.0)["size_others"] < 0.9 * shrunk["size_others"] < 1
    dropped = found("dropout", 1, dropout=0.5)
    assert dropped["first_losses"][0] != found("none", 1)["first_losses"][0], "it does drop out"
    assert set(found("l2", 1000, **EXPERIMENT.tuning.settings)) == {"dev_loss"}


@pytest.mark.parametrize("name", ["l2", "uncorrected_cold", "unigram"])
def test_a_replay_is_part_of_the_run(name):
    arm = tiny(name)
    again = replay_arm(EXPERIMENT, arm, 2, Context())
    own = run_arm(EXPERIMENT, arm, 2, Context())["figures"]
    assert again and again == {key: own[key] for key in again}


def test_minilm_learns_from_few_labels_by_the_rule_that_an_arm_says(monkeypatch):
    monkeypatch.setattr(module, "FEW", 60)
    runs = {name: replace(EXPERIMENT.arm(name), settings={**EXPERIMENT.arm(name).settings, "tuned_steps": 2}) for name in FEW}
    cold = run_arm(EXPERIMENT, runs["few_cold"], 0, Context())["figures"]
    assert 0 <= cold["right"] <= 100 and cold["failed"] in (0.0, 100.0) and len(cold["losses"]) == 2
    assert replay_arm(EXPERIMENT, runs["few_cold"], 0, Context()) == {"first_losses": cold["first_losses"]}
    without = replay_arm(EXPERIMENT, runs["few_uncorrected_cold"], 0, Context())["first_losses"]
    assert without[0] == cold["losses"][0] and without[1] != cold["losses"][1], "the same start, another first update"
    frequent = run_arm(EXPERIMENT, EXPERIMENT.arm("majority"), 0, Context())["figures"]["right"]
    assert 5 < frequent < 40


def test_plots_are_drawn_and_short_forms_have_arms_of_the_full_one(tmp_path):
    own = {"curve": [6.0, 5.0], "steps": [5, 10], "training": 4.0, "right": 50.0}
    runs = planted({"l2": 5.2, "adamw": 5.0, "cold": 5.1, "few": 0.0, "unigram": 7.0}, **own)
    for some in (runs, [run for run in runs if run["seed"] == 0]):
        paths = figures.show(tmp_path, some, EXPERIMENT)
        assert [path.name for path in paths] == ["loss.png", "against_adamw.png", "bias_correction.png"]
        assert all(path.stat().st_size > 1000 for path in paths)
    trials = [
        {"arm": name, "values": values, "figures": {"dev_loss": 5 + i / 16}}
        for name in ("l2", "adamw")
        for i, values in enumerate(combinations(name))
    ]
    with style.figure(tmp_path / "grids.png", columns=2) as axes:
        figures.show_grids(axes, trials, EXPERIMENT)
    assert (tmp_path / "grids.png").stat().st_size > 1000
    for quick in (EXPERIMENT.quick, EXPERIMENT.quick.quick):
        assert {arm.name for arm in quick.arms} < {arm.name for arm in EXPERIMENT.arms} and quick.seeds == 1
        assert all(arm.trivial or "rate" in arm.settings for arm in quick.arms)
        assert len(figures.show(tmp_path, runs, quick)) == 1
