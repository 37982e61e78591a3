"""The fast path computes what the definition computes, to the bit, for any number of threads."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcraft.errors import InputError
from bertcraft.tensor import tree
from bertcraft.train import (
    adamw,
    apply,
    chain,
    clip_by_global_norm,
    global_norm,
    rules,
    sgd,
    warmup_linear,
)
from bertcraft.train.inplace import BLOCK, cut

# Like an encoder's: large matrices, whole blocks, a block and a bit, many small vectors, a scalar, nothing.
SHAPES = {
    "word": (5000, 40), "query": (128, 128), "key": (128, 128), "output": (129, 131),
    **{f"bias{i}": (31 + i,) for i in range(40)}, "scalar": (), "empty": (0, 4), "classes": (300, 5),
}  # fmt: skip


def draw(rng, dtype=np.float32):
    return {name: np.asarray(rng.standard_normal(shape)).astype(dtype) for name, shape in SHAPES.items()}


def copy(part):
    return tree.map(np.array, part)


def train(rule, params, gradients, threads):
    params = copy(params)
    state = rule.init(params)
    with ThreadPoolExecutor(threads) as pool:
        for g in gradients:
            state = apply(rule, g, state, params, pool if threads > 1 else None)
    return params, state


def assert_same_bits(a, b):
    for (name, x), y in zip(tree.items(a), tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.tobytes() == y.tobytes(), name


def define(rule, params, gradients):
    """What the definition of a rule makes of it."""
    state = rule.init(params)
    for g in gradients:
        updates, state = rule.update(g, state, params)
        params = tree.map(np.add, params, updates)
    return params, state


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_in_place_has_the_bits_of_its_definition(dtype, weight_decay):
    rng = np.random.default_rng(1)
    params, gradients = draw(rng, dtype), [draw(rng, dtype) for _ in range(5)]
    rule = adamw(warmup_linear(1e-2, 2, 10), weight_decay=weight_decay)
    assert_same_bits(train(rule, params, gradients, 2), define(rule, params, gradients))


def test_clipping_in_place_equals_its_definition():
    rng = np.random.default_rng(2)
    params, gradients = (
        draw(rng),
        [tree.map(lambda x, s=s: x * np.float32(s), draw(rng)) for s in (1, 1e-4, 3, 0.1)],
    )
    rule = chain(clip_by_global_norm(1.0), adamw(1e-2))
    ours, (clipped, _) = train(rule, params, gradients, 2)
    theirs, (expected, _) = define(rule, params, gradients)
    for (name, a), b in zip(tree.items(ours), tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7, err_msg=name)
    assert clipped["norm"].dtype == np.float32
    assert math.isclose(clipped["norm"], expected["norm"], rel_tol=1e-6)


def test_any_number_of_threads_gives_the_same_bits():
    rng = np.random.default_rng(3)
    params, gradients = draw(rng), [draw(rng) for _ in range(4)]
    params["large"] = rng.standard_normal((1500, 1000), dtype=np.float32)
    for g in gradients:
        g["large"] = rng.standard_normal((1500, 1000), dtype=np.float32)
    rule = chain(clip_by_global_norm(1.0), adamw(1e-2))
    alone = train(rule, params, gradients, 1)
    for threads in (2, 4):
        assert_same_bits(train(rule, params, gradients, threads), alone)


@pytest.mark.parametrize("rule", [sgd(0.1, 0.9), sgd(0.1), chain(adamw(0.01), clip_by_global_norm(1.0))])
def test_rules_without_a_fast_path_are_applied_by_their_definition(rule):
    rng = np.random.default_rng(4)
    params, gradients = draw(rng), [draw(rng) for _ in range(3)]
    assert_same_bits(train(rule, params, gradients, 2), define(rule, params, gradients))


def test_gradients_are_only_read_and_may_be_views_or_shared():
    rng = np.random.default_rng(5)
    shared = rng.standard_normal((200, 100), dtype=np.float32)
    shared.flags.writeable = False
    gradients = {
        "a": shared, "b": shared, "transposed": shared.T,
        "broadcast": np.broadcast_to(shared[:, :1], (200, 100))
    }  # fmt: skip
    params = tree.map(lambda g: np.ones(g.shape, np.float32), gradients)
    rule = chain(clip_by_global_norm(1e-3), adamw(1e-2))
    ours, _ = train(rule, params, [gradients] * 2, 2)
    theirs, _ = train(rule, params, [tree.map(lambda g: np.array(g, order="C"), gradients)] * 2, 1)
    assert_same_bits(ours, theirs)
    assert_same_bits(ours["a"], ours["b"])


def test_leaves_are_paired_by_name_not_by_order():
    rng = np.random.default_rng(6)
    params, gradients = draw(rng), [draw(rng) for _ in range(2)]
    shuffled = [dict(reversed(g.items())) for g in gradients]
    assert_same_bits(train(adamw(0.1), params, shuffled, 1), train(adamw(0.1), params, gradients, 1))


def test_nothing_as_large_as_a_leaf_is_allocated():
    import tracemalloc

    params = {"weight": np.ones((1000, 1000), np.float32)}
    rule = chain(clip_by_global_norm(1.0), adamw(0.1))
    state, gradients = rule.init(params), copy(params)
    memory = [x.__array_interface__["data"][0] for x in (state[1]["m"]["weight"], params["weight"])]
    state = apply(rule, gradients, state, params)
    tracemalloc.start()
    state = apply(rule, gradients, state, params)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < params["weight"].nbytes / 10
    assert memory == [x.__array_interface__["data"][0] for x in (state[1]["m"]["weight"], params["weight"])]


@settings(deadline=None)
@given(st.lists(st.integers(0, 100), max_size=30), st.integers(1, 40))
def test_blocks_cover_every_element_once(sizes, block):
    blocks = list(cut(sizes, block))
    covered = sorted((leaf, i) for pieces in blocks for leaf, start, stop in pieces for i in range(start, stop))
    assert covered == [(leaf, i) for leaf, size in enumerate(sizes) for i in range(size)]
    assert all(0 < sum(stop - start for _, start, stop in pieces) <= block for pieces in blocks)


def test_small_leaves_share_blocks():
    assert len(list(cut([256] * 60))) == 1
    assert list(cut([BLOCK, 256, 2 * BLOCK])) == [
        [(0, 0, BLOCK)], [(2, 0, BLOCK)], [(2, BLOCK, 2 * BLOCK)], [(1, 0, 256)]
    ]  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=4), st.sampled_from([np.float32, np.float64]))
def test_global_norm_is_the_norm_of_all_leaves(sizes, dtype):
    rng = np.random.default_rng(sum(sizes))
    leaves = [rng.standard_normal(size).astype(dtype) for size in sizes]
    exact = math.sqrt(sum(float(np.sum(leaf.astype(np.longdouble) ** 2)) for leaf in leaves))
    tolerance = {np.float32: 1e-6, np.float64: 1e-13}[dtype]
    assert math.isclose(global_norm(leaves), exact, rel_tol=tolerance)
    assert math.isclose(rules.global_norm(leaves), exact, rel_tol=tolerance)


@pytest.mark.parametrize("value, expected", [(np.nan, math.isnan), (np.inf, math.isinf), (1e30, math.isinf)])
def test_global_norm_of_what_is_not_finite_is_not(value, expected):
    leaf = np.ones(50_000, np.float32)
    leaf[40_000] = value
    with ThreadPoolExecutor(2) as pool:
        assert expected(global_norm({"a": leaf}, pool)) and expected(global_norm({"a": leaf}))


def test_what_cannot_be_updated_in_place_is_refused_untouched():
    rule = adamw(0.1)
    good = np.ones((3, 2), np.float32)
    locked = good.copy()
    locked.flags.writeable = False
    for bad in (good.T.copy().T, locked, good.tolist(), good.astype(int)):
        params = {"first": good.copy(), "weight": bad}
        with pytest.raises((InputError, ValueError)):
            apply(rule, {"first": good, "weight": good}, rule.init({"first": good, "weight": good}), params)
        np.testing.assert_array_equal(params["first"], good)
    for bad in (good.astype(np.float64), good[:2], None):
        params = {"first": good.copy(), "weight": good.copy()}
        with pytest.raises(InputError, match="the gradient of weight is .* the parameter is float32"):
            apply(rule, {"first": good, "weight": bad}, rule.init(params), params)
        np.testing.assert_array_equal(params["first"], good)
