"""Gradient clipping: a step is never longer than a threshold, however steep the loss is where it is taken.

Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, arXiv:1211.5063. The loss of a
deep network has walls: where a gradient explodes, so does the curvature (section 2.3), and a step in its direction leads far
away. With g the gradient of all parameters as one vector, algorithm 1 is

    g <- g * min(1, c / |g|)                                                                                        (1)

Five ways, each an update rule that chains before another:

    by global norm   (1): the direction stays; BERT's, with c = 1. :func:`bertcraft.train.clip_by_global_norm`
    by value         each number into [-c, c] (Mikolov's own, section 3.1): the direction turns towards a diagonal
    by block         (1) for each block of parameters by itself: the blocks' shares change
    adaptive         (1) for each row of a matrix, c a share of that row's own length: Brock, De, Smith & Simonyan,
                     "High-Performance Large-Scale Image Recognition Without Normalization" (NFNets), ICML 2021,
                     arXiv:2102.06171, section 4
    none             RoBERTa's

**Under Adam a constant factor does nothing.** Of gradients k g_t the moments are k m_t and k^2 v_t, so that the step
m / sqrt(v) is that of g_t (Kingma & Ba 2015, section 2.1; eps aside, which stands for eps / k). A threshold far below all norms
is no such constant: it divides each gradient by its own norm. Clipping acts by making *some* steps count less than others.

**Where it stands.** After micro-batches are accumulated and after devices have added up their gradients, since a sum of clipped
parts is not the clipped sum; after a loss scale was divided out (technique 07), or the threshold is divided by the scale. A rule
of a :func:`~bertcraft.train.chain` stands there: engines sum up before they ask the rule, and
:func:`~bertcraft.techniques.mixed_precision_training.loss_scaling` goes around the chain.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from bertcraft.errors import InputError
from bertcraft.tensor import functions as F
from bertcraft.tensor import grad, tree
from bertcraft.train.rules import Rule, clip_by_global_norm, global_norm

by_global_norm = clip_by_global_norm

Kept = Callable[[Any, Any], Any]  # (gradients, params) -> gradients


def _rule(clip: Kept) -> Rule:
    """A rule without memory; its state tells the ``norm`` of all gradients before clipping, as that of by_global_norm does."""

    def init(params):
        return {"norm": np.zeros((), tree.leaves(params)[0].dtype)}

    return Rule(init, lambda gradients, state, params: (clip(gradients, params), {"norm": global_norm(gradients)}))


def none() -> Rule:
    """Gradients as they are."""
    return _rule(lambda gradients, params: gradients)


def by_value(limit: float) -> Rule:
    """Each number of a gradient into [-limit, limit]: torch's ``clip_grad_value_``. Raises InputError for a limit not above 0."""
    _positive(limit=limit)
    limit = float(limit)  # NumPy's own float64 would promote a float32 gradient
    return _rule(lambda gradients, params: tree.map(lambda g: np.clip(g, -limit, limit), gradients))


def by_block(max_norm: float, block: Callable[[str], str] = str, eps: float = 1e-6) -> Rule:
    """Clip by the norm of each block: parameters for whose names ``block`` says the same; by default each by itself.

    As torch's ``clip_grad_norm_`` called once for each block. Raises InputError for a max_norm not above 0.
    """
    _positive(max_norm=max_norm)

    def clip(gradients, params):
        blocks = [block(name) for name, _ in tree.items(gradients)]
        squares: dict[str, Any] = {}
        for key, g in zip(blocks, tree.leaves(gradients), strict=True):
            squares[key] = squares.get(key, 0) + np.sum(g * g)
        factors = {key: np.minimum(1.0, max_norm / (np.sqrt(square) + eps)) for key, square in squares.items()}
        keys = iter(blocks)
        return tree.map(lambda g: g * factors[next(keys)].astype(g.dtype), gradients)

    return _rule(clip)


def layer_of(name: str) -> str:
    """A block for each layer: what stands before and with its number in a parameter's name, else the name's first two parts."""
    parts = name.split(".")
    end = next((i + 1 for i, part in enumerate(parts) if part.isdigit()), 2)
    return ".".join(parts[:end])


def unit_norms(x):
    """The length of each row of a matrix, (out, 1), or that of a whole vector: of what makes up one output."""
    axes = tuple(range(1, x.ndim)) or None
    return np.sqrt(np.sum(x * x, axis=axes, keepdims=x.ndim > 1))


def adaptive(ratio: float = 0.01, eps: float = 1e-3, skipped: Callable[[str], bool] = lambda name: False) -> Rule:
    """Adaptive clipping: no row of a gradient is longer than ``ratio`` times that row of the parameter, at least eps long.

    With P and G rows, G <- G * ratio max(|P|, eps) / |G| where that is a shortening (Brock et al. 2021, section 4), as timm's
    ``adaptive_clip_grad``. ``skipped``: names left as they are, in the paper the last linear map. Zeros move: hence eps. Raises
    InputError for a ratio or eps not above 0.
    """
    _positive(ratio=ratio, eps=eps)
    ratio, eps = float(ratio), float(eps)

    def clip(gradients, params):
        def one(skip, g, p):
            if skip:
                return g
            longest, length = ratio * np.maximum(unit_norms(p), eps), unit_norms(g)
            return np.where(length < longest, g, g * (longest / np.maximum(length, 1e-6)))

        answers = iter([bool(skipped(name)) for name, _ in tree.items(params)])
        return tree.map(one, tree.map(lambda _: next(answers), params), gradients, params)

    return _rule(clip)


def _positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not number > 0:
            raise InputError(f"{name}: got {number}, expected a number above 0")


# --------------------------------------------------------------------------------------------- what clipping does, measured


def angle(first: Any, second: Any) -> float:
    """Degrees between two trees of arrays, each taken as one vector: how far clipping turned a gradient."""
    product = sum(np.sum(a * b) for a, b in zip(tree.leaves(first), tree.leaves(second), strict=True))
    cosine = product / (global_norm(first) * global_norm(second))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def thresholds(norms: np.ndarray, times: tuple[float, ...] = (0.5, 1.0, 2.0, 5.0, 10.0)) -> np.ndarray:
    """Thresholds to try: the mean norm of a run's gradients, half of it to ten times (Pascanu et al., section 3.2)."""
    return np.mean(norms[np.isfinite(norms)]) * np.asarray(times)


def one_unit_loss(params: dict, start: float = 0.5, target: float = 0.7, steps: int = 50):
    """(sigmoid(x_50) - 0.7)^2 of the recurrence x_t = w sigmoid(x_t-1) + b, x_0 = 0.5: equation 8 and figure 6 of the paper.

    params: ``w`` and ``b``, numbers or arrays of one shape, whose losses are then those of a map.
    """
    x = start
    for _ in range(steps):
        x = params["w"] * F.sigmoid(x) + params["b"]
    return np.square(F.sigmoid(x) - target)


def descent(loss: Callable, params: dict, rule: Rule, steps: int) -> dict:
    """Where a rule leads from ``params``, a dict of numbers: that of each step, (steps + 1,) by name."""
    params = {name: np.asarray(value, np.float64) for name, value in params.items()}
    state, path = rule.init(params), [params]
    for _ in range(steps):
        updates, state = rule.update(grad(loss)(params), state, params)
        params = tree.map(np.add, params, updates)
        path.append(params)
    return {name: np.array([step[name] for step in path]) for name in params}
