"""The table of derivatives: one line a NumPy function, to be read like a table in a calculus book.

In each line ``g`` is the gradient of the loss with respect to the result ``z``; what the line computes is
the gradient with respect to one argument. Lines are written with NumPy functions, so they can be
differentiated in turn. Where a function has a kink the convention is that of PyTorch: ``abs`` has slope 0
at 0, ``maximum`` shares the gradient of a tie equally, ``clip`` lets it through at its bounds.
"""

import array as array_of_python
import math
from collections.abc import Callable

import numpy as np

from bertcraft.tensor.arguments import SIGNATURES, Signature
from bertcraft.tensor.gradient import narrow, unbroadcast, wide
from bertcraft.tensor.tensor import (
    CONSTANT,
    DERIVATIVES,
    astype,
    concatenate,
    getitem,
    identity,
    scatter_add,
    stack,
)


def elementwise(function: Callable, *derivatives: Callable | None) -> None:
    """Enter a function that works element by element; gradients are summed over broadcast axes."""

    def fitted(derivative, i):
        def back(g, z, *args, **options):
            dtype = z.dtype
            g, z, *args = [wide(_as_floats(a, dtype)) for a in (g, z, *args)]
            return narrow(unbroadcast(derivative(g, z, *args, **options), np.shape(args[i])), dtype)

        return back

    DERIVATIVES[function] = tuple(d and fitted(d, i) for i, d in enumerate(derivatives))
    SIGNATURES[function] = Signature(next(filter(None, derivatives)), skip=2)


def _as_floats(array, dtype):
    """A list, or integers, as an array of floats, which is what derivatives compute with.

    Integers would overflow in a square, wrap below 0 where they have no sign, and make float16 of a logarithm.
    """
    if type(array) in (list, tuple, range, array_of_python.array):
        array = np.asarray(array)
    if not isinstance(array, (np.ndarray, np.generic)) or array.dtype.kind not in "iu":
        return array
    return np.asarray(array, dtype)


def general(function: Callable, *derivatives: Callable | None) -> None:
    """Enter a function whose derivatives see to the shapes themselves; None where there is no derivative.

    The first derivative shows which arguments and options are supported; others raise.
    """
    DERIVATIVES[function] = derivatives
    SIGNATURES[function] = Signature(derivatives[0], skip=2)


def variadic(function: Callable, derivative: Callable) -> None:
    """Enter a function of any number of arrays; ``derivative(i, g, z, *args)`` is that of argument ``i``."""
    DERIVATIVES[function] = derivative
    SIGNATURES[function] = Signature(derivative, skip=3)


# ------------------------------------------------------------------------------------------------- arithmetic

elementwise(np.add, lambda g, z, x, y: g, lambda g, z, x, y: g)
elementwise(np.subtract, lambda g, z, x, y: g, lambda g, z, x, y: -g)
elementwise(np.multiply, lambda g, z, x, y: g * y, lambda g, z, x, y: g * x)
elementwise(np.divide, lambda g, z, x, y: g / y, lambda g, z, x, y: -g * z / y)
elementwise(np.negative, lambda g, z, x: -g)
elementwise(np.positive, lambda g, z, x: g)
elementwise(np.reciprocal, lambda g, z, x: -g * z * z)
elementwise(np.square, lambda g, z, x: g * 2 * x)
elementwise(np.sqrt, lambda g, z, x: g / (2 * z))
elementwise(np.cbrt, lambda g, z, x: g / (3 * z * z))
elementwise(np.power, lambda g, z, x, y: _power_base(g, x, y), lambda g, z, x, y: g * z * _log_base(x, y))
elementwise(np.remainder, lambda g, z, x, y: g, lambda g, z, x, y: -g * np.floor_divide(x, y))
elementwise(np.fmod, lambda g, z, x, y: g, lambda g, z, x, y: -g * np.rint((x - z) / y))


def _power_base(g, x, y):
    """g y x^(y-1), and 0 where x and y are both 0."""
    if isinstance(y, (int, float)):
        return g * y * np.power(x, y - 1) if y != 0 else np.zeros_like(g)
    return g * y * np.power(x, np.where(np.equal(x, 0) & np.equal(y, 0), 1, y - 1))


