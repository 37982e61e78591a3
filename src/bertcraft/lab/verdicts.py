"""What stored runs say of an experiment's claims: whether they can be tested, then the verdicts, corrected for their number."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from bertcraft.lab import statistics
from bertcraft.lab.experiment import Check, Comparison, Experiment
from bertcraft.lab.statistics import Interval


class Checked(NamedTuple):
    """A check of one arm: the mean that was held against its bound, and whether it passed; of how many ``runs`` it is the mean,
    and how many of them fail by themselves where the mean passes, or pass where it fails (``otherwise``)."""

    check: Check
    arm: str
    value: float
    passed: bool
    runs: int
    otherwise: int


class Outcome(NamedTuple):
    """A comparison, its interval, the p-value (for all but the primary Holm's) and the verdict.

    Where the verdict is "not testable here", ``failed`` holds the checks that did; the interval is of no seed (``n`` 0) where no
    pair has the figure.
    """

    comparison: Comparison
    interval: Interval
    p: float | None
    verdict: str
    failed: tuple[Checked, ...] = ()


def pairs(treatment: str, baseline: str, figure: str, runs: Sequence[dict]) -> tuple[list[float], list[float]]:
    """A figure of two arms, seed by seed, over the seeds that both have."""
    found = {(run["arm"], run["seed"]): run["figures"].get(figure) for run in runs}
    both = [
        (value, found[baseline, seed])
        for (arm, seed), value in sorted(found.items())
        if arm == treatment and value is not None and found.get((baseline, seed)) is not None
    ]
    return [one for one, _ in both], [other for _, other in both]


def shared(runs: Sequence[dict], arms: Sequence[str]) -> list[dict]:
    """The runs of the seeds that all of these arms have, for a plot: means over other seeds cannot be held against each other.

    Arms without any run are left out of account.
    """
    seeds = [{run["seed"] for run in runs if run["arm"] == arm} for arm in arms]
    common = set.intersection(*filter(None, seeds)) if any(seeds) else set()
    return [run for run in runs if run["seed"] in common]


def difference(
    experiment: Experiment, runs: Sequence[dict], treatment: str, baseline: str, metric: str, ratio: bool = False
) -> Interval | None:
    """The interval of a paired difference (or ratio), for a plot; None where no seed has both."""
    one, other = pairs(treatment, baseline, metric, runs)
    between = statistics.paired_ratio if ratio else statistics.paired
    return between(one, other, overlap=experiment.metrics[metric].overlap) if one else None


def checked(experiment: Experiment, runs: Sequence[dict]) -> list[Checked]:
    """Every check of every arm that has the figures."""
    found = []
    for check in experiment.checks:
        for arm in check.arms:
            if values := _held(check, arm, runs):
                value = statistics.mean(values).mean
                passed = check.holds(value)
                otherwise = sum(check.holds(each) != passed for each in values)
                found.append(Checked(check, arm, value, passed, len(values), otherwise))
    return found


def _held(check: Check, arm: str, runs: Sequence[dict]) -> list[float]:
    """What a check looks at, seed by seed."""
    if check.against is None:
        held = [check.of(run["figures"]) for run in runs if run["arm"] == arm]
        return [value for value in held if value is not None]
    one, other = pairs(arm, check.against, check.figure, runs)
    return [a - b for a, b in zip(one, other, strict=True)]


def outcomes(experiment: Experiment, runs: Sequence[dict]) -> list[Outcome]:
    """The outcome of every comparison that has runs, in their order.

    The primary comparison stands by itself. The p-values of the others that have one are corrected together (Holm), those that
    are not testable left out. A comparison is not testable where a check of one of its arms failed, even where no seed has its
    figure. None has a verdict before all its declared seeds are there, and those of its checks: who looks after each and stops
    when it suits finds what is not there.
    """
    held = checked(experiment, runs)
    found, family = [], []
    for comparison in experiment.comparisons:
        metric, arms = comparison.metric, (comparison.treatment, comparison.baseline)
        one, other = pairs(*arms, metric, runs)
        guards = [check for check in experiment.checks if not check.metrics or metric in check.metrics]
        failed = tuple(each for each in held if not each.passed and each.arm in arms and each.check in guards)
        declared = _seeds(experiment, *arms)
        is_run = min(sum(run["arm"] == name for run in runs) for name in arms) >= declared
        if not one and not (failed and is_run):
            continue
        finding = statistics.judge(
            one, other, form=comparison.form, better=comparison.better, margin=comparison.margin, ratio=comparison.ratio,
            expected=comparison.expected, overlap=experiment.metrics[metric].overlap,
        ) if one else statistics.Finding(Interval(math.nan, None, None, 0), None, statistics.NOT_TESTABLE)  # fmt: skip
        unchecked = any(
            len(_held(check, arm, runs)) < _seeds(experiment, arm, check.against or arm)
            for check in guards for arm in check.arms if arm in arms
        )  # fmt: skip
        if comparison.form != statistics.EXACT and (unchecked or (len(one) < declared and not (failed and is_run))):
            verdict = statistics.UNFINISHED  # a count needs no seeds
        else:
            verdict = statistics.NOT_TESTABLE if failed else _verdict(finding.p, finding.says)
        is_open = verdict not in (statistics.UNFINISHED, statistics.NOT_TESTABLE)
        if finding.p is not None and is_open and comparison is not experiment.primary:
            family.append(len(found))
        found.append((Outcome(comparison, finding.interval, finding.p, verdict, failed), finding.says))
    for place, p in zip(family, statistics.holm([found[i][0].p for i in family]), strict=True):
        outcome, says = found[place]
        found[place] = outcome._replace(p=p, verdict=_verdict(p, says)), says
    return [outcome for outcome, _ in found]


def primary(experiment: Experiment, runs: Sequence[dict]) -> Outcome | None:
    """The outcome of the claim itself; None where it has not been measured."""
    return next((each for each in outcomes(experiment, runs) if each.comparison is experiment.primary), None)


def _seeds(experiment: Experiment, *arms: str) -> int:
    """How many declared seeds these arms have in common."""
    return min(experiment.seeds_of(experiment.arm(name)) for name in arms)


def _verdict(p: float | None, says: str) -> str:
    return says if p is None or p < 1 - statistics.LEVEL else statistics.CANNOT_TELL
