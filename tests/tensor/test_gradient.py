"""value_and_grad and grad: nesting, graphs of every form, memory, threads, trees."""

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from bertcraft.tensor import Tensor, grad, stop_gradient, tree, value_and_grad
from bertcraft.tensor import functions as F
from bertcraft.tensor.check import check_grads
from bertcraft.tensor.kernels import kernels_disabled
from bertcraft.tensor.tensor import DERIVATIVES, apply

from .compare import against_torch, close

RNG = np.random.default_rng(0)
X, V, W = RNG.standard_normal((3, 4)), RNG.standard_normal((3, 4)), RNG.standard_normal((4, 4))


def smooth(x, m=np, w=W):
    """A scalar with all derivatives, in the words of NumPy or torch."""
    return m.sum(m.tanh(x @ w) ** 3 + m.exp(-x * x))


def torch_smooth(x):
    return smooth(x, torch, torch.from_numpy(W))


# ---------------------------------------------------------------------------------------------------- higher orders


def test_hessian_vector_products_equal_torch():
    product = grad(lambda x: np.sum(grad(smooth)(x) * V))(X)
    _, expected = torch.autograd.functional.hvp(torch_smooth, torch.from_numpy(X), torch.from_numpy(V))
    close(product, expected.numpy(), 1e-12)


def test_third_order_equals_torch():
    third = grad(lambda x: np.sum(grad(lambda x: np.sum(grad(smooth)(x) * V))(x) * V))(X)
    x = torch.from_numpy(X).requires_grad_()
    out = torch_smooth(x)
    for _ in range(2):
        (g,) = torch.autograd.grad(out, x, create_graph=True)
        out = (g * torch.from_numpy(V)).sum()
    close(third, torch.autograd.grad(out, x)[0].numpy(), 1e-12)
    check_grads(smooth, X, order=4)


def test_derivatives_of_a_power_to_sixth_order():
    f, x = (lambda x: x**6), 1.3
    for order in range(1, 7):
        f = grad(f)
        assert f(x) == pytest.approx(np.prod(range(7 - order, 7)) * x ** (6 - order), rel=1e-12)


def test_perturbations_of_inner_and_outer_are_not_confused():
    assert grad(lambda x: x * grad(lambda y: x + y)(2.0))(1.0) == 1
    assert grad(lambda x: x * grad(lambda y: x * y)(2.0))(3.0) == 6
    assert grad(lambda x: grad(lambda y: x * y * y)(x) * x)(3.0) == 54  # of 2 x^3
    assert grad(lambda x: grad(lambda y: grad(lambda z: x * y * z * z)(y))(x))(2.0) == 16  # of 4 x^2


def test_an_inner_gradient_may_stop_the_outer_one():
    assert grad(lambda x: grad(lambda y: y**2 * stop_gradient(x))(x))(3.0) == 6
    assert grad(lambda x: stop_gradient(grad(lambda y: y**3)(x)) * x)(2.0) == 12
    assert grad(lambda x: np.sum(stop_gradient({"a": x})["a"] * 2.0))(2.0) == 0


def test_a_step_of_gradient_descent_can_be_differentiated():
    """MAML: the gradient through an inner update, against torch."""

    def adapted(w, x):
        w = w - 0.1 * grad(lambda w: np.sum(np.square(np.tanh(x @ w))))(w)
        return np.sum(np.tanh(x @ w) ** 4)

    def torch_adapted(w, x):
        (g,) = torch.autograd.grad(torch.sum(torch.square(torch.tanh(x @ w))), w, create_graph=True)
        return torch.sum(torch.tanh(x @ (w - 0.1 * g)) ** 4)

    against_torch(adapted, torch_adapted, W, X)


def test_a_gradient_penalty_through_kernels_equals_their_definitions():
    """Functions that have kernels, outside and inside of the inner gradient."""

    def loss(p):
        h = F.gelu(F.linear(X, p["w"], p["b"]))
        penalty = grad(lambda h: np.sum(np.square(F.layer_norm(h, p["b"], p["b"]))))(h)
        return np.sum(np.square(penalty)) + np.sum(h)

    params = {"w": W, "b": W[0]}
    check_grads(lambda w, b: loss({"w": w, "b": b}), W, W[0])
    value, found = value_and_grad(loss)(params)
    with kernels_disabled():
        expected_value, expected = value_and_grad(loss)(params)
    close(value, expected_value, 1e-12)
    tree.map(lambda a, b: close(a, b, 1e-12), found, expected)


