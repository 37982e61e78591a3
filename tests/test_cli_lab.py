"""``bertcraft run`` and ``bertcraft results`` in processes of their own, in a terminal of 80 columns."""

import json
import os
import subprocess
import sys

import pytest

from bertcraft.lab.experiments import everything
from bertcraft.lab.results import Results, default_folder


def bertcraft_command(*arguments):
    environment = os.environ | {"COLUMNS": "80", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "bertcraft.cli", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "22"), "the experiment of 22 Neural architecture search is not written yet; there are 01 roberta"),
        (("run", "99"), "there are 01 roberta_optimizations"),
        (("run", "nonsense"), "there are 01 roberta_optimizations"),
        (("run", "06", "--seeds", "2"), "--seeds belongs to the whole experiment: add --full"),
        (("run", "06", "--jobs", "2"), "--jobs belongs to the whole experiment: add --full"),
        (("run", "06", "--scheduler", "tcp://localhost:1"), "--scheduler belongs to the whole experiment"),
        (("run", "06", "--full", "--quick"), "choose one of them"),
        (("run", "06", "--full", "--seed", "0"), "--seed belongs to a short run: with --full say by --seeds how many"),
        (("run", "06", "--full", "--threads", "2"), "--threads belongs to a short run: with --full say by --jobs how many"),
        (("run", "09", "--full", "--seeds", "11"), "--seeds: advanced_scheduling has texts for 10 seeds, got 11"),
        (("results", "99"), "there are 01 roberta_optimizations"),
        (("run", "roberta_optimisations"), "did you mean 'roberta_optimizations'?"),
        (("run", "01_roberta_optimizations", "--seeds", "2"), "--seeds belongs to the whole experiment: add --full"),
        (("results", "06", "--check", "--plots", "x"), "--check and --plots do not go together: choose one of them"),
        (("results", "06", "--check", "--confirm", "HEAD"), "--check and --confirm do not go together"),
        (("results", "06", "--plots", "x", "--confirm", "HEAD"), "--plots and --confirm do not go together"),
        (("results", "--plots", "x"), "--plots draws the plots of one technique: name it"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_line(arguments, said):
    status, output, errors = bertcraft_command(*arguments)
    assert (status, output) == (2, "")
    assert errors.startswith("error: ") and errors.count("\n") == 1 and said in errors


def test_a_quick_run_prints_a_table_and_writes_figures_and_plots(tmp_path):
    status, output, errors = bertcraft_command("run", "06", "--quick", "--out", tmp_path)
    assert status == 0, errors
    assert max(map(len, (line for line in output.splitlines() if str(tmp_path) not in line))) <= 80
    assert "mean of" in output and "no evidence for either" in output
    runs = {run["arm"]: run["figures"] for run in json.loads((tmp_path / "result.json").read_text())["runs"]}
    assert runs["weighted"]["gradient_error"] < 1e-4 < 0.01 < runs["mean_of_means"]["gradient_error"]
    plots = [line.split(maxsplit=1)[1] for line in output.splitlines() if line.startswith("plot")]
    assert plots
    for path in plots:
        assert open(path, "rb").read(8) == b"\x89PNG\r\n\x1a\n"


def test_the_ledger_has_a_row_for_every_experiment():
    status, output, errors = bertcraft_command("results")
    assert (status, errors) == (0, "")
    assert max(map(len, output.splitlines())) <= 80
    for experiment in everything():
        assert f"{experiment.number:02d} " in output


def test_what_is_stored_is_printed_and_drawn(tmp_path):
    measured = [each for each in everything() if Results(each, default_folder()).runs()]
    for experiment in measured:
        status, output, errors = bertcraft_command("results", experiment.slug, "--plots", tmp_path)
        assert (status, errors) == (0, ""), experiment.slug
        assert max(map(len, (line for line in output.splitlines() if str(tmp_path) not in line))) <= 80
        stored = {run["arm"] for run in Results(experiment, default_folder()).runs()}  # of those under way some are not there yet
        assert all(arm.title.split()[0] in output for arm in experiment.arms if arm.name in stored)
        assert "plot" in output and any(tmp_path.glob("*.png"))