def _log_base(x, y):
    """log x, and 0 where x is 0 and x^y with it."""
    if isinstance(x, (int, float)):  # np.log would make a float64 of it, which would promote float32
        return math.log(x) if x > 0 else 0.0 if x == 0 else math.nan
    return np.log(np.where(np.equal(x, 0) & np.greater_equal(y, 0), 1, x))


# --------------------------------------------------------------------------- exponentials, angles, magnitudes

elementwise(np.exp, lambda g, z, x: g * z)
elementwise(np.exp2, lambda g, z, x: g * z * math.log(2))
elementwise(np.expm1, lambda g, z, x: g * np.exp(x))
elementwise(np.log, lambda g, z, x: g / x)
elementwise(np.log2, lambda g, z, x: g / (x * math.log(2)))
elementwise(np.log10, lambda g, z, x: g / (x * math.log(10)))
elementwise(np.log1p, lambda g, z, x: g / (1 + x))
for _logadd, _exp in ((np.logaddexp, np.exp), (np.logaddexp2, np.exp2)):  # by y - x, where x - z may be inf - inf
    elementwise(
        _logadd,
        lambda g, z, x, y, logadd=_logadd, exp=_exp: g * exp(-logadd(0, y - x)),
        lambda g, z, x, y, logadd=_logadd, exp=_exp: g * exp(-logadd(0, x - y)),
    )
elementwise(np.sin, lambda g, z, x: g * np.cos(x))
elementwise(np.cos, lambda g, z, x: -g * np.sin(x))
elementwise(np.tan, lambda g, z, x: g * (1 + z * z))
elementwise(np.arcsin, lambda g, z, x: g / np.sqrt(1 - x * x))
elementwise(np.arccos, lambda g, z, x: -g / np.sqrt(1 - x * x))
# Through hypot, since squares overflow at the root of the largest number.
elementwise(np.arctan, lambda g, z, x: g / np.hypot(x, 1) / np.hypot(x, 1))
elementwise(
    np.arctan2,
    lambda g, z, y, x: g * (x / np.hypot(x, y)) / np.hypot(x, y),
    lambda g, z, y, x: -g * (y / np.hypot(x, y)) / np.hypot(x, y),
)
elementwise(np.hypot, lambda g, z, x, y: g * (x / z), lambda g, z, x, y: g * (y / z))
for _name in ("deg2rad", "radians"):
    elementwise(getattr(np, _name), lambda g, z, x: g * (math.pi / 180))
for _name in ("rad2deg", "degrees"):
    elementwise(getattr(np, _name), lambda g, z, x: g * (180 / math.pi))
elementwise(np.sinh, lambda g, z, x: g * np.cosh(x))
elementwise(np.cosh, lambda g, z, x: g * np.sinh(x))
elementwise(np.tanh, lambda g, z, x: g * np.where(z * z < 0.99, 1 - z * z, _sech_squared(x)))
elementwise(np.arcsinh, lambda g, z, x: g / np.hypot(x, 1))
elementwise(np.arccosh, lambda g, z, x: g / (np.sqrt(x - 1) * np.sqrt(x + 1)))
elementwise(np.arctanh, lambda g, z, x: g / (1 - x * x))
elementwise(np.absolute, lambda g, z, x: g * np.sign(x))
elementwise(np.fabs, lambda g, z, x: g * np.sign(x))
elementwise(
    np.copysign,
    lambda g, z, x, y: g * np.sign(x) * np.copysign(np.sign(x), y),
    lambda g, z, x, y: np.zeros_like(g),
)
elementwise(np.maximum, lambda g, z, x, y: g * _share(x, y, z), lambda g, z, x, y: g * _share(y, x, z))
elementwise(np.minimum, lambda g, z, x, y: g * _share(x, y, z), lambda g, z, x, y: g * _share(y, x, z))
elementwise(np.where, None, lambda g, z, c, x, y: np.where(c, g, 0), lambda g, z, c, x, y: np.where(c, 0, g))
elementwise(
    np.clip,
    lambda g, z, x, a_min=None, a_max=None, *, min=None, max=None: np.where(
        _within(x, a_min if min is None else min, a_max if max is None else max), g, 0
    ),
    lambda g, z, x, low, high=None: np.where(np.equal(z, x) | np.not_equal(z, low), 0, g),
    lambda g, z, x, low, high: np.where(np.equal(z, x) | np.not_equal(z, high), 0, g),
)
elementwise(np.nan_to_num, lambda g, z, x, *, nan=0.0, posinf=None, neginf=None: np.where(np.isfinite(x), g, 0))
elementwise(identity, lambda g, z, x: g)
elementwise(np.copy, lambda g, z, x: g)
general(astype, lambda g, z, x, dtype: astype(g, x.dtype), None)


