"""A learner's progress: one small file of hers, whole at any moment, shared by all notebooks that are open."""

import datetime
import json
import os
from contextlib import contextmanager
from pathlib import Path

from bertcraft.errors import DataError

FORMAT = "bertcraft progress 1"


def path() -> Path:
    """``$BERTCRAFT_PROGRESS`` if that is set, else ``progress.json`` in the user's data folder of this system.

    Raises DataError where the former begins with the ~ of an unknown user.
    """
    chosen = os.environ.get("BERTCRAFT_PROGRESS")
    if chosen:
        from bertcraft.data import cache

        return cache.expanded(chosen).absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("bertcraft", appauthor=False)) / "progress.json"


def read() -> dict[str, dict[str, dict]]:
    """Lesson -> exercise -> {"tries": how often it was checked, "solved": the date, once it was}; {} before the first check.

    Raises DataError when the file is there and cannot be read.
    """
    file = path()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"cannot read your progress in {file}: {error.strerror}") from None
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("lessons"), dict):
        raise DataError(f"{file} is not a file of progress ({FORMAT!r}): move it away to begin a new one")
    return content["lessons"]


def solved(slug: str) -> set[str]:
    """The exercises of a lesson that are solved. Raises DataError as :func:`read` does."""
    return {name for name, entry in read().get(slug, {}).items() if "solved" in entry}


def record(slug: str, exercise: str, is_solved: bool) -> None:
    """Count one try. What was solved once stays solved. Raises DataError when the file cannot be written."""
    from bertcraft.data import cache

    file = path()
    with _explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with cache.lock(file.with_suffix(".lock")):
            lessons = read()
            entry = lessons.setdefault(slug, {}).setdefault(exercise, {"tries": 0})
            entry["tries"] += 1
            if is_solved:
                entry.setdefault("solved", datetime.date.today().isoformat())
            content = json.dumps({"format": FORMAT, "lessons": lessons}, indent=1, sort_keys=True) + "\n"
            cache.write(file, content.encode())


@contextmanager
def _explained(file: Path):
    """A file that cannot be written, in one sentence (the cache's own speaks of the cache)."""
    try:
        yield
    except (OSError, DataError) as error:
        if "your progress" in str(error) or FORMAT in str(error):  # what :func:`read` says
            raise
        raise DataError(f"cannot keep your progress in {file}; set BERTCRAFT_PROGRESS to a file that can be written") from None
