"""Learning-rate schedules: a rise while Adam does not know its gradients yet, then a fall in which the noise averages out.

No single paper. BERT rises for 10,000 steps and falls in a line (Devlin et al. 2019, appendix A.2). Half a cosine, and cosines
that start again: Loshchilov & Hutter, "SGDR", ICLR 2017, arXiv:1608.03983. One cycle up and far down: Smith & Topin 2017,
arXiv:1708.07120. A flat rate with a late fall: Hu et al. 2024 (MiniCPM), arXiv:2404.06395, section 4.

A schedule is a function from the step, counted from 0, to the rate: ``schedule(0)`` is that of the first update. The five that
all of bertcraft trains with lie with the loop (:mod:`bertcraft.train.schedules`): constant, warmup_linear, warmup_cosine,
warmup_inverse_sqrt, warmup_stable_decay. Here are the others, what lets one go on with another length, and why there is a
warm-up. :data:`SCHEDULES` has all by the names of transformers.

Why warm up? Adam divides by the root of an average of squared gradients, which after t steps is one of about t numbers: its
first update is rate * sign(g) for every parameter, however uncertain g is. Liu et al., "On the Variance of the Adaptive Learning
Rate and Beyond" (RAdam), ICLR 2020, arXiv:1908.03265, give the length of that average and what would keep the variance even:

    rho_t = rho - 2 t b2^t / (1 - b2^t),   rho = 2 / (1 - b2) - 1                                        (their eq. 7)
    r_t   = sqrt((rho_t - 4) (rho_t - 2) rho / ((rho - 4) (rho - 2) rho_t)),   from rho_t > 4 on          (section 4.2)

r_t rises from near 0 to 1: a warm-up (:func:`rectification`). Ma & Yarats, AAAI 2021, arXiv:1910.04209, find a linear one of
2 / (1 - b2) steps as good, for the plainer reason that early updates are too long (:func:`untuned_warmup`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bertcraft.errors import InputError
from bertcraft.tensor import tree
from bertcraft.train.rules import Rule, check_adam, correction, init_moments, like, moments, rate_at
from bertcraft.train.schedules import (
    FALLS,
    Schedule,
    rising,
    warmup_cosine,
    warmup_inverse_sqrt,
    warmup_linear,
    warmup_stable_decay,
)
from bertcraft.train.schedules import check as check_schedule

# ------------------------------------------------------------------------------------------------------------- schedules


def warmup_constant(peak: float, warmup: int) -> Schedule:
    """Rise linearly to ``peak`` in ``warmup`` steps and stay there: transformers' ``get_constant_schedule_with_warmup``."""
    check_schedule(peak, warmup)
    return lambda step: peak * rising(step, warmup)


def warmup_polynomial(peak: float, warmup: int, total: int, power: float = 2.0, lowest: float = 0.0) -> Schedule:
    """Rise linearly, fall as (1 - progress)^power to ``lowest`` at ``total``, stay there; power 1 is RoBERTa's.

    transformers' ``get_polynomial_decay_schedule_with_warmup``; without warm-up torch's ``PolynomialLR``.
    """
    check_schedule(peak, warmup, total)

    def schedule(step):
        left = np.clip((total - step) / max(1, total - warmup), 0.0, 1.0)
        return np.where(step < warmup, peak * rising(step, warmup), lowest + (peak - lowest) * left**power)

    return schedule


def warmup_restarts(peak: float, warmup: int, total: int, cycles: int = 4) -> Schedule:
    """Rise linearly, then ``cycles`` half cosines of one length, each from ``peak`` to 0; 0 from ``total`` on.

    transformers' ``get_cosine_with_hard_restarts_schedule_with_warmup``.
    """
    check_schedule(peak, warmup, total)

    def schedule(step):
        progress = (step - warmup) / max(1, total - warmup)
        cosine = 0.5 + 0.5 * np.cos(math.pi * np.mod(cycles * progress, 1.0))
        return peak * np.where(step < warmup, rising(step, warmup), np.where(progress < 1, cosine, 0.0))

    return schedule


