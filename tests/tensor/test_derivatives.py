"""Every entry of the table of derivatives against torch and against finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from bertcraft.tensor import Tensor, grad, gradient, value_and_grad
from bertcraft.tensor import functions as F
from bertcraft.tensor.check import check_grads
from bertcraft.tensor.tensor import _METHODS, COMPOSED, CONSTANT, DERIVATIVES

from .cases import ELEMENTWISE, NEVER_TWICE, OTHERS, calls, draw
from .compare import LAYOUTS, against_torch, close, laid_out, layouts, quick

CALLS = list(calls())
name = lambda f: getattr(f, "__name__", "")  # noqa: E731
elementwise = pytest.mark.parametrize("function", ELEMENTWISE, ids=name)
binary = pytest.mark.parametrize("function", [f for f, case in ELEMENTWISE.items() if len(case) == 3], ids=name)
every_call = pytest.mark.parametrize(
    ("code", "reference", "arrays"), [call[1:] for call in CALLS], ids=[call[0] for call in CALLS]
)


def test_every_function_with_a_derivative_has_a_case():
    known = ELEMENTWISE.keys() | OTHERS.keys()
    here = [f for f in DERIVATIVES.keys() | COMPOSED.keys() if "techniques" not in getattr(f, "__module__", "")]
    assert {name(f) for f in here} == {name(f) for f in known}, "those of a technique have theirs in its tests"


@elementwise
@quick
@given(data=st.data())
def test_elementwise_value_gradient_and_second_order(function, data):
    reference, *domains = ELEMENTWISE[function]
    shapes = data.draw(mutually_broadcastable_shapes(num_shapes=len(domains), min_side=0, max_side=3, max_dims=3))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    arrays = draw(function, shapes.input_shapes, rng)
    arrays = [laid_out(a, data.draw(layouts)) for a in arrays]
    call = function if isinstance(function, np.ufunc) else lambda *xs: _call(function, *xs)
    against_torch(call, reference, *arrays)
    check_grads(call, *arrays)


def _call(function, *xs):
    """Our own operations are reached through apply, as NumPy's are through its protocol."""
    from bertcraft.tensor.tensor import apply

    return function(*xs) if getattr(np, name(function), None) is function else apply(function, *xs)


@every_call
@pytest.mark.parametrize("layout", LAYOUTS)
def test_calls_equal_torch_in_every_layout(code, reference, arrays, layout):
    against_torch(code, reference, *[laid_out(a, layout) for a in arrays])


@every_call
def test_calls_are_right_to_second_order(code, reference, arrays):
    check_grads(code, *arrays)


@binary
def test_the_same_array_twice(function):
    if function in NEVER_TWICE:
        return
    reference, *domains = ELEMENTWISE[function]
    x = draw(function, [(3, 4)] * 2, np.random.default_rng(0))[0]
    against_torch(lambda x: function(x, x), lambda x: reference(x, x), x)


@binary
@pytest.mark.parametrize("number", [2, 2.5, np.float64(2.5), np.array(2.5)], ids=["int", "float", "scalar", "0-d"])
def test_a_number_on_either_side(function, number):
    reference, *_ = ELEMENTWISE[function]
    x, y = draw(function, [(3, 4)] * 2, np.random.default_rng(1))
    constant = torch.tensor(float(number), dtype=torch.float64)
    against_torch(lambda x: function(x, number), lambda x: reference(x, constant), x)
    against_torch(lambda y: function(number, y), lambda y: reference(constant, y), y)


@pytest.mark.parametrize(
    "code",
    [lambda x: 2 - x, lambda x: 1 / x, lambda x: 2**x, lambda x: x**2, lambda x: x**0, lambda x: -x + 3,
     lambda x: x % 2, lambda x: abs(x), lambda x: +x, lambda x: x**-1.5, lambda x: x**x],
    ids=range(11),
)  # fmt: skip
def test_operators_with_numbers(code):
    x = np.array([[0.7, 1.3], [2.2, 3.1]])
    against_torch(code, code, x)
    check_grads(code, x)


