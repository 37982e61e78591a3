"""The user's cache: where it is, how a file gets into it whole, and how two processes take turns.

Nothing in this folder is ever half-written: a file is written beside its place, flushed to the disk and
renamed. A process that dies in between leaves a temporary file that nobody reads.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bertcraft.errors import DataError

_verdicts: dict[tuple[str, int, int], str] = {}


def folder(*parts: str) -> Path:
    """The cache folder (or a folder inside it), created if need be.

    It is ``$BERTCRAFT_CACHE`` if that is set, else the user's cache folder of this system.
    Raises DataError when it cannot be created, and as :func:`expanded` does.
    """
    chosen = os.environ.get("BERTCRAFT_CACHE")
    if not chosen:
        import platformdirs

        chosen = platformdirs.user_cache_dir("bertcraft", appauthor=False)
    path = expanded(chosen).absolute().joinpath(*parts)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot create the cache folder {path}: {error.strerror}; set BERTCRAFT_CACHE to a folder that can be written"
        ) from None
    return path


def expanded(path: str | Path) -> Path:
    """The path with a user's folder in place of the ~ at its beginning. Raises DataError where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0][1:]
        raise DataError(f"{path}: there is no user {user} here, so ~{user} is no folder; give the path in full") from None


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; read once a process for a given size and modification time."""
    status = path.stat()
    key = (str(path), status.st_size, status.st_mtime_ns)
    if key not in _verdicts:
        with open(path, "rb") as file:
            _verdicts[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _verdicts[key]


def forget(path: Path) -> None:
    """Make the next :func:`sha256` of ``path`` read the file again."""
    for key in [key for key in _verdicts if key[0] == str(path)]:
        del _verdicts[key]


def flush(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises DataError when the disk is full or not writable."""
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.chmod(temporary, 0o644)  # not for the user alone, as temporary files are: others read models and pages
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            raise DataError(no_room(path, len(content), error.strerror or str(error))) from None
        raise


def no_room(path: Path, size: int, reason: str) -> str:
    """The one sentence for a file that the disk does not take."""
    return (
        f"cannot write {path} ({size / 1e6:.1f} MB): {reason}; free space there, "
        "or set BERTCRAFT_CACHE to a folder on another disk"
    )


@contextlib.contextmanager
def lock(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a file; the system releases it even when the process is killed.

    Where another process holds it, waits, or with ``busy`` raises DataError with that text. Raises DataError when the file
    cannot be written.
    """
    try:
        file = open(path, "ab")
    except OSError as error:
        raise DataError(no_room(path, 0, error.strerror)) from None
    with file:
        if os.name == "nt":
            import msvcrt
            import time

            while True:
                try:
                    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                    break
                except OSError:
                    if busy:
                        raise DataError(busy) from None
                    time.sleep(0.2)
        else:
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
            except BlockingIOError:
                raise DataError(busy) from None
        yield
