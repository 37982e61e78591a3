"""Experiment 01: arms differ in what they claim to differ in, figures are sane, a replay is the first part of its run."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import roberta_optimizations as module
from bertcraft.lab.figures import roberta_optimizations as figures
from bertcraft.lab.runner import replay_arm, run_arm
from bertcraft.tensor import tree

EXPERIMENT = module.EXPERIMENT
SMALL = {
    "hidden": 64, "batch": 16, "shard": 16, "steps": 44, "warmup": 4, "evaluations": 2, "texts": 400, "held_out": 200,
}  # fmt: skip


def small(name: str):
    """An arm with all that makes it differ, on less text and for fewer steps."""
    arm = EXPERIMENT.arm(name)
    return replace(arm, settings=arm.settings | SMALL)


@pytest.fixture(scope="module")
def tasks():
    return {arm.name: module.task_of(small(arm.name), 0) for arm in EXPERIMENT.arms}


def restored(batch: dict) -> np.ndarray:
    """The texts of a batch as they were before they were masked."""
    ids, rows = batch["input_ids"].copy(), np.arange(len(batch["at"]))[:, None]
    counted = batch["labels"] >= 0
    ids[np.broadcast_to(rows, counted.shape)[counted], batch["at"][counted]] = batch["labels"][counted]
    return ids


@pytest.mark.parametrize("one, other, differing", [
    ("dynamic", "static10", {"copies"}), ("static10", "static1", {"copies"}), ("base", "dynamic", {"texts"}),
    ("batch256", "base", {"batch", "steps", "warmup"}), ("mask40", "base", {"mask_rate"}),
    ("pairs", "pairs_nsp", {"format"}), ("full", "pairs", {"format"}),
])  # fmt: skip
def test_arms_differ_in_one_thing(one, other, differing):
    a, b = (EXPERIMENT.arm(name).settings for name in (one, other))
    assert {key for key in a | b if a.get(key) != b.get(key)} == differing


def test_equal_tokens_are_read_and_ten_masks_are_used_up():
    settings = {arm.name: arm.settings for arm in EXPERIMENT.arms}
    for names in (("static10", "dynamic", "static1", "base", "batch256", "mask40"), ("pairs_nsp", "full", "pairs")):
        assert len({settings[name]["batch"] * settings[name]["steps"] * settings[name]["length"] for name in names}) == 1
    few = settings["static10"]
    assert few["batch"] * few["steps"] / few["texts"] == 40
    short = {arm.name: arm.settings for arm in EXPERIMENT.quick.arms}["static"]
    assert short["batch"] * short["steps"] / short["texts"] == 4


def test_masks_repeat_as_often_as_an_arm_says(tasks):
    a_reading = 400 // 16
    for name, same_after in (("static1", (True, True)), ("static10", (False, True)), ("dynamic", (False, False))):
        first = _masks(tasks[name], 0, a_reading)
        for readings, same in zip((1, 10), same_after, strict=True):
            later = _masks(tasks[name], readings * a_reading, a_reading)
            assert set(first) == set(later), "the same texts"
            share = np.mean([first[text] == later[text] for text in first])
            assert share == 1 if same else share < 0.2, (name, readings)


def _masks(task, start, steps):
    batches = [task.make_batch(start + step) for step in range(steps)]
    return {text.tobytes(): ids.tobytes() for b in batches for text, ids in zip(restored(b), b["input_ids"], strict=True)}


def test_forty_percent_means_more_words_to_guess_in_the_same_texts(tasks):
    few, many = (tasks[name].make_batch(3) for name in ("base", "mask40"))
    assert np.array_equal(restored(few), restored(many))
    words = (restored(few) >= 5).sum()
    assert (few["labels"] >= 0).sum() / words == pytest.approx(0.15, abs=0.02)
    assert (many["labels"] >= 0).sum() / words == pytest.approx(0.40, abs=0.02)


def test_pairs_with_and_without_nsp_are_the_same_rows_and_full(tasks):
    with_nsp, without = (tasks[name].make_batch(1) for name in ("pairs_nsp", "pairs"))
    labels = with_nsp.pop("next_sentence")
    assert set(labels) == {0, 1}
    assert set(with_nsp) == set(without) and all(np.array_equal(with_nsp[key], without[key]) for key in without)
    for name in ("pairs", "full"):
        assert (tasks[name].make_batch(0)["attention_mask"] == 1).all(), "no padding: as many tokens"
    assert "next_sentence" not in without and "token_type_ids" not in tasks["full"].make_batch(0)


def test_the_second_objective_is_the_only_difference_of_the_loss(tasks):
    task, plain = tasks["pairs_nsp"], tasks["pairs"]
    params = module.pretraining.initial(task.config, task.texts, 0)
    batch = task.make_batch(0)
    params["cls"]["seq_relationship"]["weight"][:] = 0
    assert float(task.loss(params, batch, None)) == pytest.approx(float(plain.loss(params, batch, None)) + np.log(2), rel=1e-5)


def test_initial_weights_are_shared(tasks):
    a, b = (
        dict(tree.items(module.pretraining.initial(tasks[name].config, tasks[name].texts, 3))) for name in ("pairs_nsp", "full")
    )
    assert all(np.array_equal(a[name], b[name]) for name in b)


def test_formats_are_tested_on_the_same_words(tasks):
    full, pairs = tasks["full"].held_out, tasks["pairs"].held_out
    one, two = full["loss"].batch, pairs["loss"].batch
    assert np.array_equal(one["labels"], two["labels"]) and one["input_ids"].shape[1] == two["input_ids"].shape[1] - 1
    separator = (two["token_type_ids"] == 0).sum(axis=1) - 1
    without = np.array([np.delete(row, place) for row, place in zip(restored(two), separator, strict=True)])
    assert (restored(two)[np.arange(len(separator)), separator] == 3).all()
    assert np.array_equal(restored(one), without)
    for a, b in (("loss", "loss_other_format"), ("loss_other_format", "loss")):
        assert all(np.array_equal(full[a].batch[key], pairs[b].batch[key]) for key in full[a].batch)


def test_held_out_stretches_are_none_of_those_trained_on(tasks):
    known = {np.concatenate(pair).tobytes() for pair in module.segments(tasks["pairs"].setting, "train", 700)}
    held_out = {np.concatenate(pair).tobytes() for pair in module.segments(tasks["pairs"].setting, "held_out", 200)}
    assert len(held_out) > 190 and not known & held_out


def test_a_run_gives_sane_figures_and_its_replay_is_its_beginning(monkeypatch):
    monkeypatch.setattr(module.probes.Probes.__init__, "__defaults__", (200,))  # sentences: fewer than 2,000
    arm = small("pairs_nsp")
    found = run_arm(EXPERIMENT, arm, 1, Context())["figures"]
    assert found["loss"] < found["curve"][0] and len(found["curve"]) == len(found["rows_read"]) == 2
    assert found["gain"] == pytest.approx(found["unigram"] - found["loss"])
    assert set(EXPERIMENT.metrics) <= set(found)
    assert all(0 <= found[metric] <= 100 for metric in EXPERIMENT.metrics)
    assert 40 < found["next_sentence"] < 60, "44 steps teach nothing of it"
    assert found["first_losses"] == replay_arm(EXPERIMENT, arm, 1, Context())["first_losses"]
    assert found["first_losses"] != replay_arm(EXPERIMENT, arm, 2, Context())["first_losses"]


def test_plots_are_drawn_for_any_number_of_seeds(tmp_path):
    rng = np.random.default_rng(0)
    for seeds in (1, 3):
        runs = [
            {"arm": arm.name, "seed": seed, "figures": {metric: float(rng.normal(5)) for metric in EXPERIMENT.metrics}
             | {"rows_read": [100, 200], "curve": [6.0, 5.0], "unigram": 6.5}}
            for arm in EXPERIMENT.arms for seed in range(seeds)
        ]  # fmt: skip
        for path in figures.show(tmp_path, runs, EXPERIMENT):
            assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
