"""Training a classifier of texts on labels, on a teacher's answers, or on both: what experiment 05 sets side by side.

The classifier is a linear map of the mean of an encoder's states, from zeros: a sentence encoder's own vector, where the first
token of MiniLM was never trained. Its parameters are {"encoder": ..., "head": {"weight" (C, H), "bias" (C,)}}. The head learns
at HEAD_RATE, as one on frozen vectors would. Whatever is learnt from, a seed gives the same batches and the same dropout; a batch
is one shard, so that a loss is its mean over the batch, over texts or over tokens.

Shapes: n texts, C classes, H hidden size.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from bertcraft.bert import encoder, sentences
from bertcraft.bert.config import Config
from bertcraft.bert.model import Model
from bertcraft.data.batches import batch_indices, pad
from bertcraft.lab import finetune as tuning
from bertcraft.techniques import knowledge_distillation as technique
from bertcraft.techniques.layerwise_learning_rates import by_group
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree
from bertcraft.tensor.parallel import one_blas_thread, sharded_value_and_grad
from bertcraft.train import FitResult, Progress, adamw, chain, clip_by_global_norm, fit, warmup_linear

HEAD_RATE = 0.01
ROUNDS, TIMED = 3, 256  # of the clock, and the texts of each
PACK = 64  # texts that are answered together


@dataclass(frozen=True)
class Recipe:
    """What is learnt, and how. ``rate``: the encoder's. ``soft``: the share of soft targets beside labels, 1 for no labels;
    ``cosine``: the weight of the last layer's states beside both; without a teacher neither counts. ``smoothing``: of labels
    alone."""

    steps: int
    rate: float
    batch: int = 16
    temperature: float = technique.TEMPERATURE
    soft: float = 0.5
    cosine: float = 0.0
    smoothing: float = 0.0


class Answers(NamedTuple):
    """What a teacher makes of the texts to learn from."""

    logits: np.ndarray  # (n, C)
    states: list[np.ndarray]  # of its last layer, (tokens of a text, H)


def with_head(config: Config, params: dict, classes: int) -> dict:
    """An encoder and a head for so many classes that says the same of each."""
    head = {"weight": np.zeros((classes, config.hidden_size), np.float32), "bias": np.zeros(classes, np.float32)}
    return {"encoder": params, "head": head}


def answers_of(params: dict, hidden, mask):
    """Logits (n, C) for the last layer's states (n, L, H)."""
    return F.linear(F.mean_pool(hidden, mask), **params["head"])


def loss_of(config: Config, recipe: Recipe, taught: bool) -> Callable:
    """``loss(params, batch, rng)``; batches hold "labels" and, where it is ``taught``, "logits" and (for cosines) "states"."""

    def loss(params, batch, rng):
        ids, mask = batch["input_ids"], batch["attention_mask"]
        hidden = encoder.encode(params["encoder"], config, ids, mask, rng=rng)
        logits = answers_of(params, hidden, mask)
        if not taught:
            return tuning.smoothed_cross_entropy(logits, batch["labels"], recipe.smoothing)
        if recipe.soft == 1:
            total = technique.soft_target_loss(logits, batch["logits"], recipe.temperature)
        else:
            total = technique.hinton_loss(logits, batch["logits"], batch["labels"], recipe.temperature, recipe.soft)
        return total + recipe.cosine * technique.cosine_loss(hidden, batch["states"], mask) if recipe.cosine else total

    return loss


