"""Training steps compiled by XLA: on one device or many, in one process or many. The loss and the rule are the NumPy ones.

A batch is laid over all devices along its rows, parameters are copies on each or, ``sharded``, cut into as many parts as there
are devices; what has to be sent between them is XLA's business (GSPMD, Xu et al. 2021, arXiv:2105.04663).
"""

import functools
from collections.abc import Callable

import numpy as np

from bertcraft.errors import InputError
from bertcraft.pretrain.objectives import merged
from bertcraft.techniques.mixed_precision_training import mixed_precision
from bertcraft.tensor import tree, value_and_grad
from bertcraft.tensor.gradient import unwrap, wrap_jax
from bertcraft.train.loop import Engine
from bertcraft.train.rules import Rule, global_norm


def xla_engine(
    loss: Callable,
    rule: Rule,
    *,
    seed: int,
    accumulate: int = 1,
    weight: Callable[[dict], float] | None = None,
    blank: Callable[[dict, int], dict] | None = None,
    precision: str = "float32",
    sharded: bool = False,
    fixed: dict | None = None,
) -> Engine:
    """An engine for :func:`bertcraft.train.loop.fit_on` on all devices that JAX has, those of other processes included.

    ``loss(params, batch, rng)`` and ``weight`` are those of :func:`bertcraft.tensor.parallel.sharded_value_and_grad`; every
    process is given the whole batch and takes its rows of it. ``accumulate``: in how many parts, one after another, a batch
    goes through the model; the gradient is that of the whole. ``blank(batch, n)`` adds n rows that count for nothing: where a
    part does not divide evenly, they fill the last device's share. ``precision``: a form that
    :func:`bertcraft.techniques.mixed_precision_training.mixed_precision` takes. ``sharded``: parameters and the rule's state
    are cut over the devices. ``fixed``: a tree of parameters that the loss reads beside those that are trained
    (:func:`bertcraft.pretrain.objectives.merged`).

    Raises InputError, from ``advance``, for a batch that does not divide evenly: into parts, or, without ``blank``, over devices.
    """
    import jax
    from jax.experimental import multihost_utils
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    devices = np.array(jax.devices())
    mesh = Mesh(devices, ("data",))
    whole = NamedSharding(mesh, PartitionSpec())
    rows = NamedSharding(mesh, PartitionSpec(None, "data"))  # (accumulate, rows, ...)

    def layout(leaf) -> NamedSharding:
        shape = np.shape(leaf)
        axes = [axis for axis, size in enumerate(shape) if size % len(devices) == 0] if sharded else []
        if not axes:
            return whole
        longest = max(axes, key=lambda axis: shape[axis])
        return NamedSharding(mesh, PartitionSpec(*(("data" if axis == longest else None) for axis in range(len(shape)))))

    def put(leaf, sharding):
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    def place(values):
        return tree.map(lambda leaf: put(leaf, layout(leaf)), values)

    def host(values):
        if sharded and jax.process_count() > 1:
            values = multihost_utils.process_allgather(values, tiled=True)
        return tree.map(_as_numpy, values)

    def share(values):
        if jax.process_count() == 1:
            return values
        return tree.map(np.asarray, multihost_utils.broadcast_one_to_all(values))

    def agree(wish: int) -> int:
        return wish if jax.process_count() == 1 else int(multihost_utils.process_allgather(np.array(wish)).max())

    def filled(part):
        missing = -len(tree.leaves(part)[0]) % len(devices)
        if missing and blank is None:
            raise InputError(f"{len(tree.leaves(part)[0])} rows do not divide over {len(devices)} devices: expected a multiple")
        return blank(part, missing) if missing else part

    step = _step(mixed_precision(loss, precision), rule)
    unchanged = place(fixed or {})
    compiled: dict[str, Callable] = {}

    def advance(params, rule_state, batch, number):
        parts = [filled(part) for part in _parts(batch, accumulate)]
        weights = np.array([weight(part) for part in parts] if weight else [1.0] * accumulate, np.float64)
        shares = weights / weights.sum() if weight else weights
        key = jax.random.fold_in(jax.random.key(seed), number)
        if "step" not in compiled:
            kept = tree.map(lambda leaf: leaf.sharding, (params, rule_state))
            compiled["step"] = jax.jit(step, donate_argnums=(0, 1), out_shardings=(*kept, whole, whole))
        with jax.default_matmul_precision(_products_of(precision)):
            params, rule_state, value, norm = compiled["step"](
                params,
                rule_state,
                unchanged,
                tree.map(lambda *leaves: put(np.stack(leaves), rows), *parts),
                put(shares, whole),
                key,
            )
        return params, rule_state, float(value), float(norm)

    return Engine(advance, place, host, agree, share, jax.process_index(), rule.loss_scale)


