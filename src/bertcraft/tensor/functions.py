"""The functions that a transformer is made of, as plain NumPy.

These are the definitions: what a reader reads, what is differentiated twice, what JAX compiles. Those marked
``@fusable`` have a faster kernel of the same value and gradient in :mod:`bertcraft.tensor.fused`, used for
NumPy arrays when no second derivative is asked for.

Shapes: ``...`` stands for any leading axes, ``B`` batch, ``L`` length, ``H`` hidden size, ``V`` vocabulary.
Float arrays keep their dtype: float32 in, float32 out.
"""

import functools
import math
from collections.abc import Callable

import numpy as np

from bertcraft.tensor.derivatives import elementwise
from bertcraft.tensor.gradient import narrow, stop_gradient, wide
from bertcraft.tensor.kernels import fusable
from bertcraft.tensor.tensor import apply


def _in_float32(definition: Callable) -> Callable:
    """Let a function of a float16 array compute with float32: squares and sums of float16 end at 65504, and lose small terms."""

    @functools.wraps(definition)
    def function(x, *args, **kwargs):
        if getattr(x, "dtype", None) != np.float16:
            return definition(x, *args, **kwargs)
        return narrow(definition(wide(x), *args, **kwargs), np.float16)

    return function


# ---------------------------------------------------------------------------------------------------- activations

# Rational approximations of W. J. Cody, "Rational Chebyshev approximations for the error function",
# Mathematics of Computation 23 (1969): relative error below 6e-19, so exact to double precision.
_NEAR = ([1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2, 3.77485237685302021e2,
          3.20937758913846947e3],
         [1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3])  # fmt: skip
_FAR = ([2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1,
         2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
         1.23033935479799725e3],
        [1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
         3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3])  # fmt: skip


def _polynomial(coefficients, x):
    """Horner's rule, highest power first."""
    total = coefficients[0] * x + coefficients[1]
    for c in coefficients[2:]:
        total = total * x + c
    return total


@_in_float32
def _erf(x):
    size = np.minimum(np.absolute(x), 6)
    square = size * size
    near = size * _polynomial(_NEAR[0], square) / _polynomial(_NEAR[1], square)
    far = 1 - np.exp(-square) * _polynomial(_FAR[0], size) / _polynomial(_FAR[1], size)
    return np.copysign(np.where(size <= 0.46875, near, far), x)


def erf(x):
    """The error function 2/sqrt(pi) * integral of exp(-t^2) from 0 to x, element by element."""
    return apply(_erf, x)


elementwise(_erf, lambda g, z, x: g * (2 / math.sqrt(math.pi)) * np.exp(-x * x))


@fusable
@_in_float32
def gelu(x):
    """Gaussian error linear unit, x times the normal distribution function of x (Hendrycks & Gimpel 2016, eq. 1)."""
    return x * (0.5 * (1 + erf(x * math.sqrt(0.5))))


@fusable
@_in_float32
def gelu_tanh(x):
    """The tanh approximation of GELU (Hendrycks & Gimpel 2016, section 2), "gelu_new" in transformers."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))


def relu(x):
    """max(x, 0); the slope at 0 is 0, as in PyTorch."""
    return np.where(x <= 0, 0, x)


def _sigmoid(x):
    small = np.exp(-np.absolute(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def sigmoid(x):
    """1 / (1 + exp(-x)), exact in both tails: no exponential overflows."""
    return apply(_sigmoid, x)


elementwise(_sigmoid, lambda g, z, x: g * z * sigmoid(-x))


def silu(x):
    """x * sigmoid(x), also called swish (Elfwing et al. 2018)."""
    return x * sigmoid(x)


def softplus(x):
    """log(1 + exp(x)), safe for large x."""
    return np.logaddexp(x, 0)


ACTIVATIONS = {
    "gelu": gelu, "gelu_python": gelu, "gelu_new": gelu_tanh, "gelu_pytorch_tanh": gelu_tanh, "gelu_fast": gelu_tanh,
    "relu": relu, "silu": silu, "swish": silu, "tanh": np.tanh,
}  # fmt: skip

# ------------------------------------------------------------------------------------------------------- normalisers


@_in_float32
def logsumexp(x, axis=-1, keepdims=False):
    """log of the sum of exponentials along an axis, shifted by the maximum so that nothing overflows.

    -inf where all terms are -inf, inf where one is inf; there the gradient is nan, as in PyTorch and JAX.
    """
    top = _stopped_max(x, axis)
    top = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):
        total = np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True)) + top
    return total if keepdims else np.squeeze(total, axis=axis)


def _stopped_max(x, axis):
    """The maximum as a constant: it cancels in the functions that subtract it, and so does its derivative."""
    return np.max(stop_gradient(x), axis=axis, keepdims=True)


@_in_float32
def softmax(x, axis=-1):
    """exp(x) / sum of exp(x) along an axis."""
    e = np.exp(x - _stopped_max(x, axis))
    return e / np.sum(e, axis=axis, keepdims=True)


@_in_float32
def log_softmax(x, axis=-1):
    """log of the softmax, exact also where the softmax underflows or x is large."""
    shifted = x - _stopped_max(x, axis)
    return shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True))


@fusable
@_in_float32
def layer_norm(x, weight, bias, eps=1e-12):
    """Layer normalisation over the last axis (Ba, Kiros & Hinton 2016, eq. 4). x (..., H), weight and bias (H,)."""
    centred = x - np.mean(x, axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * weight + bias


@fusable
def rms_norm(x, weight, eps=None):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang & Sennrich 2019, eq. 4). x (..., H), weight (H,).

    ``eps`` None is the distance from 1 to the next number of the dtype, as in torch.
    """
    eps = float(np.finfo(x.dtype).eps) if eps is None else eps
    dtype, x = x.dtype, wide(x)
    return narrow(x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight, dtype)