def test_an_inner_gradient_of_plain_arrays_counts_as_a_constant():
    inner = grad(lambda y: np.sum(y * y))
    close(grad(lambda x: np.sum(x * inner(V)))(X), 2 * V, 1e-15)


# ------------------------------------------------------------------------------------------------- forms of graphs


def test_diamonds_and_many_uses_add_up():
    def diamond(x):
        y = x * x
        z = y * x + y
        return z * y - z + x + x * 2 + y

    against_torch(diamond, diamond, X)
    check_grads(diamond, X)
    assert grad(lambda x: sum(x for _ in range(100)))(1.0) == 100


def test_constant_and_tracked_gradients_meet_at_one_array():
    check_grads(lambda x: x[0] * x[1] + x[0] + x[1] + x[0] * 3, X)  # in the second order, plain arrays and Tensors


def test_gradients_of_different_kinds_meet_at_a_kernel():
    def code(x, w):
        h = F.linear(x, w)
        return F.gelu(h) + h + F.softmax(h) * h

    def reference(x, w):
        h = torch.nn.functional.linear(x, w)
        return torch.nn.functional.gelu(h) + h + torch.softmax(h, -1) * h

    against_torch(code, reference, X, W)
    against_torch(lambda x: F.add_layer_norm(x, x, *np.ones((2, 4))) * x,
                  lambda x: torch.nn.functional.layer_norm(x + x, (4,), *torch.ones((2, 4)).double(), 1e-12) * x, X)  # fmt: skip


def test_a_gradient_that_stands_for_two_arguments_is_not_added_to_in_place():
    """add_layer_norm hands one array to both of its summands; one of them has another use."""

    def code(a, b, norm):
        x, y = a * 2.0, b * 3.0
        again = x * x
        return norm(x, y) + again

    fast = lambda x, y: F.add_layer_norm(x, y, *np.ones((2, 4)))  # noqa: E731
    exact = lambda x, y: torch.nn.functional.layer_norm(x + y, (4,), *torch.ones((2, 4)).double(), 1e-12)  # noqa: E731
    against_torch(lambda a, b: code(a, b, fast), lambda a, b: code(a, b, exact), X, V)


@pytest.mark.parametrize("step", [lambda x: x + 1, lambda x: np.sin(x), lambda x: F.linear(x, np.eye(2))])
def test_a_graph_50_000_deep_needs_no_recursion(step):
    def deep(x):
        for _ in range(50_000):
            x = step(x)
        return np.sum(x)

    def run():
        found = grad(deep)(np.full((1, 2), 0.1))
        assert np.isfinite(found).all() and found.all()
        with pytest.raises(TypeError):
            grad(lambda x: (deep(x), None))(np.full((1, 2), 0.1))  # the graph is dropped without a backward pass

    before = threading.stack_size(512 * 1024)
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(run).result()
    finally:
        threading.stack_size(before)


def test_an_inner_gradient_does_not_walk_through_the_outer_graph():
    def loss(x):
        for _ in range(300):
            x = x - 0.01 * grad(lambda y: y * y)(x * 1.0)
        return x

    value, found = value_and_grad(loss)(1.0)
    assert value == pytest.approx(0.98**300, rel=1e-12) and found == pytest.approx(0.98**300, rel=1e-12)


# ----------------------------------------------------------------------------------------------------------- memory


