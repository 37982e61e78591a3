"""The same NumPy code traced by jax.jit: value and gradient of every function and of a training step."""

import subprocess
import sys

import numpy as np
import pytest

from bertcraft.tensor import Tensor, grad, stop_gradient, tree, value_and_grad, xla
from bertcraft.tensor import functions as F
from bertcraft.tensor.tensor import CONSTANT, apply, on_jax

from .cases import ELEMENTWISE, calls, draw
from .compare import close
from .test_functions import CALLS as FUNCTION_CALLS
from .test_functions import numbers

jax = pytest.importorskip("jax")
jnp = jax.numpy


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def agree(code, arrays, tolerance):
    """Assert that value and gradients under jax.jit equal NumPy's."""
    weights = np.random.default_rng(7).standard_normal(np.shape(code(*arrays))).astype(arrays[0].dtype)
    step = value_and_grad(lambda xs: np.sum(code(*xs) * weights))
    value, grads = step(arrays)
    jax_value, jax_grads = jax.jit(step)([jnp.asarray(a) for a in arrays])
    assert isinstance(jax_value, jax.Array) and jax_value.dtype == value.dtype
    close(jax_value, value, tolerance)
    for found, expected in zip(jax_grads, grads, strict=True):
        assert isinstance(found, jax.Array) and found.shape == expected.shape and found.dtype == expected.dtype
        close(found, expected, tolerance)


@pytest.mark.parametrize("function", ELEMENTWISE, ids=lambda f: f.__name__)
def test_elementwise_functions(function, float64):
    arrays = draw(function, [(3, 4), (4,), ()][: len(ELEMENTWISE[function]) - 1], np.random.default_rng(0))
    ours = getattr(np, function.__name__, None) is not function
    agree((lambda *xs: apply(function, *xs)) if ours else function, arrays, 1e-12)


_CALLS = list(calls())


@pytest.mark.parametrize(("code", "arrays"), [(c[1], c[3]) for c in _CALLS], ids=[c[0] for c in _CALLS])
def test_other_functions(code, arrays, float64):
    agree(code, arrays, 1e-12)


@pytest.mark.parametrize(("code", "shapes"), [(c[1], c[3:]) for c in FUNCTION_CALLS], ids=[c[0] for c in FUNCTION_CALLS])
def test_functions_of_a_transformer(code, shapes, float64):
    agree(code, numbers(shapes), 1e-10)


@pytest.mark.parametrize(
    "index",
    [
        (np.arange(3)[:, None], np.array([[0, -1], [2, 2], [3, 0]])),  # each row its own
        (np.arange(3), np.array([1, 0, 3])),
        (np.arange(3)[:, None, None], np.arange(4)[:, None], np.full((3, 4, 2), 1)),
        (np.arange(3)[:, None], np.array([0, 3])),  # the same of each row
        (np.array([[2], [1], [0]]), np.array([[0, 1], [2, 2], [3, 0]])),  # rows in another order
        (np.arange(3), slice(1, 3)),
        (np.arange(4), np.full(4, True)),  # which of the columns, not what to read of each row
    ],
)
def test_rows_that_are_read_by_their_own_number(index, float64):
    agree(lambda x: x[index], [np.random.default_rng(3).standard_normal((len(index[0]), 4, 2))], 1e-12)


def test_constant_functions_have_an_equivalent():
    for function in CONSTANT:
        assert callable(on_jax(function))


# -------------------------------------------------------------------------------------------------- a training step

VOCABULARY, HIDDEN, LENGTH, HEADS = 31, 12, 7, 3


def parameters(dtype):
    rng = np.random.default_rng(0)
    make = lambda *shape: (rng.standard_normal(shape) * 0.3).astype(dtype)  # noqa: E731
    layer = lambda out, into: {"weight": make(out, into), "bias": make(out)}  # noqa: E731
    norm = lambda: {"weight": 1 + make(HIDDEN), "bias": make(HIDDEN)}  # noqa: E731
    layers = [
        {
            "qkv": layer(3 * HIDDEN, HIDDEN), "out": layer(HIDDEN, HIDDEN), "norm1": norm(),
            "up": layer(2 * HIDDEN, HIDDEN), "down": layer(HIDDEN, 2 * HIDDEN), "norm2": norm(),
        }
        for _ in range(2)
    ]  # fmt: skip
    return {"word": make(VOCABULARY, HIDDEN), "place": make(LENGTH, HIDDEN), "norm": norm(), "layers": layers,
            "bias": make(VOCABULARY)}  # fmt: skip