@_in_float32
def normalize(x, axis=-1, eps=1e-12):
    """Divide by the Euclidean length along an axis (lengths below eps count as eps)."""
    square = np.sum(x * x, axis=axis, keepdims=True)
    return x / np.sqrt(np.maximum(square, eps * eps))


# --------------------------------------------------------------------------------------------------------- dropout


def keep_mask(shape, rate, rng):
    """Which elements dropout keeps: booleans of the shape, true with probability 1 - rate (to 1/65536).

    ``rng`` is a ``numpy.random.Generator`` or, under JAX, a :class:`bertcraft.tensor.xla.Generator`. Sixteen random
    bits an element: four times fewer than a float would take.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"a dropout rate is at least 0 and less than 1, got {rate}")
    if not isinstance(rng, np.random.Generator):
        return rng.random_uint16(shape) >= round(rate * 65536)
    if isinstance(rng.bit_generator, np.random.MT19937):  # its raw numbers have 32 bits
        return rng.integers(65536, size=shape, dtype=np.uint16) >= round(rate * 65536)
    size = math.prod(shape)
    bits = rng.bit_generator.random_raw(-(-size // 4)).view(np.uint16)[:size]
    return (bits >= round(rate * 65536)).reshape(shape)


def dropout(x, rate, rng):
    """Zero each element with probability ``rate`` and scale the others so that the mean stays (Srivastava et al. 2014).

    ``rng=None`` or ``rate=0`` returns x: the evaluation mode.
    """
    if rng is None or rate == 0:
        return x
    return np.where(keep_mask(x.shape, rate, rng), x * (1 / (1 - rate)), 0)


# ------------------------------------------------------------------------------------------- pieces of a transformer


@fusable
def linear(x, weight, bias=None):
    """x W^T + b: x (..., in), weight (out, in), bias (out,) or None -> (..., out)."""
    product = x @ np.swapaxes(weight, -1, -2)
    return product if bias is None else product + bias


@fusable
def embedding(weight, ids, padding_id=None):
    """Rows of a table: weight (V, H), ids integers (...) -> (..., H).

    The row of ``padding_id`` gets no gradient, as in PyTorch.
    """
    rows = weight[ids]
    return rows if padding_id is None else np.where((ids == padding_id)[..., None], stop_gradient(rows), rows)


@fusable
def take_positions(x, at):
    """The vectors at some positions of each row: x (B, L, H), at integers (B, M) -> (B, M, H)."""
    return x[np.arange(len(x))[:, None], at]


@fusable
def add_layer_norm(x, y, weight, bias, eps=1e-12, rate=0.0, rng=None):
    """layer_norm(x + dropout(y)): the end of each half of a post-LN layer. x and y (..., H)."""
    return layer_norm(x + dropout(y, rate, rng), weight, bias, eps)


def split_heads(x, heads):
    """(B, L, H) -> (B, heads, L, H / heads)."""
    batch, length, hidden = x.shape
    return np.swapaxes(np.reshape(x, (batch, length, heads, hidden // heads)), 1, 2)


def merge_heads(x):
    """(B, heads, L, D) -> (B, L, heads * D)."""
    batch, heads, length, size = x.shape
    return np.reshape(np.swapaxes(x, 1, 2), (batch, length, heads * size))


def attention_probabilities(query, key, bias=None, heads=1):
    """How much each query attends to each key: (B, Lq, H), (B, Lk, H) -> (B, heads, Lq, Lk); see :func:`attention`."""
    q, k = split_heads(query, heads), split_heads(key, heads)
    scores = q @ np.swapaxes(k, -1, -2) * (1 / math.sqrt(q.shape[-1]))
    return softmax(scores if bias is None else scores + bias)


@fusable
def attention(query, key, value, bias=None, heads=1, rate=0.0, rng=None):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, eq. 1), dropout on the probabilities.

    query (B, Lq, H), key and value (B, Lk, H); bias is added to the scores and broadcasts to (B, heads, Lq, Lk), for
    instance :func:`padding_bias`. Returns (B, Lq, H).
    """
    probabilities = attention_probabilities(query, key, bias, heads)
    return merge_heads(dropout(probabilities, rate, rng) @ split_heads(value, heads))


