"""For every function that can be differentiated: how to call it, torch's equivalent, and where it is smooth.

``ELEMENTWISE`` maps a function to (torch's function, a range of each argument). ``OTHERS`` maps a function to calls:
(NumPy code, torch code or None, shapes of the arguments).
"""

import numpy as np
import torch

from bertcraft.tensor.functions import _erf, _sigmoid
from bertcraft.tensor.tensor import astype, concatenate, getitem, identity, scatter_add, stack

ANY, POSITIVE, UNIT, OVER_ONE = (-3, 3), (0.3, 3), (-0.9, 0.9), (1.2, 3)
AWAY = (0.3, 3, "sign")  # of either sign, away from 0


def draw(function, shapes, rng):
    """Arguments of an elementwise function, on grids shifted against each other, so that no two elements tie."""
    arrays = []
    for i, ((low, high, *sign), shape) in enumerate(zip(ELEMENTWISE[function][1:], shapes, strict=True)):
        x = np.round((low + (high - low) * rng.random(shape)) * 50) / 50 + 0.004 * (i + 1)
        arrays.append(np.asarray(x * rng.choice([-1, 1], shape) if sign else x))
    return arrays


ELEMENTWISE = {
    np.negative: (torch.neg, ANY),
    np.positive: (torch.positive, ANY),
    np.reciprocal: (torch.reciprocal, AWAY),
    np.square: (torch.square, ANY),
    np.sqrt: (torch.sqrt, POSITIVE),
    np.cbrt: (lambda x: x.sign() * x.abs().pow(1 / 3), AWAY),
    np.exp: (torch.exp, ANY),
    np.exp2: (torch.exp2, ANY),
    np.expm1: (torch.expm1, ANY),
    np.log: (torch.log, POSITIVE),
    np.log2: (torch.log2, POSITIVE),
    np.log10: (torch.log10, POSITIVE),
    np.log1p: (torch.log1p, POSITIVE),
    np.sin: (torch.sin, ANY),
    np.cos: (torch.cos, ANY),
    np.tan: (torch.tan, UNIT),
    np.arcsin: (torch.arcsin, UNIT),
    np.arccos: (torch.arccos, UNIT),
    np.arctan: (torch.arctan, ANY),
    np.sinh: (torch.sinh, ANY),
    np.cosh: (torch.cosh, ANY),
    np.tanh: (torch.tanh, ANY),
    np.arcsinh: (torch.arcsinh, ANY),
    np.arccosh: (torch.arccosh, OVER_ONE),
    np.arctanh: (torch.arctanh, UNIT),
    np.deg2rad: (torch.deg2rad, ANY),
    np.radians: (torch.deg2rad, ANY),
    np.rad2deg: (torch.rad2deg, ANY),
    np.degrees: (torch.rad2deg, ANY),
    np.absolute: (torch.abs, AWAY),
    np.fabs: (torch.abs, AWAY),
    np.nan_to_num: (torch.nan_to_num, ANY),
    np.copy: (torch.clone, ANY),
    identity: (torch.clone, ANY),
    _erf: (torch.erf, ANY),
    _sigmoid: (torch.sigmoid, ANY),
    np.add: (torch.add, ANY, ANY),
    np.subtract: (torch.sub, ANY, ANY),
    np.multiply: (torch.mul, ANY, ANY),
    np.divide: (torch.div, ANY, AWAY),
    np.power: (torch.pow, POSITIVE, ANY),
    np.remainder: (torch.remainder, (5, 6, "sign"), (2.05, 2.4, "sign")),  # no multiples near
    np.fmod: (torch.fmod, (5, 6, "sign"), (2.05, 2.4, "sign")),
    np.logaddexp: (torch.logaddexp, ANY, ANY),
    np.logaddexp2: (torch.logaddexp2, ANY, ANY),
    np.arctan2: (torch.arctan2, AWAY, AWAY),
    np.hypot: (torch.hypot, AWAY, AWAY),
    np.copysign: (torch.copysign, AWAY, AWAY),
    np.maximum: (torch.maximum, ANY, ANY),
    np.minimum: (torch.minimum, ANY, ANY),
    np.clip: (lambda *xs: torch.clamp(*torch.broadcast_tensors(*xs)), ANY, (-1, -0.5), (0.5, 1)),
}
NEVER_TWICE = {np.remainder, np.fmod}  # x % x stands on a jump

