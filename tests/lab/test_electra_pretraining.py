"""Experiment 02: arms differ in what they claim to differ in, budgets are equal, a replay is the first part of its run."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from bertcraft.lab import flops
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import electra_pretraining as module
from bertcraft.lab.figures import electra_pretraining as figures
from bertcraft.lab.runner import replay_arm, run_arm
from bertcraft.tensor import tree, value_and_grad

EXPERIMENT = module.EXPERIMENT
SMALL = {"hidden": 32, "batch": 16, "texts": 400, "held_out": 200, "sentences": 100, "budget": 0.0016, "evaluations": 2}


def small(name: str, **changes):
    """An arm with all that makes it differ, smaller and for fewer steps."""
    arm = EXPERIMENT.arm(name)
    return replace(arm, settings=arm.settings | SMALL | {"warmup": 2} | changes)


@pytest.fixture(scope="module")
def tasks():
    return {arm.name: module.tasks_of(small(arm.name), 0) for arm in EXPERIMENT.arms}


@pytest.mark.parametrize("one, other, differing", [
    ("half", "electra", {"width", "weight"}), ("warm_masked", "warm", {"detect"}),
    ("mlm_quarter", "mlm", {"budget", "evaluations", "warmup"}), ("warm_quarter", "warm", {"budget", "evaluations", "warmup"}),
    ("electra", "mlm", {"width", "weight", "sharing", "detect"}),
])  # fmt: skip
def test_arms_differ_in_what_they_say(one, other, differing):
    a, b = (EXPERIMENT.arm(name).settings for name in (one, other))
    assert {key for key in a | b if a.get(key) != b.get(key)} == differing


def test_the_papers_constants():
    own = EXPERIMENT.arm("electra").settings
    assert (own["width"], own["weight"], own["sharing"], own["detect"]) == (0.25, 50, "shared", "all")
    quarter, whole = (EXPERIMENT.arm(name).settings["budget"] for name in ("warm_quarter", "mlm"))
    assert quarter == whole / 4


def test_every_arm_spends_the_same_compute(tasks):
    for name in ("mlm", "electra", "half", "warm", "warm_masked"):
        spent = sum(task.setting.steps * task.step_flops for task in tasks[name])
        assert spent == pytest.approx(SMALL["budget"] * 1e12, rel=0.1), name
        assert all(task.setting.steps % task.setting.evaluations == 0 for task in tasks[name])
    assert tasks["mlm"][0].step_flops < tasks["electra"][0].step_flops < tasks["half"][0].step_flops
    first, second = tasks["warm"]
    assert first.setting.steps * first.step_flops == pytest.approx(second.setting.steps * second.step_flops, rel=0.2)
    assert first.step_flops == tasks["mlm"][0].step_flops, "its masked language model is that of the baseline"
    assert all(task.step_flops == other.step_flops for task, other in zip(tasks["warm"], tasks["warm_masked"], strict=True))


def test_a_step_costs_what_its_products_add_up_to(tasks):
    """One layer counted by hand: generator and discriminator, forward, 2 operations a multiplication."""
    task = tasks["electra"][0]
    batch = task.make_batch(0)
    rows, length = batch["input_ids"].shape
    positions = batch["at"].size

    def encoder(config, read):
        h, inner, all_tokens = config.hidden_size, config.intermediate_size, rows * length
        embedding = all_tokens * config.embedding_size * h if config.embedding_size != h else 0
        full = all_tokens * (4 * h * h + 2 * length * h + 2 * h * inner)
        last = all_tokens * 2 * h * h + read * (2 * h * h + 2 * length * h + 2 * h * inner)
        return embedding + (config.num_hidden_layers - 1) * full + last

    g, d = task.guesser, task.config
    e, v = g.embedding_size, g.vocab_size
    heads = positions * (g.hidden_size * e + e * v) + rows * length * (d.hidden_size**2 + d.hidden_size)
    expected = 2 * (encoder(g, positions) + encoder(d, rows * length) + heads)
    counted = flops.count(task.loss, task.start, batch, None)
    assert counted == pytest.approx(expected, rel=0.02)
    both = flops.count(value_and_grad(partial(_call, task.loss, batch)), task.start)
    assert 2.4 < both / counted < 3.1, "backward costs about twice as much"


def _call(loss, batch, params):
    return loss(params, batch, None)


def test_all_arms_read_the_same_masks_and_start_alike(tasks):
    masked, fakes = tasks["mlm"][0].make_batch(3), tasks["electra"][0].make_batch(3)
    assert all(np.array_equal(masked[key], fakes[key]) for key in masked)
    assert not np.array_equal(fakes["draw"], tasks["electra"][0].make_batch(4)["draw"][: len(fakes["draw"])])
    kept = [dict(tree.items(tasks[name][0].split(tasks[name][0].start)[1]["electra"])) for name in ("mlm", "electra", "half")]
    assert all(np.array_equal(kept[0][name], other[name]) for other in kept[1:] for name in kept[0])


def test_a_warm_start_is_the_masked_language_model_twice(tasks):
    first, second = tasks["warm"]
    trained = tree.map(lambda leaf: leaf + 1, first.start)
    generator, discriminator = second.split(module.warm(second.start, trained))
    assert dict(tree.items(generator)).keys() == dict(tree.items(trained)).keys()
    of_encoder = dict(tree.items(discriminator["electra"]))
    assert all(np.array_equal(of_encoder[name], leaf) for name, leaf in tree.items(trained["electra"]))


def test_chance_is_the_loss_of_a_discriminator_that_knows_words_from_special_tokens_only(tasks):
    task = tasks["half"][0]
    held_out = module.HeldOut(task.texts.held_out, task.texts)
    found = module.detection(task, held_out, task.start)
    ids = held_out.batch["input_ids"]
    assert (held_out.batch["attention_mask"].sum(axis=1) > 2).all()
    f, tokens = found["fakes"] / 100, held_out.batch["attention_mask"].sum()
    assert 0.1 < f < 0.25, "an untrained generator is nearly always wrong on the masked 15 %"
    unmasked_special = (np.isin(ids, (1, 2, 3))).sum()  # [UNK], [CLS], [SEP]
    coin = torch.distributions.Bernoulli(torch.tensor(f, dtype=torch.float64)).entropy().item()
    assert found["chance"] == pytest.approx(coin * (1 - unmasked_special / tokens), rel=0.01)
    blind = task.start
    head = blind["discriminator"]["discriminator_predictions"]["dense_prediction"]
    share = f * (1 - unmasked_special / tokens)  # one answer for all tokens, special ones too: worse than chance
    head["weight"][:], head["bias"][:] = 0, np.log(share / (1 - share))
    again = module.detection(task, held_out, blind)["detection"]
    assert again == pytest.approx(torch.distributions.Bernoulli(torch.tensor(share)).entropy().item(), rel=1e-3)
    assert again > found["chance"]


@pytest.mark.parametrize("scores, level, expected", [
    ([50, 60, 70], 65, 15.0), ([50, 60, 55, 70], 60, 10.0), ([66, 60], 65, 0.0), ([50, 60, 64], 65, None),
])  # fmt: skip
def test_compute_to_reach_a_score(scores, level, expected):
    assert module.reached([0.0, 10.0, 20.0, 30.0][: len(scores)], scores, level) == expected


@pytest.mark.parametrize("name", ["electra", "warm"])  # the second is a masked language model first
def test_a_run_gives_sane_figures_and_its_replay_is_its_beginning(name, tmp_path):
    arm = small(name, budget=0.003, evaluations=1 if name == "electra" else 2)
    found = run_arm(EXPERIMENT, arm, 1, Context(folder=tmp_path))["figures"]
    assert set(EXPERIMENT.metrics) <= set(found)
    assert len(found["compute"]) == len(found["curves"]["loss"]) and found["compute"][0] == 0
    assert found["compute"][-1] == pytest.approx(0.003, rel=0.1)
    assert found["curves"]["bigram_shift"][-1] == found["bigram_shift"]
    assert all(0 <= found[probe] <= 100 for probe in module.LEVELS)
    assert found["loss"] < found["curves"]["loss"][0]
    assert len(found["detected"]) == {"electra": 2, "warm": 1}[name]
    for probe in module.LEVELS:
        assert found[f"reached_{probe}"] or found[f"compute_{probe}"] == found["compute"][-1]
    again = replay_arm(EXPERIMENT, arm, 1, Context())
    assert again == {key: found[key] for key in again} and len(again["first_losses"]) == len(found["first_losses"])
    assert again["first_losses"] != replay_arm(EXPERIMENT, arm, 2, Context())["first_losses"]


def made_up_runs(seeds: int) -> list[dict]:
    rng = np.random.default_rng(0)
    runs = []
    for arm in EXPERIMENT.arms:
        for seed in range(seeds):
            curve = lambda start, end: (np.linspace(start, end, 9) + rng.normal(0, 0.3, 9)).tolist()  # noqa: E731
            curves = {
                "bigram_shift": curve(56, 66),
                "replaced_word": curve(50, 60),
                "intents": curve(25, 38),
                "loss": curve(6, 5),
            }
            figures = {name: values[-1] for name, values in curves.items()} | {
                "compute": np.linspace(0, arm.settings["budget"], 9).tolist(), "curves": curves,
                "compute_bigram_shift": 2.0 + rng.random(), "compute_replaced_word": 2.0 + rng.random(),
                "detected": [] if "weight" not in arm.settings else [{"detection": 0.35, "chance": 0.36, "fakes": 11.0}] * 4,
            }  # fmt: skip
            runs.append({"arm": arm.name, "seed": seed, "figures": figures})
    return runs


@pytest.mark.parametrize("seeds", [1, 3])
def test_plots_are_drawn_for_any_number_of_seeds(seeds, tmp_path):
    for path in figures.show(tmp_path, made_up_runs(seeds), EXPERIMENT):
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_ratios_by_level_are_those_of_straight_lines():
    line = lambda slope: {"compute": [0.0, 1.0], "curves": {"intents": [50.0, 50.0 + slope]}}  # noqa: E731
    runs = [{"arm": arm, "seed": seed, "figures": line(slope)} for arm, slope in (("a", 20), ("b", 10)) for seed in (0, 1)]
    levels, ratios = figures.show_ratio_by_level(runs, "a", "b", "intents")
    assert max(levels) == 60 and all(ratio.mean == pytest.approx(2) for ratio in ratios)
    assert figures.show_ratio_by_level(runs, "a", "c", "intents") == ([], [])
