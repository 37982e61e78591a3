"""NumPy functions written with those of the table of derivatives: they need no derivative of their own.

On Tensors the version given here runs in place of NumPy's, with the same value.
"""

from collections.abc import Callable

import numpy as np

from bertcraft.tensor.arguments import SIGNATURES, Signature
from bertcraft.tensor.tensor import COMPOSED, apply, concatenate, stack


def composed(function: Callable) -> Callable:
    """Enter the decorated definition as what stands for a NumPy function on Tensors."""

    def register(definition: Callable) -> Callable:
        COMPOSED[function] = definition
        SIGNATURES[function] = Signature(definition, skip=0)
        return definition

    return register


# -------------------------------------------------------------------------------------- joining and splitting

composed(np.concatenate)(lambda arrays, axis=0: apply(concatenate, *arrays, axis=axis))
composed(np.stack)(lambda arrays, axis=0: apply(stack, *arrays, axis=axis))
composed(np.vstack)(lambda arrays: np.concatenate([np.atleast_2d(a) for a in arrays]))
composed(np.dstack)(lambda arrays: np.concatenate([np.atleast_3d(a) for a in arrays], axis=2))
composed(np.append)(lambda x, values, axis=None: np.concatenate([x, values], axis=axis))


@composed(np.hstack)
def _hstack(arrays):
    arrays = [np.atleast_1d(a) for a in arrays]
    return np.concatenate(arrays, axis=0 if np.ndim(arrays[0]) == 1 else 1)


@composed(np.column_stack)
def _column_stack(arrays):
    return np.concatenate([a if np.ndim(a) > 1 else np.reshape(a, (-1, 1)) for a in arrays], axis=1)


def _split(cut):
    def split(x, indices_or_sections, axis=0):
        before = (slice(None),) * (axis % x.ndim)
        places = cut(np.arange(x.shape[axis]), indices_or_sections)
        return [x[(*before, slice(int(p[0]), int(p[-1]) + 1) if len(p) else slice(0, 0))] for p in places]

    return split


composed(np.split)(_split(np.split))
composed(np.array_split)(_split(np.array_split))


@composed(np.tile)
def _tile(x, reps):
    reps = tuple(int(times) for times in np.ravel(reps))
    reps = (1,) * (x.ndim - len(reps)) + reps
    x = np.reshape(x, (1,) * (len(reps) - x.ndim) + x.shape)
    for axis, times in enumerate(reps):
        if times != 1:
            x = np.take(x, np.tile(np.arange(x.shape[axis]), times), axis=axis)
    return x


@composed(np.broadcast_arrays)
def _broadcast_arrays(*arrays):
    shape = np.broadcast_shapes(*map(np.shape, arrays))
    return tuple(np.broadcast_to(a, shape) for a in arrays)


@composed(np.full_like)
def _full_like(a, fill_value, dtype=None):
    return np.broadcast_to(fill_value, np.shape(a)).astype(a.dtype if dtype is None else dtype)


# ---------------------------------------------------------------------------------- order, differences, types

composed(np.fix)(lambda x: np.trunc(x))
composed(np.flipud)(lambda x: np.flip(x, 0))
composed(np.fliplr)(lambda x: np.flip(x, 1))
composed(np.matrix_transpose)(lambda x: np.swapaxes(x, -1, -2))
composed(np.linalg.matrix_transpose)(lambda x: np.swapaxes(x, -1, -2))
composed(np.astype)(lambda x, dtype: x.astype(dtype))
composed(np.ptp)(lambda x, axis=None, *, keepdims=False: (
    np.max(x, axis=axis, keepdims=keepdims) - np.min(x, axis=axis, keepdims=keepdims)
))  # fmt: skip


@composed(np.sort)
def _sort(x, axis=-1):
    if axis is None:
        x, axis = np.ravel(x), 0
    return np.take_along_axis(x, np.argsort(x, axis=axis), axis=axis)


@composed(np.diff)
def _diff(x, n=1, axis=-1):
    before = (slice(None),) * (axis % x.ndim)
    for _ in range(n):
        x = x[(*before, slice(1, None))] - x[(*before, slice(None, -1))]
    return x


# ----------------------------------------------------------------------------------------- products of arrays

composed(np.linalg.matmul)(lambda x, y: np.matmul(x, y))
composed(np.linalg.outer)(lambda x, y: np.outer(x, y))
composed(np.vdot)(lambda x, y: np.dot(np.ravel(x), np.ravel(y)))


@composed(np.vecdot)
def _vecdot(x, y, *, axis=-1):
    _same_sizes(x, y, [(axis, axis)])
    return np.sum(x * y, axis=axis)


def _same_sizes(x, y, axes) -> None:
    """NumPy broadcasts no axis that is summed over."""
    for i, j in axes:
        if np.shape(x)[i] != np.shape(y)[j]:
            raise ValueError(f"axes that are summed over differ in size: shapes {np.shape(x)} and {np.shape(y)}")


@composed(np.inner)
def _inner(x, y):
    return np.multiply(x, y) if np.ndim(x) == 0 or np.ndim(y) == 0 else np.tensordot(x, y, axes=(-1, -1))


@composed(np.tensordot)
def _tensordot(x, y, axes=2):
    nx, ny = np.ndim(x), np.ndim(y)
    if isinstance(axes, (int, np.integer)):
        axes = range(nx - axes, nx), range(axes)
    x_axes, y_axes = ([a] if isinstance(a, (int, np.integer)) else a for a in axes)
    _same_sizes(x, y, zip(x_axes, y_axes, strict=True))
    letters = [chr(ord("a") + i) for i in range(nx + ny)]
    x_term, y_term = letters[:nx], letters[nx:]
    for i, j in zip(x_axes, y_axes, strict=True):
        y_term[j] = x_term[i]
    output = [c for c in x_term + y_term if (c in x_term) != (c in y_term)]
    pattern = f"{''.join(x_term)},{''.join(y_term)}->{''.join(output)}"
    return np.einsum(pattern, x, y, optimize=True)
