"""A learner's progress: counted by two notebooks at once, whole at any moment, never taken for what it is not."""

import errno
import json
import os
import subprocess
import sys

import pytest

from bertcraft.course import checks, progress, shelf, standing
from bertcraft.course.exercises import Exercise
from bertcraft.errors import DataError


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("BERTCRAFT_PROGRESS", str(tmp_path / "kept" / "progress.json"))
    return tmp_path / "kept" / "progress.json"


def test_tries_are_counted_and_what_is_solved_stays_solved(file):
    assert progress.read() == {} and progress.solved("a") == set()
    progress.record("a", "one", False)
    progress.record("a", "one", True)
    progress.record("a", "one", False)
    progress.record("b", "two", False)
    assert progress.solved("a") == {"one"} and progress.solved("b") == set()
    assert progress.read()["a"]["one"]["tries"] == 3
    assert [path.name for path in file.parent.iterdir() if path.suffix != ".lock"] == ["progress.json"]


def test_two_notebooks_at_once_lose_no_try_and_no_reader_sees_half_a_file(file):
    code = (
        "import sys\nfrom bertcraft.course import progress\nprint('ready', flush=True)\nsys.stdin.read(1)\n"
        "for i in range(60): progress.record('a', f'{sys.argv[1]}{i % 3}', i > 30)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", code, name], **pipes) for name in ("x", "y")]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    while any(process.poll() is None for process in both):
        progress.read()
    for process in both:
        process.communicate()
        assert process.returncode == 0
    assert {name: entry["tries"] for name, entry in progress.read()["a"].items()} == {
        f"{n}{i}": 20 for n in "xy" for i in range(3)
    }
    assert len(progress.solved("a")) == 6


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "another"}', '{"format": "bertcraft progress 1", "lessons": 3}'])
def test_another_file_is_refused_and_left_alone(file, content):
    file.parent.mkdir()
    file.write_text(content)
    for use in (progress.read, lambda: progress.record("a", "one", True)):
        with pytest.raises(DataError, match="is not a file of progress"):
            use()
    assert file.read_text() == content


def test_where_it_cannot_be_written_is_told_in_terms_of_progress(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BERTCRAFT_PROGRESS", str(tmp_path / "file" / "progress.json"))
    with pytest.raises(DataError, match="cannot keep your progress in .*; set BERTCRAFT_PROGRESS"):
        progress.record("a", "one", True)


def test_a_full_disk_is_told_in_terms_of_progress_too(file, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="cannot keep your progress in .*; set BERTCRAFT_PROGRESS") as failure:
        progress.record("a", "one", True)
    assert "BERTCRAFT_CACHE" not in str(failure.value)


def test_a_user_that_there_is_not_is_told(monkeypatch):
    from bertcraft.data import cache

    for variable, asked in (("BERTCRAFT_PROGRESS", progress.path), ("BERTCRAFT_CACHE", cache.folder)):
        monkeypatch.setenv(variable, "~nosuchuser/x")
        with pytest.raises(DataError, match="~nosuchuser/x: there is no user nosuchuser here"):
            asked()


def test_the_file_is_in_the_user_s_own_folder_unless_she_chooses(monkeypatch):
    monkeypatch.setenv("BERTCRAFT_PROGRESS", "~/p.json")
    assert progress.path() == type(progress.path())(os.path.expanduser("~/p.json"))
    monkeypatch.delenv("BERTCRAFT_PROGRESS")
    assert progress.path().parts[-2:] == ("bertcraft", "progress.json")


# ---- what comes next

BUILT = (
    "00_foundations", "00_foundations_2", "01_roberta_optimizations", "06_gradient_accumulation", "10_sparse_attention",
    "25_meta_learning",
)  # fmt: skip


@pytest.fixture
def course(file, tmp_path, monkeypatch):
    """Six built lessons with the exercises "first" and "second"; a function that gives the next lesson's slug."""
    for name in ("lessons", "notebooks", "results"):
        (tmp_path / name).mkdir()
    for name in BUILT:
        (tmp_path / "notebooks" / f"{name}.ipynb").touch()
    exercises = tuple(Exercise(name, name, 1, lambda function: None) for name in ("first", "second"))
    monkeypatch.setattr(shelf, "folder", lambda name: tmp_path / name)
    monkeypatch.setattr(checks, "of", lambda slug: exercises)

    def following() -> str | None:
        found = standing.next_of(standing.lessons())
        return found and f"{found.slug} {found.left[0]}"

    return following


def solve(*slugs: str) -> None:
    for slug in slugs:
        progress.record(slug, "first", True)
        progress.record(slug, "second", True)


def test_what_comes_next(course):
    assert course() == "foundations first"
    progress.record("sparse_attention", "first", True)
    assert course() == "sparse_attention second"  # what is begun is finished first
    solve("sparse_attention")
    assert course() == "foundations first"
    solve("foundations")
    assert course() == "foundations_2 first"
    solve("foundations_2")
    assert course() == "roberta_optimizations first"  # nothing else is left on the path of 10
    progress.record("gradient_accumulation", "second", False)
    assert course() == "gradient_accumulation first"
    solve("gradient_accumulation", "roberta_optimizations")
    assert course() == "meta_learning first"
    solve("meta_learning")
    assert course() is None


def test_an_exercise_that_the_lesson_no_longer_has_counts_nowhere(course, file):
    progress.record("foundations", "gone", True)
    (foundations, *_) = standing.lessons()
    assert (foundations.solved, foundations.left, foundations.tries) == ((), ("first", "second"), 0)
    assert json.loads(file.read_text())["lessons"]["foundations"]["gone"]["solved"]
