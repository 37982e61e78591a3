"""Results as a person reads them: tables for a terminal of 80 columns."""

from collections.abc import Sequence

from rich import box
from rich.console import Console, Group
from rich.table import Table

from bertcraft.lab import statistics
from bertcraft.lab.experiment import Experiment, Metric
from bertcraft.lab.results import compare

_COLOUR = {"reproduced": "green", "opposite": "red", "not separated": "yellow", "one seed": "default"}

_COLUMNS = 6  # figures of an arm side by side


def interval_text(interval: statistics.Interval, digits: int, signed: bool = True) -> str:
    """ "+0.031 [+0.012, +0.050]", or the mean alone where one seed gives no interval."""
    form = f"{'+' if signed else ''}.{digits}f"
    if interval.low is None:
        return format(interval.mean, form)
    return f"{interval.mean:{form}} \\[{interval.low:{form}}, {interval.high:{form}}]"


def arms_table(experiment: Experiment, runs: Sequence[dict], title: str | None = None) -> Group:
    """A row an arm, a column a metric: the mean over seeds (differences between arms are in the comparisons).

    Where the columns are too many for a terminal, a second table goes on with them.
    """
    metrics = {name: m for name, m in experiment.metrics.items() if any(name in run["figures"] for run in runs)}
    columns = [
        (f"{metric.title}, {metric.unit}" if metric.unit else metric.title, lambda run, name=name: run["figures"].get(name), metric)
        for name, metric in metrics.items()
    ]
    columns.append(("s a run", lambda run: run["seconds"], Metric("", "", 0)))
    each = -(-len(columns) // -(-len(columns) // _COLUMNS))
    parts = [columns[i : i + each] for i in range(0, len(columns), each)]
    return Group(*(_part(experiment, runs, part, "" if i else title) for i, part in enumerate(parts)))


def _part(experiment: Experiment, runs: Sequence[dict], columns: Sequence[tuple], title: str | None) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm", width=min(16, max(len(arm.title) for arm in experiment.arms)))
    for header, *_ in columns:
        table.add_column(header, justify="right")
    for arm in experiment.arms:
        found = [[value(run) for run in runs if run["arm"] == arm.name] for _, value, _ in columns]
        if not found[0]:
            continue
        table.add_row(arm.title, *(_cell(values, metric) for values, (*_, metric) in zip(found, columns, strict=True)))
    return table


def _cell(values: Sequence[float | None], metric: Metric) -> str:
    there = [value for value in values if value is not None]
    return f"{statistics.mean(there).mean:.{metric.digits}f}" if there else "-"


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
