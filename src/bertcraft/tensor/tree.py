"""Trees: nested dicts, lists and tuples whose leaves are arrays.

Parameters, gradients, optimiser states and batches are all trees. A leaf is anything that is not a
dict, list or tuple; ``None`` is a leaf too.
"""

from collections.abc import Callable, Iterator
from typing import Any


def map(function: Callable, tree: Any, *rest: Any) -> Any:
    """Apply ``function`` leaf by leaf to trees of one structure and return a tree of the results.

    Raises ValueError where another tree lacks a branch of the first, naming the keys. (The first may be the shallower one:
    ``function`` is then given branches of the others.)
    """
    if isinstance(tree, dict):
        for other in rest:
            if not isinstance(other, dict) or other.keys() != tree.keys():
                found = sorted(other) if isinstance(other, dict) else type(other).__name__
                raise ValueError(f"the trees differ: expected the keys {sorted(tree)}, got {found}")
        return {key: map(function, tree[key], *(other[key] for other in rest)) for key in tree}
    if isinstance(tree, (list, tuple)):
        for other in rest:
            if not isinstance(other, (list, tuple)) or len(other) != len(tree):
                raise ValueError(f"the trees differ: expected {len(tree)} branches, got {other!r:.60}")
        branches = [map(function, *parts) for parts in zip(tree, *rest, strict=True)]
        if isinstance(tree, list):
            return branches
        return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)
    return function(tree, *rest)


def items(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``(name, leaf)`` pairs in order; the name joins the keys with dots (``encoder.layer.0.bias``)."""
    if isinstance(tree, dict):
        branches = tree.items()
    elif isinstance(tree, (list, tuple)):
        branches = enumerate(tree)
    else:
        yield prefix, tree
        return
    for key, branch in branches:
        yield from items(branch, f"{prefix}.{key}" if prefix else str(key))


def leaves(tree: Any) -> list:
    """All leaves of a tree, in the order of :func:`items`."""
    return [leaf for _, leaf in items(tree)]


def nest(flat: dict[str, Any]) -> dict:
    """Turn ``{"a.b": leaf}`` into ``{"a": {"b": leaf}}``, the inverse of :func:`items` for dicts.

    Raises ValueError when one name is both a leaf and a branch.
    """
    tree: dict = {}
    for name, leaf in flat.items():
        *branches, last = name.split(".")
        node = tree
        for key in branches:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise ValueError(f"{name!r} goes through {key!r}, which is already a leaf")
        if last in node:
            raise ValueError(f"{name!r} is both a leaf and a branch, or appears twice")
        node[last] = leaf
    return tree
