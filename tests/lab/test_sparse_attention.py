"""Experiment 10 in miniature: what is declared, a task that no bag of words knows, ears that reach as far as theory says."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.bert import initial_params
from bertcraft.lab import layers, statistics, verdicts
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import sparse_attention as module
from bertcraft.lab.figures import sparse_attention as figures
from bertcraft.lab.runner import replay_arm, run_arm
from bertcraft.tensor import tree

EXPERIMENT = module.EXPERIMENT
MODELS = ("dense", "question", "cls", "window", "dilated", "bigbird")
SMALL = {"length": 64, "steps": 9, "batch": 4, "warmup": 2, "held_out": 60, "draws": 1, "hidden": 16}


def small(name, **changes):
    arm = EXPERIMENT.arm(name)
    read = {"read": 200} if arm.trivial else {}
    return replace(arm, settings={**arm.settings, **SMALL, **read, **changes})


def planted_runs(far):
    """Runs with these accuracies, of five seeds, and two layers of ten rounds, the window's three times as fast."""
    runs = [
        {
            "arm": name, "seed": seed,
            "figures": {"far": value + 0.05 * (seed * len(name) % 7), "near": 99.0, "curve": [90.0 + seed] * 6},
        }
        for name, value in far.items()
        for seed in range(5)
    ]  # fmt: skip
    for seed in range(10):
        lengths = [512, 1024, 8192] if seed < 5 else [8192]
        for name, ms in (("layer_dense", 30.0), ("layer_window", 10.0), ("layer_fused", 6.0)):
            own = {"ms": ms * 8192 + seed, "mb": 100.0, "scores_mb": layers.scores_mb(name[6:], 8192)}
            own |= {"lengths": lengths, "times": [ms * n + seed for n in lengths]}
            if name != "layer_fused":
                runs.append({"arm": name, "seed": seed, "figures": own})
            elif seed < 5:
                runs.append({"arm": name, "seed": seed, "figures": {**own, "scores_mb": 0.0}})
    return runs


GOOD = {"dense": 98, "question": 99, "cls": 97, "window": 50, "dilated": 70, "bigbird": 98, "tfidf": 50, "majority": 50}


def test_the_primary_comparison_is_time_of_a_whole_layer_and_its_arms_have_ten_rounds():
    primary = EXPERIMENT.primary
    assert (primary.treatment, primary.baseline, primary.metric) == ("layer_dense", "layer_window", "ms")
    assert primary.form == statistics.SUPERIOR and primary.ratio
    assert [EXPERIMENT.seeds_of(EXPERIMENT.arm(name)) for name in ("layer_dense", "layer_window", "layer_fused", "dense")] == [
        10, 10, 5, 5,
    ]  # fmt: skip
    assert (layers.WIDTH, layers.HEADS, layers.INNER, layers.WINDOW) == (768, 12, 3072, 256)


def test_verdicts_and_checks():
    found = {each.comparison.name: each for each in verdicts.outcomes(EXPERIMENT, planted_runs(GOOD))}
    assert found[EXPERIMENT.primary.name].interval.mean == pytest.approx(3, rel=0.01)
    assert [each.verdict for each in found.values()] == [
        "reproduced", "contradicted", "holds", "reproduced", "reproduced", "reproduced", "reproduced", "reproduced",
    ]  # fmt: skip
    for arm, value in (("dense", 60), ("tfidf", 90)):
        failed = [each for each in verdicts.outcomes(EXPERIMENT, planted_runs({**GOOD, arm: value})) if each.failed]
        assert {each.comparison.metric for each in failed} == {"far"}
        assert all({each.comparison.treatment, each.comparison.baseline} & {"dense", "question"} for each in failed)


@pytest.mark.parametrize("one, other, differing", [
    ("question", "window", {"global_tokens"}), ("cls", "question", {"global_tokens"}), ("dilated", "window", {"dilations"}),
    ("window", "dense", {"pattern", "window"}), ("bigbird", "dense", {"pattern", "block", "random"}),
])  # fmt: skip
def test_arms_differ_in_one_thing(one, other, differing):
    a, b = (EXPERIMENT.arm(name).settings for name in (one, other))
    assert {key for key in a | b if a.get(key) != b.get(key)} == differing


