"""Results as a person reads them: tables for a terminal of 80 columns."""

import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group
from rich.table import Table

from bertcraft.lab import statistics
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.results import compare

_COLOUR = {"reproduced": "green", "opposite": "red", "not separated": "yellow", "one seed": "default"}

_TERMINAL, _ARM = 80, 16  # characters of a line, and of its first column


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
    own = {arm.title: [run for run in runs if run["arm"] == arm.name] for arm in experiment.arms}
    own = {name: found for name, found in own.items() if found}
    columns = []
    for name, metric in experiment.metrics.items():
        if any(name in run["figures"] for run in runs):
            header = f"{metric.title}, {metric.unit}" if metric.unit else metric.title
            columns.append(
                [header, *(_cell([run["figures"].get(name) for run in found], metric.digits) for found in own.values())]
            )
    columns.append(["s a run", *(_cell([run["seconds"] for run in found], 0) for found in own.values())])
    parts = next(parts for count in range(1, len(columns) + 1) if (parts := _divided(columns, count)))
    return Group(*(_part(list(own), part, None if i else title) for i, part in enumerate(parts)))


def _divided(columns: list[list[str]], count: int) -> list[list[list[str]]] | None:
    """Columns in ``count`` tables of about as many each, or None where they are too wide for a terminal."""
    each = -(-len(columns) // count)
    parts = [columns[i : i + each] for i in range(0, len(columns), each)]
    widths = [_ARM + 2 + sum(3 + _width(column) for column in part) for part in parts]
    return parts if max(widths) <= _TERMINAL or count == len(columns) else None


def _width(column: list[str]) -> int:
    """Characters of the longest word of a column: narrower it cannot be."""
    return max(len(word) for cell in column for word in cell.split())


def _part(arms: list[str], columns: list[list[str]], title: str | None) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm", width=min(_ARM, max(map(len, arms))))
    for column in columns:
        header = textwrap.fill(column[0], _width(column), break_long_words=False)
        table.add_column(header, justify="right", no_wrap=True)
    for row in zip(arms, *(cells for _, *cells in columns), strict=True):
        table.add_row(*row)
    return table


def _cell(values: Sequence[float | None], digits: int) -> str:
    there = [value for value in values if value is not None]
    return f"{statistics.mean(there).mean:.{digits}f}" if there else "-"


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
