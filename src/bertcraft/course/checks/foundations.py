"""The checkers of lesson 00: slopes, broadcasting undone, attention, heads, the loss of a masked language model."""

import numpy as np

from bertcraft.course.exercises import Exercise, Wrong, same
from bertcraft.tensor import functions as F
from bertcraft.tensor.gradient import unbroadcast

_POINTS = {  # arguments at which the slopes are asked for
    "add": ((1.5, -2.0),),
    "multiply": ((1.5, -2.0), (3.0, 0.5)),
    "divide": ((3.0, 2.0), (1.0, -4.0)),
    "exp": ((0.7, None), (-1.0, None)),
    "tanh": ((0.5, None), (-1.2, None)),
    "relu": ((2.0, None), (-3.0, None), (0.0, None)),
}
_RESULTS = {
    "add": lambda x, y: x + y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
    "exp": lambda x, y: float(np.exp(x)),
    "tanh": lambda x, y: float(np.tanh(x)),
    "relu": lambda x, y: max(x, 0.0),
}
_SLOPES = {
    "add": lambda x, y, z: (1.0, 1.0),
    "multiply": lambda x, y, z: (y, x),
    "divide": lambda x, y, z: (1 / y, -x / y**2),
    "exp": lambda x, y, z: (z,),
    "tanh": lambda x, y, z: (1 - z * z,),
    "relu": lambda x, y, z: (float(x > 0),),
}


def _close(got, expected) -> bool:
    return np.shape(got) == np.shape(expected) and bool(np.allclose(got, expected, rtol=1e-6, atol=1e-9))


def _check_slopes(function) -> None:
    for name, points in _POINTS.items():
        for x, y in points:
            z = _RESULTS[name](x, y)
            expected, got = _SLOPES[name](x, y, z), function(name, x, y, z)
            if got is None or got is ...:
                raise Wrong(f'"{name}" returns nothing: each of the six names needs its slopes')
            if not isinstance(got, tuple):
                raise Wrong(f'"{name}": return a tuple, one slope for each argument, also where there is one only: (slope,)')
            if name == "multiply" and _close(got, (x, y)) and x != y:
                raise Wrong("the slopes of a product are swapped: along x it is y, the *other* factor")
            if name == "divide" and len(got) == 2 and _close(got[1], x / y**2):
                raise Wrong("the slope of x / y along y has the wrong sign: a larger divisor makes the quotient smaller")
            if name == "divide" and len(got) == 2 and x != 1 and _close(got[1], -1 / y**2):
                raise Wrong("the slope of x / y along y is that of 1 / y, times x: -x / y^2")
            if name == "exp" and _close(got, (x * np.exp(x - 1),)):
                raise Wrong("e^x is no power x^n: its slope is e^x itself, which is z")
            if name == "tanh" and _close(got, (1 - x * x,)):
                raise Wrong("the slope of tanh is 1 - z^2 with its *result* z; you used its argument x")
            if name == "relu" and x > 0 and _close(got, (z,)):
                raise Wrong("this is relu itself; its *slope* is 1 where x is above 0: the result grows as fast as x")
            if name == "relu" and x == 0 and _close(got, (1.0,)):
                raise Wrong("relu at x = 0: the convention here is slope 0 (x > 0, not x >= 0)")
            same(got, expected, f'the slopes of "{name}" at x = {x:g}' + ("" if y is None else f", y = {y:g}"), rtol=1e-6)


def _check_unbroadcast(function) -> None:
    rng = np.random.default_rng(0)
    cases = (
        ((2,), (5, 2)), ((1, 2), (5, 2)), ((5, 1), (5, 2)), ((5, 2), (5, 2)), ((3, 1, 4), (2, 3, 5, 4)), ((), (3, 2)),
    )  # fmt: skip
    for shape, stretched in cases:
        g = rng.standard_normal(stretched)
        expected, got = unbroadcast(g, shape), function(g, shape)
        what = f"the gradient of an argument of shape {shape}, g of shape {stretched},"
        if isinstance(got, np.ndarray) and got.shape == shape and shape != stretched:
            copies = g.size // max(expected.size, 1)
            if copies > 1 and _close(got, expected / copies):
                raise Wrong(f"{what} is the mean over its {copies} copies: paths add up, so sum them")
            if got.size == g[0].size and _close(got, g[0].reshape(shape)):
                raise Wrong(f"{what} is that of the first copy alone: all {copies} count, so sum them")
        if isinstance(got, (np.ndarray, np.generic)) and got.shape != shape:
            if got.shape == stretched:
                raise Wrong(f"{what} still has the shape of g: sum over the axes of length 1 that were stretched, too")
            if got.size == expected.size:
                raise Wrong(
                    f"{what} has shape {got.shape}: axes that the argument has stay, with length 1 (keepdims=True); "
                    "axes that it does not have go"
                )
        same(np.asarray(got) if isinstance(got, np.generic) else got, expected, what.rstrip(","))