def _sech_squared(x):
    """1 - tanh(x)^2 in the tails, where that has no digits left."""
    e = np.exp(-2 * np.absolute(x))
    return 4 * e / np.square(1 + e)


def _share(x, y, z):
    """The part of the gradient that goes to x where z is x (1), or both x and y (1/2); of nan, to both."""
    won = np.equal(x, z) | np.isnan(z)
    return np.where(won & np.equal(y, z), 0.5, won * 1.0).astype(z.dtype)


def _within(x, low, high):
    inside = np.equal(x, x)
    if low is not None:
        inside = inside & np.greater_equal(x, low)
    return inside if high is None else inside & np.less_equal(x, high)


# ------------------------------------------------------------------------------------------------- reductions


def spread(g, x, axis, keepdims):
    """Repeat a reduced gradient over the axes that were summed."""
    if axis is not None and not keepdims and x.ndim:  # NumPy lets a 0-d array be reduced along axis 0 or -1
        g = np.expand_dims(g, axis)
    return np.broadcast_to(g, x.shape)


def _count(x, z):
    """How many elements each element of a reduction was made of."""
    return x.size / max(z.size, 1)


def _mean_back(g, z, x, axis=None, *, keepdims=False):
    return spread(narrow(wide(g) / _count(x, z), x.dtype), x, axis, keepdims)


def _var_back(g, z, x, axis=None, *, ddof=0, keepdims=False):
    dtype, x = x.dtype, wide(x)
    centred = x - np.mean(x, axis=axis, keepdims=True)
    return narrow(spread(wide(g), x, axis, keepdims) * (centred * 2 / (_count(x, z) - ddof)), dtype)


def _std_back(g, z, x, axis=None, *, ddof=0, keepdims=False):
    if x.dtype == np.float16:  # NumPy's own z may be inf, as it sums squares in float16
        z = np.std(wide(x), axis=axis, ddof=ddof, keepdims=keepdims)
    with np.errstate(divide="ignore", invalid="ignore"):  # masked last: the slope of the slope at 0 is nan, not 0
        back = _var_back(wide(g) / (2 * z), z, x, axis, ddof=ddof, keepdims=keepdims)
    return np.where(spread(np.equal(z, 0), x, axis, keepdims), 0, back)


def _extreme_back(g, z, x, axis=None, *, keepdims=False):
    """Of max and min: ties share the gradient equally."""
    best = wide(np.equal(x, spread(z, x, axis, keepdims)).astype(x.dtype))
    return narrow(spread(wide(g), x, axis, keepdims) * (best / np.sum(best, axis=axis, keepdims=True)), x.dtype)


def _prod_back(g, z, x, axis=None, *, keepdims=False):
    """A product is the last of the running products."""
    axes = range(x.ndim) if axis is None or x.ndim == 0 else axis if isinstance(axis, tuple) else (axis,)
    axes = [i % x.ndim for i in axes]
    order = [i for i in range(x.ndim) if i not in axes] + axes
    moved = np.transpose(x, order)
    rows, n = moved.shape[: x.ndim - len(axes)], math.prod(x.shape[i] for i in axes)
    g = np.concatenate([np.zeros((*rows, max(n - 1, 0)), x.dtype), np.reshape(g, (*rows, 1))], axis=-1)
    back = _running_products_back(g, np.reshape(moved, (*rows, n)))
    return np.transpose(np.reshape(back, moved.shape), _inverse(order, x.ndim))


