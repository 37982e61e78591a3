"""From the figures of seeds to a mean difference, its interval, and a verdict by rule."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bertcraft.errors import InputError

LEVEL = 0.95


class Interval(NamedTuple):
    """A mean and its confidence interval; ``low`` and ``high`` are None where one seed tells nothing of the spread."""

    mean: float
    low: float | None
    high: float | None
    n: int


def mean(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The mean of independent values with Student's t interval (n - 1 degrees of freedom).

    Raises InputError when there is no value or one is not finite.
    """
    from scipy.stats import t

    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise InputError(f"an interval needs finite numbers in one row, got {values!r:.100}")
    n, centre = len(values), float(values.mean())
    if n == 1:
        return Interval(centre, None, None, 1)
    half = float(t.ppf((1 + level) / 2, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(centre, centre - half, centre + half, n)


def paired(treatment: Sequence[float], baseline: Sequence[float], level: float = LEVEL) -> Interval:
    """The mean of treatment - baseline over pairs (one a seed): what both share, data order and start, cancels."""
    _check_pairs(treatment, baseline)
    return mean(np.subtract(treatment, baseline), level)


def paired_ratio(treatment: Sequence[float], baseline: Sequence[float], level: float = LEVEL) -> Interval:
    """The geometric mean of treatment / baseline over pairs, with the t interval of the logarithms taken back."""
    _check_pairs(treatment, baseline)
    if min(*treatment, *baseline) <= 0:
        raise InputError("a ratio needs numbers above 0")
    logs = mean(np.log(treatment) - np.log(baseline), level)
    return Interval(*(None if x is None else math.exp(x) for x in logs[:3]), logs.n)


def _check_pairs(treatment, baseline) -> None:
    if len(treatment) != len(baseline):
        raise InputError(f"pairs need as many figures on either side, got {len(treatment)} and {len(baseline)}")


def verdict(interval: Interval, claimed: int, null: float = 0.0) -> str:
    """What an interval says of a claim that the difference has the sign ``claimed``.

    "reproduced": the interval lies on the claimed side of ``null``; "opposite": on the other side; "not separated": it holds
    ``null``; "one seed": there is no interval. It is a rule for one comparison, not corrected for how many are made.
    """
    if interval.low is None or interval.high is None:
        return "one seed"
    if interval.low > null:
        return "reproduced" if claimed > 0 else "opposite"
    if interval.high < null:
        return "reproduced" if claimed < 0 else "opposite"
    return "not separated"