def batch():
    rng = np.random.default_rng(1)
    ids = rng.integers(0, VOCABULARY, (4, LENGTH))
    labels = np.where(rng.random(ids.shape) < 0.3, ids, F.IGNORED)
    mask = (np.arange(LENGTH) < np.array([[7], [5], [3], [1]])).astype(np.int64)
    return {"ids": ids, "labels": labels, "mask": mask}


def loss(p, batch, rng=None, rate=0.0):
    """A masked language model in the functions of the library."""
    bias = F.padding_bias(batch["mask"], p["word"].dtype)
    x = F.add_layer_norm(F.embedding(p["word"], batch["ids"]), p["place"], p["norm"]["weight"], p["norm"]["bias"])
    for layer in p["layers"]:
        q, k, v = np.split(F.linear(x, layer["qkv"]["weight"], layer["qkv"]["bias"]), 3, axis=-1)
        h = F.linear(F.attention(q, k, v, bias, heads=HEADS, rate=rate, rng=rng), layer["out"]["weight"], layer["out"]["bias"])
        x = F.add_layer_norm(x, h, layer["norm1"]["weight"], layer["norm1"]["bias"], rate=rate, rng=rng)
        h = F.gelu(F.linear(x, layer["up"]["weight"], layer["up"]["bias"]))
        h = F.linear(h, layer["down"]["weight"], layer["down"]["bias"])
        x = F.add_layer_norm(x, h, layer["norm2"]["weight"], layer["norm2"]["bias"], rate=rate, rng=rng)
    return F.linear_cross_entropy(x, p["word"], p["bias"], batch["labels"])


class Shared:
    """Random numbers of a JAX key, for NumPy: dropout draws the same masks on both."""

    def __init__(self, key):
        self._generator = xla.Generator(key)

    def random_uint16(self, shape):
        return np.asarray(self._generator.random_uint16(shape).value)


def compare_steps(dtype, tolerance, rate):
    params, data = parameters(dtype), batch()
    key = jax.random.key(5)
    value, grads = value_and_grad(loss)(params, data, rng=Shared(key), rate=rate)
    step = jax.jit(lambda p, b, key: value_and_grad(loss)(p, b, xla.Generator(key), rate))
    found, jax_grads = step(tree.map(jnp.asarray, params), tree.map(jnp.asarray, data), key)
    assert found.dtype == value.dtype == dtype
    close(found, value, tolerance)
    jax_grads = dict(tree.items(jax_grads))  # in another order: JAX sorts the keys of dicts
    for name, expected in tree.items(grads):
        got = jax_grads.pop(name)
        assert got.dtype == dtype, name
        assert np.abs(expected).max() > 0, f"{name} receives no gradient"
        close(got, expected, tolerance)
    assert not jax_grads


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_a_training_step_equals_numpy_in_float64(float64, rate):
    compare_steps(np.float64, 1e-10, rate)


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_a_training_step_equals_numpy_in_float32(rate):
    compare_steps(np.float32, 1e-5, rate)


def test_a_second_order_step_equals_numpy(float64):
    """MAML: the gradient of the loss after an inner step of gradient descent."""

    def adapted(p, data):
        g = grad(loss)(p, data)
        return loss(tree.map(lambda a, b: a - 0.1 * b, p, g), data)

    params, data = parameters(np.float64), batch()
    params["layers"] = params["layers"][:1]
    value, grads = value_and_grad(adapted)(params, data)
    found, jax_grads = jax.jit(value_and_grad(adapted))(params, tree.map(jnp.asarray, data))
    close(found, value, 1e-10)
    tree.map(lambda a, b: close(a, b, 1e-9), jax_grads, grads)


