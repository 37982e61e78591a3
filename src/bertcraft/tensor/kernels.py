"""Which functions may be replaced by a fast kernel, and when.

A function of :mod:`bertcraft.tensor.functions` is a definition that anybody can read. Where only values or first
derivatives of NumPy arrays are asked for, a kernel of :mod:`bertcraft.tensor.fused` may stand in for it.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from bertcraft.tensor.arguments import is_foreign, is_jax
from bertcraft.tensor.plain import plain_of
from bertcraft.tensor.tensor import Node, Tensor, depth, stand_in

_enabled = True


@contextmanager
def kernels_disabled() -> Iterator[None]:
    """Use the plain definitions within a ``with`` block: changes the time and nothing else. For all threads."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def fusable(definition: Callable) -> Callable:
    """Let a function be replaced by a fast kernel where only values or first derivatives are asked of NumPy arrays.

    The kernel, registered with :func:`kernel`, is called as ``kernel(needs, *values, **options)``, where ``needs`` says
    for each positional argument whether its gradient is wanted. It returns ``(value, backward)`` or NotImplemented;
    ``backward(g)`` returns one gradient, or None, for each positional argument: an array, or for a table of which only
    some rows were read a :class:`bertcraft.tensor.scattered.Scattered`.
    """

    names = list(inspect.signature(definition).parameters)

    @functools.wraps(definition)
    def function(*args, **kwargs):
        if instead := stand_in(function):
            return instead(*args, **kwargs)
        if function.kernel is None or not _enabled or depth() > 1:
            return definition(*args, **kwargs)
        for name in names[len(args) :]:  # an array given by name is an argument like any other
            if name not in kwargs:
                break
            args = (*args, kwargs.pop(name))
        values = [arg.value if type(arg) is Tensor else arg for arg in args]
        parents = tuple([arg.node if type(arg) is Tensor else None for arg in args])
        if not any(type(value) is np.ndarray for value in values) or any(map(is_jax, values)):
            return definition(*args, **kwargs)
        if any(parents):
            any(map(is_foreign, values))  # raises where one is no plain array
        result = function.kernel([parent is not None for parent in parents], *values, **kwargs)
        if result is NotImplemented:
            return definition(*args, **kwargs)
        value, backward = result
        if not any(parents):
            return value
        return Tensor(value, Node(backward, None, None, parents, None, plain_of(values, parents)))

    function.kernel = None
    function.definition = definition
    return function


def kernel(function: Callable) -> Callable:
    """Register the decorated kernel as the fast path of a :func:`fusable` function."""

    def register(fast: Callable) -> Callable:
        function.kernel = fast
        return fast

    return register