def train(
    start: tuple[Config, dict],
    token_ids: Sequence[np.ndarray],
    labels: np.ndarray,
    recipe: Recipe,
    *,
    seed: int,
    teacher: Answers | None = None,
    report: Callable[[Progress], None] | None = None,
) -> FitResult:
    """Train a classifier (configuration, parameters): AdamW, rates that rise for a tenth of the steps and fall to zero.

    Vectors of words that no text holds, which have no gradient, come back as they were: to carry MiniLM's 30,522 through every
    step takes a third of the time.
    """
    config, params = start
    table = f"encoder.{config.family}.embeddings.word_embeddings.weight"
    flat = dict(tree.items(params))
    held = np.unique(np.concatenate([*token_ids, [config.pad_token_id]]))
    config = replace(config, vocab_size=len(held), pad_token_id=int(np.searchsorted(held, config.pad_token_id)))
    token_ids = [np.searchsorted(held, ids).astype(np.int32) for ids in token_ids]

    def make_batch(step: int) -> dict:
        rows = batch_indices(len(token_ids), recipe.batch, seed, step)
        ids, mask = pad([token_ids[i] for i in rows], config.pad_token_id)
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels[rows]}
        if teacher:
            batch["logits"] = teacher.logits[rows]
            if recipe.cosine:
                batch["states"] = np.zeros((*ids.shape, config.hidden_size), np.float32)
                batch["states"][mask == 1] = np.concatenate([teacher.states[i] for i in rows])
        return batch

    loss = loss_of(config, recipe, teacher is not None)
    step = sharded_value_and_grad(loss, shard_size=recipe.batch, threads=1, seed=seed)
    rates = (warmup_linear(rate, round(0.1 * recipe.steps), recipe.steps) for rate in (recipe.rate, HEAD_RATE))
    rules = dict(enumerate(adamw(rate, weight_decay=0.01) for rate in rates))
    rule = chain(clip_by_global_norm(1.0), by_group({name: int(name.startswith("head.")) for name in flat}, rules))
    few = tree.nest(flat | {table: flat[table][held]})
    result = fit(step, few, rule, make_batch, recipe.steps, seed=seed, report=report)
    learnt = dict(tree.items(result.params))
    whole = flat[table].copy()
    whole[held] = learnt[table]
    return result._replace(params=tree.nest(learnt | {table: whole}))


def first_step(start: tuple[Config, dict], token_ids: Sequence[np.ndarray], labels: np.ndarray, seed: int) -> dict:
    """Loss and norm of the gradient of the labels in the first batch, before any step: what needs no teacher."""
    result = train(start, token_ids, labels, Recipe(steps=1, rate=0.0), seed=seed)
    return {"start_loss": float(result.losses[0]), "start_gradient": float(result.gradient_norms[0])}


def read(classifier: tuple[Config, dict], token_ids: Sequence[np.ndarray], keep: bool = False) -> Answers:
    """What a classifier makes of texts; where it is told to ``keep`` them, the last layer's states too, in float16."""
    config, params = classifier
    logits = np.empty((len(token_ids), len(params["head"]["bias"])), np.float32)
    states: list[np.ndarray] = [np.empty(0)] * len(token_ids) if keep else []
    order = np.argsort([len(ids) for ids in token_ids], kind="stable")
    with one_blas_thread():
        for rows in np.split(order, range(PACK, len(order), PACK)):
            ids, mask = pad([token_ids[i] for i in rows], config.pad_token_id)
            hidden = encoder.encode(params["encoder"], config, ids, mask)
            logits[rows] = answers_of(params, hidden, mask)
            for row, own, length in zip(rows, hidden, mask.sum(axis=1), strict=True) if keep else ():
                states[row] = own[:length].astype(np.float16)
    return Answers(logits, states)


def sizes(model: Model, classifier: tuple[Config, dict], texts: Sequence[str], longest: int) -> dict:
    """Millions of parameters; processor time of one of the first TIMED texts, tokenizing (by the model, to so many tokens)
    included: the least of ROUNDS."""
    times, timed = [], texts[:TIMED]
    for _ in range(ROUNDS):
        began = time.process_time()
        read(classifier, [np.array(ids, np.int32) for ids in sentences.tokenize(model, timed, longest)])
        times.append(time.process_time() - began)
    return {"millions": sum(leaf.size for leaf in tree.leaves(classifier[1])) / 1e6, "ms": 1000 * min(times) / len(timed)}
