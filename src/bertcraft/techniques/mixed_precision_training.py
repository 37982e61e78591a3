"""Mixed precision: products of 16-bit numbers, sums and weights in 32 bits, and a loss that is scaled so that gradients survive.

Micikevicius, Narang, Alben, Diamos, Elsen, Garcia, Ginsburg, Houston, Kuchaiev, Venkatesh & Wu, "Mixed Precision Training", ICLR
2018, arXiv:1710.03740. float16 halves what a number takes and lets tensor cores multiply; three things keep a model's quality:

- *master weights* (section 3.1): weights are rounded where they are multiplied, but updated in float32. Beside a weight of 1 an
  update below 2^-11 would be rounded away.
- *loss scaling* (3.2): float16 ends at 2^-24, below which many gradients lie. The loss is multiplied by a number, and so, by the
  chain rule, is every gradient; they are divided by it before they are used. Where one overflows, the step is skipped.
- *sums in float32* (3.3): of products, and in softmax, layer norm and loss.

bfloat16 has the range of float32 and needs no scaling, but keeps 8 binary digits (Kalamkar et al. 2019, arXiv:1905.12322). float8
(Micikevicius et al. 2022, arXiv:2209.05433) is here as rounding only: in training its tensors need scales of their own.

NumPy has no products of 16-bit numbers, so rounded numbers are held in float32 arrays: two of 11 digits have a product of 22,
which float32 holds exactly and adds up as a tensor core does. That shows what precision does to a model, and saves nothing.
:func:`mixed_precision` casts in any loss what ``torch.autocast`` casts; :func:`loss_scaling` makes any update rule one for a
scaled loss, as ``torch.amp.GradScaler`` does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bertcraft.errors import InputError
from bertcraft.tensor import Tensor, tree
from bertcraft.tensor import functions as F
from bertcraft.tensor.derivatives import elementwise
from bertcraft.tensor.gradient import unwrap
from bertcraft.tensor.tensor import XLA, apply, replaced
from bertcraft.tensor.workspace import empty
from bertcraft.train.rules import Rule, refuse_loss_scale

# ----------------------------------------------------------------------------------------------------------- rounding


class Format(NamedTuple):
    """A binary floating-point format: digits behind the point, exponents of normal numbers, the largest, what lies beyond it."""

    digits: int
    lowest: int
    highest: int
    largest: float
    beyond: float = np.inf


FORMATS = {
    "float16": Format(10, -14, 15, 65504.0),  # IEEE 754's binary16
    "bfloat16": Format(7, -126, 127, (2 - 2**-7) * 2.0**127),
    "float8_e4m3": Format(3, -6, 8, 448.0, np.nan),  # its highest exponent is a number's too, and it has no infinity
    "float8_e5m2": Format(2, -14, 15, 57344.0),
}
HALF = ("float16", "bfloat16")  # what models are trained in here


def _power(x):
    """The largest power of two not above |x|; 0 below the normal numbers of its dtype, infinity for infinity and nan.

    That is x without the bits of its sign and digits: those of the exponent are the bits of infinity.
    """
    whole = np.dtype(f"u{x.itemsize}")
    return (x.view(whole) & np.array(np.inf, x.dtype).view(whole)).view(x.dtype)


def _power_on_jax(x):
    from jax.lax import bitcast_convert_type

    whole = np.dtype(f"u{x.dtype.itemsize}")
    return bitcast_convert_type(bitcast_convert_type(x, whole) & np.array(np.inf, x.dtype).view(whole), x.dtype)


def _neighbour(x, form: str, noise=None):
    """The neighbour of x in a format that had no largest number: counted in units of the last digit it is a whole number."""
    f = FORMATS[form]
    unit = np.clip(apply(_power, x), 2.0**f.lowest, 2.0**f.highest)  # numbers below the normal ones have the units of the lowest
    count = x / unit * 2.0**f.digits  # exact, as the products below are: by powers of two
    count = np.rint(count) if noise is None else np.floor(count) + (noise < count - np.floor(count))
    return count * 2.0**-f.digits * unit


def _beyond(y, form: str):
    """What lies beyond the largest number becomes infinity, or nan where a format has no infinity."""
    return np.where(np.abs(y) > FORMATS[form].largest, np.copysign(FORMATS[form].beyond, y), y)


def rounded(x, form: str, noise=None):
    """The nearest number of a format, of two as near the even one (IEEE 754's rounding), in the dtype of x, float32 or float64.

    form: a name of :data:`FORMATS`. noise: of the shape of x, uniform in [0, 1). It rounds up with a probability that is the
    distance to the lower neighbour, so that the mean is x (Gupta et al. 2015, arXiv:1502.02551, section 3.2). The derivative is
    straight-through, 1 everywhere: the true one is 0 or not defined.
    """
    return apply(_rounded, x, form, noise)


def cast(x, form: str):
    """x in a format, and its gradient too: a conversion to 16 bits, in both directions."""
    return apply(_cast, x, form)


def _rounded(x, form, noise=None):
    out = empty(x.shape, x.dtype)
    flat, result, noise = np.reshape(x, -1), out.reshape(-1), None if noise is None else np.reshape(noise, -1)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, x.size, _BLOCK):
            part = slice(start, start + _BLOCK)
            y = _neighbour(flat[part], form, None if noise is None else noise[part])
            result[part] = y if np.max(np.abs(y)) <= FORMATS[form].largest else _beyond(y, form)
    return out


def _cast(x, form):
    return _rounded(x, form)


_BLOCK = 1 << 15  # numbers at a time: they stay in a core's cache
elementwise(_rounded, lambda g, z, x, form, noise=None: g)
elementwise(_cast, lambda g, z, x, form: cast(g, form))
XLA[_power] = _power_on_jax
XLA[_rounded] = XLA[_cast] = lambda x, form, noise=None: unwrap(_beyond(_neighbour(Tensor(x), form, noise), form))


# ------------------------------------------------------------------------------------------------- what is cast, and what is not


def product(x, y, form: str):
    """x @ y of numbers of a format, summed in float32, the result of that format again; so are the products of its gradient."""
    return cast(cast(x, form) @ cast(y, form), form)


def linear(x, weight, bias=None, *, form: str):
    """:func:`bertcraft.tensor.functions.linear` of numbers of a format: the bias is added before the sum is rounded."""
    flat = np.reshape(x, (-1, x.shape[-1]))
    total = cast(flat, form) @ np.swapaxes(cast(weight, form), 0, 1)
    if bias is not None:
        total = total + cast(bias, form)
    return np.reshape(cast(total, form), (*x.shape[:-1], len(weight)))


def attention(query, key, value, bias=None, heads=1, rate=0.0, rng=None, *, form: str):
    """:func:`bertcraft.tensor.functions.attention` with both products in a format; the softmax between them is float32's."""
    q, k, v = (F.split_heads(x, heads) for x in (query, key, value))
    scores = product(q, np.swapaxes(k, -1, -2), form) * (q.shape[-1] ** -0.5)
    probabilities = F.softmax(scores if bias is None else scores + bias)
    return F.merge_heads(product(F.dropout(probabilities, rate, rng), v, form))


def linear_cross_entropy(x, weight, bias, labels, *, form: str):
    """A language model's output layer in a format, its loss in float32."""
    return F.cross_entropy(linear(x, weight, bias, form=form), labels)


# All else stays in float32: softmax, layer norm, losses, sums of branches, tables of embeddings. What goes into a product and
# what comes out of it is rounded, so an activation between two reads and hands on numbers of the format.
LOWERED = {F.linear: linear, F.attention: attention, F.linear_cross_entropy: linear_cross_entropy, np.matmul: product}


def mixed_precision(loss: Callable, form: str) -> Callable:
    """A loss whose matrix products, gradient included, are of numbers of a format; parameters stay float32: master weights.

    loss: ``loss(params, batch, rng) -> scalar`` or any function written with this library's; "float32" gives it back as it is.
    Raises InputError for another form than float32, float16 and bfloat16.
    """
    if form == "float32":
        return loss
    if form not in HALF:
        raise InputError(f"precision: got {form!r}, expected one of float32, {', '.join(HALF)}")
    functions = {function: partial(lowered, form=form) for function, lowered in LOWERED.items()}

    def lower(*args, **kwargs):
        with replaced(functions):
            return loss(*args, **kwargs)

    return lower


# -------------------------------------------------------------------------------------------------------------- loss scaling


def next_scale(state: dict, finite, growth: float, backoff: float, interval: int) -> dict:
    """Scale and counts after a step, as GradScaler's: halved at an overflow, doubled after ``interval`` good steps in a row.

    finite: whether all gradients were. growth, backoff: the 2 and the 1/2. A scale beyond float32's largest is not taken.
    """
    good = state["good_steps"] + 1
    grown, due = state["scale"] * growth, good >= interval
    return {
        "scale": np.where(finite, np.where(due & np.isfinite(grown), grown, state["scale"]), state["scale"] * backoff),
        "good_steps": np.where(finite & ~due, good, 0),
        "skipped": state["skipped"] + np.where(finite, 0, 1),
    }


def loss_scaling(rule: Rule, scale: float = 2.0**16, growth: float = 2.0, backoff: float = 0.5, interval: int = 2000) -> Rule:
    """An update rule for gradients of a loss that was multiplied by ``loss_scale(state)``: :func:`next_scale` says what it is.

    Gradients are divided by the scale and given to ``rule``; where one is not finite, parameters and rule stay as they are. It
    goes around a whole chain: clipping and Adam's moments are of true gradients. State: next_scale's and "rule".
    """
    _check_scaling(scale, growth, backoff, interval)

    def init(params):
        count = np.zeros((), np.int64)
        return {"scale": np.array(scale, np.float32), "good_steps": count, "skipped": count.copy(), "rule": rule.init(params)}

    def update(gradients, state, params):
        finite = all_finite(gradients)
        with np.errstate(invalid="ignore", over="ignore"):
            true = tree.map(lambda g: np.where(finite, g, 0) / state["scale"].astype(g.dtype), gradients)
        updates, inner = rule.update(true, state["rule"], params)
        updates = tree.map(lambda u: np.where(finite, u, 0), updates)
        inner = tree.map(lambda new, old: np.where(finite, new, old), inner, state["rule"])
        return updates, next_scale(state, finite, growth, backoff, interval) | {"rule": inner}

    def inplace(gradients, factor, state, params, pool):
        finite, inner = all_finite(gradients), state["rule"]
        if finite:
            inner = rule.inplace(gradients, factor / float(state["scale"]), inner, params, pool)
        return next_scale(state, finite, growth, backoff, interval) | {"rule": inner}

    return Rule(init, update, inplace=inplace if rule.inplace else None, loss_scale=lambda state: state["scale"])


def _check_scaling(scale, growth, backoff, interval):
    if not (scale > 0 and growth >= 1 and 0 < backoff <= 1 and interval >= 1):
        got = f"scale {scale}, growth {growth}, backoff {backoff}, interval {interval}"
        raise InputError(f"got {got}: expected a scale above 0, growth and interval from 1, a backoff above 0 and at most 1")


def static_loss_scaling(rule: Rule, scale: float) -> Rule:
    """A scale that stays, as the paper's (section 3.2); steps with an overflow are skipped."""
    return loss_scaling(rule, scale, growth=1.0, backoff=1.0)


def all_finite(gradients: Any):
    """Whether no number of a tree is infinite or nan."""
    return np.all(np.stack([np.all(np.isfinite(leaf)) for leaf in tree.leaves(gradients)]))


# --------------------------------------------------------------------------------------------------- without master weights


def kept_in(rule: Rule, form: str, seed: int | None = None) -> Rule:
    """A rule whose parameters are numbers of a format after each update, with no float32 copy; NumPy only.

    ``seed``: round them stochastically, so that small updates count on average (None: to nearest, where they are lost).
    Raises InputError for a rule that scales the loss: :func:`loss_scaling` goes around this one.
    """
    refuse_loss_scale(rule)

    def fitted(p, step, leaf):
        draw = None if seed is None else np.random.default_rng((seed, step, leaf))
        return rounded(p, form, draw and draw.random(p.shape, np.float32))

    def init(params):
        return {"step": np.zeros((), np.int64), "rule": rule.init(params)}

    def update(gradients, state, params):
        updates, inner = rule.update(gradients, state["rule"], params)
        leaves = iter(range(len(tree.leaves(params))))
        updates = tree.map(lambda p, u: fitted(p + u, int(state["step"]), next(leaves)) - p, params, updates)
        return updates, {"step": state["step"] + 1, "rule": inner}

    def inplace(gradients, factor, state, params, pool):
        inner = rule.inplace(gradients, factor, state["rule"], params, pool)
        for leaf, p in enumerate(tree.leaves(params)):
            p[...] = fitted(p, int(state["step"]), leaf)
        return {"step": state["step"] + 1, "rule": inner}

    return Rule(init, update, inplace=inplace if rule.inplace else None)


# ------------------------------------------------------------------------------------------------------------- what it costs

MODEL_STATE = {  # bytes a parameter with Adam: Rajbhandari et al. 2020 (ZeRO), arXiv:1910.02054, section 3.1
    "float32": {"weights": 4, "gradients": 4, "first moments": 4, "second moments": 4},
    "mixed": {"weights": 2, "gradients": 2, "master weights": 4, "first moments": 4, "second moments": 4},
}


def zero_bytes(parameters: int, devices: int, stage: int) -> float:
    """Bytes of a mixed-precision model's state on each device: ZeRO's figure 1.

    stage 0: all on each; 1: float32 weights and moments are divided over them, 2: gradients too, 3: the 16-bit weights too.
    """
    parts = MODEL_STATE["mixed"]
    whole = sum(parts.values()) - parts["weights"] - parts["gradients"]
    sizes = (whole, parts["gradients"], parts["weights"])
    return parameters * sum(size / (devices if place < stage else 1) for place, size in enumerate(sizes))


def kept_by_a_layer(rows: int, length: int, hidden: int, heads: int, wide: int = 2) -> int:
    """Bytes that a layer keeps for its backward pass, in numbers of ``wide`` bytes, dropout's masks in one byte each.

    Korthikanti et al. 2022, arXiv:2205.05198, equation 1: with 2 bytes rows * length * hidden * (34 + 5 heads * length / hidden).
    """
    text, scores = rows * length * hidden, rows * heads * length**2
    of_attention = 5 * text + 2 * scores  # input; queries, keys, values; softmax, what dropout left of it; input of the last map
    of_feed_forward = (1 + 4 + 4) * text  # inputs of the first map, the activation, the second map
    of_norms, masks = 2 * text, 2 * text + scores
    return wide * (of_attention + of_feed_forward + of_norms) + masks


def lost(values: np.ndarray, form: str, scale: float = 1.0) -> float:
    """The share of the numbers that are not 0 which a format, after scaling, makes 0."""
    there = values[values != 0]
    return float(np.mean(rounded(there * there.dtype.type(scale), form) == 0)) if there.size else 0.0
