"""Experiment 10: arms differ in what they claim to differ in, figures are sane, a replay is the first part of its run."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.bert import initial_params
from bertcraft.lab import statistics, verdicts
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import sparse_attention as module
from bertcraft.lab.figures import sparse_attention as figures
from bertcraft.lab.runner import replay_arm, run_arm
from bertcraft.tensor import tree

EXPERIMENT = module.EXPERIMENT
TIMING = {"lengths", "beside", "reported"}
SMALL = {
    "length": 64, "reads": 64, "steps": 9, "batch": 4, "warmup": 2, "held_out": 400, "evaluations": 3, "hidden": 16,
}  # fmt: skip


def small(name: str, **changes):
    arm = EXPERIMENT.arm(name)
    size = {name: value // 8 for name, value in arm.settings.items() if name in ("window", "block")}
    lengths = {key: value if arm.settings[key] else [] for key, value in {
        "lengths": [32, 64], "beside": [64], "reported": [64]}.items()}  # fmt: skip
    return replace(arm, settings=arm.settings | SMALL | size | lengths | changes)


@pytest.mark.parametrize("one, other, differing", [
    ("global", "window", {"global_tokens"}), ("dilated", "window", {"dilations"}), ("mean", "window", {"summary"}),
    ("cut", "dense", {"reads"}), ("global", "dense", {"pattern", "window", "global_tokens"}),
    ("bigbird", "dense", {"pattern", "block", "random"}),
])  # fmt: skip
def test_arms_differ_in_one_thing(one, other, differing):
    a, b = (EXPERIMENT.arm(name).settings for name in (one, other))
    assert {key for key in a | b if a.get(key) != b.get(key)} - TIMING == differing


def test_every_sparse_arm_sees_128_keys_or_so():
    for arm in EXPERIMENT.arms:
        if arm.settings["lengths"] and arm.name != "dense":
            seen = figures.show_pattern(arm.settings, length=512).sum(axis=-1)
            usual = np.quantile(seen, 0.9, axis=-1)  # the last tenth are those that see all
            assert (np.abs(usual - 128) <= 8).all(), (arm.name, usual)


def test_arms_share_passages_order_and_first_weights():
    tasks = {arm.name: module.task_of(small(arm.name), 3) for arm in EXPERIMENT.arms}
    batches = {name: task.make_batch(5) for name, task in tasks.items()}
    starts = {name: dict(tree.items(initial_params(task.config, 3))) for name, task in tasks.items()}
    for name in tasks:
        assert all(np.array_equal(batches[name][key], batches["dense"][key]) for key in batches[name])
        assert starts[name].keys() == starts["dense"].keys()
        assert all(np.array_equal(leaf, starts["dense"][key]) for key, leaf in starts[name].items())
    assert not np.array_equal(module.task_of(small("dense"), 4).make_batch(5)["labels"], batches["dense"]["labels"])


def test_no_passage_stands_in_two_parts_and_periods_are_even():
    found = module.speeches(4096, 64, 8, 400)
    passages = {part: {row.tobytes() for row in rows} for part, rows in found.rows.items()}
    assert not passages["train"] & passages["held_out"] and not passages["train"] & passages["dev"]
    assert not passages["dev"] & passages["held_out"]
    for part, labels in found.labels.items():
        assert len(labels) == len(found.rows[part]) and set(labels) <= set(range(8))
    share = np.bincount(found.labels["train"]) / len(found.labels["train"])
    assert share.min() > 0.1 and share.max() < 0.15, "eight periods of as many words"


def test_a_run_gives_its_figures_and_a_replay_its_first_losses(tmp_path):
    runs = []
    for name in ("dense", "global"):
        arm, folder = small(name), tmp_path / name
        figures = run_arm(EXPERIMENT, arm, 0, Context(folder=folder))["figures"]
        assert figures["passages_read"] == [12, 24, 36] and len(figures["curve"]) == 3
        assert 1.5 < figures["loss"] < 3 and 0 <= figures["accuracy"] <= 100
        assert len(figures["ms"]) == len(figures["mb"]) == 2 and min(figures["ms"]) > 0 and min(figures["mb"]) > 0
        assert all(both > alone for both, alone in zip(figures["ms"], figures["ms_forward"], strict=True))
        assert figures["ms_64"] == figures["ms"][1]
        assert replay_arm(EXPERIMENT, arm, 0, Context())["first_losses"] == figures["first_losses"]
        runs.append({"arm": name, "seed": 0, "figures": figures})
    assert len(runs[1]["figures"]["dense_beside"]) == 1
    assert verdicts.outcomes(EXPERIMENT, runs)[0].verdict in (statistics.ONE_SEED, statistics.NOT_TESTABLE)


def test_the_arm_that_is_cut_reads_no_more_than_it_says():
    task = module.task_of(small("cut", reads=16), 0)
    params, batch = initial_params(task.config, 0), task.make_batch(0)
    other = {**batch, "input_ids": batch["input_ids"].copy()}
    other["input_ids"][:, 16:] = 7
    assert task.loss(params, batch, None) == task.loss(params, other, None)
    other["input_ids"][:, 15] = 7
    assert task.loss(params, batch, None) != task.loss(params, other, None)


def test_exponents_and_break_even_lengths():
    lengths = [128, 256, 512, 1024]
    assert module.exponent(lengths, [9, 4 * 256**1.5, 4 * 512**1.5, 4 * 1024**1.5]) == pytest.approx(1.5)
    line, square = [float(n) for n in lengths], [n * n / 362.0 for n in lengths]
    assert module.break_even(lengths, line, square) == pytest.approx(362)
    assert module.break_even(lengths, square, line) is None
    assert module.break_even(lengths, line, [2 * t for t in line]) == 128


def test_the_short_form_is_part_of_the_whole():
    quick = EXPERIMENT.quick
    assert {arm.name for arm in quick.arms} == {"dense", "global", "window"}
    assert all({c.treatment, c.baseline} <= {arm.name for arm in quick.arms} for c in quick.comparisons)
    assert all(max(arm.settings["lengths"]) <= 4096 for arm in quick.arms)
