"""Checks of lesson 15: RMSNorm and its derivative, a variance without digits, a pre-LN layer, a folded norm, which wiring."""

import numpy as np

from bertcraft.course.exercises import Exercise, Wrong, decision, same
from bertcraft.tensor import functions as F


def _near(got, expected, rtol: float = 1e-6) -> bool:
    try:
        return np.shape(got) == np.shape(expected) and bool(np.allclose(got, expected, rtol=rtol, atol=1e-9))
    except TypeError:
        return False


def _tell(got, *mistakes) -> None:
    """Raise the message of the first (value, message) whose value was got."""
    for wrong, message in mistakes:
        if _near(got, wrong):
            raise Wrong(message)


def _check_rms_norm(rms_norm) -> None:
    rng = np.random.default_rng(0)
    x, weight, eps = 3 * rng.standard_normal((2, 3, 5)) + 1, rng.uniform(0.5, 2, 5), 0.7
    got, square = rms_norm(x, weight, eps), np.mean(x * x, axis=-1, keepdims=True)
    mean, variance = x.mean(axis=-1, keepdims=True), np.var(x, axis=-1, keepdims=True)
    total, root = np.sum(x * x, axis=-1, keepdims=True), np.sqrt(square + eps)
    for above, below in ((x - mean, variance + eps), (x - mean, square + eps), (x, variance + eps), (x, variance)):
        message = "a mean is taken away: RMSNorm subtracts none, neither from x nor within the root, as np.std does"
        _tell(got, (above / np.sqrt(below) * weight, message))
    long = "divided by the length, the root of the *sum* of squares: (2) has their mean, so that a number is about 1"
    outside = "eps stands behind the root; in (2) it is added to the mean square, within the root"
    _tell(
        got,
        (x / np.sqrt(total + eps) * weight, long),
        (x / (np.sqrt(total) + eps) * weight, f"{long}; and {outside}"),
        (x / (np.sqrt(square) + eps) * weight, outside),
        (x / np.sqrt(square) * weight, "eps is missing: it is added to the mean square, within the root"),
        (x / np.sqrt(mean**2 + eps) * weight, "the square of the mean: (2) squares each number first, then takes the mean"),
        (x / (square + eps) * weight, "the root is missing: a vector twice as long comes out half as long"),
        (x / np.sqrt(np.mean(x * x) + eps) * weight,
         "one mean square for all: every token's vector has its own, along the last axis (keepdims=True)"),
        (x / root, "the weight is missing: multiply number by number at the end"),
        (x / root * (1 + weight), "multiplied by 1 + weight, as Gemma's files want it; (2) multiplies by the weight itself"),
    )  # fmt: skip
    same(got, x / root * weight, "the norm of (2, 3, 5) numbers")
    same(rms_norm(np.array([1.0, 7.0]), np.ones(2), 0.0), np.array([0.2, 1.4]), "the norm of (1, 7)")


def _check_layer_norm(layer_norm) -> None:
    rng = np.random.default_rng(1)
    x, weight, bias = rng.standard_normal((4, 8)), rng.uniform(0.5, 2, 8), rng.standard_normal(8)

    def check_at(mean: float, dtype: type, what: str, message: str) -> None:
        far, rest = (x + mean).astype(dtype), (weight.astype(dtype), bias.astype(dtype))
        exact = F.layer_norm(far.astype(np.longdouble), weight, bias, 1e-5).astype(dtype)
        with np.errstate(invalid="ignore"):
            got = layer_norm(far, *rest, dtype(1e-5))
        if np.shape(got) == exact.shape and not np.allclose(got, exact, atol=0.01):
            raise Wrong(message.format("nan" if np.isnan(got).any() else f"{np.abs(got).max():.3g}"))
        same(got, exact, what, rtol=1e-3)

    eps, centred = 0.3, x - x.mean(axis=-1, keepdims=True)
    got, variance = layer_norm(x, weight, bias, eps), np.mean(centred**2, axis=-1, keepdims=True)

    def over(divisor):
        return centred / divisor * weight + bias

    _tell(
        got,
        (over(np.sqrt(variance * 8 / 7 + eps)), "the variance is divided by H - 1, as torch's x.var() is; a layer norm has H"),
        (over(np.sqrt(variance) + eps), "eps stands behind the root; it belongs to the variance, within"),
        (over(np.sqrt(np.sqrt(variance) + eps)), "that is the deviation, np.std; the variance is its square"),
        (over(np.sqrt(variance * 8 + eps)), "the sum of the squares: the variance is their mean"),
        (over(np.sqrt(eps)), "the square of a mean, which is 0 of centred numbers: square each number first, then take the mean"),
        (over(np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)), "the mean square of x: the mean is not taken away"),
    )  # fmt: skip
    same(got, F.layer_norm(x, weight, bias, eps), "the layer norm of numbers around 0")
    check_at(
        3e3, np.float32, "the layer norm of numbers around 3,000 in float32",
        "fine around 0, but around 3,000 in float32 the largest number is {}: the variance is the small difference of two large "
        "numbers, and their digits are used up; take the mean away first, then square",
    )  # fmt: skip
    check_at(
        1e9, np.float64, "the layer norm of numbers around 10^9 in float64",
        "around 10^9 the largest number is {}: more digits have only moved the trouble to larger means",
    )  # fmt: skip


