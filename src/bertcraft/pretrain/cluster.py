"""Several processes that train one model: how they find each other, and how they make sure that they mean the same."""

import atexit
import json
import os
import platform
import re
import sys

import numpy as np

from bertcraft.errors import InputError, TrainingError

PATIENCE = 40  # seconds without a sign of life after which a process is taken for dead


def join(coordinator: str, processes: int, rank: int) -> None:
    """Meet the other processes at ``coordinator``, HOST:PORT of rank 0; to be called before JAX is used for anything else.

    Raises InputError for numbers or addresses that cannot be meant, TrainingError when the others do not come within five
    minutes.
    """
    if not re.fullmatch(r"[^:\s]+:\d{1,5}", coordinator):
        raise InputError(f"coordinator: got {coordinator!r}, expected HOST:PORT of rank 0")
    if processes < 1 or not 0 <= rank < processes:
        raise InputError(f"got rank {rank} of {processes} processes: expected ranks 0 to {max(processes, 1) - 1}")
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would catch SIGTERM and go on
    try:
        jax.distributed.initialize(coordinator, processes, rank, heartbeat_timeout_seconds=PATIENCE)
    except Exception as error:  # of several kinds, all of them from the depths
        raise TrainingError(
            f"rank {rank} did not meet the other {processes - 1} processes at {coordinator}: {_first_line(error)}. "
            "Start the same command on every machine, with ranks 0 to "
            f"{processes - 1}, and see that they reach that port of rank 0's"
        ) from None
    agree({"processes": processes})


def abandon(status: int) -> None:
    """Let this process end with a status when it ends, without waiting for the others, which its end stops."""

    def end():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(end)  # called before JAX's own, which waits for all


def agree(described: dict) -> None:
    """Raise TrainingError, with both values, where a process differs from rank 0 in what it is about to do or its versions."""
    import jax

    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    import bertcraft

    versions = {"bertcraft": bertcraft.__version__, "jax": jax.__version__, "numpy": np.__version__}
    text = json.dumps({**described, **versions, "python": platform.python_version()}, sort_keys=True, default=str).encode()
    lengths = multihost_utils.process_allgather(np.array(len(text)))
    padded = np.frombuffer(text.ljust(int(lengths.max())), np.uint8)
    everyone = [json.loads(row.tobytes()) for row in np.asarray(multihost_utils.process_allgather(padded))]
    for rank, other in enumerate(everyone):
        differing = [
            f"{name}: {everyone[0].get(name)!r} on rank 0, {other.get(name)!r} on rank {rank}"
            for name in {**everyone[0], **other}
            if everyone[0].get(name) != other.get(name)
        ]
        if differing:
            raise TrainingError(f"the processes were not started alike: {'; '.join(differing)}")


def lost(error: Exception) -> TrainingError | None:
    """What to say where an error means that another process is gone; None where it means something else."""
    text = str(error)
    if any(sign in text for sign in ("Gloo", "gloo", "heartbeat", "coordination", "Connection closed", "Connection reset")):
        return TrainingError(
            f"another process of this run is gone ({_first_line(error)}). "
            "Start the same command on all ranks: it goes on from the last saved state"
        )
    return None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
