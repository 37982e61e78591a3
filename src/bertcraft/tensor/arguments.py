"""What a call on Tensors may be given: the arguments that a derivative knows, and arrays that compute as NumPy's own do."""

import functools
import inspect
import numbers
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

SIGNATURES: dict[Callable, "Signature"] = {}  # function -> the arguments that its derivative knows

# Types whose values need no look; tensor.py adds Tensor.
KNOWN: set[type] = {np.ndarray, float, int, bool, str, slice, type(None), type(Ellipsis), np.float32, np.float64, np.int64}


def is_jax(value: Any) -> bool:
    """Whether a value is a JAX array or tracer (false when JAX was never imported)."""
    jax = sys.modules.get("jax")
    return jax is not None and hasattr(jax, "Array") and isinstance(value, jax.Array)


def is_float(dtype) -> bool:
    return dtype.kind == "f" or str(dtype) == "bfloat16"


@functools.cache
def _names(function: Callable) -> tuple[str, ...]:
    """NumPy's names of the arguments that it takes by position too ("" where it takes them by position only)."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    ordered = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return tuple("" if p.kind is p.POSITIONAL_ONLY else p.name for p in ordered)


def by_position(function: Callable, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The same call with what it names as NumPy does by position, so that it is differentiated; as it is, if that is no help."""
    moved, rest = list(args), dict(kwargs)
    if function is np.clip and len(args) < 2:  # min and max are a_min and a_max by their newer names
        rest = {{"min": "a_min", "max": "a_max"}.get(name, name): value for name, value in rest.items()}
        rest = {"a_min": None, "a_max": None} | rest
    for name in _names(function)[len(args) :]:
        if name not in rest:
            break
        moved.append(rest.pop(name))
    signature = SIGNATURES.get(function)
    return (tuple(moved), rest) if signature is None or signature.fits(moved, rest) else (args, kwargs)


class Signature:
    """The arguments that a derivative knows: those of a Python function after ``skip`` others."""

    def __init__(self, definition: Callable, skip: int):
        parameters = list(inspect.signature(definition).parameters.values())[skip:]
        positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        self.text = str(inspect.Signature(parameters))
        self.names = {p.name for p in parameters}
        self.least = sum(p.default is p.empty for p in positional)
        self.most = sys.maxsize if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(positional)

    def fits(self, args, kwargs) -> bool:
        given = len(args) + len(kwargs)
        return len(args) <= self.most and self.least <= given and kwargs.keys() <= self.names


def check_call(function: Callable, args, kwargs, derived: bool) -> None:
    """Raise TypeError unless the function has a derivative and that derivative knows these arguments.

    ``derived``: whether a derivative is entered for it; with a signature it may also be made of functions that have one.
    """
    signature = SIGNATURES.get(function)
    if signature is None and not derived:
        raise TypeError(
            f"{name_of(function)} has no derivative. Write it with functions that have one, or add its "
            "derivative to bertcraft/tensor/derivatives.py; bertcraft.stop_gradient(x) treats x as a constant"
        )
    if signature is not None and not signature.fits(args, kwargs):
        options = "".join(f", {name}=" for name in kwargs)
        raise TypeError(
            f"{name_of(function)} on a Tensor takes {signature.text}, but got {len(args)} arguments by position{options}"
        )


def is_foreign(value) -> bool:
    """Whether a value, or one in a list, is JAX's. Raises TypeError for arrays and numbers that are not NumPy's own."""
    if type(value) in KNOWN:
        return False
    if type(value) in (tuple, list):
        return any(map(is_foreign, value))
    if is_jax(value):
        return True
    check_plain(value)
    if isinstance(value, (np.ndarray, np.generic, type, int, float, complex)):
        return False
    got = f"{type(value).__module__}.{type(value).__qualname__}"
    if hasattr(value, "__array__"):
        raise TypeError(f"a Tensor cannot be combined with a {got} object: convert it to a plain array with np.asarray")
    if hasattr(value, "toarray"):  # scipy.sparse
        raise TypeError(f"a Tensor cannot be combined with a {got} object: convert it to a plain array with .toarray()")
    if isinstance(value, numbers.Number):
        raise TypeError(f"a Tensor cannot be combined with a {got} object: convert it with float()")
    return False


def check_plain(array) -> None:
    """Raise TypeError for an array of a subclass: np.ma and np.matrix compute by rules that no derivative here knows.

    A subclass with the attribute ``computes_as_ndarray`` says that it does not, such as :class:`bertcraft.lab.flops.Counted`.
    """
    if isinstance(array, np.ndarray) and type(array) not in (np.ndarray, np.memmap):
        if getattr(type(array), "computes_as_ndarray", False):
            return
        remedy = ".filled(...), and np.where for the mask" if isinstance(array, np.ma.MaskedArray) else "np.asarray"
        got = f"{type(array).__module__}.{type(array).__qualname__}"
        raise TypeError(f"gradients are of plain arrays, got {got}, which computes by rules of its own: use {remedy}")


def name_of(function: Callable) -> str:
    name = getattr(function, "__name__", str(function))
    if getattr(np.linalg, name, None) is function:
        return f"np.linalg.{name}"
    return f"np.{name}" if getattr(np, name, None) is function else name
