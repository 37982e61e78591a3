"""Same seed, same bits: a whole training run in processes of their own, with 1, 2 and 4 threads."""

import subprocess
import sys
from pathlib import Path

import numpy as np


def test_runs_have_the_same_bits_for_1_2_and_4_threads(tmp_path):
    script = Path(__file__).with_name("bert_run.py")
    results = []
    for name, threads in (("a", "1"), ("b", "2"), ("c", "4"), ("again", "2")):
        command = [sys.executable, script, tmp_path / name, tmp_path / f"{name}.npz", "3600", threads]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        results.append(np.load(tmp_path / f"{name}.npz"))
    assert results[0]["losses"][-20:].mean() < results[0]["losses"][:20].mean(), "it learns something"
    for other in results[1:]:
        for key in results[0].files:
            assert other[key].tobytes() == results[0][key].tobytes(), key
