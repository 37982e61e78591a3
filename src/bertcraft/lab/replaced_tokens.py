"""Small encoders that guess masked words, or tell replaced ones: the trainings that experiment 02 compares.

Every one reads the same masked texts in the same order; they differ in what is made of a masked place and in what is asked.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np

from bertcraft.bert import Config, encoder, heads, initial_params
from bertcraft.lab import flops, forgeries, pretraining
from bertcraft.lab.pretraining import Setting, Texts
from bertcraft.pretrain.held_out import HeldOut
from bertcraft.techniques import electra_pretraining as technique
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.tensor import functions as F
from bertcraft.tensor.parallel import sharded_value_and_grad

COUNTED = 4  # batches whose operations are counted; their mean is the price of a step


@dataclass(frozen=True)
class Task:
    """What is trained: texts, parameters to start from and objective; ``config``: the encoder's that is kept.

    ``guesser``: of the model that guesses masked tokens: a masked language model itself, ELECTRA's generator, None where fakes
    are drawn from counts. ``split``: all parameters -> the guesser's and the kept encoder's.
    """

    setting: Setting
    texts: Texts
    config: Config
    guesser: Config | None
    start: dict
    split: Callable[[dict], tuple[dict, dict]]
    make_batch: Callable[[int], dict]
    drawn: Callable[[dict, tuple], dict]  # masked texts with what decides their fakes; the second tells draws apart
    loss: Callable
    weight: Callable[[dict], float] | None  # of a shard
    step_flops: float = 0.0

    @property
    def detects(self) -> bool:
        """Whether there is a discriminator."""
        return self.config.head == "replaced_token_detection"

    def replaced(self, guesser: dict, batch: dict) -> technique.Replaced:
        """What the discriminator reads of a batch of this task."""
        if self.guesser is None:
            return technique.replace_tokens(batch, batch["samples"])
        hidden = encoder.encode(guesser, self.guesser, batch["input_ids"], batch["attention_mask"], at=batch["at"])
        logits = heads.masked_lm_logits(guesser, self.guesser, hidden)
        return technique.replace_tokens(batch, technique.sample(logits, batch["draw"]))


def task_of(settings: dict, seed: int) -> Task:
    """An arm's training, priced."""
    known = {field.name for field in fields(Setting)}
    setting = Setting(**{name: value for name, value in settings.items() if name in known})
    texts = pretraining.prepare(setting)
    build = {"mask": _masked_lm, "generator": _electra}.get(settings["fakes"], _from_counts)
    task = build(settings, setting, texts, seed)
    return replace(task, step_flops=_step_flops(task))


def _config(setting: Setting, vocab_size: int, head: str) -> Config:
    """The encoder of every arm. Its 4 attention heads let a generator have a quarter of them."""
    return pretraining.config_of(
        setting, vocab_size, family="electra", head=head, num_attention_heads=4, embedding_size=setting.hidden
    )


def _masked_lm(settings: dict, setting: Setting, texts: Texts, seed: int) -> Task:
    config = _config(setting, len(texts.log_frequency), "masked_lm")
    start = initial_params(config, seed)
    start["generator_lm_head"]["bias"][:] = texts.log_frequency
    return Task(
        setting, texts, config, config, start, lambda params: (params, params), pretraining.batch_maker(setting, texts, seed),
        lambda batch, key: batch, lambda params, batch, rng: masking.masked_lm_loss(params, batch, rng, config),
        masking.predicted,
    )  # fmt: skip


def _electra(settings: dict, setting: Setting, texts: Texts, seed: int) -> Task:
    config, sharing = _config(setting, len(texts.log_frequency), "replaced_token_detection"), settings["sharing"]
    generator = technique.generator_config(config, settings["width"])
    start = technique.initial_params(generator, config, seed, sharing)
    start["generator"]["generator_lm_head"]["bias"][:] = texts.log_frequency
    loss = partial(
        technique.electra_loss, generator=generator, discriminator=config, weight=settings["weight"], sharing=sharing,
        detect=settings["detect"],
    )  # fmt: skip
    return Task(
        setting, texts, config, generator, start, lambda params: technique.models(params, sharing),
        _making(setting, texts, seed, _drawn), _drawn, loss, None,
    )  # fmt: skip


def _from_counts(settings: dict, setting: Setting, texts: Texts, seed: int) -> Task:
    """A discriminator alone, whose fakes are drawn from counts of the training text."""
    config = _config(setting, len(texts.log_frequency), "replaced_token_detection")
    forger = forgeries.Forger(texts.train, config.vocab_size, neighbours=settings["fakes"] == "neighbours")

    def drawn(batch: dict, key: tuple) -> dict:
        batch = _drawn(batch, key)
        return {**batch, "samples": forger(forgeries.before(batch), batch["draw"])}

    def loss(params, batch, rng):
        replaced = technique.replace_tokens(batch, batch["samples"])
        hidden = encoder.encode(params, config, replaced.input_ids, batch["attention_mask"], rng=rng)
        return F.binary_cross_entropy(heads.detection_logits(params, config, hidden), replaced.fake, batch["attention_mask"] == 1)

    return Task(
        setting, texts, config, None, initial_params(config, seed), lambda params: ({}, params),
        _making(setting, texts, seed, drawn), drawn, loss, lambda batch: float(batch["attention_mask"].sum()),
    )  # fmt: skip


def _making(setting: Setting, texts: Texts, seed: int, drawn: Callable) -> Callable[[int], dict]:
    """The masked texts of a step, the same in every arm, with what decides their fakes."""
    masked = pretraining.batch_maker(setting, texts, seed)
    return lambda step: drawn(masked(step), (seed, 4, step))


def _drawn(batch: dict, key: tuple) -> dict:
    return technique.electra_batch(batch, np.random.default_rng(key).random(batch["at"].shape))


def gradient(task: Task, threads: int, seed: int) -> Callable:
    """Loss and gradient of a step: ``(params, batch, step)``."""
    return sharded_value_and_grad(
        task.loss, shard_size=task.setting.shard, weight=task.weight, prepare=masking.trimmed, threads=threads, seed=seed
    )


def _step_flops(task: Task) -> float:
    """Operations of a training step, forward and backward: the mean of the first batches."""
    step = gradient(task, 1, 0)
    return float(np.mean([flops.count(step, task.start, task.make_batch(i), 0) for i in range(COUNTED)]))


def detection(task: Task, held_out: HeldOut, params: dict) -> dict:
    """The discriminator's loss on held-out text, and "chance", that of one who knows the share of fakes among the words, and that
    special tokens are never fakes, and nothing else (equation 6 of the lesson); "fakes": that share, "told": by how much the
    loss lies below chance, both in %."""
    batch = task.drawn(masking.trimmed(held_out.batch), (5,))
    guesser, kept = task.split(params)
    replaced = task.replaced(guesser, batch)
    hidden = encoder.encode(kept, task.config, replaced.input_ids, batch["attention_mask"])
    tokens = batch["attention_mask"] == 1
    loss = float(F.binary_cross_entropy(heads.detection_logits(kept, task.config, hidden), replaced.fake, tokens))
    words = float(np.sum((batch["input_ids"] >= pretraining.FIRST_WORD) | replaced.masked))
    fakes = float(replaced.fake.sum()) / words
    chance = words / float(tokens.sum()) * float(-fakes * np.log(fakes) - (1 - fakes) * np.log(1 - fakes))
    return {"detection": loss, "chance": chance, "fakes": 100 * fakes, "told": 100 * (1 - loss / chance)}
