"""Whole experiments in real processes: none lost, none run twice, whatever is killed when."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bertcraft.errors import DataError, InputError
from bertcraft.lab.experiment import Arm, Comparison, Context
from bertcraft.lab.results import Results, environment
from bertcraft.lab.runner import run_arm

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import toy_experiment  # noqa: E402

TOY = toy_experiment.EXPERIMENT
PATHS = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])  # where worker processes find the toy
ALL = {(arm.name, seed) for arm in TOY.arms for seed in range(TOY.seeds_of(arm))}
TRIALS = [(arm, seed) for arm in TOY.tuning.grids for seed in TOY.tuning.seeds for _ in range(3)]
EVERYTHING = len(ALL) + len(TRIALS)


def start(tmp_path, jobs=2, seconds=0.0, scheduler=()):
    env = os.environ | {
        "PYTHONPATH": PATHS, "TOY_SECONDS": str(seconds), "TOY_LOG": str(tmp_path / "log"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, str(HERE / "full_toy.py"), str(tmp_path / "results"), str(tmp_path / "scratch"), str(jobs)]
    return subprocess.Popen([*command, *scheduler], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, expected: int | None = None):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    if expected is not None:
        assert int(output) == expected


def log(tmp_path) -> list[tuple[str, int]]:
    path = tmp_path / "log"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split()[0], int(line.split()[1])) for line in lines]


def log_of_trials(tmp_path, since: int) -> set[tuple[str, float]]:
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()[since:]]
    return {(arm, float(rate)) for arm, seed, rate in lines if int(seed) in TOY.tuning.seeds}


def stored(tmp_path) -> dict[tuple[str, int], dict]:
    return {(run["arm"], run["seed"]): run for run in Results(TOY, tmp_path / "results").runs()}


def tried(tmp_path) -> set[tuple[str, float]]:
    return {(trial["arm"], trial["values"]["rate"]) for trial in Results(TOY, tmp_path / "results").trials()}


def without_time(tmp_path) -> dict:
    content = json.loads((tmp_path / "results" / f"{TOY.name}.json").read_text())
    for run in [*content["trials"], *content["runs"]]:
        del run["seconds"], run["peak_mb"]
    return content


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_run_is_done_once_and_a_second_call_has_nothing_to_do(tmp_path, jobs):
    finish(start(tmp_path, jobs), EVERYTHING)
    assert set(stored(tmp_path)) == ALL
    assert sorted(log(tmp_path)) == sorted([*ALL, *TRIALS])
    before = without_time(tmp_path)
    finish(start(tmp_path, jobs), 0)
    assert without_time(tmp_path) == before
    assert not any((tmp_path / "scratch").rglob("*_seed*"))


def test_killed_at_ten_moments_no_finished_run_is_lost_or_run_twice(tmp_path):
    dice = random.Random(0)
    promised: list[tuple[set, set, int]] = []  # what was stored when it was killed, and how long the log was then
    for _ in range(10):
        process = start(tmp_path, seconds=0.5)
        time.sleep(dice.uniform(0.8, 2.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(0.7)  # its workers notice and end
        promised.append((set(stored(tmp_path)), tried(tmp_path), len(log(tmp_path))))
    counts = [len(runs) + len(trials) for runs, trials, _ in promised]
    assert counts == sorted(counts)
    finish(start(tmp_path))
    assert set(stored(tmp_path)) == ALL
    for runs, trials, length in promised:
        after = log(tmp_path)[length:]
        assert not runs & set(after)
        assert not trials & log_of_trials(tmp_path, length)
    left_alone = tmp_path / "left_alone"
    left_alone.mkdir()
    finish(start(left_alone), EVERYTHING)
    assert without_time(tmp_path) == without_time(left_alone)


def test_a_second_process_that_runs_the_same_is_refused_and_the_first_goes_on(tmp_path):
    first = start(tmp_path, seconds=1.0)
    deadline = time.monotonic() + 60
    while not log(tmp_path) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    second = start(tmp_path)
    _, errors = second.communicate(timeout=60)
    assert second.returncode != 0
    assert "is being run by another process, which keeps its states in" in errors.splitlines()[-1]
    finish(first, EVERYTHING)
    assert set(stored(tmp_path)) == ALL and len(log(tmp_path)) == EVERYTHING


def test_workers_end_when_the_one_that_started_them_is_killed(tmp_path):
    process = start(tmp_path, seconds=60)
    deadline = time.monotonic() + 30
    while not list((tmp_path / "scratch").rglob("*_seed*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    mine = [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _parent(pid) == process.pid]
    assert mine
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 10
    while any(map(_runs, mine)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_runs, mine))


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["gone", "0"]


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _runs(pid: int) -> bool:
    return _stat(pid)[0] not in ("gone", "Z", "X")


def test_a_dask_cluster_gives_the_same_results(tmp_path):
    distributed = pytest.importorskip("distributed")
    previous = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = PATHS  # of the workers
    try:
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as cluster:
            finish(start(tmp_path, scheduler=[cluster.scheduler_address]), EVERYTHING)
    finally:
        os.environ.pop("PYTHONPATH") if previous is None else os.environ.update(PYTHONPATH=previous)
    here = tmp_path / "here"
    here.mkdir()
    finish(start(here), EVERYTHING)
    assert without_time(tmp_path)["runs"] == without_time(here)["runs"]


def test_a_scheduler_that_does_not_answer_is_said(tmp_path):
    pytest.importorskip("distributed")
    process = start(tmp_path, scheduler=["tcp://127.0.0.1:9"])
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and "no Dask scheduler answers at tcp://127.0.0.1:9" in errors


UNTUNED = replace(TOY, tuning=None)


def test_a_changed_setting_or_changed_code_makes_a_run_stale(tmp_path, monkeypatch):
    results = Results(UNTUNED, tmp_path)
    arm = TOY.arms[0]
    results.add(arm, 0, run_arm(UNTUNED, arm, 0, Context()), {"command": "toy"})
    assert not results.stale()
    assert (arm, 0) not in results.missing()
    changed = Arm(arm.name, "plain", {"effect": 0.5})
    other = Results(replace(UNTUNED, arms=(changed, *TOY.arms[1:])), tmp_path)
    assert len(other.stale()) == 1 and (changed, 0) in other.missing()
    retitled = Arm(arm.name, "another title", arm.settings)
    assert not Results(replace(UNTUNED, arms=(retitled, *TOY.arms[1:])), tmp_path).stale()
    monkeypatch.setattr("bertcraft.lab.fingerprint.of", lambda experiment: "other")
    assert len(results.stale()) == 1


def test_the_arms_of_the_primary_comparison_come_first_and_have_more_seeds(tmp_path):
    more = replace(UNTUNED, arms=(Arm("control", "control", {"effect": 0.0}), *TOY.arms), primary_seeds=4)
    order = [(arm.name, seed) for arm, seed in Results(more, tmp_path).missing()]
    assert order[:3] == [("plain", 0), ("better", 0), ("untrained", 0)] and order[11] == ("untrained", 3)
    assert order[12:] == [("control", 0), ("control", 1)]
    fewer = [(arm.name, seed) for arm, seed in Results(more, tmp_path).missing(1)]
    assert fewer == [("control", 0), ("plain", 0), ("better", 0), ("untrained", 0)]


def test_a_run_of_the_same_seed_takes_the_place_of_the_stale_one(tmp_path):
    results, arm = Results(TOY, tmp_path), TOY.arms[0]
    for note in ("first", "second"):
        results.add(arm, 0, {"figures": {"loss": 1.0, "note": note}, "seconds": 1.0, "peak_mb": 1}, {"command": note})
    (run,) = results.runs()
    assert run["figures"]["note"] == "second" and run["environment"] == 1


@pytest.mark.parametrize(("content", "said"), [("{", "is not JSON"), ("[]", "is not a file of results"), ("{}", "is not a")])
def test_a_damaged_file_is_said_and_left_alone(tmp_path, content, said):
    path = tmp_path / f"{TOY.name}.json"
    path.write_text(content)
    with pytest.raises(DataError, match=said):
        Results(TOY, tmp_path).add(TOY.arms[0], 0, {"figures": {}, "seconds": 0, "peak_mb": 0}, {})
    assert path.read_text() == content


def test_figures_without_a_declared_metric_are_refused():
    wrong = replace(TOY, run=lambda arm, seed, context: {"los": 1.0})
    with pytest.raises(InputError, match="none of the metrics"):
        run_arm(wrong, TOY.arms[0], 0, Context())
    with pytest.raises(ValueError, match="JSON"):
        run_arm(replace(TOY, run=lambda *_: {"loss": float("nan")}), TOY.arms[0], 0, Context())


def test_a_declaration_that_contradicts_itself_is_refused():
    with pytest.raises(InputError, match="unknown arm or metric"):
        replace(TOY, comparisons=(Comparison("x", "none", "plain", "loss"),))
    with pytest.raises(InputError, match="two arms have one name"):
        replace(TOY, arms=(TOY.arms[0], TOY.arms[0]))


def test_the_environment_names_versions_cpu_and_command():
    found = environment("bertcraft run 01 --full")
    assert found["versions"]["numpy"] and found["cpu"] and found["command"] == "bertcraft run 01 --full"
