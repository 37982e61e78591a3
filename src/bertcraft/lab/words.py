"""The words in which results are told: the same in the terminal, the lessons, the index, the rankings and README."""

from collections.abc import Sequence

from bertcraft.lab import statistics, verdicts
from bertcraft.lab.experiment import Comparison, Experiment
from bertcraft.lab.statistics import Interval
from bertcraft.lab.verdicts import Checked, Outcome

NOT_YET = "not measured yet"


def interval(found: Interval, form: str) -> str:
    """ "+0.031 [+0.012, +0.050]", or the mean alone where there is no interval or it is too narrow to be seen.

    ``form``: of each number.
    """
    if found.low is None:
        return f"{found.mean:{form}}"
    low, high = f"{found.low:{form}}", f"{found.high:{form}}"
    return f"{found.mean:{form}}" + (f" [{low}, {high}]" if low != high else "")


def effect(experiment: Experiment, outcome: Outcome) -> str:
    """A difference or ratio with its interval and unit; an exact one without interval, in four significant digits.

    The unit of a difference of percentages is points.
    """
    comparison, metric = outcome.comparison, experiment.metrics[outcome.comparison.metric]
    found, unit = outcome.interval, "points" if metric.unit == "%" else metric.unit
    if not found.n:
        return "no figure"
    unit = "times" if comparison.ratio else unit
    if comparison.form == statistics.EXACT:
        return f"{found.mean:.4g} {unit}".strip()
    digits = 3 if comparison.margin else _ratio_digits(metric.digits)  # a bound of 0.97 is held by 0.968, not by 0.974
    form = f".{digits}f" if comparison.ratio else f"+z.{metric.digits}f"
    return f"{interval(found, form)} {unit}".strip()


def claimed(comparison: Comparison) -> str:
    """What the claim says of the difference or ratio: "> 0", "> -0.4", "< 1", "within ±0.02", "= 18.6"."""
    margin, more = comparison.margin, comparison.better > 0
    if comparison.form == statistics.EXACT:
        return f"= {comparison.expected:g}"
    if comparison.form == statistics.EQUAL:
        return f"{1 - margin:g} to {1 + margin:g}" if comparison.ratio else f"within ±{margin:g}"
    bound = 1 if comparison.ratio else 0
    if comparison.form == statistics.NOT_WORSE:
        bound += -margin if more else margin
    return f"{'>' if more else '<'} {bound:g}"


def checked(experiment: Experiment, found: Checked) -> tuple[str, str, str, str]:
    """Arm, check, figure and whether it passed: "dynamic masks", "off the plateau", "-0.98 nats (at most -0.50)", "passed"; where
    the runs do not agree "passed in the mean, 2 of 5 runs failed"."""
    said = "passed" if found.passed else "failed"
    if found.otherwise:
        said += f" in the mean, {found.otherwise} of {found.runs} runs {'failed' if found.passed else 'passed'}"
    return experiment.arm(found.arm).title, found.check.name, _held(found), said


def verdict(experiment: Experiment, outcome: Outcome) -> str:
    """The verdict; where it is "not testable here", with the figure that failed."""
    if not outcome.failed:
        return outcome.verdict
    worst = outcome.failed[0]
    return f"{outcome.verdict} ({experiment.arm(worst.arm).title}, {worst.check.name}: {_held(worst)})"


def headline(experiment: Experiment, runs: Sequence[dict]) -> str:
    """The claim itself as it was measured, and what it must not be read without, with its seeds where it has fewer; "not measured
    yet" where it was not."""
    primary = verdicts.primary(experiment, runs)
    if primary is None:
        return NOT_YET
    told, metric = [], None
    for each in verdicts.outcomes(experiment, runs):
        comparison = each.comparison
        if comparison is experiment.primary or comparison.name in experiment.beside:
            of = "" if comparison.metric == metric else f" in {experiment.metrics[comparison.metric].title}"
            seeds = "" if each.interval.n in (0, primary.interval.n) else f", {counted(each.interval.n, 'seed')}"
            told.append(f"{comparison.name}: {effect(experiment, each)}{of}{seeds}; {verdict(experiment, each)}")
            metric = comparison.metric
    return ". ".join(told)


def cost(outcome: Outcome, runs: Sequence[dict]) -> str:
    """ "10 seeds, 62 runs, 55 minutes"."""
    minutes = sum(run["seconds"] for run in runs) / 60
    return f"{counted(outcome.interval.n, 'seed')}, {counted(len(runs), 'run')}, {minutes:.0f} minutes"


def counted(number: int, noun: str) -> str:
    """ "1 seed", "5 seeds"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _held(found: Checked) -> str:
    """ "-0.98 nats (at most -0.50)"."""
    check = found.check
    sign = "+" if check.against else ""
    bound, word = (check.least, "at least") if check.least is not None else (check.most, "at most")
    return f"{found.value:{sign}.{check.digits}f} {check.unit}".rstrip() + f" ({word} {bound:{sign}.{check.digits}f})"


def _ratio_digits(digits: int) -> int:
    return max(2, min(digits, 3))
