"""``bertcraft bench scaling``: what a training step takes on 1, 2 and 4 processes, beside what its parts predict.

Each process has one CPU to itself while there are enough, then shares it. Measured by themselves are the step of one process
alone on its share of the rows and, among n processes, the sum of a gradient: as many arrays of the same shapes as the model has
parameters, because each array is an exchange of its own. Predicted is the one, times the processes that share a CPU, and the
other.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import bertcraft
from bertcraft import machine
from bertcraft.bench.contest import MeasurementFailed, last_error

PROCESSES = (1, 2, 4)
TIMEOUT = 600
VOCABULARY = {"mask_id": 4, "vocab_size": 8192}


def run(objective: str, size: str, batch: int, length: int, steps: int, report: Callable[[str], None]) -> dict:
    """Measure, predict, and return what ``--json`` prints. Raises MeasurementFailed when a process fails."""
    settings = {"objective": objective, "size": size, "length": length, "steps": steps}
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = machine.load()
    entries = []
    for count in PROCESSES:
        report(f"{count} process{'es' * (count > 1)}")
        entry = {"processes": count, **_together(count, settings | {"batch": batch})}
        if count == 1:
            entry["alone"] = entry["step"]
        else:
            rows = -(-batch // count)
            report(f"one process on {rows} rows")
            entry["alone"] = _together(1, settings | {"batch": rows})["step"]
        entry["predicted"] = entry["alone"] * -(-count // cpus) + entry["all_reduce"]
        entries.append(entry)
    return {
        "benchmark": "scaling", "bertcraft": bertcraft.__version__, "machine": machine.description() | {"load_before": load},
        "versions": machine.versions(["jax", "numpy"]),
        "settings": settings | {"batch": batch}, "parameters": entries[0]["parameters"], "entries": entries,
    }  # fmt: skip


def _together(count: int, settings: dict) -> dict:
    """The slowest of ``count`` processes that train together."""
    port = free_port()
    environment = machine.child_environment() | {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    started = [
        subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(settings | {"rank": rank, "count": count, "port": port})],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    try:
        found = []
        for process in started:
            output, errors = process.communicate(timeout=TIMEOUT)
            if process.returncode:
                raise MeasurementFailed(last_error(errors))
            found.append(json.loads(output.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        raise MeasurementFailed(f"took more than {TIMEOUT} s") from None
    finally:
        for process in started:
            process.kill()
            process.wait()
    return {name: max(each[name] for each in found) for name in found[0]}


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _worker(objective: str, size: str, length: int, steps: int, batch: int, rank: int, count: int, port: int) -> dict:
    """Medians in seconds of a step and of adding up a gradient, in one of ``count`` processes."""
    if hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[rank % len(cpus)]})
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from bertcraft.pretrain import cluster
    from bertcraft.pretrain.objectives import objective as objective_of
    from bertcraft.pretrain.objectives import with_blank_rows
    from bertcraft.pretrain.xla import xla_engine
    from bertcraft.tensor import tree
    from bertcraft.train import adamw, chain, clip_by_global_norm

    if count > 1:
        cluster.join(f"127.0.0.1:{port}", count, rank)
    goal = objective_of(objective, size, VOCABULARY, length)
    rule = chain(clip_by_global_norm(1.0), adamw(1e-4))
    engine = xla_engine(goal.loss, rule, seed=0, weight=goal.weight, blank=with_blank_rows)
    params = goal.initial(0, np.float32)
    number = sum(leaf.size for leaf in tree.leaves(params))
    params, state = engine.place(params), engine.place(rule.init(params))
    rows = np.random.default_rng(0).integers(5, 8192, (batch, length)).astype(np.int32)
    given = goal.batch(rows, np.arange(batch), 0)

    def one(number: int) -> None:
        nonlocal params, state
        params, state, *_ = engine.advance(params, state, given, number)

    mesh = Mesh(np.array(jax.devices()), ("data",))
    own = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    parts = [
        jax.make_array_from_callback((count, *leaf.shape), own, lambda index, leaf=leaf: np.ones((1, *leaf.shape), np.float32))
        for leaf in tree.leaves(params)
    ]
    add = jax.jit(lambda arrays: [x.sum(axis=0) for x in arrays], out_shardings=whole)
    return {
        "step": _median(one, steps),
        "all_reduce": _median(lambda _: jax.block_until_ready(add(parts)), steps) if count > 1 else 0.0,
        "parameters": number,
    }


def _median(function: Callable[[int], None], times: int) -> float:
    function(0)  # compiles
    function(1)
    taken = []
    for i in range(times):
        start = time.perf_counter()
        function(2 + i)
        taken.append(time.perf_counter() - start)
    return median(taken)


if __name__ == "__main__":
    print(json.dumps(_worker(**json.loads(sys.argv[1]))))
