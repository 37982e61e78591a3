"""Reverse-mode differentiation: from the value of a function back to its parameters.

Every node knows its parents, and nodes are numbered in the order in which they were made. Going through
them from the last to the first, each node hands its gradient on to its parents (the chain rule); where
two paths meet, gradients add up.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from bertcraft.tensor import tree
from bertcraft.tensor.arguments import check_plain, is_float, is_jax, name_of
from bertcraft.tensor.plain import plain_of
from bertcraft.tensor.scattered import Scattered
from bertcraft.tensor.tensor import DERIVATIVES, Node, Tensor, computation, identity, nested, on_jax, released


def unbroadcast(g, shape: tuple[int, ...]):
    """Sum a gradient over the axes along which NumPy had broadcast an argument of this shape."""
    if g.shape == shape:
        return g
    dtype, g = g.dtype, wide(g)
    extra = g.ndim - len(shape)
    if extra:
        g = np.sum(g, axis=tuple(range(extra)))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    return narrow(np.sum(g, axis=stretched, keepdims=True) if stretched else g, dtype)


def wide(x):
    """float16 as float32, others as they are: sums, counts and squares of float16 end at 65504, and lose small terms before."""
    return x.astype(np.float32) if getattr(x, "dtype", None) == np.float16 else x


def narrow(x, dtype):
    """What was computed of :func:`wide` arrays, back in their dtype."""
    return x.astype(dtype) if dtype == np.float16 else x


def _reachable(root: Node, leaves: set[Node]) -> list[Node]:
    """The nodes between root and leaves, latest first. Iterative: depth of the graph does not matter.

    Nodes older than every leaf cannot depend on one: an inner ``grad`` does not walk through the outer graph.

    Raises ValueError where a Tensor of another computation takes part: it would count as a constant in silence.
    """
    first, current = min((leaf.number for leaf in leaves), default=root.number), computation()
    seen, stack_, order = {root}, [root], []
    while stack_:
        node = stack_.pop()
        order.append(node)
        if node in leaves:
            continue
        if node.function is released or node.number < current or (node.function is None and node.args != current):
            released()
        for parent in node.parents:
            if parent is None or parent in seen:
                continue
            if parent.number >= first or parent.number < current or parent.function is released:
                seen.add(parent)
                stack_.append(parent)
    order.sort(key=operator.attrgetter("number"))
    needed = set()
    for node in order:
        if node in leaves or any(parent in needed for parent in node.parents):
            needed.add(node)
    return [node for node in reversed(order) if node in needed]


def _gradients_of_arguments(node: Node, g, needed: set[Node], record: bool) -> list:
    """One gradient (or None) for each positional argument of a node."""
    if node.plain:
        node.plain.check("a fast kernel" if node.args is None else name_of(node.function))
    if node.args is None:
        if record:
            raise ValueError(
                "a fast kernel, which has no second derivative, was called on another thread than the inner gradient that "
                "it is part of: call it on the same thread, or within bertcraft.tensor.kernels.kernels_disabled()"
            )
        return node.function(g)
    if record:
        args, out = node.args, Tensor(node.value, node)
    elif is_jax(node.value):
        args, out = [Tensor(a.value) if type(a) is Tensor else a for a in node.args], Tensor(node.value)
    else:
        args, out = [a.value if type(a) is Tensor else a for a in node.args], node.value
    entry = DERIVATIVES[node.function]
    gradients: list = []
    for i, parent in enumerate(node.parents):
        if parent is None or parent not in needed:
            gradients.append(None)
        elif callable(entry):
            gradients.append(entry(i, g, out, *args, **node.kwargs))
        elif i < len(entry) and entry[i] is not None:
            gradients.append(entry[i](g, out, *args, **node.kwargs))
        else:
            raise TypeError(f"{name_of(node.function)} has no derivative with respect to its argument number {i + 1}")
    return gradients


def _backpropagate(root: Node, seed, leaves: list[Node], record: bool) -> list:
    """Gradients of the root's value with respect to the leaves (None where it does not depend on one).

    Without ``record`` a node is released as soon as its gradient has been passed on.
    """
    keep = set(leaves)
    order = _reachable(root, keep)
    needed = set(order)
    gradients, owned = {root: seed}, set()
    for node in order:
        if node in keep:
            continue
        g = gradients.pop(node)
        parts = _gradients_of_arguments(node, g, needed, record)
        fresh = node.args is None  # a kernel's gradients are its own arrays, unless one stands for two arguments
        for parent, part in zip(node.parents, parts, strict=False):
            if part is None or parent is None or parent not in needed:
                continue
            if parent.value is not None and getattr(part, "shape", None) != parent.value.shape:
                raise AssertionError(  # before a later sum over broadcast axes hides it
                    f"the derivative of {name_of(node.function)} is {type(part).__name__} of shape {np.shape(part)}, "
                    f"expected an array of the shape of its argument, {parent.value.shape}"
                )
            if type(part) is Scattered:
                if parent in owned:
                    part.add_to(gradients[parent])
                    continue
                part = part.dense()
            if parent not in gradients:
                gradients[parent] = part
                if fresh and part is not g and sum(part is other for other in parts) < 2:
                    owned.add(parent)
            elif parent in owned and type(part) is np.ndarray:  # not a Tensor, which cannot be added in place
                gradients[parent] += part
            else:
                gradients[parent] = gradients[parent] + part
                if type(gradients[parent]) is np.ndarray:
                    owned.add(parent)
        del g, parts
        if not record:
            node.release()
    return [gradients.get(leaf) for leaf in leaves]


def _track(name: str, leaf, level: int) -> Tensor:
    """A parameter as the leaf of a graph, joined to its history when it comes from an outer computation."""
    tensor = leaf if type(leaf) is Tensor else Tensor(leaf if is_jax(leaf) else np.asanyarray(leaf))
    check_plain(tensor.value)
    if not is_float(tensor.dtype):
        got = f"{tensor.dtype} at {name}" if name else str(tensor.dtype)
        raise TypeError(f"gradients are taken with respect to floating-point arrays, got {got}")
    if tensor.node is None:
        return Tensor(tensor.value, Node(None, computation(), {}, (), tensor.value, plain_of((tensor.value,), (None,))))
    if level == 1:
        raise ValueError(
            "a parameter is a Tensor of another gradient computation, which has ended or runs on another "
            "thread: pass its .value, or compute the inner gradient on the thread of the outer one"
        )
    return Tensor(tensor.value, Node(identity, (tensor,), {}, (tensor.node,), tensor.value))


def check_loss(loss: Any) -> None:
    """Raise TypeError unless a loss is one floating-point number: a count or a comparison has no gradient."""
    shape = getattr(loss, "shape", () if isinstance(loss, float) else None)
    if shape is None:
        got = type(loss).__name__
    elif shape != ():
        got = f"shape {shape}: sum or average it"
    elif not is_float(getattr(loss, "dtype", np.dtype(float))):
        got = f"{loss.dtype}"
    else:
        return
    raise TypeError(f"the gradient is of a floating-point scalar, but the function returned {got}")


def stop_gradient(values: Any) -> Any:
    """The plain arrays of a tree of Tensors: constants for the derivative. JAX arrays stay wrapped.

    They cannot be written into, as the gradient needs what they hold; copies can. Raises TypeError for what may hold Tensors and
    is no tree, such as ``dict.values()``: their history would go on.
    """
    return tree.map(_stopped, values)


def _stopped(x):
    if type(x) is Tensor:
        return _constant(x.value)
    if isinstance(x, (np.ndarray, np.generic, int, float, complex, str, bytes)) or x is None or is_jax(x):
        return x
    raise TypeError(f"stop_gradient takes an array or a tree of dicts, lists and tuples, got {type(x).__name__} in it")


def _constant(value):
    if is_jax(value):
        return Tensor(value)
    if isinstance(value, np.ndarray):
        value = value.view()
        value.flags.writeable = False
    return value


def wrap_jax(values: Any) -> Any:
    """Wrap the JAX arrays of a tree as constant Tensors, so that NumPy's functions apply to them."""
    return tree.map(lambda x: Tensor(x) if is_jax(x) else x, values)


