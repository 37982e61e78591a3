"""What makes a result stale, and what does not."""

import importlib.util
from pathlib import Path

import pytest

from bertcraft.lab import fingerprint

SOURCE = Path(__file__).with_name("toy_experiment.py").read_text()


def of(tmp_path, source: str, name="toy") -> str:
    path = tmp_path / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("toy_for_fingerprint", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return fingerprint._computation(module)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A small experiment', '"""Another docstring'),
        ("def run(arm, seed, context):\n", "def run(arm, seed, context):\n    # a comment\n\n"),
        ("    return []\n", "    return [folder]\n"),  # in show_plots
        ('question="does the machinery work?"', 'question="does it?"'),
        ("seeds=3", "seeds=4"),
    ],
)
def test_how_it_reads_and_how_it_is_shown_do_not_count(tmp_path, old, new):
    assert old in SOURCE
    assert of(tmp_path, SOURCE.replace(old, new)) == of(tmp_path, SOURCE)


@pytest.mark.parametrize(
    ("old", "new"), [("shared / 10", "shared / 11"), (".normal()", ".random()"), ("arm.name}", "arm.title}")]
)
def test_what_is_computed_counts(tmp_path, old, new):
    assert old in SOURCE
    assert of(tmp_path, SOURCE.replace(old, new)) != of(tmp_path, SOURCE)
