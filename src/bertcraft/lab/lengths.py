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


def losses_at_mask(test: HeldOut, params: dict, config) -> tuple[np.ndarray, np.ndarray]:
    """The loss at each position that shows [MASK], in nats, and the number of its text."""
    batch, mask_id = test.batch, texts()["short"].vocabulary["mask_id"]
    shown = np.take_along_axis(batch["input_ids"], batch["at"], axis=1) == mask_id
    counted = shown & (batch["labels"] != F.IGNORED)
    hidden = encoder.encode(params, config, batch["input_ids"], batch["attention_mask"], at=batch["at"])[counted]
    logits, true = heads.masked_lm_logits(params, config, hidden), batch["labels"][counted]
    losses = F.logsumexp(logits) - np.take_along_axis(logits, true[:, None], axis=1)[:, 0]
    return losses.astype(np.float64), np.nonzero(counted)[0]


def evaluate(params: dict, config, part: str) -> dict[str, float]:
    """Losses at [MASK]: the mixture's mean over tokens and over texts, each kind's, and its gain over word frequencies."""
    figures, tokens, each_text = {}, [], []
    for kind, own in texts().items():
        test = HeldOut(getattr(own, part), own)
        losses, numbers = losses_at_mask(test, params, config)
        figures |= {f"{kind}_loss": float(losses.mean()), f"{kind}_gain": test.unigram - float(losses.mean())}
        counts = np.bincount(numbers)
        tokens.append(losses)
        each_text.append(np.bincount(numbers, losses)[counts > 0] / counts[counts > 0])
    loss, text_loss = (float(np.concatenate(parts).mean()) for parts in (tokens, each_text))
    return {"loss": loss, "text_loss": text_loss, **figures}