def test_neither_word_nor_the_bag_of_both_nor_their_places_tell_the_answer():
    rows, size = np.full((60_000, 40), 7, np.int32), 100
    ids, labels, distance = module.planted(rows, size, np.random.default_rng(0), evenly=True)
    first, second = ids[:, 1] - size, ids[np.arange(len(ids)), 1 + distance] - size
    assert ((ids >= size).sum(axis=1) == 2).all() and (first != second).all() and ids[0, 0] == 7
    assert np.array_equal(labels, (second - first) % 3 == 1)
    assert set(distance) == set(range(1, 38)), "neither [CLS] nor [SEP] is overwritten"
    for known in (first, second, first + second, distance):  # the sum of two different words is their bag
        for value in np.unique(known):
            share = labels[known == value].mean()
            assert abs(share - 0.5) < 4.5 / np.sqrt(4 * (known == value).sum())
    near = module.planted(rows, size, np.random.default_rng(0), evenly=False)[2]
    assert set(near) == set(range(1, 38)) and (near <= 6).mean() == pytest.approx(np.log(7) / np.log(38), abs=0.01)


def test_arms_share_passages_order_and_first_weights():
    tasks = {name: module.task_of(small(name).settings, 3) for name in MODELS}
    starts = {name: dict(tree.items(initial_params(task[1], 3))) for name, task in tasks.items()}
    for name, (*_, make_batch, test) in tasks.items():
        batch, dense = make_batch(5), tasks["dense"][3](5)
        assert all(np.array_equal(batch[key], dense[key]) for key in batch)
        assert all(map(np.array_equal, test, tasks["dense"][-1]))
        assert all(np.array_equal(leaf, starts["dense"][key]) for key, leaf in starts[name].items())
    other = module.task_of(small("dense").settings, 4)
    assert not np.array_equal(other[3](5)["labels"], tasks["dense"][3](5)["labels"])
    assert not np.array_equal(other[-1][1], tasks["dense"][-1][1])


def test_training_begins_with_short_passages():
    settings = EXPERIMENT.arm("dense").settings
    lengths = [module.length_at(settings, step) for step in range(settings["steps"])]
    assert lengths == sorted(lengths) and (lengths[0], lengths[-1]) == (16, settings["length"] == 256 and 256)
    assert module.length_at({**settings, "length": 32}, 299) == 32


def test_what_an_ear_of_that_reach_can_answer():
    by_hand = {"window": [100, 100, 50, 50, 50, 50], **dict.fromkeys(("dense", "question", "cls", "bigbird"), [100] * 6)}
    for name, expected in by_hand.items():
        assert figures.at_most(EXPERIMENT.arm(name).settings) == pytest.approx(expected), name
    dilated = figures.at_most(EXPERIMENT.arm("dilated").settings)
    assert dilated[:3] == [100, 100, 100] and 50 < dilated[3] < 100 and dilated[4:] == [50, 50]
    assert EXPERIMENT.arm("window").settings["reach"] == 2 * 8


def test_a_window_cannot_hear_what_is_beyond_its_reach_whatever_its_weights():
    _, config, logits, _, (ids, *_) = module.task_of(small("window").settings, 0)
    params = initial_params(config, 0)
    other = ids[:8].copy()
    other[:, module.ASKED + 17 :] = 5
    assert np.array_equal(logits(params, ids[:8]), logits(params, other))
    other[:, module.ASKED + 16] = 5
    assert not np.array_equal(logits(params, ids[:8]), logits(params, other))


@pytest.mark.parametrize("name", ["dense", "question", "bigbird", "tfidf", "majority"])
def test_an_arm_runs_and_is_replayed(name):
    arm = small(name)
    found = run_arm(EXPERIMENT, arm, 0, Context())["figures"]
    assert 20 < found["near"] < 80 and 20 < found["far"] < 80 and len(found["curve"]) == 4
    expected = found if arm.trivial else {"first_losses": found["first_losses"]}
    assert replay_arm(EXPERIMENT, arm, 0, Context()) == expected


