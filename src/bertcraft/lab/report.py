"""Results as a person reads them: tables for a terminal of 80 columns."""

import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from bertcraft.lab import statistics, verdicts, words
from bertcraft.lab.experiment import Arm, Experiment

_COLOUR = {
    statistics.REPRODUCED: "green", statistics.HOLDS: "green", statistics.CONTRADICTED: "red", statistics.FAILS: "red",
    statistics.CANNOT_TELL: "yellow", statistics.NOT_TESTABLE: "magenta", statistics.ONE_SEED: "default",
    statistics.UNFINISHED: "default",
}  # fmt: skip

CORRECTED = (
    "The first comparison is the claim. The verdicts of the others are corrected for their number (Holm): an interval may leave "
    "zero out and the verdict be that one cannot tell."
)
_TERMINAL, _ARM = 80, 16  # characters of a line, and of its first column


def arms_table(experiment: Experiment, runs: Sequence[dict], title: str | None = None) -> Group:
    """A row an arm, the trivial ones last, a column a metric: the mean over seeds (differences are in the comparisons).

    Where the columns are too many for a terminal, a second table goes on with them.
    """
    own = {arm.title: [run for run in runs if run["arm"] == arm.name] for arm in in_order(experiment)}
    own = {name: found for name, found in own.items() if found}
    columns = []
    for name, metric in experiment.metrics.items():
        if any(name in run["figures"] for run in runs):
            header = f"{metric.title}, {metric.unit}" if metric.unit else metric.title
            columns.append(
                [header, *(_cell([run["figures"].get(name) for run in found], metric.digits) for found in own.values())]
            )
    if any(len(found) > 1 for found in own.values()):  # means over other seeds are no pairs: say how many they are of
        columns.append(["seeds", *(str(len(found)) for found in own.values())])
    columns.append(["s a run", *(_cell([run["seconds"] for run in found], 0) for found in own.values())])
    parts = next(parts for count in range(1, len(columns) + 1) if (parts := _divided(columns, count)))
    return Group(*(_part(list(own), part, None if i else title) for i, part in enumerate(parts)))


def in_order(experiment: Experiment) -> list[Arm]:
    """The arms as tables show them: the trivial ones last."""
    return sorted(experiment.arms, key=lambda arm: arm.trivial)


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
    """A row a comparison, the primary first: the paired difference with its 95 % interval, what is claimed, the verdict."""
    table = Table(title="Paired over seeds, 95 % intervals", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("comparison", "difference", "claimed", "seeds", "verdict"):
        table.add_column(column, justify="right" if column in ("difference", "seeds") else "left")
    for outcome in verdicts.outcomes(experiment, runs):
        primary = outcome.comparison is experiment.primary
        table.add_row(
            Text(outcome.comparison.name, style="bold" if primary else ""),
            Text(words.effect(experiment, outcome)),
            words.claimed(outcome.comparison),
            str(outcome.interval.n),
            Text(outcome.verdict, style=_COLOUR[outcome.verdict]),
        )
    return table


def print_experiment(console: Console, experiment: Experiment, runs: Sequence[dict]) -> None:
    """All that an experiment found: claim, paper, arms, checks, comparisons, controls and limits."""

    def line(name: str, text: str) -> None:
        console.print(f"{name:8} {text}", highlight=False, markup=False)

    console.print(f"[bold]{experiment.number:02d} {experiment.title}[/]: {experiment.question}", highlight=False)
    line("claimed", experiment.claim.collection)
    line("paper", f"{experiment.claim.paper} ({experiment.claim.source})")
    line("scale", experiment.scale)
    console.print(arms_table(experiment, runs))
    for found in verdicts.checked(experiment, runs):
        line("check", ": ".join(words.checked(experiment, found)))
    console.print(comparisons_table(experiment, runs))
    if len(experiment.comparisons) > 1:
        line("note", CORRECTED)
    for arm in experiment.arms:
        if arm.control:
            line("control", f"{arm.title}: {arm.control}")
    for note in experiment.notes:
        line("note", note)
