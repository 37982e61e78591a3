"""From the figures of seeds to a mean difference, its interval, and a verdict by rule in the form of its claim.

A claim has one of four forms. With d the paired difference, counted so that positive is better, and m a margin:

- ``superior``: d > 0;
- ``not worse``: d > -m (non-inferiority);
- ``equal``: -m < d < m (equivalence, two one-sided tests; Schuirmann 1987);
- ``exact``: every pair differs by what is expected, to a tolerance; no interval.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bertcraft.errors import InputError

LEVEL = 0.95
SUPERIOR, NOT_WORSE, EQUAL, EXACT = FORMS = ("superior", "not worse", "equal", "exact")
REPRODUCED, CONTRADICTED, CANNOT_TELL = "reproduced", "contradicted", "cannot tell"
HOLDS, FAILS = "holds", "does not hold"  # of exact claims
ONE_SEED = "one seed"  # no interval
UNFINISHED = "being measured"  # seeds that were declared are still to come
NOT_TESTABLE = "not testable here"  # a check failed: see bertcraft.lab.verdicts


class Interval(NamedTuple):
    """A mean and its confidence interval; ``low`` and ``high`` are None where one seed tells nothing of the spread."""

    mean: float
    low: float | None
    high: float | None
    n: int


class Finding(NamedTuple):
    """What one comparison found: ``says`` is its verdict if ``p`` is below the level left to it, else "cannot tell".

    ``p`` is two-sided: below 0.05 exactly where the 95 % interval gives the verdict. It is None for exact claims, whose verdict
    needs no level, and where one seed gives none.
    """

    interval: Interval
    p: float | None
    says: str


def mean(values: Sequence[float], level: float = LEVEL, overlap: float = 0.0) -> Interval:
    """The mean of values with Student's t interval (n - 1 degrees of freedom).

    ``overlap``: 0 for independent values. Where they are results of splits of the same texts, the texts tested over those trained
    on: the variance of the mean is then taken as (1/n + overlap) times that of a value (Nadeau & Bengio 2003, "Inference for the
    generalization error", section 3.2). Raises InputError when there is no value or one is not finite.
    """
    from scipy.stats import t

    values = _finite(values)
    n, centre = len(values), float(values.mean())
    if n == 1:
        return Interval(centre, None, None, 1)
    half = float(t.ppf((1 + level) / 2, n - 1)) * _standard_error(values, overlap)
    return Interval(centre, centre - half, centre + half, n)


def paired(treatment: Sequence[float], baseline: Sequence[float], overlap: float = 0.0) -> Interval:
    """The mean of treatment - baseline over pairs (one a seed): what both share, data order and start, cancels."""
    return mean(_differences(treatment, baseline, ratio=False), LEVEL, overlap)


def paired_ratio(treatment: Sequence[float], baseline: Sequence[float], overlap: float = 0.0) -> Interval:
    """The geometric mean of treatment / baseline over pairs, with the t interval of the logarithms taken back."""
    return _from_logarithms(mean(_differences(treatment, baseline, ratio=True), LEVEL, overlap))


def judge(
    treatment: Sequence[float],
    baseline: Sequence[float],
    *,
    form: str,
    better: int = 1,
    margin: float = 0.0,
    ratio: bool = False,
    expected: float | None = None,
    overlap: float = 0.0,
) -> Finding:
    """Hold pairs of figures against a claim of one of the ``FORMS``.

    ``better``: +1 where more is better, -1 where less is. With ``ratio`` quotients are judged in place of differences, by their
    logarithms: ``margin`` is then a share (0.03: at least 0.97 times as good; within 0.97 and 1.03). ``expected`` belongs to
    "exact": each pair's difference (or quotient) lies within ``margin`` of it.
    """
    values = _differences(treatment, baseline, ratio)
    plain = mean(values, LEVEL, overlap)
    interval = _from_logarithms(plain) if ratio else plain
    if form == EXACT:
        found = np.exp(values) if ratio else values
        return Finding(interval, None, HOLDS if np.all(np.abs(found - expected) <= margin) else FAILS)
    if plain.n == 1:
        return Finding(interval, None, ONE_SEED)
    low, high = (math.log1p(-margin), math.log1p(margin)) if ratio else (-margin, margin)
    if form == EQUAL:
        inside = low < plain.mean < high
        below, above = _p(values, low, overlap), _p(values, high, overlap)
        if inside:
            return Finding(interval, max(below, above), REPRODUCED)
        return Finding(interval, above if plain.mean >= high else below, CONTRADICTED)
    bound = (low if better > 0 else high) if form == NOT_WORSE else 0.0
    return Finding(interval, _p(values, bound, overlap), REPRODUCED if better * (plain.mean - bound) > 0 else CONTRADICTED)


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): all below 0.05 are false together in at most 5 % of families."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = largest
    return corrected


def _finite(values) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise InputError(f"an interval needs finite numbers in one row, got {values!r:.100}")
    return values


def _differences(treatment, baseline, ratio: bool) -> np.ndarray:
    if len(treatment) != len(baseline):
        raise InputError(f"pairs need as many figures on either side, got {len(treatment)} and {len(baseline)}")
    treatment, baseline = _finite(treatment), _finite(baseline)
    if not ratio:
        return treatment - baseline
    if min(treatment.min(), baseline.min()) <= 0:
        raise InputError("a ratio needs numbers above 0")
    return np.log(treatment) - np.log(baseline)


def _standard_error(values: np.ndarray, overlap: float) -> float:
    return float(values.std(ddof=1)) * math.sqrt(1 / len(values) + overlap)


def _p(values: np.ndarray, null: float, overlap: float) -> float:
    """The two-sided p-value of Student's t test that the mean is ``null``; where all values are equal, that of the sign test.

    Equal values, of counts or of a ladder of rates, show no spread to judge by, but only that all signs agree.
    """
    from scipy.stats import t

    distance, error = abs(float(values.mean()) - null), _standard_error(values, overlap)
    if np.ptp(values) <= 1e-12 * abs(values).max():  # but for rounding
        return 2.0 ** (1 - len(values)) if distance > 1e-12 * max(abs(values).max(), abs(null)) else 1.0
    return 2 * float(t.sf(distance / error, len(values) - 1))


def _from_logarithms(interval: Interval) -> Interval:
    return Interval(*(None if x is None else math.exp(x) for x in interval[:3]), interval.n)
