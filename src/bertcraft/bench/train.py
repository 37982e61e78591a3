"""``bertcraft bench train``: a masked-LM training step, of bertcraft and of every rival that is installed."""

from collections.abc import Callable
from dataclasses import asdict
from statistics import median

import bertcraft
from bertcraft import machine
from bertcraft.bench.contest import Contender, Outcome, contest
from bertcraft.bench.step import Sizes, product_flops

TORCH = {"torch": "torch"}
TITLES = {
    "bertcraft": ("bertcraft", {}),
    "bertcraft-jax": ("bertcraft, XLA", {"jax": "jax"}),
    "transformers": ("transformers, eager", {"transformers": "transformers", **TORCH}),
    "torch": ("tuned PyTorch, eager", TORCH),
    "torch-compiled": ("tuned PyTorch, compiled", TORCH),
    "jax": ("JAX, jit", {"jax": "jax"}),
}
NOTES = (
    "All: float32, the same sizes and predicted positions, dropout 0.1 on hidden states, gradients clipped "
    "to norm 1, AdamW, all CPUs.",
    "bertcraft computes the last layer only where it is read: the same loss and gradients with fewer "
    "products. Only products that are really done count for its share of the peak.",
    "transformers runs as its users get it: logits at every position, dropout on attention probabilities as "
    "well. The tuned PyTorch step and the JAX step do neither.",
)


def run(sizes: Sizes, rounds: int, steps: int, report: Callable[[int, Contender], None], *, backend: str = "numpy") -> dict:
    """Measure and return what ``--json`` prints; see :func:`bertcraft.bench.contest.contest` for ``report``.

    With ``backend`` "jax" bertcraft's own step under XLA stands beside it in NumPy.

    Milliseconds are the median over the rounds of the median step; tokens/s follow from them; memory is the
    highest.
    """
    numbers = [str(value) for value in asdict(sizes).values()]
    peak = Contender("peak", "matrix products alone", ("-m", "bertcraft.bench.peak"))
    contenders = [
        Contender(name, title, ("-m", "bertcraft.bench.train_rivals", name, *numbers, str(steps)), packages)
        for name, (title, packages) in TITLES.items()
        if backend == "jax" or name != "bertcraft-jax"
    ]
    load = machine.load()
    outcomes = contest([peak, *contenders], rounds, report)
    entries = [_entry(contender, outcomes[contender.name], sizes) for contender in contenders]
    ours = entries[0]
    for entry in entries:
        for ratio, value in (("time_ratio", "milliseconds"), ("memory_ratio", "peak_mb")):
            both = entry["status"] == ours["status"] == "ok"
            entry[ratio] = entry[value] / ours[value] if both else None
    return {
        "benchmark": "train",
        "bertcraft": bertcraft.__version__,
        "machine": machine.description() | {"load_before": load},
        "versions": machine.versions(["numpy", "torch", "transformers", "jax"]),
        "sizes": asdict(sizes) | {"predicted_positions": sizes.predicted},
        "rounds": rounds,
        "steps_a_round": steps,
        "matrix_products": _products(outcomes["peak"], ours, sizes),
        "contenders": entries,
        "notes": NOTES,
    }


def _entry(contender: Contender, outcome: Outcome, sizes: Sizes) -> dict:
    entry = {
        "name": contender.name,
        "title": contender.title,
        "status": outcome.status,
        "error": outcome.error,
    }
    if outcome.status != "ok":
        return entry
    rounds = [1e3 * median(result["seconds"]) for result in outcome.rounds]
    return entry | {
        "milliseconds": median(rounds),
        "rounds_milliseconds": rounds,
        "tokens_per_second": sizes.tokens / median(rounds) * 1e3,
        "peak_mb": max(result["peak_mb"] for result in outcome.rounds),
        "warm_up_seconds": median(result["warm_up_seconds"] for result in outcome.rounds),
        "first_loss": outcome.rounds[0]["first_loss"],
        "last_loss": outcome.rounds[0]["last_loss"],
        "parameters": outcome.rounds[0]["parameters"],
    }


def _products(outcome: Outcome, ours: dict, sizes: Sizes) -> dict:
    """The measured peak of matrix products, the work of a step, and the share bertcraft reaches."""
    result = {"status": outcome.status, "error": outcome.error, "gflop_a_step": product_flops(sizes) / 1e9}
    if outcome.status != "ok":
        return result
    for name in ("gflops", "one_blas_thread_each", "all_blas_threads"):
        result[name] = median(measured[name] for measured in outcome.rounds)
    result["blas"] = outcome.rounds[0]["blas"]
    if ours["status"] == "ok":
        result["share_of_peak"] = result["gflop_a_step"] / (ours["milliseconds"] / 1e3) / result["gflops"]
    return result
