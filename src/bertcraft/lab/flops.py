"""Counting the arithmetic of code as it runs: the matrix products of any function written in NumPy, gradient included."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bertcraft.tensor import tree
from bertcraft.tensor.kernels import kernels_disabled
from bertcraft.tensor.tensor import Tensor


class Counted(np.ndarray):
    """An array that counts the products it takes part in; whatever is computed from it counts on.

    Kernels are switched off meanwhile, so what is counted is the readable definition.
    """

    tally: list[int] | None = None
    computes_as_ndarray = True

    def __array_finalize__(self, source):
        self.tally = getattr(source, "tally", None)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        if any(type(x) is Tensor for x in inputs):
            return NotImplemented  # it comes back here with the Tensor's value
        tally = next(x.tally for x in (*inputs, *(out or ())) if isinstance(x, Counted))
        inputs = [x.view(np.ndarray) if isinstance(x, Counted) else x for x in inputs]
        if out is not None:
            kwargs["out"] = tuple(x.view(np.ndarray) if isinstance(x, Counted) else x for x in out)
        result = getattr(ufunc, method)(*inputs, **kwargs)
        if ufunc is np.matmul and tally is not None:
            tally[0] += product(inputs[0], inputs[1], result)
        return _counted(result, tally)


def _counted(result, tally):
    if isinstance(result, tuple):
        return tuple(_counted(each, tally) for each in result)
    if not isinstance(result, (np.ndarray, np.generic)) or result.dtype.kind not in "fc":
        return result
    counted = np.asarray(result).view(Counted)
    counted.tally = tally
    return counted


def product(a, b, result) -> int:
    """Floating-point operations of ``a @ b``: a multiplication and an addition for each pair of numbers that meet."""
    return 2 * np.size(result) * np.shape(a)[-1]


def count(function: Callable, *args: Any, **kwargs: Any) -> int:
    """Operations in the matrix products of ``function(*args)``, and of no others.

    Every array of floating-point numbers in the arguments (trees of them too) counts what is computed from it. With
    ``bertcraft.value_and_grad(loss)`` as the function, forward and backward pass are counted. Products are what takes the
    time of a transformer, and what ``torch.utils.flop_counter`` counts.
    """
    tally = [0]

    def counting(leaf):
        if type(leaf) is not np.ndarray or leaf.dtype.kind != "f":
            return leaf
        return _counted(leaf, tally)

    with kernels_disabled():
        function(*tree.map(counting, args), **tree.map(counting, kwargs))
    return tally[0]