def _attend(query, key, value):
    return F.attention(query[None], key[None], value[None])[0]


def _check_attend(function) -> None:
    rng = np.random.default_rng(1)
    query, key, value = rng.standard_normal((4, 9)), rng.standard_normal((5, 9)), rng.standard_normal((5, 9))
    got, expected = function(query, key, value), _attend(query, key, value)
    if isinstance(got, np.ndarray) and got.shape == expected.shape and not _close(got, expected):
        scores = query @ key.T / 3
        if _close(got, _attend(query * 3, key, value)):
            raise Wrong("the scores are not divided by the square root of D (here 3): the softmax is too sharp")
        if _close(got, _attend(query / 3, key, value)):
            raise Wrong("the scores are divided by D = 9: it is the square root of D, 3")
        if _close(got, _attend(query * 9, key, value)):
            raise Wrong("the scores are multiplied by the square root of D: divide by it")
        if _close(got, _attend(query * 3, key, value) / 3):
            raise Wrong("the square root of D divides the weights: it belongs before the softmax, under the scores")
        if _close(got, scores @ value):
            raise Wrong("there is no softmax: scores may be negative, weights may not")
        for powers in (np.exp(scores), np.exp(scores - scores.max(axis=1, keepdims=True))):
            if _close(got, powers / powers.sum(axis=0) @ value):
                raise Wrong(
                    "each *column* of the weights sums to 1: a token has one unit to give, so each row must: axis=1, not 0"
                )
            if _close(got, powers / powers.sum() @ value):
                raise Wrong("all weights together sum to 1: the sum of a softmax is taken row by row (axis=1, keepdims=True)")
            if _close(got, powers @ value):
                raise Wrong("the weights do not sum to 1: divide each row of e^scores by its sum")
        powers = np.exp(scores - scores.max(axis=0))
        if _close(got, powers / powers.sum(axis=1, keepdims=True) @ value):
            raise Wrong("the largest score of each *column* was subtracted, which changes the weights: axis=1, keepdims=True")
        for count in (5, 4):
            if _close(got, _attend(query * 3 / np.sqrt(count), key, value)):
                raise Wrong(
                    f"the scores are divided by the root of the number of tokens, {count}; it is that of D, the size of a key"
                )
    same(got, expected, "the result for 4 queries and 5 keys of size 9")
    for arguments, message in (
        ((np.full((2, 9), 30.0), np.full((3, 9), 30.0), value[:3]), "e^2700 overflows. Subtract each row's largest score first"),
        (
            (np.array([[1.0], [5000.0]]) * query[:2], key, value),
            "each row has a largest score of its own (axis=1, keepdims=True)",
        ),
        (
            (np.array([[1.0], [-1.0]]), np.array([[2000.0], [2001.0], [2002.0]]), value[:3, :1]),
            "subtract each row's largest score, also where all are below 0, and not its size",
        ),
    ):
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            got = function(*arguments)
        if isinstance(got, np.ndarray) and not np.isfinite(got).all():
            raise Wrong(f"with scores in the thousands the result is not finite: {message}")
        same(got, _attend(*arguments), "the result for scores in the thousands (subtract, do not cut them off)")
    half = function(*(array.astype(np.float32) for array in (query, key, value)))
    if isinstance(half, np.ndarray) and half.dtype == np.float64:
        raise Wrong("float32 arrays came back as float64: np.sqrt of an integer is a float64, which promotes them; use math.sqrt")


