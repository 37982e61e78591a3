"""Encoders of different build, trained alike as masked language models: for equal operations, or for as many steps.

All read the same masked rows in the same order and are judged at positions of unread text that show [MASK]. What a step costs
is counted as it runs (:mod:`bertcraft.lab.flops`), the softmax over words and the backward pass included.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np

from bertcraft.bert import Config, encoder, heads, initial_params
from bertcraft.errors import InputError
from bertcraft.lab import flops, parts, pretraining
from bertcraft.lab.experiment import Context
from bertcraft.lab.pretraining import Setting, Texts
from bertcraft.pretrain.held_out import HeldOut
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.tensor import tree
from bertcraft.tensor.parallel import sharded_value_and_grad

COUNTED = 4  # batches whose operations are counted; their mean is the price of a step
REPLAYED = 20  # first losses that are stored and can be replayed
TIMED = 5  # gradients of which the fastest is the time of a step


@dataclass(frozen=True)
class Architecture:
    """An encoder with a masked-LM head, as it starts.

    ``start``: the parameters that are trained; ``whole`` makes of them the tree that ``config`` describes, where some are used
    more than once. ``encode``: how states are computed, called as :func:`bertcraft.bert.encoder.encode` is.
    """

    config: Config
    start: dict
    whole: Callable[[dict], dict] = lambda params: params
    encode: Callable = encoder.encode

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(leaf.size for leaf in tree.leaves(self.start))

    def loss(self, params: dict, batch: dict, rng=None):
        """Mean cross-entropy of the chosen tokens, in nats; the batch is that of :func:`masking.masked_lm_loss`."""
        params = self.whole(params)
        hidden = self.encode(params, self.config, batch["input_ids"], batch.get("attention_mask"), at=batch["at"], rng=rng)
        return heads.masked_lm_loss(params, self.config, hidden, batch["labels"])


def built(setting: Setting, texts: Texts, seed: int, encode: Callable = encoder.encode, **changes) -> Architecture:
    """A small encoder that knows the word frequencies; ``changes``: fields of its ``Config``."""
    config = pretraining.config_of(setting, len(texts.log_frequency), **changes)
    start = initial_params(config, seed)
    heads.masked_lm_head(start, config)[-1]["bias"][:] = texts.log_frequency
    return Architecture(config, start, encode=encode)


def setting_of(settings: dict) -> Setting:
    """The fields of a ``Setting`` among an arm's settings."""
    known = {field.name for field in fields(Setting)}
    return Setting(**{name: value for name, value in settings.items() if name in known})


# -------------------------------------------------------------------------------------------------------------- costs


def gradient(architecture: Architecture, setting: Setting, threads: int = 1) -> Callable:
    """Loss and gradient of a step as training computes them: ``(params, batch, step)``."""
    return sharded_value_and_grad(
        architecture.loss, shard_size=setting.shard, weight=masking.predicted, prepare=masking.trimmed, threads=threads
    )


def step_flops(architecture: Architecture, setting: Setting, make_batch: Callable[[int], dict]) -> float:
    """Operations of a training step, forward and backward: the mean of the first batches."""
    step = gradient(architecture, setting)
    return float(np.mean([flops.count(step, architecture.start, make_batch(i), 0) for i in range(COUNTED)]))


def step_milliseconds(architecture: Architecture, setting: Setting, make_batch: Callable[[int], dict]) -> float:
    """Processor time of a step's gradient on one thread; what else runs on the machine matters less than to the clock."""
    step, batch, times = gradient(architecture, setting), make_batch(0), []
    for _ in range(TIMED):
        start = time.process_time()
        step(architecture.start, batch, 0)
        times.append(time.process_time() - start)
    return 1000 * min(times)


def affordable(budget: float, step: float) -> int:
    """The steps that ``budget`` TFLOP buy at ``step`` operations each. Raises InputError where they buy none."""
    steps = round(budget * 1e12 / step)
    if steps < 1:
        raise InputError(f"{budget:g} TFLOP buy no step of {step / 1e12:g}")
    return steps


# ------------------------------------------------------------------------------------------------------------ judging


class Judge:
    """Rows of unread text under masks that all arms and seeds share; ``unigram``: the loss of word frequencies at [MASK]."""

    def __init__(self, rows: np.ndarray, texts: Texts):
        self._held_out = HeldOut(rows, texts)
        self.batch, self.unigram = self._held_out.batch, self._held_out.unigram

    def __call__(self, architecture: Architecture, params: dict) -> dict[str, float]:
        """At positions that show [MASK]: "loss" in nats, "accuracy" in %; the losses of :func:`parts.beside`."""
        found = self._held_out(architecture.whole(params), architecture.config, architecture.encode)
        return {"loss": found["loss"], "accuracy": 100 * found["accuracy"], **parts.beside(found)}


