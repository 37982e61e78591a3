"""Predictions for hardware that is not here rest on counts: these are held to what is counted as the code runs."""

from pathlib import Path

import numpy as np
import pytest

from bertcraft.errors import InputError
from bertcraft.lab import flops
from bertcraft.pretrain import scaling
from bertcraft.pretrain.objectives import OBJECTIVES, objective
from bertcraft.tensor import tree, value_and_grad

A100 = scaling.HARDWARE[0]


@pytest.mark.parametrize("size", ["tiny", "mini"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_operations_and_parameters_are_those_of_the_code(name, size):
    goal = objective(name, size, {"mask_id": 4, "vocab_size": 500}, 64, dropout=0.0)
    rows = np.random.default_rng(0).integers(5, 500, (2, 64)).astype(np.int32)
    rows[:, 0], rows[:, -1] = 2, 3  # [CLS] and [SEP]
    params, batch = goal.initial(0, np.float32), goal.batch(rows, np.arange(2), 0)
    work = scaling.work(name, size, 64, 500)
    assert flops.count(value_and_grad(goal.loss), params, batch, None) == 2 * work.flops
    assert sum(leaf.size for leaf in tree.leaves(params)) == work.parameters


def test_a_step_is_its_parts():
    work = scaling.work("masked_lm", "base")
    one, eight, many = (scaling.step(work, A100, n, 256) for n in (1, 8, 64))
    assert one.communication == 0 and one.compute == pytest.approx(256 * work.flops / 312e12)
    assert eight.compute == pytest.approx(one.compute / 8)
    assert eight.sent == pytest.approx(2 * 7 / 8 * 4 * work.summed)
    assert eight.communication == pytest.approx(eight.sent / 300e9)
    assert many.communication == pytest.approx(many.sent / 25e9)  # over the network
    assert scaling.step(work, A100, 8, 256, share=0.5).compute == pytest.approx(2 * eight.compute)
    cut = scaling.step(work, A100, 8, 256, sharded=True)
    assert cut.sent == pytest.approx(7 / 8 * 4 * (2 * work.parameters + work.summed)) and cut.memory < eight.memory
    assert scaling.step(work, A100, 3, 256).compute == pytest.approx(86 / 256 * one.compute)  # the fullest device


def test_an_objective_that_is_not_known_is_told():
    with pytest.raises(InputError, match="expected masked_lm or electra"):
        scaling.work("gpt", "base")


def test_the_document_has_the_tables_of_today():
    document = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
    for hardware in scaling.HARDWARE:
        assert scaling.table(hardware) in document and hardware.source in document


def megabytes(layers: int, rows: int) -> float:
    """What XLA's buffer assignment for a CPU needs beside the arguments of a training step, 256 wide."""
    jax = pytest.importorskip("jax")
    from bertcraft.pretrain.xla import _step
    from bertcraft.train import adamw

    size = {"hidden_size": 256, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 1024}
    goal, rule = objective("masked_lm", size, {"mask_id": 4, "vocab_size": 30522}, 128), adamw(1e-4)
    params = goal.initial(0, np.float32)
    batch = goal.batch(np.random.default_rng(0).integers(5, 30522, (rows, 128)).astype(np.int32), np.arange(rows), 0)
    parts = tree.map(lambda leaf: leaf[None], batch)
    lowered = jax.jit(_step(goal.loss, rule), donate_argnums=(0, 1)).lower(
        params, rule.init(params), {}, parts, np.ones(1), jax.random.key(0)
    )
    return lowered.compile().memory_analysis().temp_size_in_bytes / 1e6


def test_memory_is_what_the_document_says_of_xla():
    found = [megabytes(2, 8), megabytes(2, 16), megabytes(4, 16)]
    assert found == pytest.approx([160, 291, 468], rel=0.03)
    assert (found[2] - found[1]) / 2 / 16 == pytest.approx(5.6, rel=0.1)
