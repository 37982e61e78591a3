"""From texts to arrays of token ids, and from (seed, step) to the examples of a batch."""

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bertcraft.errors import DataError, InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHUNK = 2_000  # texts encoded at a time: the library's encodings take far more memory than the ids


def tokenize(tokenizer: "Tokenizer", texts: Sequence[str]) -> list[np.ndarray]:
    """Token ids of each text, without special tokens: int32 arrays of shape (tokens,).

    Raises InputError when the tokenizer cuts or pads, which would pass unnoticed.
    """
    if tokenizer.truncation or tokenizer.padding:
        raise InputError("the tokenizer cuts or pads texts; call its no_truncation() and no_padding()")
    ids = []
    for start in range(0, len(texts), CHUNK):
        chunk = list(texts[start : start + CHUNK])
        encoded = tokenizer.encode_batch_fast(chunk, add_special_tokens=False)
        ids += [np.array(text.ids, np.int32) for text in encoded]
    return ids


def pack(token_lists: Iterable[np.ndarray], length: int, cls_id: int, sep_id: int) -> np.ndarray:
    """Rows [CLS] tokens [SEP] of one length, without padding.

    This is FULL-SENTENCES of RoBERTa (Liu et al. 2019, section 4.2), with rows cut at a token instead of a
    sentence, so that all are full. The texts are laid end to end; where one ends inside a row, a [SEP] stands
    before the next. Empty texts are skipped; what is left over at the end, less than a row, is dropped.

    Returns int32 of shape (rows, length). Raises DataError when the texts do not fill one row, InputError
    when ``length`` is below 3.
    """
    if length < 3:
        raise InputError(f"length is {length}: expected at least 3, room for [CLS], a token and [SEP]")
    room = length - 2
    stream: list[np.ndarray] = []
    total = 0
    separator = np.array([sep_id], np.int32)
    for tokens in token_lists:
        if len(tokens) == 0:
            continue
        if total % room:  # not where a row ends anyway
            stream.append(separator)
            total += 1
        stream.append(np.asarray(tokens, np.int32))
        total += len(tokens)
    count = total // room
    if count == 0:
        raise DataError(f"the texts hold {total} tokens, a row of length {length} takes {room}: give more text")
    rows = np.empty((count, length), np.int32)
    rows[:, 0], rows[:, -1] = cls_id, sep_id
    rows[:, 1:-1] = np.concatenate(stream)[: count * room].reshape(count, room)
    return rows


def frame(token_lists: Iterable[np.ndarray], cls_id: int, sep_id: int, length: int | None = None) -> list[np.ndarray]:
    """Each text as [CLS] tokens [SEP], int32; with ``length``, tokens are cut so that none is longer.

    Raises InputError for a length below 2.
    """
    if length is not None and length < 2:
        raise InputError(f"length is {length}: expected at least 2, room for [CLS] and [SEP]")
    room = None if length is None else length - 2
    return [np.concatenate(([cls_id], tokens[:room], [sep_id])).astype(np.int32) for tokens in token_lists]


def pad(token_lists: Sequence[np.ndarray], pad_id: int, length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Texts of different lengths as one array: (input_ids, attention_mask), int32 of shape (texts, length).

    The mask is 1 on tokens and 0 on padding, which stands on the right. Without ``length`` the longest text
    sets it.
    Raises InputError when a text is longer than ``length``.
    """
    lengths = np.array([len(tokens) for tokens in token_lists], np.int64)
    longest = int(lengths.max(initial=0))
    length = longest if length is None else length
    if longest > length:
        raise InputError(f"a text has {longest} tokens, more than length {length}: cut them first, see frame")
    mask = np.arange(length) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, np.int32)
    if longest:
        ids[mask] = np.concatenate(token_lists)
    return ids, mask.astype(np.int32)


@functools.lru_cache(maxsize=8)
def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch visits n examples: a read-only permutation of range(n), int64.

    A function of its arguments alone, different for each epoch and seed. Raises InputError for negative
    arguments.
    """
    if n < 0 or seed < 0 or epoch < 0:
        raise InputError(f"expected n, seed and epoch of 0 or more, got n={n}, seed={seed}, epoch={epoch}")
    entropy = np.random.SeedSequence(seed, spawn_key=(epoch,))
    order = np.random.Generator(np.random.PCG64(entropy)).permutation(n)
    order.flags.writeable = False
    return order


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Which of n examples make up the batch of a step: int64 of shape (batch_size,).

    The epochs' orders are laid end to end and step s takes positions s * batch_size onwards, so every
    example is seen exactly once an epoch, a batch may span two epochs, and a run resumed at any step needs
    no other state.
    Raises InputError when n or batch_size is below 1 or step is negative.
    """
    if n < 1 or batch_size < 1 or step < 0:
        got = f"n={n}, batch_size={batch_size}, step={step}"
        raise InputError(f"expected n and batch_size of 1 or more and a step of 0 or more, got {got}")
    first, stop = step * batch_size, (step + 1) * batch_size
    parts = []
    for epoch in range(first // n, (stop - 1) // n + 1):
        order = epoch_order(n, seed, epoch)
        parts.append(order[max(first - epoch * n, 0) : stop - epoch * n])
    return np.concatenate(parts)
