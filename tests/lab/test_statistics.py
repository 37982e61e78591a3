"""Intervals, the four forms of a claim and Holm's correction, against SciPy and against simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bertcraft.errors import InputError
from bertcraft.lab import statistics
from bertcraft.lab.statistics import (
    CANNOT_TELL,
    CONTRADICTED,
    EQUAL,
    EXACT,
    FAILS,
    HOLDS,
    NOT_WORSE,
    ONE_SEED,
    REPRODUCED,
    SUPERIOR,
    Interval,
    holm,
    judge,
    mean,
    paired,
    paired_ratio,
)  # fmt: skip

pairs = st.integers(2, 12).flatmap(
    lambda n: st.tuples(*[st.lists(st.floats(0.5, 2.0), min_size=n, max_size=n) for _ in range(2)])
).filter(lambda pair: np.std(np.subtract(*pair)) > 1e-6 and np.std(np.log(pair[0]) - np.log(pair[1])) > 1e-6)  # fmt: skip


def decided(finding) -> str:
    """The verdict of a comparison that stands by itself."""
    return finding.says if finding.p is None or finding.p < 0.05 else CANNOT_TELL


@given(pairs)
def test_the_interval_and_p_are_those_of_scipys_paired_t_test(pair):
    test = stats.ttest_rel(*pair)
    found = judge(*pair, form=SUPERIOR)
    expected = test.confidence_interval(0.95)
    np.testing.assert_allclose(found.interval[:3], [np.mean(np.subtract(*pair)), *expected], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.p, test.pvalue, rtol=1e-9)
    assert found.interval == paired(*pair)


@given(pairs, st.sampled_from([1, -1]))
def test_better_says_which_side_is_claimed(pair, better):
    found, other = judge(*pair, form=SUPERIOR, better=better), judge(*pair[::-1], form=SUPERIOR, better=-better)
    assert decided(found) == decided(other)
    low, high = found.interval.low * better, found.interval.high * better
    assert decided(found) == (REPRODUCED if min(low, high) > 0 else CONTRADICTED if max(low, high) < 0 else CANNOT_TELL)


@given(pairs, st.floats(0.01, 1.0), st.sampled_from([1, -1]))
def test_not_worse_is_scipys_test_against_the_margin(pair, margin, better):
    found = judge(*pair, form=NOT_WORSE, better=better, margin=margin)
    np.testing.assert_allclose(found.p, stats.ttest_1samp(np.subtract(*pair), -better * margin).pvalue, rtol=1e-9)
    worst = min(better * found.interval.low, better * found.interval.high)
    best = max(better * found.interval.low, better * found.interval.high)
    assert decided(found) == (REPRODUCED if worst > -margin else CONTRADICTED if best < -margin else CANNOT_TELL)


@given(pairs, st.floats(0.01, 1.0))
def test_equal_is_two_one_sided_tests_of_scipy(pair, margin):
    found, values = judge(*pair, form=EQUAL, margin=margin), np.subtract(*pair)
    one_sided = [
        stats.ttest_1samp(values, -margin, alternative="greater").pvalue,
        stats.ttest_1samp(values, margin, alternative="less").pvalue,
    ]
    if found.says == REPRODUCED:
        np.testing.assert_allclose(found.p, 2 * max(one_sided), rtol=1e-9)
    low, high = found.interval.low, found.interval.high
    inside, outside = low > -margin and high < margin, low > margin or high < -margin
    assert decided(found) == (REPRODUCED if inside else CONTRADICTED if outside else CANNOT_TELL)


@given(pairs, st.floats(0.01, 0.5), st.sampled_from([SUPERIOR, NOT_WORSE, EQUAL]))
def test_a_ratio_is_judged_by_logarithms(pair, margin, form):
    margin = 0.0 if form == SUPERIOR else margin
    found = judge(*pair, form=form, margin=margin, ratio=True)
    np.testing.assert_allclose(found.interval.mean, stats.gmean(np.divide(*pair)), rtol=1e-9)
    if form == NOT_WORSE:
        assert (decided(found) == REPRODUCED) == (found.interval.low > 1 - margin)
    if form == EQUAL:
        assert (decided(found) == REPRODUCED) == (found.interval.low > 1 - margin and found.interval.high < 1 + margin)


def test_ratios_do_not_care_which_way_round():
    a, b = np.exp(np.random.default_rng(2).normal(size=(2, 6)))
    there, back = paired_ratio(list(a), list(b)), paired_ratio(list(b), list(a))
    np.testing.assert_allclose([1 / back.high, 1 / back.low], [there.low, there.high])


def experiments(seed: int, shift: float, count: int = 2000, n: int = 10) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (count, n))


def share(values: np.ndarray, verdict: str, **claim) -> float:
    """The share of simulated experiments, one a row of differences, that end in a verdict."""
    nothing = np.zeros(values.shape[1])
    return float(np.mean([decided(judge(row, nothing, **claim)) == verdict for row in values]))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_true_null_is_called_reproduced_in_at_most_5_of_100_experiments(seed):
    assert share(experiments(seed, 0.0), REPRODUCED, form=SUPERIOR) <= 0.05


@pytest.mark.parametrize("better", [1, -1])
def test_not_worse_keeps_its_level_at_the_margin(better):
    at_margin = experiments(2, -better * 0.4)
    assert 0.01 < share(at_margin, REPRODUCED, form=NOT_WORSE, margin=0.4, better=better) <= 0.05
    assert share(experiments(3, better * 1.5), REPRODUCED, form=NOT_WORSE, margin=0.4, better=better) > 0.95  # and it has power


@pytest.mark.parametrize("at", [0.8, -0.8])
def test_equal_keeps_its_level_at_the_margin(at):
    assert share(experiments(4, at), REPRODUCED, form=EQUAL, margin=0.8) <= 0.05
    assert share(experiments(5, 0.0, n=40), REPRODUCED, form=EQUAL, margin=0.8) > 0.9


def test_95_of_100_intervals_hold_the_truth():
    held = sum((i := mean(row)).low <= 3.0 <= i.high for row in experiments(1, 3.0, 4000, 5))
    assert abs(held / 4000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_overlapping_splits_keep_the_level_that_plain_intervals_lose():
    """Splits of one pool: their results share an error that the spread between them does not show."""
    rng, n, overlap = np.random.default_rng(6), 10, 0.25
    correlation = overlap / (1 + overlap)  # that of Nadeau & Bengio: overlap / (1 + overlap)
    shared = rng.normal(0, math.sqrt(correlation), (2000, 1))
    values = shared + rng.normal(0, math.sqrt(1 - correlation), (2000, n))
    wrong = [np.mean([not (i := mean(row, overlap=o)).low <= 0 <= i.high for row in values]) for o in (0.0, overlap)]
    assert wrong[0] > 0.2
    assert wrong[1] <= 0.06


def test_the_widening_is_that_of_nadeau_and_bengio():
    values = [1.0, 2.0, 4.0]
    plain, wide = mean(values), mean(values, overlap=0.5)
    np.testing.assert_allclose((wide.high - wide.mean) / (plain.high - plain.mean), math.sqrt(1 + 3 * 0.5))
    assert judge(values, [0.0] * 3, form=SUPERIOR, overlap=0.5).interval == wide


@settings(max_examples=300)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_by_its_definition(ps):
    """H(i) falls when every p(j) with rank j up to i is below 0.05 / (m - j + 1) (Holm 1979)."""
    order, falls, expected = sorted(range(len(ps)), key=lambda i: ps[i]), True, [False] * len(ps)
    for rank, i in enumerate(order):
        falls = falls and ps[i] * (len(ps) - rank) < 0.05
        expected[i] = falls
    assert [p < 0.05 for p in holm(ps)] == expected


def test_holm_bounds_the_chance_of_any_false_verdict():
    rng = np.random.default_rng(7)
    ps = stats.ttest_1samp(rng.normal(size=(2000, 6, 5)), 0.0, axis=-1).pvalue
    assert np.mean([min(row) < 0.05 for row in ps]) > 0.2
    assert np.mean([min(holm(list(row))) < 0.05 for row in ps]) <= 0.06


@pytest.mark.parametrize(
    ("treatment", "expected", "margin", "ratio", "verdict"),
    [
        ([3.0, 3.0], 2.0, 0.0, False, HOLDS),
        ([3.0, 3.1], 2.0, 0.05, False, FAILS),  # one seed is enough
        ([18.6, 18.6], 18.6, 1e-9, True, HOLDS),
        ([18.0, 18.6], 18.6, 0.1, True, FAILS),
    ],
)
def test_an_exact_claim_holds_in_every_seed_or_not(treatment, expected, margin, ratio, verdict):
    found = judge(treatment, [1.0] * len(treatment), form=EXACT, expected=expected, margin=margin, ratio=ratio)
    assert (found.says, found.p) == (verdict, None)
    assert judge(treatment[:1], [1.0], form=EXACT, expected=expected, margin=0.7, ratio=ratio).says in (HOLDS, FAILS)


@pytest.mark.parametrize("form", [SUPERIOR, NOT_WORSE, EQUAL])
def test_one_seed_has_no_interval_and_no_verdict(form):
    found = judge([2.0], [1.0], form=form, margin=0.0 if form == SUPERIOR else 0.5)
    assert (found.interval, found.p, found.says) == (Interval(1.0, None, None, 1), None, ONE_SEED)


@pytest.mark.parametrize("seeds, verdict", [(2, CANNOT_TELL), (5, CANNOT_TELL), (6, REPRODUCED)])
def test_seeds_that_all_agree_are_as_many_signs(seeds, verdict):
    """Without a spread there is only the sign test: five equal pairs are five throws of a coin that fall alike."""
    for value in (1.3, 0.1):  # the mean of some equal numbers is another by rounding
        found = judge([value] * seeds, [0.0] * seeds, form=SUPERIOR)
        assert decided(found) == verdict and found.p == 2.0 ** (1 - seeds)
        assert decided(judge([value] * seeds, [value] * seeds, form=SUPERIOR)) == CANNOT_TELL
        assert decided(judge([value] * seeds, [value] * seeds, form=EQUAL, margin=0.1)) == verdict
    at_the_margin = judge([90.2] * seeds, [90.6] * seeds, form=NOT_WORSE, margin=0.4)
    assert decided(at_the_margin) == CANNOT_TELL and at_the_margin.p == 1.0


@pytest.mark.parametrize("values", [[], [np.nan, 1.0], [np.inf], [[1.0, 2.0]]])
def test_what_has_no_mean_is_refused(values):
    with pytest.raises(InputError, match="finite numbers in one row"):
        mean(values)


def test_pairs_must_be_pairs_and_ratios_positive():
    with pytest.raises(InputError, match="got 2 and 1"):
        paired([1.0, 2.0], [1.0])
    with pytest.raises(InputError, match="above 0"):
        paired_ratio([1.0, -2.0], [1.0, 1.0])
    assert statistics.FORMS == (SUPERIOR, NOT_WORSE, EQUAL, EXACT)


def test_the_mean_of_a_figure_has_the_interval_that_its_overlap_widens():
    from bertcraft.lab.experiment import Metric

    values, metric = [1.0, 2.0, 4.0], Metric("accuracy", "%", overlap=0.5)
    assert metric.mean(values) == statistics.mean(values, overlap=0.5)
    assert metric.mean(values).high - metric.mean(values).low > 1.5 * (statistics.mean(values).high - statistics.mean(values).low)
