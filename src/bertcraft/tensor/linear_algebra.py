"""Derivatives of products of matrices and of ``np.linalg``: the second part of the table.

The identities are those of M. Giles, "Collected matrix derivative results for forward and reverse mode
algorithmic differentiation" (2008). Leading axes are batches, as in NumPy.
"""

import math
import string

import numpy as np

from bertcraft.tensor.arguments import is_jax
from bertcraft.tensor.derivatives import general, spread, variadic
from bertcraft.tensor.gradient import narrow, unbroadcast, wide
from bertcraft.tensor.tensor import Tensor

MINORS = 4  # rows of a matrix up to which minors are its determinant's derivative under JAX

# --------------------------------------------------------------------------------------------------- products


def _matmul_x(g, z, x, y):
    if np.ndim(y) == 1:
        return unbroadcast(g[..., None] * y, x.shape)
    if x.ndim == 1:
        return unbroadcast(np.matmul(y, g[..., None])[..., 0], x.shape)
    return unbroadcast(np.matmul(g, np.swapaxes(y, -1, -2)), x.shape)


def _matmul_y(g, z, x, y):
    if y.ndim == 1:
        return unbroadcast(g[..., None] * x, y.shape)
    if np.ndim(x) == 1:
        return unbroadcast(np.expand_dims(x, 1) * g[..., None, :], y.shape)
    if y.ndim == 2 and np.ndim(x) > 2:  # one product over all rows, not one a batch element and their sum
        *batch, width = np.shape(x)
        rows = math.prod(batch)
        x, g = np.reshape(x, (rows, width)), np.reshape(g, (rows, g.shape[-1]))
    return unbroadcast(np.matmul(np.swapaxes(x, -1, -2), g), y.shape)


def _dot_back(i, g, x, y):
    if np.ndim(x) == 0 or np.ndim(y) == 0:
        return unbroadcast(g * (x, y)[1 - i], (x, y)[i].shape)
    if np.ndim(x) > 2 or np.ndim(y) > 2:
        raise TypeError("np.dot has a derivative for vectors and matrices only: np.tensordot(x, y, (-1, -2)) is the same product")
    return (_matmul_x, _matmul_y)[i](g, None, x, y)


general(np.matmul, _matmul_x, _matmul_y)
general(np.dot, lambda g, z, x, y: _dot_back(0, g, x, y), lambda g, z, x, y: _dot_back(1, g, x, y))
general(
    np.outer,
    lambda g, z, x, y: np.reshape(np.matmul(g, np.ravel(y)), x.shape),
    lambda g, z, x, y: np.reshape(np.matmul(np.ravel(x), g), y.shape),
)


def _explicit(pattern: str, arrays) -> tuple[list[str], str]:
    """The terms of an einsum pattern and its output, both written out, with letters in place of dots."""
    inputs, arrow, output = pattern.replace(" ", "").partition("->")
    terms = inputs.split(",")
    free = [letter for letter in string.ascii_letters if letter not in pattern]
    widths = [np.ndim(array) - len(term.replace("...", "")) for term, array in zip(terms, arrays, strict=True)]
    dots = "".join(free[: max((w for w, term in zip(widths, terms, strict=True) if "..." in term), default=0)])
    terms = [term.replace("...", dots[len(dots) - w :]) for w, term in zip(widths, terms, strict=True)]
    if arrow:
        return terms, output.replace("...", dots)
    letters = "".join(terms)
    return terms, dots + "".join(sorted(c for c in set(letters) if letters.count(c) == 1 and c not in dots))


def _lettered(*arguments) -> tuple[str, tuple]:
    """The pattern and the operands of ``np.einsum(x, [0, 1], y, [1, 2], [0, 2])``, its spelling with lists of axes."""
    letters = string.ascii_uppercase + string.ascii_lowercase  # sorted, as the axes of an output left out are
    terms = ["".join("..." if axis is Ellipsis else letters[axis] for axis in axes) for axes in arguments[1::2]]
    pattern, arrays = ",".join(terms), arguments[::2]
    if len(arguments) % 2:
        pattern += "->" + "".join("..." if axis is Ellipsis else letters[axis] for axis in arguments[-1])
        arrays = arrays[:-1]
    return pattern, arrays


