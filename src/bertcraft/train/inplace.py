"""Updates without allocation: AdamW and clipping for NumPy arrays, in blocks, over threads.

A training step has millions of parameters in some sixty arrays. Written as formulas on whole arrays, AdamW
makes a dozen temporaries of each and goes through main memory for every one. Here all arrays are cut into
blocks that fit a core's cache; every operation of the formula runs on a block, into scratch memory that a
thread keeps, before the next block is touched. Blocks do not depend on the number of threads and nothing is
summed across threads, so the result is the same to the last bit for any number of them; it also has the
operations of :func:`bertcraft.train.rules.adamw` in the same order, and so its bits.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

import numpy as np

from bertcraft.errors import InputError
from bertcraft.tensor import tree

if TYPE_CHECKING:
    from bertcraft.train.rules import Rule

BLOCK = 131_072  # elements: large enough that the threads do not wait for the interpreter between calls into NumPy
DOT = 8_192  # elements of one dot product: BLAS never splits so short a one over threads of its own
TASKS = 4  # handed to the threads: a few, so that an even number of cores shares them evenly

Piece = tuple[int, int, int]  # leaf, start, stop: part of one leaf
_thread = threading.local()


def apply(rule: "Rule", gradients: Any, state: Any, params: Any, pool: Executor | None = None) -> Any:
    """Update the parameters in place by a rule and return its new state, whose memory may be that of the old.

    ``params`` and ``state`` are given away: their arrays are overwritten, so the caller must not hold others
    that share their memory. ``gradients`` are only read, and may be views, read-only, or share memory with
    each other.

    Parameters are floating-point NumPy arrays, C-contiguous and writeable; gradients have their shapes and
    dtypes. Raises InputError, before anything is changed, when they have not. ``pool`` is a
    ``ThreadPoolExecutor``, or None for this thread alone; the result is the same.
    """
    for (name, p), g in zip(tree.items(params), _leaves(gradients, params), strict=True):
        if not (isinstance(p, np.ndarray) and p.dtype.kind == "f" and p.flags.c_contiguous and p.flags.writeable):
            raise InputError(f"parameter {name}: expected a writeable, C-contiguous array of floats, got {_what(p)}")
        if not isinstance(g, (np.ndarray, np.generic)) or g.shape != p.shape or g.dtype != p.dtype:
            raise InputError(f"the gradient of {name} is {_what(g)}, but the parameter is {_what(p)}")
    if rule.inplace is not None:
        return rule.inplace(gradients, 1.0, state, params, pool)
    updates, state = rule.update(gradients, state, params)
    tree.map(lambda p, u: np.add(p, u, out=p), params, updates)
    return state


def global_norm(arrays: Any, pool: Executor | None = None) -> float:
    """The Euclidean norm of all leaves taken as one vector; blocks add up in float64.

    The order is fixed, so the result is the same for any number of threads. NaN or infinity when a leaf holds
    one, and infinity when a square overflows.
    """
    flat = [leaf.reshape(-1) for leaf in tree.leaves(arrays)]
    parts = [part[i : i + 8 * BLOCK] for part in flat for i in range(0, part.size, 8 * BLOCK)]
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sqrt(sum(_run(_sum_of_squares, parts, pool))))


def _sum_of_squares(part: np.ndarray) -> float:
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # each thread has its own
        for i in range(0, part.size, DOT):
            block = part[i : i + DOT]
            total += float(np.dot(block, block))
    return total


def adamw(
    gradients: Any,
    factor: float,
    m: Any,
    v: Any,
    params: Any,
    b1: float,
    b2: float,
    step_size: float,
    epsilon: float,
    shrink: list[float],
    pool: Executor | None,
) -> None:
    """One update of ``m``, ``v`` and ``params``, in place, for ``factor * gradients``.

    The formula is that of :func:`bertcraft.train.rules.adamw`. ``step_size`` (negative) and ``epsilon`` are
    corrected for bias; ``shrink`` is minus rate times weight decay, one number a leaf.
    """
    leaves = [[leaf.reshape(-1) for leaf in _leaves(gradients, params)]]
    leaves += [[leaf.reshape(-1, copy=False) for leaf in _leaves(part, params)] for part in (m, v, params)]
    numbers = factor, b1, b2, step_size, epsilon
    blocks = []
    for kind in sorted({(p.dtype.str, s) for p, s in zip(leaves[3], shrink, strict=True)}):
        alike = [i for i, p in enumerate(leaves[3]) if (p.dtype.str, shrink[i]) == kind]
        for pieces in cut([leaves[3][i].size for i in alike]):
            blocks.append(([(alike[i], start, stop) for i, start, stop in pieces], kind[1]))

    _run(lambda block: _adamw_block(leaves, *block, *numbers), blocks, pool)


def cut(sizes: list[int], block: int = BLOCK) -> Iterator[list[Piece]]:
    """Cut flat leaves of these sizes into blocks of at most ``block`` elements, each a list of pieces.

    A leaf fills blocks of its own as long as it can. What is left of it, and small leaves, share blocks: a
    call into NumPy costs more than it computes on a bias of 256 elements.
    """
    shared: list[Piece] = []
    room = block
    for leaf, size in enumerate(sizes):
        whole = size - size % block
        for start in range(0, whole, block):
            yield [(leaf, start, start + block)]
        if size > whole:
            if size - whole > room:
                yield shared
                shared, room = [], block
            shared.append((leaf, whole, size))
            room -= size - whole
    if shared:
        yield shared


def _adamw_block(leaves, pieces, decay, factor, b1, b2, step_size, epsilon) -> None:
    """Update one block. Several pieces are gathered into scratch memory and scattered afterwards."""
    parts = [[flat[leaf][start:stop] for leaf, start, stop in pieces] for flat in leaves]
    size = sum(stop - start for _, start, stop in pieces)
    scratch = _scratch(parts[3][0].dtype)[:, :size]
    if len(pieces) == 1:
        g, m, v, p = (part[0] for part in parts)
    else:
        g, m, v, p = (np.concatenate(part, out=row) for part, row in zip(parts, scratch, strict=False))
    if factor != 1.0:
        g = np.multiply(g, factor, out=scratch[0])
    a, b = scratch[4:]

    np.multiply(m, b1, out=m)  # m = b1 m + (1 - b1) g
    np.multiply(g, 1 - b1, out=a)
    np.add(m, a, out=m)
    np.multiply(v, b2, out=v)  # v = b2 v + (1 - b2) g^2
    np.multiply(g, g, out=a)
    np.multiply(a, 1 - b2, out=a)
    np.add(v, a, out=v)
    np.sqrt(v, out=a)  # p = p + step_size * m / (sqrt(v) + epsilon) + decay * p
    np.add(a, epsilon, out=a)
    np.divide(m, a, out=a)
    np.multiply(a, step_size, out=a)
    if decay:
        np.multiply(p, decay, out=b)
        np.add(a, b, out=a)
    np.add(p, a, out=p)

    if len(pieces) > 1:
        for part, row in zip(parts[1:], (m, v, p), strict=True):
            start = 0
            for piece in part:
                piece[...] = row[start : start + piece.size]
                start += piece.size


def _scratch(dtype: np.dtype) -> np.ndarray:
    """This thread's scratch memory: g, m, v and p of a gathered block, and two rows to work in."""
    kept = _thread.__dict__.setdefault("scratch", {})
    if dtype not in kept:
        kept[dtype] = np.empty((6, BLOCK), dtype)
    return kept[dtype]


def _leaves(part: Any, params: Any) -> list:
    """The leaves of a tree in the order of the parameters, whatever the order of its own keys."""
    return tree.leaves(tree.map(lambda _, leaf: leaf, params, part))


def _run(function, work: list, pool: Executor | None) -> list:
    """``function`` of each piece of work, in order. A task of its own for each would cost more than the work."""
    if pool is None:
        return list(map(function, work))
    each = -(-len(work) // TASKS) or 1
    tasks = pool.map(lambda some: list(map(function, some)), [work[i : i + each] for i in range(0, len(work), each)])
    return [result for results in tasks for result in results]


def _what(leaf: Any) -> str:
    if not isinstance(leaf, (np.ndarray, np.generic)):
        return type(leaf).__name__
    return f"{leaf.dtype} {leaf.shape}" + ("" if leaf.flags.c_contiguous else ", not C-contiguous")
