"""How NumPy code leaves the laptop: traced by JAX, compiled by XLA.

A :class:`~bertcraft.tensor.tensor.Tensor` may hold a JAX array; NumPy functions applied to it are then those
of ``jax.numpy`` of the same name. This module adds what has no such name there. It imports JAX only where it
is used.

``jax.jit(value_and_grad(loss))(params, batch)`` needs nothing from here; :func:`jit` is for functions without
a gradient.
"""

import functools
from collections.abc import Callable

import numpy as np

from bertcraft.tensor.functions import _erf, _sigmoid
from bertcraft.tensor.gradient import unwrap, wrap_jax
from bertcraft.tensor.tensor import XLA, Tensor, astype, concatenate, getitem, identity, scatter_add, stack


def _jnp():
    import jax.numpy

    return jax.numpy


def _index(index):
    """JAX takes no lists for arrays of integers."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    return np.asarray(index) if isinstance(index, list) else index


def _own_rows(index, shape) -> int:
    """How many leading axes an index goes along: 1 for x[np.arange(B)[:, None], at] with x (B, ...) and at (B, M); else 0.

    JAX is told so, by ``vmap``: where those axes are divided over devices, each then reads and adds in rows of its own, and
    nothing is sent.
    """
    if not isinstance(index, tuple) or len(index) < 2:
        return 0
    *leading, last = index
    if not np.issubdtype(getattr(last, "dtype", object), np.integer):
        return 0
    ndim, count = np.ndim(last), len(leading)
    if ndim < count or np.shape(last)[:count] != tuple(shape[:count]):
        return 0
    for axis, part in enumerate(leading):
        own = np.arange(shape[axis]).reshape((-1,) + (1,) * (ndim - 1 - axis))
        if not isinstance(part, np.ndarray) or part.shape != own.shape or not np.array_equal(part, own):
            return 0
    return count


def _mapped(function: Callable, times: int) -> Callable:
    import jax

    for _ in range(times):
        function = jax.vmap(function)
    return function


def _getitem(x, index):
    index, x = _index(index), _jnp().asarray(x)
    own = _own_rows(index, x.shape)
    return _mapped(lambda row, at: row[at], own)(x, index[-1]) if own else x[index]


def _scatter_add(x, index, shape):
    index = _index(index)
    own = _own_rows(index, shape)
    if not own:
        return _jnp().zeros(shape, x.dtype).at[index].add(x)
    return _mapped(lambda row, at: _jnp().zeros(shape[own:], x.dtype).at[at].add(row), own)(x, index[-1])


def _clip(x, a_min=None, a_max=None, *, min=None, max=None):
    return _jnp().clip(x, a_min if min is None else min, a_max if max is None else max)


def _erf_jax(x):
    import jax.scipy.special

    return jax.scipy.special.erf(x)


def _sigmoid_jax(x):
    import jax.nn

    return jax.nn.sigmoid(x)


XLA.update(
    {
        getitem: _getitem,
        scatter_add: _scatter_add,
        astype: lambda x, dtype: x.astype(dtype),
        identity: lambda x: x,
        concatenate: lambda *arrays, axis=0: _jnp().concatenate(arrays, axis=axis),
        stack: lambda *arrays, axis=0: _jnp().stack(arrays, axis=axis),
        _erf: _erf_jax,
        _sigmoid: _sigmoid_jax,
        np.clip: _clip,
        np.take: lambda x, indices, axis=None: _jnp().take(x, _index(indices), axis),
        np.repeat: lambda x, repeats, axis=None: _jnp().repeat(x, _index(repeats), axis),
    }
)


def jit(function: Callable) -> Callable:
    """``jax.jit`` of a function written in NumPy: JAX arguments act as arrays, results are JAX arrays.

    Arguments and results are trees of arrays. Under ``value_and_grad`` this is not needed: ``jax.jit``
    applies directly. Raises ImportError when JAX is not installed (``pip install 'bertcraft[jax]'``).
    """
    import jax

    @functools.wraps(function)
    def on_tensors(*args, **kwargs):
        return unwrap(function(*wrap_jax(args), **wrap_jax(kwargs)))

    return jax.jit(on_tensors)


class Generator:
    """Random numbers from a JAX key, with the face of ``numpy.random.Generator`` that dropout needs.

    Each call splits the key. Make one inside the function that is traced, from a key that is its argument:
    the same key gives the same numbers, a new step needs a new key (``jax.random.fold_in(key, step)``).
    """

    def __init__(self, key):
        self._key = key.value if type(key) is Tensor else key

    def _next(self):
        import jax

        self._key, key = jax.random.split(self._key)
        return jax.random, key

    def random_uint16(self, shape: tuple[int, ...]) -> Tensor:
        """Integers from 0 to 65535, each as likely: a uint16 array of the shape."""
        random, key = self._next()
        return Tensor(random.bits(key, shape, np.uint16))

    def random(self, shape: tuple[int, ...] = (), dtype=np.float64) -> Tensor:
        """Numbers uniform in [0, 1) of the dtype (float32 unless ``jax_enable_x64`` is set)."""
        random, key = self._next()
        return Tensor(random.uniform(key, shape, dtype))
