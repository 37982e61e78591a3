"""The figures in results/ come again: to the last digit where they were made, within a tolerance elsewhere.

Elsewhere means another processor, BLAS or version of a package: sums are then taken in another order, in float32.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from bertcraft.lab import fingerprint, report, show, statistics, verdicts, words
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import everything
from bertcraft.lab.results import Results, default_folder, environment
from bertcraft.lab.runner import replay_arm
from bertcraft.lab.tuning import combinations

STORED = [each for each in everything() if Results(each, default_folder()).runs()]
of_each = pytest.mark.parametrize("experiment", STORED, ids=lambda each: each.name)


def content_of(experiment) -> dict:
    """The file itself, read without the lab's help."""
    return json.loads((default_folder() / f"{experiment.name}.json").read_text(encoding="utf-8"))


def same_place(run: dict, stored: dict) -> bool:
    here = environment("")
    return run["kernels"] == fingerprint.kernels() and all(here[part] == stored[part] for part in ("cpu", "blas", "versions"))


@of_each
def test_the_cheapest_run_of_an_experiment_gives_its_stored_figures_again(experiment):
    results = Results(experiment, default_folder())
    stale = results.stale()
    fresh = [run for run in results.runs() if run not in stale and not experiment.arm(run["arm"]).trivial]
    assert fresh, f"all its runs are of older code: bertcraft run {experiment.number:02d} --full measures them again"
    run = show.to_replay(fresh)
    again = replay_arm(experiment, replace(experiment.arm(run["arm"]), settings=run["settings"]), run["seed"], Context())
    assert again and set(again) <= set(run["figures"])
    exact = same_place(run, results.read()["environments"][run["environment"]])
    for name, value in again.items():
        stored = run["figures"][name]
        if exact:
            assert value == stored, name
        else:
            np.testing.assert_allclose(np.array(value, float), np.array(stored, float), rtol=show.AGREES, err_msg=name)


@of_each
def test_stored_runs_are_paired_and_say_where_they_come_from(experiment):
    content = content_of(experiment)
    seeds = {arm.name: {run["seed"] for run in content["runs"] if run["arm"] == arm.name} for arm in experiment.arms}
    assert all(own == set(range(len(own))) for own in seeds.values())
    for run in [*content["trials"], *content["runs"]]:
        place = content["environments"][run["environment"]]
        assert place["cpu"] and place["commit"] and place["command"].startswith("bertcraft run ")
        assert run["seconds"] >= 0 and run["peak_mb"] > 0 and run["kernels"]


@of_each
def test_no_headline_stands_where_its_check_failed(experiment):
    """The checks are held here by the file's own figures, not by the code that prints the verdict."""
    runs = content_of(experiment)["runs"]
    figures = {(run["arm"], run["seed"]): run["figures"] for run in runs}
    primary, failed = experiment.primary, []
    for check in experiment.checks:
        for arm in {primary.treatment, primary.baseline} & set(check.arms):
            if check.metrics and primary.metric not in check.metrics:
                continue
            worst = min if check.least is not None else max
            values = [
                worst(point[check.figure] for point in (own[check.along] if check.along else [own]))
                - (figures[check.against, seed][check.figure] if check.against else 0.0)
                for (name, seed), own in figures.items()
                if name == arm and (check.against is None or (check.against, seed) in figures)
            ]
            assert values, f"{check.name} guards the claim, and nothing is stored that it could look at"
            value = sum(values) / len(values)
            least, most = (-np.inf if check.least is None else check.least), (np.inf if check.most is None else check.most)
            failed += [] if least <= value <= most else [check.name]
    outcome = verdicts.primary(experiment, runs)
    if outcome is None:
        assert words.headline(experiment, runs) == words.NOT_YET
        return
    assert (outcome.verdict == statistics.NOT_TESTABLE) == bool(failed)
    assert (statistics.NOT_TESTABLE in words.headline(experiment, runs)) == bool(failed)


@of_each
def test_settings_were_chosen_inside_their_grids_on_development_texts(experiment):
    content, tuning = content_of(experiment), experiment.tuning
    if tuning is None:
        assert content["trials"] == []
        return
    assert tuning.settings, "a trial that runs like a reported run is judged on what is reported"
    assert not {trial["seed"] for trial in content["trials"]} & {run["seed"] for run in content["runs"]}
    counts = set()
    for arm, grid in tuning.grids.items():
        tried = combinations(experiment, arm)  # a grid may have been moved: older trials stay in the file
        own = [trial for trial in content["trials"] if trial["arm"] == arm and trial["values"] in tried]
        counts.add(len(own))
        for trial in own:
            assert all(trial["settings"][name] == value for name, value in tuning.settings.items())
        for name, values in grid.items():
            taken = {run["settings"][name] for run in content["runs"] if run["arm"] == arm}
            assert taken <= set(values[1:-1]), f"{arm}: {name} at an end of its grid"
    assert len(counts) == 1


@of_each
def test_what_is_stored_fits_a_terminal_whole(experiment, tmp_path):
    runs = Results(experiment, default_folder()).runs()
    console = Console(width=80, record=True, file=open(tmp_path / "printed", "w"))
    report.print_experiment(console, experiment, runs)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    told = set(text.replace(",", " ").split())
    for name, metric in experiment.metrics.items():
        if any(name in run["figures"] for run in runs):
            assert set(metric.title.replace(",", " ").split()) <= told
    assert {"a", "run"} <= told
