"""Texts of two lengths, for experiments in which it matters how many tokens a micro-batch has to predict.

Short ones are requests to an assistant (some 12 tokens), long ones three questions to a bank end to end (some 44): a small
model learns both within minutes. Losses are told apart by kind, and averaged over tokens as well as over texts.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from bertcraft.bert import encoder, heads
from bertcraft.lab import pretraining
from bertcraft.pretrain.held_out import HeldOut
from bertcraft.tensor import functions as F

VOCABULARY, LENGTH = 2048, 64
SOURCES = {"short": (("clinc150", "hwu64"), 1), "long": (("banking77",), 3)}  # of the texts, and how many make one
DEV = 200  # long texts on which rates are chosen, and three times as many short ones


@lru_cache(maxsize=1)
def texts() -> dict[str, pretraining.Texts]:
    """Short and long texts with one tokenizer, each with the word frequencies of its own kind."""
    from bertcraft import data
    from bertcraft.data.batches import frame, pad, tokenize
    from bertcraft.data.tokenizer import train_wordpiece

    found, parts = data.corpus("utterances"), {}
    for kind, (sources, joined) in SOURCES.items():
        train, held_out = (
            _joined([each.text for each in documents if each.name.split("/")[0] in sources], joined)
            for documents in (found.train, found.held_out)
        )
        dev = DEV if kind == "long" else 3 * DEV
        parts[kind] = {"train": train[:-dev], "dev": train[-dev:], "held_out": held_out}
    tokenizer = train_wordpiece(parts["short"]["train"] + parts["long"]["train"], VOCABULARY, "accumulation")
    rows = {
        kind: {name: pad(frame(tokenize(tokenizer, own), 2, 3, LENGTH), 0, LENGTH)[0] for name, own in each.items()}
        for kind, each in parts.items()
    }
    rows["short"]["held_out"] = rows["short"]["held_out"][: 3 * len(rows["long"]["held_out"])]  # mixed as in training
    return {
        kind: pretraining.Texts(tokenizer, **own, log_frequency=pretraining.log_frequency(own["train"], VOCABULARY))
        for kind, own in rows.items()
    }


def _joined(documents: list[str], each: int) -> list[str]:
    """Random order, so many in a row made one text."""
    order = np.random.default_rng(0).permutation(len(documents))
    return [" ".join(documents[i] for i in order[at : at + each]) for at in range(0, len(order) - each + 1, each)]


def batch_maker(batch: int, long: int, seed: int, grouped: bool = False) -> Callable[[int], dict]:
    """``make_batch(step)``: ``long`` of ``batch`` texts are long, newly masked, in random order.

    ``grouped`` sorts a batch by length, as group_by_length of transformers' Trainer does: the same texts under the same masks,
    so the batch's gradient is the same, but short and long texts stand in micro-batches of their own.
    """
    from bertcraft.data.batches import batch_indices
    from bertcraft.train import generator

    both, vocabulary = texts(), texts()["short"].vocabulary
    count = len(both["short"].train)
    everything = np.concatenate([kind.train for kind in both.values()])

    def make_batch(step: int) -> dict:
        short = batch_indices(count, batch - long, seed, step)
        numbers = np.concatenate([short, count + batch_indices(len(both["long"].train), long, seed, step)])
        numbers = numbers[generator(seed, step).permutation(batch)]
        if grouped:
            numbers = numbers[np.argsort((everything[numbers] != 0).sum(axis=1), kind="stable")]
        return pretraining.mask(everything[numbers], numbers, np.full(batch, step), seed, 0.15, vocabulary)

    return make_batch


def model_losses(params: dict, config) -> Callable[[HeldOut, pretraining.Texts], np.ndarray]:
    """Of a model, for :func:`evaluate`: its loss at each chosen position, in nats."""

    def losses(test: HeldOut, texts: pretraining.Texts) -> np.ndarray:
        batch = test.batch
        hidden = encoder.encode(params, config, batch["input_ids"], batch["attention_mask"], at=batch["at"])
        counted = batch["labels"] != F.IGNORED
        logits, true = heads.masked_lm_logits(params, config, hidden[counted]), batch["labels"][counted]
        return F.logsumexp(logits) - np.take_along_axis(logits, true[:, None], axis=1)[:, 0]

    return losses


def frequency_losses(test: HeldOut, texts: pretraining.Texts) -> np.ndarray:
    """Of one who knows how often each word stands in texts of this kind, and nothing else, for :func:`evaluate`."""
    labels = test.batch["labels"]
    return -texts.log_frequency[labels[labels != F.IGNORED]]


def evaluate(losses: Callable[[HeldOut, pretraining.Texts], np.ndarray], part: str) -> dict[str, float]:
    """Losses at [MASK]: the mixture's mean over tokens and over texts, each kind's, and its gain over word frequencies.

    Beside them the mixture's "loss_kept" where the word was left, "loss_random" where another one stands, and "loss_all".
    """
    figures, tokens, each_text = {}, {"": [], "_kept": [], "_random": [], "_all": []}, []
    for kind, own in texts().items():
        test = HeldOut(getattr(own, part), own)
        counted = test.batch["labels"] != F.IGNORED
        shown = np.take_along_axis(test.batch["input_ids"], test.batch["at"], axis=1)[counted]
        masked, kept = shown == own.vocabulary["mask_id"], shown == test.batch["labels"][counted]
        found = losses(test, own).astype(np.float64)
        for name, which in (("", masked), ("_kept", kept), ("_random", ~masked & ~kept), ("_all", slice(None))):
            tokens[name].append(found[which])
        loss, numbers = float(found[masked].mean()), np.nonzero(counted)[0][masked]
        figures |= {f"{kind}_loss": loss, f"{kind}_gain": test.unigram - loss}
        counts = np.bincount(numbers)
        each_text.append(np.bincount(numbers, found[masked])[counts > 0] / counts[counts > 0])
    figures["text_loss"] = float(np.concatenate(each_text).mean())
    return figures | {f"loss{name}": float(np.concatenate(each).mean()) for name, each in tokens.items()}
