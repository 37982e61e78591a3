"""Plain arrays and lists that take part in a gradient computation: not copied, they must stay as they are until it is over.

A buffer that is filled anew in each turn of a loop would give a wrong gradient in silence. So some elements of each array are
kept (all of a small one) and compared when its gradient is computed.
"""

import numpy as np

ELEMENTS = 64  # that are kept of an array, at least, spread over it


class Plain:
    """The plain arrays and lists that an operation read, and what they held."""

    __slots__ = ("arrays", "held")

    def __init__(self, arrays: list[np.ndarray | list]):
        self.arrays = arrays
        self.held = [_some(array) for array in arrays]

    def check(self, name: str) -> None:
        """Raise ValueError where one of them was written into since; ``name`` is that of the operation."""
        for array, held in zip(self.arrays, self.held, strict=True):
            if _some(array) != held:
                what = "a list" if type(array) is list else f"an array of shape {array.shape}"
                raise ValueError(
                    f"{what} was written into after {name} had used it and before the gradient was "
                    "computed, which needs what it held: make a new array in each turn of a loop, or pass a copy"
                )


def plain_of(values, parents) -> Plain | None:
    """The NumPy arrays and lists among the values that have no parent, those in an index included; None where there is none.

    values: of the arguments by position, whose parents are given, then of the others.
    """
    arrays = []
    for number, value in enumerate(values):
        if number >= len(parents) or parents[number] is None:
            arrays += [part for part in (value if type(value) is tuple else (value,)) if isinstance(part, (np.ndarray, list))]
    return Plain(arrays) if arrays else None


def _some(array: np.ndarray | list) -> bytes | str:
    if type(array) is list:
        return repr(array)
    return array.flat[:: max(1, array.size // ELEMENTS)].tobytes()
