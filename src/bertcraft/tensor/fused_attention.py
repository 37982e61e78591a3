"""The fast kernel of :func:`bertcraft.tensor.functions.attention`; see :mod:`bertcraft.tensor.fused`."""

import math

import numpy as np

from bertcraft.tensor import functions as F
from bertcraft.tensor.fused import dropout_mask, floats
from bertcraft.tensor.kernels import kernel
from bertcraft.tensor.workspace import empty

_BLOCK = 1 << 18  # scores worked on at a time: texts are taken together until there are so many


def _softmax(scores_into, p):
    """Write scores into p and turn them into their softmax over the last axis.

    Taking off the maximum of each row costs two passes. Where no score is large enough to overflow and no row's sum so
    small that it lost digits, exp of the scores themselves gives the same.
    """
    scores_into(p)
    if p.max() < 60:
        np.exp(p, out=p)
        total = p.sum(axis=-1, keepdims=True)
        if total.min() > 1e-20:
            p /= total
            return
        scores_into(p)
    p -= p.max(axis=-1, keepdims=True)
    np.exp(p, out=p)
    p /= p.sum(axis=-1, keepdims=True)


@kernel(F.attention)
def attention(needs, query, key, value, bias=None, heads=1, rate=0.0, rng=None):
    if not floats(query, key, value) or query.ndim != 3 or key.shape != value.shape:
        return NotImplemented
    if key.shape[::2] != query.shape[::2]:  # one text's queries for all texts' keys, for instance: the definition broadcasts
        return NotImplemented
    batch, length, hidden = query.shape
    keys, size = key.shape[1], hidden // heads
    trained = len(needs) > 3 and needs[3]  # a bias with a gradient, as that of relative positions
    if trained and bias.shape != (batch, heads, length, keys):
        return NotImplemented
    if 0 in (batch, length, keys, hidden):
        return NotImplemented
    factor = 1 / math.sqrt(size)
    split = lambda x: x.reshape(*x.shape[:2], heads, size).swapaxes(1, 2)  # noqa: E731
    q = np.multiply(query, factor, out=empty(query.shape, query.dtype))
    q4, k4, v4 = split(q), split(key), split(value)
    probabilities = empty((batch, heads, length, keys), query.dtype)
    out = empty(query.shape, query.dtype)
    out4 = split(out)
    mask = dropout_mask(probabilities.shape, rate, rng, query.dtype) if rng is not None and rate > 0 else None
    if bias is not None:
        bias = np.broadcast_to(bias, probabilities.shape)
    step = max(1, _BLOCK // (heads * length * keys))
    parts = [slice(i, min(batch, i + step)) for i in range(0, batch, step)]
    for part in parts:
        p = probabilities[part]

        def scores_into(scores, part=part):
            np.matmul(q4[part], k4[part].swapaxes(-1, -2), out=scores)
            if bias is not None:
                scores += bias[part]

        _softmax(scores_into, p)
        np.matmul(p if mask is None else p * mask[part], v4[part], out=out4[part])

    def backward(g):
        g4 = split(g)
        dq, dk, dv = (empty(x.shape, x.dtype) for x in (q, key, value))  # not the query itself, which would be kept
        dq4, dk4, dv4 = split(dq), split(dk), split(dv)
        db = empty(probabilities.shape, probabilities.dtype) if trained else None
        for part in parts:
            p = probabilities[part]
            kept = p if mask is None else p * mask[part]
            np.matmul(kept.swapaxes(-1, -2), g4[part], out=dv4[part])
            ds = np.matmul(g4[part], v4[part].swapaxes(-1, -2), out=db[part] if trained else empty(p.shape, p.dtype))
            if mask is not None:
                ds *= mask[part]
            ds -= np.vecdot(g4[part], out4[part])[..., None]
            ds *= p
            np.matmul(ds, k4[part], out=dq4[part])
            np.matmul(ds.swapaxes(-1, -2), q4[part], out=dk4[part])
        dq *= factor
        return (dq, dk, dv, db)[: len(needs)]

    return out, backward
