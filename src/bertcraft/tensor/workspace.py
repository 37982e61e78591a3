"""Memory that is used again: fresh pages from the operating system cost more than the arithmetic done on them.

Each thread keeps the buffers it has handed out. A buffer is free again as soon as no array refers to it, which its
reference count tells; nothing has to be given back.
"""

import math
import sys
import threading

import numpy as np

_SMALLEST = 1 << 16  # bytes; below this malloc is as good
_LARGEST_IDLE = 1 << 28  # bytes a thread may keep
_ALIGNMENT = 64  # bytes: a vector register's load that crosses a line of the cache takes twice as long


class _Buffers(threading.local):
    def __init__(self):
        self.by_size: dict[int, list[tuple[np.ndarray, int]]] = {}  # each with its first aligned byte
        self.total = 0


_buffers = _Buffers()


def _idle_references() -> int:
    """What the loop in :func:`empty` counts for a buffer that no array uses; it differs between versions of Python."""
    for buffer, _ in [(np.empty(1, np.uint8), 0)]:
        return sys.getrefcount(buffer)
    raise AssertionError


_IDLE = _idle_references()


def _size_class(nbytes: int) -> int:
    """Round up to one of eight sizes an octave, so that similar shapes share buffers."""
    step = 1 << max(nbytes.bit_length() - 4, 12)
    return -(-nbytes // step) * step


def empty(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An uninitialised C-contiguous array, in memory this thread used before where possible."""
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < _SMALLEST:
        return np.empty(shape, dtype)
    size = _size_class(nbytes)
    pool = _buffers.by_size.setdefault(size, [])
    for buffer, start in pool:
        if sys.getrefcount(buffer) == _IDLE:
            return buffer[start : start + nbytes].view(dtype).reshape(shape)
    if _buffers.total + size > _LARGEST_IDLE:
        release()
        pool = _buffers.by_size.setdefault(size, [])
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    pool.append((buffer, start))
    _buffers.total += size
    return buffer[start : start + nbytes].view(dtype).reshape(shape)


def release() -> None:
    """Forget this thread's buffers; those still in use live on until their arrays are gone."""
    _buffers.by_size.clear()
    _buffers.total = 0
