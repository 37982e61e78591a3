"""A run that is killed with SIGKILL again and again ends with the bits of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

KILLS, KILLS_WHILE_SAVING, MOST = 20, 3, 60


def start(script, folder, result, save_every_seconds):
    command = [sys.executable, Path(__file__).with_name(script), folder, result, str(save_every_seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process):
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
@pytest.mark.parametrize("script", ["small_run.py", "bert_run.py"])
def test_a_killed_run_ends_with_the_bits_of_one_left_alone(script, tmp_path):
    finish(start(script, tmp_path / "alone", tmp_path / "alone.npz", 3600))

    rng = random.Random(11)
    folder, result = tmp_path / "killed", tmp_path / "killed.npz"
    kills = while_saving = 0
    first = []
    while kills < KILLS or while_saving < KILLS_WHILE_SAVING:
        assert kills < MOST, f"only {while_saving} of {kills} kills hit a save"
        process = start(script, folder, result, 0)  # saves after every step
        if kills % 4 == 3:  # any moment from the start of Python on
            time.sleep(rng.uniform(0, 0.5))
        else:  # close to the end of a step
            first.append(int(process.stdout.readline()))
            for _ in range(rng.randrange(6)):
                process.stdout.readline()
            time.sleep(rng.uniform(0, 0.004))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        kills += 1
        while_saving += any(folder.glob("saving-*"))
    finish(start(script, folder, result, 0))

    assert first == sorted(first) and first[-1] > first[0]  # each went on from where another had come to
    alone, killed = np.load(tmp_path / "alone.npz"), np.load(result)
    assert alone.files == killed.files
    for name in alone.files:
        assert alone[name].tobytes() == killed[name].tobytes(), name
    assert not list(folder.glob("saving-*"))
