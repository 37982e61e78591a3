"""Experiment 07 with tiny settings: what is declared, arms that differ in one precaution, figures that are counted, replays."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.lab import pretraining, ruled, statistics, verdicts
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import mixed_precision_training as module
from bertcraft.lab.figures import mixed_precision_training as figures
from bertcraft.lab.runner import replay_arm, run_arm
from bertcraft.techniques import mixed_precision_training as technique
from bertcraft.tensor import tree, value_and_grad

EXPERIMENT = module.EXPERIMENT
TINY = {"hidden": 64, "batch": 16, "shard": 16, "steps": 14, "warmup": 2, "evaluations": 2, "texts": 400, "held_out": 60,
        "rate": 2e-3}  # fmt: skip
TRAINED = [arm.name for arm in EXPERIMENT.arms if "form" in arm.settings]


def tiny(name, **changes):
    arm = EXPERIMENT.arm(name)
    return replace(arm, settings={**arm.settings, **TINY, **changes})


def found(name, seed=0, **changes):
    return run_arm(EXPERIMENT, tiny(name, **changes), seed, Context())["figures"]


def planted(losses, **more):
    """Runs of ten seeds with these mean losses, and a spread that every arm of a seed shares."""
    return [
        {"arm": name, "seed": seed, "figures": {"loss": loss + seed % 3 + 0.001 * ((7 * seed + len(name)) % 5), **more}}
        for name, loss in losses.items()
        for seed in range(10)
    ]


def test_the_claim_is_equality_at_mask_within_two_hundredths_of_a_nat():
    primary, second = EXPERIMENT.comparisons[:2]
    assert (primary.treatment, primary.baseline, primary.metric) == ("float16_scaled", "float32", "loss")
    assert (primary.form, primary.margin) == (statistics.EQUAL, 0.02)
    assert (second.metric, second.form, second.expected) == ("state_bytes", statistics.EXACT, 0.0)
    seeds = {arm.name: EXPERIMENT.seeds_of(arm) for arm in EXPERIMENT.arms}
    assert {name for name, number in seeds.items() if number == 10} == {"float16_scaled", "float32", "unigram"}
    verdict = lambda **losses: verdicts.outcomes(EXPERIMENT, planted({"unigram": 7.0, **losses}))[0].verdict  # noqa: E731
    assert verdict(float32=5.0, float16_scaled=5.01) == statistics.REPRODUCED
    assert verdict(float32=5.0, float16_scaled=5.1) == statistics.CONTRADICTED
    assert verdict(float32=6.8, float16_scaled=6.8) == statistics.NOT_TESTABLE


def test_arms_differ_in_one_precaution_and_those_that_lack_one_are_tuned_alike():
    def differing(one, other):
        a, b = (EXPERIMENT.arm(name).settings for name in (one, other))
        return {key for key in {**a, **b} if a.get(key) != b.get(key)}

    assert differing("float16_scaled", "float16_master") == differing("float16_kept", "float16_alone") == {"scaled"}
    assert differing("float16_scaled", "float16_kept") == differing("float16_master", "float16_alone") == {"master"}
    assert differing("bfloat16_master", "bfloat16_alone") == {"master"}
    assert differing("bfloat16_alone", "bfloat16_stochastic") == {"stochastic"}
    assert differing("float32", "bfloat16_master") == {"form"}
    assert differing("float32", "float32_order") == {"shard"} and differing("float32_longer", "float32") == {"steps"}
    assert differing("float16_longer", "float16_scaled") == {"steps"}
    assert set(EXPERIMENT.tuning.like.values()) == {"float32"}
    assert [name for name in TRAINED if name not in EXPERIMENT.tuning.like] == list(EXPERIMENT.tuning.grids)
    assert len({str(grid) for grid in EXPERIMENT.tuning.grids.values()}) == 1


def test_weights_are_what_an_arm_says():
    def weights(name):
        arm = tiny(name, steps=6)
        result = module.fitted(arm.settings, 3, Context(), ruled.task_of(arm.settings, 3))
        return result, np.concatenate([leaf.ravel() for leaf in tree.leaves(result.params)])

    runs = {name: weights(name) for name in TRAINED}
    for name, (result, own) in runs.items():
        form, is_kept = EXPERIMENT.arm(name).settings["form"], not EXPERIMENT.arm(name).settings["master"]
        share = np.mean(technique.rounded(own, form) == own) if form != "float32" else 0.0
        assert (share == 1) if is_kept else (share < 0.5), name
        assert result.losses[0] == pytest.approx(runs["float32"][0].losses[0], rel=5e-3), "the same start and the same text"
    first = {name: result.losses[0] for name, (result, _) in runs.items()}
    assert first["bfloat16_alone"] != first["bfloat16_master"], "kept in 16 bits from the start, tables too"
    for one, other in (
        ("bfloat16_alone", "bfloat16_stochastic"),
        ("float16_scaled", "float16_master"),
        ("float32", "float16_scaled"),
    ):
        assert not np.array_equal(runs[one][1], runs[other][1])


def test_figures_of_a_run_and_what_a_trial_may_see(monkeypatch):
    own = found("float16_scaled")
    assert len({own[name] for name in ("loss", "loss_kept", "loss_random", "loss_all")}) == 4
    assert own["scale"] == 2.0**16 * 0.5 ** own["skipped"] and own["skipped"] < 8
    assert (own["state_bytes"], found("float32")["state_bytes"], found("bfloat16_alone", 1)["state_bytes"]) == (16, 16, 12)
    assert own["kept_bytes"] == 2 * (34 * 64 + 5 * 24) and found("float32", 1)["kept_bytes"] == 2 * (66 * 64 + 9 * 24)
    assert 0 <= own["lost"] <= found("float16_master")["lost"] < 100 and "lost" not in found("float32", 1)
    assert set(own["gradients"]) == {"weights", "states", "scores"} and "gradients" not in found("float16_scaled", 1)
    assert set(found("float16_alone", 1000, **EXPERIMENT.tuning.settings)) == {"dev_loss"}
    judged = [ruled.task_of(tiny("float32", **more).settings, 1).judge.batch for more in ({}, EXPERIMENT.tuning.settings)]
    assert [len(batch["labels"]) for batch in judged] == [3 * 60, 3 * 256], "a trial's are development texts"
    monkeypatch.setattr(module, "SCALE", 2.0**30)
    halved = found("float16_scaled", 1)
    assert halved["skipped"] > 0 and halved["scale"] == 2.0 ** (30 - halved["skipped"])


def test_gradients_by_kind_are_the_losss():
    settings = tiny("float32").settings
    task = ruled.task_of(settings, 0)
    params = pretraining.initial(task.config, task.texts, 0)
    kinds = module.gradients(task, params, 0)
    batch = {name: array[: module.ROWS] for name, array in task.make_batch(task.setting.steps).items()}
    _, expected = value_and_grad(task.loss)(params, batch)
    expected = np.concatenate([leaf.ravel() for leaf in tree.leaves(expected)])
    np.testing.assert_allclose(kinds["weights"], expected, atol=1e-5)
    scores = kinds["scores"].reshape(-1, len(task.texts.log_frequency))
    predicted = int((batch["labels"] >= 0).sum())
    rows = scores[np.abs(scores).sum(axis=1) > 0]
    assert len(rows) == predicted, "(softmax - one-hot) / N of each predicted word"
    np.testing.assert_allclose(np.where(rows < 0, rows, 0).sum(axis=1), -np.where(rows > 0, rows, 0).sum(axis=1), atol=1e-6)
    assert (-rows.min(axis=1) * predicted < 1).all() and (-rows.min(axis=1) * predicted > 0.7).all(), "1 - p of the right word"
    assert ((rows < 0).sum(axis=1) == 1).all() and np.abs(kinds["states"]).max() > 0


def test_numbers_are_counted_by_their_power_of_two():
    numbers = module.counted(np.float32([0, 1, 1.5, -2, 2.0**-25, 1e-40, 1e30]))
    low = module.EXPONENTS[0]
    assert len(module.counted(np.float32([1.0]))) == len(numbers), "whatever there is to count"
    assert sum(numbers) == 6 and len(numbers) == module.EXPONENTS[1] - low + 1
    assert (numbers[-low], numbers[1 - low], numbers[-25 - low], numbers[0], numbers[-1]) == (2, 1, 1, 1, 1)


@pytest.mark.parametrize("name", ["float16_scaled", "bfloat16_stochastic", "unigram", "product_bfloat16"])
def test_a_replay_is_part_of_the_run(name):
    arm = tiny(name)
    again = replay_arm(EXPERIMENT, arm, 2, Context())
    own = run_arm(EXPERIMENT, arm, 2, Context())["figures"]
    assert again and again == {key: own[key] for key in again}


def test_a_product_is_timed_and_is_off_by_its_rounding():
    rough, exact = (found(f"product_{form}") for form in ("bfloat16", "float32"))
    assert rough["product_ms"] > 0 and 1e-8 < exact["product_error"] < 1e-5 < 1e-3 < rough["product_error"] < 1e-2


def test_plots_are_drawn_and_short_forms_have_arms_of_the_full_one(tmp_path):
    counts = [1] * (module.EXPONENTS[1] - module.EXPONENTS[0] + 1)
    own = {"curve": [6.0, 5.0], "steps": [5, 10], "scale": 2.0**14, "gradients": dict.fromkeys(figures.KINDS, counts)}
    runs = planted({"float32": 5.0, "float16_scaled": 5.0, "unigram": 7.0}, **own)
    more = planted({"float32_longer": 4.0, "float16_longer": 4.1, "float32_order": 5.0}, **own)
    for some in (runs, [run for run in runs if run["seed"] == 0], runs + more):
        paths = figures.show(tmp_path, some, EXPERIMENT)
        assert [path.name for path in paths] == ["loss.png", "against_float32.png", "gradients.png"]
        assert all(path.stat().st_size > 1000 for path in paths)
    for quick in (EXPERIMENT.quick, EXPERIMENT.quick.quick):
        assert {arm.name for arm in quick.arms} < {arm.name for arm in EXPERIMENT.arms} and quick.seeds == 1
        assert all(arm.trivial or "rate" in arm.settings for arm in quick.arms)
        assert len(figures.show(tmp_path, runs, quick)) == 2
    assert (figures.FLUSHED, figures.SUBNORMAL, figures.LARGEST) == (-25, -14, 16)