def _cumprod_back(g, z, x, axis=None):
    if axis is None or x.ndim == 0:
        return np.reshape(_running_products_back(g, np.reshape(x, (-1,))), x.shape)
    back = _running_products_back(np.swapaxes(g, axis, -1), np.swapaxes(x, axis, -1))
    return np.swapaxes(back, axis, -1)


def _running_products_back(g, x):
    """Along the last axis: what stands before an element times what follows it, exact where some are zero."""
    n = x.shape[-1]
    if n == 0:
        return x
    before, after = [np.ones((*x.shape[:-1], 1), x.dtype)], g[..., n - 1 :]
    for i in range(n - 1):
        before.append(before[-1] * x[..., i : i + 1])
    parts = [before[-1] * after]
    for i in reversed(range(n - 1)):
        after = g[..., i : i + 1] + x[..., i + 1 : i + 2] * after
        parts.append(before[i] * after)
    return np.concatenate(parts[::-1], axis=-1)


def _cumsum_back(g, z, x, axis=None):
    if axis is None or x.ndim == 0:
        return np.reshape(_sums_from_the_end(g, 0), x.shape)
    return _sums_from_the_end(g, axis)


def _sums_from_the_end(g, axis: int):
    return narrow(np.flip(np.cumsum(np.flip(wide(g), axis), axis=axis), axis), g.dtype)


general(np.sum, lambda g, z, x, axis=None, *, keepdims=False: spread(g, x, axis, keepdims))
general(np.mean, _mean_back)
general(np.var, _var_back)
general(np.std, _std_back)
for _name in ("max", "amax", "min", "amin"):
    general(getattr(np, _name), _extreme_back)
general(np.prod, _prod_back)
general(np.cumsum, _cumsum_back)
general(np.cumprod, _cumprod_back)


# ---------------------------------------------------------------------------------------- shape and selection


def _inverse(axes, ndim):
    return tuple(sorted(range(ndim), key=lambda i: axes[i] % ndim))


general(np.reshape, lambda g, z, x, shape: np.reshape(g, x.shape))
general(np.ravel, lambda g, z, x: np.reshape(g, x.shape))
general(np.squeeze, lambda g, z, x, axis=None: np.reshape(g, x.shape))
general(np.expand_dims, lambda g, z, x, axis: np.reshape(g, x.shape))
for _name in ("atleast_1d", "atleast_2d", "atleast_3d"):
    general(getattr(np, _name), lambda g, z, x: np.reshape(g, x.shape))
general(np.transpose, lambda g, z, x, axes=None: np.transpose(g, None if axes is None else _inverse(axes, x.ndim)))
general(np.swapaxes, lambda g, z, x, a, b: np.swapaxes(g, a, b))
general(np.moveaxis, lambda g, z, x, source, target: np.moveaxis(g, target, source))
general(np.broadcast_to, lambda g, z, x, shape: unbroadcast(g, x.shape))
general(np.flip, lambda g, z, x, axis=None: np.flip(g, axis))
general(np.roll, lambda g, z, x, shift, axis=None: np.roll(g, _negated(shift), axis))
general(np.tril, lambda g, z, x, k=0: unbroadcast(np.tril(g, k), x.shape))
general(np.triu, lambda g, z, x, k=0: unbroadcast(np.triu(g, k), x.shape))
general(getitem, lambda g, z, x, index: scatter_add(g, index, x.shape), None)
general(scatter_add, lambda g, z, x, index, shape: getitem(g, index), None, None)
general(np.take, lambda g, z, x, indices, axis=None: _take_back(g, x, indices, axis), None)
general(np.take_along_axis, lambda g, z, x, indices, axis=-1: _along_back(g, x, indices, axis), None, None)
general(np.repeat, lambda g, z, x, repeats, axis=None: _repeat_back(g, x, repeats, axis), None)
general(np.pad, lambda g, z, x, width, mode="constant", *, constant_values=0: _pad_back(g, x, width, mode), None)
general(np.diagonal, lambda g, z, x, offset=0: scatter_add(g, _diagonal_index(x, z, offset), x.shape))
general(
    np.diag,
    lambda g, z, x, k=0: np.diag(g, k) if x.ndim == 1 else scatter_add(g, _diagonal_index(x, z, k), x.shape),
)
general(np.trace, lambda g, z, x, offset=0: g * np.eye(*_matrix_shape(x), k=offset, dtype=x.dtype))
variadic(concatenate, lambda i, g, z, *arrays, axis=0: _slice_of(i, g, arrays, axis))
variadic(stack, lambda i, g, z, *arrays, axis=0: np.take(g, i, axis=axis))