def warm_restarts(peak: float, first: int, factor: int = 1, lowest: float = 0.0) -> Schedule:
    """SGDR: half cosines from ``peak`` to ``lowest``, the first of ``first`` steps, the next ``factor`` times as long, and so on.

    Loshchilov & Hutter 2017, equation 5; torch's ``CosineAnnealingWarmRestarts``. It never reaches ``lowest``: the step that
    would is the first of the next cycle. Raises InputError for a rate, a number of steps or a factor that no such schedule has.
    """
    check_schedule(peak, 0, first)
    if factor < 1:
        raise InputError(f"the factor of cycles must be 1 or more, got {factor}")

    def schedule(step):
        start, length = 0, first
        if factor == 1:
            start = step // first * first
        for _ in range(40 if factor > 1 else 0):  # longer than any run
            passed = step >= start + length
            start, length = np.where(passed, start + length, start), np.where(passed, length * factor, length)
        return lowest + (peak - lowest) * (0.5 + 0.5 * np.cos(math.pi * (step - start) / length))

    return schedule


def through(points: Sequence[tuple[float, float]], fall: str = "cosine") -> Schedule:
    """Rates that go through (step, rate) points, in lines or half cosines (``fall``: a name of FALLS); the last one stays."""
    steps = [step for step, _ in points]
    if len(points) < 2 or fall not in FALLS or any(second <= first for first, second in zip(steps, steps[1:], strict=False)):
        raise InputError(f"expected two points or more, their steps rising, and one of {', '.join(FALLS)}; got {points}, {fall}")

    def schedule(step):
        rate = points[0][1]
        for (first, start), (last, end) in zip(points, points[1:], strict=False):
            left = FALLS[fall](np.clip((last - step) / (last - first), 0.0, 1.0))
            rate = np.where(step > first, end + (start - end) * left, rate)
        return rate

    return schedule


def one_cycle(
    peak: float, warmup: float, total: int, start: float = 25.0, end: float = 1e4, fall: str = "cosine", three: bool = False
) -> Schedule:
    """Up from peak / start in ``warmup`` steps, down to peak / (start * end) at the last of ``total``, step ``total`` - 1.

    Smith & Topin 2017, figure 1; with ``three`` phases, as there, down as fast as up, then on. torch's ``OneCycleLR`` with
    ``warmup`` = pct_start * total - 1, without its cycle of momenta.
    """
    check_schedule(peak)
    low = peak / start
    return through([(0, low), (warmup, peak), *([(2 * warmup, low)] if three else []), (total - 1, low / end)], fall)


def bert(peak: float, warmup: int, total: int) -> Schedule:
    """That of BERT's first code (google-research/bert, optimization.py): the fall counts from step 0, and warm-up overwrites it.

    So it jumps down where warm-up ends, and never reaches ``peak``: with 100 of 1,000 steps it goes from 0.99 to 0.9 of it.
    """
    check_schedule(peak, warmup, total)
    return lambda step: peak * np.where(step < warmup, rising(step, warmup), np.maximum(0.0, 1 - step / total))