def _check_pre_layer(pre_layer) -> None:
    x = np.random.default_rng(2).standard_normal((3, 4))

    def attention(x):
        return np.cumsum(x, axis=0) * 0.5

    def feed_forward(x):
        return np.tanh(3 * x)

    def first(x):
        return F.rms_norm(x, np.full(4, 2.0), 0.0)

    def second(x):
        return F.rms_norm(x, np.full(4, -0.5), 0.0)

    def pre(one=attention, two=feed_forward, first=first, second=second):
        half = x + one(first(x))
        return half + two(second(half))

    got, found = pre_layer(x, attention, feed_forward, first, second), attention(first(x))
    half, post = x + found, first(x + attention(x))
    through = first(x) + found
    behind = "the norms stand behind the halves, in the branch: in (5) a half reads what is normalised"
    _tell(
        got,
        (second(post + feed_forward(post)), "this is post-LN, (4): the norms stand behind the additions"),
        (second(through) + feed_forward(second(through)),
         "the residual path goes through the norm: add to x itself, not to the normalised x"),
        (half + feed_forward(second(x)),
         "the second half reads the first half's input: it has to read what the first half has added to"),
        (x + feed_forward(second(half)), "the second half is added to the layer's input, and what attention found is lost"),
        (pre(second=first), "both halves use the first norm; each has its own weight"),
        (pre(first=second), "both halves use the second norm; each has its own weight"),
        (pre(first=second, second=first), "the norms are exchanged: attention reads first, feed-forward second"),
        (feed_forward(second(found)), "nothing is added: each half has to be added to what it has read"),
        (second(pre()), "a norm too many behind the layer: what leaves a pre-LN layer is not normalised"),
        (pre(second=lambda x: x), "the feed-forward half reads x without a norm"),
        (pre(first=lambda x: x), "attention reads x without a norm"),
        (pre(lambda x: first(attention(x)), lambda x: second(feed_forward(x)), lambda x: x, lambda x: x), behind),
        (pre(lambda x: first(attention(x)), lambda x: second(feed_forward(x))),
         "this is sandwich, (6): in pre-LN no norm stands behind a half"),
        (pre(feed_forward, attention, second, first), "feed-forward comes first here; a layer begins with attention"),
        (half, "the feed-forward half is missing"),
    )  # fmt: skip
    same(got, pre(), "what leaves the layer")


def _check_folded(folded) -> None:
    rng = np.random.default_rng(3)
    scale, shift = rng.uniform(0.5, 2, 4), rng.standard_normal(4)
    square, bias = rng.standard_normal((4, 4)), rng.standard_normal(4)
    got = folded(scale, shift, square, bias)
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        raise Wrong("return two arrays, the new weight and the new bias")
    weight, offset = got
    if np.ndim(weight) == 1 and np.ndim(offset) == 2:
        raise Wrong("the new weight comes first, then the new bias")
    _tell(
        weight,
        (square * scale[:, None], "you scale the rows of W, its outputs; the norm scales what comes *in*: the columns"),
        (square / scale, "you divide by the scale: W(scale * n) is (W with its columns multiplied) n"),
        (square, "W is as it was: the scale has to go into it"),
    )
    same(weight, square * scale, "the new weight")
    _tell(
        offset,
        (bias, "the shift is lost: W shift is a constant vector, and belongs to the bias"),
        (square @ shift, "the old bias is lost: W shift is added to it"),
        (bias + shift, "the shift is added as it is; it has to go through W first"),
        (bias + (square * scale) @ shift,
         "the shift went through the new weight: it is added behind the scale, so it meets W as it was"),
        (bias + shift @ square, "the shift went through W transposed: W is (out, in), so W @ shift"),
    )  # fmt: skip
    same(offset, bias + square @ shift, "the new bias")
    wide = rng.standard_normal((6, 4))
    same(folded(scale, shift, wide, np.zeros(6)), (wide * scale, wide @ shift), "for a map from 4 to 6 numbers, the result")


