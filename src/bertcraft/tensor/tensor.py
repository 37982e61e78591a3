"""NumPy that remembers how it was computed.

A :class:`Tensor` is an array plus a *node*: the function that made it and the tensors it was made from.
It answers NumPy's own protocols (NEP 13 and NEP 18), so ``np.exp(x)`` and ``x @ w`` just work and code
written for arrays needs no change. :mod:`bertcraft.tensor.gradient` walks the nodes backwards with the
derivatives of :mod:`bertcraft.tensor.derivatives`; those are NumPy functions too, so a derivative can
itself be differentiated.

The value of a Tensor may also be a JAX array: the same code is then traced by ``jax.jit``.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from bertcraft.tensor import tree
from bertcraft.tensor.arguments import KNOWN, SIGNATURES, by_position, check_call, is_float, is_foreign, is_jax, name_of
from bertcraft.tensor.plain import plain_of

DERIVATIVES: dict[Callable, "tuple | Callable"] = {}  # function -> its derivatives, filled by derivatives.py
CONSTANT: set[Callable] = set()  # functions whose derivative is zero wherever it exists (argmax, comparisons ...)
COMPOSED: dict[Callable, Callable] = {}  # function -> the same, written with functions of the table
XLA: dict[Callable, Callable] = {}  # our own operations -> their equivalent on JAX arrays, filled by xla.py

_numbers = itertools.count()  # nodes are numbered in order of creation, which is a topological order
_thread = threading.local()


def depth() -> int:
    """How many calls of ``grad`` or ``value_and_grad`` are being evaluated on this thread."""
    return getattr(_thread, "depth", 0)


def computation() -> int:
    """The outermost of them: a number that no other computation has, smaller than those of its nodes."""
    return _thread.computation


@contextmanager
def nested() -> Iterator[int]:
    """Count one more gradient computation on this thread for the length of a ``with`` block."""
    _thread.depth = level = depth() + 1
    if level == 1:
        _thread.computation = next(_numbers)
    try:
        yield level
    finally:
        _thread.depth = level - 1


@contextmanager
def replaced(functions: dict[Callable, Callable]) -> Iterator[None]:
    """Let other functions stand in for some within a ``with`` block, on this thread.

    For NumPy's wherever a Tensor takes part, for :func:`~bertcraft.tensor.kernels.fusable` ones always. A stand-in itself calls
    the originals, and so do derivatives.
    """
    before = getattr(_thread, "stand_ins", None)
    _thread.stand_ins = functions
    try:
        yield
    finally:
        _thread.stand_ins = before


def stand_in(function: Callable) -> Callable | None:
    """What stands in for a function (see :func:`replaced`), or None."""
    functions = getattr(_thread, "stand_ins", None)
    if not functions or function not in functions:
        return None

    def instead(*args, **kwargs):
        with replaced({}):
            return functions[function](*args, **kwargs)

    return instead


class Node:
    """One remembered computation: ``value = function(*args, **kwargs)``.

    ``parents`` holds, for each positional argument, its node or None. A leaf has no function; its ``args`` is the
    :func:`computation` that it belongs to. A fused kernel keeps no arguments: its ``function`` maps the gradient of the
    value to those of the arguments. ``plain`` watches the plain arrays among the arguments.
    """

    __slots__ = ("args", "function", "kwargs", "number", "parents", "plain", "value")

    def __init__(self, function, args, kwargs, parents, value, plain=None):
        self.function, self.args, self.kwargs = function, args, kwargs
        self.parents, self.value, self.plain = parents, value, plain
        self.number = next(_numbers)

    def release(self) -> None:
        """Forget the computation, so that its memory is free before the backward pass is over."""
        self.function, self.args, self.value, self.parents, self.plain = released, None, None, (), None


def released(*_):
    raise ValueError(
        "a Tensor from an earlier gradient computation, or one on another thread, was used; its history is gone. "
        "Return it from the function (has_aux=True), or keep its .value"
    )


class Tensor:
    """An array that remembers how it was computed. Made by :func:`~bertcraft.tensor.gradient.value_and_grad`.

    ``value`` is the NumPy (or JAX) array, ``node`` its history, or None for a constant. All of NumPy's
    operators and most of its functions and array methods apply; writing into a Tensor raises. A plain array that takes
    part is not copied: where it is written into before the gradient is computed, that raises.
    """

    __slots__ = ("node", "value")
    __array_priority__ = 1000.0

    def __init__(self, value, node: Node | None = None):
        self.value, self.node = value, node

    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    dtype = property(lambda self: self.value.dtype)
    T = property(lambda self: apply(np.transpose, self))
    mT = property(lambda self: apply(np.swapaxes, self, -1, -2))

    def __array_ufunc__(self, ufunc, method, *args, **kwargs):
        if method == "reduce" and ufunc in _REDUCTIONS:
            kwargs.setdefault("axis", 0)
            return apply(_REDUCTIONS[ufunc], *args, **{k: v for k, v in kwargs.items() if v is not None or k == "axis"})
        if method != "__call__":
            raise TypeError(f"np.{ufunc.__name__}.{method} has no derivative here; write it with NumPy functions")
        return apply(ufunc, *args, **kwargs)

    def __array_function__(self, function, types, args, kwargs):
        if function not in COMPOSED and Tensor not in map(type, (*args, *kwargs.values())):
            raise TypeError(
                f"{name_of(function)} has no derivative for Tensors inside a list or tuple: write it with functions that have "
                "one, such as np.concatenate, np.stack and np.where"
            )
        return apply(function, *args, **kwargs)

    def __array__(self, *args, **kwargs):
        raise TypeError(
            "a Tensor cannot become a plain array inside a gradient computation: its history would be lost. "
            "Use NumPy functions on it (np.stack for a list of Tensors), or its .value for a constant"
        )

    def __setitem__(self, index, value):
        raise TypeError(
            "a Tensor cannot be written into: earlier results may depend on it. "
            "Build the result with np.where, np.concatenate or np.stack instead"
        )

    def __getitem__(self, index):
        return apply(getitem, self, _unwrap_index(index))

    def __len__(self):
        return len(self.value)

    def __iter__(self):
        if self.ndim == 0:
            raise TypeError("a 0-d Tensor cannot be iterated")
        return (self[i] for i in range(len(self)))

    def __float__(self):
        raise TypeError(
            "a Tensor cannot become a Python number: its history would be lost. "
            "Use NumPy's functions instead of math's, or float(x.value) for a constant"
        )

    __int__ = __index__ = __complex__ = __float__

    def __bool__(self):
        if self.node is None:
            return bool(self.value)
        raise TypeError("the truth of a Tensor is not differentiable: use np.where, or test x.value")

    __hash__ = None

    def __repr__(self):
        return f"Tensor({self.value!r})"

    def __format__(self, spec):
        if spec and self.ndim:
            raise TypeError(
                f"the format {spec!r} is for one number, got a Tensor of shape {self.shape}: "
                "format its elements, or print np.round(x.value, 3)"
            )
        return format(self.value, spec) if spec else str(self)

    def __round__(self, ndigits=None):
        return apply(np.round, self, ndigits or 0)

    def __copy__(self):
        return Tensor(self.value, self.node)

    def __reduce_ex__(self, protocol):
        if self.node is None:
            return Tensor, (self.value,)
        raise TypeError(
            "a Tensor cannot be deep-copied or pickled: its history would be lost. "
            "Use np.copy(x), which keeps it, or its .value for a constant"
        )

    def __getattr__(self, name):
        remedy = f": x.value.{name} is that of a constant" if hasattr(np.ndarray, name) else ""
        if name in _IN_PLACE:
            remedy = f": a Tensor cannot be written into{', np.sort(x) makes a new one' if name == 'sort' else ''}"
        raise AttributeError(f"'Tensor' object has no attribute {name!r}{remedy}", name=name, obj=self)

    def astype(self, dtype):
        kind = np.dtype(dtype).kind
        if kind in "biu":  # integers are constants
            return apply(astype, Tensor(self.value), dtype)
        if kind not in "fV":  # V: bfloat16
            raise TypeError(f"a Tensor can become floats, integers or booleans, not {np.dtype(dtype)}")
        return apply(astype, self, dtype)

    def reshape(self, *shape):
        return apply(np.reshape, self, shape[0] if len(shape) == 1 else shape)

    def flatten(self):
        return apply(np.ravel, self)

    def transpose(self, *axes):
        return apply(np.transpose, self, *(axes if len(axes) == 1 else (axes,) if axes else ()))


KNOWN.add(Tensor)

_REDUCTIONS = {np.add: np.sum, np.multiply: np.prod, np.maximum: np.max, np.minimum: np.min}
_OPERATORS = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide, "pow": np.power,
    "matmul": np.matmul, "floordiv": np.floor_divide, "mod": np.remainder,
}  # fmt: skip
_COMPARISONS = {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "eq": np.equal, "ne": np.not_equal, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip
_IN_PLACE = ("sort", "fill", "put", "partition", "resize", "setfield", "byteswap", "itemset")  # methods of an array
_METHODS = [
    "all", "any", "argmax", "argmin", "argsort", "clip", "copy", "cumprod", "cumsum", "diagonal", "dot", "max",
    "mean", "min", "nonzero", "prod", "ravel", "repeat", "round", "squeeze", "std", "sum", "swapaxes", "take",
    "trace", "var",
]  # fmt: skip


def _attach_operators() -> None:
    def attach(name: str, f: Callable) -> None:  # f in a scope of its own: as a default it would be an argument
        setattr(Tensor, name, lambda self, *args, **kwargs: apply(f, self, *args, **kwargs))

    def binary(name: str, f: Callable) -> None:
        setattr(Tensor, f"__{name}__", lambda self, other: apply(f, self, other))
        if name in _OPERATORS or name in ("and", "or", "xor"):
            setattr(Tensor, f"__r{name}__", lambda self, other: apply(f, other, self))

    def in_place(name: str, f: Callable) -> None:
        def operator(self, other):
            if self.node is not None and self.node.function is getitem and getattr(self.value, "base", None) is not None:
                raise TypeError(
                    "a Tensor cannot be written into, and this one is a part of another that NumPy would change as well: "
                    "write x = x + y, and build the whole with np.stack or np.where"
                )
            return apply(f, self, other)

        setattr(Tensor, f"__i{name}__", operator)

    for name, function in (_OPERATORS | _COMPARISONS).items():
        binary(name, function)
    for name, function in _OPERATORS.items():
        in_place(name, function)
    for name, function in {"neg": np.negative, "abs": np.absolute, "pos": np.positive, "invert": np.invert}.items():
        attach(f"__{name}__", function)
    for name in _METHODS:
        attach(name, getattr(np, name))


_attach_operators()


# ------------------------------------------------------------- operations that NumPy has only as syntax or method


def getitem(x, index):
    """``x[index]`` as a function: basic and advanced indexing."""
    return x[index]


def scatter_add(x, index, shape):
    """Zeros of ``shape`` with ``x`` added at ``index``, repeats adding up: the derivative of :func:`getitem`."""
    if type(x) is Tensor:
        return apply(scatter_add, x, _unwrap_index(index), shape)
    if _is_basic(index):
        out = np.zeros(shape, x.dtype)
        out[index] = x
        return out
    out = np.zeros(shape, np.float32 if x.dtype == np.float16 else x.dtype)  # a sum of ones in float16 ends at 2048
    np.add.at(out, index, x)
    return out.astype(x.dtype, copy=False)


def _is_basic(index) -> bool:
    parts = index if type(index) is tuple else (index,)
    return all(part is None or part is Ellipsis or isinstance(part, (int, np.integer, slice)) for part in parts)


def astype(x, dtype):
    """``x.astype(dtype)`` as a function."""
    return x.astype(dtype)


def identity(x):
    """The argument itself: joins the leaf of an inner ``grad`` to the Tensor of an outer one."""
    return x


# ------------------------------------------------------------------------------------------------------ recording


def apply(function: Callable, *args, **kwargs) -> Any:
    """Call a NumPy function (or ours) on values and Tensors; remember it when an argument has a history.

    Raises TypeError for a function without a derivative, for an option that its derivative does not know, for
    ``out=``, for a Tensor as an option, for arrays with rules of their own (np.ma, np.matrix, torch), and for results
    that are no floats.
    """
    if instead := stand_in(function):
        return instead(*args, **kwargs)
    if kwargs:
        kwargs = {k: v for k, v in kwargs.items() if v is not None or k not in ("out", "dtype")}
        if "out" in kwargs:
            raise TypeError(
                f"{name_of(function)}(out=...) would overwrite a value that a gradient still needs: "
                "drop out= (and use x = x + y instead of x += y when x is a plain array)"
            )
        signature = SIGNATURES.get(function)
        if Tensor in map(type, kwargs.values()) or (signature is not None and not kwargs.keys() <= signature.names):
            args, kwargs = by_position(function, args, kwargs)
    if function in COMPOSED:
        check_call(function, args, kwargs, function in DERIVATIVES)
        return COMPOSED[function](*args, **kwargs)
    parents = tuple([arg.node if type(arg) is Tensor else None for arg in args])
    values = [arg.value if type(arg) is Tensor else arg for arg in args]
    tracked = any(parents) and function not in CONSTANT
    if tracked:
        check_call(function, args, kwargs, function in DERIVATIVES)
    for name, option in kwargs.items():
        if type(option) is Tensor:
            if option.node is not None and function not in CONSTANT:
                check_call(function, args, kwargs, function in DERIVATIVES)
                raise TypeError(f"{name_of(function)} has no derivative with respect to {name}: pass its .value as a constant")
            kwargs[name] = option.value
    everything = values + [*kwargs.values()] if kwargs else values
    foreign = any(type(v) not in KNOWN and is_foreign(v) for v in everything)
    value = (on_jax(function) if foreign else function)(*values, **kwargs)
    if not tracked:
        return tree.map(lambda v: Tensor(v) if is_jax(v) else v, value) if foreign else value
    if value.dtype.kind != "f" and not is_float(value.dtype):
        raise TypeError(f"{name_of(function)} gave {value.dtype}, which has no derivative here: convert its operands to floats")
    plain = None if function in UNREAD else plain_of(everything, parents)
    return Tensor(value, Node(function, args, kwargs, parents, value, plain))


def on_jax(function: Callable) -> Callable:
    """The function of jax.numpy that stands for a NumPy function. Raises TypeError where there is none."""
    if function in XLA:
        return XLA[function]
    import jax.numpy as jnp

    module = jnp.linalg if getattr(np.linalg, function.__name__, None) is function else jnp
    try:
        return getattr(module, function.__name__)
    except AttributeError:
        raise TypeError(f"{name_of(function)} has no equivalent in jax.numpy") from None


def _unwrap_index(index):
    if type(index) is tuple:
        return tuple(part.value if type(part) is Tensor else part for part in index)
    return index.value if type(index) is Tensor else index


# ``np.concatenate`` and ``np.stack`` take a list of arrays; what is remembered takes separate arguments.


def concatenate(*arrays, axis=0):
    """``np.concatenate`` with the arrays as separate arguments."""
    return np.concatenate(arrays, axis=axis)


def stack(*arrays, axis=0):
    """``np.stack`` with the arrays as separate arguments."""
    return np.stack(arrays, axis=axis)


UNREAD = {np.add, np.subtract, concatenate, stack}  # functions whose derivatives need no values: their arguments may change
