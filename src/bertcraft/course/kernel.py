"""Running a notebook in a kernel of this Python, the same way everywhere; what must not be on its page raises."""

import asyncio
import contextlib
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

from bertcraft.course import shelf, sliders
from bertcraft.errors import InputError

SECONDS = 90  # that a notebook may take on two cores
QUICK_SECONDS = 30  # in its quick mode, by which the tests run both editions
PATIENCE = 6  # times as long is waited for a cell, on a machine that is busy with other things
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")
_PATH = re.compile(r"(?<![\w.])(?:/(?:home|Users|root|tmp|var|private)/|[A-Z]:\\)[\w.-]+")


def run(notebook, quick: bool = False):
    """The notebook with its outputs; ``metadata[shelf.MARK]`` of its cells, which the builder put there, is taken away.

    Raises InputError with the lesson and the line of the source for an error, for anything on standard error (warnings), for a
    path or an object's address on the page, and when the whole takes too long.
    """
    import nbclient

    about, allowed = notebook.metadata[shelf.MARK], QUICK_SECONDS if quick else SECONDS
    edition = f"{about['lesson']}{', with solutions' if about['solved'] else ''}"
    ran = without_marks(notebook)
    with tempfile.TemporaryDirectory(prefix="bertcraft-lesson-") as folder:
        client = nbclient.NotebookClient(
            ran, km=_manager(Path(folder)), resources={"metadata": {"path": folder}}, timeout=SECONDS * PATIENCE,
            coalesce_streams=True, record_timing=False, store_widget_state=False, on_notebook_start=_ctrl_c_interrupts,
        )  # fmt: skip
        start, used = time.perf_counter(), _cpu_seconds()
        try:
            client.execute(cleanup_kc=True, env=_environment(Path(folder)))
        except nbclient.exceptions.CellExecutionError:
            pass  # it is on the page
        except nbclient.exceptions.CellTimeoutError:
            raise InputError(f"{edition}: a cell ran for {SECONDS * PATIENCE} s; the notebook may take {SECONDS} s") from None
        except nbclient.exceptions.DeadKernelError:
            raise InputError(f"{edition}: its Python ended in the middle (out of memory?)") from None
        seconds, used = time.perf_counter() - start, _cpu_seconds() - used
        ran.metadata["language_info"] = {"name": "python"}
        paths = [folder, sys.prefix, os.getcwd(), str(shelf.folder("results").parent)]
    for cell, marked in zip(ran.cells, notebook.cells, strict=True):
        for output in cell.get("outputs", ()):
            if complaint := _complaint(output, paths):
                line = marked.metadata[shelf.MARK]["line"]
                raise InputError(f"lessons/{about['lesson']}.py, the cell at line {line} ({edition}): {complaint}")
    if min(seconds, used) > 2 * allowed:  # on a busy machine the clock runs on; on two cores the CPU counts double
        raise InputError(f"{edition}: it took {seconds:.0f} s ({used:.0f} s of CPU); it may take {allowed} s on two cores")
    return ran


def _ctrl_c_interrupts(notebook) -> None:
    """As everywhere: nbclient would end the kernel instead, and stumble over that."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows has no such handlers
            loop.remove_signal_handler(number)


def without_marks(notebook):
    """A copy of a notebook without what the builder keeps in its cells."""
    copy = notebook.copy()
    copy.metadata = notebook.metadata.copy()
    copy.cells = [cell.copy() for cell in notebook.cells]
    for cell in copy.cells:
        cell.metadata = cell.metadata.copy()
        cell.metadata.pop(shelf.MARK, None)
    return copy


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of the user's own settings reaches the page, and nothing of the page hers."""
    (folder / "matplotlibrc").touch()  # found in the working folder before the user's own
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1")
    return os.environ | threads | {
        sliders.BUILDING: "1",
        "BERTCRAFT_PROGRESS": str(folder / "progress.json"),
        "COLUMNS": "100",
        "HF_HUB_OFFLINE": "1",
        "IPYTHONDIR": str(folder / "ipython"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "NO_COLOR": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # the debugger's word about frozen modules
        "TQDM_DISABLE": "1",  # other libraries' bars show times
    }  # fmt: skip


def _manager(folder: Path):
    """A manager of a kernel of this Python, whatever kernels are installed; it is reached by sockets in a folder."""
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(KernelSpecManager):
        def get_kernel_spec(self, kernel_name):
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=command, display_name="Python 3", language="python")

    transport = "tcp" if os.name == "nt" else "ipc"
    file = str(folder / "kernel.json")
    return AsyncKernelManager(kernel_spec_manager=ThisPython(), transport=transport, connection_file=file)


def _complaint(output: dict, paths: list[str]) -> str:
    """What is wrong with an output; "" when nothing is."""
    if output["output_type"] == "error":
        trace = _COLOUR.sub("", "\n".join(output["traceback"]))
        line = re.search(r"(?:Cell In\[\d+\], |<ipython-input[^>]*>.*)line (\d+)", trace)
        return f"{output['ename']}: {output['evalue']}" + (f" (line {line[1]} of the cell)" if line else "")
    if output.get("name") == "stderr":
        return f"standard error has {' '.join(output['text'].split())[:300]!r}"
    data = output.get("data", {})
    texts = [output.get("text", ""), *(text for kind, text in data.items() if kind.startswith("text/"))]
    for text in texts:
        if found := _ADDRESS.search(text):
            return f"an object's address is on the page ({found[0]!r}): end the cell with a semicolon, or print what is meant"
        found = _PATH.search(text)
        path = found[0] if found else next((path for path in paths if len(path) > 4 and path in text), None)
        if path:
            return f"a path of this machine is on the page: {path!r}"
    return ""


def _cpu_seconds() -> float:
    """Used so far by the processes that this one has started and waited for."""
    times = os.times()
    return times.children_user + times.children_system
