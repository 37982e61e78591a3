"""The lab in a terminal: live progress, tables, the ledger."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from bertcraft.errors import InputError
from bertcraft.lab import report
from bertcraft.lab.experiment import Context, Experiment
from bertcraft.lab.results import Results, compare, default_folder
from bertcraft.lab.runner import run_all, run_arm


def run_one(
    experiment: Experiment, *, quick: bool = False, seed: int = 0, out: Path | None = None, threads: int | None = None
) -> None:
    """Run one seed of an experiment's short form, print what it showed, write plots and figures.

    Goes on with a run that was stopped if ``out`` holds its states. Raises InputError for a form that it does not have,
    :class:`bertcraft.train.Interrupted` on Ctrl-C.
    """
    from bertcraft.tensor.parallel import cpu_count

    console = Console()
    short = experiment.quick and (experiment.quick.quick if quick else experiment.quick)
    if not short:
        raise InputError(f"{experiment.slug} has no run as short as that: leave out --quick")
    folder = Path(out) if out else Path("runs") / f"{short.name}{'_quick' if quick else ''}_seed{seed}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # told now, not after minutes of work
        raise InputError(f"cannot write into {folder}: {error.strerror}; choose another folder with --out") from None
    console.print(f"[bold]{short.number:02d} {short.title}[/]: {short.question}", highlight=False)
    runs = []
    for arm in short.arms:
        with _live(console) as told:
            context = Context(
                threads=threads or cpu_count(), folder=folder / arm.name,
                report=lambda done, total, text, arm=arm: told(arm.name, seed, done / max(total, 1e-9), text),
            )  # fmt: skip
            runs.append({"arm": arm.name, "seed": seed, **run_arm(short, arm, seed, context)})
    console.print(report.arms_table(short, runs, title=f"One seed ({seed})"))
    console.print("One seed: a small difference between the arms is no evidence for either.", highlight=False)
    for note in short.notes:
        console.print(note, highlight=False)
    for line in (line for run in runs for line in run["figures"].get("told", [])):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    (folder / "result.json").write_text(json.dumps({"seed": seed, "runs": runs}, indent=1) + "\n", encoding="utf-8")
    for path in short.show(folder, runs, short):
        console.print(f"plot   {path}", highlight=False, soft_wrap=True)


def run_full(
    experiment: Experiment, *, command: str, seeds: int | None, jobs: int, scheduler: str | None, folder: Path | None
) -> None:
    """Run what the whole experiment still lacks, then print it."""
    console = Console()
    results = Results(experiment, folder or default_folder())
    todo = len(results.missing(seeds or experiment.seeds))
    total = len(experiment.arms) * (seeds or experiment.seeds)
    console.print(f"[bold]{experiment.name}[/]: {total} runs, {total - todo} of them stored in {results.path}", highlight=False)
    start, done = time.monotonic(), 0
    with _live(console) as told:

        def stored(arm: str, seed: int, measured: dict) -> None:
            nonlocal done
            done += 1
            left = (time.monotonic() - start) / done * (todo - done) / 60
            told(arm, seed, 1.0, "")
            console.print(
                f"{arm} seed {seed}: {measured['seconds']:.0f} s; {todo - done} runs left, about {left:.0f} minutes",
                highlight=False,
            )

        run_all(results, command=command, jobs=jobs, seeds=seeds, scheduler=scheduler, told=told, stored=stored)
    results_of(experiment, None, folder)


def results_of(experiment: Experiment, plots: Path | None, folder: Path | None = None) -> None:
    """Print all that is stored of an experiment; draw its plots into a folder."""
    console = Console()
    results = Results(experiment, folder or default_folder())
    runs = results.runs()
    if not runs:
        raise InputError(f"nothing is stored of {experiment.slug}: bertcraft run {experiment.number:02d} --full measures it")
    report.print_experiment(console, experiment, runs)
    if stale := [run for run in runs if results.is_stale(run)]:
        console.print(f"[yellow]stale[/]: the code of {len(stale)} of {len(runs)} runs has changed since", highlight=False)
    if plots:
        for path in experiment.show(plots, runs, experiment):
            console.print(f"plot   {path}", highlight=False, soft_wrap=True)


def ledger(experiments: list[Experiment], folder: Path | None = None) -> None:
    """A block a technique: what is claimed, what the paper says, what was measured here, at what cost."""
    console = Console()
    for experiment in experiments:
        runs = Results(experiment, folder or default_folder()).runs()
        block = Table.grid(padding=(0, 2))
        block.add_row("  claimed", Text(experiment.claim.collection))
        block.add_row("  paper", Text(experiment.claim.paper))
        block.add_row("  measured", _measured(experiment, runs))
        console.print(f"[bold]{experiment.number:02d} {experiment.title}[/]", highlight=False)
        console.print(block, highlight=False)


def _measured(experiment: Experiment, runs: list[dict]) -> str:
    headline = experiment.comparisons[0]
    outcome = compare(headline, runs)
    if not outcome:
        return "not yet"
    interval, verdict = outcome
    metric = experiment.metrics[headline.metric]
    effect = report.interval_text(interval, 2 if headline.ratio else metric.digits, not headline.ratio)
    unit = "times" if headline.ratio else metric.unit
    cost = f"{interval.n} seed{'s' * (interval.n > 1)}, {sum(run['seconds'] for run in runs) / 60:.0f} minutes"
    return f"{headline.name}, {metric.title}: {effect} {unit}: [bold]{verdict}[/] ({cost})"


def check(experiments: list[Experiment], folder: Path | None = None) -> bool:
    """Say of each experiment's stored runs whether they are of today's code; true if any is stale or missing."""
    found = False
    for experiment in experiments:
        results = Results(experiment, folder or default_folder())
        runs = results.runs()
        stale = [run for run in runs if results.is_stale(run)]
        missing = len(results.missing(experiment.seeds)) - len(stale)
        state = "up to date"
        if stale or missing > 0:
            found = True
            parts = [f"{len(stale)} of {len(runs)} runs stale"] if stale else []
            parts += [f"{missing} runs missing"] if missing > 0 else []
            state = ", ".join(parts) + f": bertcraft run {experiment.number:02d} --full"
        print(f"{experiment.name}: {state}")
    return found


@contextmanager
def _live(console: Console) -> Iterator:
    """A live line a run; on something that is no terminal, a printed line every tenth of a run."""
    columns = TextColumn("{task.description}"), BarColumn(bar_width=16), TextColumn("{task.fields[line]}")
    with Progress(*columns, console=console) as bar:
        tasks: dict[tuple[str, int], int] = {}
        printed: dict[tuple[str, int], int] = {}

        def told(arm: str, seed: int, share: float, text: str) -> None:
            key = arm, seed
            if key not in tasks:
                tasks[key] = bar.add_task(f"{arm:10}", total=1.0, line="")
            bar.update(tasks[key], completed=share, line=text)
            if share >= 1:
                bar.update(tasks[key], visible=console.is_terminal and not text == "")
            tenth = int(share * 10)
            if not console.is_terminal and text and tenth > printed.get(key, -1):
                printed[key] = tenth
                console.print(f"{arm:10} {text}", highlight=False)

        yield told
