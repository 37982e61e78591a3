"""One masked-LM training step (forward, backward, clipping, AdamW) of bertcraft and of each rival.

    python -m bertcraft.bench.train_rivals NAME LAYERS HIDDEN HEADS VOCABULARY BATCH LENGTH STEPS

NAME is a key of CONTENDERS. Two steps warm up (and compile), then STEPS are timed; prints one line of JSON.

All compute in float32 with dropout 0.1 on hidden states, gradients clipped to norm 1 and AdamW; the same
positions are predicted, and only at these is the head computed, but for transformers, which is run as its
users get it. Each computes GELU in the form that is quicker for it: exact in PyTorch, by tanh in JAX and
bertcraft.
"""

import json
import sys
import time
from collections.abc import Callable

import numpy as np

from bertcraft.bench.step import Sizes
from bertcraft.machine import peak_memory
from bertcraft.tensor.parallel import cpu_count

WARM_UP = 2
RATE, DECAY, CLIP, DROPOUT, EPSILON, DEVIATION = 1e-4, 0.01, 1.0, 0.1, 1e-12, 0.02

Step = Callable[[int], float]  # takes the number of the step, returns the loss before it


def batch(sizes: Sizes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids (batch, length), predicted positions and labels there (batch, predicted); int64."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, sizes.vocabulary, (sizes.batch, sizes.length))
    at = np.argsort(rng.random((sizes.batch, sizes.length)), axis=1)[:, : sizes.predicted]
    at = np.sort(at, axis=1)
    return ids, at, np.take_along_axis(ids, at, axis=1)


def flat_positions(at: np.ndarray, length: int) -> np.ndarray:
    """Positions in the rows as positions in the whole batch laid end to end."""
    return (at + np.arange(len(at))[:, None] * length).reshape(-1)


def _ours(sizes: Sizes) -> tuple:
    """Parameters, rule, batch, loss and what a part of the batch weighs; the last layer only where it is read."""
    from bertcraft import train
    from bertcraft.bert import Config, encode, heads, initial_params

    config = Config(
        family="bert", head="masked_lm", vocab_size=sizes.vocabulary, hidden_size=sizes.hidden,
        num_hidden_layers=sizes.layers, num_attention_heads=sizes.heads, intermediate_size=4 * sizes.hidden,
        max_position_embeddings=sizes.positions, hidden_act="gelu_new", hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    rule = train.chain(train.clip_by_global_norm(CLIP), train.adamw(RATE, weight_decay=DECAY))
    ids, at, labels = batch(sizes)

    def loss(params, part, rng):
        hidden = encode(params, config, part["ids"], rng=rng, at=part["at"])
        return heads.masked_lm_loss(params, config, hidden, part["labels"])

    whole = {"ids": ids, "at": at, "labels": labels}
    return initial_params(config, seed=0, deviation=DEVIATION), rule, whole, loss, lambda part: part["labels"].size


def bertcraft(sizes: Sizes) -> tuple[Step, int]:
    """Shards of 8 rows over threads."""
    from bertcraft import train
    from bertcraft.tensor import tree
    from bertcraft.tensor.parallel import pool, sharded_value_and_grad

    params, rule, whole, loss, weight = _ours(sizes)
    state = rule.init(params)
    gradient = sharded_value_and_grad(loss, shard_size=8, weight=weight, seed=0)

    def step(number: int) -> float:
        nonlocal state
        value, gradients = gradient(params, whole, number)
        state = train.apply(rule, gradients, state, params, pool(cpu_count()))
        return value

    return step, sum(leaf.size for leaf in tree.leaves(params))


def bertcraft_jax(sizes: Sizes) -> tuple[Step, int]:
    """The same loss and rule, as ``bertcraft pretrain --backend jax`` compiles them by XLA."""
    from bertcraft.pretrain.xla import xla_engine
    from bertcraft.tensor import tree

    params, rule, whole, loss, weight = _ours(sizes)
    engine = xla_engine(loss, rule, seed=0, weight=weight)
    count = sum(leaf.size for leaf in tree.leaves(params))
    params, state = engine.place(params), engine.place(rule.init(params))

    def step(number: int) -> float:
        nonlocal params, state
        params, state, value, _ = engine.advance(params, state, whole, number)
        return value

    return step, count


def transformers(sizes: Sizes) -> tuple[Step, int]:
    """BertForMaskedLM with its own defaults (logits everywhere, attention dropout), fused AdamW."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=sizes.vocabulary, hidden_size=sizes.hidden, num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads, intermediate_size=4 * sizes.hidden,
        max_position_embeddings=sizes.positions,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertForMaskedLM(config).train()
    ids, at, chosen = batch(sizes)
    labels = np.full_like(ids, -100)
    np.put_along_axis(labels, at, chosen, axis=1)
    inputs = {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.ones(ids.shape, dtype=torch.long),
        "labels": torch.tensor(labels),
    }
    return _torch_step(model, lambda: model(**inputs).loss)


def torch_eager(sizes: Sizes) -> tuple[Step, int]:
    """Hand-tuned PyTorch: one product for query, key and value, fused attention, fused AdamW."""
    return _tuned_torch(sizes, compiled=False)


def torch_compiled(sizes: Sizes) -> tuple[Step, int]:
    """The same through ``torch.compile``."""
    return _tuned_torch(sizes, compiled=True)


def _tuned_torch(sizes: Sizes, compiled: bool) -> tuple[Step, int]:
    import torch

    from bertcraft.bench.tuned_torch import MaskedLM

    torch.set_num_threads(cpu_count())
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    model = MaskedLM(sizes, DROPOUT, EPSILON, DEVIATION)
    ids, at, labels = batch(sizes)
    flat = flat_positions(at, sizes.length)
    inputs = torch.tensor(ids), torch.tensor(flat), torch.tensor(labels.reshape(-1))
    forward = torch.compile(model, dynamic=False) if compiled else model
    return _torch_step(model, lambda: forward(*inputs))


def _torch_step(model, loss: Callable) -> tuple[Step, int]:
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)

    def step(number: int) -> float:
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return value.item()

    return step, sum(parameter.numel() for parameter in model.parameters())


def jax(sizes: Sizes) -> tuple[Step, int]:
    """One ``jax.jit`` of the whole step with donated buffers."""
    import jax as library

    from bertcraft.bench.tuned_jax import initial_state, training_step

    state = initial_state(sizes, DEVIATION)
    ids, at, labels = batch(sizes)
    inputs = [library.numpy.asarray(x) for x in (ids, flat_positions(at, sizes.length), labels.reshape(-1))]
    jitted = training_step(sizes, RATE, DECAY, CLIP, DROPOUT, EPSILON)

    def step(number: int) -> float:
        nonlocal state
        loss, state = jitted(state, *inputs, number)
        library.block_until_ready(state)
        return float(loss)

    return step, sum(leaf.size for leaf in library.tree.leaves(state[0]))


CONTENDERS = {
    "bertcraft": bertcraft,
    "bertcraft-jax": bertcraft_jax,
    "transformers": transformers,
    "torch": torch_eager,
    "torch-compiled": torch_compiled,
    "jax": jax,
}


def measure(name: str, sizes: Sizes, steps: int) -> dict:
    """Seconds of warming up and of each timed step, losses, memory and number of parameters."""
    start = time.perf_counter()
    step, parameters = CONTENDERS[name](sizes)
    losses = [step(number) for number in range(WARM_UP)]
    warm_up = time.perf_counter() - start
    seconds = []
    for number in range(WARM_UP, WARM_UP + steps):
        start = time.perf_counter()
        losses.append(step(number))
        seconds.append(time.perf_counter() - start)
    if not np.isfinite(losses).all():
        raise FloatingPointError(f"the losses are not finite: {losses}")
    return {
        "seconds": seconds,
        "warm_up_seconds": warm_up,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "peak_mb": peak_memory(),
        "parameters": parameters,
    }


if __name__ == "__main__":
    *numbers, count = map(int, sys.argv[2:])
    print(json.dumps(measure(sys.argv[1], Sizes(*numbers), count)))