def _einsum_back(i, g, z, pattern, *arrays, optimize=False):
    """Contract the gradient with the other operands; an axis that only this operand had is spread again."""
    if not isinstance(pattern, str):
        (pattern, arrays), i = _lettered(pattern, *arrays), i // 2 + 1
    terms, output = _explicit(pattern, arrays)
    mine, others, x = terms[i - 1], terms[: i - 1] + terms[i:], arrays[i - 1]
    if len(set(mine)) != len(mine):
        raise TypeError(f"np.einsum has no derivative for a repeated index in one operand, got {pattern!r}")
    reachable = "".join(letter for letter in mine if letter in output or any(letter in term for term in others))
    rest = arrays[: i - 1] + arrays[i:]
    part = np.einsum(",".join([output, *others]) + "->" + reachable, g, *rest, optimize=optimize)
    lone = tuple(k for k, letter in enumerate(mine) if letter not in reachable)
    part = unbroadcast(np.expand_dims(part, lone), tuple(1 if k in lone else n for k, n in enumerate(x.shape)))
    return np.broadcast_to(part, x.shape)


variadic(np.einsum, _einsum_back)

# ----------------------------------------------------------------------------------- norms, inverses, systems


def _norm_back(g, z, x, ord=None, axis=None, keepdims=False):
    """Of the 2-norm of all elements, or along axes; slope 0 where the norm is 0."""
    vector = x.ndim == 1 if axis is None else np.ndim(axis) == 0 or len(axis) == 1
    if not (ord is None or (ord == 2 and vector) or (ord == "fro" and not vector)):
        raise TypeError(f"np.linalg.norm has a derivative for the 2-norm of the elements only, got ord={ord!r}")
    dtype, x = x.dtype, wide(x)
    if dtype == np.float16:  # NumPy's own z may be inf, as it sums squares in float16
        z = np.linalg.norm(x, axis=axis, keepdims=keepdims)
    with np.errstate(divide="ignore", invalid="ignore"):  # masked last: the slope of the slope at 0 is nan, not 0
        back = np.where(spread(np.equal(z, 0), x, axis, keepdims), 0, spread(wide(g) / z, x, axis, keepdims) * x)
    return narrow(back, dtype)


def _inv_back(g, z, x):
    zt = np.swapaxes(z, -1, -2)
    return -np.matmul(np.matmul(zt, g), zt)


def _solve_b(g, z, a, b):
    transposed = np.swapaxes(a, -1, -2)
    if np.ndim(b) == 1:
        return unbroadcast(np.linalg.solve(transposed, g[..., None])[..., 0], b.shape)
    return unbroadcast(np.linalg.solve(transposed, g), b.shape)


def _solve_a(g, z, a, b):
    transposed = np.swapaxes(a, -1, -2)
    if np.ndim(b) == 1:
        g, z = g[..., None], z[..., None]
    return unbroadcast(-np.matmul(np.linalg.solve(transposed, g), np.swapaxes(z, -1, -2)), a.shape)


general(np.linalg.norm, _norm_back)
general(np.linalg.inv, _inv_back)
general(np.linalg.solve, _solve_a, _solve_b)
general(np.linalg.det, lambda g, z, x: g[..., None, None] * _cofactors(z, x))


def _cofactors(z, x):
    """The derivative of a determinant z: by the inverse or, where a matrix is (nearly) singular, by all its minors."""
    value = x.value if type(x) is Tensor else x
    small = is_jax(value) and x.shape[-1] <= MINORS  # under jax.jit no value can be asked
    if not small and (is_jax(value) or not _singular(value, z)):
        return z[..., None, None] * np.swapaxes(np.linalg.inv(x), -1, -2)
    n = x.shape[-1]
    others = np.array([[j for j in range(n) if j != i] for i in range(n)], int).reshape(n, n - 1)
    minors = np.linalg.det(x[..., others[:, None, :, None], others[None, :, None, :]])
    return minors * (1 - 2 * (np.indices((n, n)).sum(0) % 2)).astype(x.dtype)


def _singular(x, z) -> bool:
    """Whether half of the digits of an inverse of these matrices would be lost, or their determinants z have none."""
    if x.size == 0:
        return False
    determinants = z.value if type(z) is Tensor else z
    if np.any(determinants == 0) or not np.all(np.isfinite(determinants)):
        return True
    try:
        condition = np.linalg.norm(x, axis=(-2, -1)) * np.linalg.norm(np.linalg.inv(x), axis=(-2, -1))
    except np.linalg.LinAlgError:
        return True
    return bool(np.any(condition > np.finfo(x.dtype).eps ** -0.5))
