"""The lab in a terminal of 80 columns: whole runs, the ledger, what is stale. Text is compared without its line breaks."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bertcraft.errors import InputError
from bertcraft.lab import show
from bertcraft.lab.results import Results

sys.path.insert(0, str(Path(__file__).parent))
import toy_experiment

TOY = toy_experiment.EXPERIMENT


@pytest.fixture(autouse=True)
def terminal(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for the worker processes
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
    assert "4 runs, 0 of them stored" in text
    assert "0 runs left" in text
    # exp(x / 10) - 0.25 against exp(x / 10): the paired difference has no spread
    assert text.count("-0.250") >= 3 and "reproduced" in text
    full(tmp_path)
    assert "6 runs, 4 of them stored" in printed()
    assert len(Results(TOY, tmp_path).runs()) == 6


def test_the_ledger_shows_what_is_measured_and_what_is_not(tmp_path, printed):
    show.ledger([TOY], tmp_path)
    assert "not yet" in printed()
    full(tmp_path)
    printed()
    show.ledger([TOY], tmp_path)
    text = printed()
    assert "not yet" not in text
    assert "reproduced" in text and "-0.250" in text
    assert TOY.claim.collection in text and TOY.claim.paper in text


def test_stale_and_missing_runs_are_named(tmp_path, printed):
    assert show.check([TOY], tmp_path)
    assert "6 runs missing: bertcraft run 01 --full" in printed()
    full(tmp_path)
    printed()
    assert not show.check([TOY], tmp_path)
    assert "up to date" in printed()
    better = replace(TOY.arm("better"), settings={"effect": -0.5})
    changed = replace(TOY, arms=(TOY.arm("plain"), better))
    assert show.check([changed], tmp_path)
    assert "3 of 6 runs stale" in printed()
    show.results_of(changed, None, tmp_path)
    assert "stale: the code of 3 of 6 runs has changed since" in printed()


def test_nothing_stored_is_said_with_the_command_that_measures_it(tmp_path):
    with pytest.raises(InputError, match="bertcraft run 01 --full measures it"):
        show.results_of(TOY, None, tmp_path)


def test_one_seed_is_called_one_seed_and_leaves_its_figures(tmp_path, printed):
    short = replace(TOY, quick=replace(TOY, seeds=1, minutes=1))
    show.run_one(short, seed=4, out=tmp_path / "out", threads=1)
    text = printed()
    assert "One seed (4)" in text and "no evidence for either" in text
    written = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [run["arm"] for run in written["runs"]] == ["plain", "better"]
    with pytest.raises(InputError, match="leave out --quick"):
        show.run_one(short, quick=True, out=tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="choose another folder with --out"):
        show.run_one(short, out=tmp_path / "file")
