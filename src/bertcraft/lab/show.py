"""The lab in a terminal: live progress, tables, the ledger."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from bertcraft.errors import InputError
from bertcraft.lab import fingerprint, report, verdicts, words
from bertcraft.lab.confirm import confirm
from bertcraft.lab.experiment import Context, Experiment
from bertcraft.lab.figures import draw
from bertcraft.lab.results import Results, default_folder
from bertcraft.lab.runner import replay_arm, run_all, run_arm


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
    for path in draw(short, folder, runs):
        console.print(f"plot   {path}", highlight=False, soft_wrap=True)


def run_full(
    experiment: Experiment, *, command: str, seeds: int | None, jobs: int, scheduler: str | None, folder: Path | None
) -> None:
    """Run what the whole experiment still lacks, then print it. Raises InputError for more seeds than it declares."""
    if seeds is not None and seeds > experiment.primary_seeds:  # more would read, and be judged by, texts of the first ones
        raise InputError(f"--seeds: {experiment.slug} has texts for {experiment.primary_seeds} seeds, got {seeds}")
    console = Console()
    results = Results(experiment, folder or default_folder())
    trials = len(results.missing_trials())
    todo = trials + len(results.missing(seeds))
    total = sum(seeds or experiment.seeds_of(arm) for arm in experiment.arms)
    before = f"{words.counted(trials, 'trial')}, then " if trials else ""
    console.print(
        f"[bold]{experiment.name}[/]: {before}{total} runs, {total - (todo - trials)} of them stored in {results.path}",
        highlight=False,
    )
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
    """Print all that is stored of an experiment, or its entry in the ledger where nothing is; draw its plots into a folder."""
    console = Console()
    results = Results(experiment, folder or default_folder())
    runs = results.runs()
    if not runs:
        ledger([experiment], folder)
        console.print(f"bertcraft run {experiment.number:02d} --full measures it", highlight=False)
        return
    report.print_experiment(console, experiment, runs)
    if stale := results.stale():
        console.print(f"[yellow]stale[/]: the code of {len(stale)} of {len(runs)} runs has changed since", highlight=False)
    if plots:
        for path in draw(experiment, plots, runs):
            console.print(f"plot   {path}", highlight=False, soft_wrap=True)


def ledger(experiments: list[Experiment], folder: Path | None = None) -> None:
    """A block a technique: what is claimed, what the paper says, what was measured here, at what cost."""
    console = Console()
    for experiment in experiments:
        runs = Results(experiment, folder or default_folder()).runs()
        block = Table.grid(padding=(0, 2))
        block.add_row("  claimed", Text(experiment.claim.collection))
        block.add_row("  paper", Text(experiment.claim.paper))
        block.add_row("  measured", Text(_measured(experiment, runs)))
        block.add_row("  scale", Text(experiment.scale))
        console.print(f"[bold]{experiment.number:02d} {experiment.title}[/]", highlight=False)
        console.print(block, highlight=False)


def _measured(experiment: Experiment, runs: list[dict]) -> str:
    outcome = verdicts.primary(experiment, runs)
    return f"{words.headline(experiment, runs)} ({words.cost(outcome, runs)})" if outcome else words.NOT_YET


def check(experiments: list[Experiment], folder: Path | None = None) -> bool:
    """Say of each experiment's stored runs whether today's code would give them; true if not, or if some are missing.

    Where only the kernels have changed, the cheapest run is replayed: its figures must come again within ``AGREES``.
    """
    console, found = Console(), False
    for experiment in experiments:
        try:
            states = _states(experiment, Results(experiment, folder or default_folder()))
        except InputError as error:  # a best setting at an end of its grid
            states = [(str(error), True)]
        found = found or any(wrong for _, wrong in states)
        told = "; ".join(text for text, _ in states)
        again = f": bertcraft run {experiment.number:02d} --full" if any(wrong for _, wrong in states) else ""
        console.print(f"{experiment.name}: {told}{again}", highlight=False, markup=False)
    return found


def confirmed(experiment: Experiment, commit: str, folder: Path | None = None) -> None:
    """Hold today's code to a commit's by replays of every arm, note that they agree, and say so. Raises InputError if not."""
    count = confirm(experiment, Results(experiment, folder or default_folder()), commit)
    told = f"{experiment.name}: {words.counted(count, 'arm')} replayed by the code of {commit} and by today's, the same figures"
    Console().print(told, highlight=False, markup=False)


AGREES = 2e-3  # relative, of the figures that a replay gives: losses of first steps, mostly


def _states(experiment: Experiment, results: Results) -> list[tuple[str, bool]]:
    """What is to be said of stored runs, and whether it means that they have to be run again."""
    runs, stale, states = results.runs(), results.stale(), []
    if not runs:
        return [(words.NOT_YET, False)]
    missing = len(results.missing()) - len(stale)
    if trials := results.missing_trials():
        states.append((f"{words.counted(len(trials), 'trial')} missing", True))
    if stale:
        states.append((f"code or settings changed: {len(stale)} of {words.counted(len(runs), 'run')} stale", True))
    if missing > 0:
        states.append((f"{words.counted(missing, 'run')} missing", True))
    old = [run for run in runs if run not in stale and run["kernels"] != fingerprint.kernels()]
    if old:
        run = to_replay([run for run in old if not experiment.arm(run["arm"]).trivial] or old)
        furthest = distance(experiment, run)
        agrees = f"{'agrees within' if furthest <= AGREES else 'differs by'} {furthest:.0e}"
        of_them = f"{len(old)} of {words.counted(len(runs), 'run')}"
        told = f"kernels changed since {of_them}, a replay of {run['arm']} seed {run['seed']} {agrees}"
        states.append((told, furthest > AGREES))
    if not states:
        other = sum(run["code"] != fingerprint.of(experiment) for run in runs)
        same = f": the code of {words.counted(other, 'run')} has changed since, and was confirmed to compute the same"
        states.append((f"up to date{same if other else ''}", False))
    return states


def to_replay(runs: list[dict]) -> dict:
    """The cheapest of these runs, of those that trained if any did: kernels decide their digits."""
    trained = [run for run in runs if "first_losses" in run["figures"]]
    return min(trained or runs, key=lambda run: run["seconds"])


def distance(experiment: Experiment, run: dict) -> float:
    """How far the figures of a run's replay lie from the stored ones, relative to these: the farthest."""
    arm = replace(experiment.arm(run["arm"]), settings=run["settings"])
    again = replay_arm(experiment, arm, run["seed"], Context())
    pairs = [(np.asarray(value, float), np.asarray(run["figures"][name], float)) for name, value in again.items()]
    return max(float(np.max(np.abs(new - old) / np.maximum(np.abs(old), 1e-12))) for new, old in pairs)


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