def test_memory_is_freed_while_the_backward_pass_goes_on(monkeypatch):
    """When the backward pass reaches the first operation, the results of the later ones are gone."""
    size, left = 1 << 20, []

    def _first(x):
        return x * 1.0

    monkeypatch.setitem(DERIVATIVES, _first, (lambda g, z, x: left.append(tracemalloc.get_traced_memory()[0]) or g,))

    def loss(x):
        x = apply(_first, x)
        for _ in range(30):
            x = np.sin(x)
        left.append(tracemalloc.get_traced_memory()[0])
        return np.sum(x)

    x = np.zeros(size // 8)
    tracemalloc.start()
    try:
        grad(loss)(x)
    finally:
        tracemalloc.stop()
    assert left[0] > 30 * size  # the forward pass keeps every result
    assert left[1] < 4 * size


def test_nothing_is_left_when_it_is_over():
    x = np.zeros(1 << 17)
    grad(lambda x: np.sum(np.exp(x)))(x)
    tracemalloc.start()
    try:
        for _ in range(5):
            grad(lambda x: np.sum(F.softmax(np.exp(x) * x)))(x)
        assert tracemalloc.get_traced_memory()[0] < x.nbytes / 8
    finally:
        tracemalloc.stop()


def test_gradients_belong_to_the_caller():
    """They can be written into: no two share memory with one another, or with a parameter."""

    def loss(p):
        total = p["a"] + p["b"] + np.flip(p["c"]) + np.reshape(p["d"], (3, 4)) + p["scale"]
        return np.sum(total * 2) + np.sum(p["e"])

    params = {"a": X, "b": V, "c": X, "d": X.reshape(-1), "e": np.zeros(3), "scale": np.float64(2)}
    gradients = tree.leaves(grad(loss)(params))
    for g in gradients:
        assert type(g) is np.ndarray and g.flags.writeable
    before = [g.copy() for g in gradients]
    for i, g in enumerate(gradients):
        np.add(g, 1, out=g)
        for other, old in zip(gradients[i + 1 :], before[i + 1 :], strict=True):
            np.testing.assert_array_equal(other, old)


# ---------------------------------------------------------------------------------------------------------- threads


def test_threads_differentiate_at_once():
    def job(k):
        f = lambda x: np.sum(np.tanh(x * k) ** 2)  # noqa: E731
        return [grad(lambda x: np.sum(grad(f)(x) * V))(X) if i % 2 else grad(f)(X) for i in range(20)]

    expected = [job(k) for k in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for found, right in zip(pool.map(job, range(8)), expected, strict=True):
            np.testing.assert_array_equal(found, right)


def test_the_depth_of_one_thread_is_not_that_of_another():
    entered, done, results = threading.Event(), threading.Event(), []

    def inner(y):
        entered.set()
        assert done.wait(10)
        return np.sum(y**3)

    thread = threading.Thread(target=lambda: results.append(grad(lambda x: np.sum(grad(inner)(x)))(X)))
    thread.start()
    assert entered.wait(10)
    found = grad(lambda x: np.sum(x * x))(X)  # first order here, while the other thread is in its second
    assert type(found) is np.ndarray
    done.set()
    thread.join()
    close(found, 2 * X, 0)
    close(results[0], 6 * X, 1e-14)


def test_an_inner_gradient_on_another_thread_is_refused_rather_than_lost():
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ValueError, match="on another thread"):
            grad(lambda x: pool.submit(grad(lambda y: y * y), x).result())(2.0)


# ------------------------------------------------------------------------------------------- parameters and results


def test_parameters_are_trees_and_unused_ones_get_zeros():
    params = {"a": [X, (V, np.float32(2))], "b": {"unused": np.ones((2, 2), np.float32), "c": 3.0}}
    value, found = value_and_grad(lambda p: np.sum(p["a"][0] * p["a"][1][0]) + p["b"]["c"] ** 2)(params)
    close(value, np.sum(X * V) + 9, 1e-14)
    assert type(found["a"][1]) is tuple
    close(found["a"][0], V, 0)
    close(found["a"][1][0], X, 0)
    assert found["a"][1][1] == 0 and found["a"][1][1].dtype == np.float32
    assert found["b"]["c"] == 6 and found["b"]["c"].shape == ()
    np.testing.assert_array_equal(found["b"]["unused"], np.zeros((2, 2), np.float32))
    assert found["b"]["unused"].dtype == np.float32


def test_a_gradient_has_the_dtype_of_its_parameter_also_where_float64_took_part():
    value, found = value_and_grad(lambda x: np.sum(x * V))(X.astype(np.float32))
    assert value.dtype == np.float64 and found.dtype == np.float32
    close(found, V, 1e-7)


def test_a_result_without_history_has_gradient_zero():
    for constant in (1.5, np.float64(2), np.array(3.0)):
        value, found = value_and_grad(lambda x, c=constant: c)(X)
        assert value == constant and not found.any() and found.shape == X.shape
    assert value_and_grad(lambda p: 1.0)({}) == (1.0, {})


def test_has_aux_returns_bare_arrays():
    def loss(x, factor, shift=0.0):
        hidden = x * factor
        return np.sum(hidden) + shift, {"hidden": hidden, "n": 3, "pair": (x, "text")}

    (value, aux), found = value_and_grad(loss, has_aux=True)(X, 2.0, shift=1.0)
    close(value, np.sum(X) * 2 + 1, 1e-14)
    assert type(aux["hidden"]) is np.ndarray and type(aux["pair"][0]) is np.ndarray
    assert aux["n"] == 3 and aux["pair"][1] == "text"
    close(found, np.full(X.shape, 2.0), 0)


def test_aux_of_an_inner_gradient_stays_differentiable():
    def loss(x):
        (_, hidden), g = value_and_grad(lambda y: (np.sum(y**3), y**2), has_aux=True)(x)
        return np.sum(hidden * g)

    close(grad(loss)(X), 12 * X**3, 1e-13)


def test_other_arguments_are_passed_as_they_are():
    seen = []
    grad(lambda x, *args, **kwargs: seen.append((args, kwargs)) or np.sum(x))(X, [1, "a"], V, flag=None)
    assert seen[0][0][0] == [1, "a"] and seen[0][0][1] is V and seen[0][1] == {"flag": None}


def test_names_survive():
    assert grad(smooth).__name__ == value_and_grad(smooth).__name__ == "smooth"


def test_a_tensor_shows_its_value_and_shape():
    def loss(x):
        assert repr(x).startswith("Tensor(array([[") and x.shape == (3, 4) and x.size == 12 and x.ndim == 2
        assert x.dtype == np.float64 and len(x) == 3 and type(x.T) is Tensor
        return np.sum(x)

    grad(loss)(X)


def test_gradients_of_an_inner_gradient_may_be_written_into_one_by_one():
    weights = np.array([1.0, 2.0, 3.0])

    def outer(x):
        one, other = grad(lambda p: np.sum((p[0] + p[1]) * weights))((x, x))
        one *= 2
        return np.sum(other * x)

    value, gradient = value_and_grad(outer)(np.ones(3))
    assert value == 6
    np.testing.assert_array_equal(gradient, weights)


def test_a_value_that_is_a_view_of_a_parameter_stays_as_it_was():
    params = {"s": np.array([3.0])}
    value, gradient = value_and_grad(lambda p: np.squeeze(p["s"]))(params)
    params["s"] -= gradient["s"]
    assert value == 3.0


def test_a_part_of_a_tensor_is_not_changed_in_place():
    """NumPy would change the whole; a Tensor's name would be bound to something new, in silence."""

    def by_rows(x):
        h = np.copy(x)
        for row in h:
            row /= np.sum(row)
        return np.sum(h * h)

    with pytest.raises(TypeError, match=r"a part of another that NumPy would change as well: write x = x \+ y"):
        grad(by_rows)(np.array([[1.0, 3.0], [2.0, 2.0]]))

    def whole(x):
        h = np.exp(x)
        h += 1
        h[np.array([0, 1])].sum()
        return np.sum(h * h)

    np.testing.assert_allclose(grad(whole)(np.zeros(2)), [4, 4])


def test_stop_gradient_takes_no_container_that_it_does_not_know():
    params = {"a": np.ones(2)}
    for loss in (
        lambda p: sum(np.sum(a * a) for a in stop_gradient(p.values())),
        lambda p: sum(np.sum(a * a) for a in stop_gradient(a for a in p.values())),
    ):
        with pytest.raises(TypeError, match="a tree of dicts, lists and tuples, got"):
            grad(loss)(params)
    assert stop_gradient({"a": [1, 2.0, None, "x", np.float32(2), True]})["a"][3] == "x"
