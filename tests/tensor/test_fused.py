"""Every kernel against its definition: value and gradient, any shape, both precisions."""

import contextlib
import gc
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcraft.tensor import functions as F
from bertcraft.tensor import fused, tree, value_and_grad, workspace
from bertcraft.tensor.kernels import kernels_disabled

TOLERANCE = {np.float64: 1e-12, np.float32: 2e-6}
KERNELS = [name for name, f in vars(F).items() if getattr(f, "kernel", None) is not None]


def numbers(seed, *shape, dtype, scale=2.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def case(name, seed, dtype, leading, length, width, heads):
    """Parameters to differentiate and a function of them that calls the fusable function ``name``."""
    rng = np.random.default_rng(seed)

    def draw(i, *shape):
        return numbers([seed, i], *shape, dtype=dtype)

    def mask():
        return np.random.Generator(np.random.SFC64(seed))

    x = draw(0, *leading, length, width)
    w, b = 1 + 0.3 * draw(1, width), draw(2, width)
    out = int(rng.integers(1, 9))
    ids = rng.integers(0, 5, (*leading, length))
    labels = np.where(rng.random((*leading, length)) < 0.3, -100, rng.integers(0, out, (*leading, length)))
    three = draw(0, 2, length, width * heads)
    bias = F.padding_bias(np.arange(length + 1) < rng.integers(1, length + 2, (2, 1)), dtype)
    context = draw(5, 2, length + 1, width * heads)
    y_rows = draw(6, length, width)
    many = {
        "gelu": [({"x": x}, lambda p: F.gelu(p["x"]))],
        "gelu_tanh": [({"x": x}, lambda p: F.gelu_tanh(p["x"]))],
        "layer_norm": [({"x": x, "w": w, "b": b}, lambda p: F.layer_norm(p["x"], p["w"], p["b"], eps=1e-5))],
        "rms_norm": [
            ({"x": x, "w": w}, lambda p: F.rms_norm(p["x"], p["w"], 1e-5)),
            ({"x": x, "w": w}, lambda p: F.rms_norm(p["x"], p["w"])),
        ],
        "add_layer_norm": [
            ({"x": x, "y": draw(3, *x.shape), "w": w, "b": b},
             lambda p: F.add_layer_norm(p["x"], p["y"], p["w"], p["b"], eps=1e-5, rate=0.3, rng=mask())),
            ({"x": x, "y": draw(3, *x.shape), "w": w, "b": b},
             lambda p: F.add_layer_norm(p["x"], p["y"], p["w"], p["b"], 1e-5)),
            ({"x": draw(3, 2, length, width), "y": y_rows, "w": w, "b": b},
             lambda p: F.add_layer_norm(p["x"], p["y"], p["w"], p["b"], eps=1e-5)),
        ],
        "linear": [
            ({"x": x, "w": draw(3, out, width), "b": draw(4, out)}, lambda p: F.linear(p["x"], p["w"], p["b"])),
            ({"x": x, "w": draw(3, out, width)}, lambda p: F.linear(p["x"], weight=p["w"])),
        ],
        "embedding": [
            ({"w": draw(3, 5, width)}, lambda p: F.embedding(p["w"], ids)),
            ({"w": draw(3, 5, width)}, lambda p: F.embedding(p["w"], ids, padding_id=2)),
            ({"w": draw(3, 5, 300)}, lambda p: F.embedding(p["w"], ids, padding_id=2)),  # wide rows are added otherwise
        ],
        "take_positions": [({"x": three}, lambda p: F.take_positions(p["x"], np.array([[0, -1, 0], [length - 1, 0, 0]])))],
        "attention": [
            ({"q": three, "k": context, "v": draw(7, *context.shape)},
             lambda p: F.attention(p["q"], p["k"], p["v"], bias, heads=heads)),
            ({"q": three, "k": context, "v": draw(7, *context.shape)},
             lambda p: F.attention(p["q"], p["k"], p["v"], heads=heads, rate=0.2, rng=mask())),
            ({"q": 60 * three, "k": 60 * context, "v": draw(7, *context.shape)},
             lambda p: F.attention(p["q"], p["k"], p["v"], heads=heads)),
            ({"q": three, "k": context, "v": draw(7, *context.shape), "b": draw(8, 2, heads, length, length + 1)},
             lambda p: F.attention(p["q"], p["k"], p["v"], p["b"] + bias, heads=heads, rate=0.2, rng=mask())),
        ],
        "cross_entropy": [({"z": 3 * draw(3, *leading, length, out)}, lambda p: F.cross_entropy(p["z"], labels))],
        "linear_cross_entropy": [
            ({"x": x, "w": draw(3, out, width), "b": draw(4, out)},
             lambda p: F.linear_cross_entropy(p["x"], p["w"], p["b"], labels)),
        ],
    }  # fmt: skip
    return many[name]


def test_every_kernel_has_a_case():
    for name in KERNELS:
        assert case(name, 0, np.float64, (2,), 3, 4, 2)


@pytest.mark.parametrize("name", KERNELS)
@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6), dtype=st.sampled_from([np.float32, np.float64]),
    leading=st.sampled_from([(), (1,), (3,), (2, 2), (0,)]), length=st.integers(1, 7), width=st.integers(1, 9),
    heads=st.integers(1, 3),
)  # fmt: skip
def test_kernel_equals_its_definition(name, seed, dtype, leading, length, width, heads):
    if name.endswith("norm"):
        width += 8  # the gradient of a norm over two or three numbers is mostly cancellation
    for params, function in case(name, seed, dtype, leading, length, width, heads):
        weights = np.asarray(numbers(9, *np.shape(function(params)), dtype=dtype))

        def loss(p):
            return np.sum(function(p) * weights)

        fast_value, fast = function(params), value_and_grad(loss)(params)[1]
        with kernels_disabled():
            value, gradients = function(params), value_and_grad(loss)(params)[1]
        assert fast_value.dtype == dtype
        scale = 1 + float(np.abs(value).max(initial=0))
        steep = name == "attention" and np.abs(params["q"]).max() > 60  # scores of 10,000: their rounding is seen
        np.testing.assert_allclose(fast_value, value, atol=TOLERANCE[dtype] * scale * (600 if steep else 1))
        for (key, a), b in zip(tree.items(fast), tree.leaves(gradients), strict=True):
            scale = 1 + float(np.abs(b).max(initial=0))
            assert a.dtype == dtype
            factor = 3000 if steep else 20 if name.endswith("norm") else 10 if name == "attention" else 4  # sums that cancel
            np.testing.assert_allclose(a, b, atol=factor * TOLERANCE[dtype] * scale, err_msg=f"{name}: {key}")


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_is_really_used(name, monkeypatch):
    function = getattr(F, name)
    calls = []
    real = function.kernel

    def counting(*args, **kwargs):
        result = real(*args, **kwargs)
        calls.append(result is not NotImplemented)
        return result

    monkeypatch.setattr(function, "kernel", counting)
    for params, call in case(name, 1, np.float32, (2,), 3, 4, 2):
        calls.clear()
        call(params)
        assert calls == [True]
        with kernels_disabled():
            call(params)
        assert len(calls) == 1


