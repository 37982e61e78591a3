"""Rows of token ids from texts of any size, shuffled, and the rows of any step: memory stays flat, nothing is read ahead of need.

The blocks of a corpus (:mod:`bertcraft.data.files`) are visited in a new random order each epoch, ``WINDOW`` at a time: the
rows of a window are shuffled together, and it is all that is in memory, beside the next one in the making. So the rows of a step
are a function of corpus, seed and step. How many rows a window has is only known once it was made; the counts are kept beside
the run, and with them a run that goes on finds its place without making what it has already read.
"""

import functools
import hashlib
import itertools
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import numpy as np

from bertcraft.data import cache, files
from bertcraft.data.batches import epoch_order, pack, tokenize
from bertcraft.data.tokenizer import frame_ids
from bertcraft.errors import DataError, InputError

WINDOW = 16  # blocks whose rows are shuffled together: about 16 MB of text, 30,000 rows of 128 tokens


class Stream:
    """The rows of a corpus, by step. Close it, or use it in a ``with``, to end its worker processes."""

    def __init__(
        self, blocks: Sequence[files.Block], tokenizer, length: int, seed: int, *, workers: int = 0, counts: Path | None = None
    ):
        """``blocks`` as :func:`bertcraft.data.files.blocks` gives them, ``tokenizer`` a ``tokenizers.Tokenizer`` that puts [CLS]
        and [SEP], or two of its own, around a text, rows of ``length`` tokens. ``workers``: processes that tokenise ahead; 0:
        none, in this one when a row is needed. ``counts``: a file where the counts of rows are kept. Raises InputError when
        there are no blocks.
        """
        if not blocks:
            raise InputError("a stream needs at least one block of texts, got none")
        self.blocks, self.length, self.seed, self._file = list(blocks), length, seed, counts
        self._text = tokenizer.to_str()
        parts = [[(Path(part.path).name, part.start, part.stop) for part in block] for block in self.blocks]
        described = json.dumps([parts, self._text, length, seed, WINDOW])
        self.digest = hashlib.blake2b(described.encode(), digest_size=16).hexdigest()
        self._ends = self._kept()  # rows up to the end of each window, over all epochs
        self._made: dict[int, np.ndarray] = {}
        self._coming: dict[int, list[Future]] = {}
        # spawned: a fork would copy locks that threads of BLAS or JAX hold
        self._pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) if workers else None

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def batch(self, step: int, size: int) -> np.ndarray:
        """The ``size`` rows of a step: int32 (size, length), [CLS] tokens [SEP], all full.

        Step s takes rows s * size onwards, so that no row is left out or taken twice in an epoch, whatever the size. Raises
        DataError when the corpus does not fill one row.
        """
        first, stop, parts = step * size, (step + 1) * size, []
        for window in itertools.count(self._window_of(first)):
            rows = self._rows(window)
            begin = self._ends[window] - len(rows)
            parts.append(rows[max(first - begin, 0) : stop - begin])
            if self._ends[window] >= stop:
                return np.concatenate(parts)

    @property
    def windows_an_epoch(self) -> int:
        return -(-len(self.blocks) // WINDOW)

    def _window_of(self, row: int) -> int:
        """The window that holds a row; makes those before it whose counts are not known."""
        while not self._ends or self._ends[-1] <= row:
            self._rows(len(self._ends))
        return int(np.searchsorted(self._ends, row, side="right"))

    def _rows(self, window: int) -> np.ndarray:
        """The rows of a window, in their random order. At most this window and the futures of the next are kept."""
        if window not in self._made:
            if self._pool:
                parts = [future.result() for future in self._started(window)]
            else:
                parts = [rows_of(block, self._text, self.length) for block in self._blocks_of(window)]
            rows = np.concatenate(parts)
            if window < len(self._ends) and len(rows) != self._ends[window] - (self._ends[window - 1] if window else 0):
                names = ", ".join(sorted({str(part.path) for block in self._blocks_of(window) for part in block})[:3])
                raise DataError(f"the texts have changed since the run began ({names}): begin a new run in another folder")
            self._coming.pop(window, None)
            self._made = {window: rows[epoch_order(len(rows), self.seed, 2**32 + window)]}
            if window == len(self._ends):
                self._ends.append((self._ends[-1] if self._ends else 0) + len(rows))
                self._keep()
        if self._pool:
            self._started(window + 1)
        return self._made[window]

    def _started(self, window: int) -> list[Future]:
        if window not in self._coming:
            self._coming = {number: futures for number, futures in self._coming.items() if number == window - 1}
            self._coming[window] = [
                self._pool.submit(rows_of, block, self._text, self.length) for block in self._blocks_of(window)
            ]
        return self._coming[window]

    def _blocks_of(self, window: int) -> Iterator[files.Block]:
        epoch, number = divmod(window, self.windows_an_epoch)
        if number == 0 and epoch and self._ends[window - 1 : window] == [0]:
            raise DataError(f"the texts do not fill one row of {self.length} tokens: give more text, or shorter rows (--length)")
        order = epoch_order(len(self.blocks), self.seed, epoch)
        return (self.blocks[i] for i in order[number * WINDOW : (number + 1) * WINDOW])

    # ---- the counts of rows, in a file that is never half-written

    def _kept(self) -> list[int]:
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8")) if self._file else {}
        except (FileNotFoundError, ValueError):  # it is made again
            kept = {}
        return kept["ends"] if isinstance(kept, dict) and kept.get("digest") == self.digest else []

    def _keep(self) -> None:
        if self._file:
            cache.write(self._file, json.dumps({"digest": self.digest, "ends": self._ends}).encode())


@functools.lru_cache(maxsize=2)
def _tokenizer(text: str):
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(text)
    made.no_truncation()
    made.no_padding()
    return made


def rows_of(block: files.Block, tokenizer: str, length: int) -> np.ndarray:
    """The rows of a block, int32 (rows, length); what is left over at its end, less than a row, is dropped.

    ``tokenizer``: as ``to_str`` writes it.
    """
    made = _tokenizer(tokenizer)
    ids = tokenize(made, list(files.texts(block)))
    try:
        return pack(ids, length, *frame_ids(made))
    except DataError:  # not one row
        return np.empty((0, length), np.int32)
