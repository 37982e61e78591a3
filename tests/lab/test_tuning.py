"""Settings are chosen by declared trials: as many for every arm, inside their grids, on seeds that are not reported."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bertcraft.errors import InputError
from bertcraft.lab import tuning
from bertcraft.lab.experiment import Check, Tuning
from bertcraft.lab.results import Results, environment
from bertcraft.lab.runner import run_all, run_arm

sys.path.insert(0, str(Path(__file__).parent))
import toy_experiment

TOY = toy_experiment.EXPERIMENT
RATES = toy_experiment.RATES


def store_trials(experiment, folder) -> Results:
    from bertcraft.lab.experiment import Context

    results = Results(experiment, folder)
    for trial in results.missing_trials():
        measured = run_arm(experiment, trial.arm, trial.seed, Context())
        results.add(trial.arm, trial.seed, measured, environment("toy"), trial.values)
    return results


def test_trials_are_stored_and_choose_the_settings_of_the_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    results = Results(TOY, tmp_path)
    assert results.settled("better") is None and results.settled("untrained").settings == {"effect": 1.0}
    assert run_all(results, command="toy", scratch=tmp_path) == 6 + 9
    assert [(each["arm"], each["values"], each["seed"]) for each in results.trials()] == [
        (arm, {"rate": rate}, 1000) for arm in ("better", "plain") for rate in (0.001, 0.01, 0.1)
    ]
    rates = {run["arm"]: run["settings"].get("rate") for run in results.runs()}
    assert rates == {"plain": 0.01, "better": 0.01, "untrained": None}
    assert not results.stale() and not results.missing()
    assert tuning.tried(TOY, "plain", results.trials())[1][1] == pytest.approx(results.trials()[4]["figures"]["loss"])


def test_a_best_value_at_an_end_of_its_grid_is_refused(tmp_path):
    low = {"rate": (1e-2, 1e-1, 1.0)}
    experiment = replace(TOY, tuning=replace(TOY.tuning, grids={"plain": low, "better": low}))
    results = store_trials(experiment, tmp_path)
    with pytest.raises(InputError, match=r"the best rate of plain is 0.01, an end of its grid .*widen it"):
        results.settled("plain")
    with pytest.raises(InputError, match="an end of its grid"):
        run_all(results, command="toy", scratch=tmp_path)
    assert results.runs() == []
    wider = {"rate": (1e-3, *low["rate"])}  # what is stored stays: only the new value is run
    experiment = replace(experiment, tuning=replace(TOY.tuning, grids={"plain": wider, "better": wider}))
    assert len(Results(experiment, tmp_path).missing_trials()) == 2
    assert store_trials(experiment, tmp_path).settled("plain").settings["rate"] == 1e-2


def test_an_arm_may_take_anothers_choice_and_has_no_trials_then(tmp_path):
    experiment = replace(TOY, tuning=Tuning({"plain": RATES}, {}, "loss", better=-1, like={"better": "plain"}))
    results = store_trials(experiment, tmp_path)
    assert len(results.trials()) == 3
    assert results.settled("better").settings == {"effect": -0.25, "rate": 0.01}


def test_a_run_uses_anothers_choice_and_its_trials_what_it_declares(tmp_path):
    """A student's teacher has the rate that the teacher's trials choose; the student is tried beside one of a fixed rate."""
    plain, better, *others = TOY.arms
    assert (plain.name, better.name) == ("plain", "better")
    declared = replace(better, settings=better.settings | {"beside": 0.5})
    uses = {"better": {"beside": ("plain", "rate")}, "untrained": {"beside": ("plain", "rate")}}
    experiment = replace(TOY, arms=(plain, declared, *others), tuning=replace(TOY.tuning, uses=uses))
    assert {trial.arm.settings.get("beside") for trial in tuning.trials(experiment)} == {None, 0.5}
    results = Results(experiment, tmp_path)
    for trial in results.missing_trials():
        loss = abs(trial.values["rate"] - (0.01 if trial.arm.name == "plain" else 0.012))
        assert results.settled("better") is None
        results.add(trial.arm, trial.seed, {"figures": {"loss": loss}, "seconds": 1, "peak_mb": 1}, {}, trial.values)
    assert results.settled("better").settings == {"effect": -0.25, "rate": 0.01, "beside": 0.01}
    assert results.settled("untrained").settings["beside"] == 0.01 and "beside" not in results.settled("plain").settings


def test_trials_run_with_the_settings_of_tuning_which_runs_do_not_have(tmp_path):
    experiment = replace(TOY, tuning=replace(TOY.tuning, settings={"judged_on": "dev"}))
    assert {trial.arm.settings["judged_on"] for trial in tuning.trials(experiment)} == {"dev"}
    assert "judged_on" not in store_trials(experiment, tmp_path).settled("plain").settings


def test_the_mean_over_seeds_of_tuning_chooses(tmp_path):
    experiment = replace(TOY, tuning=replace(TOY.tuning, seeds=(1000, 1001)))
    results = Results(experiment, tmp_path)
    for trial in tuning.trials(experiment):
        first, second = {0.001: (3.0, 3.0), 0.01: (2.0, 1.0), 0.1: (1.0, 9.0)}[trial.values["rate"]]
        loss = first if trial.seed == 1000 else second
        results.add(trial.arm, trial.seed, {"figures": {"loss": loss}, "seconds": 1, "peak_mb": 1}, {}, trial.values)
    assert results.settled("plain").settings["rate"] == 0.01  # 0.1 was best at the first seed


@pytest.mark.parametrize(
    ("bound", "taken"),
    [({"most": 0.5}, 0.001), ({"least": 0.9}, 0.1), ({"most": 0.0}, 0.01), ({"most": 0.0, "against": "untrained"}, 0.01)],
)
def test_values_that_fail_the_arms_own_check_are_not_taken_while_others_pass(tmp_path, bound, taken):
    """By loss 0.01 is best; a bound on what was learnt leaves another, or none, and a bound against an arm is not held here."""
    rates = {"rate": (1e-4, 1e-3, 1e-2, 1e-1, 1.0)}
    tuned = replace(TOY.tuning, grids={"plain": rates, "better": rates})
    experiment = replace(TOY, tuning=tuned, checks=(Check("has learnt", ("plain",), "learnt", **bound),))
    results = Results(experiment, tmp_path)
    for trial in tuning.trials(experiment):
        loss, learnt = {1e-4: (5, 0.1), 1e-3: (3, 0.2), 1e-2: (1, 0.7), 1e-1: (2, 0.9), 1.0: (4, 1.1)}[trial.values["rate"]]
        figures = {"loss": loss, "learnt": learnt}
        results.add(trial.arm, trial.seed, {"figures": figures, "seconds": 1, "peak_mb": 1}, {}, trial.values)
    assert results.settled("plain").settings["rate"] == taken
    assert results.settled("better").settings["rate"] == 0.01  # the check is not its own


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"grids": {"plain": RATES, "better": {"rate": (1e-3, 1e-2, 1e-1, 1.0)}}}, "every arm has as many trials"),
        ({"grids": {"plain": {"rate": (1e-3, 1e-2)}}}, "three values or more, rising"),
        ({"grids": {"plain": {"rate": (1e-1, 1e-2, 1e-3)}}}, "three values or more, rising"),
        ({"like": {"untrained": "nobody"}}, "nobody is tuned by no grid"),
        ({"uses": {"better": {"beside": ("nobody", "rate")}}}, "nobody is tuned by no grid"),
    ],
)
def test_unfair_tuning_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        replace(TOY.tuning, **changes)


def test_seeds_of_tuning_are_never_reported_ones():
    with pytest.raises(InputError, match="are reported ones"):
        replace(TOY, tuning=replace(TOY.tuning, seeds=(2,)))
    with pytest.raises(InputError, match="no arm of its"):
        replace(TOY, tuning=replace(TOY.tuning, grids={"nobody": RATES}))