@pytest.mark.parametrize("width", [4, 300])
@pytest.mark.parametrize("padding_id", [None, 2])
def test_a_table_read_in_several_ways_gets_all_its_gradients(width, padding_id):
    """Rows read by number are added to what a product with the whole table gave, and to each other."""
    ids, others = np.array([[3, 0, 3, 2], [2, 2, 1, 4]]), np.array([4, 4, 1, -1, -4, -4])  # -1 is 4, -4 is 1
    weights = numbers(1, 2, 4, 5, dtype=np.float64)

    def loss(w):
        x = F.embedding(w, ids, padding_id) + np.sum(F.embedding(w, others), axis=0)
        return np.sum(F.linear(x, w) * weights)

    table = numbers(2, 5, width, dtype=np.float64)
    fast = value_and_grad(loss)(table)[1]
    with kernels_disabled():
        np.testing.assert_allclose(fast, value_and_grad(loss)(table)[1], rtol=1e-11, atol=1e-11)


def test_positions_are_taken_by_numbers_of_any_size():
    x = numbers(0, 2, 300, 4, dtype=np.float32)
    for at in (np.array([[5], [100]], np.int8), np.array([[250], [0]], np.uint8)):
        fast = F.take_positions(x, at)
        with kernels_disabled():
            np.testing.assert_array_equal(fast, F.take_positions(x, at))


