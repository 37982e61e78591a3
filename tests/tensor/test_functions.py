"""The functions of a transformer against torch.nn.functional: value, gradient, second order, extreme inputs."""

import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from bertcraft.tensor import functions as F
from bertcraft.tensor import value_and_grad
from bertcraft.tensor.check import check_grads
from bertcraft.tensor.kernels import kernels_disabled

from .compare import against_torch, close, gradients, laid_out, layouts, quick

IDS = np.array([[3, 0, 3, 1], [2, 2, 0, 4]])
LABELS = np.array([[1, -100, 0, 4], [-100, 2, 2, 3]])
MASK = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
BIAS = F.padding_bias(MASK, np.float64) / 1e300  # as strong as need be, without rounding scores to nothing
_T = torch.from_numpy
_F32 = lambda array, like: array.astype(like.dtype)  # noqa: E731


def _torch_attention(q, k, v, bias, heads):
    split = lambda x: x.unflatten(-1, (heads, -1)).transpose(1, 2)  # noqa: E731
    bias = None if bias is None else bias.to(q.dtype)
    return TF.scaled_dot_product_attention(split(q), split(k), split(v), bias).transpose(1, 2).flatten(2)


def _torch_probabilities(q, k, bias, heads):
    split = lambda x: x.unflatten(-1, (heads, -1)).transpose(1, 2)  # noqa: E731
    scores = split(q) @ split(k).mT / (q.shape[-1] // heads) ** 0.5
    return TF.softmax(scores if bias is None else scores + bias, -1)


def _mean_pool(x):
    mask = _T(MASK)[..., None].to(x.dtype)
    return (x * mask).sum(1) / mask.sum(1)


# function -> calls: (NumPy code, torch code, shapes of the arguments)
CASES = {
    F.erf: [(F.erf, torch.erf, (2, 3, 4))],
    F.gelu: [(F.gelu, TF.gelu, (2, 3, 4))],
    F.gelu_tanh: [(F.gelu_tanh, lambda x: TF.gelu(x, approximate="tanh"), (2, 3, 4))],
    F.relu: [(F.relu, TF.relu, (2, 3, 4))],
    F.sigmoid: [(F.sigmoid, torch.sigmoid, (2, 3, 4))],
    F.silu: [(F.silu, TF.silu, (2, 3, 4))],
    F.softplus: [(F.softplus, TF.softplus, (2, 3, 4))],
    F.logsumexp: [
        (F.logsumexp, lambda x: torch.logsumexp(x, -1), (2, 3, 4)),
        (lambda x: F.logsumexp(x, 0, keepdims=True), lambda x: torch.logsumexp(x, 0, keepdim=True), (2, 3)),
    ],
    F.softmax: [
        (F.softmax, lambda x: TF.softmax(x, -1), (2, 3, 4)),
        (lambda x: F.softmax(x, axis=1), lambda x: TF.softmax(x, 1), (2, 3, 4)),
    ],
    F.log_softmax: [
        (F.log_softmax, lambda x: TF.log_softmax(x, -1), (2, 3, 4)),
        (lambda x: F.log_softmax(x, axis=0), lambda x: TF.log_softmax(x, 0), (2, 3, 4)),
    ],
    F.layer_norm: [
        (F.layer_norm, lambda x, w, b: TF.layer_norm(x, (5,), w, b, 1e-12), shape, (5,), (5,))
        for shape in ((2, 3, 5), (4, 5), (5,))
    ],
    F.rms_norm: [
        *[(F.rms_norm, lambda x, w: TF.rms_norm(x, (5,), w), shape, (5,)) for shape in ((2, 3, 5), (4, 5), (5,))],
        (lambda x, w: F.rms_norm(x, w, 1e-3), lambda x, w: TF.rms_norm(x, (5,), w, 1e-3), (2, 3, 5), (5,)),
    ],
    F.normalize: [
        (F.normalize, lambda x: TF.normalize(x, dim=-1), (3, 4)),
        (lambda x: F.normalize(x, axis=0), lambda x: TF.normalize(x, dim=0), (3, 4)),
    ],
    F.linear: [
        *[(F.linear, TF.linear, shape, (5, 4), (5,)) for shape in ((2, 3, 4), (3, 4), (4,))],
        (F.linear, TF.linear, (2, 4), (5, 4)),
        (lambda x, w: F.linear(x, w, bias=None), TF.linear, (2, 4), (5, 4)),
    ],
    F.embedding: [(lambda w: F.embedding(w, IDS), lambda w: TF.embedding(_T(IDS), w), (5, 3))],
    F.take_positions: [(lambda x: F.take_positions(x, IDS), lambda x: torch.stack([x[0, IDS[0]], x[1, IDS[1]]]), (2, 5, 3))],
    F.add_layer_norm: [
        (F.add_layer_norm, lambda x, y, w, b: TF.layer_norm(x + y, (5,), w, b, 1e-12), (2, 3, 5), shape, (5,), (5,))
        for shape in ((2, 3, 5), (3, 5))
    ],
    F.split_heads: [(lambda x: F.split_heads(x, 2), lambda x: x.unflatten(-1, (2, -1)).transpose(1, 2), (2, 3, 6))],
    F.merge_heads: [(F.merge_heads, lambda x: x.transpose(1, 2).flatten(2), (2, 2, 3, 4))],
    F.attention_probabilities: [
        (lambda q, k: F.attention_probabilities(q, k, heads=2), lambda q, k: _torch_probabilities(q, k, None, 2),
         (2, 3, 6), (2, 4, 6)),
        (lambda q, k, bias: F.attention_probabilities(q, k, bias, 3),
         lambda q, k, bias: _torch_probabilities(q, k, bias, 3), (2, 4, 6), (2, 4, 6), (2, 1, 4, 4)),
    ],
    F.attention: [
        (lambda q, k, v: F.attention(q, k, v, heads=2), lambda q, k, v: _torch_attention(q, k, v, None, 2),
         (2, 3, 6), (2, 4, 6), (2, 4, 6)),
        (lambda q, k, v: F.attention(q, k, v, _F32(BIAS, q), heads=3),
         lambda q, k, v: _torch_attention(q, k, v, _T(BIAS), 3), (2, 4, 6), (2, 4, 6), (2, 4, 6)),
        (lambda q, k, v, bias: F.attention(q, k, v, bias, heads=2),
         lambda q, k, v, bias: _torch_attention(q, k, v, bias, 2), (2, 4, 6), (2, 4, 6), (2, 4, 6), (2, 2, 4, 4)),
        (lambda x: F.attention(x, x, x, heads=2), lambda x: _torch_attention(x, x, x, None, 2), (2, 3, 6)),
    ],
    F.mean_pool: [(lambda x: F.mean_pool(x, MASK), _mean_pool, (2, 4, 3))],
    F.cross_entropy: [
        (lambda z: F.cross_entropy(z, LABELS), lambda z: TF.cross_entropy(z.mT, _T(LABELS)), (2, 4, 5)),
        (lambda z: F.cross_entropy(z, LABELS[0]), lambda z: TF.cross_entropy(z, _T(LABELS[0])), (4, 5)),
        (lambda z: F.cross_entropy(z, np.array(2)), lambda z: TF.cross_entropy(z, torch.tensor(2)), (5,)),
    ],
    F.linear_cross_entropy: [
        (lambda x, w, b: F.linear_cross_entropy(x, w, b, LABELS),
         lambda x, w, b: TF.cross_entropy(TF.linear(x, w, b).mT, _T(LABELS)), (2, 4, 3), (5, 3), (5,)),
    ],
    F.binary_cross_entropy: [
        (lambda z: F.binary_cross_entropy(z, MASK),
         lambda z: TF.binary_cross_entropy_with_logits(z, _T(MASK).to(z.dtype)), (2, 4)),
        (lambda z: F.binary_cross_entropy(z, LABELS > 1, MASK > 0),
         lambda z: TF.binary_cross_entropy_with_logits(z[_T(MASK > 0)], _T((LABELS > 1)[MASK > 0]).to(z.dtype)), (2, 4)),
    ],
    F.mean_squared_error: [(F.mean_squared_error, TF.mse_loss, (2, 3), (2, 3))],
}  # fmt: skip
ELSEWHERE = {F.dropout, F.keep_mask, F.padding_bias, F.check_labels}  # tests of their own, here or in test_fused.py
CALLS = [(f"{f.__name__}-{i}", *call) for f, calls in CASES.items() for i, call in enumerate(calls)]
every_call = pytest.mark.parametrize(
    ("code", "reference", "shapes"), [(c, r, s) for _, c, r, *s in CALLS], ids=[call[0] for call in CALLS]
)
ACTIVATIONS = [F.erf, F.gelu, F.gelu_tanh, F.relu, F.sigmoid, F.silu, F.softplus]


def numbers(shapes, dtype=np.float64):
    rng = np.random.default_rng(5)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.fixture(params=["kernels", "definitions"])
def kernels(request):
    """With the fast kernels, and with the definitions in their place."""
    if request.param == "kernels":
        yield
    else:
        with kernels_disabled():
            yield


def test_every_function_has_a_case():
    public = {
        f for name, f in inspect.getmembers(F, inspect.isfunction)
        if f.__module__ == F.__name__ and not name.startswith("_")
    }  # fmt: skip
    assert public == CASES.keys() | ELSEWHERE


@every_call
def test_float64_equals_torch(code, reference, shapes, kernels):
    against_torch(code, reference, *numbers(shapes))


@every_call
def test_float32_equals_torch_and_stays(code, reference, shapes, kernels):
    arrays = numbers(shapes, np.float32)
    against_torch(code, reference, *arrays, tolerance=1e-5)
    value, grads, _ = gradients(code, *arrays)
    assert value.dtype == np.float32 and all(g.dtype == np.float32 for g in grads)


@every_call
def test_second_order(code, reference, shapes):
    check_grads(code, *numbers(shapes))


@pytest.mark.parametrize("function", ACTIVATIONS, ids=lambda f: f.__name__)
@quick
@given(shape=array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4), layout=layouts, seed=st.integers(0, 9))
def test_activations_of_any_shape(function, shape, layout, seed):
    x = laid_out(np.asarray(np.random.default_rng(seed).uniform(-8, 8, shape)), layout)
    against_torch(function, CASES[function][0][1], x)
    check_grads(function, x)