def _check_split_heads(function) -> None:
    x = np.arange(3 * 5 * 8, dtype=np.float64).reshape(3, 5, 8)
    for heads in (2, 4, 1):
        got, expected = function(x, heads), F.split_heads(x, heads)
        if isinstance(got, np.ndarray) and not np.array_equal(got, expected):
            if np.array_equal(got, x.reshape(3, heads, 5, 8 // heads)):
                raise Wrong(
                    "a reshape reads the numbers in order: head 0 gets the first tokens' numbers, not the first numbers of every "
                    "token. Cut the last axis, then move the new one"
                )
            if np.array_equal(got, x.reshape(3, 5, heads, 8 // heads)):
                raise Wrong("the numbers are cut rightly, but the axes are (B, L, heads, D): swap the middle two")
            if np.array_equal(got, x.reshape(3, 5, 8 // heads, heads).transpose(0, 3, 1, 2)):
                raise Wrong("each head got every A-th number of a token; head a holds D numbers side by side, a D to (a + 1) D")
            if got.shape == (heads, 3, 5, 8 // heads):
                raise Wrong("the heads stand before the batch: the order is (B, heads, L, D)")
        same(got, expected, f"x of shape (3, 5, 8) in {heads} head{'s' if heads > 1 else ''}")


def _check_masked_loss(function) -> None:
    rng = np.random.default_rng(2)
    logits, labels = rng.standard_normal((6, 128)), np.array([3, -100, 0, 6, -100, -100])  # 128: there is a place -100
    got, expected = function(logits, labels), float(F.cross_entropy(logits, labels))
    asked = labels != -100
    log_p = F.log_softmax(logits)
    chosen = log_p[np.arange(6), np.where(asked, labels, 0)]
    if np.ndim(got) == 1:
        raise Wrong("one loss for each position: return their mean, a single number")
    for value, message in (
        (-expected, "the loss is negative: it is *minus* the logarithm of a probability"),
        (-chosen[asked].sum() / 6, "the sum is divided by all 6 positions: divide by the number of those that are asked for, 3"),
        (-chosen[asked].sum(), "this is the sum over the positions that are asked for: divide by their number, 3"),
        (-log_p[asked][:, labels[asked]].mean(), "[:, labels] takes every row's number for every label: [np.arange(n), labels]"),
        (-chosen[labels > 0].mean(), "token 0 is a token too: what is left out has the label -100, and nothing else"),
        (-chosen.mean(), "positions labelled -100 count: they must be left out, not asked for token 0"),
        (-log_p[np.arange(6), labels].mean(), "positions labelled -100 count: -100 was made an index of the vocabulary"),
        (expected / np.log(2), "the loss is in bits (log2); take the natural logarithm, for nats"),
        (-np.exp(chosen[asked]).mean(), "the mean of the probabilities, negated: the logarithm is missing"),
        (-np.log(np.exp(chosen[asked]).mean()), "the logarithm of the mean probability: take the mean of the logarithms"),
        (-logits[asked, labels[asked]].mean(), "the logits themselves are no log-probabilities: subtract ln of the sum of e^z"),
    ):  # fmt: skip
        if np.ndim(got) == 0 and isinstance(got, (float, np.floating, np.ndarray)) and abs(float(got) - value) < 1e-9:
            raise Wrong(message)
    same(got, expected, "the loss of 6 positions, 3 of them asked for,")
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        got = function(1000 * logits, labels)
    if np.ndim(got) == 0 and not np.isfinite(got):
        raise Wrong(
            "with logits near 1000 the loss is not finite: subtract each row's largest logit, and take ln of the sum, not of p"
        )
    same(got, float(F.cross_entropy(1000 * logits, labels)), "the loss of logits near 1000")


EXERCISES = (
    Exercise(
        name="slopes", title="A derivative table for six operations", stars=1, check=_check_slopes,
        hints=(
            "Nudge an argument in your head: if x grows by a little, by how many times that does z grow?",
            "x / y is x times 1/y. Along y: -x / y^2, which is -z / y.",
            "e^x is its own slope; that of tanh is 1 - tanh^2, so z is all you need for both.",
        ),
    ),
    Exercise(
        name="unbroadcast", title="Undo a broadcast", stars=2, check=_check_unbroadcast,
        hints=(
            "Two things happen in a broadcast: axes are put in front, and axes of length 1 are repeated. Undo each by a sum.",
            "The first g.ndim - len(shape) axes are new: sum over them without keepdims.",
            "Then sum over every axis where shape has 1 and g has more, with keepdims=True.",
        ),
    ),
    Exercise(
        name="attend", title="Scaled dot-product attention", stars=2, check=_check_attend,
        hints=(
            "scores = query @ key.T has a row for each query and a column for each key. Which axis must sum to 1?",
            "scores - scores.max(axis=1, keepdims=True) changes no weight: the factor e^-max is above and below the line.",
            "D is query.shape[1], whatever the number of tokens.",
        ),
    ),
    Exercise(
        name="split_heads", title="Find the bug: cut into heads", stars=2, check=_check_split_heads,
        hints=(
            "Try x = np.arange(12).reshape(1, 3, 4) with 2 heads. Whose numbers are 4 and 5, and where are they?",
            "A reshape never moves a number in memory. First cut only the last axis, into (heads, D), ...",
            "... then swap the axes of length and heads.",
        ),
    ),
    Exercise(
        name="masked_loss", title="The loss of a masked language model", stars=2, check=_check_masked_loss,
        hints=(
            "Keep the rows that are asked for, first of all: logits[labels != -100].",
            "ln p = z - max - ln(sum of e^(z - max)), row by row.",
            "log_p[np.arange(n), labels] picks one number from each row.",
        ),
    ),
)  # fmt: skip