_METHOD_ARGUMENTS = {"clip": (0, 1), "dot": (np.ones((4, 2)),), "repeat": (2, 1), "swapaxes": (0, 1), "take": ([1, 0], 1)}


@pytest.mark.parametrize("method", [*_METHODS, "flatten"])
def test_methods_are_those_of_arrays(method):
    x = np.random.default_rng(3).standard_normal((3, 4))
    arguments, found = _METHOD_ARGUMENTS.get(method, ()), []
    value_and_grad(lambda x: found.append(getattr(x, method)(*arguments)) or np.sum(x))(x)
    result = found[0].value if type(found[0]) is Tensor else found[0]
    np.testing.assert_allclose(result, getattr(x, method)(*arguments), rtol=1e-14)


def test_operators_with_plain_arrays_on_either_side():
    a, x = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.7, 1.3], [2.2, 3.1]])
    for code in (
        lambda c, x: c - x,
        lambda c, x: c / x,
        lambda c, x: c**x,
        lambda c, x: c @ x,
        lambda c, x: x @ c,
    ):
        against_torch(lambda x, f=code: f(a, x), lambda x, f=code: f(torch.from_numpy(a), x), x)


# ------------------------------------------------------------------------------------------- float32 stays float32


@pytest.fixture
def no_promotion(monkeypatch):
    """Gradients are cast to their parameter's dtype at the end: assert that nothing is left to cast."""
    finish = gradient._finish

    def checked(g, value, record):
        assert g is None or g.dtype == value.dtype, f"the gradient became {g.dtype}"
        return finish(g, value, record)

    monkeypatch.setattr(gradient, "_finish", checked)


@elementwise
def test_elementwise_keeps_float32(function, no_promotion):
    reference, *domains = ELEMENTWISE[function]
    for shape in ((3, 4), ()):
        arrays = draw(function, [shape] * len(domains), np.random.default_rng(2))
        arrays = [a.astype(np.float32) for a in arrays]
        call = lambda *xs: _call(function, *xs)  # noqa: E731
        against_torch(call, reference, *arrays, tolerance=2e-5)


@binary
@pytest.mark.parametrize("number", [2, 2.5, np.float32(2.5)], ids=["int", "float", "float32"])
def test_a_number_does_not_promote_float32(function, number, no_promotion):
    for call in (lambda x: function(x, number), lambda x: function(number, x)):
        x = draw(function, [(3, 4)] * 2, np.random.default_rng(1))[0].astype(np.float32)
        if np.isnan(call(x)).any():
            continue
        value, grad = value_and_grad(lambda x, f=call: np.sum(f(x)))(x)
        assert value.dtype == grad.dtype == np.float32


@every_call
def test_calls_keep_float32(code, reference, arrays, no_promotion):
    if "float64" in code.__code__.co_names:
        return
    value, grads = value_and_grad(lambda xs: np.sum(np.square(code(*xs)) * 0.5))([a.astype(np.float32) for a in arrays])
    assert value.dtype == np.float32
    assert all(g.dtype == np.float32 for g in grads)


# --------------------------------------------------------------------------------------- kinks, ties, exact zeros

