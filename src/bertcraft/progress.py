"""A progress bar on standard error or in a notebook, for work that turns out to be long."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 2.0  # seconds without a bar


@contextmanager
def counted(label: str, total: int, shown: bool | None = None) -> Iterator[Callable[[int], None]]:
    """Gives a function to be told how many of ``total`` are done now; shows a bar when that takes long.

    ``shown`` True: from the start; False: never; None: after PATIENCE seconds, on a terminal or in a notebook.
    """
    start, done, bar, task = time.monotonic(), 0, None, None

    def advance(count: int) -> None:
        nonlocal done, bar, task
        done += count
        if bar is None and shown is not False and done < total:
            if shown or (time.monotonic() - start > PATIENCE and _someone_looks()):
                bar = _bar()
                task = bar.add_task(label, total=total)
                bar.start()
        if bar is not None:
            bar.update(task, completed=done)

    advance(0)
    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()


def _someone_looks() -> bool:
    return sys.stderr.isatty() or _in_notebook()


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


def _bar():
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True)
