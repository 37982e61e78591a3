"""RoBERTa's optimisations: dynamic masking, full sentences without next-sentence prediction, large batches.

Liu et al., "RoBERTa: A Robustly Optimized BERT Pretraining Approach", 2019, arXiv:1907.11692. It is no new architecture:
BERT, trained with better choices on far more text. Section 4.1 draws the masks anew each time a text is read, section 4.2
fills the input with whole sentences and drops next-sentence prediction, section 4.3 makes the batches large.

Large batches need no code of their own here: :func:`bertcraft.tensor.parallel.sharded_value_and_grad` adds up the gradient
of a batch of any size shard by shard.

Shapes: N texts, L length, M masked positions of a row.
"""

from typing import NamedTuple

import numpy as np

from bertcraft.bert import encoder, heads
from bertcraft.bert.config import Config
from bertcraft.data.batches import pack
from bertcraft.tensor import functions as F

STATIC_COPIES = 10  # BERT masked its text ten times before training and read each copy four times (section 4.1)


class Masked(NamedTuple):
    """Texts with words to guess: what a masked language model learns from."""

    input_ids: np.ndarray  # (N, L) the texts with some tokens replaced
    at: np.ndarray  # (N, M) positions to predict
    labels: np.ndarray  # (N, M) the tokens that stood there, or -100 where a row has fewer than M


def uniforms(seed: int, rows: np.ndarray, reading: np.ndarray, count: int) -> np.ndarray:
    """Random numbers in [0, 1), (N, count), that depend on nothing but seed, row number and reading.

    The finaliser of splitmix64 (Steele, Lea & Flood 2014, figure 15) as a hash: a mask can be drawn again at any time, in
    any order, without a state to keep.
    """
    gamma, wide = 0x9E3779B97F4A7C15, np.uint64
    key = _mix(np.asarray(rows, wide)[:, None] * wide(gamma) + wide(seed * gamma % 2**64))
    key = _mix(key + np.asarray(reading, wide)[:, None] * wide(gamma))
    mixed = _mix(key + np.arange(1, count + 1, dtype=wide) * wide(gamma))
    return (mixed >> wide(11)) * 2.0**-53


