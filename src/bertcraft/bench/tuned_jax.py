"""A BERT masked-LM training step in JAX, all under one ``jax.jit``, to measure bertcraft against."""

import jax
import numpy as np
from jax import numpy as jnp

from bertcraft.bench.step import Sizes

B1, B2, EPSILON_ADAM = 0.9, 0.999, 1e-8


def initial_state(sizes: Sizes, deviation: float) -> tuple:
    """(parameters, first moments, second moments), three trees of float32 arrays."""
    rng = np.random.default_rng(0)
    hidden, inner = sizes.hidden, 4 * sizes.hidden

    def normal(*shape):
        return jnp.asarray(deviation * rng.standard_normal(shape), jnp.float32)

    def dense(wide, narrow):
        return {"weight": normal(wide, narrow), "bias": jnp.zeros(narrow)}

    def norm():
        return {"weight": jnp.ones(hidden), "bias": jnp.zeros(hidden)}

    params = {
        "words": normal(sizes.vocabulary, hidden),
        "positions": normal(sizes.positions, hidden),
        "norm": norm(),
        "layers": [
            {
                "query_key_value": dense(hidden, 3 * hidden), "output": dense(hidden, hidden),
                "inner": dense(hidden, inner), "outer": dense(inner, hidden),
                "norm1": norm(), "norm2": norm(),
            }
            for _ in range(sizes.layers)
        ],
        "transform": dense(hidden, hidden),
        "transform_norm": norm(),
        "bias": jnp.zeros(sizes.vocabulary),
    }  # fmt: skip
    return params, jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)


def training_step(sizes: Sizes, rate: float, decay: float, clip: float, dropout: float, epsilon: float):
    """``step(state, ids, at, labels, number) -> (loss, state)``, jitted; the state is given away."""
    heads = sizes.heads

    def dense(p, x):
        return x @ p["weight"] + p["bias"]

    def norm(p, x):
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred * centred).mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + epsilon) * p["weight"] + p["bias"]

    def drop(x, key):
        bits = jax.random.bits(key, x.shape, jnp.uint16)  # quicker than bernoulli's floats
        return jnp.where(bits >= round(dropout * 65536), x / (1 - dropout), 0)

    def attention(p, x):
        batch, length, hidden = x.shape
        parts = dense(p["query_key_value"], x).reshape(batch, length, 3, heads, hidden // heads)
        query, key, value = (parts[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
        scores = query @ key.swapaxes(-1, -2) / (hidden // heads) ** 0.5
        context = (jax.nn.softmax(scores, -1) @ value).transpose(0, 2, 1, 3).reshape(x.shape)
        return dense(p["output"], context)

    def loss(params, ids, at, labels, key):
        keys = iter(jax.random.split(key, 1 + 2 * len(params["layers"])))
        x = norm(params["norm"], params["words"][ids] + params["positions"][: ids.shape[1]])
        x = drop(x, next(keys))
        for p in params["layers"]:
            x = norm(p["norm1"], x + drop(attention(p, x), next(keys)))
            x = norm(p["norm2"], x + drop(dense(p["outer"], jax.nn.gelu(dense(p["inner"], x))), next(keys)))
        x = x.reshape(-1, x.shape[-1])[at]
        x = norm(params["transform_norm"], jax.nn.gelu(dense(params["transform"], x)))
        logits = x @ params["words"].T + params["bias"]
        chosen = jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]
        return (jax.nn.logsumexp(logits, -1) - chosen).mean()

    def step(state, ids, at, labels, number):
        params, first, second = state
        value, gradients = jax.value_and_grad(loss)(params, ids, at, labels, jax.random.key(number))
        length = jnp.sqrt(sum((g * g).sum() for g in jax.tree.leaves(gradients)))
        scale = jnp.minimum(1, clip / (length + 1e-6))
        gradients = jax.tree.map(lambda g: g * scale, gradients)
        first = jax.tree.map(lambda m, g: B1 * m + (1 - B1) * g, first, gradients)
        second = jax.tree.map(lambda v, g: B2 * v + (1 - B2) * g * g, second, gradients)
        t = number + 1

        def moved(p, m, v):
            direction = m / (1 - B1**t) / (jnp.sqrt(v / (1 - B2**t)) + EPSILON_ADAM)
            return p - rate * (direction + decay * p)

        return value, (jax.tree.map(moved, params, first, second), first, second)

    return jax.jit(step, donate_argnums=0)