GRID = np.array([[-1.0, 0.0, 1.0, 0.0], [1.0, 1.0, -1.0, -1.0], [0.0, -0.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("code", "reference"),
    [
        (np.absolute, torch.abs),
        (lambda x: np.maximum(x, GRID[::-1]), lambda x: torch.maximum(x, torch.tensor(GRID[::-1].copy()))),
        (lambda x: np.minimum(x, 0), lambda x: torch.minimum(x, torch.zeros((), dtype=x.dtype))),
        (lambda x: np.clip(x, -1, 0), lambda x: torch.clamp(x, -1, 0)),
        (lambda x: np.clip(x, a_min=None, a_max=0.5), lambda x: torch.clamp(x, max=0.5)),
        (lambda x: np.clip(x, min=0), lambda x: torch.clamp(x, min=0)),
        (lambda x: x.clip(0, 1), lambda x: torch.clamp(x, 0, 1)),
        (lambda x: np.max(x, axis=0), lambda x: torch.amax(x, 0)),
        (lambda x: np.min(x), lambda x: torch.amin(x, (0, 1))),
        (lambda x: np.prod(x, axis=1), lambda x: torch.prod(x, 1)),
        (lambda x: np.cumprod(x, axis=0), lambda x: torch.cumprod(x, 0)),
        (lambda x: np.power(x, 2), lambda x: x**2),
        (lambda x: np.power(x, 0), lambda x: x**0),
        (lambda x: np.power(x, 1), lambda x: x**1),
        (
            lambda x: np.power(x, np.array([0.0, 1.0, 2.0, 3.0])),
            lambda x: x ** torch.tensor([0.0, 1.0, 2.0, 3.0]),
        ),
        (lambda x: np.power(0.0, np.abs(x)), lambda x: torch.zeros((), dtype=x.dtype) ** x.abs()),
        (lambda x: np.std(x * 0, axis=0), lambda x: torch.std(x * 0, 0, correction=0)),
        (lambda x: np.linalg.norm(x * 0, axis=0), lambda x: torch.linalg.norm(x * 0, dim=0)),
        (lambda x: np.copysign(x, GRID[0]), lambda x: torch.copysign(x, torch.tensor(GRID[0]))),
        (lambda x: np.nan_to_num(x / 1, nan=2.0), lambda x: torch.nan_to_num(x)),
    ],
    ids=range(20),
)
def test_kinks_and_ties_are_as_in_torch(code, reference):
    against_torch(code, reference, GRID)


def test_clip_bounds_receive_the_gradient_of_what_they_clip():
    bounds = np.array([-1.0, 0.0, 0.5, -2.0]), np.array([0.0, 0.5, 1.0, -0.5])
    against_torch(np.clip, torch.clamp, GRID, *bounds)
    against_torch(lambda x, low: np.clip(x, low, None), lambda x, low: torch.clamp(x, low), GRID, bounds[0])


def test_power_is_right_to_second_order_at_an_exponent_of_zero():
    check_grads(np.power, np.array([0.5, 2.0]), np.array([0.0, 1.0]))


def test_nan_to_num_stops_the_gradient_where_it_replaces():
    x = np.array([1.0, np.nan, np.inf, -np.inf])
    against_torch(lambda x: np.nan_to_num(x, nan=2.0, posinf=3.0, neginf=4.0),
                  lambda x: torch.nan_to_num(x, 2.0, 3.0, 4.0), x)  # fmt: skip


def test_triangles_of_a_vector_are_those_of_its_repeated_rows():
    x = np.array([0.5, -1.0, 2.0])
    against_torch(np.triu, lambda x: torch.triu(x.expand(3, 3)), x)
    against_torch(np.tril, lambda x: torch.tril(x.expand(3, 3)), x)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, list])
@pytest.mark.parametrize("function", [
    np.power, lambda x, y: np.power(y, x), np.arctan2, lambda x, y: np.arctan2(y, x), np.hypot, np.logaddexp, np.multiply,
    lambda x, y: y - x, lambda x, y: y / x, lambda x, y: np.fmod(y, x), lambda x, y: np.remainder(y, x), np.maximum,
    lambda x, y: np.clip(x, y, y + 1 if hasattr(y, "dtype") else None), np.copysign,
], ids=range(14))  # fmt: skip
def test_integers_and_lists_are_constants_like_their_floats(function, dtype):
    """Computed with as they are, they would overflow in a square (int8), wrap below 0 (unsigned) or be float16 in a logarithm."""
    values = np.array([3, 0, 5]) if function is np.power else np.array([100, 7, 120])
    x = np.array([30.25, 2.5, 1.125])
    integers = values.tolist() if dtype is list else values.astype(dtype)
    for integer, number in ((integers, values.astype(float)), (integers[2], float(values[2]))):
        square = lambda x, y: np.sum(function(x, y) ** 2)  # noqa: E731
        for loss in (square, lambda x, y: np.sum(grad(square)(x, y) * [1.0, 2.0, 3.0])):
            found, right = grad(loss)(x, integer), grad(loss)(x, number)
            assert np.isfinite(right).all()
            np.testing.assert_allclose(found, right, rtol=1e-13)


