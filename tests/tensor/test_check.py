"""check_grads finds derivatives that are wrong, and only those."""

import numpy as np
import pytest

import bertcraft
from bertcraft.tensor import grad, stop_gradient
from bertcraft.tensor.check import check_grads
from bertcraft.tensor.tensor import DERIVATIVES, apply


@pytest.fixture
def sine(monkeypatch):
    """A sine (of x times y) whose derivatives the test chooses."""

    def _sine(x, y):
        return np.sin(x * y)

    def make(with_respect_to_x, with_respect_to_y=lambda g, z, x, y: g * np.cos(x * y) * x):
        monkeypatch.setitem(DERIVATIVES, _sine, (with_respect_to_x, with_respect_to_y))
        return lambda x, y: apply(_sine, x, y)

    return make


X, Y = np.array([[0.3, 1.2], [-0.7, 2.0]]), np.array([[1.5, -0.4], [0.9, 0.6]])
right = lambda g, z, x, y: g * np.cos(x * y) * y  # noqa: E731


def _in_place(g, z, x, y):
    if type(g) is not np.ndarray:
        return right(g, z, x, y)
    g *= np.cos(x * y) * y
    return g


def test_a_derivative_that_writes_into_its_gradient_is_found(sine):
    """Right where it is alone with its g; wrong where another node has the same one, as in a sum."""
    found, expected = (grad(lambda x, f=sine(d): np.sum((f(x, Y) + x) * X))(X) for d in (_in_place, right))
    assert not np.allclose(found, expected)
    f = sine(_in_place)
    with pytest.raises(AssertionError, match="writes into an array that it was given"):
        check_grads(lambda x: f(x, Y), X)


def test_points_are_not_written_into():
    points = X.copy()
    with pytest.raises(ValueError, match="read-only"):
        check_grads(lambda x: x.__setitem__(0, 1) if type(x) is np.ndarray else x, points)
    check_grads(np.sin, points)
    assert points.flags.writeable


def test_a_function_that_draws_random_numbers_is_told_so():
    """Its differences would look like a derivative of any size."""
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="another value when it was called again.*the same random numbers"):
        check_grads(lambda x: x * rng.random(2), X)


def test_a_derivative_that_cannot_be_seen_beside_large_values_does_not_pass(sine):
    f = sine(lambda g, z, x, y: g * 0)
    with pytest.raises(ValueError, match=r"a value of .e\+1\d has too few digits.*subtract a constant"):
        check_grads(lambda x: 1e12 + f(x, Y), X)
    with pytest.raises(AssertionError):
        check_grads(lambda x: 1e3 + f(x, Y), X)
    check_grads(lambda x: 1e7 * np.sin(x), X)  # large, and its derivative too


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_masked_arrays_and_matrices_are_refused():
    for array in (np.ma.array(X, mask=X > 1), np.matrix(X)):
        with pytest.raises(TypeError, match="gradients are of plain arrays"):
            check_grads(np.sin, array)


def test_a_right_derivative_passes_to_third_order(sine):
    check_grads(sine(right), X, Y, order=3)
    bertcraft.check_grads(lambda x: np.exp(x) @ np.ones(2), X)


@pytest.mark.parametrize("factor", [1.0001, -1, 0])
def test_a_wrong_derivative_is_found(sine, factor):
    f = sine(lambda g, z, x, y: right(g, z, x, y) * factor)
    with pytest.raises(AssertionError, match="derivative of order 1 with respect to argument 0 is wrong.*numeric.*analytic"):
        check_grads(f, X, Y)


def test_one_wrong_element_of_many_is_found(sine):
    spot = np.zeros((100, 100))
    spot[41, 7] = 1e-3
    f = sine(right, lambda g, z, x, y: g * np.cos(x * y) * x + spot)
    with pytest.raises(AssertionError, match="order 1 with respect to argument 1"):
        check_grads(f, *np.random.default_rng(0).standard_normal((2, 100, 100)))