@pytest.mark.parametrize("extreme", [0.0, 1e-30, 5.0, 40.0, 1e4, 1e10])
@pytest.mark.parametrize("function", [F.gelu, F.gelu_tanh])
def test_activations_are_finite_at_extremes(function, extreme):
    x = np.array([extreme, -extreme], np.float32)
    value, slope = function(x), value_and_grad(lambda x: np.sum(function(x)))(x)[1]
    assert np.isfinite(value).all() and np.isfinite(slope).all()
    if extreme > 10:
        np.testing.assert_allclose(value, [extreme, 0], rtol=1e-6)
        np.testing.assert_allclose(slope, [1, 0], atol=1e-6)


def test_gelu_float32_is_exact_to_a_millionth():
    x = np.linspace(-9, 9, 40_001)
    with kernels_disabled():
        exact, slope = F.gelu(x), value_and_grad(lambda x: np.sum(F.gelu(x)))(x)[1]
    single = x.astype(np.float32)
    assert np.abs(F.gelu(single) - exact).max() < 1.2e-6
    assert np.abs(value_and_grad(lambda x: np.sum(F.gelu(x)))(single)[1] - slope).max() < 1.2e-6


def test_gelu_is_fitted_as_well_as_it_says():
    """What is wrong without any rounding: the fit of the polynomial."""
    x = np.linspace(-15, 15, 60_001)
    y, d = np.empty_like(x), np.empty_like(x)
    fused._gelu_block(x, y, d, np.empty((2, len(x))))
    with kernels_disabled():
        exact, slope = F.gelu(x), value_and_grad(lambda x: np.sum(F.gelu(x)))(x)[1]
    assert np.abs(y - exact).max() < 6.5e-7
    assert np.abs(d - slope).max() < 6.5e-7


def test_softmax_of_extreme_scores_stays_finite():
    for scale in (1e3, 1e6):
        q = numbers(0, 1, 4, 8, dtype=np.float32, scale=scale)
        out = F.attention(q, q, q, heads=2)
        with kernels_disabled():
            np.testing.assert_allclose(out, F.attention(q, q, q, heads=2), rtol=1e-4)
    rows = np.array([[[1.0], [9.0]]], np.float32)  # rows of scores far apart: 30 for one, -120 and below for the other
    keys = np.array([[[-13.0], [-14.0]]], np.float32)
    for query, key in ((rows, keys), (-rows, -keys), (np.array([[[-3.0], [10.0]]], np.float32), 1 - keys)):
        out = F.attention(query, key, key)
        with kernels_disabled():
            np.testing.assert_allclose(out, F.attention(query, key, key), rtol=1e-5)
    far = np.full((1, 3, 4), -50.0, np.float32)  # every score far below zero: nothing may underflow to 0 / 0
    assert np.isfinite(F.attention(-far, far, far)).all()


