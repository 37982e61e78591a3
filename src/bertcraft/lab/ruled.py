"""Training by an update rule of an experiment's own: a small masked language model from scratch, or a fine-tuned classifier.

The masked language model is that of experiment 01: every seed has a part of the corpus of its own, to learn from and to be judged
on, so intervals need no widening; all arms of a seed read the same masked rows in the same order, from the same start.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import numpy as np

from bertcraft.bert import Config, encoder, heads, sentences
from bertcraft.bert.model import Model
from bertcraft.data.batches import batch_indices, pad
from bertcraft.errors import TrainingError
from bertcraft.lab import finetune as tuning
from bertcraft.lab import parts, pretraining
from bertcraft.lab.experiment import Arm, Context
from bertcraft.lab.pretraining import Setting, Texts
from bertcraft.pretrain.held_out import HeldOut
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.tensor import functions as F
from bertcraft.train import FitResult, Progress, Rule, fit

REPLAYED = 12  # first losses that are stored and can be replayed
TRIAL = {"judged_on": "dev"}  # settings of a trial
# Of an arm or trial without settings: what experiments 01 and 07 found off the plateau.
SHARED = {
    "corpus": parts.CORPUS, "length": 24, "vocab_size": 4096, "texts": parts.TRAINED, "held_out": parts.TESTED,
    "batch": 64, "steps": 1000, "warmup": 50, "shard": 32, "evaluations": 8, "dropout": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What a seed trains on, and how it is judged."""

    setting: Setting
    texts: Texts
    config: Config
    make_batch: Callable[[int], dict]
    judge: HeldOut

    def loss(self, params: dict, batch: dict, rng=None):
        return masking.masked_lm_loss(params, batch, rng, self.config)


def task_of(settings: dict, seed: int) -> Task:
    """The task of an arm's settings; judged on development texts where a trial says so."""
    own = {field.name for field in fields(Setting)}
    setting = Setting(**{name: value for name, value in settings.items() if name in own})
    texts, rate = parts.texts_of(setting, seed), settings["dropout"]
    rows = texts.dev if settings.get("judged_on") == "dev" else texts.held_out
    config = pretraining.config_of(setting, len(texts.log_frequency), hidden_dropout_prob=rate, attention_probs_dropout_prob=rate)
    judge = HeldOut(np.concatenate([rows] * parts.MASKS), texts)  # a row's number decides its mask
    return Task(setting, texts, config, pretraining.batch_maker(setting, texts, seed), judge)


def gradient(task: Task, seed: int, threads: int) -> Callable:
    """``step(params, batch, number) -> (loss, gradients)`` of a task."""
    from bertcraft.tensor.parallel import sharded_value_and_grad

    return sharded_value_and_grad(
        task.loss, shard_size=task.setting.shard, weight=masking.predicted, prepare=masking.trimmed, threads=threads,
        seed=seed if task.config.hidden_dropout_prob else None,
    )  # fmt: skip


