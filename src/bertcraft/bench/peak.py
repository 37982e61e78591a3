"""How fast this machine multiplies matrices with NumPy's BLAS: ``python -m bertcraft.bench.peak`` prints one
JSON line.

The product is 2048 x 2048 x 2048 in float32: large enough to run at full speed, where the products of a
training step, smaller and thinner, do not always. It is measured in two ways: every thread its own product
with one BLAS thread (as bertcraft's shards run), and one product at a time over all BLAS threads. The peak is
the better of the two.
"""

import json
import time

import numpy as np

from bertcraft.tensor.parallel import cpu_count, pool

SIDE = 2048
SECONDS = 1.0  # of measuring, each way


def measure() -> dict:
    """GFLOP/s as "gflops", "one_blas_thread_each" and "all_blas_threads", and which "blas"."""
    from threadpoolctl import threadpool_info, threadpool_limits

    threads = cpu_count()
    with threadpool_limits(1, user_api="blas"):
        separate = _best(threads)
    with threadpool_limits(threads, user_api="blas"):
        together = _best(1)
    blas = next((library for library in threadpool_info() if library["user_api"] == "blas"), {})
    names = (blas.get(key) for key in ("internal_api", "version", "architecture"))
    return {
        "gflops": max(separate, together),
        "one_blas_thread_each": separate,
        "all_blas_threads": together,
        "blas": " ".join(name for name in names if name) or "unknown",
    }


def _best(workers: int) -> float:
    """The highest rate in GFLOP/s at which so many threads at once have multiplied, each its own matrices."""
    matrices = np.random.default_rng(0).standard_normal((workers, 2, SIDE, SIDE), dtype=np.float32)
    out = np.empty((workers, SIDE, SIDE), np.float32)

    def product(i: int) -> None:
        np.matmul(matrices[i, 0], matrices[i, 1], out=out[i])

    times = []
    list(pool(workers).map(product, range(workers)))  # the first one touches the memory and wakes the threads
    while len(times) < 3 or sum(times) < SECONDS:
        start = time.perf_counter()
        list(pool(workers).map(product, range(workers)))
        times.append(time.perf_counter() - start)
    return workers * 2 * SIDE**3 / min(times) / 1e9


if __name__ == "__main__":
    print(json.dumps(measure()))
