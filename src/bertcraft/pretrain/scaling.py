"""What a run would take on hardware that is not here: counted operations and bytes, divided by what a data sheet states.

A prediction, and a bound: operations of matrix products only, links at their stated speed, no overlap of sending and computing.
``docs/scaling.md`` has its tables beside what was measured here; :mod:`bertcraft.bench.scaling` measures.
"""

import math
from dataclasses import dataclass

import numpy as np

from bertcraft.bert.config import Config
from bertcraft.bert.layout import parameter_shapes
from bertcraft.errors import InputError
from bertcraft.pretrain.sizes import SIZES, config_of
from bertcraft.techniques.electra_pretraining import generator_config

STATE = 16  # bytes of a parameter in float32: itself, its gradient, AdamW's two moments


@dataclass(frozen=True)
class Hardware:
    """What a maker states of an accelerator: operations a second, bytes, bytes a second that one sends to its neighbours.

    ``near``: within a group of ``group`` devices; ``far``: to devices outside it.
    """

    name: str
    flops: float
    memory: float
    near: float
    group: int
    far: float
    source: str


HARDWARE = (
    Hardware(
        "A100 80 GB", 312e12, 80e9, 300e9, 8, 25e9,
        "NVIDIA's data sheet of the A100 SXM: 312 TFLOP/s in bfloat16, NVLink 600 GB/s both ways together; assumed: a network of "
        "200 Gbit/s for each",
    ),
    Hardware(
        "TPU v5e", 197e12, 16e9, 200e9, 256, 25e9 / 8,
        "Google's page of the TPU v5e: 197 TFLOP/s in bfloat16, 16 GB, 400 GB/s between chips both ways together, 256 chips a "
        "pod, 2 x 100 Gbit/s for a host of eight",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Work:
    """Of one row: operations of its training step, and bytes kept for its backward pass; of the model: parameters.

    ``summed``: numbers that devices add up in a step. They are more than the parameters, because what is read in two places,
    as a word table is by embedding and output layer, is added up for each; less positions that no row reaches.
    """

    flops: float
    activations: float
    parameters: int
    summed: int


@dataclass(frozen=True)
class Step:
    """A training step: seconds of computing and of sending, bytes a device holds and sends."""

    compute: float
    communication: float
    memory: float
    sent: float

    @property
    def seconds(self) -> float:
        return self.compute + self.communication


def work(objective: str, size: str, length: int = 128, vocab_size: int = 30522) -> Work:
    """What a row of ``length`` tokens takes under an objective ("masked_lm" or "electra") and a named size.

    Raises InputError for other names.
    """
    read = max(1, round(0.15 * (length - 2)))  # positions that are predicted, as mask_tokens chooses them
    if objective == "masked_lm":
        models = [(config_of("bert", "masked_lm", size, vocab_size, length), read)]
    elif objective == "electra":
        discriminator = config_of("electra", "replaced_token_detection", size, vocab_size, length)
        models = [(generator_config(discriminator, SIZES[size].generator), read), (discriminator, length)]
    else:
        raise InputError(f"objective: got {objective!r}, expected masked_lm or electra")
    counts = [_parameters(config) for config, _ in models]
    shared = _embeddings(models[0][0]) if objective == "electra" else 0
    words = vocab_size * models[0][0].embedding_size  # of the model that guesses words
    unread = sum((config.max_position_embeddings - length) * config.embedding_size for config, _ in models)
    return Work(
        sum(_flops(config, length, read) for config, read in models),
        sum(_activations(config, length, read) for config, read in models),
        sum(counts) - shared,
        sum(counts) + words - unread,
    )


def step(
    given: Work, hardware: Hardware, devices: int, batch: int, *, share: float = 1.0, at_once: int = 32, sharded: bool = False
) -> Step:
    """A step of ``batch`` rows on ``devices``, at a ``share`` of the stated operations a second, ``at_once`` rows in memory.

    Gradients (float32) are added up over a ring: each device sends 2 (n - 1) / n times their size; with ``sharded`` parameters
    (n - 1) / n times, and twice the parameters. A ring is as fast as its slowest link.
    """
    rows = math.ceil(batch / devices)
    size = 4 * given.parameters
    sent = 4 * (given.summed + 2 * given.parameters if sharded else 2 * given.summed) * (devices - 1) / devices
    link = hardware.near if devices <= hardware.group else hardware.far
    memory = STATE * given.parameters / (devices if sharded else 1) + (size if sharded and devices > 1 else 0)
    return Step(rows * given.flops / (share * hardware.flops), sent / link, memory + min(rows, at_once) * given.activations, sent)


def table(hardware: Hardware, batch: int = 2048, length: int = 128, share: float = 0.4) -> str:
    """Predictions for one kind of accelerator as Markdown: a row for each model, objective and number of devices."""
    lines = [
        f"| {hardware.name} | devices | computing, ms: at best | at {share:.0%} | sending, ms | tokens/s at {share:.0%} "
        "| GB a device | GB, cut |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for size in ("base", "large"):
        for objective in ("masked_lm", "electra"):
            given = work(objective, size, length)
            for devices in (1, 8, 64):
                best = step(given, hardware, devices, batch)
                usual = step(given, hardware, devices, batch, share=share)
                cut = step(given, hardware, devices, batch, sharded=True)
                figures = (1e3 * best.compute, 1e3 * usual.compute, 1e3 * usual.communication, batch * length / usual.seconds)
                shown = " | ".join(f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in figures)
                lines.append(f"| {objective}, {size} | {devices} | {shown} | {usual.memory / 1e9:.1f} | {cut.memory / 1e9:.1f} |")
    return "\n".join(lines)


def _parameters(config: Config) -> int:
    return sum(int(np.prod(shape)) for shape in parameter_shapes(config).values())


def _embeddings(config: Config) -> int:
    rows = config.vocab_size + config.max_position_embeddings + config.type_vocab_size + 2  # and LayerNorm's two
    return rows * config.embedding_size


def _flops(config: Config, length: int, read: int) -> float:
    """Forward and backward; the last layer's queries, feed-forward network and the head only where they are read."""
    hidden, inner, narrow = config.hidden_size, config.intermediate_size, config.embedding_size

    def layer(queries: int) -> int:
        keys_values, query_output = 2 * length * hidden * hidden, 2 * queries * hidden * hidden
        return keys_values + query_output + 2 * queries * length * hidden + 2 * queries * hidden * inner

    project = length * narrow * hidden if narrow != hidden else 0
    if config.head == "masked_lm":
        head = read * hidden * narrow + read * narrow * config.vocab_size
    else:
        head = read * hidden * hidden + read * hidden
    multiplications = project + (config.num_hidden_layers - 1) * layer(length) + layer(read) + head
    return 3 * 2 * multiplications  # a multiplication and an addition; backward there are two products for each


def _activations(config: Config, length: int, read: int) -> float:
    """Bytes of float32 that a row takes in a training step, as XLA's buffer assignment for a CPU has it (docs/scaling.md).

    A layer takes about twice its nine arrays of length x hidden, two of the inner width and two of each head's
    probabilities; the head about 2.25 arrays of its scores.
    """
    layer = length * (9 * config.hidden_size + 2 * config.intermediate_size) + 2 * config.num_attention_heads * length**2
    scores = read * (config.vocab_size if config.head == "masked_lm" else config.hidden_size)
    return 4.0 * (2.02 * config.num_hidden_layers * layer + 2.25 * scores)
