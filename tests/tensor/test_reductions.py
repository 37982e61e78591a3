"""Sums, means, deviations, extremes and products over every form of axis."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from bertcraft.tensor import grad, value_and_grad
from bertcraft.tensor.check import check_grads

from .cases import REDUCTIONS
from .compare import against_torch, close, laid_out, layouts, quick

every_reduction = pytest.mark.parametrize("function", REDUCTIONS, ids=lambda f: f.__name__)


@st.composite
def reductions(draw):
    """A shape, an axis of it in any form NumPy takes, keepdims, and a layout."""
    shape = draw(array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    axes = draw(st.lists(st.integers(0, max(len(shape) - 1, 0)), unique=True, max_size=len(shape)))
    axes = [a - len(shape) if draw(st.booleans()) else a for a in axes]
    axis = draw(st.sampled_from([None, tuple(axes)] + ([axes[0]] if axes else [])))
    return shape, axis, draw(st.booleans()), draw(layouts)


def distinct(shape):
    """Numbers of which no two are close, in random order."""
    size = int(np.prod(shape))
    return (np.random.default_rng(size).permutation(size).reshape(shape) - size / 2 + 0.3) / 7


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@every_reduction
@quick
@given(reduction=reductions())
def test_reductions_over_every_axis(function, reduction):
    shape, axis, keepdims, layout = reduction
    axes = tuple(range(len(shape))) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = tuple(a % len(shape) for a in axes)
    assume(all(shape[a] for a in axes) or function in (np.sum, np.prod))  # NumPy refuses or gives NaN
    assume(axes or function is not np.std)  # the deviation of one number has no derivative to compare
    x = laid_out(np.asarray(distinct(shape)), layout)
    reference = REDUCTIONS[function]
    if not axes or x.ndim == 0:  # to torch an empty tuple means every axis
        reference = lambda x, _axes, _keep: x * 0 if function in (np.var, np.std) else x.clone()  # noqa: E731
    call = lambda x: function(x, axis=axis, keepdims=keepdims)  # noqa: E731
    against_torch(call, lambda x: reference(x, axes, keepdims), x)
    if not (function is np.std and any(np.prod([shape[a] for a in axes]) == n for n in (0, 1))):
        check_grads(call, x)


@pytest.mark.parametrize("function", [np.var, np.std])
@pytest.mark.parametrize("ddof", [0, 1])
def test_degrees_of_freedom(function, ddof):
    reference = torch.var if function is np.var else torch.std
    x = distinct((3, 4))
    against_torch(lambda x: function(x, axis=1, ddof=ddof), lambda x: reference(x, 1, correction=ddof), x)
    check_grads(lambda x: function(x, axis=1, ddof=ddof), x)


@pytest.mark.parametrize(
    "code",
    [
        lambda x: x.sum(0), lambda x: x.mean(-1, keepdims=True), lambda x: x.var(1), lambda x: x.std(axis=0),
        lambda x: x.max(1), lambda x: x.min((0, 1)), lambda x: x.prod(0), lambda x: x.cumsum(1),
        lambda x: np.add.reduce(x), lambda x: np.add.reduce(x, axis=1), lambda x: np.multiply.reduce(x, -1),
        lambda x: np.maximum.reduce(x, axis=None), lambda x: np.minimum.reduce(x, axis=0, keepdims=True),
        lambda x: np.sum(x, axis=1, dtype=None, out=None), lambda x: sum(x), lambda x: np.amax(x, 0),
    ],
    ids=range(16),
)  # fmt: skip
def test_methods_and_reduce_are_the_functions(code):
    x = distinct((3, 4))
    plain, found = code(x), []
    value_and_grad(lambda x: np.sum(found.append(code(x)) or found[0]))(x)
    close(found[0].value, plain, 1e-15)
    check_grads(code, x)


def test_the_mean_of_nothing_has_an_empty_gradient():
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning, match="empty"):
        assert grad(np.mean)(np.zeros((0, 3))).shape == (0, 3)


def test_the_product_is_exact_with_zeros_to_second_order():
    for x in ([2.0, 0.0, 3.0], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0], [5.0]):
        check_grads(np.prod, np.array(x))
        check_grads(np.cumprod, np.array(x))
        close(grad(np.prod)(np.array(x)), [np.prod(x[:i] + x[i + 1 :]) for i in range(len(x))], 0)


@pytest.mark.parametrize("axis", [0, -1])
def test_a_number_may_be_reduced_along_an_axis(axis):
    """NumPy lets a 0-d array have one: np.add.reduce, whose axis is 0 unless told, is the usual way to get there."""
    for function in (np.sum, np.max, np.min, np.prod, np.ptp, np.cumsum, np.cumprod):
        check_grads(lambda x, f=function: f(x, axis=axis) * x, 1.7)
    check_grads(lambda x: np.repeat(x, 3, axis=axis) * x, 1.7)
    check_grads(lambda x: np.add.reduce(x) * x, 1.7)
