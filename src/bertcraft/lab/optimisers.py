"""Full fine-tuning by an optimiser of an arm's own: other schedules, rates by layer, another decay, another clipping.

:func:`bertcraft.lab.finetune.finetune` knows one rule, AdamW, of which some numbers can be set. Here the rule itself is what an
arm changes (techniques 08, 09, 14 and 20); texts, batches, dropout and the start are those of that function. (The loop of
:mod:`bertcraft.lab.ruled` is a near relation; stored results rest on that one as it stands.)
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from bertcraft.bert import encoder, sentences
from bertcraft.bert.config import Config
from bertcraft.bert.model import Model
from bertcraft.data.batches import batch_indices, pad
from bertcraft.lab import finetune as tuning
from bertcraft.techniques import adapter_modules, advanced_scheduling, gradient_clipping, weight_decay
from bertcraft.techniques import layerwise_learning_rates as by_depth
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.tensor import functions as F
from bertcraft.tensor.parallel import pool, sharded_value_and_grad
from bertcraft.train import Progress, Rule, adamw, chain, fit, warmup_linear
from bertcraft.train.schedules import Schedule

RuleOf = Callable[[tuning.Settings, dict, Config], Rule]  # of an arm's settings, the parameters and their configuration

# --------------------------------------------------------------------------------------------------------------- rules


def _warmup(settings: tuning.Settings) -> int:
    return min(round(settings.warmup * settings.steps), settings.steps)


def _line(settings: tuning.Settings) -> Schedule:
    return warmup_linear(settings.rate, _warmup(settings), settings.steps)


def layerwise(decay: float) -> RuleOf:
    """AdamW with a rate that falls by ``decay`` from each layer to the one below (technique 08)."""

    def rule(settings: tuning.Settings, params: dict, config: Config) -> Rule:
        factors, depth = by_depth.factors(decay, config.num_hidden_layers), by_depth.depths(params, config)
        return by_depth.layerwise(_line(settings), factors, depth, partial(adamw, weight_decay=settings.weight_decay))

    return rule


def scheduled(name: str) -> RuleOf:
    """AdamW with a schedule of technique 09, by its name there."""

    def rule(settings: tuning.Settings, params: dict, config: Config) -> Rule:
        schedule = advanced_scheduling.named(name, settings.rate, _warmup(settings), settings.steps)
        return adamw(schedule, weight_decay=settings.weight_decay)

    return rule


def l2(settings: tuning.Settings, params: dict, config: Config) -> Rule:
    """Adam with the decay in its gradient (technique 14, equation 2)."""
    return weight_decay.adam_l2(_line(settings), settings.weight_decay)


def all_decay(settings: tuning.Settings, params: dict, config: Config) -> Rule:
    """AdamW that spares no parameter, as torch's where nobody makes groups (technique 14)."""
    return adamw(_line(settings), weight_decay=settings.weight_decay, decay=weight_decay.everything)


def adaptive(settings: tuning.Settings, params: dict, config: Config) -> Rule:
    """AdamW behind adaptive clipping at 0.01, the new head left as it is (technique 20)."""
    clip = gradient_clipping.adaptive(0.01, skipped=lambda name: name.startswith("classifier."))
    return chain(clip, adamw(_line(settings), weight_decay=settings.weight_decay))


# ------------------------------------------------------------------------------------------------------------- training


def finetune(
    model: Model,
    train: tuning.Texts,
    rule_of: RuleOf,
    settings: tuning.Settings,
    *,
    classes: int,
    seed: int,
    threads: int = 1,
    head: dict | None = None,
    report: Callable[[Progress], None] | None = None,
) -> tuning.Finetuned:
    """A classifier whose every parameter is trained by ``rule_of(settings, params, config)``.

    Of the settings schedule and clipping are the rule's business, and no label is smoothed. head: one to start from, of
    :func:`bertcraft.lab.finetune.probe`. Raises TrainingError where numbers overflow.
    """
    started = time.perf_counter()
    tokens = [np.array(ids, np.int32) for ids in sentences.tokenize(model, train.texts, settings.max_length)]
    config, params = tuning.classifier(model, classes, seed, settings.dropout)
    params = adapter_modules.overlay(params, head or {})
    labels, pad_id = np.asarray(train.labels, np.int64), config.pad_token_id or 0

    def make_batch(step: int) -> dict:
        rows = batch_indices(len(train), settings.batch_size, seed, step)
        rows = rows[np.argsort([-len(tokens[i]) for i in rows], kind="stable")]  # shards of like length: little padding
        ids, mask = pad([tokens[i] for i in rows], pad_id)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels[rows]}

    def loss(params, batch, rng):
        return F.cross_entropy(tuning.logits(params, config, encoder.BERT, batch, rng), batch["labels"])

    step_function = sharded_value_and_grad(
        loss, shard_size=settings.shard_size, weight=lambda batch: len(batch["labels"]), prepare=masking.trimmed,
        threads=threads, seed=seed,
    )  # fmt: skip
    result = fit(
        step_function, params, rule_of(settings, params, config), make_batch, settings.steps, seed=seed, report=report,
        pool=pool(threads) if threads > 1 else None,
    )  # fmt: skip
    history = {"losses": result.losses.tolist(), "gradient_norms": result.gradient_norms.tolist(), "evaluations": []}
    seconds = time.perf_counter() - started
    return tuning.Finetuned(model, "full", config, params, result.params, settings, history, seconds)
