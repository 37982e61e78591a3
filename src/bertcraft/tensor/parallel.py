"""A batch in cache-sized shards over threads: how the library is fast.

The batch is cut into shards of a fixed number of rows. Each shard's whole forward and backward pass runs on one thread,
with BLAS on one thread, so that its intermediate results stay in that core's cache. The gradients are added in the order
of the shards: the sum, and so every bit of it, does not depend on the number of threads. This is gradient accumulation
and data parallelism in one mechanism.
"""

import functools
import itertools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from bertcraft.tensor import tree
from bertcraft.tensor.gradient import check_loss, value_and_grad


@functools.cache
def pool(threads: int) -> ThreadPoolExecutor:
    """The process's pool of that many worker threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix="bertcraft")


def cpu_count() -> int:
    """How many CPUs this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this operating system
        return os.cpu_count() or 1


@functools.cache
def _controller():
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def one_blas_thread():
    """A context in which BLAS uses one thread: the shards already occupy every core."""
    return _controller().limit(limits=1, user_api="blas")


def shard_rng(seed: int, step: int, shard: int) -> np.random.Generator:
    """The random numbers of one shard of one step: the same whichever thread runs it."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence((seed, step, shard))))


def sharded_value_and_grad(
    loss: Callable,
    *,
    shard_size: int,
    weight: Callable[[Any], float] | None = None,
    prepare: Callable[[Any], Any] | None = None,
    threads: int | None = None,
    seed: int | None = None,
) -> Callable[[Any, Any, int], tuple[float, Any]]:
    """A function ``(params, batch, step, scale=None) -> (value, gradients)`` of a whole batch, computed in shards.

    loss: ``loss(params, batch, rng) -> scalar``. batch: a tree of arrays with one first axis, which is cut every
    ``shard_size`` rows. weight: what a shard counts for, for instance its number of predicted tokens where the loss is
    their mean, so that the weighted sum is the mean over the whole batch; without it the losses of the shards are summed.
    prepare: applied to each shard before its loss, for instance to cut padding. threads: by default one a CPU.
    seed: of the generators given to the loss; None gives it ``rng=None`` (no dropout). scale: the gradients are those of the
    loss times it, as loss scaling needs them, and overflow without a warning; the value is not scaled.

    Raises ValueError for an empty batch or rows that differ between its arrays.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, got {shard_size}")
    threads = threads or cpu_count()

    def shard_value_and_grad(params, shard, share, rng, quiet):
        def part(params, shard, rng):
            value = loss(params, shard, rng)
            check_loss(value)  # before a share makes a float of a count
            return value * share

        with np.errstate(**({"over": "ignore", "invalid": "ignore"} if quiet else {})):  # of this thread
            return value_and_grad(part)(params, prepare(shard) if prepare else shard, rng)

    def whole(params, batch, step: int = 0, scale: float | None = None):
        rows = {len(leaf) for leaf in tree.leaves(batch)}
        if len(rows) != 1 or not (count := rows.pop()):
            raise ValueError(f"a batch needs at least one row, the same number in each array; got {sorted(rows) or 0}")
        shards = [tree.map(lambda leaf, s=start: leaf[s : s + shard_size], batch) for start in range(0, count, shard_size)]
        total_weight = weight(batch) if weight else 1
        jobs = []
        for i, shard in enumerate(shards):
            share = float(weight(shard)) / max(float(total_weight), 1e-30) if weight else 1.0
            rng = None if seed is None else shard_rng(seed, step, i)
            jobs.append((params, shard, share * (scale or 1.0), rng, scale is not None))
        with one_blas_thread():
            if threads == 1 or len(jobs) == 1:
                results = (shard_value_and_grad(*job) for job in jobs)
            else:
                futures = [pool(threads).submit(shard_value_and_grad, *job) for job in jobs]
                results = (future.result() for future in futures)
            value, first = next(results)
            values, gradients = [float(value)], tree.map(lambda leaf: np.asarray(leaf, order="C"), first)
            for value, part in itertools.islice(results, max(len(jobs) - 1 - threads, 0)):
                values.append(float(value))
                _add(gradients, [part], 1)
            rest = list(results)  # no more work to overlap with: the last sums are shared out
            _add(gradients, [part for _, part in rest], threads)
        return _sum([*values, *(float(value) for value, _ in rest)]) / (scale or 1.0), gradients

    return whole


def _sum(values: list[float]) -> float:
    """The exact sum, rounded once; nan where one overflowed."""
    return math.fsum(values) if all(map(math.isfinite, values)) else math.nan


def _add(totals: Any, parts: list, threads: int) -> None:
    """Add trees to one, in their order; of several threads each sees to its share of every array."""
    columns = [leaf.reshape(-1) for leaf in tree.leaves(totals)]
    addends = [[leaf.reshape(-1) for leaf in tree.leaves(part)] for part in parts]

    def add(thread: int) -> None:
        for total, *others in zip(columns, *addends, strict=True):
            share = slice(len(total) * thread // threads, len(total) * (thread + 1) // threads)
            for other in others:
                total[share] += other[share]

    if threads == 1:
        add(0)
    else:
        list(pool(threads).map(add, range(threads)))
