"""The checkers of the foundations' second part: dropout, a paired interval, a verdict, Holm's correction, a decision."""

import math

import numpy as np

from bertcraft.course.exercises import Exercise, Wrong, decision, same


def _check_drop(drop) -> None:
    x, keep = np.array([2.0, -4.0, 6.0, 8.0, 1.0]), np.array([True, False, False, True, True])
    got, expected = drop(x, keep, 0.2), np.where(keep, x / 0.8, 0.0)
    if isinstance(got, np.ndarray) and got.shape == x.shape:
        for value, message in (
            (x * keep, "the numbers that stay are not scaled: divide them by 1 - rate, or the mean shrinks"),
            (np.where(keep, x * 0.8, 0), "the numbers that stay are made smaller: divide by 1 - rate, do not multiply"),
            (np.where(keep, x / 0.2, 0), "the scale is that of the numbers that go: they stay with probability 1 - rate"),
            (np.where(keep, 0, x / 0.8), "`keep` is true for the numbers that stay; you dropped these"),
        ):
            if np.allclose(got, value):
                raise Wrong(message)
        if got.size and np.allclose(got, x * keep * 5 / keep.sum()):
            raise Wrong("the scale comes from how many stayed in this draw; it is 1 / (1 - rate), whatever was drawn")
    same(got, expected, "drop of 5 numbers at the rate 0.2")


def _check_paired_interval(paired_interval) -> None:
    rng = np.random.default_rng(3)
    for n, t in ((5, 2.776), (3, 4.303)):
        baseline = rng.normal(70, 4, n)
        treatment = baseline + rng.normal(2, 1, n)
        got, d = paired_interval(treatment, baseline, t), treatment - baseline
        if not isinstance(got, (tuple, list)) or len(got) != 3:
            raise Wrong("return a tuple of three numbers: the mean, the low end and the high end")
        mean, half = d.mean(), t * d.std(ddof=1) / math.sqrt(n)
        if all(np.ndim(x) == 0 for x in got):
            _say_what_is_wrong(*map(float, got), mean, half, t, treatment, baseline)
        same(got, (mean, mean - half, mean + half), f"the interval of {n} paired runs with the factor {t}")


def _say_what_is_wrong(middle, low, high, mean, half, t, treatment, baseline) -> None:
    d, n = treatment - baseline, len(baseline)
    if abs(middle + mean) < 1e-9:
        raise Wrong("the difference has the wrong sign: treatment - baseline, so that more than 0 means better")
    if low > high:
        raise Wrong("the low end lies above the high one")
    unpaired = t * math.sqrt((treatment.var(ddof=1) + baseline.var(ddof=1)) / n)
    for value, message in (
        (half * math.sqrt(n), "the standard deviation is that of one run; that of a mean of n runs is smaller by sqrt(n)"),
        (half * math.sqrt((n - 1) / n), "divide by n - 1 in the deviation (ddof=1): the mean came from the same numbers"),
        (half * math.sqrt(n / (n - 1)), "n - 1 belongs in the deviation alone (ddof=1), which is then divided by the root of n"),
        (half / t, "the factor t is missing: this is one standard error to either side"),
        (half / t * 1.96, "1.96 is the factor of very many runs; that of few is larger: t"),
        (half / math.sqrt(n), "the deviation is divided by n; it is divided by its root"),
        (unpaired, "this is the interval of unpaired runs: take the differences first, then their deviation"),
        (t * d.var(ddof=1) / math.sqrt(n), "this uses the variance: take its root"),
    ):
        if abs((high - low) / 2 - value) < 1e-9:
            raise Wrong(message)


_CASES = (  # form, low, high, margin, verdict, where a learner goes wrong
    ("superior", 0.2, 3.0, 0.0, "reproduced", "the whole interval lies above 0"),
    ("superior", -0.2, 3.0, 0.0, "cannot tell", "the interval holds 0, wherever its middle is"),
    ("superior", -3.0, -0.2, 0.0, "contradicted", "the whole interval lies below 0"),
    ("not worse", -0.5, 2.0, 1.0, "reproduced", "it may be worse, by less than the margin: the low end is compared with -margin"),
    ("not worse", -1.5, 2.0, 1.0, "cannot tell", "it reaches below -margin and above it"),
    ("not worse", -0.8, -0.2, 1.0, "reproduced", "surely worse, but by less than the margin, which the claim allows"),
    ("not worse", -1.4, -0.6, 1.0, "cannot tell", "-margin lies inside"),
    ("not worse", -3.0, -1.5, 1.0, "contradicted", "the whole interval lies below -margin"),
    ("equal", -0.5, 0.7, 1.0, "reproduced", "both ends lie inside the margins"),
    ("equal", 0.2, 0.7, 1.0, "reproduced", "a difference that is surely there, and surely small: within the margin it is equal"),
    ("equal", -2.0, 2.0, 1.0, "cannot tell", "a wide interval around 0 shows nothing: both ends must lie inside the margins"),
    ("equal", -0.5, 1.4, 1.0, "cannot tell", "one end sticks out"),
    ("equal", -1.4, 0.5, 1.0, "cannot tell", "one end sticks out"),
    ("equal", 0.4, 1.6, 1.0, "cannot tell", "0 lies outside, but equal has a margin, and part of the interval lies within it"),
    ("equal", 1.2, 3.0, 1.0, "contradicted", "the whole interval lies above the margin"),
    ("equal", -3.0, -1.2, 1.0, "contradicted", "the whole interval lies below -margin"),
)