@pytest.mark.parametrize("code", [
    lambda x: np.pad(x, {1: (2, 1)}), lambda x: np.pad(x, {-2: 1}), lambda x: np.pad(x, {0: (0, 1), 1: 2}),
    lambda x: np.tile(x, np.array([2, 2])), lambda x: np.tile(x, np.array(2)), lambda x: np.tile(x, [3]),
], ids=range(6))  # fmt: skip
def test_widths_by_axis_and_repeats_as_an_array(code):
    check_grads(code, np.array([[0.5, -1.5, 0.8], [2.0, 0.25, -0.6]]))


def test_remainder_counts_the_wraps():
    x, y = np.array([7.3, -7.3, 0.2]), np.array([2.0, 2.0, -3.0])
    against_torch(np.remainder, torch.remainder, x, y)
    against_torch(np.fmod, torch.fmod, x, y)
    against_torch(lambda y: 5 % y, lambda y: torch.remainder(torch.tensor(5.0).double(), y), y)


@pytest.mark.parametrize("function", [lambda x: np.linalg.norm(x) ** 2, lambda x: np.std(x) ** 2])
def test_the_second_derivative_of_a_root_at_zero_is_not_0_in_silence(function):
    """As in torch: 0 the first time, nan the second (right would be that of the square: no zero)."""
    assert (grad(function)(np.zeros(2)) == 0).all()
    with np.errstate(all="ignore"):
        assert np.isnan(grad(lambda x: np.sum(grad(function)(x) * np.array([1.0, -2.0])))(np.zeros(2))).all()


def test_logaddexp_of_infinities_is_as_in_torch():
    x = np.array([-np.inf, np.inf, -np.inf, 0.0, np.inf, 800.0, -800.0])
    y = np.array([0.0, 0.0, np.inf, -np.inf, -np.inf, 0.0, 0.0])
    against_torch(np.logaddexp, torch.logaddexp, x, y)
    against_torch(np.logaddexp2, torch.logaddexp2, x, y)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("code", [
    lambda x: np.arctan2(x, np.float32(1e10)), lambda x: np.arctan2(np.float32(1e10), x), np.arcsinh, np.arccosh,
    lambda x: np.hypot(x, np.float32(1)),
], ids=range(5))  # fmt: skip
def test_derivatives_at_numbers_whose_squares_overflow(code):
    x = np.array([1e20, 3e22, 1e19], np.float32)
    found, right = (grad(lambda x: np.sum(code(x) * 1e12))(each) for each in (x, x.astype(np.float64)))
    np.testing.assert_allclose(found, right, rtol=1e-5)


# ---------------------------------------------------------------------------------------------------------- float16

_MANY = (np.arange(70_000) % 7).astype(np.float16)  # more than the largest float16, 65504


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # np.var itself overflows
@pytest.mark.parametrize(
    ("code", "reference"),
    [
        (np.mean, torch.mean),
        (lambda x: np.mean(np.reshape(x, (-1, 2)), axis=0)[1], lambda x: x.reshape(-1, 2).mean(0)[1]),
        (lambda x: np.var(x), lambda x: x.var(correction=0)),
        (lambda x: np.std(x), lambda x: x.std(correction=0)),
        (lambda x: np.std(x, ddof=1, keepdims=True)[0], lambda x: x.std()),
        (np.max, torch.amax),
        (lambda x: np.min(x), lambda x: x.amin()),
        (lambda x: np.mean(x[:3].sum() + 0 * x), lambda x: x[:3].sum()),
        (lambda x: np.mean(np.cumsum(x[:4096])), lambda x: x[:4096].cumsum(0).mean()),
        (lambda x: np.mean(np.cumsum(np.reshape(x[:4096], (2, -1)), axis=1)), lambda x: x[:4096].reshape(2, -1).cumsum(1).mean()),
    ],
    ids=range(10),
)
def test_reductions_of_more_elements_than_float16_counts(code, reference):
    tensor = torch.from_numpy(_MANY.astype(np.float64)).requires_grad_()
    (1024 * reference(tensor)).backward()  # scaled, as a loss in mixed precision is
    found = grad(lambda x: 1024 * code(x))(_MANY)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.astype(float), tensor.grad.numpy(), rtol=2e-3, atol=1e-6)


