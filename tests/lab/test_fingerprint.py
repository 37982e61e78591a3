"""What makes a result stale, and what does not."""

import shutil
from pathlib import Path

import pytest

from bertcraft.lab import fingerprint

SOURCE = Path(__file__).with_name("toy_experiment.py").read_text()


def of(tmp_path, source: str, name="toy") -> str:
    path = tmp_path / f"{name}.py"
    path.write_text(source)
    return fingerprint._hash({name: path})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A small experiment', '"""Another docstring'),
        ("def run(arm, seed, context):\n", "def run(arm, seed, context):\n    # a comment\n\n"),
        ('question="does the machinery work?"', 'question="does it?"'),
        ("primary_seeds=3", "primary_seeds=4"),
    ],
)
def test_how_it_reads_and_how_it_is_shown_do_not_count(tmp_path, old, new):
    assert old in SOURCE
    assert of(tmp_path, SOURCE.replace(old, new)) == of(tmp_path, SOURCE)


@pytest.mark.parametrize(
    ("old", "new"), [("shared / 10", "shared / 11"), (".normal()", ".random()"), ("{arm.name} ", "{arm.title} ")]
)
def test_what_is_computed_counts(tmp_path, old, new):
    assert old in SOURCE
    assert of(tmp_path, SOURCE.replace(old, new)) != of(tmp_path, SOURCE)


@pytest.mark.parametrize("name, counts", [
    ("tensor/fused.py", True), ("bert/encoder.py", True), ("train/rules.py", True), ("lab/figures/__init__.py", False),
    ("data/words.py", False),
])  # fmt: skip
def test_a_run_says_which_kernels_made_it_and_drawing_is_none_of_them(tmp_path, name, counts):
    """Kernels are the packages below every experiment; a change of any of their modules is seen."""
    root = Path(fingerprint.__file__).parents[1]
    for package in ("tensor", "bert", "train", "lab", "data"):
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    assert fingerprint._below(tmp_path) == fingerprint.kernels()
    changed = tmp_path / name
    source = changed.read_text() if changed.exists() else ""
    changed.write_text(source + "\n# only said\n")
    assert fingerprint._below(tmp_path) == fingerprint.kernels()
    changed.write_text(source + "\nONE = 1\n")
    assert (fingerprint._below(tmp_path) != fingerprint.kernels()) == counts
