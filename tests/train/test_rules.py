"""Update rules equal torch's optimisers, or their paper's formula, also on JAX arrays under jit."""

import math

import numpy as np
import pytest
import torch
import transformers

from bertcraft.errors import InputError
from bertcraft.tensor import tree
from bertcraft.train import Rule, adamw, chain, clip_by_global_norm, sgd, warmup_linear

SHAPES = {
    "embeddings": {"weight": (7, 5)},
    "layer": {"0": {"weight": (5, 3), "bias": (3,)}},
    "scale": (1,),
    "s": (),
}
TOLERANCE = {np.float64: 1e-12, np.float32: 1e-6}
STEPS = 50


def draw(rng, dtype, scale=1.0):
    def fill(shapes):
        if isinstance(shapes, dict):
            return {key: fill(branch) for key, branch in shapes.items()}
        return np.asarray(scale * rng.standard_normal(shapes)).astype(dtype)

    return fill(SHAPES)


def train(rule: Rule, params, gradients):
    state = rule.init(params)
    for g in gradients:
        updates, state = rule.update(g, state, params)
        params = tree.map(np.add, params, updates)
    return params, state


def assert_close(ours, theirs, dtype):
    for (name, a), b in zip(tree.items(ours), theirs, strict=True):
        assert a.dtype == dtype, name
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], err_msg=name)


def train_torch(make, params, gradients, clip=None, schedule=None):
    """Train torch tensors with the optimiser that ``make`` builds from them; returns them as arrays.

    Always in float64: in float32 torch rounds ``1 - rate * weight_decay`` in every step, which after 50 steps
    has moved a parameter of size 2 by 3e-6, three times as far from the exact result as ours.
    """
    tensors = [torch.tensor(leaf, dtype=torch.float64, requires_grad=True) for leaf in tree.leaves(params)]
    optimizer = make(tensors)
    scheduler = schedule(optimizer) if schedule else None
    norms = []
    for g in gradients:
        for tensor, leaf in zip(tensors, tree.leaves(g), strict=True):
            tensor.grad = torch.tensor(leaf, dtype=torch.float64)
        if clip:
            norms.append(float(torch.nn.utils.clip_grad_norm_(tensors, clip)))
        optimizer.step()
        if scheduler:
            scheduler.step()
    return [tensor.detach().numpy() for tensor in tensors], norms


def decay_groups(weight_decay):
    return lambda tensors: [
        {"params": [t for t in tensors if t.ndim > 1], "weight_decay": weight_decay},
        {"params": [t for t in tensors if t.ndim <= 1], "weight_decay": 0.0},
    ]


@pytest.fixture(params=[np.float64, np.float32], ids=["float64", "float32"])
def problem(request):
    rng, dtype = np.random.default_rng(3), request.param
    gradients = [draw(rng, dtype, scale=10.0 ** rng.uniform(-3, 1)) for _ in range(STEPS)]
    return draw(rng, dtype), gradients, dtype


@pytest.mark.parametrize("options", [{}, {"b1": 0.8, "b2": 0.98, "eps": 1e-6, "weight_decay": 0.1}, {"b1": 0.0}])
def test_adamw_equals_torch(problem, options):
    params, gradients, dtype = problem
    o = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.01} | options
    ours, state = train(adamw(3e-3, **options), params, gradients)
    theirs, _ = train_torch(
        lambda t: torch.optim.AdamW(decay_groups(o["weight_decay"])(t), lr=3e-3, betas=(o["b1"], o["b2"]), eps=o["eps"]),
        params,
        gradients,
    )
    assert_close(ours, theirs, dtype)
    assert state["step"] == STEPS and state["step"].shape == () and state["step"].dtype == np.int64
    assert all(leaf.dtype == dtype for leaf in tree.leaves([state["m"], state["v"]]))


def test_clipped_and_scheduled_adamw_equals_torch_and_transformers(problem):
    params, gradients, dtype = problem
    rule = chain(clip_by_global_norm(1.0), adamw(warmup_linear(5e-3, 10, STEPS), weight_decay=0.1))
    ours, state = train(rule, params, gradients)
    theirs, norms = train_torch(
        lambda t: torch.optim.AdamW(decay_groups(0.1)(t), lr=5e-3),
        params,
        gradients,
        clip=1.0,
        schedule=lambda o: transformers.get_linear_schedule_with_warmup(o, 10, STEPS),
    )
    assert_close(ours, theirs, dtype)
    assert min(norms) < 1 < max(norms)
    assert math.isclose(state[0]["norm"], norms[-1], rel_tol=TOLERANCE[dtype])


