"""Several processes over gloo: their gradients are those of one process, to rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bertcraft.bench.scaling import free_port

pytest.importorskip("jax")
HERE = Path(__file__).parent


def gradients(folder, ranks: int, name: str, dtype: str, sharded: bool = False) -> dict[str, np.ndarray]:
    address = f"127.0.0.1:{free_port()}"
    out = folder / f"{ranks}.npz"
    given = [[name, dtype, sharded, address, ranks, rank, str(out)] for rank in range(ranks)]
    started = [
        subprocess.Popen(
            [sys.executable, HERE / "gradients_of_processes.py", json.dumps(each)],
            stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(HERE)},
        )
        for each in given
    ]  # fmt: skip
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-2000:]
    with np.load(out) as found:
        return dict(found)


@pytest.mark.parametrize(
    ("name", "dtype", "sharded"),
    [("masked_lm", "float32", False), ("electra", "float32", False), ("masked_lm", "float64", True)],
)
def test_two_and_four_processes_give_the_gradients_of_one(tmp_path, name, dtype, sharded):
    """Ten rows, which divide over neither four processes nor the shares of two evenly in tokens."""
    tolerance = 1e-6 if dtype == "float32" else 1e-13
    alone = gradients(tmp_path, 1, name, dtype)
    assert {str(leaf.dtype) for path, leaf in alone.items() if path != "loss"} == {dtype}
    assert len(alone) > 20 and max(np.abs(leaf).max() for leaf in alone.values()) > 1e-2
    for ranks in (2, 4):
        together = gradients(tmp_path, ranks, name, dtype, sharded)
        assert set(together) == set(alone)
        for path, leaf in alone.items():
            assert leaf.dtype == together[path].dtype
            np.testing.assert_allclose(together[path], leaf, rtol=tolerance, atol=tolerance, err_msg=path)
