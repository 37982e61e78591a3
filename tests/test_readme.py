"""What the README states about the techniques is what the source holds."""

import re
from pathlib import Path

import pytest

from bertcraft.course import readme
from bertcraft.errors import DataError

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_a_technique_is_said_to_work_exactly_when_its_module_its_tests_and_its_lesson_are_there():
    rows = re.findall(r"^\| (\d\d) \| (?:\[.+?\]\(notebooks/\d\d_(\w+)\.ipynb\)|.+?) \| (yes|not yet) \| .*\|$", README, re.M)
    assert [number for number, _, _ in rows] == [f"{n:02}" for n in range(1, 26)]
    working = {slug for _, slug, state in rows if state == "yes"}
    modules = {path.stem for path in (ROOT / "src/bertcraft/techniques").glob("[a-z]*.py")}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests/techniques").glob("test_*.py")}
    lessons = {path.stem.split("_", 1)[1] for path in (ROOT / "lessons").glob("[0-9][0-9]_*.py")}
    assert modules == tests and working == modules & lessons
    for slug in modules - lessons:
        assert f"`bertcraft.techniques.{slug}`" in README, "said to be there, without its lesson"


def test_its_table_of_techniques_says_what_the_results_say():
    assert readme.text() == README, "stale: bertcraft lessons build index"


def test_marks_that_are_missing_are_told(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("no marks")
    monkeypatch.setattr(readme, "path", lambda: tmp_path / "README.md")
    with pytest.raises(DataError, match="expected the marks"):
        readme.text()


def test_the_two_commands_are_printed_as_they_are_meant_to_be_run():
    blocks = re.findall(r"^```\n(.+?)\n```$", README, re.M | re.S)
    assert "pip install -e . && bertcraft run 01" in blocks
    assert "pip install -r requirements/test.txt && pytest" in blocks
    assert re.search(r"^pytest$", (ROOT / ".ci/run").read_text("utf-8"), re.M)