@quick
@given(
    shape=array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5),
    layout=layouts,
    scale=st.sampled_from([1e-3, 1, 30]),
    axis=st.integers(-1, 0),
)
def test_softmax_and_norms_of_any_shape(shape, layout, scale, axis):
    x = laid_out(np.random.default_rng(3).standard_normal(shape) * scale, layout)
    against_torch(lambda x: F.softmax(x, axis), lambda x: TF.softmax(x, axis), x)
    against_torch(lambda x: F.log_softmax(x, axis), lambda x: TF.log_softmax(x, axis), x)
    against_torch(lambda x: F.logsumexp(x, axis), lambda x: torch.logsumexp(x, axis), x)
    w, b = np.linspace(0.5, 2, shape[-1]), np.linspace(-1, 1, shape[-1])
    if shape[-1] > 1:
        against_torch(lambda *a: F.layer_norm(*a, eps=1e-5), lambda x, w, b: TF.layer_norm(x, w.shape, w, b), x, w, b)
        against_torch(F.rms_norm, lambda x, w: TF.rms_norm(x, w.shape, w), x, w)


# ------------------------------------------------------------------------------------------------ exact or extreme


def test_erf_equals_math_erf():
    x = np.concatenate([np.linspace(-7, 7, 20001), [0.46875, np.nextafter(0.46875, 1), 1e-300, 1e-8, np.inf, -np.inf]])
    expected = np.array([math.erf(v) for v in x])
    np.testing.assert_allclose(F.erf(x), expected, rtol=1e-15, atol=0)
    assert np.isnan(F.erf(np.array(np.nan))) and math.copysign(1, F.erf(np.array(-0.0))) == -1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("function", [*ACTIVATIONS, F.softmax, F.log_softmax, F.logsumexp], ids=lambda f: f.__name__)
