"""Peak memory and time of a training step, in a process of its own, and the rival of micro-batches: recomputation.

What the backward pass needs again can be kept (the plain way), kept for a few texts at a time (accumulation), or computed a
second time (recomputation, "gradient checkpointing"; Chen, Xu, Zhang & Guestrin 2016, arXiv:1604.06174): only the input of each
layer stays, and a layer's forward pass is run again when the backward pass reaches it. One more forward pass is the price.
"""

import json
import operator
import subprocess
import sys
import time
from typing import Any

import numpy as np

from bertcraft import machine
from bertcraft.bert import Config, encoder, families, heads
from bertcraft.lab import pretraining
from bertcraft.techniques import gradient_accumulation as technique
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.tensor import functions as F
from bertcraft.tensor import grad, tree, value_and_grad

ROWS, LENGTH, VOCABULARY = 32, 128, 8192  # of the step that is measured
SETTING = pretraining.Setting(layers=4, hidden=256, length=LENGTH)
WHOLE, ACCUMULATED, RECOMPUTED = WAYS = "whole", "accumulated", "recomputed"


def recomputed_value_and_grad(params: dict, batch: dict, config: Config) -> tuple[Any, dict]:
    """Loss and gradients of :func:`masking.masked_lm_loss` for a BERT, of which only the layers' inputs are kept.

    batch: input_ids (N, L), at and labels (N, M), perhaps attention_mask (N, L); no dropout.
    """
    layers, ids, mask = families.layers(params, config), batch["input_ids"], batch.get("attention_mask")
    outer = {**params, "bert": {"embeddings": params["bert"]["embeddings"]}}  # all but the layers
    bias = None if mask is None else F.padding_bias(mask, outer["bert"]["embeddings"]["word_embeddings"]["weight"].dtype)

    def forward(place: int, layer: dict, x):
        read = F.take_positions(x, batch["at"]) if place == len(layers) - 1 else x
        return encoder.post_layer_norm(layer, read, x, bias, config, encoder.BERT)

    inputs = [encoder.embed(outer, config, ids)]
    for place, layer in enumerate(layers):
        inputs.append(forward(place, layer, inputs[-1]))
    value, (total, g) = value_and_grad(lambda both: heads.masked_lm_loss(both[0], config, both[1], batch["labels"]))(
        (outer, inputs.pop())
    )
    found = {}
    for place in reversed(range(len(layers))):  # a scalar whose gradient is g carried back through the layer
        found[str(place)], g = grad(lambda both: np.sum(forward(place, *both) * g))((layers[place], inputs.pop()))
    below = grad(lambda outer: np.sum(encoder.embed(outer, config, ids) * g))(outer)
    total = tree.map(operator.add, total, below)
    total["bert"]["encoder"] = {"layer": {str(place): found[str(place)] for place in range(len(layers))}}
    return value, total


def step_gradient(way: str, params: dict, batch: dict, config: Config, cut: int = 8) -> tuple[Any, dict]:
    """Loss and gradients of a batch by one of the ``WAYS``; ``cut``: the number of micro-batches of "accumulated"."""
    if way == RECOMPUTED:
        return recomputed_value_and_grad(params, batch, config)
    loss = lambda p, part, rng: masking.masked_lm_loss(p, part, rng, config)  # noqa: E731
    if way == ACCUMULATED:
        return technique.accumulate(loss, params, technique.micro_batches(batch, len(batch["at"]) // cut))
    return value_and_grad(loss)(params, batch, None)


def in_a_child(way: str, cut: int = 8, seed: int = 0) -> dict:
    """:func:`measure` in a process of its own: a peak never comes down."""
    command = [sys.executable, "-m", __name__, way, str(cut), str(seed)]
    done = subprocess.run(command, env=machine.child_environment(), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def measure(way: str, cut: int, seed: int, steps: int = 3) -> dict:
    """Steps of AdamW on random tokens: the most memory this process had (MB) and the seconds of processor time of a step.

    Processor time, on one thread: what else runs on the machine then matters less.
    """
    from bertcraft.bert import initial_params
    from bertcraft.tensor.parallel import one_blas_thread
    from bertcraft.train import adamw, apply

    config = pretraining.config_of(SETTING, VOCABULARY)
    params, rule = initial_params(config, seed), adamw(1e-3)
    state, rows = rule.init(params), np.arange(ROWS)
    ids = np.random.default_rng(seed).integers(5, VOCABULARY, (ROWS, LENGTH))
    words = {"mask_id": 4, "vocab_size": VOCABULARY, "first_word_id": pretraining.FIRST_WORD}
    batch = pretraining.mask(ids, rows, np.zeros(ROWS), seed, 0.15, words)
    before, times = machine.peak_memory(), []
    with one_blas_thread():
        for _ in range(steps):
            start = time.process_time()
            state = apply(rule, step_gradient(way, params, batch, config, cut)[1], state, params)
            times.append(time.process_time() - start)
    # the first step also pays for memory that it is the first to touch
    return {"peak_mb": machine.peak_memory(), "before_mb": before, "step_seconds": min(times[1:])}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], *map(int, sys.argv[2:]))))