@lru_cache(maxsize=4)
def judge(setting: Setting, part: str, length: int) -> Judge:
    """The texts of ``part``, "dev" or "held_out", packed into rows of ``length``: ``setting.held_out`` rows of its own length, or
    as many tokens."""
    texts = pretraining.prepare(setting)
    if length != setting.length:
        other = replace(setting, length=length, texts=1, held_out=setting.held_out * setting.length // length)
        return Judge(getattr(pretraining.prepare(other), part), texts)
    return Judge(getattr(texts, part), texts)


# --------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Task:
    """What an arm trains, for how long; ``step_flops``: what a step costs."""

    setting: Setting
    texts: Texts
    architecture: Architecture
    make_batch: Callable[[int], dict]
    step_flops: float


def task_of(settings: dict, seed: int, build: Callable[[dict, Setting, Texts, int], Architecture]) -> Task:
    """The training that an arm's settings describe: those of ``build``, and the fields of a ``Setting``.

    With "tflop" it takes the steps that so many operations buy; with "as_many_steps_as" those that they would buy of the
    architecture with these settings instead. The price of a step is that of seed 0's first: all seeds take as many.
    """
    setting = setting_of(settings)
    texts = pretraining.prepare(setting)

    def price(own: dict) -> float:
        return step_flops(build(own, setting, texts, 0), setting, pretraining.batch_maker(setting, texts, 0))

    own = price(settings)
    if "tflop" in settings:
        other = settings.get("as_many_steps_as")
        setting = replace(setting, steps=affordable(settings["tflop"], price(settings | other) if other else own))
    return Task(setting, texts, build(settings, setting, texts, seed), pretraining.batch_maker(setting, texts, seed), own)


def fitted(task: Task, settings: dict, seed: int, context: Context, *, steps: int | None = None, evaluate=None):
    """Train, wholly or for the first ``steps``; a ``FitResult``."""
    return pretraining.train(
        task.setting, task.architecture.start, task.architecture.loss, task.make_batch, seed=seed, context=context,
        signature=settings, steps=steps, evaluate=evaluate,
    )  # fmt: skip


def run(
    task: Task, settings: dict, seed: int, context: Context, part: str = "held_out", others: tuple[int, ...] = (),
    look: Callable[[dict], dict] = lambda params: {},
) -> dict:  # fmt: skip
    """Train and judge: what was learnt, and what it cost.

    What a :class:`Judge` finds in ``part``, and "gap", the loss less that of word frequencies; "loss_64" and "gap_64" where 64 is
    among the ``others``, lengths of rows to read besides; "curve": losses on the way, after "steps"; "tflop", "parameters" and
    "time" (ms of a step). ``look``: what else is to be told of the trained parameters.
    """
    judges = {length: judge(setting_of(settings), part, length) for length in (task.setting.length, *others)}
    own = judges.pop(task.setting.length)
    result = fitted(task, settings, seed, context, evaluate=lambda params: own(task.architecture, params))
    steps, seen = zip(*result.evaluations, strict=True)
    found = {**seen[-1], "gap": seen[-1]["loss"] - own.unigram, "unigram": own.unigram}
    for length, each in judges.items():
        loss = each(task.architecture, result.params)["loss"]
        found |= {f"loss_{length}": loss, f"gap_{length}": loss - each.unigram}
    return found | {
        "curve": [each["loss"] for each in seen], "steps": list(steps), "step_gflops": task.step_flops / 1e9,
        "tflop": steps[-1] * task.step_flops / 1e12, "parameters": task.architecture.parameters,
        "time": step_milliseconds(task.architecture, task.setting, task.make_batch),
        "first_losses": result.losses[:REPLAYED].tolist(), **look(result.params),
    }  # fmt: skip


def replay(task: Task, settings: dict, seed: int, context: Context) -> dict:
    """The price of a step, and the training losses of the first."""
    losses = fitted(task, settings, seed, context, steps=min(REPLAYED, task.setting.steps)).losses
    return {"step_gflops": task.step_flops / 1e9, "parameters": task.architecture.parameters, "first_losses": losses.tolist()}


def trivial(task: Task, method: str, others: tuple[int, ...] = ()) -> dict:
    """Of unread text, the losses of "unigram", word frequencies, or of the architecture "untrained"."""
    found = {}
    for length in (task.setting.length, *others):
        each = judge(task.setting, "held_out", length)
        loss = each.unigram if method == "unigram" else each(task.architecture, task.architecture.start)["loss"]
        found["loss" if length == task.setting.length else f"loss_{length}"] = loss
    return found
