"""Encoders of different build: what they cost, equal operations and equal steps, how they are judged, shared parameters."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.bert import Config, encoder
from bertcraft.errors import InputError
from bertcraft.lab import architectures, flops
from bertcraft.lab.architectures import Architecture, Judge
from bertcraft.lab.experiment import Context
from bertcraft.pretrain.held_out import HeldOut
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.tensor import tree, value_and_grad

SETTINGS = {
    "packed": True, "length": 16, "texts": 300, "held_out": 100, "hidden": 32, "batch": 16, "shard": 8, "steps": 6, "warmup": 2,
    "evaluations": 3,
}  # fmt: skip
SETTING = architectures.setting_of(SETTINGS)


def build(settings, setting, texts, seed):
    return architectures.built(setting, texts, seed, num_hidden_layers=settings.get("depth", 2), max_position_embeddings=32)


@pytest.fixture(scope="module")
def task():
    return architectures.task_of(SETTINGS, 0, build)


def operations(config: Config, rows: int, length: int, read: int) -> int:
    """Of a BERT's forward pass, its last layer at ``read`` positions only: 2 for each multiplication."""
    h, inner, tokens = config.hidden_size, config.intermediate_size, rows * length
    full = tokens * (4 * h * h + 2 * length * h + 2 * h * inner)
    last = tokens * 2 * h * h + read * (2 * h * h + 2 * length * h + 2 * h * inner)
    return 2 * ((config.num_hidden_layers - 1) * full + last + read * (h * h + h * config.vocab_size))


def test_a_step_costs_what_its_products_add_up_to(task):
    batch = task.make_batch(0)
    rows, length = batch["input_ids"].shape
    forward = operations(task.architecture.config, rows, length, batch["at"].size)
    assert flops.count(task.architecture.loss, task.architecture.start, batch, None) == forward
    both = flops.count(value_and_grad(task.architecture.loss), task.architecture.start, batch, None)
    assert both == 3 * forward, "the backward pass has two products for each"
    whole = replace(SETTING, shard=SETTING.batch)
    assert architectures.step_flops(task.architecture, SETTING, task.make_batch) == task.step_flops
    assert architectures.step_flops(task.architecture, whole, task.make_batch) == pytest.approx(task.step_flops, rel=1e-3)
    assert 0 < architectures.step_milliseconds(task.architecture, SETTING, task.make_batch) < 10_000


def test_equal_operations_buy_fewer_steps_of_what_costs_more_and_all_seeds_take_as_many(task):
    budget = 20 * task.step_flops / 1e12
    shallow, deep = (architectures.task_of(SETTINGS | {"tflop": budget, "depth": depth}, 0, build) for depth in (2, 4))
    assert shallow.setting.steps == 20 > deep.setting.steps
    assert deep.setting.steps * deep.step_flops == pytest.approx(budget * 1e12, rel=0.05)
    as_deep = architectures.task_of(SETTINGS | {"tflop": budget, "as_many_steps_as": {"depth": 4}}, 3, build)
    assert as_deep.setting.steps == deep.setting.steps and as_deep.step_flops == shallow.step_flops
    assert as_deep.architecture.config.num_hidden_layers == 2
    with pytest.raises(InputError, match="1e-06 TFLOP buy no step of"):
        architectures.affordable(1e-6, task.step_flops)


def test_it_is_judged_as_held_out_text_is_and_trained_by_the_loss_of_the_technique(task):
    judge, held_out = Judge(task.texts.held_out, task.texts), HeldOut(task.texts.held_out, task.texts)
    found, expected = (
        judge(task.architecture, task.architecture.start),
        held_out(task.architecture.start, task.architecture.config),
    )
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert found["accuracy"] == pytest.approx(100 * expected["accuracy"]) and judge.unigram == held_out.unigram
    assert len({found[name] for name in ("loss", "loss_kept", "loss_random", "loss_all")}) == 4
    assert all(found[name] == expected[name] for name in ("loss_kept", "loss_random", "loss_all"))
    batch = task.make_batch(0)
    technique = masking.masked_lm_loss(task.architecture.start, batch, None, task.architecture.config)
    assert task.architecture.loss(task.architecture.start, batch) == technique