_I = np.array([[2, 0, 2], [1, 1, 0]])
_MASK = np.array([[True, False, True, True], [False, False, True, True], [True, True, True, False]])
_T = torch.from_numpy


def _both(f):
    """Code that NumPy and torch spell alike, given the module."""
    return lambda *xs: f(np, *xs), lambda *xs: f(torch, *xs)


def _linalg(name):
    """On a matrix far from singular."""
    return (
        lambda a, *b: getattr(np.linalg, name)(a + 4 * np.eye(3, dtype=a.dtype), *b),
        lambda a, *b: getattr(torch.linalg, name)(a + 4 * torch.eye(3, dtype=a.dtype), *b),
    )


OTHERS = {
    np.where: [
        (lambda x, y: np.where(_MASK, x, y), lambda x, y: torch.where(_T(_MASK), x, y), (3, 4), (4,)),
        (lambda x: np.where(_MASK, x, 0), lambda x: torch.where(_T(_MASK), x, 0), ()),
    ],
    astype: [(lambda x: x.astype(np.float64) * x, lambda x: x.double() * x, (2, 3))],
    np.astype: [(lambda x: np.astype(x, np.float64) * x, lambda x: x.double() * x, (2, 3))],
    np.trace: [
        (*_both(lambda m, x: m.trace(x)), (3, 3)),
        (lambda x: np.trace(x, 1), lambda x: torch.diagonal(x, 1).sum(), (3, 4)),
    ],
    np.diag: [(*_both(lambda m, x, k=k: m.diag(x, k)), shape) for k in (0, 1, -2) for shape in ((4,), (3, 4), (4, 2))],
    np.diagonal: [(*_both(lambda m, x, k=k: m.diagonal(x, k)), (3, 4)) for k in (0, 2, -1)],
    np.fix: [(lambda x: np.fix(3 * x) * x, lambda x: torch.fix(3 * x) * x, (2, 3))],
    np.cumsum: [
        (lambda x: np.cumsum(x), lambda x: torch.cumsum(x.flatten(), 0), (2, 3)),
        *[(*_both(lambda m, x, a=a: m.cumsum(x, a)), (2, 3, 2)) for a in (0, 1, -1)],
        (*_both(lambda m, x: m.cumsum(x, 0)), (0, 3)),
    ],
    np.cumprod: [
        (lambda x: np.cumprod(x), lambda x: torch.cumprod(x.flatten(), 0), (2, 3)),
        *[(*_both(lambda m, x, a=a: m.cumprod(x, a)), (2, 3, 2)) for a in (0, 1, -1)],
        (*_both(lambda m, x: m.cumprod(x, 0)), (0, 3)),
    ],
    np.reshape: [
        (*_both(lambda m, x: m.reshape(x, (4, -1))), (2, 3, 2)),
        (*_both(lambda m, x: m.reshape(x, ())), (1, 1)),
        (*_both(lambda m, x: m.reshape(x, (3, 0))), (0, 2)),
        (lambda x: x.reshape(3, 4), lambda x: x.reshape(3, 4), (2, 6)),
    ],
    np.ravel: [(*_both(lambda m, x: m.ravel(x)), (2, 3)), (*_both(lambda m, x: m.ravel(x)), ())],
    np.squeeze: [
        (*_both(lambda m, x: m.squeeze(x)), (1, 3, 1)),
        (*_both(lambda m, x: m.squeeze(x, 0)), (1, 3, 1)),
    ],
    np.expand_dims: [
        (lambda x: np.expand_dims(x, (0, -1)), lambda x: x[None, ..., None], (2, 3)),
        (lambda x: np.expand_dims(x, 1), lambda x: x[:, None], (2, 3)),
    ],
    np.atleast_1d: [(*_both(lambda m, x: m.atleast_1d(x)), s) for s in ((), (2, 3))],
    np.atleast_2d: [(*_both(lambda m, x: m.atleast_2d(x)), s) for s in ((), (3,), (2, 3, 2))],
    np.atleast_3d: [(*_both(lambda m, x: m.atleast_3d(x)), s) for s in ((), (3,), (2, 3))],
    np.transpose: [
        (lambda x: np.transpose(x, (2, 0, -2)), lambda x: x.permute(2, 0, 1), (2, 3, 4)),
        (lambda x: x.T, lambda x: x.T, (2, 3)),
        (lambda x: x.transpose(1, 2, 0), lambda x: x.permute(1, 2, 0), (2, 3, 4)),
        (lambda x: np.transpose(x), lambda x: x, ()),
    ],
    np.swapaxes: [(*_both(lambda m, x: m.swapaxes(x, 0, -1)), (2, 3, 4))],
    np.matrix_transpose: [(lambda x: np.matrix_transpose(x), lambda x: x.mT, (2, 3, 4))],
    np.linalg.matrix_transpose: [(lambda x: np.linalg.matrix_transpose(x), lambda x: x.mT, (2, 3, 4))],
    np.moveaxis: [
        (*_both(lambda m, x: m.moveaxis(x, 0, -1)), (2, 3, 4)),
        (*_both(lambda m, x: m.moveaxis(x, (0, 1), (2, 0))), (2, 3, 4)),
    ],
    np.broadcast_to: [(*_both(lambda m, x: m.broadcast_to(x, (2, 3, 4))), s) for s in ((), (4,), (3, 1), (1, 3, 4))],
    np.broadcast_arrays: [
        (
            lambda x, y: np.multiply(*np.broadcast_arrays(x, y)),
            lambda x, y: torch.mul(*torch.broadcast_tensors(x, y)),
            (3, 1),
            (4,),
        )
    ],
    np.flip: [
        (lambda x: np.flip(x), lambda x: torch.flip(x, (0, 1)), (2, 3)),
        (*_both(lambda m, x: m.flip(x, (-1,))), (2, 3)),
    ],
    np.flipud: [(*_both(lambda m, x: m.flipud(x)), (2, 3))],
    np.fliplr: [(*_both(lambda m, x: m.fliplr(x)), (2, 3))],
    np.roll: [
        (*_both(lambda m, x: m.roll(x, 2)), (2, 3)),
        (*_both(lambda m, x: m.roll(x, -1, 1)), (2, 3)),
        (*_both(lambda m, x: m.roll(x, (1, 2), (0, 1))), (2, 3)),
        (lambda x: np.roll(x, np.array([True, False]), (0, 1)), lambda x: torch.roll(x, 1, 0), (2, 3)),
    ],
    np.tril: [(*_both(lambda m, x, k=k: m.tril(x, k)), (2, 3, 4)) for k in (0, 1, -1)],
    np.triu: [
        *[(*_both(lambda m, x, k=k: m.triu(x, k)), (2, 3, 4)) for k in (0, 1, -1)],
    ],
    getitem: [
        (lambda x: x[_I], lambda x: x[_T(_I)], (3, 4)),
        (lambda x: x[..., 1:, None, -1], lambda x: x[..., 1:, None, -1], (2, 3, 4)),
        (lambda x: x[_MASK], lambda x: x[_T(_MASK)], (3, 4)),
    ],
    scatter_add: [
        (
            lambda x: scatter_add(x, (_I,), (4, 2)),
            lambda x: torch.zeros(4, 2, dtype=x.dtype).index_put((_T(_I),), x, accumulate=True),
            (2, 3, 2),
        ),
        (
            lambda x: scatter_add(x, (slice(1, 3),), (4, 2)),
            lambda x: torch.nn.functional.pad(x, (0, 0, 1, 1)),
            (2, 2),
        ),
    ],
    np.take: [
        (lambda x: np.take(x, _I), lambda x: torch.take(x, _T(_I)), (3, 4)),
        (lambda x: np.take(x, _I, axis=1), lambda x: x[:, _T(_I)], (2, 3, 4)),
        (lambda x: x.take([-1, 0], axis=-1), lambda x: x[..., [-1, 0]], (2, 3)),
        (lambda x: np.take(x, 1, 0), lambda x: x[1], (2, 3)),
        *[  # booleans are 0 and 1 here, and no mask
            (lambda x, i=i: np.take(x, i, axis=1), lambda x, i=i: x[:, _T(np.asarray(i, int))], (2, 3))
            for i in (np.array([True, True]), np.array([[True, False, True]]), [True, False], True, np.True_)
        ],
        (lambda x: np.take(x, x > 0), lambda x: torch.take(x, (x > 0).long()), (2, 3)),
    ],
    np.take_along_axis: [
        (lambda x: np.take_along_axis(x, _I, 1), lambda x: torch.take_along_dim(x, _T(_I), 1), (2, 4)),
        (lambda x: np.take_along_axis(x, _I, -1), lambda x: torch.take_along_dim(x, _T(_I), 1), (1, 4)),
        (
            lambda x: np.take_along_axis(x, _I[:1], axis=1),
            lambda x: torch.take_along_dim(x, _T(_I[:1]), 1),
            (3, 3),
        ),
        (
            lambda x: np.take_along_axis(x, _I[0], axis=None),
            lambda x: torch.take_along_dim(x, _T(_I[0])),
            (2, 3),
        ),
    ],
    np.repeat: [
        (lambda x: np.repeat(x, 2), lambda x: torch.repeat_interleave(x, 2), (2, 3)),
        (lambda x: np.repeat(x, 3, axis=-1), lambda x: torch.repeat_interleave(x, 3, -1), (2, 3)),
        (
            lambda x: np.repeat(x, [2, 0, 1], axis=1),
            lambda x: torch.repeat_interleave(x, torch.tensor([2, 0, 1]), 1),
            (2, 3),
        ),
    ],
    np.tile: [
        (lambda x: np.tile(x, 2), lambda x: torch.tile(x, (2,)), (2, 3)),
        (lambda x: np.tile(x, (2, 1, 3)), lambda x: torch.tile(x, (2, 1, 3)), (2, 3)),
        (lambda x: np.tile(x, (2, 0)), lambda x: torch.tile(x, (2, 0)), (3,)),
    ],
    np.pad: [
        (lambda x: np.pad(x, 1), lambda x: torch.nn.functional.pad(x, (1, 1, 1, 1)), (2, 3)),
        (
            lambda x: np.pad(x, ((0, 2), (1, 0)), constant_values=3.0),
            lambda x: torch.nn.functional.pad(x, (1, 0, 0, 2), value=3.0),
            (2, 3),
        ),
    ],
    np.concatenate: [
        (lambda x, y: np.concatenate([x, y], axis=-1), lambda x, y: torch.cat([x, y], -1), (2, 3), (2, 1)),
        (lambda x, y: np.concatenate((x, y, x)), lambda x, y: torch.cat([x, y, x]), (2, 3), (0, 3)),
        (
            lambda x, y: np.concatenate([x, np.ones(2, x.dtype), y], axis=None),
            lambda x, y: torch.cat([x.flatten(), torch.ones(2, dtype=x.dtype), y.flatten()]),
            (2, 3),
            (1, 2),
        ),
    ],
    np.stack: [
        (lambda x, y: np.stack([x, y]), lambda x, y: torch.stack([x, y]), (2, 3), (2, 3)),
        (lambda x, y: np.stack([x, y, x], -1), lambda x, y: torch.stack([x, y, x], -1), (2, 3), (2, 3)),
        (lambda x, y: np.stack([x, y], 1), lambda x, y: torch.stack([x, y], 1), (2, 3), (2, 3)),
    ],
    np.vstack: [(*_both(lambda m, x, y: m.vstack([x, y])), (3,), (2, 3))],
    np.dstack: [(*_both(lambda m, x, y: m.dstack([x, y])), (2, 3), (2, 3))],
    np.hstack: [
        (*_both(lambda m, x, y: m.hstack([x, y])), (3,), (2,)),
        (*_both(lambda m, x, y: m.hstack([x, y])), (2, 3), (2, 1)),
    ],
    np.column_stack: [(*_both(lambda m, x, y: m.column_stack([x, y])), (3,), (3, 2))],
    np.append: [
        (lambda x, y: np.append(x, y), lambda x, y: torch.cat([x.flatten(), y.flatten()]), (2, 2), (3,)),
        (lambda x, y: np.append(x, y, axis=0), lambda x, y: torch.cat([x, y]), (2, 2), (1, 2)),
    ],
    np.split: [
        (lambda x: np.multiply(*np.split(x, 2, axis=1)), lambda x: torch.mul(*x.split(2, 1)), (3, 4)),
        (
            lambda x: np.concatenate(np.split(x, [1, 3])[::-1]),
            lambda x: torch.cat([x[3:], x[1:3], x[:1]]),
            (4, 2),
        ),
    ],
    np.array_split: [
        (
            lambda x: np.concatenate(np.array_split(x, 3)[::-1]),
            lambda x: torch.cat(torch.tensor_split(x, 3)[::-1]),
            (4, 2),
        )
    ],
    np.full_like: [
        (lambda x, y: np.full_like(x, y) * x, lambda x, y: y * x, (2, 3), ()),
        (lambda x: np.full_like(x, 2.0) * x, lambda x: 2 * x, (2, 3)),
    ],
    np.ptp: [
        (lambda x: np.ptp(x), lambda x: x.max() - x.min(), (3, 4)),
        (lambda x: np.ptp(x, 1, keepdims=True), lambda x: x.amax(1, True) - x.amin(1, True), (3, 4)),
    ],
    np.sort: [
        (lambda x: np.sort(x), lambda x: x.sort(-1).values, (3, 4)),
        (lambda x: np.sort(x, axis=0), lambda x: x.sort(0).values, (3, 4)),
        (lambda x: np.sort(x, axis=None), lambda x: x.flatten().sort().values, (3, 4)),
    ],
    np.diff: [
        (lambda x: np.diff(x), lambda x: torch.diff(x), (3, 4)),
        (lambda x: np.diff(x, 2, axis=0), lambda x: torch.diff(x, 2, 0), (4, 2)),
    ],
    np.outer: [(*_both(lambda m, x, y: m.outer(x, y)), (3,), (4,))],
    np.linalg.outer: [(lambda x, y: np.linalg.outer(x, y), torch.outer, (3,), (4,))],
    np.linalg.matmul: [(lambda x, y: np.linalg.matmul(x, y), torch.matmul, (2, 3), (3, 2))],
    np.dot: [
        (lambda x, y: np.dot(x, y), lambda x, y: torch.matmul(x, y), *shapes)
        for shapes in (((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 3), (3, 4)))
    ]
    + [(lambda x, y: x.dot(y), lambda x, y: x * y, (), (2, 3))],
    np.inner: [
        (*_both(lambda m, x, y: m.inner(x, y)), *shapes)
        for shapes in (((3,), (3,)), ((2, 3), (3,)), ((2, 3), (4, 3)), ((), (2, 3)))
    ],
    np.vdot: [(lambda x, y: np.vdot(x, y), lambda x, y: (x.flatten() * y.flatten()).sum(), (2, 3), (3, 2))],
    np.vecdot: [(lambda x, y: np.vecdot(x, y), torch.linalg.vecdot, (2, 3), (3,))],
    np.tensordot: [
        (lambda x, y: np.tensordot(x, y), lambda x, y: torch.tensordot(x, y), (2, 3, 4), (3, 4, 2)),
        (lambda x, y: np.tensordot(x, y, 1), lambda x, y: torch.tensordot(x, y, 1), (2, 3), (3, 4)),
        (lambda x, y: np.tensordot(x, y, 0), lambda x, y: torch.tensordot(x, y, 0), (2,), (3,)),
        (
            lambda x, y: np.tensordot(x, y, ((0, -1), (1, 0))),
            lambda x, y: torch.tensordot(x, y, ((0, 2), (1, 0))),
            (2, 3, 4),
            (4, 2),
        ),
    ],
    np.linalg.norm: [
        (lambda x: np.linalg.norm(x), lambda x: torch.linalg.norm(x), (2, 3)),
        (lambda x: np.linalg.norm(x, 2, -1), lambda x: torch.linalg.norm(x, 2, -1), (2, 3)),
        (lambda x: np.linalg.norm(x, "fro"), lambda x: torch.linalg.norm(x, "fro"), (2, 3)),
        (
            lambda x: np.linalg.norm(x, axis=(0, 2), keepdims=True),
            lambda x: torch.linalg.norm(x, dim=(0, 2), keepdim=True),
            (2, 3, 2),
        ),
    ],
    np.linalg.inv: [(*_linalg("inv"), shape) for shape in ((3, 3), (2, 3, 3), (0, 3, 3))],
    np.linalg.det: [(*_linalg("det"), shape) for shape in ((3, 3), (2, 3, 3), (0, 3, 3))],
    np.linalg.solve: [
        (*_linalg("solve"), *shapes) for shapes in (((3, 3), (3,)), ((3, 3), (3, 2)), ((2, 3, 3), (3, 2)), ((2, 3, 3), (2, 3, 1)))
    ],
    # np.matmul, np.einsum and the reductions: test_products.py and test_reductions.py draw more of their forms
    np.matmul: [
        (lambda x, y: x @ y, torch.matmul, (2, 3), (3, 4)),
        (lambda x: x @ x.T, lambda x: x @ x.T, (2, 3)),
    ],
    np.einsum: [
        (*_both(lambda m, x, y: m.einsum("bhid,bhjd->bhij", x, y)), (2, 2, 3, 4), (2, 2, 5, 4)),
        (*_both(lambda m, x: m.einsum("ij->j", x)), (2, 3)),
        (*_both(lambda m, x, y: m.einsum(x, [0, 1], y, [1, 2], [0, 2])), (2, 3), (3, 4)),
        (*_both(lambda m, x, y: m.einsum(x, [30, 1], y, [1, 2])), (2, 3), (3, 4)),  # the output left out: [2, 30]
        (*_both(lambda m, x, y: m.einsum(x, [..., 0, 1], y, [1, 2], [..., 2])), (2, 2, 3), (3, 4)),
    ],
}
REDUCTIONS = {  # function -> torch's over a tuple of axes
    np.sum: lambda x, axes, keep: torch.sum(x, axes, keep),
    np.mean: lambda x, axes, keep: torch.mean(x, axes, keep),
    np.var: lambda x, axes, keep: torch.var(x, axes, correction=0, keepdim=keep),
    np.std: lambda x, axes, keep: torch.std(x, axes, correction=0, keepdim=keep),
    np.max: lambda x, axes, keep: torch.amax(x, axes, keep),
    np.amax: lambda x, axes, keep: torch.amax(x, axes, keep),
    np.min: lambda x, axes, keep: torch.amin(x, axes, keep),
    np.amin: lambda x, axes, keep: torch.amin(x, axes, keep),
    np.prod: lambda x, axes, keep: _prod(x, axes, keep),
}


def _prod(x, axes, keep):
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keep)
    return x


OTHERS |= {
    f: [
        (lambda x, f=f: f(x, axis=1), lambda x, t=t: t(x, (1,), False), (2, 3)),
        (lambda x, f=f: f(x), lambda x, t=t: t(x, (0, 1), False), (2, 3)),
    ]
    for f, t in REDUCTIONS.items()
}
# The functions that take a list are remembered as ones that take separate arguments.
OTHERS |= {concatenate: OTHERS[np.concatenate], stack: OTHERS[np.stack]}


def calls():
    """(name, NumPy code, torch code, arrays) of every call of OTHERS."""
    for function, forms in OTHERS.items():
        for number, (code, reference, *shapes) in enumerate(forms):
            rng = np.random.default_rng(number)
            yield (
                f"{function.__name__}-{number}",
                code,
                reference,
                [np.asarray(rng.standard_normal(s)) for s in shapes],
            )
