"""Every lesson that there is: it runs from top to bottom with and without its answers, and its notebooks are those of today.

Lessons run in quick mode here; ``bertcraft lessons build --check`` runs both editions whole and compares every output.
"""

import json
import re

import pytest
from tests.course.lessons import path as path_of
from tests.course.lessons import solution, stub, told

from bertcraft.course import builder, checks, glossary, shape, shelf, source

LESSONS = sorted(shelf.folder("lessons").glob("[0-9][0-9]_*.py"))
EDITIONS = [(path, solved) for path in LESSONS for solved in builder.editions(path)]
EVERY_LESSON = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
EVERY_NOTEBOOK = pytest.mark.parametrize(
    ("path", "solved"), EDITIONS, ids=[f"{path.stem}{'-solved' if solved else ''}" for path, solved in EDITIONS]
)

EVERY_EXERCISE = pytest.mark.parametrize(
    ("slug", "name"), [(path.stem[3:], exercise.name) for path in LESSONS for exercise in checks.of(path.stem[3:])]
)


@EVERY_LESSON
def test_a_lesson_runs_without_an_error_or_a_warning(path):
    """Once, in quick mode: with the stubs from top to bottom, and then, in the same kernel, what the solutions change."""
    whole = builder.both(path)
    stubs = len(builder.build(path, solved=False).cells)
    notebook = builder.execute(whole, quick=True)
    committed = json.loads(shelf.notebook(path.stem).read_bytes())["cells"]
    assert [bool(cell.get("outputs")) for cell in notebook.cells[:stubs]] == [bool(cell.get("outputs")) for cell in committed]
    for solved, cells in ((False, notebook.cells[:stubs]), (True, notebook.cells[stubs:])):
        check_lines = [line for cell in cells for line in cell.source.splitlines() if re.match(r"check\.\w+\(", line)]
        found = re.findall(r"^(Solved|Not started|Not yet)\b", "\n".join(_texts(cells)), re.M)
        assert len(found) == len(check_lines) == len(checks.of(path.stem[3:]))
        assert set(found) <= ({"Solved"} if solved else {"Not started", "Not yet"}), found


@EVERY_NOTEBOOK
def test_the_committed_notebook_is_what_the_source_builds(path, solved):
    """By source, inlined code and results; outputs are compared by ``bertcraft lessons build --check``."""
    assert builder.stale(path, solved) == "", f"bertcraft lessons build {path.stem}"
    content = shelf.notebook(path.stem, solved).read_bytes()
    assert len(content) <= builder.LARGEST
    outputs = [output for cell in json.loads(content)["cells"] for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert all("execution_count" in cell for cell in json.loads(content)["cells"] if cell["cell_type"] == "code")


@EVERY_EXERCISE
def test_the_solution_passes_and_the_stub_is_not_started(slug, name):
    assert told(slug, name, solution(slug, name)) == ("solved", "")
    (cell,) = (cell for cell in source.read(path_of(slug)) if cell.exercise == name)
    has_a_bug_to_find = "### BEGIN STUB" in cell.text  # it is there from the start; the lesson's own test holds its message
    assert told(slug, name, stub(slug, name))[0] == ("wrong" if has_a_bug_to_find else "not started")


@EVERY_LESSON
def test_every_checked_exercise_has_its_cell_and_its_check(path):
    cells = source.read(path)
    names = [exercise.name for exercise in checks.of(path.stem[3:])]
    assert len(set(names)) == len(names)
    written = {cell.exercise: i for i, cell in enumerate(cells) if cell.exercise}
    for exercise in checks.of(path.stem[3:]):
        assert exercise.name in written, f"no cell has exercise={exercise.name!r}"
        cell, after = cells[written[exercise.name]], cells[written[exercise.name] + 1]
        assert f"def {exercise.name}(" in source.solved(cell.text)
        assert f"def {exercise.name}(" in source.unsolved(cell.text)
        assert f"check.{exercise.name}({exercise.name})" in after.text.splitlines()
        assert cell.metadata["stars"] == exercise.stars
        assert 1 <= exercise.stars <= 3 and exercise.hints and exercise.title
    called = re.findall(r"^check\.(\w+)\(", "\n".join(cell.text for cell in cells if cell.type == "code"), re.M)
    assert sorted(called) == sorted(names), "each is checked once"


@EVERY_LESSON
def test_a_hint_or_solution_that_the_text_names_is_there(path):
    cells = source.read(path)
    names = {cell.exercise for cell in cells if cell.exercise}
    named = re.findall(r"\b(?:hint|solution)\(\"(\w+)\"\)", "\n".join(cell.text for cell in cells))
    assert set(named) - {"name"} <= names


@EVERY_LESSON
def test_a_word_of_the_glossary_is_explained_before_it_is_used(path):
    assert path.stem in shape.OLD_SHAPE or glossary.unexplained(builder.build(path, solved=False)) == []


def test_no_notebook_is_left_of_a_lesson_that_is_gone():
    sources = {path.stem for path in LESSONS}
    built = list(shelf.folder("notebooks").glob("**/*.ipynb"))
    assert {path.stem for path in built if ".ipynb_checkpoints" not in path.parts} <= sources


def _texts(cells) -> list[str]:
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    return [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
