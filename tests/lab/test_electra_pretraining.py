"""Experiment 02: what is declared, equal compute, arms that differ in what they say, branches, chance, replay equals run."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from bertcraft.lab import flops, replaced_tokens, statistics, verdicts
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import electra_pretraining as module
from bertcraft.lab.figures import electra_pretraining as figures
from bertcraft.lab.runner import replay_arm, run_arm
from bertcraft.pretrain.held_out import HeldOut
from bertcraft.tensor import tree, value_and_grad

EXPERIMENT = module.EXPERIMENT
TRAINED = [arm.name for arm in EXPERIMENT.arms if not arm.trivial]
TINY = {
    "hidden": 32, "batch": 16, "texts": 400, "held_out": 200, "warmup": 2, "rate": 2e-3, "budgets": [0.001, 0.002], "labels": 100,
    "tuned_steps": 4,
}  # fmt: skip


def tiny(name: str, **changes):
    """An arm with all that makes it differ, smaller and for fewer steps."""
    arm = EXPERIMENT.arm(name)
    return replace(arm, settings=arm.settings | TINY | changes)


@pytest.fixture(scope="module")
def tasks():
    return {name: replaced_tokens.task_of(tiny(name).settings, 0) for name in TRAINED}


# ------------------------------------------------------------------------------------------------------- declaration


def test_the_primary_comparison_is_a_ratio_of_computes_with_ten_seeds():
    primary = EXPERIMENT.primary
    assert (primary.treatment, primary.baseline, primary.metric, primary.ratio) == ("mlm", "electra", "to_level", True)
    assert primary.form == statistics.SUPERIOR and EXPERIMENT.metrics["to_level"].overlap == 490 / 1920
    assert {arm.name for arm in EXPERIMENT.arms if EXPERIMENT.seeds_of(arm) == 10} == {"mlm", "electra", "untrained"}


@pytest.mark.parametrize("one, other, differing", [
    ("electra", "mlm", {"fakes", "width", "weight", "sharing", "detect"}), ("shared", "electra", {"sharing"}),
    ("masked", "electra", {"detect"}), ("neighbours", "masked", {"fakes", "width", "weight", "sharing", "detect"}),
])  # fmt: skip
def test_arms_differ_in_what_they_say(one, other, differing):
    a, b = (EXPERIMENT.arm(name).settings for name in (one, other))
    assert {key for key in a | b if a.get(key) != b.get(key)} - {"budgets", "level", "doubling"} == differing
    assert a["budgets"][-1] == b["budgets"][-1] == 8.0


def test_the_ratio_of_two_curves_is_how_far_they_are_apart_whatever_the_level():
    compute, scores = [0.5, 1, 2, 4, 8], np.array([57, 58.5, 60, 61.5, 63])
    assert module.to_level(compute, scores, 60, 1.5) == pytest.approx(2)  # a line of that slope crosses it there
    assert module.to_level(compute, scores, 63, 1.5) == pytest.approx(8)
    for level in (55, 60, 70):
        ratio = module.to_level(compute, scores, level, 1.5) / module.to_level(compute, scores + 3, level, 1.5)
        assert ratio == pytest.approx(4), "three points higher: two doublings"


def test_a_discriminator_at_chance_or_a_generator_on_the_plateau_is_not_testable():
    def runs(**changed):
        good = {
            "mlm": {"to_level": 2.0, "gap": -1.5, "accuracy": 63.0}, "untrained": {"accuracy": 53.0},
            "electra": {"to_level": 1.0, "gap": -1.0, "told": 6.0, "accuracy": 63.0},
        }  # fmt: skip
        early = {"mlm": -0.8, "electra": -0.7} | changed.pop("early", {})
        return [
            {
                "arm": arm,
                "seed": seed,
                "figures": {k: v * (1 + 0.01 * (seed % 3)) for k, v in (own | changed.get(arm, {})).items()}
                | ({"seen": [{"gap": early[arm]}, {"gap": own["gap"]}]} if arm in early else {}),
            }
            for arm, own in good.items()
            for seed in range(10)
        ]

    assert verdicts.primary(EXPERIMENT, runs()).verdict == statistics.REPRODUCED
    for arm, changed in (("electra", {"told": 0.5}), ("electra", {"gap": -0.2}), ("mlm", {"accuracy": 50.0})):
        outcome = verdicts.primary(EXPERIMENT, runs(**{arm: changed}))
        assert outcome.verdict == statistics.NOT_TESTABLE and outcome.failed[0].arm == arm
    for arm in ("mlm", "electra"):
        outcome = verdicts.primary(EXPERIMENT, runs(early={arm: -0.1}))
        assert outcome.verdict == statistics.NOT_TESTABLE and outcome.failed[0].arm == arm, "all points count, so all are held"


# ------------------------------------------------------------------------------------------------------- the trainings


def test_every_arm_spends_the_same_compute(tasks):
    for name, task in tasks.items():
        for budget, end in zip(TINY["budgets"], module.ends(tiny(name).settings, task), strict=True):
            assert end * task.step_flops == pytest.approx(budget * 1e12, rel=0.1), name
    assert tasks["mlm"].step_flops < tasks["electra"].step_flops == tasks["shared"].step_flops
    assert tasks["neighbours"].step_flops < tasks["electra"].step_flops, "counts cost nothing"


def test_a_step_costs_what_its_products_add_up_to(tasks):
    """One layer counted by hand: generator and discriminator, forward, 2 operations a multiplication."""
    task = tasks["electra"]
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
    masked = tasks["mlm"].make_batch(3)
    for name in ("electra", "neighbours"):
        other = tasks[name].make_batch(3)
        assert all(np.array_equal(masked[key], other[key]) for key in masked)
        assert not np.array_equal(other["draw"], tasks[name].make_batch(4)["draw"])
    kept = [dict(tree.items(tasks[name].split(tasks[name].start)[1]["electra"])) for name in ("mlm", "electra", "neighbours")]
    assert all(np.array_equal(kept[0][name], other[name]) for other in kept[1:] for name in kept[0])


def test_fakes_from_counts_stand_where_the_text_was_masked_and_were_drawn_there(tasks):
    task = tasks["neighbours"]
    batch = task.make_batch(0)
    replaced = task.replaced({}, batch)
    counted = batch["labels"] >= 0
    assert np.array_equal(np.take_along_axis(replaced.input_ids, batch["at"], axis=1)[counted], batch["samples"][counted])
    assert replaced.fake.sum() > 0.5 * counted.sum() and not replaced.fake[~replaced.masked].any()
    assert (batch["samples"] >= 5).all(), "words, no special tokens"


def test_chance_is_the_loss_of_a_discriminator_that_knows_words_from_special_tokens_only(tasks):
    task = tasks["electra"]
    held_out = HeldOut(task.texts.held_out, task.texts)
    found = replaced_tokens.detection(task, held_out, task.start)
    ids = held_out.batch["input_ids"]
    f, tokens = found["fakes"] / 100, held_out.batch["attention_mask"].sum()
    assert 0.1 < f < 0.25, "an untrained generator is nearly always wrong on the masked 15 %"
    unmasked_special = (np.isin(ids, (1, 2, 3))).sum()  # [UNK], [CLS], [SEP]
    coin = torch.distributions.Bernoulli(torch.tensor(f, dtype=torch.float64)).entropy().item()
    assert found["chance"] == pytest.approx(coin * (1 - unmasked_special / tokens), rel=0.01)
    assert found["told"] == pytest.approx(100 * (1 - found["detection"] / found["chance"]))
    head = task.start["discriminator"]["discriminator_predictions"]["dense_prediction"]
    kept = {name: array.copy() for name, array in head.items()}
    share = f * (1 - unmasked_special / tokens)  # one answer for all tokens, special ones too: worse than chance
    head["weight"][:], head["bias"][:] = 0, np.log(share / (1 - share))
    again = replaced_tokens.detection(task, held_out, task.start)
    assert again["detection"] == pytest.approx(torch.distributions.Bernoulli(torch.tensor(share)).entropy().item(), rel=1e-3)
    assert again["told"] < 0
    head["weight"][:], head["bias"][:] = kept["weight"], kept["bias"]


# ---------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("name", ["mlm", "electra", "neighbours"])
def test_a_run_gives_sane_figures_and_its_replay_is_its_beginning(name, tmp_path):
    arm = tiny(name)
    found = run_arm(EXPERIMENT, arm, 1, Context(folder=tmp_path))["figures"]
    assert len(found["compute"]) == len(found["scores"]) == len(found["seen"]) == 2
    assert found["compute"] == pytest.approx(TINY["budgets"], rel=0.1) and found["scores"][-1] == found["accuracy"]
    assert ("told" in found) == (name != "mlm") and ("gap" in found) == (name != "neighbours")
    beside = {found.get(loss) for loss in ("loss", "loss_kept", "loss_random", "loss_all")}
    assert len(beside - {None}) == (0 if name == "neighbours" else 4)
    assert ("to_level" in found) == (name != "neighbours") and 0 <= found["intents"] <= 100
    again = replay_arm(EXPERIMENT, arm, 1, Context())
    assert again == {key: found[key] for key in again} and len(again["first_losses"]) > 2
    assert again["first_losses"] != replay_arm(EXPERIMENT, arm, 2, Context())["first_losses"]


def test_a_branch_is_a_training_of_its_own_length_and_a_run_goes_on_where_it_was_stopped(tmp_path):
    arm = tiny("mlm")
    whole = module.run(arm, 1, Context(folder=tmp_path / "whole"))
    alone = module.run(tiny("mlm", budgets=[0.001]), 1, Context(folder=tmp_path / "alone"))
    assert alone["scores"] == whole["scores"][:1], "later branches change nothing of the first"
    task = replaced_tokens.task_of(arm.settings, 1)
    first = next(module.curve(task, 1, Context(folder=tmp_path / "stopped"), arm.settings))
    assert module.run(arm, 1, Context(folder=tmp_path / "stopped")) == whole and first[0] == whole["steps"][0]


def test_a_trial_is_judged_on_development_texts_alone():
    figures_of_a_trial = module.run(tiny("mlm", judged_on="dev", level=0.0), 1000, Context())
    assert figures_of_a_trial["dev"] == pytest.approx(np.mean(figures_of_a_trial["scores"]))
    assert not {"to_level", "intents", "mean"} & set(figures_of_a_trial)


def test_what_is_had_for_nothing(tasks):
    for name in ("untrained", "tfidf", "majority"):
        arm = tiny(name)
        found = module.run(arm, 0, Context())
        assert set(found) == {"accuracy", "intents"} and found == replay_arm(EXPERIMENT, arm, 0, Context())


def made_up_runs(seeds: int) -> list[dict]:
    rng = np.random.default_rng(0)
    scores = lambda: (np.linspace(57, 63, 5) + rng.normal()).tolist()  # noqa: E731
    return [
        {"arm": arm.name, "seed": seed, "figures": {
            "accuracy": 60 + rng.normal(), "compute": [0.5, 1, 2, 4, 8], "scores": scores(),
            "seen": [{"gap": -0.3 * i, "told": float(i)} for i in range(5)],
        }}
        for arm in EXPERIMENT.arms for seed in range(seeds)
    ]  # fmt: skip


@pytest.mark.parametrize("seeds", [1, 3])
def test_plots_are_drawn_for_any_number_of_seeds(seeds, tmp_path):
    for experiment in (EXPERIMENT, EXPERIMENT.quick):
        for path in figures.show(tmp_path, made_up_runs(seeds), experiment):
            assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