def _mix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def chosen_positions(is_word: np.ndarray, order: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Choose ``rate`` of each row's words, at least one: their positions, (N, M), and which of these count, booleans (N, M).

    is_word booleans (N, L); order (N, L), random: the words with the smallest numbers are chosen. The share of a row is rounded
    to whole tokens (BERT's code counts [CLS] and [SEP], too), so M is the same for texts of one length. Nothing counts in a row
    without words.
    """
    number = np.where(is_word.any(axis=1), np.maximum(1, np.rint(rate * is_word.sum(axis=1))), 0).astype(np.int64)
    most = max(int(number.max(initial=0)), 1)
    at = np.argsort(np.where(is_word, order, 2.0), axis=1, kind="stable")[:, :most]
    counts = np.arange(most) < number[:, None]
    return np.where(counts, at, 0), counts


def mask_tokens(
    input_ids: np.ndarray, random: np.ndarray, *, mask_id: int, vocab_size: int, first_word_id: int, rate: float = 0.15
) -> Masked:
    """Choose ``rate`` of each text's tokens, at least one; 80 % become [MASK], 10 % a random word, 10 % stay.

    Devlin et al. 2019, section 3.1. input_ids integers (N, L); random (N, 3 L), uniform in [0, 1). Tokens below
    ``first_word_id`` are special and never chosen; nothing is predicted in a row of special tokens alone.
    """
    order, kind, word = np.split(random, 3, axis=1)
    at, chosen = chosen_positions(input_ids >= first_word_id, order, rate)
    labels = np.where(chosen, np.take_along_axis(input_ids, at, axis=1), F.IGNORED)

    kind, word = np.take_along_axis(kind, at, axis=1), np.take_along_axis(word, at, axis=1)
    random_word = first_word_id + (word * (vocab_size - first_word_id)).astype(input_ids.dtype)
    shown = np.where(kind < 0.8, mask_id, np.where(kind < 0.9, random_word, labels))
    masked = input_ids.copy()
    rows = np.broadcast_to(np.arange(len(input_ids))[:, None], at.shape)
    masked[rows[chosen], at[chosen]] = shown[chosen]
    return Masked(masked, at, labels)


def reading_number(readings: np.ndarray, copies: int | None) -> np.ndarray:
    """Which mask a text gets when it is read for the n-th time: the n-th (dynamic) or the (n mod copies)-th (static)."""
    return readings if copies is None else readings % copies


def trimmed(batch: dict) -> dict:
    """Cut a shard's padding down to its longest text: a batch sorted by length then costs little padding."""
    length = int(batch["attention_mask"].sum(axis=1).max())
    return {
        name: array[:, :length] if name in ("input_ids", "attention_mask", "token_type_ids") else array
        for name, array in batch.items()
    }


def masked_lm_loss(params: dict, batch: dict, rng, config: Config):
    """Mean cross-entropy of the chosen tokens, in nats; the last layer is computed where it is read.

    batch: input_ids (N, L), at and labels (N, M), and attention_mask (N, L) where some of it is padding.
    """
    hidden = encoder.encode(
        params, config, batch["input_ids"], batch.get("attention_mask"), batch.get("token_type_ids"), rng=rng, at=batch["at"]
    )
    return heads.masked_lm_loss(params, config, hidden, batch["labels"])


def predicted(batch: dict) -> int:
    """How many tokens of a batch are predicted: what a shard weighs."""
    return int(np.sum(batch["labels"] != F.IGNORED))


# ------------------------------------------------------------------------- the input formats of section 4.2

full_sentences = pack  # FULL-SENTENCES: rows of one length filled with text end to end, no next-sentence prediction


class SentencePairs(NamedTuple):
    """BERT's original input: two segments and whether the second follows the first."""

    input_ids: np.ndarray  # (n, length), padded
    token_type_ids: np.ndarray  # (n, length), 0 for the first segment and 1 for the second
    labels: np.ndarray  # (n,), 0 where the second follows the first, 1 where it was drawn from elsewhere


def sentence_pairs(
    documents: list[list[np.ndarray]], length: int, cls_id: int, sep_id: int, pad_id: int, rng: np.random.Generator
) -> SentencePairs:
    """SEGMENT-PAIR + NSP: [CLS] A [SEP] B [SEP]; B is the next sentence half of the time, else one of another document.

    documents: sentences as token ids. Each sentence but the last of its document starts one pair; the longer of the two
    is cut until both fit. Raises ValueError when there are not two documents to draw from.
    """
    if sum(bool(document) for document in documents) < 2:
        raise ValueError("sentence pairs need at least two documents that are not empty")
    ids, types, labels = [], [], []
    for d, document in enumerate(documents):
        for first, second in zip(document, document[1:], strict=False):
            other = int(rng.random() < 0.5)
            if other:
                pick = d
                while pick == d or not documents[pick]:
                    pick = int(rng.integers(len(documents)))
                second = documents[pick][int(rng.integers(len(documents[pick])))]
            a, b = list(first), list(second)
            while len(a) + len(b) > length - 3:
                (a if len(a) > len(b) else b).pop()
            row = [cls_id, *a, sep_id, *b, sep_id]
            padding = length - len(row)
            ids.append(row + [pad_id] * padding)
            types.append([0] * (len(a) + 2) + [1] * (len(b) + 1) + [0] * padding)
            labels.append(other)
    return SentencePairs(np.array(ids, np.int32), np.array(types, np.int32), np.array(labels, np.int32))


def masked_lm_and_next_sentence_loss(params: dict, batch: dict, rng, config: Config):
    """BERT's own objective, which RoBERTa gave up: the sum of the two cross-entropies (Devlin et al. 2019, section 3.1).

    ``batch`` as in :func:`masked_lm_loss`, and next_sentence (N,), 0 or 1.
    """
    first = np.zeros((len(batch["input_ids"]), 1), np.int64)
    everywhere = {**batch, "at": np.concatenate([first, batch["at"]], axis=1)}
    hidden = encoder.encode(
        params, config, batch["input_ids"], batch.get("attention_mask"), batch.get("token_type_ids"), rng=rng,
        at=everywhere["at"],
    )  # fmt: skip
    words = heads.masked_lm_loss(params, config, hidden[:, 1:], batch["labels"])
    return words + F.cross_entropy(heads.next_sentence_logits(params, config, hidden[:, :1]), batch["next_sentence"])