def test_a_trial_is_judged_on_passages_that_are_not_reported():
    arm = small("dense")
    trial = replace(arm, settings=arm.settings | EXPERIMENT.tuning.settings)
    ours, theirs = (module.task_of(each.settings, 1000)[-1][0] for each in (arm, trial))
    assert ours.shape == theirs.shape and not (ours[:, 20:] == theirs[:, 20:]).all(axis=1).any()
    found = run_arm(EXPERIMENT, trial, 1000, Context())["figures"]
    assert min(found["near"], found["far"]) <= found["dev"] <= max(found["near"], found["far"])


def test_the_arms_of_a_round_read_the_same_measurement(tmp_path, monkeypatch):
    rounds = []

    def measured(contenders, lengths, told):
        rounds.append((contenders, lengths))
        return {name: {"ms": [10.0 * len(rounds) + n / 1000 for n in lengths], "mb": 5.0} for name in contenders}

    monkeypatch.setattr(layers, "round_of", measured)
    figures = {}
    for seed in (0, 7):
        for name in ("layer_dense", "layer_window"):
            folder = tmp_path / EXPERIMENT.name / f"{name}_seed{seed}" / "version"
            folder.mkdir(parents=True)
            figures[name, seed] = run_arm(EXPERIMENT, EXPERIMENT.arm(name), seed, Context(folder=folder))["figures"]
    assert rounds == [(["window", "dense", "fused"], [512, 1024, 2048, 4096, 8192]), (["window", "dense"], [8192])]
    assert figures["layer_dense", 0]["ms"] == figures["layer_window", 0]["ms"] == 10 + 8.192
    assert figures["layer_dense", 7]["lengths"] == [8192] and figures["layer_dense", 7]["ms"] == 20 + 8.192
    again = replay_arm(EXPERIMENT, EXPERIMENT.arm("layer_dense"), 0, Context())
    assert again == {"scores_mb": figures["layer_dense", 0]["scores_mb"]}
    run_arm(EXPERIMENT, EXPERIMENT.arm("layer_dense"), 0, Context())
    assert len(rounds) == 3, "without a folder nothing is kept"


def test_the_plots_are_drawn_for_what_is_there(tmp_path):
    whole = planted_runs(GOOD)
    for runs in (
        whole,
        [run for run in whole if run["seed"] == 0],
        [run for run in whole if "layer" not in run["arm"]],
        [run for run in whole if "layer" in run["arm"]],
    ):
        paths = figures.show(tmp_path, runs, EXPERIMENT)
        assert [path.name for path in paths] == ["time.png", "distance.png"]
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_break_even_is_told_as_it_was_measured():
    def runs(dense):
        times = {"layer_window": [10.0, 20.0, 40.0], "layer_dense": dense}
        lengths = [512, 1024, 2048]
        return [
            {"arm": name, "seed": 0, "figures": {"lengths": lengths, "times": own, "mb": 1500.0}} for name, own in times.items()
        ]

    for dense, expected in (
        ([8.0, 22.0, 90.0], "faster from between 512 and 1,024 tokens on"), ([12.0, 22.0, 90.0], "faster at every length"),
        ([8.0, 18.0, 39.0], "slower still at 2,048 tokens"),
    ):  # fmt: skip
        told, memory = figures.told_times(runs(dense), EXPERIMENT)
        assert told.endswith(expected) and f"2,048: {dense[2] / 40:.2f}" in told
        assert memory == "memory at 2,048 tokens: dense 1,500 MB, window 1,500 MB"
    assert len(figures.told_times(planted_runs(GOOD), EXPERIMENT)) == 3
    assert figures.told_times([], EXPERIMENT) == ["not measured yet"]


def test_the_short_form_is_part_of_the_whole():
    quick = EXPERIMENT.quick
    assert [arm.name for arm in quick.arms] == ["layer_dense", "layer_window", "dense", "window"]
    assert quick.arms[0].settings["contenders"] == ["window", "dense"], "no PyTorch is needed"
    assert max(quick.arms[0].settings["lengths"]) == 2048