def test_extreme_inputs_neither_overflow_nor_lose_the_gradient(function, dtype, kernels):
    x = np.array([[1e4, -1e4, 0.0], [1e4, 1e4 - 1, 1e4 + 1], [-1e4, -1e4, -1e4], [100, 0, -100]], dtype)
    exact = lambda x: CASES[function][0][1](x.double()).to(x.dtype)  # noqa: E731 - torch's own float32 is not
    against_torch(function, exact, x, tolerance=1e-10 if dtype == np.float64 else 1e-5)


@pytest.mark.filterwarnings("error")
def test_logsumexp_of_infinities():
    inf = np.inf
    x = np.array([[-inf, -inf], [inf, 0], [inf, inf], [inf, -inf], [-inf, 3], [1000, 1000]])
    np.testing.assert_allclose(F.logsumexp(x), [-inf, inf, inf, inf, 3, 1000 + math.log(2)], rtol=1e-15)
    np.testing.assert_array_equal(F.logsumexp(x.T.astype(np.float32), axis=0, keepdims=True)[0, :4], [-inf, inf, inf, inf])
    assert np.isnan(F.logsumexp(np.array([np.nan, inf])))
    against_torch(F.logsumexp, lambda x: torch.logsumexp(x, -1), x[4:])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_and_its_slope_are_exact_in_the_tails(dtype):
    x = np.array([-700, -80, -40, -17, -1, 0, 1, 17, 40, 80, 700], dtype)[1 if dtype == np.float32 else 0 :]
    e = np.exp(-np.abs(x.astype(np.longdouble)))
    value, slope = np.where(x < 0, e, 1) / (1 + e), e / (1 + e) ** 2
    few = {"rtol": 8 * np.finfo(dtype).eps, "atol": np.finfo(dtype).tiny}
    np.testing.assert_allclose(F.sigmoid(x), value.astype(dtype), **few)
    with np.errstate(under="ignore"):
        gradient = value_and_grad(lambda x: np.sum(F.sigmoid(x)))(x)[1]
    np.testing.assert_allclose(gradient, slope.astype(dtype), **few)
    infinite = np.array([-np.inf, np.inf, np.nan])
    np.testing.assert_array_equal(F.sigmoid(infinite), [0, 1, np.nan])
    np.testing.assert_array_equal(value_and_grad(lambda x: np.sum(F.softplus(x)))(infinite[:2])[1], [0, 1])


