"""``bertcraft run`` and ``bertcraft results``: what the lab measures and has measured."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from bertcraft.errors import InputError

TECHNIQUE = typer.Argument(metavar="TECHNIQUE", help="Its number (01) or its name (roberta_optimizations).")


def run(
    technique: Annotated[str, TECHNIQUE],
    quick: Annotated[bool, typer.Option("--quick", help="A still shorter run, of some 20 seconds.")] = False,
    full: Annotated[bool, typer.Option("--full", help="The whole experiment: every arm, every seed, stored.")] = False,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Of all random numbers: the same seed gives the same bits.", show_default="0"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for all that is written (default: runs/..., with --full results/)."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="How many at once (default: one a CPU; with --full one); changes no result."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="With --full: how many seeds (default: the experiment's).")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="With --full: runs at a time, in processes.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="With --full: a Dask scheduler, tcp://host:port.")
    ] = None,
) -> None:
    """Try a technique against its baseline on real text.

    Fetches the text on first use, trains one seed of each arm in about a
    minute, and prints what each learnt. Writes plots and figures. Stopped by
    Ctrl-C, the same command goes on where it was.

    --full runs every arm, its controls included, at several seeds, and stores
    each run in results/ as it finishes; it may take an hour or more and can
    be stopped and started at will.

    [bold]Examples[/]

      bertcraft run 01 --quick
      bertcraft run roberta_optimizations --seed 1 --out my_run
      bertcraft run 06 --full --jobs 2
    """
    from bertcraft.lab import show

    chosen = _experiment(technique)
    if not full:
        for option, value in (("--seeds", seeds), ("--scheduler", scheduler), ("--jobs", None if jobs == 1 else jobs)):
            if value is not None:
                raise InputError(f"{option} belongs to the whole experiment: add --full")
        show.run_one(chosen, quick=quick, seed=seed or 0, out=out, threads=threads)
        return
    if quick:
        raise InputError("--full is the whole experiment and --quick a short one: choose one of them")
    for option, value, instead in (("--seed", seed, "--seeds how many"), ("--threads", threads, "--jobs how many at a time")):
        if value is not None:
            raise InputError(f"{option} belongs to a short run: with --full say by {instead}")
    command = shlex.join(["bertcraft", *sys.argv[1:]])
    show.run_full(chosen, command=command, seeds=seeds, jobs=jobs, scheduler=scheduler, folder=out)


def results(
    technique: Annotated[str | None, TECHNIQUE] = None,
    check: Annotated[bool, typer.Option("--check", help="Say which results are stale; exit status 1 if any is.")] = False,
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Draw the technique's plots into this folder.")] = None,
    confirm: Annotated[
        str | None,
        typer.Option(metavar="COMMIT", help="Replay every arm by that commit's code and by today's; note if they agree."),
    ] = None,
) -> None:
    """Print what has been measured: claim, paper, effect, verdict.

    Without a technique: the ledger of all. With one: every arm, comparison,
    control and limit of its experiment.

    Results are stale when code below them has changed. Where the change was
    meant to leave all figures as they are, --confirm holds it to that: a run of
    every arm, by the commit before it and by today's code, to the last bit.

    [bold]Examples[/]

      bertcraft results
      bertcraft results 06 --plots plots/
      bertcraft results --check
    """
    from bertcraft.lab import show
    from bertcraft.lab.experiments import everything

    if plots and not technique:
        raise InputError("--plots draws the plots of one technique: name it")
    if confirm and not technique:
        raise InputError("--confirm replays the runs of one technique: name it")
    given = [name for name, value in (("--check", check), ("--plots", plots), ("--confirm", confirm)) if value]
    if len(given) > 1:
        raise InputError(f"{given[0]} and {given[1]} do not go together: choose one of them")
    chosen = [_experiment(technique)] if technique else everything()
    if confirm:
        show.confirmed(chosen[0], confirm)
    elif check:
        if show.check(chosen):
            raise typer.Exit(1)
    elif technique:
        show.results_of(chosen[0], plots)
    else:
        show.ledger(chosen)


def _experiment(technique: str):
    """The experiment of a technique, by number, name or both ("01_roberta_optimizations").

    Raises InputError, with the technique's title where its experiment is not written yet, else with the nearest name.
    """
    import difflib

    from bertcraft.course.catalogue import numbered
    from bertcraft.lab.experiments import everything, experiment

    found, written = numbered(technique), everything()
    if found and found.slug not in {each.slug for each in written}:
        listed = ", ".join(f"{each.number:02d} {each.slug}" for each in written)
        raise InputError(f"the experiment of {found.rank:02d} {found.title} is not written yet; there are {listed}")
    try:
        return experiment(found.slug if found else technique)
    except InputError as error:
        if near := difflib.get_close_matches(technique, [each.slug for each in written], n=1):
            raise InputError(f"{error}; did you mean {near[0]!r}?") from None
        raise
