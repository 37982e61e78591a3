"""Facts of the machine: what reports say of it, and what a measuring process says of itself."""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

# Settings that speed up or slow down some of the contenders: all run without them.
_DROPPED = (
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
)  # fmt: skip


def child_environment() -> dict[str, str]:
    """The environment of every measuring process: no settings of BLAS, no network."""
    environment = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    return environment | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}


def description() -> dict:
    """CPU model, number of CPUs this process may use, operating system and Python, for a report."""
    from bertcraft.tensor.parallel import cpu_count

    system = f"{platform.system()} {platform.release()}"
    return {
        "cpu": _cpu_model(),
        "threads": cpu_count(),
        "system": system,
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def load() -> float | None:
    """Processes that wanted a CPU in the last minute: near 0 when it is quiet. None if not known."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def versions(packages: list[str]) -> dict[str, str | None]:
    """The installed version of each package, None where it is not installed. Imports none of them."""
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def peak_memory() -> float:
    """The most memory this process has had resident so far, in MB (10^6 bytes)."""
    import resource

    try:  # getrusage would also count what the parent had resident when it started this process
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