def padding_bias(attention_mask, dtype=np.float32):
    """0 where a token may be attended to, the most negative number where it is padding: (B, L) -> (B, 1, 1, L)."""
    blocked = (1 - attention_mask.astype(dtype)) * float(np.finfo(dtype).min)
    return blocked[:, None, None, :]


@_in_float32
def mean_pool(hidden, attention_mask):
    """Mean of the token vectors that are not padding: (B, L, H), (B, L) -> (B, H)."""
    mask = attention_mask.astype(hidden.dtype)[..., None]
    return np.sum(hidden * mask, axis=1) / np.maximum(np.sum(mask, axis=1), 1)


# ----------------------------------------------------------------------------------------------------------- losses

IGNORED = -100  # the label of a position that no loss reads, as in PyTorch and transformers


@fusable
def cross_entropy(logits, labels):
    """Mean negative log-probability of the labels, in nats. logits (..., C), labels integers (...).

    Labels equal to IGNORED (-100) do not count; with no other label the loss is 0. Raises ValueError for other labels
    outside 0 ... C - 1 (under JAX they are not checked) and for labels of another shape, TypeError for others than integers.
    """
    labels = np.array(labels) if isinstance(labels, (list, tuple, int, np.integer)) else labels
    check_labels(labels, logits.shape)
    counted = labels != IGNORED
    chosen = np.take_along_axis(log_softmax(logits), np.where(counted, labels, 0)[..., None], axis=-1)[..., 0]
    return -_mean_where(counted, chosen)


def check_labels(labels, shape: tuple[int, ...]) -> None:
    """Raise ValueError for a label that is neither a class nor IGNORED: an index below 0 would count from the end.

    shape: of the logits. Fewer labels than rows would be read as those of the first rows, or repeated. Booleans are 0 and 1.
    """
    *rows, classes = shape
    if type(labels) is np.ndarray:
        if labels.dtype.kind not in "iub":
            raise TypeError(f"labels are integers, got {labels.dtype}: convert them with .astype(int)")
        if labels.shape != (*rows,):
            got = f"labels of shape {labels.shape} for logits of shape {tuple(shape)}"
            raise ValueError(f"got {got}, expected {(*rows,)}: one a row")
        wrong = labels[((labels < 0) | (labels >= classes)) & (labels != IGNORED)]
        if wrong.size:
            raise ValueError(f"got the label {wrong[0]}, expected 0 to {classes - 1} or {IGNORED} (not predicted)")


def _mean_where(counted, losses):
    """The mean of those that count, 0 of none; of float16 summed in float32, as np.mean does."""
    total = np.sum(np.where(counted, wide(losses), 0))
    return narrow(total / np.maximum(np.sum(counted), 1).astype(total.dtype), losses.dtype)


@fusable
def linear_cross_entropy(x, weight, bias, labels):
    """cross_entropy(linear(x, weight, bias), labels): the output layer of a language model and its loss in one.

    x (..., H), weight (V, H), bias (V,), labels integers (...).
    """
    return cross_entropy(linear(x, weight, bias), labels)


def binary_cross_entropy(logits, targets, mask=None):
    """Mean binary cross-entropy of logits and 0/1 targets of one shape, over the elements where ``mask`` is true.

    Raises ValueError for targets or a mask of another shape: (B, 1) and (B,) would be broadcast to (B, B), and a mask would
    count an element once and its losses often.
    """
    for what, given in (("targets", targets), ("a mask", mask)):
        if given is not None and given.shape != logits.shape:
            raise ValueError(f"got {what} of shape {given.shape} for logits of shape {logits.shape}, expected one shape")
    targets = targets.astype(logits.dtype)
    losses = softplus(logits) - logits * targets
    if mask is None:
        return np.mean(losses)
    return _mean_where(mask, losses)


def mean_squared_error(prediction, target):
    """Mean of the squared differences. Raises ValueError for a target of another shape: (B, 1) and (B,) would be (B, B)."""
    if target.shape != prediction.shape:
        raise ValueError(f"got a target of shape {target.shape} for a prediction of shape {prediction.shape}, expected one shape")
    return np.mean(np.square(prediction - target.astype(prediction.dtype)))
