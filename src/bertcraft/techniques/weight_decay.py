"""Weight decay: a term that pulls weights to 0. With Adam it matters where in the update it is added.

Loshchilov & Hutter, "Decoupled Weight Decay Regularization" (AdamW), ICLR 2019, arXiv:1711.05101. With g the gradient, t the
number of the update from 1, and a the learning rate, Adam (Kingma & Ba 2015, algorithm 1) is

    m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2,   u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)          (1)

    L2 in the loss    g <- g + decay w   before (1),   w <- w - a u                                                 (2)
    decoupled         w <- w - a (u + decay w)                                                                      (3)
    as published      w <- w - s (alpha u + decay w),  with a = s alpha, s the schedule's multiplier (algorithm 2)  (4)

In (2) the pull is divided by sqrt(v) like everything else: weights with large gradients hardly decay. In (3), which is torch's,
every weight shrinks by the factor 1 - a decay, and a higher rate decays more; in (4) it does not. Without anything between, as in
plain SGD, (2) and (3) are one rule (their proposition 1).

So an update is a chain of small rules, and *where* :func:`add_decay` stands is the technique: before :func:`adam` or behind it.
The rules chain like all of :mod:`bertcraft.train.rules`; ``bertcraft.train.adamw`` is (3) again, fused into one pass over memory.
LAMB (You et al. 2020, arXiv:1904.00962, algorithm 2) is one link more: :func:`trust_ratio`.

BERT's own optimizer (google-research/bert, optimization.py) is (3) without the corrections 1 - b^t: :func:`uncorrected` tells
what that does to the first updates. It is named as a cause of fine-tuning runs that fail: Mosbach et al., ICLR 2021,
arXiv:2006.04884; Zhang et al., ICLR 2021, arXiv:2006.05987.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from bertcraft.errors import InputError
from bertcraft.tensor import tree
from bertcraft.train.rules import (
    Decay,
    Rule,
    chain,
    check_adam,
    correction,
    default_decay,
    init_moments,
    like,
    moments,
    named,
    rate_at,
)
from bertcraft.train.schedules import Schedule

# ------------------------------------------------------------------------------------------------------ links of a chain


def adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, *, corrected: bool = True, inside: bool = False) -> Rule:
    """Adam's direction u, equation (1): no rate yet, no sign. State: ``step``, ``m``, ``v``.

    corrected: divide by 1 - b^t; BERT's first code did not. inside: sqrt(v + eps) in place of sqrt(v) + eps, as RMSprop's
    variants have it: eps then is a squared gradient, and 1e-8 as large as an outside one of 1e-4. Without corrections eps is the
    "epsilon hat" at the end of Kingma & Ba's section 2, worth eps / sqrt(1 - b2^t) of an ordinary one. Raises InputError for
    numbers that Adam cannot have.
    """
    check_adam(b1, b2, eps)
    b1, b2, eps = float(b1), float(b2), float(eps)  # NumPy's own float64 would promote a float32 model

    def update(gradients, state, params):
        m, v = moments(gradients, state, b1, b2)
        step = state["step"] + 1
        of_m, of_v = (correction(b1, step), correction(b2, step)) if corrected else (1.0, 1.0)

        def direction(m, v):
            v = v / like(of_v, v)
            return m / like(of_m, m) / (np.sqrt(v + eps) if inside else np.sqrt(v) + eps)

        return tree.map(direction, m, v), {"step": step, "m": m, "v": v}

    return Rule(init_moments, update)


def add_decay(weight_decay: float, which: Decay = default_decay) -> Rule:
    """Add ``weight_decay`` times the weight to what is there: to the gradient, (2), or to the direction, (3). No state.

    which: ``which(name, leaf)`` says whether a parameter decays; by default matrices do, biases and layer norms do not.
    Raises InputError for a weight_decay below 0.
    """
    if weight_decay < 0:
        raise InputError(f"weight_decay must be 0 or more, got {weight_decay}")
    weight_decay = float(weight_decay)

    def update(gradients, state, params):
        flags = tree.map(bool, named(which, params))
        return tree.map(lambda d, g, p: g + weight_decay * p if d else g, flags, gradients, params), state

    return Rule(lambda params: {}, update)


def times(factor: float | Schedule) -> Rule:
    """Multiply by a number or by a schedule at the step. State: ``step``."""

    def update(gradients, state, params):
        now = rate_at(factor, state["step"])
        return tree.map(lambda g: like(now, g) * g, gradients), {"step": state["step"] + 1}

    return Rule(lambda params: {"step": np.zeros((), np.int64)}, update)


def descend(rate: float | Schedule) -> Rule:
    """Go against the direction, ``rate`` times as far: the last link."""
    return times(lambda step: -rate_at(rate, step))


def trust_ratio(which: Decay = default_decay) -> Rule:
    """LAMB's link: each direction gets the length of its parameter, |w| / |u|, 1 where either is 0. No state.

    As in the authors' BERT code, parameters that do not decay are not rescaled either.
    """

    def rescaled(scales, u, p):
        if not scales:
            return u
        length, moved = np.sqrt(np.sum(p * p)), np.sqrt(np.sum(u * u))
        ratio = np.where((length > 0) & (moved > 0), length / np.where(moved > 0, moved, 1.0), 1.0)
        return like(ratio, u) * u

    def update(gradients, state, params):
        return tree.map(rescaled, tree.map(bool, named(which, params)), gradients, params), state

    return Rule(lambda params: {}, update)


# ----------------------------------------------------------------------------------------------------------- the chains


def adam_l2(rate: float | Schedule, weight_decay: float = 0.01, which: Decay = default_decay, **options) -> Rule:
    """Equation (2): torch.optim.Adam(weight_decay=...). ``options``: those of :func:`adam`, here and below."""
    return chain(add_decay(weight_decay, which), adam(**options), descend(rate))


def adam_decoupled(rate: float | Schedule, weight_decay: float = 0.01, which: Decay = default_decay, **options) -> Rule:
    """Equation (3): torch.optim.AdamW; with ``corrected=False`` and ``eps=1e-6``, BERT's own."""
    return chain(adam(**options), add_decay(weight_decay, which), descend(rate))