def test_second_derivatives_use_the_definitions():
    x = numbers(0, 5, dtype=np.float64)
    slope = value_and_grad(lambda x: np.sum(F.gelu(x)))
    curvature = value_and_grad(lambda x: np.sum(slope(x)[1]))(x)[1]
    step = 1e-5
    numeric = (slope(x + step)[1] - slope(x - step)[1]) / (2 * step)
    np.testing.assert_allclose(curvature, numeric, atol=1e-8)


def test_workspace_reuses_memory_only_when_nothing_refers_to_it():
    def job():
        workspace.release()
        first = workspace.empty((300, 300), np.float32)
        assert first.ctypes.data % 64 == 0, "a load of a vector register is not to cross a line of the cache"
        place = first.ctypes.data
        second = workspace.empty((300, 300), np.float32)
        assert second.ctypes.data != place
        view = first[3:]
        del first
        assert workspace.empty((300, 300), np.float32).ctypes.data != place, "a view keeps its memory"
        del view
        assert workspace.empty((90_000,), np.float32).ctypes.data == place
        done.append(True)

    done = []
    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert done


def test_results_keep_their_values_while_later_steps_run():
    params = {"w": numbers(0, 256, 256, dtype=np.float32), "b": numbers(1, 256, dtype=np.float32)}
    x = numbers(2, 512, 256, dtype=np.float32)

    def loss(p, x):
        return np.sum(F.gelu(F.linear(x, p["w"], p["b"])))

    _, kept = value_and_grad(loss)(params, x)
    hidden = F.linear(x, params["w"], params["b"])
    copies = {name: g.copy() for name, g in kept.items()}, hidden.copy()
    for i in range(5):
        value_and_grad(loss)(params, x + i)
        F.gelu(F.linear(x + i, params["w"], params["b"]))
        gc.collect()
    assert all(np.array_equal(kept[name], copies[0][name]) for name in kept)
    assert np.array_equal(hidden, copies[1])


_f32 = lambda *shape: numbers(shape, *shape, dtype=np.float32)  # noqa: E731
_BROADCAST = [  # what a definition broadcasts and a kernel is not written for
    *[(lambda x, w, b: F.linear(x, w, b), (shape, (3, 4), bias))
      for shape in ((2, 4), (2, 3, 4), (0, 4), (2, 0)) for bias in ((1,), (), (2, 1, 3)) if shape[-1] == 4],
    (lambda x, w, b: F.linear(x, w, b), ((2, 0), (3, 0), (3,))),
    *[(lambda x, w, b: F.layer_norm(x, w, b, 1e-5), ((2, 3, 4), w, b))
      for w, b in (((1,), (1,)), ((), ()), ((4,), (1,)), ((3, 4), (3, 4)), ((2, 1, 4), (4,)))],
    *[(lambda x, w: F.rms_norm(x, w), ((2, 3, 4), w)) for w in ((1,), (), (3, 4))],
    *[(lambda x, w, b: F.add_layer_norm(x, 2 * x, w, b, 1e-5), ((2, 3, 4), w, w)) for w in ((1,), (), (3, 4))],
    (lambda x, w: F.layer_norm(x, w, w), ((2, 1), (4,))),
    (lambda x, w, b: F.linear_cross_entropy(x, w, b, np.array([0, 1])), ((2, 5), (3, 5), (1,))),
    (lambda q, k: F.attention(q, k, 2 * k, heads=2), ((1, 3, 4), (2, 5, 4))),
    (lambda q, k: F.attention(q, k, 2 * k, heads=2), ((2, 3, 4), (1, 5, 4))),
    (lambda q, k, v: F.attention(q, k, v, heads=2), ((2, 3, 4), (2, 5, 4), (2, 5, 6))),
]  # fmt: skip