def fitted(rule: Rule, settings: dict, seed: int, context: Context, task: Task, steps: int | None = None) -> FitResult:
    """Train a task by a rule, wholly or for its first steps. Raises TrainingError where its numbers overflow."""
    from bertcraft.tensor.parallel import pool

    setting = task.setting
    return fit(
        gradient(task, seed, context.threads), pretraining.initial(task.config, task.texts, seed), rule, task.make_batch,
        steps or setting.steps, seed=seed, folder=None if steps else context.folder, save_every_seconds=10,
        signature={**settings, **asdict(setting)}, evaluate=None if steps else lambda params: task.judge(params, task.config),
        evaluate_every=max(1, setting.steps // setting.evaluations), pool=pool(context.threads), report=_told(context),
    )  # fmt: skip


def trained(rule: Rule, settings: dict, seed: int, context: Context) -> tuple[dict, FitResult | None]:
    """Train; the figures at [MASK] of unread text, and the result. A trial has the loss on development texts alone.

    Where numbers overflow there is no result, and the loss is that of one who knows nothing: the logarithm of the vocabulary.
    """
    task = task_of(settings, seed)
    try:
        result = fitted(rule, settings, seed, context, task)
    except TrainingError:
        worst = math.log(len(task.texts.log_frequency))
        lost = {"loss": worst, "accuracy": 0.0, "plateau": 100.0}
        return ({"dev_loss": worst} if settings.get("judged_on") == "dev" else lost), None
    steps, seen = zip(*result.evaluations, strict=True)
    if settings.get("judged_on") == "dev":
        return {"dev_loss": seen[-1]["loss"]}, result
    found = {
        "loss": seen[-1]["loss"], "accuracy": 100 * seen[-1]["accuracy"], **parts.beside(seen[-1]),
        "curve": [each["loss"] for each in seen], "steps": list(steps), "training": float(result.losses[-50:].mean()),
        "first_losses": result.losses[:REPLAYED].tolist(), "plateau": 100.0 * (seen[-1]["loss"] > task.judge.unigram - 0.5),
    }  # fmt: skip
    return found, result


def untrained(settings: dict, seed: int) -> dict:
    """The figures of word frequencies, or of a model before its first step."""
    task = task_of(settings, seed)
    if settings["method"] == "unigram":
        return {"loss": task.judge.unigram, "loss_all": task.judge.unigram_all}
    found = task.judge(pretraining.initial(task.config, task.texts, seed), task.config)
    return {"loss": found["loss"], "accuracy": 100 * found["accuracy"], **parts.beside(found)}


def replayed(rule: Rule, settings: dict, seed: int, context: Context) -> dict:
    """The training losses of the first steps."""
    task = task_of(settings, seed)
    steps = min(REPLAYED, task.setting.steps)
    return {"first_losses": fitted(rule, settings, seed, context, task, steps).losses.tolist()}


def trivial(shared: dict) -> tuple[Arm, Arm]:
    """The rows that train nothing."""
    return (
        Arm("untrained", "untrained", {**shared, "method": "untrained"}, trivial=True),
        Arm("unigram", "word frequencies", {**shared, "method": "unigram"}, trivial=True),
    )


# ---------------------------------------------------------------------------------------------------------- fine-tuning


def classifier(
    model: Model,
    texts: tuning.Texts,
    rule_of: Callable[[dict, Config], Rule],
    how: tuning.Settings,
    *,
    classes: int,
    seed: int,
    context: Context,
    first: Callable = partial(tuning.first_tokens, sockets=encoder.BERT),
    steps: int | None = None,
) -> tuple[tuning.Finetuned, np.ndarray]:
    """A classifier whose every parameter is trained, by ``rule_of(params, config)``; and the losses of its steps, float64.

    Head, batches and dropout are those of :func:`bertcraft.lab.finetune.finetune`; of ``how`` rate, schedule, warm-up, clipping
    and decay are the rule's business. first: ``first(params, config, batch=..., rng=...)``, the first token's states (B, 1, H) in
    training. Raises TrainingError where numbers overflow.
    """
    from bertcraft.tensor.parallel import sharded_value_and_grad

    tokens = [np.array(ids, np.int32) for ids in sentences.tokenize(model, texts.texts, how.max_length)]
    config, params = tuning.classifier(model, classes, seed, how.dropout)
    labels, pad_id = np.asarray(texts.labels), config.pad_token_id or 0

    def make_batch(step: int) -> dict:
        rows = batch_indices(len(texts), how.batch_size, seed, step)
        rows = rows[np.argsort([-len(tokens[i]) for i in rows], kind="stable")]
        ids, mask = pad([tokens[i] for i in rows], pad_id)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels[rows]}

    def loss(params: dict, batch: dict, rng: Any):
        states = first(params, config, batch=batch, rng=rng)
        return F.cross_entropy(heads.classification_logits(params, config, states, rng), batch["labels"])

    step_function = sharded_value_and_grad(
        loss, shard_size=how.shard_size, weight=lambda batch: len(batch["labels"]), prepare=masking.trimmed,
        threads=context.threads, seed=seed,
    )  # fmt: skip
    result = fit(step_function, params, rule_of(params, config), make_batch, steps or how.steps, seed=seed, report=_told(context))
    return tuning.Finetuned(model, "full", config, params, result.params, how, {}, result.seconds), result.losses


def _told(context: Context) -> Callable[[Progress], None]:
    return lambda p: context.report(p.step, p.steps, f"{p.step}/{p.steps} loss {p.loss:.2f} {p.seconds_left:.0f} s left")