def adam_published(
    alpha: float, multiplier: Schedule, weight_decay: float = 1e-5, which: Decay = default_decay, **options
) -> Rule:
    """Equation (4), algorithm 2: the decay follows the schedule's multiplier s (1 at its peak), not the rate alpha.

    The same as (3) with ``weight_decay / alpha``: changing alpha alone then leaves the decay as it is.
    """
    return chain(adam(**options), times(alpha), add_decay(weight_decay, which), descend(multiplier))


def lamb(rate: float | Schedule, weight_decay: float = 0.01, which: Decay = default_decay, eps: float = 1e-6, **options) -> Rule:
    """LAMB, for very large batches: You et al. 2020, algorithm 2, with the identity for its function phi."""
    return chain(adam(eps=eps, **options), add_decay(weight_decay, which), trust_ratio(which), descend(rate))


# --------------------------------------------------------------------------------------------------------- what decays


def everything(name: str, leaf: Any) -> bool:
    """All parameters decay: torch's AdamW where nobody makes groups."""
    return True


def by_name(name: str, leaf: Any) -> bool:
    """BERT's own rule: no bias and no layer norm (``exclude_from_weight_decay``); in a BERT these are the 1-D parameters."""
    return not any(part in name for part in ("LayerNorm", "layer_norm", "bias"))


# ------------------------------------------------------------------------------------------------------- how much it is


def left(rates: Iterable[float], weight_decay: float) -> float:
    """What decay alone, (3), leaves of a weight without gradient: the product of 1 - rate * weight_decay over the updates.

    About exp(-weight_decay * sum of rates): in 1,000 steps of fine-tuning at 2e-5 and 0.01 all but 0.02 % is left.
    """
    return math.prod(1 - float(rate) * weight_decay for rate in rates)


def uncorrected(step: Any, b1: float = 0.9, b2: float = 0.999) -> Any:
    """How many times as long update t = step + 1 is without bias correction: (1 - b1^t) / sqrt(1 - b2^t).

    3.2 for the first, 6.5 for the tenth, 1.3 for the thousandth: warm-up hides it.
    """
    return correction(b1, step + 1) / np.sqrt(correction(b2, step + 1))
