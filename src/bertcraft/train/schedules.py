"""Learning-rate schedules: functions from the step to the rate.

The step counts from 0: ``schedule(0)`` is the rate of the first update. A step is a Python or NumPy integer,
or a :class:`bertcraft.tensor.Tensor` around a JAX integer inside ``jax.jit``; hence formulas without ``if``,
in which NumPy's functions choose the branch. While warming up a schedule is ``peak * step / warmup``.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bertcraft.errors import InputError

Schedule = Callable[[Any], Any]


def constant(peak: float) -> Schedule:
    """``peak`` at every step."""
    check(peak)
    return lambda step: peak


def warmup_linear(peak: float, warmup: int, total: int) -> Schedule:
    """Rise linearly to ``peak`` in ``warmup`` steps, fall linearly to 0 at step ``total``, stay there.

    BERT's schedule (Devlin et al. 2019, appendix A.2); the same as transformers'
    ``get_linear_schedule_with_warmup``.
    """
    check(peak, warmup, total)

    def schedule(step):
        falling = np.maximum(0.0, (total - step) / max(1, total - warmup))
        return peak * np.where(step < warmup, rising(step, warmup), falling)

    return schedule


def warmup_cosine(peak: float, warmup: int, total: int, lowest: float = 0.0) -> Schedule:
    """Rise linearly to ``peak`` in ``warmup`` steps, fall along half a cosine to ``lowest`` at ``total``, stay there.

    Loshchilov & Hutter 2017 (SGDR), equation 5 with one period; up to ``total`` the same as transformers'
    ``get_cosine_schedule_with_warmup``, and with a lowest rate as its ``get_cosine_with_min_lr_schedule_with_warmup``.
    """
    check(peak, warmup, total)

    def schedule(step):
        progress = np.minimum(1.0, (step - warmup) / max(1, total - warmup))
        falling = 0.5 + 0.5 * np.cos(math.pi * progress)
        return np.where(step < warmup, peak * rising(step, warmup), lowest + (peak - lowest) * falling)

    return schedule


FALLS = {  # from 1 to 0, of the share that is left of the fall
    "linear": lambda left: left,
    "cosine": lambda left: 0.5 - 0.5 * np.cos(math.pi * left),
    "1-sqrt": lambda left: 1 - np.sqrt(1 - left),
}


def warmup_stable_decay(peak: float, warmup: int, decay: int, total: int, fall: str = "linear") -> Schedule:
    """Rise linearly to ``peak`` in ``warmup`` steps, stay there, fall to 0 in the last ``decay`` of ``total`` steps.

    Until it falls, the rate does not depend on ``total``: one run serves many lengths (Hu et al. 2024, MiniCPM, section 4; Hägele
    et al. 2024, arXiv:2405.18392). ``fall``: one of :data:`FALLS`, the ``decay_type`` of transformers' ``get_wsd_schedule``.
    Raises InputError for another one, and for a rate or numbers of steps that no schedule can have.
    """
    check(peak, warmup, total)
    if fall not in FALLS:
        raise InputError(f"fall: got {fall!r}, expected one of {', '.join(FALLS)}")
    if not 0 <= decay <= total - warmup:
        raise InputError(f"decay must be between 0 and the {total - warmup} steps after warm-up, got {decay}")

    def schedule(step):
        left = np.clip((total - step) / max(1, decay), 0.0, 1.0)
        return peak * np.where(step < warmup, rising(step, warmup), FALLS[fall](left))

    return schedule


def warmup_inverse_sqrt(peak: float, warmup: int) -> Schedule:
    """Rise linearly to ``peak`` in ``warmup`` steps (at least 1), then ``peak * sqrt(warmup / step)``.

    Vaswani et al. 2017, equation 3, scaled so that its highest rate is ``peak``. Raises InputError for no warm-up.
    """
    check(peak, warmup)
    if warmup < 1:
        raise InputError(f"warmup_inverse_sqrt needs at least 1 warm-up step, got {warmup}")
    return lambda step: peak * np.minimum(rising(step, warmup), np.sqrt(warmup / np.maximum(step, 1)))


def rising(step: Any, warmup: int) -> Any:
    """0 to 1 over ``warmup`` steps, then 1."""
    return np.minimum(1.0, step / warmup) if warmup else 1.0


def check(peak: float, warmup: int = 0, total: int | None = None) -> None:
    """Raise InputError for a rate or numbers of steps that no schedule can have."""
    if not (math.isfinite(peak) and peak >= 0):
        raise InputError(f"the highest learning rate must be 0 or more and finite, got {peak}")
    if warmup < 0:
        raise InputError(f"the number of warm-up steps must be 0 or more, got {warmup}")
    if total is not None and total < max(1, warmup):
        raise InputError(f"total must be at least 1 and at least warmup ({warmup}), got {total} steps")
