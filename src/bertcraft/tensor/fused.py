"""Fast kernels for the functions of :mod:`bertcraft.tensor.functions`: pure optimisation.

What they do better than the definitions: work in blocks, in place, in memory used before; and
compute in the forward pass what the backward pass would need again. A kernel returns ``(value, backward)``, see
:func:`bertcraft.tensor.kernels.fusable`. ``backward`` may reuse what the kernel kept and may overwrite nothing else; the
arrays it returns belong to the caller.
"""

import math

import numpy as np

from bertcraft.tensor import functions as F
from bertcraft.tensor.kernels import kernel
from bertcraft.tensor.scattered import Scattered
from bertcraft.tensor.workspace import empty

_BLOCK = 1 << 17  # elements worked on at a time; smaller blocks would fit a nearer cache, but hand the interpreter
# to and fro between the threads more often than that saves


def _blocks(rows: int, columns: int):
    """Slices of rows, each about _BLOCK elements."""
    step = max(1, _BLOCK // max(columns, 1))
    return [slice(start, min(rows, start + step)) for start in range(0, rows, step)]


def floats(*arrays) -> bool:
    """Whether all arrays are of one type, float32 or float64 (what the kernels are written for)."""
    dtype = arrays[0].dtype
    return dtype in (np.float32, np.float64) and all(type(a) is np.ndarray and a.dtype == dtype for a in arrays)


def _rows(x):
    return x.reshape(-1, x.shape[-1])


def _matrix(weight) -> bool:
    return type(weight) is np.ndarray and weight.ndim == 2


def _of_width(x, *vectors) -> bool:
    """Whether all are vectors, one number a column of x: others are broadcast, which the definitions do."""
    return all(type(vector) is np.ndarray and vector.shape == x.shape[-1:] for vector in vectors)


def _integers(ids) -> bool:
    """Whether these are row numbers; booleans as an index are a mask."""
    return type(ids) is np.ndarray and ids.dtype.kind in "iu"


def _times_vector(x, y):
    """x @ y of a matrix and a vector, without a warning that is not one.

    OpenBLAS's kernel for AVX-512 and matrices of five columns lets a few processes in a hundred see a flag of "invalid",
    from numbers that it then drops. The result is right.
    """
    with np.errstate(invalid="ignore"):
        return x @ y


def _column_sum(x):
    """Sum over rows as a vector-matrix product, which reads x once."""
    return _times_vector(np.ones(len(x), x.dtype), x)


# ---------------------------------------------------------------------------------------------------------- linear


@kernel(F.linear)
def linear(needs, x, weight, bias=None):
    if x.ndim < 2 or x.shape[-1] == 0 or not _matrix(weight) or not floats(x, weight):
        return NotImplemented
    if bias is not None and not (floats(x, bias) and bias.shape == weight.shape[:1]):
        return NotImplemented
    flat = _rows(x)
    out = empty((len(flat), len(weight)), x.dtype)
    np.matmul(flat, weight.T, out=out)
    if bias is not None:
        out += bias

    def backward(g):
        g = _rows(g)
        dx = dw = None
        if needs[0]:
            dx = np.matmul(g, weight, out=empty(flat.shape, g.dtype)).reshape(x.shape)
        if needs[1]:
            dw = np.matmul(g.T, flat, out=empty(weight.shape, g.dtype))
        return (dx, dw, _column_sum(g))[: len(needs)]

    return out.reshape(*x.shape[:-1], len(weight)), backward


# ------------------------------------------------------------------------------------------------------ activations


def _blockwise(activation):
    """A kernel that walks over x in blocks.

    ``activation(x, y, d, scratch)`` writes the value into y and the derivative into d (unless it is None); scratch holds two
    rows of memory to work in: temporaries of this size would be fetched from the operating system again and again.
    """

    def fast(needs, x):
        if not floats(x) or x.ndim == 0:
            return NotImplemented
        flat = np.ascontiguousarray(x).reshape(-1)
        y = empty(flat.shape, x.dtype)
        d = empty(flat.shape, x.dtype) if needs[0] else None
        scratch = empty((2, min(len(flat), _BLOCK)), x.dtype)
        with np.errstate(over="ignore"):
            for start in range(0, len(flat), _BLOCK):
                part = slice(start, start + _BLOCK)
                block = flat[part]
                activation(block, y[part], None if d is None else d[part], scratch[:, : len(block)])

        shape = x.shape  # and not x, which would be kept

        def backward(g):
            return (np.multiply(d.reshape(shape), g, out=d.reshape(shape)),)

        return y.reshape(shape), backward

    return fast


_C = math.sqrt(2 / math.pi)


def _gelu_tanh_block(x, y, d, scratch):
    """x sigma with sigma = (1 + tanh u) / 2 and u = c (x + 0.044715 x^3) (Hendrycks & Gimpel 2016, section 2)."""
    s = scratch[0]
    square = s if d is None else d
    np.multiply(x, x, out=square)
    np.multiply(square, _C * 0.044715, out=s)
    s += _C
    s *= x
    np.tanh(s, out=s)
    s += 1
    s *= 0.5
    np.multiply(x, s, out=y)
    if d is not None:  # sigma + x sigma (1 - sigma) 2u' = 1 - (1 - sigma) (1 - y 2u')
        d *= 6 * _C * 0.044715
        d += 2 * _C
        d *= y
        np.subtract(1, d, out=d)
        np.subtract(1, s, out=s)
        d *= s
        np.subtract(1, d, out=d)


# log Phi(-a) for a >= 0, highest power first, fitted so that the largest error of max(a, 1) Phi(-a) is smallest: 6.4e-7.
# The sign of the highest power takes exp of it to 0 for large a, as it must be.
_LOG_PHI = (-3.467636662e-04, 5.047814229e-03, -3.628166651e-02, -3.184415051e-01, -7.978484976e-01, -6.931484663e-01)
_LOG_ROOT = 0.5 * math.log(2 * math.pi)


def _gelu_block(x, y, d, scratch):
    """x Phi(x) = max(x, 0) - a Phi(-a) with a = |x|: one exp, and no quotient."""
    a, q = scratch
    np.absolute(x, out=a)
    np.multiply(a, _LOG_PHI[0], out=q)
    for coefficient in _LOG_PHI[1:-1]:
        q += coefficient
        q *= a
    q += _LOG_PHI[-1]
    np.exp(q, out=q)
    np.maximum(x, 0, out=y)
    if d is None:
        q *= a
        y -= q
        return
    np.multiply(a, q, out=d)
    y -= d
    np.multiply(a, a, out=d)  # the slope r at -a is Phi(-a) - a phi(a), and at a it is 1 - r
    d *= -0.5
    d -= _LOG_ROOT
    np.exp(d, out=d)
    d *= a
    d -= q
    d += 0.5
    np.copysign(d, x, out=d)
    d += 0.5


kernel(F.gelu_tanh)(_blockwise(_gelu_tanh_block))
_gelu32 = _blockwise(_gelu_block)


@kernel(F.gelu)
def gelu(needs, x):
    return _gelu32(needs, x) if x.dtype == np.float32 else NotImplemented


# --------------------------------------------------------------------------------------------------- normalisation


def _normalise(s, weight, bias, eps, out, scale):
    """Normalise the rows of s in place, keep 1/deviation in ``scale``, write the affine result into ``out``.

    Without a bias the mean stays: RMSNorm.
    """
    if bias is not None:
        mean = np.full(s.shape[1], 1 / s.shape[1], s.dtype)
        s -= _times_vector(s, mean)[:, None]
    np.vecdot(s, s, out=scale)
    scale *= 1 / s.shape[1]
    scale += eps
    np.sqrt(scale, out=scale)
    np.reciprocal(scale, out=scale)
    s *= scale[:, None]
    np.multiply(s, weight, out=out)
    if bias is not None:
        out += bias


def _normalise_back(g, hat, weight, scale, dx, centred):
    """Gradient of the rows; returns those of weight and bias (Ba et al. 2016, differentiated; uncentred: RMSNorm's)."""
    scratch = np.multiply(g, hat, out=empty(g.shape, g.dtype))
    dw, db = _column_sum(scratch), _column_sum(g) if centred else None
    np.multiply(g, weight, out=dx)
    if centred:
        dx -= _times_vector(dx, np.full(g.shape[1], 1 / g.shape[1], g.dtype))[:, None]
    dx -= np.multiply(hat, _times_vector(scratch, weight / g.shape[1])[:, None], out=scratch)
    dx *= scale[:, None]
    return dw, db


def dropout_mask(shape, rate, rng, dtype):
    """Dropout's mask times 1 / (1 - rate), as floats."""
    return np.multiply(F.keep_mask(shape, rate, rng), dtype.type(1 / (1 - rate)), out=empty(shape, dtype))


def _norm_by_blocks(shape, weight, bias, eps, fill, keep):
    """Normalise rows that ``fill(part, rows)`` writes, block by block. Returns the result and the way back to the rows.

    The way back needs ``keep``: the rows before weight and bias are then kept beside the result, not overwritten by it.
    """
    out = empty(shape, weight.dtype)
    hat = empty(shape, weight.dtype) if keep else out
    flat_hat, flat_out = _rows(hat), _rows(out)
    scale = np.empty(len(flat_hat), weight.dtype)
    parts = _blocks(*flat_hat.shape)
    for part in parts:
        fill(part, flat_hat[part])
        _normalise(flat_hat[part], weight, bias, eps, flat_out[part], scale[part])

    def back(g):
        g = _rows(g)
        centred = bias is not None
        dx, dw, db = empty(g.shape, g.dtype), np.zeros_like(weight), np.zeros_like(bias) if centred else None
        for part in parts:
            w, b = _normalise_back(g[part], flat_hat[part], weight, scale[part], dx[part], centred)
            dw += w
            if centred:
                db += b
        return dx.reshape(shape), dw, db

    return out, back


@kernel(F.layer_norm)
def layer_norm(needs, x, weight, bias, eps=1e-12):
    if x.ndim < 2 or not floats(x, weight, bias) or not _of_width(x, weight, bias):
        return NotImplemented
    rows = _rows(x)
    return _norm_by_blocks(x.shape, weight, bias, eps, lambda part, s: np.copyto(s, rows[part]), any(needs))


@kernel(F.rms_norm)
def rms_norm(needs, x, weight, eps=None):
    if x.ndim < 2 or not floats(x, weight) or not _of_width(x, weight):
        return NotImplemented
    rows, eps = _rows(x), float(np.finfo(x.dtype).eps) if eps is None else eps
    out, back = _norm_by_blocks(x.shape, weight, None, eps, lambda part, s: np.copyto(s, rows[part]), any(needs))
    return out, lambda g: back(g)[:2]


@kernel(F.add_layer_norm)
def add_layer_norm(needs, x, y, weight, bias, eps=1e-12, rate=0.0, rng=None):
    same = y.shape == x.shape
    one_for_all = x.ndim == 3 and y.shape == x.shape[1:] and rng is None  # position embeddings: one for all texts
    if x.ndim < 2 or not (same or one_for_all) or not floats(x, y, weight, bias) or not _of_width(x, weight, bias):
        return NotImplemented
    mask = dropout_mask(y.shape, rate, rng, y.dtype) if rng is not None and rate > 0 else None
    flat_x, flat_y = _rows(x), _rows(y if same else np.broadcast_to(y, x.shape))

    def fill(part, s):
        if mask is None:
            np.add(flat_x[part], flat_y[part], out=s)
        else:
            np.multiply(flat_y[part], _rows(mask)[part], out=s)
            s += flat_x[part]

    out, back = _norm_by_blocks(x.shape, weight, bias, eps, fill, any(needs))

    def backward(g):
        dx, dw, db = back(g)
        if not same:
            return dx, dx.sum(axis=0), dw, db
        return dx, dx if mask is None else np.multiply(mask, dx, out=mask), dw, db

    return out, backward


# -------------------------------------------------------------------------------------------------- embedding, losses


@kernel(F.embedding)
def embedding(needs, weight, ids, padding_id=None):
    if not _integers(ids) or not _matrix(weight) or not floats(weight):
        return NotImplemented
    out = np.take(weight, ids, axis=0)
    shape = weight.shape

    def backward(g):
        flat, rows = ids.reshape(-1), g.reshape(-1, shape[1])
        if padding_id is not None:
            real = flat != padding_id
            if not real.all():
                flat, rows = flat[real], rows[real]
        flat = flat.astype(np.intp) % shape[0]  # -1 is the last row: gradients are summed by one number a row
        return Scattered(shape, flat, rows), None

    return out, backward


@kernel(F.take_positions)
def take_positions(needs, x, at):
    if not _integers(at) or x.ndim != 3 or not floats(x):
        return NotImplemented
    batch, length, hidden = x.shape
    at = at.astype(np.intp)  # int8 has no 200
    within = np.where(at < 0, at + length, at)
    if within.size and (within.min() < 0 or within.max() >= length):
        return NotImplemented  # the definition says what is wrong
    out, back = embedding(needs, x.reshape(-1, hidden), within + np.arange(batch)[:, None] * length)
    return out, lambda g: (back(g)[0].dense().reshape(batch, length, hidden), None)


def _cross_entropy_rows(logits, labels):
    """Losses of the rows; the logits are overwritten by their gradient, softmax minus one-hot."""
    losses = np.empty(len(logits), logits.dtype)
    for part in _blocks(*logits.shape):
        z, label = logits[part], labels[part]
        z -= z.max(axis=-1, keepdims=True)
        rows = np.arange(len(z))
        chosen = z[rows, label]
        np.exp(z, out=z)
        total = z.sum(axis=-1, keepdims=True)
        losses[part] = np.log(total[:, 0]) - chosen
        z *= np.reciprocal(total)
        z[rows, label] -= 1
    return losses


@kernel(F.linear_cross_entropy)
def linear_cross_entropy(needs, x, weight, bias, labels):
    if not _integers(labels) or not floats(x, weight, bias) or not _matrix(weight) or bias.shape != weight.shape[:1]:
        return NotImplemented
    F.check_labels(labels, (*x.shape[:-1], len(weight)))
    counted = np.flatnonzero(labels.reshape(-1) != F.IGNORED)
    flat = _rows(x) if len(counted) == labels.size else _rows(x)[counted]
    chosen = labels.reshape(-1)[counted]
    logits = empty((len(flat), len(weight)), x.dtype)
    np.matmul(flat, weight.T, out=logits)
    logits += bias
    losses = _cross_entropy_rows(logits, chosen)
    number = max(len(counted), 1)

    def backward(g):
        factor = g / number  # on the narrow factors of the products, not on the wide gradient of the logits
        dx = np.matmul(logits, weight, out=empty(flat.shape, x.dtype))
        dx *= factor
        if len(counted) != labels.size:
            full = np.zeros_like(_rows(x))
            full[counted] = dx
            dx = full
        dw = np.matmul(logits.T, flat * factor, out=empty(weight.shape, x.dtype)) if needs[1] else None
        return dx.reshape(x.shape), dw, _column_sum(logits) * factor if needs[2] else None, None

    return losses.sum() / x.dtype.type(number), backward


@kernel(F.cross_entropy)
def cross_entropy(needs, logits, labels):
    if not _integers(labels) or not floats(logits) or logits.ndim < 2:
        return NotImplemented
    F.check_labels(labels, logits.shape)
    counted = np.flatnonzero(labels.reshape(-1) != F.IGNORED)
    z = _rows(logits)[counted]
    losses = _cross_entropy_rows(z, labels.reshape(-1)[counted])
    number = max(len(counted), 1)

    def backward(g):
        full = np.zeros_like(_rows(logits))
        full[counted] = z * (g / number)
        return full.reshape(logits.shape), None

    return losses.sum() / logits.dtype.type(number), backward