def _check_backward(rms_norm_backward) -> None:
    rng = np.random.default_rng(4)
    x, g, weight, eps = 2 * rng.standard_normal((3, 5)) + 1, rng.standard_normal((3, 5)), rng.uniform(0.5, 2, 5), 0.3
    square = np.mean(x * x, axis=-1, keepdims=True)
    root, bare = np.sqrt(square + eps), np.sqrt(square)
    scaled = g * weight

    def along(g, by=np.mean, root=root):
        return x / root * by(g * x / root, axis=-1, keepdims=True)

    got = rms_norm_backward(g, x, weight, eps)
    no_eps = "eps is left out, as in (9): with it, root * root * H stands in every place of |x|^2"
    twice = "the weight comes in twice: g * weight, and no weight behind that"
    _tell(
        got,
        (scaled / root, "the part along x is missing: the root depends on x, too, and a longer x gives no longer result"),
        ((g - along(g)) / root, "the weight is missing: what comes back is multiplied by it first"),
        ((g - along(g)) / root * weight,
         "the weight comes last: what comes back is multiplied by it *before* the part along x is taken away"),
        ((scaled - along(scaled)) / root * weight, twice),
        ((scaled - weight * along(scaled * weight)) / root, twice),
        ((scaled - along(scaled, np.sum)) / root,
         "a sum where a mean belongs: y has the squared length H, so y (y . g) is divided by H"),
        (scaled - along(scaled), "the division by the root is missing: a gradient shrinks where the state is long"),
        ((scaled - scaled.mean(axis=-1, keepdims=True) - along(scaled)) / root,
         "that is a layer norm's: an RMSNorm takes no mean away, and neither does its derivative"),
        ((scaled + along(scaled)) / root, "the sign of the part along x is wrong: it is taken away"),
        ((scaled - along(scaled, root=bare)) / bare, no_eps),
        ((scaled - along(scaled, root=bare)) / root, no_eps),
        ((scaled - along(scaled, root=1)) / root, "x stands where y belongs: the part along x is that of y = x / root"),
        ((scaled - x / root * np.mean(scaled * x / root)) / root, "one mean for all tokens: each has its own (axis=-1)"),
    )  # fmt: skip
    same(got, (scaled - along(scaled)) / root, "the gradient with respect to x")


EXERCISES = (
    Exercise(
        "rms_norm", "RMSNorm", 1, _check_rms_norm,
        ("Mean of squares along the last axis, keepdims=True; eps is added to it; then the root.",
         "x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps), times the weight."),
    ),
    Exercise(
        "layer_norm", "The norm that lost its digits", 2, _check_layer_norm,
        ("Print the two terms of the variance for numbers around 3,000. How many of float32's seven digits do they share?",
         "The variance is also the mean square of x less its mean."),
    ),
    Exercise(
        "pre_layer", "A pre-LN layer", 2, _check_pre_layer,
        ("Equation (5), first with attention, then with feed-forward.",
         "Two lines: `x = x + ...`, then `return x + ...`; in each a half reads the norm of the x that stands before the plus."),
    ),
    Exercise(
        "folded", "Fold a norm into what reads it", 2, _check_folded,
        ("Write out W (scale * n + shift) + b and sort it: what is multiplied by n, and what is not?",
         "Number j of n is multiplied by scale[j] and meets column j of W."),
    ),
    Exercise(
        "rms_norm_backward", "Back through an RMSNorm", 3, _check_backward,
        ("Without weight and eps it is (9) times g: (g - x (x . g) / |x|^2) sqrt(H) / |x|.",
         "With y = x / root the part along x is y times the mean of y * g, and that stays true with eps.",
         "The weight stands behind the norm, so on the way back it comes first: g * weight."),
    ),
    Exercise(
        "which_wiring", "Which wiring?", 2,
        decision({
            "arm": {
                "rms": "",
                "post": "it trains at 1.4 of four rates, and they can try one: the best loss is of use to who finds its rate",
                "pre": "nothing speaks for it beside RMSNorm: the same loss, by what was agreed, and a slower step",
            },
            "because": {
                "b": "",
                "a": "the lowest loss is post-LN's, at its best rate, which they cannot look for",
                "c": "fewer parameters are true, a few hundredths of a percent; nobody asked for them",
            },
            "post_is": {
                "a": "",
                "b": "the interval of pre-LN less post-LN lies above 0: at the best rates pre-LN's loss is higher",
                "c": "within 0.02 was agreed, and the interval reaches 0.05: equality was not shown",
            },
            "unless": {
                "a": "",
                "b": "3 of 4 is what the seeds scatter around already",
                "c": "93 ms would still be less than 100, and the loss the same",
            },
        }),
        ("They have one run. Which column says how likely one run is to be lost?",
         "Hold the two intervals of the loss against the band from -0.02 to +0.02."),
    ),
)  # fmt: skip