# What a run may choose by name, as functions of (peak, warmup, total): transformers' names, where it has them.
SCHEDULES: dict[str, Callable[[float, int, int], Schedule]] = {
    "linear": warmup_linear,
    "cosine": warmup_cosine,
    "cosine_with_restarts": warmup_restarts,
    "polynomial": warmup_polynomial,
    "inverse_sqrt": lambda peak, warmup, total: warmup_inverse_sqrt(peak, max(1, warmup)),
    "constant_with_warmup": lambda peak, warmup, total: warmup_constant(peak, warmup),
    "warmup_stable_decay": lambda peak, warmup, total: warmup_stable_decay(peak, warmup, min(total // 5, total - warmup), total),
    "one_cycle": one_cycle,
    "bert": bert,
}


def named(name: str, peak: float, warmup: int, total: int) -> Schedule:
    """A schedule of :data:`SCHEDULES`. Raises InputError for another name, or numbers that it cannot have."""
    if name not in SCHEDULES:
        raise InputError(f"schedule: got {name!r}, expected one of {', '.join(SCHEDULES)}")
    if name == "one_cycle" and not 0 < warmup < total - 1:
        raise InputError(f"one_cycle rises and falls: expected more than 0 and less than {total - 1} warm-up steps, got {warmup}")
    return SCHEDULES[name](peak, warmup, total)


# ---------------------------------------------------------------------------------------------------------- another length

# A schedule cut short is no short schedule: at three quarters of a line the rate is a quarter of the peak, not 0, and the noise
# that a fall averages out is still there (Hoffmann et al. 2022, arXiv:2203.15556, appendix B).


def joined(first: Schedule, at: int, second: Schedule) -> Schedule:
    """``first`` before step ``at``, then ``second``; both count steps from the beginning.

    What happens where a run is resumed with another length: torch's and transformers' ``LambdaLR`` save the step and not the
    function, so the rate jumps to that of the new one. (``CosineAnnealingLR`` saves its ``T_max``, and keeps the old length.)
    """
    return lambda step: np.where(step < at, first(step), second(step))


def resumed(schedule: Schedule, at: int, total: int) -> Schedule:
    """A schedule up to step ``at``, from there in a line from the rate that it has reached to 0 at ``total``: no jump."""
    if total <= at:
        raise InputError(f"expected a total of more than {at} steps, those done, got {total}")
    reached = schedule(at)
    return joined(schedule, at, lambda step: reached * np.clip((total - step) / (total - at), 0.0, 1.0))


# --------------------------------------------------------------------------------------------------------- why warm-up


def average_length(step: Any, b2: float = 0.999) -> Any:
    """rho_t: of how many squared gradients Adam's average is one, after the update ``step``, from 0 (Liu et al., equation 7)."""
    t = step + 1
    return 2 / (1 - b2) - 1 - 2 * t * (1 - correction(b2, t)) / correction(b2, t)


def rectification(step: Any, b2: float = 0.999) -> Any:
    """r_t: what the rate must be multiplied by for even variance. 0 where there is none yet, rho_t <= 5, as in torch's code."""
    longest, rho = 2 / (1 - b2) - 1, np.maximum(average_length(step, b2), 4.0)
    r = np.sqrt((rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho))
    return np.where(rho > 5, r, 0.0)


def untuned_warmup(b2: float = 0.999) -> int:
    """How long a linear warm-up is as good as RAdam's, 2 / (1 - b2) steps (Ma & Yarats 2021, section 5)."""
    return round(2 / (1 - b2))


def radam(rate: float | Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Rule:
    """Rectified Adam: Liu et al. 2020, algorithm 2; torch.optim.RAdam. State as that of :func:`bertcraft.train.adamw`.

    While the average is too short to divide by, the update is the plain mean gradient times the rate. Raises InputError for
    numbers that Adam cannot have.
    """
    check_adam(b1, b2, eps)
    b1, b2, eps = float(b1), float(b2), float(eps)  # NumPy's own float64 would promote a float32 model

    def update(gradients, state, params):
        step = state["step"]
        m, v = moments(gradients, state, b1, b2)
        r, mean = rectification(step, b2), -rate_at(rate, step) / correction(b1, step + 1)
        root = np.sqrt(correction(b2, step + 1))

        def change(m, v):
            divided = like(r * root, m) / (np.sqrt(v) + eps)
            return like(mean, m) * m * np.where(r > 0, divided, np.ones_like(m))

        return tree.map(change, m, v), {"step": step + 1, "m": m, "v": v}

    return Rule(init_moments, update)