@pytest.mark.parametrize(("code", "shapes"), _BROADCAST, ids=range(len(_BROADCAST)))
def test_shapes_that_definitions_broadcast_are_the_same_with_and_without_kernels(code, shapes):
    """Some kernels took them and were wrong: attention of one text's queries dropped all keys but the first text's."""
    arrays = [np.asarray(_f32(*shape)) for shape in shapes]
    loss = lambda arrays: np.sum(code(*arrays) ** 2)  # noqa: E731
    value, found = value_and_grad(loss)(arrays)
    with kernels_disabled():
        expected, right = value_and_grad(loss)(arrays)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for one, other in zip(found, right, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("labels", [np.array([True, True, False]), [1, 1, 0], (1, 1, 0), np.array([1, 1, 0], np.uint8)], ids=str)
def test_labels_of_other_types_are_read_as_integers(labels, fast):
    """Booleans as an index are a mask, and a list is no array of which to count what is ignored."""
    x, w, b = _f32(3, 4), _f32(3, 4), _f32(3)
    losses = lambda labels: (F.cross_entropy(x[:, :3], labels), F.linear_cross_entropy(x, w, b, labels))  # noqa: E731
    expected = losses(np.array([1, 1, 0]))
    with contextlib.nullcontext() if fast else kernels_disabled():
        np.testing.assert_allclose(losses(labels), expected, rtol=1e-6)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 2, 0], [[0], [1], [2]], [[0, 1, 2]], [1], 1, [-100, 1]], ids=str)
def test_labels_of_another_shape_are_refused(labels, fast):
    """Fewer were read as those of the first rows, one as that of all rows."""
    x, w, b, labels = _f32(3, 4), _f32(3, 4), _f32(3), np.array(labels)
    with contextlib.nullcontext() if fast else kernels_disabled():
        with pytest.raises(ValueError, match=r"got labels of shape .* for logits of shape \(3, 3\), expected \(3,\): one a row"):
            F.cross_entropy(x[:, :3], labels)
        with pytest.raises(ValueError, match="got labels of shape"):
            F.linear_cross_entropy(x, w, b, labels)
        with pytest.raises(TypeError, match=r"labels are integers, got float64: convert them with .astype\(int\)"):
            F.cross_entropy(x[:, :3], np.array([0.0, 1.0, 2.0]))
    with pytest.raises(ValueError, match=r"targets of shape \(3,\) for logits of shape \(3, 1\)"):
        F.binary_cross_entropy(x[:, :1], np.array([0, 1, 1]))


@pytest.mark.parametrize("fast", [True, False])
def test_booleans_that_look_up_a_table_are_a_mask_as_in_numpy(fast):
    table, ids = _f32(3, 4), np.array([True, False, True])
    with contextlib.nullcontext() if fast else kernels_disabled():
        value, found = value_and_grad(lambda w: np.sum(F.embedding(w, ids) ** 2))(table)
    np.testing.assert_allclose(found, 2 * table * ids[:, None], rtol=1e-6)
    np.testing.assert_allclose(value, np.sum(table[ids] ** 2), rtol=1e-6)


@pytest.mark.parametrize("label", [-1, 3, 99])
def test_labels_that_are_no_class_are_refused_with_and_without_kernels(label):
    x, labels = numbers(0, 2, 4, dtype=np.float32), np.array([1, label])
    with pytest.raises(ValueError, match=f"got the label {label}, expected 0 to 2"):
        F.cross_entropy(x[:, :3], labels)
    with pytest.raises(ValueError, match=f"got the label {label}"):
        F.linear_cross_entropy(x, np.ones((3, 4), np.float32), np.zeros(3, np.float32), labels)
    with kernels_disabled(), pytest.raises(ValueError, match=f"got the label {label}"):
        F.cross_entropy(x[:, :3], labels)


def test_ids_of_one_byte_reach_the_last_row_of_a_table():
    def loss(weight):
        return np.sum(F.embedding(weight, np.array([1, 255], np.uint8)) * np.float32(2))

    for rows in (256, 300):
        found = value_and_grad(loss)(np.ones((rows, 4), np.float32))[1]
        assert found[[1, 255]].sum() == found.sum() == 16
