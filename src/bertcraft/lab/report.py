"""Results as a person reads them: tables for a terminal of 80 columns."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from bertcraft.lab import statistics
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.results import compare

_COLOUR = {"reproduced": "green", "opposite": "red", "not separated": "yellow", "one seed": "default"}


def interval_text(interval: statistics.Interval, digits: int, signed: bool = True) -> str:
    """ "+0.031 [+0.012, +0.050]", or the mean alone where one seed gives no interval."""
    form = f"{'+' if signed else ''}.{digits}f"
    if interval.low is None:
        return format(interval.mean, form)
    return f"{interval.mean:{form}} \\[{interval.low:{form}}, {interval.high:{form}}]"


def arms_table(experiment: Experiment, runs: Sequence[dict], title: str | None = None) -> Table:
    """A row an arm, a column a metric: the mean over seeds (differences between arms are in the comparisons)."""
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm", min_width=min(16, max(len(arm.title) for arm in experiment.arms)))
    metrics = {name: m for name, m in experiment.metrics.items() if any(name in run["figures"] for run in runs)}
    for metric in metrics.values():
        table.add_column(f"{metric.title}, {metric.unit}" if metric.unit else metric.title, justify="right")
    table.add_column("s a run", justify="right")
    for arm in experiment.arms:
        own = [run for run in runs if run["arm"] == arm.name]
        if not own:
            continue
        cells = []
        for name, metric in metrics.items():
            values = [run["figures"][name] for run in own if name in run["figures"]]
            cells.append(f"{statistics.mean(values).mean:.{metric.digits}f}" if values else "-")
        table.add_row(arm.title, *cells, f"{statistics.mean([run['seconds'] for run in own]).mean:.0f}")
    return table


def comparisons_table(experiment: Experiment, runs: Sequence[dict]) -> Table:
    """A row a comparison: the mean paired difference with its 95 % interval, the claimed sign and the verdict."""
    table = Table(title="Paired over seeds, 95 % intervals", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("comparison", "difference", "claimed", "seeds", "verdict"):
        table.add_column(column, justify="right" if column in ("difference", "seeds") else "left")
    for comparison in experiment.comparisons:
        outcome = compare(comparison, runs)
        if outcome is None:
            continue
        interval, verdict = outcome
        metric = experiment.metrics[comparison.metric]
        unit = "x" if comparison.ratio else metric.unit
        null = "1" if comparison.ratio else "0"
        table.add_row(
            comparison.name,
            f"{interval_text(interval, 2 if comparison.ratio else metric.digits, not comparison.ratio)} {unit}",
            f"{'>' if comparison.claimed > 0 else '<'} {null}",
            str(interval.n),
            f"[{_COLOUR[verdict]}]{verdict}[/]",
        )
    return table


def print_experiment(console: Console, experiment: Experiment, runs: Sequence[dict]) -> None:
    """All that an experiment found: claim, paper, arms, comparisons, controls and limits."""
    console.print(f"[bold]{experiment.number:02d} {experiment.title}[/]: {experiment.question}", highlight=False)
    console.print(f"claimed  {experiment.claim.collection}", highlight=False)
    console.print(f"paper    {experiment.claim.paper} ({experiment.claim.source})", highlight=False)
    console.print(arms_table(experiment, runs))
    console.print(comparisons_table(experiment, runs))
    for arm in experiment.arms:
        if arm.control:
            console.print(f"control  {arm.title}: {arm.control}", highlight=False)
    for note in experiment.notes:
        console.print(f"note     {note}", highlight=False)