def test_longer_rows_hold_as_many_words(task):
    short, long = (architectures.judge(SETTING, "held_out", length) for length in (16, 32))
    assert short.batch["input_ids"].shape == (100, 16) and long.batch["input_ids"].shape == (50, 32)
    assert np.array_equal(short.batch["input_ids"], architectures.judge(SETTING, "held_out", 16).batch["input_ids"])
    assert abs(short.unigram - long.unigram) < 0.5


def test_parameters_that_are_used_twice_are_counted_and_changed_once(task):
    config = task.architecture.config
    shared = task.architecture.start["bert"]["encoder"]["layer"]["0"]
    start = dict(task.architecture.start, bert=dict(task.architecture.start["bert"], encoder={"shared": shared}))

    def whole(params):
        layers = {"layer": {str(i): params["bert"]["encoder"]["shared"] for i in range(2)}}
        return dict(params, bert=dict(params["bert"], encoder=layers))

    once = Architecture(config, start, whole)
    twice = Architecture(config, whole(start))
    batch, layer = task.make_batch(0), sum(leaf.size for leaf in tree.leaves(shared))
    assert twice.parameters - once.parameters == layer
    (loss, gradients), (same, copies) = (value_and_grad(each.loss)(each.start, batch, None) for each in (once, twice))
    assert loss == same
    own = dict(tree.items(gradients["bert"]["encoder"]["shared"]))
    for name, gradient in own.items():
        parts = (dict(tree.items(copies["bert"]["encoder"]["layer"][str(i)]))[name] for i in range(2))
        np.testing.assert_allclose(gradient, sum(parts), atol=1e-5, err_msg=name)
    judge = Judge(task.texts.held_out, task.texts)
    assert judge(once, once.start) == judge(twice, twice.start)


def test_a_run_gives_sane_figures_goes_on_where_it_was_stopped_and_its_replay_is_its_beginning(task, tmp_path):
    look = lambda params: {"words": float(params["bert"]["embeddings"]["word_embeddings"]["weight"].sum())}  # noqa: E731
    found = architectures.run(task, SETTINGS, 0, Context(folder=tmp_path / "whole"), others=(32,), look=look)
    assert found.pop("words") != look(task.architecture.start)["words"], "of the trained ones"
    assert found["steps"] == [2, 4, 6] and found["curve"][-1] == found["loss"] and len(found["first_losses"]) == 6
    assert found["gap"] == pytest.approx(found["loss"] - found["unigram"]) and found["tflop"] == 6 * task.step_flops / 1e12
    assert found["loss_32"] - found["gap_32"] == architectures.judge(SETTING, "held_out", 32).unigram
    judge = architectures.judge(SETTING, "held_out", 16)
    seen = lambda params: judge(task.architecture, params)  # noqa: E731
    architectures.fitted(task, SETTINGS, 0, Context(folder=tmp_path / "stopped"), steps=4, evaluate=seen)
    again = architectures.run(task, SETTINGS, 0, Context(folder=tmp_path / "stopped"), others=(32,))
    assert again | {"time": 0} == found | {"time": 0}
    beginning = architectures.replay(task, SETTINGS, 0, Context())
    assert beginning == {name: found[name] for name in beginning}
    development = architectures.run(task, SETTINGS, 0, Context(), "dev")
    assert development["loss"] != found["loss"] and development["first_losses"] == found["first_losses"]


def test_what_is_had_for_nothing(task):
    unigram, untrained = (architectures.trivial(task, method, (32,)) for method in ("unigram", "untrained"))
    judge = architectures.judge(SETTING, "held_out", 16)
    assert unigram["loss"] == judge.unigram and set(unigram) == set(untrained) == {"loss", "loss_32"}
    assert untrained["loss"] == judge(task.architecture, task.architecture.start)["loss"] > unigram["loss"]


def test_another_way_to_compute_states_is_trained_and_judged(task):
    """States that see nothing but their own word guess no better than word frequencies, whatever they started with."""
    calls = []

    def encode(*args, **kwargs):
        calls.append(kwargs["at"].shape)
        return 0 * encoder.encode(*args, **kwargs)

    blind = architectures.built(SETTING, task.texts, 0, encode)
    judge = Judge(task.texts.held_out, task.texts)
    found = judge(blind, blind.start)
    assert calls and found["loss"] == pytest.approx(judge.unigram, abs=1e-4)
