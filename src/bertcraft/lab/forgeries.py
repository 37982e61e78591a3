"""Fakes that cost nothing: words drawn from counts of the training text in place of a generator's guesses.

Drawn by frequency, a fake is a word of the language in the wrong place. Drawn by how often it follows the word before it, it
fits on its left side.
"""

import numpy as np

from bertcraft.pretrain.objectives import FIRST_WORD
from bertcraft.tensor import functions as F

ANY = 0  # what stands for every word before, where it does not count


class Forger:
    """``forger(before, draw)``: words drawn from counts."""

    def __init__(self, rows: np.ndarray, vocab_size: int, neighbours: bool):
        """rows int32 (n, length) of token ids, padded with 0. ``neighbours``: count words by the token before them."""
        before, word = rows[:, :-1].ravel(), rows[:, 1:].ravel()
        counted = word >= FIRST_WORD
        before, word = before[counted], word[counted]
        if not neighbours:
            before = np.full_like(before, ANY)
        self.neighbours = neighbours
        self.words = word[np.argsort(before, kind="stable")]  # those that follow token 0, then token 1 ...
        self.counts = np.bincount(before, minlength=vocab_size)
        self.starts = np.cumsum(self.counts) - self.counts

    def __call__(self, before: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """Words of the shape of ``before``, the tokens that stand left of them; ``draw`` of that shape, uniform in [0, 1).

        After a token that no word ever followed, a word by its frequency.
        """
        before = before if self.neighbours else np.full_like(before, ANY)
        count = self.counts[before]
        place = np.where(
            count > 0, self.starts[before] + (draw * count).astype(np.int64), (draw * len(self.words)).astype(np.int64)
        )
        return self.words[place]


def before(masked: dict) -> np.ndarray:
    """The true token left of each masked place, (N, M), of a batch of :func:`bertcraft.pretrain.held_out.mask`."""
    ids, rows = masked["input_ids"].copy(), np.arange(len(masked["at"]))[:, None]
    counted = masked["labels"] != F.IGNORED
    ids[np.broadcast_to(rows, counted.shape)[counted], masked["at"][counted]] = masked["labels"][counted]
    return np.take_along_axis(ids, np.maximum(masked["at"] - 1, 0), axis=1)
