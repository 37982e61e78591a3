"""The figures in results/ come again: to the last digit where they were made, within a tolerance elsewhere.

Elsewhere means another processor, BLAS or version of a package: sums are then taken in another order, in float32.
"""

import numpy as np
import pytest
from rich.console import Console

from bertcraft.lab import report
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import everything
from bertcraft.lab.results import Results, default_folder, environment
from bertcraft.lab.runner import replay_arm

TOLERANCE = 2e-3  # relative, of the figures that a replay gives: losses of first steps, mostly
STORED = [each for each in everything() if Results(each, default_folder()).runs()]


def same_place(stored: dict) -> bool:
    here = environment("")
    return all(here[part] == stored[part] for part in ("cpu", "blas", "versions"))


@pytest.mark.parametrize("experiment", STORED, ids=lambda each: each.name)
def test_the_cheapest_run_of_an_experiment_gives_its_stored_figures_again(experiment):
    results = Results(experiment, default_folder())
    fresh = [run for run in results.runs() if not results.is_stale(run)]
    if not fresh:
        pytest.skip(f"all its runs are of older code: bertcraft run {experiment.number:02d} --full measures them again")
    run = min(fresh, key=lambda run: run["seconds"])
    again = replay_arm(experiment, experiment.arm(run["arm"]), run["seed"], Context())
    assert again and set(again) <= set(run["figures"])
    exact = same_place(results.read()["environments"][run["environment"]])
    for name, value in again.items():
        stored = run["figures"][name]
        if exact:
            assert value == stored, name
        else:
            np.testing.assert_allclose(np.array(value, float), np.array(stored, float), rtol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("experiment", STORED, ids=lambda each: each.name)
def test_stored_runs_are_paired_and_say_where_they_come_from(experiment):
    content = Results(experiment, default_folder()).read()
    runs = content["runs"]
    seeds = {arm.name: {run["seed"] for run in runs if run["arm"] == arm.name} for arm in experiment.arms}
    assert all(own == set(range(len(own))) for own in seeds.values())
    for run in runs:
        place = content["environments"][run["environment"]]
        assert place["cpu"] and place["commit"] and place["command"].startswith("bertcraft run ")
        assert run["seconds"] > 0 and run["peak_mb"] > 0


@pytest.mark.parametrize("experiment", STORED, ids=lambda each: each.name)
def test_what_is_stored_fits_a_terminal_whole(experiment, tmp_path):
    runs = Results(experiment, default_folder()).runs()
    console = Console(width=80, record=True, file=open(tmp_path / "printed", "w"))
    report.print_experiment(console, experiment, runs)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    words = set(text.replace(",", " ").split())
    for metric in experiment.metrics.values():
        assert set(metric.title.replace(",", " ").split()) <= words
    assert {"a", "run"} <= words
