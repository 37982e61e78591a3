"""A change that leaves all figures as they are is confirmed by replays of both versions, another is refused."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A repository whose experiment 01 is the toy one, run in full."""
    root = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", root)
    shutil.copy(ROOT / "tests/lab/toy_experiment.py", root / "src/bertcraft/lab/experiments/roberta_optimizations.py")
    shutil.copy(ROOT / "tests/lab/toy_figures.py", root / "src")
    git(root, "init", "-q")
    commit(root)
    status, said = bertcraft(root, "run", "01", "--full")
    assert status == 0, said
    return root


def git(root, *arguments):
    own = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *own, *arguments], cwd=root, check=True, capture_output=True)


def commit(root):
    git(root, "add", "src", "pyproject.toml")
    git(root, "commit", "-q", "-m", "a state")


def bertcraft(root, *arguments) -> tuple[int, str]:
    environment = os.environ | {"PYTHONPATH": str(root / "src"), "COLUMNS": "80", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "bertcraft.cli", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def append(path: Path, text: str):
    path.write_text(path.read_text() + text)


def test_what_computes_the_same_is_confirmed_and_what_does_not_is_refused(tree):
    technique = tree / "src/bertcraft/techniques/roberta_optimizations.py"
    status, said = bertcraft(tree, "results", "01", "--confirm", "HEAD")
    assert status == 2 and "no stored run is of other code than today's" in said
    append(technique, "\n\ndef more():\n    return 1\n")
    status, said = bertcraft(tree, "results", "01", "--check")
    assert status == 1 and "9 of 9 runs stale" in said
    status, said = bertcraft(tree, "results", "01", "--confirm", "nothing")
    assert status == 2 and "'nothing' is no commit of" in said
    status, said = bertcraft(tree, "results", "01", "--confirm", "HEAD")
    assert status == 0 and "3 arms replayed by the code of HEAD and by today's, the same figures" in said
    status, said = bertcraft(tree, "results", "01", "--check")
    assert status == 0 and "up to date: the code of 9 runs has changed since, and was confirmed to compute the same" in said

    commit(tree)
    append(technique, "\n\ndef still_more():\n    return 2\n")  # confirmed once more, by the code between
    assert bertcraft(tree, "results", "01", "--confirm", "HEAD")[0] == 0
    assert bertcraft(tree, "results", "01", "--check")[0] == 0

    commit(tree)
    experiment = tree / "src/bertcraft/lab/experiments/roberta_optimizations.py"
    experiment.write_text(experiment.read_text().replace("+ missed,", "+ missed * 1.001 + arm.settings['effect'] / 1000,"))
    status, said = bertcraft(tree, "results", "01", "--confirm", "HEAD")
    assert status == 2 and "gives other figures than that of HEAD in better, untrained: bertcraft run 01 --full" in said
    assert bertcraft(tree, "results", "01", "--check")[0] == 1
    commit(tree)
    append(technique, "\n\ndef most():\n    return 3\n")  # HEAD is neither the code of the runs nor computes the same
    status, said = bertcraft(tree, "results", "01", "--confirm", "HEAD")
    assert status == 2 and "name the last commit before the change" in said
