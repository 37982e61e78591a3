"""A learner's own copies of the notebooks: made once, never written over; a newer edition is put beside.

The pages that the notebooks link to (rankings, evidence) hold nothing of hers: they are renewed.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from bertcraft.course import shelf
from bertcraft.data import cache
from bertcraft.errors import DataError, InputError

FOLDER = "bertcraft-lessons"  # in the working folder, unless the learner names another


@dataclass(frozen=True)
class Copies:
    """What :func:`bring` did: copies made for the first time, newer editions put beside older copies, and where all is."""

    folder: Path
    made: tuple[Path, ...]
    newer: tuple[Path, ...]


def folder(chosen: Path | None) -> Path:
    """Where a learner's copies are: the folder that she chose, the working folder if they are in it, or a new one in it."""
    if chosen:
        return chosen
    here = Path.cwd()
    return here if here.name == FOLDER and any(here.glob("[0-9][0-9]_*.ipynb")) else here / FOLDER


def bring(folder: Path) -> Copies:
    """Copy every built notebook that the folder lacks, and put newer editions beside the learner's copies of older ones.

    All of them, since they link to each other. A notebook that is there is never written to; the pages in Markdown that they link
    to are brought up to date. Raises DataError when no notebook is built or the folder cannot be written, InputError when the
    folder is the course's own.
    """
    own = shelf.folder("notebooks")
    notebooks = [path for name in shelf.lesson_names() if (path := shelf.notebook(name)).exists()]
    if not notebooks:
        raise DataError(f"no notebook is built in {own}: bertcraft lessons build")
    if folder.resolve().is_relative_to(own.resolve()):
        raise InputError(f"{folder} holds the course's own notebooks, expected a folder for your copies")
    made, newer = [], []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {folder}: {error.strerror}; choose another with --folder") from None
    for notebook in notebooks:
        copy = folder / notebook.name
        if not copy.exists():
            made.append(_copy(notebook, copy))
        elif not any(edition(path) == edition(notebook) for path in _siblings(copy)):
            newer.append(_copy(notebook, _beside(copy)))
    for page in sorted(own.rglob("*.md")):
        copy = folder / page.relative_to(own)
        if not copy.exists() or copy.read_bytes() != page.read_bytes():
            copy.parent.mkdir(exist_ok=True)
            _copy(page, copy)
    return Copies(folder, tuple(made), tuple(newer))


def edition(path: Path) -> str | None:
    """The edition that a notebook is a copy of, which stays when it is edited; None where the file does not say."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["metadata"][shelf.MARK]["edition"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _siblings(copy: Path) -> list[Path]:
    """A learner's copy and the newer editions beside it."""
    pattern = re.compile(rf"{re.escape(copy.stem)}(?:-\d+)?\.ipynb")
    return [path for path in copy.parent.iterdir() if pattern.fullmatch(path.name)]


def _beside(copy: Path) -> Path:
    """06_gradient_accumulation-2.ipynb, or the first number that is free."""
    number = 2
    while (path := copy.with_name(f"{copy.stem}-{number}.ipynb")).exists():
        number += 1
    return path


def _copy(source: Path, target: Path) -> Path:
    try:
        cache.write(target, source.read_bytes())
    except DataError:
        raise DataError(f"cannot write {target}: choose another folder with --folder") from None
    return target
