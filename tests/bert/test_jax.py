"""The same code under JAX: a jitted training step gives NumPy's loss, gradients and updated parameters."""

import sys
from pathlib import Path

import numpy as np
import pytest

from bertcraft.bert import heads
from bertcraft.techniques import roberta_optimizations as technique
from bertcraft.tensor import tree, value_and_grad
from bertcraft.tensor.gradient import unwrap, wrap_jax
from bertcraft.train import adamw, chain, clip_by_global_norm

sys.path.insert(0, str(Path(__file__).parent))
from transformers_models import FAMILIES, inputs, make, ours

jax = pytest.importorskip("jax")


@pytest.fixture(params=[np.float64, np.float32])
def precision(request):
    with jax.enable_x64(request.param is np.float64):
        yield request.param, 1e-10 if request.param is np.float64 else 1e-5


def compare(name_and_leaves, others, tolerance):
    for (name, a), b in zip(name_and_leaves, others, strict=True):
        scale = max(1.0, float(np.abs(a).max(initial=0)))
        np.testing.assert_allclose(np.asarray(b), a, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("family", [*FAMILIES, "deberta-v2", "roberta-prelayernorm"])
def test_jitted_loss_and_gradients_equal_numpys(family, precision):
    dtype, tolerance = precision
    model = make(family, "masked_lm", 2)
    arrays = inputs(model, 2)
    config, params = ours(model, family, "masked_lm")
    params = tree.map(lambda leaf: leaf.astype(dtype), params)
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(arrays["input_ids"].shape) < 0.5, arrays["input_ids"], -100)
    batch = {**arrays, "labels": labels}

    def loss(p, b):
        return heads.loss(p, config, b)

    value, gradients = value_and_grad(loss)(params, batch)
    traced_value, traced = jax.jit(value_and_grad(loss))(params, batch)
    assert isinstance(traced_value, jax.Array) and traced_value.dtype == dtype
    assert abs(float(traced_value) - float(value)) < tolerance
    compare(tree.items(gradients), [dict(tree.items(traced))[name] for name, _ in tree.items(gradients)], tolerance)


def test_a_jitted_training_step_equals_numpys(precision):
    dtype, tolerance = precision
    model = make("bert", "masked_lm", 4)
    config, params = ours(model, "bert", "masked_lm")
    params = tree.map(lambda leaf: leaf.astype(dtype), params)
    rng = np.random.default_rng(0)
    ids = rng.integers(5, config.vocab_size, (6, 14))
    masked = technique.mask_tokens(ids, rng.random((6, 42)), mask_id=4, vocab_size=config.vocab_size, first_word_id=5)
    batch = {**masked._asdict(), "attention_mask": np.ones_like(ids)}
    rule = chain(clip_by_global_norm(1.0), adamw(1e-3))

    def step(p, state, b):
        value, gradients = value_and_grad(lambda q, b: technique.masked_lm_loss(q, b, None, config))(p, b)
        updates, state = rule.update(wrap_jax(gradients), wrap_jax(state), wrap_jax(p))
        return unwrap((value, tree.map(np.add, wrap_jax(p), updates), state))

    ours_, theirs = (params, rule.init(params)), (params, rule.init(params))
    jitted = jax.jit(step)
    for _ in range(5):
        value, *ours_ = step(*ours_, batch)
        traced_value, *theirs = jitted(*theirs, batch)
        assert abs(float(traced_value) - float(value)) < tolerance * 10
    names = dict(tree.items(theirs[0]))
    ours_named = list(tree.items(ours_[0]))
    if dtype == np.float32:  # a key's bias has no effect: its gradient is rounding alone, which Adam scales up
        ours_named = [(name, leaf) for name, leaf in ours_named if not name.endswith("key.bias")]
    compare(ours_named, [names[name] for name, _ in ours_named], 1e-10 if dtype == np.float64 else 1e-4)


def test_dropout_under_jax_keeps_the_mean():
    from bertcraft.tensor import functions as F
    from bertcraft.tensor import xla

    x = np.ones((400, 50), np.float32)
    dropped = xla.jit(lambda x, key: F.dropout(x, 0.2, xla.Generator(key)))(jax.numpy.asarray(x), jax.random.key(0))
    kept = np.asarray(dropped) != 0
    assert abs(kept.mean() - 0.8) < 0.01 and np.allclose(np.asarray(dropped)[kept], 1.25)