def _products_of(precision: str) -> str:
    """How XLA multiplies: numbers that were rounded to 16 bits lose nothing where it takes them as such, on tensor cores."""
    import jax

    accelerated = {("gpu", "bfloat16"): "BF16_BF16_F32", ("tpu", "bfloat16"): "BF16_BF16_F32", ("gpu", "float16"): "F16_F16_F32"}
    return accelerated.get((jax.default_backend(), precision), "float32")


def _as_numpy(leaf) -> np.ndarray:
    """An array as the state of a run has it: JAX cuts whole numbers to 32 bits where it is not told otherwise."""
    array = np.asarray(leaf)
    return array.astype(np.int64) if array.dtype == np.int32 else array


def _parts(batch, accumulate: int) -> list:
    count = len(tree.leaves(batch)[0])
    if count % accumulate:
        raise InputError(f"a batch of {count} rows has no {accumulate} equal parts: expected a multiple of {accumulate}")
    size = count // accumulate
    return [tree.map(lambda leaf, i=i: leaf[i * size : (i + 1) * size], batch) for i in range(accumulate)]


def _step(loss: Callable, rule: Rule) -> Callable:
    """One training step of JAX arrays; where loss or gradient is not finite it changes nothing, but for a loss scale."""
    import jax
    import jax.numpy as jnp

    from bertcraft.tensor.xla import Generator

    def part(params, fixed, batch, share, key):
        dtype = tree.leaves(params)[0].dtype
        of_part = lambda p, f, b: loss(merged(p, f), b, Generator(key)) * share.astype(dtype)  # noqa: E731
        return value_and_grad(of_part)(params, fixed, batch)

    def step(params, rule_state, fixed, parts, shares, key):
        count = len(shares)
        scale = unwrap(rule.loss_scale(wrap_jax(rule_state))) if rule.loss_scale else 1.0
        shares = shares * scale
        keys = jax.random.split(key, count)
        first = tree.map(lambda leaf: leaf[0], parts)
        value, gradients = part(params, fixed, first, shares[0], keys[0])
        if count > 1:

            def add(total, given):
                return jax.tree.map(jnp.add, total, part(params, fixed, *given)), None

            rest = jax.tree.map(lambda leaf: leaf[1:], (parts, shares, keys))
            (value, gradients), _ = jax.lax.scan(add, (value, gradients), rest)
        value, norm = value / scale, unwrap(global_norm(wrap_jax(gradients))) / scale
        updates, after = unwrap(rule.update(wrap_jax(gradients), wrap_jax(rule_state), wrap_jax(params)))
        if rule.loss_scale:  # the rule sees to it
            return jax.tree.map(jnp.add, params, updates), after, value, norm
        sound = jnp.isfinite(value) & jnp.isfinite(norm)
        keep = functools.partial(jax.tree.map, lambda new, old: jnp.where(sound, new, old))
        return keep(jax.tree.map(jnp.add, params, updates), params), keep(after, rule_state), value, norm

    return step