def test_clipping_equals_torch(problem):
    params, gradients, dtype = problem
    rule = clip_by_global_norm(0.5)
    for g in gradients:
        clipped, state = rule.update(g, rule.init(params), params)
        tensors = [torch.zeros(leaf.shape, requires_grad=True) for leaf in tree.leaves(g)]
        for tensor, leaf in zip(tensors, tree.leaves(g), strict=True):
            tensor.data = torch.tensor(leaf)
            tensor.grad = torch.tensor(leaf)
        norm = torch.nn.utils.clip_grad_norm_(tensors, 0.5)
        assert_close(clipped, [tensor.grad.numpy() for tensor in tensors], dtype)
        assert math.isclose(state["norm"], float(norm), rel_tol=TOLERANCE[dtype])
        assert state["norm"].dtype == dtype


@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_equals_torch(problem, momentum, nesterov):
    params, gradients, dtype = problem
    ours, _ = train(sgd(0.01, momentum, nesterov), params, gradients)
    theirs, _ = train_torch(lambda t: torch.optim.SGD(t, lr=0.01, momentum=momentum, nesterov=nesterov), params, gradients)
    assert_close(ours, theirs, dtype)


@pytest.mark.parametrize("rule", [
    adamw(0.1, *np.float64([0.9, 0.999, 1e-8]), weight_decay=np.float64(0.1)), sgd(np.float64(0.1), np.float64(0.9), True),
    chain(clip_by_global_norm(np.float64(0.5)), adamw(np.float64(0.1))),
], ids=["adamw", "sgd", "clip"])  # fmt: skip
def test_numbers_of_numpy_leave_a_float32_model_as_it_is(rule):
    """As those of np.logspace are."""
    params = draw(np.random.default_rng(0), np.float32)
    updates, state = rule.update(params, rule.init(params), params)
    updates, state = rule.update(params, state, params)
    dtypes = {leaf.dtype for leaf in tree.leaves((updates, state)) if leaf.dtype != np.int64}
    assert dtypes == {np.dtype(np.float32)}


def test_decay_can_be_chosen_by_name():
    params = {"a": np.ones((2, 2)), "b": np.ones((2, 2))}
    rule = adamw(0.1, weight_decay=0.5, decay=lambda name, leaf: name == "b")
    updates, _ = rule.update(tree.map(np.zeros_like, params), rule.init(params), params)
    np.testing.assert_array_equal(updates["a"], 0)
    np.testing.assert_allclose(updates["b"], -0.05)


@pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize(
    "rule",
    [
        chain(clip_by_global_norm(1.0), adamw(warmup_linear(5e-3, 10, STEPS), weight_decay=0.1)),
        sgd(0.01, 0.9, nesterov=True),
    ],
    ids=["clip-adamw", "sgd"],
)
def test_the_same_rule_runs_under_jax_jit(rule, x64):
    import jax

    from bertcraft.tensor.gradient import unwrap, wrap_jax

    dtype = np.float64 if x64 else np.float32
    rng = np.random.default_rng(5)
    params, gradients = draw(rng, dtype), [draw(rng, dtype) for _ in range(STEPS)]
    ours, _ = train(rule, params, gradients)

    @jax.jit
    def step(g, state, p):
        g, state, p = wrap_jax((g, state, p))
        updates, state = rule.update(g, state, p)
        return unwrap((tree.map(np.add, p, updates), state))

    with jax.enable_x64(x64):
        state, jitted = rule.init(params), params
        for g in gradients:
            jitted, state = step(g, state, jitted)
        jitted = tree.map(np.asarray, jitted)
    tree.map(lambda a, b: assert_close(a, [b], dtype), jitted, ours)  # JAX sorts the keys of a dict


@pytest.mark.parametrize(
    "make",
    [
        lambda: adamw(1e-3, b1=1.0),
        lambda: adamw(1e-3, eps=-1.0),
        lambda: adamw(1e-3, weight_decay=-0.1),
        lambda: sgd(1e-3, momentum=1.5),
        lambda: sgd(1e-3, nesterov=True),
        lambda: clip_by_global_norm(0.0),
        lambda: chain(),
    ],
)
def test_impossible_rules_are_refused(make):
    with pytest.raises(InputError):
        make()
