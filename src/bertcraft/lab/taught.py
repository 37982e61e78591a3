"""Training a classifier of texts on labels, on a teacher's answers, or on both: what experiment 05 sets side by side.

The classifier is that of :mod:`bertcraft.lab.finetune`. Whatever it learns from, a seed gives the same batches, and (but
where states are learnt from) the same dropout; a batch is one shard, so that a loss is its mean over the batch, texts or tokens.

Shapes: n texts, C classes, H hidden size.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from bertcraft.bert import encoder, heads
from bertcraft.bert.config import Config
from bertcraft.bert.model import Model
from bertcraft.data.batches import batch_indices, pad
from bertcraft.lab import finetune as tuning
from bertcraft.techniques import knowledge_distillation as technique
from bertcraft.tensor import tree
from bertcraft.tensor.parallel import sharded_value_and_grad
from bertcraft.train import FitResult, Progress, adamw, chain, clip_by_global_norm, fit, warmup_linear

ROUNDS, TIMED = 3, 256  # of the clock, and the texts of each


@dataclass(frozen=True)
class Recipe:
    """What is learnt, and how. ``soft``: the share of soft targets beside labels, 1 for no labels; ``cosine``: the weight of the
    last layer's states beside both; without a teacher neither counts. ``smoothing``: of labels alone."""

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


def loss_of(config: Config, recipe: Recipe, taught: bool) -> Callable:
    """``loss(params, batch, rng)``; batches hold "labels" and, where it is ``taught``, "logits" and (for cosines) "states"."""
    by_states = taught and recipe.cosine > 0

    def loss(params, batch, rng):
        ids, mask = batch["input_ids"], batch["attention_mask"]
        at = None if by_states else np.zeros((len(ids), 1), np.int64)  # a classifier reads the first token alone
        hidden = encoder.encode(params, config, ids, mask, rng=rng, at=at)
        logits = heads.classification_logits(params, config, hidden, rng)
        if not taught:
            return tuning.smoothed_cross_entropy(logits, batch["labels"], recipe.smoothing)
        if recipe.soft == 1:
            total = technique.soft_target_loss(logits, batch["logits"], recipe.temperature)
        else:
            total = technique.hinton_loss(logits, batch["logits"], batch["labels"], recipe.temperature, recipe.soft)
        return total + recipe.cosine * technique.cosine_loss(hidden, batch["states"], mask) if by_states else total

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
    """Train a classifier (configuration, parameters): AdamW, a rate that rises for a tenth of the steps and falls to zero.

    Vectors of words that no text holds, which have no gradient, come back as they were: to carry MiniLM's 30,522 through every
    step takes a third of the time.
    """
    config, params = start
    table = f"{config.family}.embeddings.word_embeddings.weight"
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
    schedule = warmup_linear(recipe.rate, round(0.1 * recipe.steps), recipe.steps)
    rule = chain(clip_by_global_norm(1.0), adamw(schedule, weight_decay=0.01))
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


def states(config: Config, params: dict, token_ids: Sequence[np.ndarray], together: int = 64) -> list[np.ndarray]:
    """The last layer's states of each text, float16 (tokens, H): those of thousands of texts are kept, at two bytes a number."""
    found = []
    for first in range(0, len(token_ids), together):
        ids, mask = pad(token_ids[first : first + together], config.pad_token_id)
        hidden = encoder.encode(params, config, ids, mask).astype(np.float16)
        found += [own[:length] for own, length in zip(hidden, mask.sum(axis=1), strict=True)]
    return found


def probabilities(model: Model, classifier: tuple[Config, dict], texts: Sequence[str], longest: int) -> np.ndarray:
    """What a classifier (configuration, parameters) with the model's tokenizer answers: (n, C); texts are cut there."""
    return tuning.predict(tuning.Finetuned(model, "full", *classifier, {}, tuning.Settings(max_length=longest), {}, 0.0), texts)


def sizes(model: Model, classifier: tuple[Config, dict], texts: Sequence[str], longest: int) -> dict:
    """Millions of parameters; processor time of one of the first TIMED texts, tokenizing included: the least of ROUNDS."""
    times, timed = [], texts[:TIMED]
    for _ in range(ROUNDS):
        began = time.process_time()
        probabilities(model, classifier, timed, longest)
        times.append(time.process_time() - began)
    return {"millions": technique.count(classifier[0]) / 1e6, "ms": 1000 * min(times) / len(timed)}
