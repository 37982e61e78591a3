"""A small training run in a process of its own, for test_kill.py.

    python small_run.py FOLDER RESULT SAVE_EVERY_SECONDS

trains in FOLDER, continuing what is there, prints the number of steps done after each step, and writes the
final parameters and losses to RESULT (.npz). Any script with these arguments can be put through the same
test.
"""

import sys

import numpy as np

from bertcraft.tensor import tree
from bertcraft.train import adamw, chain, clip_by_global_norm, fit, generator, warmup_linear

SEED, STEPS, WIDTH = 7, 600, 128


def make_batch(step):
    rng = generator(SEED, step)
    x = rng.standard_normal((16, WIDTH), dtype=np.float32)
    return x, np.sin(x[:, :4]) * np.roll(x, 1, axis=1)[:, :4]


def step_function(params, batch, step):
    """Mean squared error of a network with one hidden layer and dropout, and its gradient."""
    x, y = batch
    keep = generator(SEED, step, stream=1).random((len(x), WIDTH)) < 0.9
    hidden = np.tanh(x @ params["hidden"]["weight"] + params["hidden"]["bias"])
    error = (hidden * keep) @ params["out"]["weight"] + params["out"]["bias"] - y
    g = 2 * error / error.size
    into = (g @ params["out"]["weight"].T) * keep * (1 - hidden**2)
    gradients = {
        "hidden": {"weight": x.T @ into, "bias": into.sum(0)},
        "out": {"weight": (hidden * keep).T @ g, "bias": g.sum(0)},
    }
    return np.mean(error**2), gradients


def initial_params():
    rng = np.random.default_rng(SEED)
    draw = lambda *shape: 0.1 * rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
    zeros = lambda n: np.zeros(n, np.float32)  # noqa: E731
    return {
        "hidden": {"weight": draw(WIDTH, WIDTH), "bias": zeros(WIDTH)},
        "out": {"weight": draw(WIDTH, 4), "bias": zeros(4)},
    }


def main(folder, result, save_every_seconds):
    run = fit(
        step_function,
        initial_params(),
        chain(clip_by_global_norm(0.5), adamw(warmup_linear(1e-2, 20, STEPS))),
        make_batch,
        STEPS,
        seed=SEED,
        folder=folder,
        save_every_seconds=float(save_every_seconds),
        signature={"width": WIDTH},
        evaluate=lambda params: float(step_function(params, make_batch(10**6), 10**6)[0]),
        evaluate_every=50,
        report=lambda progress: print(progress.step, flush=True),
    )
    np.savez(result, losses=run.losses, evaluations=run.evaluations, **dict(tree.items(run.params)))


if __name__ == "__main__":
    main(*sys.argv[1:])
