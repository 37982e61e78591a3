"""Plain arrays and lists that take part in a gradient computation: not copied, they must stay as they are until it is over.

A buffer that is filled anew in each turn of a loop would give a wrong gradient in silence. So a hash of each array is kept and
compared when its gradient is computed: of all of it or, of a large one, of elements spread over it and of a line along each axis,
which every row, column or plane crosses.
"""

import math

import numpy as np

WHOLE, ELEMENTS = 1 << 16, 256  # bytes of an array up to which all counts, and elements of a larger one, at least


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
    arrays: list[np.ndarray | list] = []
    for number, value in enumerate(values):
        if number >= len(parents) or parents[number] is None:
            _collect(value, arrays)
    return Plain(arrays) if arrays else None


def _collect(value, arrays: list) -> None:
    if isinstance(value, np.ndarray):
        arrays.append(value)
    elif type(value) in (tuple, list):
        if type(value) is list:
            arrays.append(value)
        for part in value:
            if isinstance(part, (np.ndarray, tuple, list)):
                _collect(part, arrays)


def _some(array: np.ndarray | list) -> int | str:
    if type(array) is list:
        return repr(array)
    if array.nbytes <= WHOLE:
        return hash(array.tobytes())
    step = max(1, array.size // ELEMENTS)
    while math.gcd(step, array.shape[-1]) > 1:  # else some columns would never be looked at
        step += 1
    middle = tuple(length // 2 for length in array.shape)
    lines = [array[(*middle[:axis], slice(None), *middle[axis + 1 :])] for axis in range(array.ndim)]
    return hash(b"".join(part.tobytes() for part in (array.flat[::step], *lines)))
