"""Experiment 01: what is declared, its checks, arms that differ in one thing, replay equals run."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.lab import statistics, verdicts
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import roberta_optimizations as module
from bertcraft.lab.figures import roberta_optimizations as figures
from bertcraft.lab.runner import replay_arm, run_arm

EXPERIMENT = module.EXPERIMENT
TINY = {
    "hidden": 64, "batch": 16, "shard": 16, "steps": 44, "warmup": 4, "evaluations": 2, "texts": 400, "held_out": 100,
    "rate": 2e-3,
}  # fmt: skip
TRAINED = [arm for arm in EXPERIMENT.arms if not arm.trivial]


def tiny(name, **changes):
    """An arm with all that makes it differ, on less text and for fewer steps."""
    arm = EXPERIMENT.arm(name)
    return replace(arm, settings={**arm.settings, **TINY, **changes})


def planted(losses):
    """Runs of ten seeds with these mean losses, and a spread that every arm of a seed shares."""
    return [
        {"arm": name, "seed": seed, "figures": {"loss": value + 0.1 * (seed % 3) + 0.01 * ((seed * 7 + len(name)) % 5)}}
        for name, value in losses.items()
        for seed in range(10)
    ]


def restored(batch):
    """The texts of a batch as they were before they were masked."""
    ids, rows = batch["input_ids"].copy(), np.arange(len(batch["at"]))[:, None]
    counted = batch["labels"] >= 0
    ids[np.broadcast_to(rows, counted.shape)[counted], batch["at"][counted]] = batch["labels"][counted]
    return ids


def masks(task, start, steps):
    batches = [task.make_batch(start + step) for step in range(steps)]
    return {text.tobytes(): ids.tobytes() for b in batches for text, ids in zip(restored(b), b["input_ids"], strict=True)}


def test_the_primary_comparison_is_fresh_masks_against_ten_static_ones_at_mask_after_40_readings():
    primary = EXPERIMENT.primary
    assert (primary.treatment, primary.baseline, primary.metric, primary.better) == ("dynamic", "static10", "loss", -1)
    assert primary.form == statistics.SUPERIOR and EXPERIMENT.metrics["loss"].overlap == 0
    seeds = {arm.name: EXPERIMENT.seeds_of(arm) for arm in EXPERIMENT.arms}
    assert {name for name, count in seeds.items() if count == 10} == {"dynamic", "static10", "unigram"}


def test_arms_differ_in_masks_and_in_how_often_a_text_is_read():
    shared = module._SHARED
    for arm in TRAINED:
        assert {name: arm.settings[name] for name in shared} == shared
        copies, _, readings = arm.name.partition("_")
        assert arm.settings.get("copies") == {"static10": 10, "static1": 1, "dynamic": None}[copies]
        assert set(arm.settings) - set(shared) <= {"texts", "copies"}
        assert shared["batch"] * shared["steps"] / arm.settings["texts"] == int(readings or 40)
    assert {arm.name for arm in TRAINED} == {*EXPERIMENT.tuning.grids, *EXPERIMENT.tuning.like}
    assert all(one.partition("_")[0].rstrip("01") == other.rstrip("01") for one, other in EXPERIMENT.tuning.like.items())


def test_masks_repeat_as_often_as_an_arm_says():
    a_reading = 400 // 16
    for name, same_after in (("static1", (True, True)), ("static10", (False, True)), ("dynamic", (False, False))):
        task = module.task_of(tiny(name).settings, 0)
        first = masks(task, 0, a_reading)
        for readings, same in zip((1, 10), same_after, strict=True):
            later = masks(task, readings * a_reading, a_reading)
            assert set(first) == set(later), "the same texts"
            share = np.mean([first[text] == later[text] for text in first])
            assert share == 1 if same else share < 0.25, (name, readings)


def test_ten_static_masks_are_fresh_ones_for_ten_readings():
    one, other = (module.task_of(tiny(name).settings, 0) for name in ("static10", "dynamic"))
    for step, same in ((0, True), (10 * 25 - 1, True), (10 * 25, False)):
        assert np.array_equal(one.make_batch(step)["input_ids"], other.make_batch(step)["input_ids"]) == same


def test_all_arms_of_a_seed_are_judged_under_the_same_masks_and_every_text_under_several():
    one, other = (module.task_of(tiny(name).settings, 0) for name in ("static10", "dynamic_80"))
    for name in ("dev", "held_out"):
        a, b = one.judged[name].batch, other.judged[name].batch
        assert all(np.array_equal(a[key], b[key]) for key in a)
    shown = one.judged["held_out"].batch["input_ids"]
    texts = restored(one.judged["held_out"].batch)
    assert len(shown) == 300 and len(np.unique(texts, axis=0)) <= 100 and len(np.unique(shown, axis=0)) > 200


def test_a_model_on_the_plateau_is_not_testable():
    good = {"dynamic": 5.9, "static10": 6.0, "unigram": 6.6}
    assert verdicts.primary(EXPERIMENT, planted(good)).verdict == statistics.REPRODUCED
    outcome = verdicts.primary(EXPERIMENT, planted({**good, "static10": 6.2}))
    assert outcome.verdict == statistics.NOT_TESTABLE and outcome.failed[0].arm == "static10"


def test_a_run_gives_sane_figures_and_its_replay_is_its_beginning():
    arm = tiny("static10", texts=100)
    found = run_arm(EXPERIMENT, arm, 1, Context())["figures"]
    assert set(EXPERIMENT.metrics) <= set(found) and found["loss"] == found["curve"][-1]
    assert len({found[name] for name in ("loss", "loss_kept", "loss_random", "loss_all")}) == 4, "beside that at [MASK]"
    assert found["readings"] == [22 * 16 / 100, 44 * 16 / 100]
    best = int(np.argmin(found["curve_dev"]))
    assert found["stopped"] == found["curve"][best] and found["stopped_after"] == (best + 1) / 2
    assert found["first_losses"] == replay_arm(EXPERIMENT, arm, 1, Context())["first_losses"]
    assert found["first_losses"] != replay_arm(EXPERIMENT, arm, 2, Context())["first_losses"]
    assert (
        found["first_losses"][0]
        != run_arm(EXPERIMENT, tiny("static10", texts=100, dropout=0.0), 1, Context())["figures"]["first_losses"][0]
    ), "dropout is on"


def test_a_trial_looks_at_no_test_text():
    arm = tiny("dynamic", **EXPERIMENT.tuning.settings, steps=8)
    assert set(run_arm(EXPERIMENT, arm, 1000, Context())["figures"]) == {"dev", "curve_dev", "first_losses"}


def test_trivial_rows_are_word_frequencies_and_a_model_before_its_first_step():
    rows = {}
    for name in ("unigram", "untrained"):
        rows[name] = run_arm(EXPERIMENT, tiny(name), 0, Context())["figures"]
        assert replay_arm(EXPERIMENT, tiny(name), 0, Context()) == rows[name]
    task = module.task_of(tiny("unigram").settings, 0)
    batch, frequency = task.judged["held_out"].batch, task.texts.log_frequency
    shown = np.take_along_axis(batch["input_ids"], batch["at"], axis=1)
    words = batch["labels"][(shown == task.texts.vocabulary["mask_id"]) & (batch["labels"] >= 0)]
    assert rows["unigram"]["loss"] == pytest.approx(-frequency[words].mean())
    assert rows["unigram"]["accuracy"] == pytest.approx(100 * (words == frequency.argmax()).mean())
    assert rows["untrained"]["loss"] == pytest.approx(rows["unigram"]["loss"], abs=0.6)


def test_plots_are_drawn_for_any_number_of_seeds(tmp_path):
    rng = np.random.default_rng(0)
    for seeds in (1, 3):
        runs = [
            {"arm": arm.name, "seed": seed, "figures": {metric: float(rng.normal(5)) for metric in EXPERIMENT.metrics}
             | ({} if arm.trivial else {"readings": [20, 40], "curve": [6.0, 5.0], "unigram": 6.5})}
            for arm in EXPERIMENT.arms for seed in range(seeds)
        ]  # fmt: skip
        primary_alone = [run for run in runs if run["arm"] in ("dynamic", "static10")]
        for part in (runs, primary_alone):
            paths = figures.show(tmp_path, part, EXPERIMENT)
            assert [path.name for path in paths] == ["held_out_loss.png", "readings.png"]
            assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in paths)
    short = [{**run, "arm": "static"} for run in runs[:1]]
    assert len(figures.show(tmp_path, short, EXPERIMENT.quick)) == 1


def test_the_short_forms_read_every_mask_four_times_and_twice():
    for short, readings in ((EXPERIMENT.quick, 4), (EXPERIMENT.quick.quick, 2)):
        assert [arm.name for arm in short.arms] == ["static", "dynamic", "unigram"]
        static, dynamic = (short.arm(name).settings for name in ("static", "dynamic"))
        assert {key for key in static | dynamic if static.get(key) != dynamic.get(key)} == {"copies", "kept"}
        assert static["batch"] * static["steps"] / static["texts"] == readings and static["copies"] == 1
        assert list(short.metrics) == ["loss", "accuracy", "loss_all"] and short.primary.baseline == "static"
        assert {check.against for check in short.checks} == {"unigram"}
