"""What a notebook calls: checks, hints and solutions, what was measured, what is not installed."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from bertcraft.course import checks, exercises, progress, shelf
from bertcraft.course.exercises import Exercise, same
from bertcraft.course.lesson import Lesson, open_lesson
from bertcraft.errors import DataError, InputError


def _check_double(function):
    same(function(np.array([1.0, 2.0])), np.array([2.0, 4.0]), "the double")


EXERCISES = (
    Exercise("double", "Double it", 2, _check_double, ("Multiply.", "By two.")),
    Exercise("half", "Halve it", 1, _check_double),
)


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    """A lesson of two exercises in a course of its own, with solutions and nothing measured."""
    (tmp_path / "notebooks" / "solutions").mkdir(parents=True)
    (tmp_path / "results").mkdir()
    cells = [
        {"cell_type": "code", "metadata": {"exercise": "double"}, "source": ["def double(x):\n", "    return 2 * x"]},
        {"cell_type": "markdown", "metadata": {}, "source": ["text"]},
    ]
    notebook = tmp_path / "notebooks" / "solutions" / "25_meta_learning.ipynb"
    notebook.write_text(json.dumps({"cells": cells, "metadata": {}}))
    folder = shelf.folder
    monkeypatch.setattr(shelf, "folder", lambda name: folder(name) if name == "lessons" else tmp_path / name)
    monkeypatch.setenv("BERTCRAFT_PROGRESS", str(tmp_path / "progress.json"))
    return Lesson("meta_learning", "25_meta_learning", EXERCISES)


def test_a_check_says_what_is_wrong_and_records_the_try(lesson, capsys):
    lesson.check.double(lambda x: None)
    assert progress.read() == {}  # nothing was tried
    lesson.check.double(lambda x: 3 * x)
    assert progress.read()["meta_learning"]["double"] == {"tries": 1}
    lesson.check.double(lambda x: 2 * x)
    assert progress.solved("meta_learning") == {"double"}
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("Not started: <lambda> returns nothing so far")
    assert told[1].startswith("Not yet: the double is 3 at [0], expected 2 (2 of 2 values are wrong): 1.5 times the right value")
    assert told[2] == "Solved: double: Double it **. 1 of the 2 checked exercises of this lesson are solved."


def test_a_check_is_worth_more_than_its_record(lesson, capsys, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BERTCRAFT_PROGRESS", str(tmp_path / "file" / "progress.json"))
    lesson.check.double(lambda x: 2 * x)
    assert capsys.readouterr().out.startswith("Solved: double: Double it **. (cannot keep your progress in ")


def test_an_exercise_that_there_is_not_is_told_with_those_that_there_are(lesson):
    with pytest.raises(AttributeError, match="no exercise 'triple'; it has double, half"):
        lesson.check.triple(lambda x: x)
    with pytest.raises(InputError, match="no exercise 'triple'"):
        lesson.hint("triple")
    assert dir(lesson.check) == ["double", "half"]


def test_hints_come_one_after_the_other_and_then_the_solution(lesson, capsys):
    for _ in range(3):
        lesson.hint("double")
    lesson.hint("half")
    lesson.solution("double")
    assert capsys.readouterr().out.splitlines() == [
        "Hint 1 of 2 for double: Multiply.",
        "Hint 2 of 2 for double: By two.",
        'Hints for double: There is no further hint; `solution("double")` shows the whole.',
        'Hints for half: There is no hint; `solution("half")` shows the whole.',
        "def double(x):",
        "    return 2 * x",
    ]
    with pytest.raises(InputError, match="no exercise 'half' in a cell; it has double"):
        lesson.solution("half")
    with pytest.raises(DataError, match="solutions of 99_x are not built yet: bertcraft lessons build 99_x"):
        Lesson("x", "99_x", EXERCISES).solution("double")


def test_what_is_not_measured_is_said_to_be_so(lesson, capsys):
    assert lesson.runs == []
    lesson.claim()
    claim = capsys.readouterr().out
    assert "as measured here" in claim and "not measured yet" in claim
    for show in (lesson.results, lesson.comparisons, lambda: lesson.plots(1)):
        show()
        assert capsys.readouterr().out == "Not measured yet: nothing is stored of this technique.\n"


def test_what_is_measured_is_shown_with_its_intervals(capsys):
    lesson = Lesson("meta_learning", "25_meta_learning")
    if not lesson.runs:
        pytest.skip("experiment 25 is not stored")
    assert {"arm", "seed", "figures"} <= set(lesson.runs[0])
    lesson.results()
    lesson.comparisons()
    lesson.claim()
    told = capsys.readouterr().out
    assert "[95 % interval]" in told and "not measured yet" not in told
    assert any(verdict in told for verdict in ("reproduced", "contradicted", "cannot tell"))
    with pytest.raises(InputError, match="has no metric 'nothing'"):
        lesson.results("nothing")
    with pytest.raises(InputError, match="plots 1 to"):
        lesson.plots(99)


def test_a_stored_plot_leaves_the_learner_s_own_plots_as_they_were():
    """The experiments draw into files, whatever shows figures in her notebook."""
    code = (
        "import matplotlib; from bertcraft.course.lesson import Lesson\n"
        "lesson = Lesson('meta_learning', '25_meta_learning')\n"
        "if lesson.runs: lesson.plots(1)\n"
        "print(matplotlib.get_backend())"
    )
    backend = {"MPLBACKEND": "svg"}
    result = subprocess.run([sys.executable, "-c", code], env=os.environ | backend, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "svg"


def test_what_is_not_installed_is_told_with_its_command(lesson, capsys):
    assert lesson.installed("numpy") and capsys.readouterr().out == ""
    assert not lesson.installed("numpy", "no_such_package")
    assert "pip install no-such-package" in capsys.readouterr().out


def test_without_sliders_the_function_is_called_with_its_own_values(lesson, monkeypatch, capsys):
    monkeypatch.setenv("BERTCRAFT_BUILDING", "1")
    lesson.play(lambda steps=3: print(steps), steps=[1, 3, 9])
    assert capsys.readouterr().out == "3\n"


def test_opening_a_lesson_by_its_slug_or_a_name_that_is_none():
    name = next((each for each in shelf.lesson_names() if checks.of(each[3:])), None)
    if name:
        assert repr(open_lesson(name[3:])) == f"lesson {name}"
        assert all(isinstance(each, exercises.Exercise) for each in open_lesson(name[3:]).exercises)
    with pytest.raises(InputError, match="'no_such' is no lesson"):
        open_lesson("no_such")
