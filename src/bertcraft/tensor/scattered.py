"""The gradient of a table of which only some rows were read."""

from dataclasses import dataclass

import numpy as np

_WIDE = 256  # elements of a row above which np.add.reduceat takes longer than one addition a row


@dataclass(frozen=True)
class Scattered:
    """Rows to be added up in a table of zeros: ``rows`` (n, width) at the row numbers ``ids`` (n,), which may repeat.

    A table that is read in two ways, as words are by BERT's input and its head, has a gradient of all rows already: adding
    these to it saves making, and adding, a table that is mostly 0.
    """

    shape: tuple[int, int]
    ids: np.ndarray
    rows: np.ndarray

    def add_to(self, table: np.ndarray) -> None:
        """Add the rows to a table of this shape, in place."""
        if self.shape[1] > _WIDE:
            for i, row in zip(self.ids.tolist(), self.rows, strict=True):
                table[i] += row
        elif len(self.ids):
            order = np.argsort(self.ids, kind="stable")
            ordered = self.ids[order]
            starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
            table[ordered[starts]] += np.add.reduceat(self.rows[order], starts, axis=0)

    def dense(self) -> np.ndarray:
        """The table."""
        table = np.zeros(self.shape, self.rows.dtype)
        self.add_to(table)
        return table