def test_a_derivative_wrong_at_second_order_only_is_found(sine):
    f = sine(lambda g, z, x, y: g * np.cos(stop_gradient(x) * y) * y)
    check_grads(f, X, Y, order=1)
    with pytest.raises(AssertionError, match="order 2 with respect to argument 0"):
        check_grads(f, X, Y)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("argument", [0, 1])
def test_a_derivative_that_loses_the_history_of_its_gradient_is_found(sine, argument, order):
    """Right for f itself at every order, and wrong for the second derivative of f squared."""
    lost = [right, lambda g, z, x, y: g * np.cos(x * y) * x]
    keep = lost[argument]
    lost[argument] = lambda g, z, x, y: keep(stop_gradient(g), z, x, y)
    f = sine(*lost)
    check_grads(f, X, Y, order=1)
    with pytest.raises(AssertionError, match="order 2 with respect to the gradient of the result .*out of its history"):
        check_grads(f, X, Y, order=order)


@pytest.mark.parametrize("within", [lambda x: x, lambda x: 2 * x, np.sin, lambda x: np.reshape(x, (1, -1))[0]])
@pytest.mark.parametrize(
    "derivative",
    [
        lambda g, z, x, y: right(g, z, x, y),  # not summed over the axis that x was repeated along
        lambda g, z, x, y: np.sum(right(g, z, x, y), axis=0, keepdims=True),
        lambda g, z, x, y: np.sum(right(g, z, x, y), axis=0)[None, None],
        lambda g, z, x, y: np.sum(right(g, z, x, y), axis=0)[:1],
        lambda g, z, x, y: np.sum(right(g, z, x, y)),
        lambda g, z, x, y: 1.5,
    ],
)
def test_a_derivative_of_the_wrong_shape_is_found(sine, derivative, within):
    """Also where the next derivative backwards would sum it to the right one."""
    f = sine(derivative)
    with pytest.raises(AssertionError, match=r"derivative of _sine is .* shape \(.*, expected .* argument, \(2,\)"):
        check_grads(lambda x, y: f(within(x), y), X[0], Y)


def test_the_gradient_of_an_argument_that_does_not_matter_is_zero():
    check_grads(lambda x, y: x * x, X, Y)
    check_grads(lambda x: 1.5, X)


def test_numbers_and_empty_arrays_are_arrays():
    check_grads(lambda x, y: x * y, 2.0, np.array(3.0))
    check_grads(np.exp, np.zeros((0, 3)))


def test_the_same_seed_gives_the_same_projections():
    seen = []
    for seed in (1, 1, 2):
        points = []
        check_grads(lambda x, p=points: p.append(np.array(getattr(x, "value", x))) or np.exp(x), X, order=1, seed=seed)
        seen.append(np.stack(points))
    np.testing.assert_array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "argument 1 is float32, expected float64", lambda: check_grads(np.add, X, X.astype(np.float32))),
        (TypeError, "argument 0 is int64, expected float64", lambda: check_grads(np.exp, np.arange(3))),
        (TypeError, "argument 0 is complex128", lambda: check_grads(np.exp, X + 1j)),
        (ValueError, "argument 0 has values that are not finite", lambda: check_grads(np.exp, np.array([1, np.nan]))),
        (ValueError, "order 1, argument 0: numeric .*nan", lambda: check_grads(lambda x: x * np.nan, X)),
        (ValueError, "order 1, argument 0.*finite", lambda: check_grads(np.sqrt, np.zeros(2))),
        (TypeError, "f must return one floating-point array, got tuple", lambda: check_grads(lambda x: (x, x), X)),
        (TypeError, "f must return one floating-point array, got an array of int64",
         lambda: check_grads(lambda x: np.argmax(x), X)),
        (ValueError, "expected arrays and order >= 1, got 0 arrays", lambda: check_grads(np.exp)),
        (ValueError, "expected arrays and order >= 1", lambda: check_grads(np.exp, X, order=0)),
    ],
)  # fmt: skip
def test_bad_input_gets_a_clear_error(error, message, call):
    with np.errstate(all="ignore"), pytest.raises(error, match=message):
        call()