def test_losses_of_more_float16_labels_than_float16_counts():
    labels = np.arange(70_000) % 2
    logits = np.where(labels[:, None] == [0, 1], 0, 4).astype(np.float16)  # wrong by 4: the sum is 281,000 nats
    value, found = value_and_grad(lambda x: 1024 * F.cross_entropy(x, labels))(logits)
    expected, right = value_and_grad(lambda x: 1024 * F.cross_entropy(x, labels))(logits.astype(np.float64))
    np.testing.assert_allclose([value, *found[0]], [expected, *right[0]], rtol=4e-3)
    assert value.dtype == found.dtype == np.float16
    binary = lambda x: F.binary_cross_entropy(x, labels, np.ones(70_000, bool))  # noqa: E731
    np.testing.assert_allclose(binary(logits[:, 0]), binary(logits[:, 0].astype(np.float64)), rtol=4e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_of_extreme_logits(dtype, kernels):
    z = np.array([[1e4, -1e4, 0.0], [1e4, 1e4 - 1, 1e4 + 1], [-1e4, -1e4, -1e4]], dtype)
    tolerance = 1e-10 if dtype == np.float64 else 1e-5
    for labels in ([0, 0, 2], [1, 1, 1]):
        labels = np.array(labels)
        against_torch(lambda z, y=labels: F.cross_entropy(z, y), lambda z, y=labels: TF.cross_entropy(z, _T(y)), z,
                      tolerance=tolerance)  # fmt: skip
    targets = np.eye(3, dtype=dtype)
    against_torch(lambda z: F.binary_cross_entropy(z, targets),
                  lambda z: TF.binary_cross_entropy_with_logits(z, _T(targets)), z, tolerance=tolerance)  # fmt: skip


def test_kinks_are_as_in_torch():
    x = np.array([-1.0, -0.0, 0.0, 1.0])
    against_torch(F.relu, TF.relu, x)
    check_grads(F.softplus, x)  # smooth at 0, to second order
    against_torch(F.normalize, lambda x: TF.normalize(x, dim=-1), np.array([[3.0, 4.0], [1e-5, 0.0]]))
    against_torch(F.relu, TF.relu, np.array([np.nan, np.inf, -np.inf]))


def test_cross_entropy_with_every_label_ignored_is_zero(kernels):
    ignored = np.full((2, 4), F.IGNORED)
    x, w, b = numbers([(2, 4, 3), (5, 3), (5,)])
    for code, arrays in (
        (lambda z: F.cross_entropy(z, ignored), [x]),
        (lambda x, w, b: F.linear_cross_entropy(x, w, b, ignored), [x, w, b]),
        (lambda z: F.binary_cross_entropy(z, np.ones((2, 4, 3)), np.zeros((2, 4, 3), bool)), [x]),
    ):
        value, grads = value_and_grad(lambda xs, f=code: f(*xs))(arrays)
        assert value == 0 and not any(g.any() for g in grads)


def test_cross_entropy_is_the_mean_over_counted_positions(kernels):
    z = numbers([(2, 4, 5)])[0]
    each = [-F.log_softmax(z)[i, j, LABELS[i, j]] for i, j in np.argwhere(LABELS != F.IGNORED)]
    close(F.cross_entropy(z, LABELS), np.mean(each), 1e-14)


def test_losses_refuse_what_would_be_spread():
    z = numbers([(2, 3)])[0]
    for mask in (np.ones((2, 1)), np.ones(3)):  # counted once, their losses often
        with pytest.raises(ValueError, match="got a mask of shape .* for logits of shape .2, 3., expected one shape"):
            F.binary_cross_entropy(z, z > 0, mask)
    with pytest.raises(ValueError, match="got a target of shape .2, 1. for a prediction of shape .2,., expected one shape"):
        F.mean_squared_error(z[:, 0], z[:, :1])
    assert F.mean_squared_error(z.astype(np.float32), z).dtype == np.float32


@pytest.mark.parametrize("label", [-1, np.int64(3), 3])
def test_a_single_label_outside_the_classes_is_refused(label):
    with pytest.raises(ValueError, match=f"got the label {label}, expected 0 to 2"):
        F.cross_entropy(np.array([0.0, 1.0, 5.0]), label)
    assert F.cross_entropy(np.array([0.0, 1.0, 5.0]), 2) == pytest.approx(-F.log_softmax(np.array([0.0, 1.0, 5.0]))[2])


# ---------------------------------------------------------------------------------------- masks, padding, dropout


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_padding_receives_no_attention(dtype, kernels):
    bias = F.padding_bias(MASK, dtype)
    assert bias.shape == (2, 1, 1, 4) and bias.dtype == dtype and np.isfinite(bias).all()
    q, k, v = numbers([(2, 4, 6)] * 3, dtype)
    out = F.attention(q, k, v, bias, heads=2)
    _, (dk, dv) = value_and_grad(lambda kv: np.sum(np.square(F.attention(q, *kv, bias, heads=2))))([k, v])
    assert not dk[MASK == 0].any() and not dv[MASK == 0].any() and dv[MASK == 1].all()
    k[MASK == 0], v[MASK == 0] = 1e3, -1e3
    np.testing.assert_array_equal(F.attention(q, k, v, bias, heads=2), out)


def test_mean_pool_of_nothing_is_zero():
    close(F.mean_pool(np.ones((1, 3, 2)), np.zeros((1, 3), int)), np.zeros((1, 2)), 0)


@pytest.mark.parametrize("generator", [np.random.SFC64, np.random.PCG64, np.random.Philox, np.random.MT19937])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.85])
def test_dropout_keeps_each_element_with_its_probability(rate, generator):
    from scipy.stats import binomtest

    rng, n = np.random.Generator(generator(11)), 200_001
    kept = F.keep_mask((n,), rate, rng)
    assert kept.dtype == bool and binomtest(int(kept.sum()), n, 1 - rate).pvalue > 1e-4
    # neighbours are independent: as many pairs are kept as chance has it
    assert binomtest(int((kept[1::2] & kept[:-1:2]).sum()), n // 2, (1 - rate) ** 2).pvalue > 1e-4


def test_dropout_keeps_the_mean_and_gives_the_gradient_its_mask():
    x = np.random.default_rng(0).random((400, 300)).astype(np.float32) + 1
    (value, out), found = value_and_grad(lambda x: ((y := F.dropout(x, 0.3, np.random.default_rng(4))).sum(), y), has_aux=True)(x)
    assert out.dtype == found.dtype == np.float32
    kept = out != 0
    np.testing.assert_allclose(out[kept], x[kept] / 0.7, rtol=1e-6)
    np.testing.assert_allclose(found, kept / 0.7, rtol=1e-6)
    error = np.sqrt(np.mean(np.square(x)) * (1 / 0.7 - 1) / x.size)
    assert abs(out.mean() - x.mean()) < 4 * error


def test_dropout_is_off_without_rate_or_generator_and_refuses_others():
    x = np.ones(3)
    assert F.dropout(x, 0.5, None) is x and F.dropout(x, 0.0, np.random.default_rng()) is x
    for rate in (1.0, -0.1, 2):
        with pytest.raises(ValueError, match="a dropout rate is at least 0 and less than 1"):
            F.dropout(x, rate, np.random.default_rng())


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5])
def test_a_mask_of_any_size(size):
    assert F.keep_mask((2, size), 0.5, np.random.default_rng(0)).shape == (2, size)


def test_dropout_within_attention_and_add_layer_norm_is_right_to_second_order():
    rng = lambda: np.random.default_rng(8)  # noqa: E731
    check_grads(lambda q, k, v: F.attention(q, k, v, heads=2, rate=0.4, rng=rng()), *numbers([(2, 3, 4)] * 3))
    check_grads(lambda *a: F.add_layer_norm(*a, rate=0.4, rng=rng()), *numbers([(2, 3, 4), (2, 3, 4), (4,), (4,)]))


def test_means_and_gelu_of_float16_are_computed_with_float32():
    one = np.ones((1, 4096), int)
    assert F.mean_pool(np.full((1, 4096, 2), 100, np.float16), one).tolist() == [[100, 100]]
    np.testing.assert_allclose(F.gelu(np.float16([-4, -3])), [-1.267e-4, -4.05e-3], rtol=2e-3)
