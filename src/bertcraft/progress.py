"""A progress bar on a terminal or in a notebook, for work that turns out to be long."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 2.0  # seconds without a bar


@contextmanager
def counted(label: str, total: int, shown: bool | None = None) -> Iterator[Callable[[int], None]]:
    """Gives a function to be told how many more of ``total`` are done; shows a bar, which goes at the end.

    ``shown`` True: from the start; False: never; None: after PATIENCE seconds, on a terminal or in a notebook.
    """
    start, done, bar = time.monotonic(), 0, None

    def advance(count: int) -> None:
        nonlocal done, bar
        done += count
        if bar is None and done < total and (shown or (shown is None and time.monotonic() - start > PATIENCE)):
            if _in_notebook():
                bar = _NotebookBar(label, total)
            elif shown or sys.stderr.isatty():
                bar = _TerminalBar(label, total)
        if bar is not None:
            bar.update(done)

    advance(0)
    try:
        yield advance
    finally:
        if bar is not None:
            bar.remove()


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


class _TerminalBar:
    def __init__(self, label: str, total: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(label, total=total)
        self._bar.start()

    def update(self, done: int) -> None:
        self._bar.update(self._task, completed=done)

    def remove(self) -> None:
        self._bar.stop()


class _NotebookBar:
    """HTML's own bar: rich would need ipywidgets."""

    def __init__(self, label: str, total: int):
        from IPython.display import HTML, display

        self._page, self._label, self._total = HTML, label, total
        self._handle = display(HTML(""), display_id=True)
        self._shown = -1.0

    def update(self, done: int) -> None:
        if time.monotonic() - self._shown > 0.2:
            self._shown = time.monotonic()
            bar = f'<progress value="{done}" max="{self._total}"></progress> {self._label} {done:,} of {self._total:,}'
            self._handle.update(self._page(bar))

    def remove(self) -> None:
        self._handle.update(self._page(""))
