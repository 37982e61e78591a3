"""Indexing of every kind, with the gradient derived from where NumPy itself takes each element."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, basic_indices, integer_array_indices

from bertcraft.tensor import grad, value_and_grad
from bertcraft.tensor.check import check_grads

from .compare import close, gradients, laid_out, layouts, quick


def selects(code, x):
    """Assert the gradient of code, which picks elements of x: each gets the weights of its copies."""
    value, (found,), weights = gradients(code, x)
    origin = code(np.arange(x.size).reshape(x.shape))
    expected = np.bincount(np.ravel(origin), np.ravel(weights), minlength=x.size).reshape(x.shape)
    np.testing.assert_array_equal(value, x.reshape(-1)[origin])
    assert found.dtype == x.dtype
    close(found, expected, 1e-14)


shapes = array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def numbers(shape, layout="contiguous"):
    return laid_out(np.asarray(np.random.default_rng(1).standard_normal(shape)), layout)


@quick
@given(data=st.data(), shape=shapes, layout=layouts)
def test_slices_integers_newaxis_and_dots(data, shape, layout):
    index = data.draw(basic_indices(shape, allow_newaxis=True, allow_ellipsis=True))
    selects(lambda x: x[index], numbers(shape, layout))
    check_grads(lambda x: x[index] * x[index], numbers(shape))


@quick
@given(data=st.data(), shape=array_shapes(min_dims=1, max_dims=3, max_side=4), layout=layouts)
def test_integer_arrays_with_repeats_broadcast(data, shape, layout):
    index = data.draw(integer_array_indices(shape))
    selects(lambda x: x[index], numbers(shape, layout))
    check_grads(lambda x: x[index] * x[index], numbers(shape))


@quick
@given(data=st.data(), shape=array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4), layout=layouts)
def test_boolean_masks(data, shape, layout):
    mask = data.draw(arrays(bool, shape[: data.draw(st.integers(1, len(shape)))]))
    selects(lambda x: x[mask], numbers(shape, layout))
    check_grads(lambda x: x[mask] * x[mask], numbers(shape))


@pytest.mark.parametrize(
    "index",
    [
        [0, 0, 1], (slice(None), [2, 2]), (np.array([0, 1]), slice(1, None), np.array([1, 1])),
        (np.array([[0], [1]]), None, np.array([0, 2])), (..., np.array([3, 0, 3])), np.array(1), np.int64(-1), True,
        (0, np.array([True, False, True])), (slice(None, None, -2), 1, ..., slice(3, 0, -1)), (np.array([], int),),
        (np.array([1, 1]), 2, slice(None)),
    ],
    ids=range(12),
)  # fmt: skip
def test_mixed_indices(index):
    x = numbers((2, 3, 4))
    selects(lambda x: x[index], x)
    check_grads(lambda x: x[index] * x[index], x)


@quick
@given(data=st.data(), shape=array_shapes(min_dims=1, max_dims=3, max_side=4))
def test_take_and_take_along_axis(data, shape):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    indices = data.draw(
        arrays(
            np.int64,
            array_shapes(max_dims=2, max_side=3),
            elements=st.integers(-shape[axis], shape[axis] - 1),
        )
    )
    selects(lambda x: np.take(x, indices, axis=axis), numbers(shape))
    order = np.argsort(numbers(shape), axis=axis)
    selects(lambda x: np.take_along_axis(x, order, axis), numbers(shape))
    selects(lambda x: np.repeat(x, 2, axis=axis), numbers(shape))
    selects(lambda x: np.tile(x, (2, *shape)), numbers(shape))


def test_float32_stays_and_repeats_add_up():
    value, found = value_and_grad(lambda x: np.sum(x[np.zeros(1000, int)]))(np.ones(2, np.float32))
    assert value.dtype == found.dtype == np.float32
    close(found, [1000, 0], 0)


def test_a_table_indexed_twice_receives_both_gradients():
    ids = np.array([1, 0, 1])
    found = grad(lambda w: np.sum(w[ids] * 2) + np.sum(w[1:] * 3))(np.ones((3, 2)))
    close(found, [[2, 2], [7, 7], [3, 3]], 0)


def test_iteration_unpacking_and_length():
    def code(x):
        assert len(x) == 2
        a, b = x
        return a * b + sum(row[0] for row in x)

    check_grads(code, numbers((2, 3)))