def test_vmap_gives_the_gradient_of_each_example(float64):
    w, x, y = numbers([(3, 4), (5, 4), (5, 3)])
    square = lambda w, x, y: np.sum(np.square(np.tanh(w @ x) - y))  # noqa: E731
    each = jax.vmap(grad(square), in_axes=(None, 0, 0))(*map(jnp.asarray, (w, x, y)))
    for i in range(5):
        close(each[i], grad(square)(w, x[i], y[i]), 1e-13)


def test_a_gradient_without_jit_and_a_mixture_of_arrays(float64):
    x, y = numbers([(3, 4), (4,)])
    code = lambda x, y: np.sum(np.exp(x) * y) + np.sum(np.where(y > 0, x, 0) @ y)  # noqa: E731
    expected = grad(code)(x, y)
    for a, b in ((jnp.asarray(x), jnp.asarray(y)), (x, jnp.asarray(y)), (jnp.asarray(x), y)):
        found = grad(code)(a, b)
        assert not isinstance(found, Tensor)
        close(found, expected, 1e-13)


def test_a_jax_array_may_be_an_option(float64):
    x, low = numbers([(3, 4), (4,)])
    found = jax.jit(grad(lambda low, x: np.sum(low) + np.sum(np.clip(x, min=stop_gradient(low)))))(low, x)
    close(found, np.ones(4), 0)
    for code in (
        lambda low: np.clip(x, min=low, max=low + 1),
        lambda low: np.clip(x, a_min=low, a_max=low + 1),
        lambda low: np.clip(x, low, None),
    ):
        close(xla.jit(code)(jnp.asarray(low)), code(low), 1e-15)


def test_a_gradient_of_nothing_and_a_stopped_one(float64):
    x = jnp.ones(3)
    unused = jax.jit(grad(lambda p: np.sum(p["a"] * stop_gradient(p["a"]))))({"a": 2 * x, "b": x})
    close(unused["a"], [2, 2, 2], 0)
    close(unused["b"], [0, 0, 0], 0)
    nested = jax.jit(grad(lambda x: np.sum(np.exp(grad(lambda y: np.sum(x * x))(x)) * x)))(x)
    close(nested, [1, 1, 1], 1e-15)


# --------------------------------------------------------------------------------------------- jit, Generator, import


def test_jit_runs_plain_numpy_on_trees(float64):
    def forward(p, x, *, shift):
        if np.ndim(x) != 2:
            raise AssertionError
        h = F.softmax(F.linear(x, p["w"][0])) + shift
        return {"h": h, "top": np.argmax(h, axis=-1), "rows": h.shape[0]}

    w, x = numbers([(3, 4), (5, 4)])
    found = xla.jit(forward)({"w": [jnp.asarray(w)]}, jnp.asarray(x), shift=jnp.asarray(2.0))
    expected = forward({"w": [w]}, x, shift=2.0)
    assert isinstance(found["h"], jax.Array) and found["rows"] == 5
    close(found["h"], expected["h"], 1e-14)
    np.testing.assert_array_equal(found["top"], expected["top"])
    assert xla.jit(forward).__name__ == "forward"


def test_generator_is_uniform_and_depends_on_its_key():
    one = xla.Generator(jax.random.key(0))
    first, second = one.random_uint16((100_000,)).value, one.random_uint16((100_000,)).value
    assert first.dtype == np.uint16 and (first != second).any()
    np.testing.assert_array_equal(first, xla.Generator(jax.random.key(0)).random_uint16((100_000,)).value)
    counts = np.bincount(np.asarray(first) >> 12, minlength=16)
    assert abs(counts - 6250).max() < 5 * np.sqrt(6250)
    uniform = one.random((1000,), np.float32).value
    assert uniform.dtype == np.float32 and 0 <= uniform.min() < 0.01 and 0.99 < uniform.max() < 1


def test_a_function_unknown_to_jax_is_named():
    with pytest.raises(TypeError, match="np.busday_count has no equivalent in jax.numpy"):
        on_jax(np.busday_count)


def test_importing_the_engine_imports_no_jax():
    code = "import sys, bertcraft.tensor; assert 'jax' not in sys.modules; print(len(bertcraft.tensor.tensor.XLA))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 7