_HALF = np.array([300.0, -2000.0, 12.0, 0.5, -0.25], np.float16)  # squares of the first ones are beyond float16


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # np.linalg.norm itself overflows
@pytest.mark.parametrize("code", [
    np.linalg.norm, lambda x: np.linalg.norm(x[None], axis=1)[0], np.arctan, np.arcsinh, lambda x: np.arccosh(x[:3:2]),
    lambda x: np.arctan2(x, 300.0), lambda x: np.arctan2(np.float16(300), x), lambda x: np.log10(np.abs(x) * 20),
    F.erf, F.gelu, F.gelu_tanh, lambda x: F.normalize(x) * x, lambda x: F.rms_norm(x[None], x * 0 + 1),
    lambda x: F.softmax(x) * x,
    lambda x: F.layer_norm(x[None], np.float16([1, 2, 3, 4, 5]), x * 0, 1e-5), lambda x: F.log_softmax(x * 0.01) * x,
], ids=range(16))  # fmt: skip
def test_derivatives_of_float16_do_not_overflow_on_their_way(code):
    """Where value and gradient are within float16, they are those of float64: torch computes with float32 in between."""
    wide_value, right = value_and_grad(lambda x: np.sum(code(x) * 0.125))(_HALF.astype(np.float64))
    value, found = value_and_grad(lambda x: np.sum(code(x) * 0.125))(_HALF)
    assert found.dtype == np.float16 and (np.isfinite(value) or code is np.linalg.norm or "norm" in code.__code__.co_names)
    keep = np.isfinite(right)
    np.testing.assert_allclose(found[keep].astype(float), right[keep], rtol=1e-2, atol=2e-3 * np.abs(right[keep]).max() + 1e-7)
    if np.isfinite(value):
        np.testing.assert_allclose(float(value), wide_value, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("code", [
    lambda x: x[np.zeros(5000, int)], lambda x: np.take(x, np.zeros(5000, int)), lambda x: np.repeat(x, 5000),
    lambda x: np.tile(x, 5000),
    lambda x: F.embedding(x[:, None], np.zeros(5000, int)), lambda x: np.take_along_axis(x, np.zeros(5000, int), 0),
], ids=range(6))  # fmt: skip
def test_a_row_that_is_read_many_times_gets_all_its_gradients_in_float16(code):
    found = grad(lambda x: np.sum(code(x)))(np.ones(1, np.float16))
    assert found == 5000 and found.dtype == np.float16  # one by one they stand still at 2048


def test_a_softmax_of_more_elements_than_float16_counts():
    x = np.zeros(70_000, np.float16)
    np.testing.assert_allclose(F.softmax(x).astype(float), 1 / 70_000, rtol=0.01)
    for found in (F.logsumexp(x), -F.log_softmax(x)[0], F.cross_entropy(x[None], np.array([3]))):
        np.testing.assert_allclose(float(found), np.log(70_000), rtol=1e-3)
        assert found.dtype == np.float16


def test_a_gradient_is_summed_over_broadcast_rows_in_float32():
    """float16 rows added one by one stand still at 2048 times their size."""
    found = grad(lambda b: np.mean(np.ones((70_000, 4), np.float16) * b))(np.ones(4, np.float16))
    np.testing.assert_allclose(found, 0.25, rtol=2e-3)
    assert found.dtype == np.float16


# -------------------------------------------------------------------------------- functions whose derivative is zero

_ARGUMENTS = {
    "allclose": lambda x: (x, x), "array_equal": lambda x: (x, x), "array_equiv": lambda x: (x, x),
    "argpartition": lambda x: (x, 1), "digitize": lambda x: (x, np.array([0.0, 1.0])), "isclose": lambda x: (x, x),
    "isin": lambda x: (x, [1.0]), "searchsorted": lambda x: (np.arange(3.0), x), "result_type": lambda x: (x, x),
}  # fmt: skip


@pytest.mark.parametrize("function", sorted(CONSTANT, key=name), ids=name)
def test_functions_with_derivative_zero_give_plain_arrays(function):
    x = np.array([-1.0, 0.5, 2.0])
    if function in (np.invert, np.bitwise_and, np.bitwise_or, np.bitwise_xor):
        x = x > 0  # of no float array, so of no Tensor with a history
    make = _ARGUMENTS.get(name(function), lambda x: (x,) * getattr(function, "nin", 1))
    expected = function(*make(x))
    found = []

    def loss(p):
        found.append(function(*make(p if x.dtype != bool else Tensor(x))))
        return np.sum(p)

    value_and_grad(loss)(np.array([-1.0, 0.5, 2.0]))
    assert Tensor not in map(type, (found[0], *(found[0] if isinstance(found[0], tuple) else ())))
    if function is not np.empty_like:
        assert type(found[0]) is type(expected)
        np.testing.assert_array_equal(found[0], expected)


def test_a_cast_to_integers_gives_a_plain_array():
    def loss(x):
        whole = x.astype(np.int64)
        assert type(whole) is np.ndarray and whole.dtype == np.int64
        return np.sum(x * whole)

    value, grad = value_and_grad(loss)(np.array([1.5, 2.5]))
    close(grad, [1, 2], 0)


def test_a_cast_between_float_types_casts_the_gradient_back():
    x = np.array([0.5, 1.5], np.float32)
    value, grad = value_and_grad(lambda x: np.sum(np.square(x.astype(np.float64))))(x)
    assert value.dtype == np.float64 and grad.dtype == np.float32
    close(grad, 2 * x, 1e-7)


@pytest.mark.parametrize(
    ("function", "at", "right"),
    [
        (np.tanh, np.float32(8), 4.5014e-7),
        (np.tanh, np.float32(9.5), 2.2411e-8),
        (np.tanh, 20.0, 1.69934e-17),
        (np.tanh, -800.0, 0.0),
        (np.expm1, -40.0, 4.24835e-18),
        (np.expm1, np.float32(-18), 1.52300e-8),
        (lambda x: np.arctan(x) * np.float32(1e12), np.float32(1e20), 1e-28),
        (lambda x: np.hypot(x, np.float32(1)) * np.float32(1e12), np.float32(1e30), 1e12),
        (lambda y: np.fmod(0.03, y), 0.01, -2.0),
        (lambda x: np.maximum(x, 1), np.nan, 1.0),
        (lambda x: np.minimum(x, np.nan), 2.0, 1.0),
        (lambda x: x ** range(4), 2.0, 17.0),
        (lambda x: np.linalg.norm(np.stack([x, x]), 2, np.int64(0)), 3.0, 2**0.5),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_slopes_where_digits_would_be_lost(function, at, right):
    found = grad(lambda x: np.sum(function(x)))(np.asarray(at))
    np.testing.assert_allclose(found, right, rtol=2e-5)
    assert found.dtype == np.asarray(at).dtype


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_the_slope_of_a_determinant_that_under_or_overflows():
    for size in (1e-25, 1e25):
        matrix = np.eye(2, dtype=np.float32) * np.float32(size)
        np.testing.assert_allclose(grad(np.linalg.det)(matrix), matrix, rtol=1e-6)


def test_the_slope_of_a_singular_determinant_under_jax():
    import jax.numpy as jnp

    found = grad(np.linalg.det)(jnp.array([[1.0, 2.0], [2.0, 4.0]]))
    np.testing.assert_allclose(np.asarray(found), [[4, -2], [-2, 1]], atol=1e-6)
