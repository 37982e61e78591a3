"""Plain arrays that take part in a gradient computation: they are not copied, so they must stay as they are until it is over.

A buffer that is filled anew in each turn of a loop would give a wrong gradient in silence. So some elements of each array are
kept (all of a small one) and compared when its gradient is computed.
"""

import numpy as np

ELEMENTS = 64  # that are kept of an array, at least, spread over it


class Plain:
    """The plain arrays that an operation read, and what they held."""

    __slots__ = ("arrays", "held")

    def __init__(self, arrays: list[np.ndarray]):
        self.arrays = arrays
        self.held = [_some(array) for array in arrays]

    def check(self, name: str) -> None:
        """Raise ValueError where one of them was written into since; ``name`` is that of the operation."""
        for array, held in zip(self.arrays, self.held, strict=True):
            if _some(array) != held:
                raise ValueError(
                    f"an array of shape {array.shape} was written into after {name} had used it and before the gradient was "
                    "computed, which needs what it held: make a new array in each turn of a loop, or pass a copy"
                )


def plain_of(values, parents) -> Plain | None:
    """The NumPy arrays among the values that have no parent, those in an index included; None where there is none."""
    arrays = []
    for value, parent in zip(values, parents, strict=True):
        if parent is None:
            arrays += [part for part in (value if type(value) is tuple else (value,)) if type(part) is np.ndarray]
    return Plain(arrays) if arrays else None


def _some(array: np.ndarray) -> bytes:
    return array.flat[:: max(1, array.size // ELEMENTS)].tobytes()