def _negated(shift):
    return tuple(-int(s) for s in np.ravel(shift)) if np.ndim(shift) else -int(shift)  # int: a boolean has no negative


def _take_back(g, x, indices, axis):
    if isinstance(indices, (bool, list, tuple)):
        indices = np.asarray(indices, int)
    elif np.issubdtype(getattr(indices, "dtype", int), np.bool_):  # np.take reads them as 0 and 1, an index as a mask
        indices = indices.astype(int)
    if axis is None or x.ndim == 0:
        return np.reshape(scatter_add(g, indices, (x.size,)), x.shape)
    return scatter_add(g, (slice(None),) * (axis % x.ndim) + (indices,), x.shape)


def _along_back(g, x, indices, axis):
    if axis is None:
        return np.reshape(scatter_add(g, indices, (x.size,)), x.shape)
    place = [np.arange(n).reshape((-1,) + (1,) * (x.ndim - 1 - i)) for i, n in enumerate(x.shape)]
    place[axis % x.ndim] = indices
    return scatter_add(g, tuple(place), x.shape)


def _repeat_back(g, x, repeats, axis):
    n = x.size if axis is None or x.ndim == 0 else x.shape[axis]
    return _take_back(g, x, np.repeat(np.arange(n), repeats), axis)


def _pad_back(g, x, width, mode):
    if mode != "constant":
        raise TypeError(f"np.pad has a derivative for mode='constant' only, got {mode!r}")
    if isinstance(width, dict):  # of the axes that are padded
        widths = {axis % x.ndim: pair for axis, pair in width.items()}
        width = [np.broadcast_to(widths.get(axis, 0), 2) for axis in range(x.ndim)]
    pairs = np.broadcast_to(width, (x.ndim, 2))
    return getitem(g, tuple(slice(int(before), int(before) + n) for (before, _), n in zip(pairs, x.shape, strict=True)))


def _matrix_shape(x):
    if x.ndim != 2:
        raise TypeError(f"a diagonal has a derivative for matrices only, got {x.ndim} dimensions: use np.take_along_axis")
    return x.shape


def _diagonal_index(x, z, offset):
    _matrix_shape(x)
    places = np.arange(z.size)
    return places + max(-offset, 0), places + max(offset, 0)


def _slice_of(i, g, arrays, axis):
    """The part of the gradient of a concatenation that belongs to array ``i``."""
    if axis is None:
        start = sum(np.size(array) for array in arrays[:i])
        return np.reshape(g[start : start + arrays[i].size], arrays[i].shape)
    axis = axis % g.ndim
    start = sum(np.shape(array)[axis] for array in arrays[:i])
    return g[(slice(None),) * axis + (slice(start, start + arrays[i].shape[axis]),)]


# --------------------------------------------------------------------------- piecewise constant: derivative 0

CONSTANT.update(
    getattr(np, name)
    for name in (
        "all allclose any argmax argmin argpartition argsort argwhere around array_equal array_equiv "
        "bitwise_and bitwise_or bitwise_xor ceil count_nonzero digitize empty_like equal flatnonzero "
        "floor floor_divide greater greater_equal invert isclose iscomplexobj isfinite isin isinf isnan "
        "isrealobj less less_equal logical_and logical_not logical_or logical_xor nanargmax nanargmin "
        "ndim nonzero not_equal ones_like result_type rint round searchsorted shape sign signbit size "
        "trunc zeros_like"
    ).split()
)
