"""Pretraining at a scale where minutes count: texts, a small encoder and a training run, for experiments.

A corpus has three parts. ``train`` is learnt from. ``dev`` is where settings may be chosen. ``held_out`` is what an experiment
reports and nothing is ever chosen on.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from bertcraft.bert import Config
from bertcraft.lab.experiment import Context
from bertcraft.pretrain.held_out import log_frequency, mask
from bertcraft.pretrain.objectives import FIRST_WORD
from bertcraft.techniques import roberta_optimizations as masking

PARTS = ("train", "dev", "held_out")


@dataclass(frozen=True)
class Setting:
    """What is trained on what, and for how long."""

    corpus: str = "utterances"
    packed: bool = False  # rows filled with text end to end; else a row is a text, cut or padded
    vocab_size: int = 4096
    length: int = 32  # of a row, in tokens
    texts: int | None = None  # rows of ``train``; None: all there are
    held_out: int = 3000  # rows of ``held_out``, and as many of ``dev``
    layers: int = 2
    hidden: int = 128
    batch: int = 64
    shard: int = 16
    steps: int = 1300
    rate: float = 2e-3
    warmup: int = 50
    mask_rate: float = 0.15
    evaluations: int = 10


@dataclass(frozen=True)
class Texts:
    """Rows of token ids with [CLS] and [SEP], padded with 0: int32 (n, length) for each part."""

    tokenizer: Any
    train: np.ndarray
    dev: np.ndarray
    held_out: np.ndarray
    log_frequency: np.ndarray  # (vocabulary,) of the tokens of ``train``

    @property
    def vocabulary(self) -> dict:
        """What :func:`masking.mask_tokens` needs to know of it."""
        return vocabulary(self.tokenizer)


def vocabulary(tokenizer) -> dict:
    """The keyword arguments of :func:`masking.mask_tokens` that come from the tokenizer."""
    mask_id = tokenizer.token_to_id("[MASK]")
    return {"mask_id": mask_id, "vocab_size": tokenizer.get_vocab_size(), "first_word_id": FIRST_WORD}


# ------------------------------------------------------------------------------------------------------------- texts


def prepare(setting: Setting) -> Texts:
    """Fetch the corpus, train its tokenizer (both kept for the next time) and make rows of its texts."""
    s = setting
    return _prepare(s.corpus, s.packed, s.vocab_size, s.length, s.texts, s.held_out)


@lru_cache(maxsize=2)
def _prepare(corpus, packed, vocab_size, length, texts, held_out) -> Texts:
    from bertcraft.data.batches import frame, pack, pad, tokenize

    tokenizer, parts = documents(corpus, vocab_size)
    pad_id, cls_id, sep_id = (tokenizer.token_to_id(token) for token in ("[PAD]", "[CLS]", "[SEP]"))
    rows = {}
    for part, most in (("train", texts), ("dev", held_out), ("held_out", held_out)):
        if packed:
            enough = None if most is None else most * (length - 2)
            rows[part] = pack(tokenize_some(tokenizer, parts[part], enough), length, cls_id, sep_id)[:most]
        else:
            framed = frame(tokenize(tokenizer, parts[part][:most]), cls_id, sep_id, length)
            rows[part] = pad(framed, pad_id, length)[0]
    return Texts(tokenizer, **rows, log_frequency=log_frequency(rows["train"], tokenizer.get_vocab_size()))


def documents(corpus: str, vocab_size: int) -> tuple[Any, dict[str, list[str]]]:
    """A WordPiece tokenizer learnt from the training texts of a corpus, and the documents of each part in an order that is
    random (a corpus is sorted by source) and always the same."""
    from bertcraft import data
    from bertcraft.data.tokenizer import train_wordpiece

    found = data.corpus(corpus)
    train, held_out = [d.text for d in found.train], [d.text for d in found.held_out]
    tokenizer = train_wordpiece(train, vocab_size, corpus)
    order = np.random.default_rng(0).permutation(len(held_out))
    half = len(held_out) // 2
    parts = {
        "train": [train[i] for i in np.random.default_rng(1).permutation(len(train))],
        "dev": [held_out[i] for i in order[half:]],
        "held_out": [held_out[i] for i in order[:half]],
    }
    return tokenizer, parts


def tokenize_some(tokenizer, texts: list[str], enough: int | None) -> Iterator[np.ndarray]:
    """Token ids of each text in turn, until there are ``enough`` tokens (None: of all texts)."""
    from bertcraft.data.batches import tokenize

    total = 0
    for start in range(0, len(texts), 200):
        if enough is not None and total >= enough:
            return
        for tokens in tokenize(tokenizer, texts[start : start + 200]):
            total += len(tokens)
            yield tokens


# ------------------------------------------------------------------------------------------------- model and batches


def config_of(setting: Setting, vocab_size: int, **changes) -> Config:
    """The small BERT that is trained, without dropout: in some minutes it does not overfit."""
    options = {
        "family": "bert", "head": "masked_lm", "vocab_size": vocab_size, "hidden_size": setting.hidden,
        "num_hidden_layers": setting.layers, "num_attention_heads": max(1, setting.hidden // 64),
        "intermediate_size": 4 * setting.hidden, "max_position_embeddings": setting.length,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    return Config(**options | changes)


def initial(config: Config, texts: Texts, seed: int) -> dict:
    """Parameters of a masked language model that knows the word frequencies: no minutes are spent on learning them."""
    from bertcraft.bert import initial_params

    params = initial_params(config, seed)
    params["cls"]["predictions"]["bias"][:] = texts.log_frequency
    return params


def batch_maker(setting: Setting, texts: Texts, seed: int, copies: int | None = None) -> Callable[[int], dict]:
    """``make_batch(step)``: the texts of a step, masked, the longest first; it depends on nothing but the step.

    ``copies``: how many masks a text has, read in turn; None: a new one at each reading.
    """
    from bertcraft.data.batches import batch_indices

    count, vocabulary = len(texts.train), texts.vocabulary

    def make_batch(step: int) -> dict:
        rows = batch_indices(count, setting.batch, seed, step)
        readings = np.arange(step * setting.batch, (step + 1) * setting.batch) // count
        order = np.argsort(-(texts.train[rows] != 0).sum(axis=1), kind="stable")
        rows, reading = rows[order], masking.reading_number(readings[order], copies)
        return mask(texts.train[rows], rows, reading, seed, setting.mask_rate, vocabulary)

    return make_batch


# ---------------------------------------------------------------------------------------------------------- training


def train(
    setting: Setting,
    params: dict,
    loss: Callable,
    make_batch: Callable[[int], dict],
    *,
    seed: int,
    context: Context,
    signature: dict,
    evaluate: Callable[[dict], dict] | None = None,
    weight: Callable[[dict], float] = masking.predicted,
    steps: int | None = None,
):
    """Train for ``setting.steps`` steps, or go on where the run in ``context.folder`` was stopped; a ``FitResult``.

    ``steps``: stop after so many; learning rates are those of the whole run. (An experiment's replay takes the first few.)

    ``loss(params, batch, rng)`` is a mean over the ``weight(batch)`` items of its batch; ``rng`` is the shard's own generator.
    ``evaluate(params)``, JSON, is called ``setting.evaluations`` times, the last time at the end. ``signature``: whatever else
    tells this run from others (the arm).
    """
    from bertcraft.tensor.parallel import pool, sharded_value_and_grad
    from bertcraft.train import adamw, chain, clip_by_global_norm, fit, warmup_linear

    step = sharded_value_and_grad(
        loss, shard_size=setting.shard, weight=weight, prepare=masking.trimmed, threads=context.threads, seed=seed
    )
    rate = warmup_linear(setting.rate, setting.warmup, setting.steps)
    rule = chain(clip_by_global_norm(1.0), adamw(rate, b2=0.98, eps=1e-6, weight_decay=0.01))  # RoBERTa, section 3.1
    return fit(
        step, params, rule, make_batch, steps or setting.steps, seed=seed, folder=context.folder, save_every_seconds=10,
        signature={**signature, **asdict(setting)}, evaluate=evaluate,
        evaluate_every=max(1, setting.steps // setting.evaluations), report=_reporting(context), pool=pool(context.threads),
    )  # fmt: skip


def _reporting(context: Context) -> Callable:
    """What ``fit`` tells after a step as a line for people: smoothed loss, speed, time left."""
    smooth = None

    def report(progress) -> None:
        nonlocal smooth
        smooth = progress.loss if smooth is None else 0.98 * smooth + 0.02 * progress.loss
        speed = f"{(progress.tokens_per_second or 0) / 1000:.0f}k tokens/s"
        line = f"{progress.step}/{progress.steps} loss {smooth:.2f} {speed} {progress.seconds_left:.0f} s left"
        context.report(progress.step, progress.steps, line)

    return report
