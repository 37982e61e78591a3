"""Run by a test as each of several processes: the loss and gradients of one batch of an uneven number of rows, to a file."""

import json
import sys

import jax
import numpy as np
from test_engines import ROWS, goal_of

from bertcraft.pretrain import cluster
from bertcraft.pretrain.objectives import with_blank_rows
from bertcraft.pretrain.xla import xla_engine
from bertcraft.tensor import tree
from bertcraft.train.rules import Rule

# changes no parameter and keeps the gradient as its state
KEPT = Rule(lambda params: tree.map(np.zeros_like, params), lambda g, state, params: (tree.map(np.zeros_like, g), g))


def main(name: str, dtype: str, sharded: bool, address: str, ranks: int, rank: int, out: str) -> None:
    jax.config.update("jax_enable_x64", dtype == "float64")
    if ranks > 1:
        cluster.join(address, ranks, rank)
    assert jax.process_count() == jax.device_count() == ranks
    goal = goal_of(name)
    engine = xla_engine(goal.loss, KEPT, seed=0, weight=goal.weight, blank=with_blank_rows, sharded=sharded)
    params = goal.initial(1, np.dtype(dtype))
    batch = goal.batch(ROWS[:10], np.arange(10), 0)
    _, gradient, loss, _ = engine.advance(engine.place(params), engine.place(KEPT.init(params)), batch, 0)
    gradient = engine.host(gradient)
    if rank == 0:
        np.savez(out, loss=loss, **dict(tree.items(gradient)))


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