def _check_verdict(verdict) -> None:
    for form, low, high, margin, expected, why in _CASES:
        got = verdict(form, low, high, margin)
        if got != expected:
            within = "" if form == "superior" else f" by {margin:g}" if form == "not worse" else f" within {margin:g}"
            raise Wrong(f'"{form}"{within}, interval [{low:g}, {high:g}]: {why}, so "{expected}"; it got {got!r}')


def _holm(p: np.ndarray) -> np.ndarray:
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return corrected


def _check_holm(holm) -> None:
    for p in (np.array([0.03, 0.01, 0.04]), np.array([0.7, 0.6, 0.001, 0.5, 0.03])):
        got, expected, n = holm(p), _holm(p), len(p)
        order = np.argsort(p)
        if isinstance(got, np.ndarray) and got.shape == p.shape and not np.allclose(got, expected):
            raised = np.empty_like(p)
            raised[order] = p[order] * np.arange(n, 0, -1)
            bonferroni = "every p-value is multiplied by n: that is Bonferroni's rule; Holm asks less of all but the first"
            for value, message in (
                (np.minimum(p * n, 1), bonferroni),
                (p * n, bonferroni),
                (raised, "a larger p-value ends below a smaller one: none may be less than the one before it, nor more than 1"),
                (np.minimum(raised, 1), "a larger p-value ends below a smaller one: none may be less than the one before it"),
                (expected[order][order], "r[order] does not put the values back: corrected[order] = r does"),
                (np.sort(expected), "the corrected values are in order of size: give each back to its own question"),
                (np.maximum.accumulate(p * np.arange(n, 0, -1)), "the values are not sorted: the *smallest* is multiplied by n"),
            ):
                if np.allclose(got, value):
                    raise Wrong(message)
            if got.max() > 1 and np.allclose(np.minimum(got, 1), expected):
                raise Wrong("a p-value is a probability: no more than 1")
        same(got, expected, f"holm of {p.tolist()}")


EXERCISES = (
    Exercise(
        name="drop", title="Drop and scale", stars=1, check=_check_drop,
        hints=("np.where(keep, ..., 0.0) chooses number by number.", "What stays is divided by the probability to stay."),
    ),
    Exercise(
        name="paired_interval", title="The interval of a difference", stars=2, check=_check_paired_interval,
        hints=(
            "Subtract first: one difference a seed. From then on there is one row of numbers.",
            "d.std(ddof=1) divides by n - 1.",
            "The half width is t times that, divided by the root of n.",
        ),
    ),
    Exercise(
        name="verdict", title="The verdict", stars=2, check=_check_verdict,
        hints=(
            "Draw the line first: 0 for superior, -margin for not worse. Equal has two lines.",
            "Only the two ends count; where the middle lies does not matter.",
            "Equal is contradicted when the whole interval lies outside: high < -margin or low > margin.",
        ),
    ),
    Exercise(
        name="holm", title="Many questions", stars=2, check=_check_holm,
        hints=(
            "order = np.argsort(p); p[order] rises. Multiply it by n, n - 1, ..., 1.",
            "np.maximum.accumulate keeps each value at least as large as the one before.",
            "corrected[order] = ... puts the values back in their places; and none is more than 1.",
        ),
    ),
    Exercise(
        name="choose", title="Which vector goes into the product?", stars=2,
        check=decision({
            "arm": {
                "unit": "",
                "cls": "its interval lies far below 0: it is surely worse than what is in use",
                "words": "its interval comes near 0: a morning's work for a difference that may hardly be there",
                "mean": "one arm's interval lies some points above 0; is there a reason not to take it?",
            },
            "because": {
                "b": "",
                "a": "some arm always has the highest number, also when all are equal; what tells that it is no accident?",
                "c": "without a margin an interval near 0 shows no equality; and what equals `mean` says nothing of `unit`",
            },
            "unless": {
                "b": "",
                "a": "one lost seed of ten is no surprise, and the interval knew of the spread between draws of this pool",
                "c": "a paper measured other texts and other models; what the product will see are your own users' requests",
            },
        }),
        hints=(
            "Which interval lies wholly below 0, and which comes so near to 0 that there may be next to nothing to gain?",
            "What was the same in all ten seeds, and will be another thing in your product?",
        ),
    ),
)  # fmt: skip
