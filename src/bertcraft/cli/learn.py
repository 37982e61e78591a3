"""``bertcraft learn``, ``progress`` and ``list``: the course from a learner's side."""

from pathlib import Path
from typing import Annotated

import typer

from bertcraft.errors import DataError, InputError


def learn(
    lesson: Annotated[
        str | None, typer.Argument(metavar="NN", help="A lesson's number (06) or name; default: the index.")
    ] = None,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="-- OPTION", help="What follows -- is for JupyterLab, such as --no-browser.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of your copies (default: bertcraft-lessons/ here).")
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Make the copies, open nothing: for VS Code and others.")] = False,
) -> None:
    """Open the index or a lesson in JupyterLab, on your own copy.

    The first time, all notebooks are copied into a folder of yours. Work in
    them and save: a copy is never written over. When a lesson has a newer
    edition, that is put beside your copy (06_...-2.ipynb). Installs nothing;
    JupyterLab comes with: pip install 'bertcraft\\[notebook]'.

    [bold]Examples[/]

      bertcraft learn
      bertcraft learn 06
      bertcraft learn 06 --copy --folder ~/course
      bertcraft learn -- --no-browser --port 8890
    """
    from bertcraft.cli.lessons import need
    from bertcraft.course import copies, shelf
    from bertcraft.data import cache
    from bertcraft.data.text import listed

    if lesson and lesson.startswith("-"):  # what stands after --
        lesson, options = None, [lesson, *(options or ())]
    if copy and options:
        raise InputError(f"--copy opens nothing, and what follows a lesson is for JupyterLab; leave out {listed(options)}")
    name = shelf.name_of(lesson) if lesson else shelf.INDEX
    if not copy:
        need("jupyterlab", "ipykernel", otherwise="--copy makes your copies for another program")
    if not shelf.notebook(name).exists():
        raise DataError(f"the notebook of {name} is not built: bertcraft lessons build {name}")
    done = copies.bring(copies.folder(folder and cache.expanded(folder)))
    for path in done.newer:
        print(f"a newer edition, beside your copy: {path}")
    print(f"{len(done.made)} notebooks copied to {done.folder}" if done.made else f"your copies are in {done.folder}")
    if copy:
        print(f"open {done.folder / f'{name}.ipynb'}")
    else:
        _open(done.folder, f"{name}.ipynb", options or [])


def _open(folder: Path, notebook: str, options: list[str]) -> None:
    """JupyterLab in place of this process, so that Ctrl-C is its own to answer."""
    import os
    import subprocess
    import sys

    from bertcraft.data import cache

    for name in ("BERTCRAFT_PROGRESS", "BERTCRAFT_CACHE"):  # meant from the folder that we leave
        if os.environ.get(name):
            os.environ[name] = str(cache.expanded(os.environ[name]).absolute())
    os.chdir(folder)
    command = [sys.executable, "-m", "jupyterlab", f"--LabApp.default_url=/lab/tree/{notebook}", *options]
    if os.name == "nt":
        raise typer.Exit(subprocess.call(command))
    sys.stdout.flush()
    os.execv(sys.executable, command)


def progress() -> None:
    """Show which exercises you have solved, and what comes next.

    By lesson and by learning path. A check in a notebook counts; what was
    solved once stays solved.

    [bold]Example[/]

      bertcraft progress
    """
    from rich.console import Console
    from rich.text import Text

    from bertcraft.course import progress as record
    from bertcraft.course import standing
    from bertcraft.course.catalogue import PATHS

    every, console = standing.lessons(), Console()
    if not every:
        print("no lesson with checked exercises is built: bertcraft lessons build")
        return
    table = _table("lesson", ">exercises", ">solved", "", ">checks")
    for each in every:
        total = len(each.solved) + len(each.left)
        bar = Text("#" * len(each.solved) + "." * len(each.left))
        table.add_row(f"{each.number} {each.title}", str(total), str(len(each.solved)), bar, str(each.tries or "-"))
    console.print(table)
    console.print()
    table = _table("learning path", ">exercises", ">solved", "lessons there are")
    for path in PATHS:
        own = standing.of_path(path, every)
        total = sum(len(each.solved) + len(each.left) for each in own)
        there = f"{len(own)} of {len(path.ranks)}" + (f": {' '.join(each.number for each in own)}" if own else "")
        table.add_row(path.name, str(total), str(sum(len(each.solved) for each in own)), there)
    console.print(table)
    console.print()
    following = standing.next_of(every)
    if following is None:
        print("Every exercise is solved.")
    else:
        console.print(f"Next: {following.title}, exercise {following.left[0]}", highlight=False, markup=False)
        print(f"      bertcraft learn {following.number}")
    console.print(Text(f"\nKept in {record.path()} (set BERTCRAFT_PROGRESS to change it).", style="dim"), soft_wrap=True)


def list_techniques(
    path: Annotated[str | None, typer.Option(metavar="NAME", help="Only a learning path: the beginning of its name.")] = None,
) -> None:
    """List the 25 techniques: impact, adoption, lesson, measurement.

    In rank order; with --path those of a learning path, in the order in which
    to learn them. Impact and adoption are the judgement of the list that the
    course follows. Exercises are those checked in the technique's lesson, if
    it is written; runs are those stored of its experiment ('bertcraft results'
    has what they showed).

    [bold]Examples[/]

      bertcraft list
      bertcraft list --path efficiency
    """
    from rich.console import Console

    from bertcraft.course import checks, measured, shelf
    from bertcraft.course.catalogue import PATHS, TECHNIQUES, learning_path

    chosen = learning_path(path) if path else None
    table = _table("", "technique", "impact", "adoption", ">exercises", ">runs")
    for each in chosen.techniques if chosen else TECHNIQUES:
        exercises = str(len(checks.of(each.slug))) if shelf.notebook(each.name).exists() else "-"
        runs = str(len(measured.runs(each.slug)) or "-")
        table.add_row(f"{each.rank:02d}", each.title, each.level, each.adoption, exercises, runs)
    console = Console()
    if chosen:
        console.print(f"[bold]{chosen.name}[/], in the order in which to learn them", highlight=False)
    console.print(table)
    if not chosen:
        console.print("\nLearning paths (--path NAME):", style="dim")
        for each in PATHS:
            console.print(f"  {each.name:30} {' '.join(f'{rank:02d}' for rank in each.ranks)}", style="dim", highlight=False)


def _table(*columns: str):
    """A table of the command line; a column whose name begins with > stands to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column[:1] == ">" else "left", no_wrap=True)
    return table