def unwrap(values: Any) -> Any:
    """The bare arrays of a tree of Tensors, NumPy's or JAX's."""
    return tree.map(lambda x: x.value if type(x) is Tensor else x, values)


def value_and_grad(function: Callable, has_aux: bool = False) -> Callable:
    """A function that returns the value of ``function`` and its gradient with respect to its first argument.

    The first argument is a tree of floating-point arrays; the gradient has its structure, shapes and dtypes. ``function``
    returns a scalar, or with ``has_aux`` a pair of a scalar and anything else (returned as bare arrays, not differentiated).
    Calls nest: the gradient of a gradient is exact. Under ``jax.jit`` the arguments and results are JAX arrays.

    The backward pass reads again what the function computed with. A plain array that it captures must keep its values until
    then: one that was written into, such as a buffer that is filled anew in each turn of a loop, or a parameter itself, raises
    ValueError (of a large array some elements are looked at). ``buffer.copy()`` gives the right gradient.

    Raises TypeError when the function does not return a floating-point scalar or a parameter is not floating point.
    """

    @functools.wraps(function)
    def with_gradient(params, *args, **kwargs):
        with nested() as level:
            named = iter([_track(name, leaf, level) for name, leaf in tree.items(params)])
            tracked = tree.map(lambda _, source=named: next(source), params)
            leaves = [leaf.node for leaf in tree.leaves(tracked)]
            try:
                result = function(tracked, *wrap_jax(args), **wrap_jax(kwargs))
            except ValueError as error:  # behind NumPy's "setting an array element with a sequence"
                if "a Tensor" not in str(error.__cause__):
                    raise
                raise TypeError(
                    "a Tensor cannot be written into a plain array: its history would be lost. "
                    "Collect the Tensors in a list and join them with np.stack, or write its .value as a constant"
                ) from error
            if has_aux and not (type(result) is tuple and len(result) == 2):
                got = type(result).__name__
                raise TypeError(f"with has_aux the function returns a pair (loss, aux), but it returned {got}")
            loss, aux = result if has_aux else (result, None)
            del named, tracked, result
            check_loss(loss)
            record = level > 1
            gradients = [None] * len(leaves)
            if type(loss) is Tensor and loss.node is not None:
                seed = np.ones_like(loss.value) if not is_jax(loss.value) else Tensor(on_jax(np.ones_like)(loss.value))
                node = loss.node
                loss = Tensor(loss.value, node if record else None)
                for leaf in leaves:
                    if leaf.plain:
                        leaf.plain.check("the function")
                gradients = _backpropagate(node, seed, leaves, record)
            gradients = _owned([_finish(g, leaf.value, record) for g, leaf in zip(gradients, leaves, strict=True)])
            if not record:
                loss, aux = unwrap(loss), unwrap(aux)
            if isinstance(loss, np.ndarray):  # perhaps a view of a parameter, into which the caller writes
                loss = loss.copy()
        ordered = iter(gradients)
        gradient = tree.map(lambda _: next(ordered), params)
        return ((loss, aux) if has_aux else loss), gradient

    return with_gradient


def _finish(g, value, record: bool):
    """A gradient as the caller gets it: an array of the parameter's dtype, zeros where nothing depends on it."""
    if g is None:
        g = Tensor(on_jax(np.zeros_like)(value)) if is_jax(value) else np.zeros_like(value)
    if g.dtype != value.dtype:
        g = g.astype(value.dtype)
    return g if record else unwrap(g)


def _owned(gradients: list) -> list:
    """Gradients that the caller may write into: writeable arrays, no two in the same memory (NumPy's only, and no Tensors)."""
    owners: set[int] = set()
    result = []
    for g in gradients:
        if type(g) is not Tensor and not is_jax(g):
            g = np.asarray(g)
            owner = id(g if g.base is None else g.base)
            if not g.flags.writeable or owner in owners:
                g = g.copy()
            owners.add(owner)
        result.append(g)
    return result


def grad(function: Callable) -> Callable:
    """A function that returns the gradient of a scalar ``function`` with respect to its first argument, as in JAX."""
    both = value_and_grad(function)

    @functools.wraps(function)
    def gradient(params, *args, **kwargs):
        return both(params, *args, **kwargs)[1]

    return gradient
