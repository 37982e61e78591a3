"""The bar on long work: on a terminal and in a notebook, not on short work, not in a pipe."""

import os
import pty
import subprocess
import sys

import nbclient
import nbformat
import pytest

PROGRAM = """
import sys, time
from bertcraft import progress
progress.PATIENCE = {patience}
with progress.counted("encoding", 20, shown={shown}) as advance:
    for _ in range(20):
        time.sleep(0.05)
        advance(1)
"""


def on_a_terminal(program: str) -> str:
    master, slave = pty.openpty()
    run = subprocess.Popen(
        [sys.executable, "-c", program], stderr=slave, stdout=subprocess.DEVNULL, env=os.environ | {"TERM": "xterm"}
    )
    os.close(slave)
    told = b""
    try:
        while part := os.read(master, 4096):
            told += part
    except OSError:  # Linux's way to say that the other side is closed
        pass
    assert run.wait() == 0
    os.close(master)
    return told.decode()


def in_a_pipe(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, check=True).stderr


@pytest.mark.parametrize(
    ("patience", "shown", "terminal", "pipe"),
    [(0.1, None, True, False), (60, None, False, False), (0.1, False, False, False), (60, True, True, True)],
)
def test_on_a_terminal_and_in_a_pipe(patience, shown, terminal, pipe):
    program = PROGRAM.format(patience=patience, shown=shown)
    told = on_a_terminal(program)
    assert ("encoding" in told and "/20" in told) == terminal
    assert bool(told) == terminal and bool(in_a_pipe(program).strip()) <= pipe


def test_in_a_notebook():
    cell = nbformat.v4.new_code_cell(PROGRAM.format(patience=0.1, shown=None))
    told = []

    class Listening(nbclient.NotebookClient):
        def process_message(self, message, *rest):
            told.append(message["content"].get("data", {}).get("text/html", ""))
            return super().process_message(message, *rest)

    notebook = nbformat.v4.new_notebook(cells=[cell])
    Listening(notebook, kernel_name="python3").execute()
    assert any('<progress value="' in page and "encoding" in page and "of 20" in page for page in told)
    (output,) = cell.outputs if cell.outputs else notebook.cells[0].outputs
    assert output["data"]["text/html"] == "", "the bar goes at the end"
