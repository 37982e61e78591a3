"""Shards: the whole batch's gradient, the same bits for any number of threads, clear errors."""

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from bertcraft.bert import Config, initial_params
from bertcraft.techniques import roberta_optimizations as technique
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree, value_and_grad
from bertcraft.tensor.parallel import pool, shard_rng, sharded_value_and_grad

sys.path.insert(0, str(Path(__file__).parent))


def small_bert(dropout=0.0, dtype=np.float64):
    config = Config(
        family="bert", head="masked_lm", vocab_size=120, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=48, max_position_embeddings=16, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    return config, initial_params(config, 0, dtype)


def batch_of(rows, length=12, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, 120, (rows, length))
    ids[np.arange(length) >= rng.integers(3, length + 1, (rows, 1))] = 0
    masked = technique.mask_tokens(ids, rng.random((rows, 3 * length)), mask_id=4, vocab_size=120, first_word_id=5, rate=0.3)
    return {**masked._asdict(), "attention_mask": (ids != 0).astype(int)}


@pytest.mark.parametrize("rows", [1, 5, 8, 13])
def test_shards_give_the_gradient_of_the_whole_batch(rows):
    config, params = small_bert()
    batch = batch_of(rows)

    def loss(p, b, rng):
        return technique.masked_lm_loss(p, b, rng, config)

    step = sharded_value_and_grad(loss, shard_size=3, weight=technique.predicted, prepare=technique.trimmed)
    value, gradients = step(params, batch)
    whole_value, whole = value_and_grad(loss)(params, batch, None)
    assert value == pytest.approx(float(whole_value), abs=1e-12)
    for name, a, b in zip(dict(tree.items(whole)), tree.leaves(gradients), tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12, err_msg=name)


def test_mean_of_means_would_be_wrong_here():
    config, params = small_bert()
    batch = batch_of(9)

    def loss(p, b, rng):
        return technique.masked_lm_loss(p, b, rng, config)

    equal = sharded_value_and_grad(loss, shard_size=3, weight=lambda b: len(b["at"]))
    assert abs(equal(params, batch)[0] - float(loss(params, batch, None))) > 1e-4


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_bits_do_not_depend_on_the_number_of_threads(dropout):
    config, params = small_bert(dropout, np.float32)
    batch = batch_of(30)
    results = []
    for threads in (1, 2, 4, 2):
        step = sharded_value_and_grad(
            lambda p, b, rng: technique.masked_lm_loss(p, b, rng, config),
            shard_size=4, weight=technique.predicted, threads=threads, seed=7,
        )  # fmt: skip
        results.append(step(params, batch, 3))
    for value, gradients in results[1:]:
        assert value == results[0][0]
        for a, b in zip(tree.leaves(gradients), tree.leaves(results[0][1]), strict=True):
            assert a.dtype == np.float32 and np.array_equal(a, b)


def test_without_a_weight_the_shards_add_up():
    x = np.arange(10.0)
    step = sharded_value_and_grad(lambda w, b, rng: np.sum(w * b * b), shard_size=4)
    value, gradient = step(np.array(2.0), x)
    assert value == 2 * np.sum(x * x) and gradient == np.sum(x * x)


def test_each_shard_and_step_has_its_own_random_numbers():
    seen = {float(shard_rng(1, step, shard).random()) for step in range(4) for shard in range(4)}
    assert len(seen) == 16
    assert shard_rng(1, 2, 3).random() == shard_rng(1, 2, 3).random()


def test_an_error_in_a_shard_reaches_the_caller():
    def loss(w, b, rng):
        if b[0] > 5:
            raise ZeroDivisionError("in shard")
        return np.sum(w * b)

    with pytest.raises(ZeroDivisionError, match="in shard"):
        sharded_value_and_grad(loss, shard_size=2, threads=2)(np.array(1.0), np.arange(10.0))


def test_blas_has_one_thread_in_shards():
    from threadpoolctl import threadpool_info

    seen = []

    def loss(w, b, rng):
        seen.extend(info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas")
        return np.sum(w * b)

    sharded_value_and_grad(loss, shard_size=2, threads=2)(np.array(1.0), np.arange(8.0))
    assert seen and set(seen) == {1}


@pytest.mark.parametrize("batch", [np.zeros((0, 3)), {"a": np.zeros(3), "b": np.zeros(4)}])
def test_batches_that_cannot_be_cut_are_refused(batch):
    step = sharded_value_and_grad(lambda w, b, rng: w * 0, shard_size=2)
    with pytest.raises(ValueError, match="at least one row"):
        step(np.array(1.0), batch)


def test_gradients_on_many_threads_at_once_do_not_mix():
    def job(i):
        return value_and_grad(lambda w: np.sum(F.gelu(w) * i))(np.linspace(-2, 2, 50))[1]

    one = value_and_grad(lambda w: np.sum(F.gelu(w)))(np.linspace(-2, 2, 50))[1]
    for i, gradient in enumerate(pool(4).map(job, range(40))):
        np.testing.assert_allclose(gradient, one * i, atol=1e-12)
    assert threading.active_count() < 50


def test_gradients_that_share_memory_or_cannot_be_written_are_added_up_all_the_same():
    params = {"a": np.ones((3, 2)), "b": np.ones((3, 2)), "c": np.ones((2, 3))}

    def loss(p, b, rng):
        return np.sum((p["a"] + p["b"]) * b[0]) + np.sum(p["c"].T * b[1] * 2) + np.sum(p["a"])

    batch = np.arange(1.0, 13.0)
    for threads in (1, 2):
        gradients = sharded_value_and_grad(loss, shard_size=2, threads=threads)(params, batch)[1]
        assert (gradients["a"] == np.sum(batch[::2]) + 6).all()
        assert (gradients["b"] == np.sum(batch[::2])).all()
        assert (gradients["c"] == 2 * np.sum(batch[1::2])).all()


def test_a_loss_that_is_no_float_is_refused_before_its_share_makes_one_of_it():
    step = sharded_value_and_grad(lambda p, b, rng: np.sum(p > b), shard_size=2, weight=len)
    with pytest.raises(TypeError, match="floating-point scalar, but the function returned int64"):
        step(np.ones(2), np.zeros((4, 2)), 0)
