"""Where the course's files are: sources, notebooks, solutions and results, in a checkout or where pip put them."""

import functools
import importlib.metadata
import json
import re
from pathlib import Path

from bertcraft.course import catalogue
from bertcraft.errors import DataError, InputError

MARK = "bertcraft"  # our part of a notebook's metadata
INDEX = "00_index"


@functools.cache
def folder(name: str) -> Path:
    """The folder "lessons", "notebooks" or "results": of the source tree this runs from, else of the installed package.

    The sources of lessons are in a source tree only. Raises DataError where there is no such folder.
    """
    tree = Path(__file__).parents[3]
    if (tree / "pyproject.toml").exists():
        return tree / name
    try:
        files = importlib.metadata.files("bertcraft") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.parts[-4:-1] == ("share", "bertcraft", name):
            return Path(str(file.locate())).resolve().parent
    where = "they are in the source tree only" if name == "lessons" else "install bertcraft again"
    raise DataError(f"the {name} of the course are not installed: {where}")


def name_of(lesson: str) -> str:
    """NN_slug of a lesson, from its number ("06", "6"), slug or the whole; "00" is that of the foundations.

    Raises InputError where there is none.
    """
    names = lesson_names()
    wanted = f"{int(lesson):02d}" if lesson.isdecimal() else lesson
    for name in names:
        if wanted in (name, name[3:]) or wanted == name[:2] and name != INDEX:
            return name
    if found := catalogue.numbered(lesson):
        raise InputError(f"{found.rank:02d} {found.title} is not written yet; there are {', '.join(names) or 'none yet'}")
    raise InputError(f"{lesson!r} is no lesson; there are {', '.join(names) or 'none yet'}")


def lesson_names() -> list[str]:
    """NN_slug of the lessons that there are, the index first."""
    found = set()
    for place, ending in (("lessons", "py"), ("notebooks", "ipynb")):
        try:
            found |= {file.stem for file in folder(place).glob(f"*.{ending}") if re.fullmatch(r"\d\d_\w+", file.stem)}
        except DataError:  # sources are not installed
            continue
    return sorted(found, key=lambda name: (name != INDEX, name))


def notebook(name: str, solved: bool = False) -> Path:
    """The built notebook of a lesson, which may not be there yet; ``solved``: the one with the solutions."""
    return folder("notebooks") / ("solutions" if solved else ".") / f"{name}.ipynb"


def results(name: str) -> Path:
    """The file in which a lesson's experiment is stored, which may not be there yet."""
    return folder("results") / f"{name}.json"


def solution(name: str, exercise: str) -> str:
    """The model answer of an exercise, as the notebook with the solutions has it.

    Raises InputError where that holds no such exercise, DataError where there is no such notebook.
    """
    path = notebook(name, solved=True)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except FileNotFoundError:
        raise DataError(f"the solutions of {name} are not built yet: bertcraft lessons build {name}") from None
    answers = {cell["metadata"].get("exercise"): "".join(cell["source"]) for cell in cells}
    answers.pop(None, None)
    if exercise not in answers:
        raise InputError(f"{name} has no exercise {exercise!r} in a cell; it has {', '.join(answers)}")
    return answers[exercise]
