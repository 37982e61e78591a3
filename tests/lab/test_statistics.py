"""Intervals and verdicts, against SciPy's own tests and against simulation."""

import numpy as np
import pytest
from scipy import stats

from bertcraft.errors import InputError
from bertcraft.lab.statistics import Interval, mean, paired, paired_ratio, verdict


def test_the_interval_is_that_of_scipys_t_test():
    a, b = np.random.default_rng(0).normal(size=(2, 7))
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    interval = paired(list(a), list(b))
    assert interval.n == 7
    np.testing.assert_allclose(interval[:3], [np.mean(a - b), *expected], rtol=1e-12)


def test_95_of_100_intervals_hold_the_truth():
    rng = np.random.default_rng(1)
    held = sum((i := mean(rng.normal(3.0, 2.0, 5))).low <= 3.0 <= i.high for _ in range(4000))
    assert abs(held / 4000 - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000)


def test_a_ratio_is_a_geometric_mean_and_does_not_care_which_way_round():
    a, b = np.exp(np.random.default_rng(2).normal(size=(2, 6)))
    there, back = paired_ratio(list(a), list(b)), paired_ratio(list(b), list(a))
    np.testing.assert_allclose(there.mean, stats.gmean(a / b))
    np.testing.assert_allclose([1 / back.high, 1 / back.low], [there.low, there.high])


def test_one_seed_has_no_interval_and_no_verdict():
    assert mean([2.0]) == Interval(2.0, None, None, 1)
    assert verdict(mean([2.0]), 1) == "one seed"


@pytest.mark.parametrize(
    ("low", "high", "claimed", "null", "expected"),
    [
        (0.1, 0.2, 1, 0.0, "reproduced"),
        (0.1, 0.2, -1, 0.0, "opposite"),
        (-0.2, -0.1, -1, 0.0, "reproduced"),
        (-0.2, -0.1, 1, 0.0, "opposite"),
        (-0.1, 0.1, 1, 0.0, "not separated"),
        (0.0, 0.1, 1, 0.0, "not separated"),
        (1.1, 1.2, 1, 1.0, "reproduced"),
        (0.9, 1.2, 1, 1.0, "not separated"),
        (0.8, 0.9, 1, 1.0, "opposite"),
    ],
)
def test_the_verdict_is_by_rule(low, high, claimed, null, expected):
    assert verdict(Interval((low + high) / 2, low, high, 5), claimed, null) == expected


@pytest.mark.parametrize("values", [[], [np.nan, 1.0], [np.inf], [[1.0, 2.0]]])
def test_what_has_no_mean_is_refused(values):
    with pytest.raises(InputError, match="finite numbers in one row"):
        mean(values)


def test_pairs_must_be_pairs_and_ratios_positive():
    with pytest.raises(InputError, match="got 2 and 1"):
        paired([1.0, 2.0], [1.0])
    with pytest.raises(InputError, match="above 0"):
        paired_ratio([1.0, -2.0], [1.0, 1.0])
