"""What a masked language model makes of text that it has not read, split by what it sees at a chosen position.

Of the positions that are chosen 80 % show [MASK], 10 % keep their word and 10 % show a random one (Devlin et al. 2019, section
3.1). A word that was kept can be copied: a model that learnt nothing else is far better at those positions, and so on average,
than word frequencies are. Only positions that show [MASK] tell whether it uses what stands around them, so these are what
"loss" and "accuracy" mean here.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bertcraft.bert import encoder, heads
from bertcraft.bert.config import Config
from bertcraft.pretrain.objectives import FIRST_WORD
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.tensor import functions as F

ROWS = 250  # evaluated at a time


class Words(NamedTuple):
    """What :class:`HeldOut` needs to know of the words."""

    vocabulary: dict  # the keyword arguments of masking.mask_tokens: mask_id, vocab_size, first_word_id
    log_frequency: np.ndarray  # (vocabulary,), see log_frequency


def mask(
    rows: np.ndarray, numbers: np.ndarray, reading: np.ndarray, seed: int, rate: float, vocabulary: dict, pad_id: int = 0
) -> dict:
    """A batch of masked texts: input_ids, at, labels, attention_mask. ``numbers`` and ``reading`` (n,) decide each mask."""
    random = masking.uniforms(seed, numbers, reading, 3 * rows.shape[1])
    masked = masking.mask_tokens(rows, random, rate=rate, **vocabulary)
    return {**masked._asdict(), "attention_mask": (rows != pad_id).astype(np.int32)}


def log_frequency(rows: np.ndarray, vocab_size: int, first_word: int = FIRST_WORD) -> np.ndarray:
    """Logarithm of each token's share in some rows, (vocab_size,), each counted once more than it stands there; tokens below
    ``first_word`` are special and never predicted."""
    counts = np.bincount(rows[rows >= first_word], minlength=vocab_size) + 1.0
    counts[:first_word] = 1e-3
    return np.log(counts / counts.sum())


class HeldOut:
    """Texts under masks that never change: ``held_out(params, config)`` is how well a masked language model guesses.

    ``unigram`` is the loss, in nats, of one who knows the word frequencies and nothing else, at the very positions that show
    [MASK]; ``unigram_all`` at all chosen positions. ``masked``: how many show [MASK].
    """

    def __init__(self, rows: np.ndarray, words, rate: float = 0.15, pad_id: int = 0):
        """rows int32 (n, length), padded with ``pad_id``; ``words``: a :class:`Words` or what has its two attributes."""
        rows = rows[np.argsort(-(rows != pad_id).sum(axis=1), kind="stable")]
        self.batch = mask(rows, np.arange(len(rows)), np.full(len(rows), 10**6), 0, rate, words.vocabulary, pad_id)
        self._mask_id = words.vocabulary["mask_id"]
        labels, shown = self._chosen(self.batch)
        unigram = -words.log_frequency[labels]
        masked = shown == self._mask_id
        self.masked = int(masked.sum())
        self.unigram, self.unigram_all = float(unigram[masked].mean()), float(unigram.mean())

    def __call__(self, params: dict, config: Config, encode: Callable = encoder.encode) -> dict[str, float | None]:
        """Losses in nats and accuracies as shares, each a mean over tokens; ``encode``: how states are computed.

        "loss" and "accuracy" at positions that show [MASK]; "loss_kept" at those that show the true word, "loss_random" at those
        that show another one; "loss_all" and "accuracy_all" at all of them. None where there is no such position.
        """
        labels, shown = self._chosen(self.batch)
        losses, right = [], []
        for start in range(0, len(self.batch["at"]), ROWS):
            part = masking.trimmed({name: array[start : start + ROWS] for name, array in self.batch.items()})
            types = {name: part[name] for name in ("token_type_ids",) if name in part}
            hidden = encode(params, config, part["input_ids"], part["attention_mask"], at=part["at"], **types)
            counted = part["labels"] != F.IGNORED
            logits, true = heads.masked_lm_logits(params, config, hidden[counted]), part["labels"][counted]
            losses.append(F.logsumexp(logits) - np.take_along_axis(logits, true[:, None], axis=1)[:, 0])
            right.append(logits.argmax(axis=1) == true)
        loss, right = np.concatenate(losses), np.concatenate(right)
        masked, kept = shown == self._mask_id, shown == labels
        return {
            "loss": _mean(loss[masked]), "accuracy": _mean(right[masked]), "loss_kept": _mean(loss[kept]),
            "loss_random": _mean(loss[~masked & ~kept]), "loss_all": _mean(loss), "accuracy_all": _mean(right),
        }  # fmt: skip

    @staticmethod
    def _chosen(batch: dict) -> tuple[np.ndarray, np.ndarray]:
        """What stood at each chosen position, and what is shown there."""
        counted = batch["labels"] != F.IGNORED
        return batch["labels"][counted], np.take_along_axis(batch["input_ids"], batch["at"], axis=1)[counted]


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean(dtype=np.float64)) if len(values) else None
