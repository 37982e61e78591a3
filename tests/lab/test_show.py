"""The lab in a terminal of 80 columns: whole runs, the ledger, what is stale. Text is compared without its line breaks."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bertcraft.errors import InputError
from bertcraft.lab import show
from bertcraft.lab.experiment import Context
from bertcraft.lab.results import Results

sys.path.insert(0, str(Path(__file__).parent))
import toy_experiment

TOY = toy_experiment.EXPERIMENT


@pytest.fixture(autouse=True)
def terminal(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # for the worker processes
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def printed(capsys):
    def read() -> str:
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines()), default=0) <= 80, text
        return " ".join(text.split())

    return read


def full(folder, **options):
    show.run_full(TOY, **{"command": "toy", "seeds": None, "jobs": 1, "scheduler": None, "folder": folder, **options})


def test_a_full_run_tells_what_it_does_and_ends_with_the_comparison(tmp_path, printed):
    full(tmp_path, seeds=2)
    text = printed()
    assert "6 trials, then 6 runs, 0 of them stored" in text
    assert "better 0.001 seed 1000:" in text
    assert "0 runs left" in text
    # exp(x / 10) - 0.25 against exp(x / 10): the paired difference has next to no spread, and so no interval
    assert "better against plain -0.250 nats < 0 2 being measured" in text
    assert "check better: has learnt: -1.25 nats (at most -0.50): passed" in text
    full(tmp_path)
    text = printed()
    assert "9 runs, 6 of them stored" in text and "better against plain -0.250 nats < 0 3 reproduced" in text
    assert len(Results(TOY, tmp_path).runs()) == 9


def test_a_model_that_has_not_learnt_is_refused_in_table_and_ledger(tmp_path, printed):
    untrained = replace(TOY.arm("untrained"), settings={"effect": -0.1})  # no better than the models
    idle = replace(TOY, arms=(TOY.arm("plain"), TOY.arm("better"), untrained), tuning=None)
    results = Results(idle, tmp_path)
    for arm, seed in results.missing():
        results.add(arm, seed, {"figures": idle.run(arm, seed, Context()), "seconds": 1.0, "peak_mb": 1}, {})
    show.results_of(idle, None, tmp_path)
    text = printed()
    assert "check plain: has learnt: +0.10 nats (at most -0.50): failed" in text
    assert "not testable here" in text and "reproduced" not in text
    show.ledger([idle], tmp_path)
    assert "not testable here (plain, has learnt: +0.10 nats (at most -0.50))" in printed()


def test_the_ledger_shows_what_is_measured_and_what_is_not(tmp_path, printed):
    show.ledger([TOY], tmp_path)
    assert "not measured yet" in printed()
    full(tmp_path)
    printed()
    show.ledger([TOY], tmp_path)
    text = printed()
    assert "not measured yet" not in text
    assert "reproduced (3 seeds, 9 runs" in text and "-0.250" in text and TOY.scale in text
    assert TOY.claim.collection in text and TOY.claim.paper in text


def test_stale_and_missing_runs_are_named(tmp_path, printed):
    assert not show.check([TOY], tmp_path), "what was never measured is not out of date"
    assert "not measured yet" in printed()
    arm = TOY.arm("untrained")
    Results(TOY, tmp_path).add(arm, 0, {"figures": TOY.run(arm, 0, Context()), "seconds": 1.0, "peak_mb": 1}, {})
    assert show.check([TOY], tmp_path)
    assert "6 trials missing; 8 runs missing: bertcraft run 01 --full" in printed()
    full(tmp_path)
    printed()
    assert not show.check([TOY], tmp_path)
    assert "up to date" in printed()
    worse = replace(TOY.arm("untrained"), settings={"effect": 2.0})
    changed = replace(TOY, arms=(TOY.arm("plain"), TOY.arm("better"), worse))
    assert show.check([changed], tmp_path)
    assert "code or settings changed: 3 of 9 runs stale" in printed()
    show.results_of(changed, None, tmp_path)
    assert "stale: the code of 3 of 9 runs has changed since" in printed()


def test_changed_kernels_are_told_from_changed_code_by_a_replay(tmp_path, printed, monkeypatch):
    full(tmp_path)
    printed()
    monkeypatch.setattr("bertcraft.lab.fingerprint.kernels", lambda: "other")
    assert not show.check([TOY], tmp_path)
    assert "kernels changed since 9 of 9 runs, a replay of" in (text := printed()) and "agrees within 0e+00" in text
    off = replace(TOY, replay=lambda arm, seed, context: {"loss": 1.01 * TOY.run(arm, seed, context)["loss"]})
    assert show.check([off], tmp_path)
    assert "differs by 1e-02: bertcraft run 01 --full" in printed()


def test_the_cheapest_run_that_trained_is_replayed_and_not_a_cheaper_count():
    counted = {"seconds": 0.0, "figures": {"mb": 1.0}}
    dear, cheap = ({"seconds": seconds, "figures": {"first_losses": [7.0]}} for seconds in (9.0, 2.0))
    assert show.to_replay([counted, dear, cheap]) is cheap
    assert show.to_replay([counted]) is counted


def test_a_best_setting_at_an_end_of_its_grid_is_said(tmp_path, printed):
    low = {"rate": (1e-2, 1e-1, 1.0)}
    narrow = replace(TOY, tuning=replace(TOY.tuning, grids={"plain": low, "better": low}))
    results = Results(narrow, tmp_path)
    for trial in results.missing_trials():
        figures = narrow.run(trial.arm, trial.seed, Context())
        results.add(trial.arm, trial.seed, {"figures": figures, "seconds": 1.0, "peak_mb": 1}, {}, trial.values)
    assert show.check([narrow], tmp_path)
    assert "the best rate of plain is 0.01, an end of its grid" in printed()


def test_nothing_stored_is_said_with_the_command_that_measures_it(tmp_path, printed):
    show.results_of(TOY, tmp_path / "plots", tmp_path)
    text = printed()
    assert "not measured yet" in text and TOY.claim.paper in text and "bertcraft run 01 --full measures it" in text


def test_one_seed_is_called_one_seed_and_leaves_its_figures(tmp_path, printed):
    short = replace(TOY, quick=replace(TOY, seeds=1, minutes=1))
    show.run_one(short, seed=4, out=tmp_path / "out", threads=1)
    text = printed()
    assert "One seed (4)" in text and "no evidence for either" in text
    written = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [run["arm"] for run in written["runs"]] == ["plain", "better", "untrained"]
    with pytest.raises(InputError, match="leave out --quick"):
        show.run_one(short, quick=True, out=tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="choose another folder with --out"):
        show.run_one(short, out=tmp_path / "file")
