"""What makes a result stale, and what does not."""

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


def test_a_run_says_which_kernels_made_it_and_drawing_is_none_of_them():
    """Kernels are the packages below every experiment; a change of any of their modules is seen."""
    root = Path(fingerprint.__file__).parents[1]
    paths = {path.name: path for package in fingerprint._KERNELS for path in (root / package).rglob("*.py")}
    assert {"fused.py", "encoder.py"} <= set(paths) and not any("figures" in str(path) for path in paths.values())
    assert fingerprint.kernels() == fingerprint.kernels() and len(fingerprint.kernels()) == 16
