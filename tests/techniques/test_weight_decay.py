"""The chains are torch's Adam, AdamW and SGD, states included; LAMB and BERT's Adam line by line; what decays."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcraft.errors import InputError
from bertcraft.techniques import weight_decay as technique
from bertcraft.tensor import tree
from bertcraft.tensor.gradient import unwrap, wrap_jax
from bertcraft.train import adamw, chain, clip_by_global_norm, constant, default_decay, fit, sgd, warmup_linear

sys.path.insert(0, str(Path(__file__).parents[1] / "bert"))
from transformers_models import make, ours

STEPS, RATE, DECAY = 50, 3e-3, 0.1
SHAPES = {"embeddings": {"weight": (7, 5)}, "layer": {"0": {"weight": (5, 3), "bias": (3,)}}, "scale": (1,), "s": ()}


def problem(dtype=np.float64, seed=3):
    rng = np.random.default_rng(seed)

    def draw(scale, shapes=SHAPES):
        if isinstance(shapes, dict):
            return {key: draw(scale, branch) for key, branch in shapes.items()}
        return np.asarray(scale * rng.standard_normal(shapes)).astype(dtype)

    return draw(1.0), [draw(10.0 ** rng.uniform(-3, 1)) for _ in range(STEPS)]


def train(rule, params, gradients):
    state = rule.init(params)
    for g in gradients:
        updates, state = rule.update(g, state, params)
        params = tree.map(np.add, params, updates)
    return params, state


def train_torch(optimizer, params, gradients, schedule=None, weight_decay=DECAY, all_decay=False, **options):
    """torch's parameters and states, in the order of our leaves; matrices decay, or all."""
    tensors = [torch.tensor(leaf, requires_grad=True) for leaf in tree.leaves(params)]
    groups = [
        {"params": [t for t in tensors if all_decay or t.ndim > 1], "weight_decay": weight_decay},
        {"params": [t for t in tensors if not all_decay and t.ndim <= 1], "weight_decay": 0.0},
    ]
    own = optimizer([group for group in groups if group["params"]], lr=RATE, **options)
    scheduler = torch.optim.lr_scheduler.LambdaLR(own, lambda step: float(schedule(step))) if schedule else None
    for g in gradients:
        for tensor, leaf in zip(tensors, tree.leaves(g), strict=True):
            tensor.grad = torch.tensor(leaf)
        own.step()
        if scheduler:
            scheduler.step()
    return [tensor.detach().numpy() for tensor in tensors], [own.state[tensor] for tensor in tensors]


def assert_close(ours, theirs, tolerance=1e-12):
    for (name, a), b in zip(tree.items(ours), theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)


def assert_moments(state, theirs):
    for mine, other in (("m", "exp_avg"), ("v", "exp_avg_sq")):
        assert_close(state[mine], [own[other].numpy() for own in theirs])
    assert {int(own["step"]) for own in theirs} == {int(state["step"])} == {STEPS}


# --------------------------------------------------------------------------------------------------------------- torch's

OPTIONS = [{}, {"b1": 0.8, "b2": 0.98, "eps": 1e-6}, {"b1": 0.0}]


def of_torch(options):
    o = {"b1": 0.9, "b2": 0.999, "eps": 1e-8} | options
    return {"betas": (o["b1"], o["b2"]), "eps": o["eps"]}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("all_decay", [False, True])
def test_l2_is_torchs_adam_states_included(options, all_decay):
    params, gradients = problem()
    which = technique.everything if all_decay else default_decay
    mine, (_, state, _) = train(technique.adam_l2(RATE, DECAY, which, **options), params, gradients)
    theirs, states = train_torch(torch.optim.Adam, params, gradients, all_decay=all_decay, **of_torch(options))
    assert_close(mine, theirs)
    assert_moments(state, states)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("all_decay", [False, True])
def test_decoupled_is_torchs_adamw_states_included_under_a_schedule(options, all_decay):
    params, gradients = problem()
    which, shape = technique.everything if all_decay else default_decay, warmup_linear(1.0, 10, STEPS)
    rule = technique.adam_decoupled(warmup_linear(RATE, 10, STEPS), DECAY, which, **options)
    mine, (state, _, count) = train(rule, params, gradients)
    theirs, states = train_torch(torch.optim.AdamW, params, gradients, shape, all_decay=all_decay, **of_torch(options))
    assert_close(mine, theirs)
    assert_moments(state, states)
    assert int(count["step"]) == STEPS
    fused, own = train(adamw(warmup_linear(RATE, 10, STEPS), weight_decay=DECAY, decay=which, **options), params, gradients)
    assert_close(mine, tree.leaves(fused))
    assert_close(state, tree.leaves(own))


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_l2_before_sgd_is_torchs_sgd(momentum, nesterov):
    params, gradients = problem()
    mine, (_, state) = train(chain(technique.add_decay(DECAY), sgd(RATE, momentum, nesterov)), params, gradients)
    theirs, states = train_torch(torch.optim.SGD, params, gradients, momentum=momentum, nesterov=nesterov)
    assert_close(mine, theirs)
    if momentum:
        assert_close(state["velocity"], [own["momentum_buffer"].numpy() for own in states])


def test_in_plain_sgd_l2_and_decoupled_are_one_rule_with_adam_they_are_not():
    params, gradients = problem()
    one, _ = train(chain(technique.add_decay(DECAY), technique.descend(RATE)), params, gradients)
    other = params
    for g in gradients:
        other = tree.map(lambda p, g: p - RATE * g - (RATE * DECAY * p if p.ndim > 1 else 0), other, g)
    assert_close(one, tree.leaves(other))
    l2, decoupled = (train(make(RATE, DECAY), params, gradients)[0] for make in (technique.adam_l2, technique.adam_decoupled))
    assert np.abs(l2["embeddings"]["weight"] - decoupled["embeddings"]["weight"]).max() > 1e-3
    np.testing.assert_array_equal(l2["scale"], decoupled["scale"])


@settings(deadline=None, max_examples=25)
@given(st.floats(1e-3, 1e3))
def test_the_scale_of_a_gradient_changes_what_l2_takes_and_not_what_decoupled_does(scale):
    """Adam forgets the scale of a loss; L2's share of the update does not."""
    params, gradients = problem()
    scaled = [tree.map(lambda g: scale * g, g) for g in gradients]
    decoupled = lambda given: train(technique.adam_decoupled(RATE, DECAY, eps=0.0), params, given)[0]  # noqa: E731
    assert_close(decoupled(gradients), tree.leaves(decoupled(scaled)), 1e-9)
    l2 = lambda given: train(technique.adam_l2(RATE, DECAY, eps=0.0), params, given)[0]["embeddings"]["weight"]  # noqa: E731
    same = np.abs(l2(gradients) - l2(scaled)).max()
    assert same < 1e-9 if scale == 1 else abs(math.log(scale)) < 0.1 or same > 1e-6


# ------------------------------------------------------------------------------------------------- papers, line by line


def published(w, gradients, alpha, multiplier, b1, b2, eps, weight_decay):
    """Loshchilov & Hutter 2019, algorithm 2."""
    m = v = np.zeros(w.shape)
    for t, g in enumerate(gradients, 1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        w = w - multiplier(t - 1) * (alpha * m_hat / (np.sqrt(v_hat) + eps) + weight_decay * w)
    return w


def test_the_published_rule_and_that_its_decay_does_not_follow_the_rate():
    params, gradients = problem()
    multiplier = warmup_linear(1.0, 5, STEPS)
    for alpha in (RATE, RATE / 7):
        mine, _ = train(technique.adam_published(alpha, multiplier, 1e-3, technique.everything), params, gradients)
        for i, w in enumerate(tree.leaves(params)):
            theirs = published(w, [tree.leaves(g)[i] for g in gradients], alpha, multiplier, 0.9, 0.999, 1e-8, 1e-3)
            np.testing.assert_allclose(tree.leaves(mine)[i], theirs, rtol=1e-12, atol=1e-12)
        rate = lambda step: alpha * multiplier(step)  # noqa: E731
        torchs, _ = train(technique.adam_decoupled(rate, 1e-3 / alpha, technique.everything), params, gradients)
        assert_close(mine, tree.leaves(torchs))
    nothing = [tree.map(np.zeros_like, params)] * STEPS
    shrunk = lambda rule: float(train(rule, params, nothing)[0]["s"] / params["s"])  # noqa: E731
    kept = [shrunk(technique.adam_published(alpha, multiplier, 1e-3, technique.everything)) for alpha in (RATE, 10 * RATE)]
    assert kept[0] == kept[1]
    follows = [shrunk(technique.adam_decoupled(constant(rate), DECAY, technique.everything)) for rate in (RATE, 10 * RATE)]
    assert follows[1] < 0.98 * follows[0]


def naive_lamb(x, gradients, rate, b1, b2, eps, weight_decay):
    """You et al. 2020, algorithm 2, line by line, for one layer."""
    m = v = np.zeros(x.shape)
    for t, g in enumerate(gradients, 1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        r = (m / (1 - b1**t)) / ((v / (1 - b2**t)) ** 0.5 + eps)
        if weight_decay is None:  # a leaf without decay is not rescaled
            x = x - rate * r
            continue
        norm_x, norm_u = np.linalg.norm(x), np.linalg.norm(r + weight_decay * x)
        x = x - rate * (norm_x / norm_u if norm_x and norm_u else 1.0) * (r + weight_decay * x)
    return x


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_lamb_is_the_papers(dtype):
    params, gradients = problem(dtype)
    params["layer"]["0"]["weight"][...] = 0  # starts with the ratio 1
    mine, _ = train(technique.lamb(3e-3, weight_decay=0.1), params, gradients)
    theirs = [
        naive_lamb(x.astype(np.float64), [tree.leaves(g)[i] for g in gradients], 3e-3, 0.9, 0.999, 1e-6,
                   0.1 if x.ndim > 1 else None)
        for i, x in enumerate(tree.leaves(params))
    ]  # fmt: skip
    assert_close(mine, theirs, 1e-12 if dtype == np.float64 else 1e-6)


def berts(w, gradients, rate, decays):
    """AdamWeightDecayOptimizer.apply_gradients of google-research/bert, without TensorFlow."""
    m = v = np.zeros(w.shape)
    for step, grad in enumerate(gradients):
        next_m = np.multiply(0.9, m) + np.multiply(1.0 - 0.9, grad)
        next_v = np.multiply(0.999, v) + np.multiply(1.0 - 0.999, np.square(grad))
        update = next_m / (np.sqrt(next_v) + 1e-6)
        if decays:
            update += 0.01 * w
        w, m, v = w - rate(step) * update, next_m, next_v
    return w


def test_berts_own_optimizer_and_how_much_longer_its_first_updates_are():
    params, gradients = problem()
    schedule = warmup_linear(RATE, 5, STEPS)
    mine, _ = train(technique.adam_decoupled(schedule, corrected=False, eps=1e-6), params, gradients)
    theirs = [berts(w, [tree.leaves(g)[i] for g in gradients], schedule, w.ndim > 1) for i, w in enumerate(tree.leaves(params))]
    assert_close(mine, theirs)
    long, short = (chain(technique.adam(corrected=corrected, eps=0.0)) for corrected in (False, True))
    states = [rule.init(params) for rule in (long, short)]
    for step, g in enumerate(gradients):
        (a, states[0]), (b, states[1]) = (
            rule.update(g, state, params) for rule, state in zip((long, short), states, strict=True)
        )
        ratio = technique.uncorrected(step)
        tree.map(lambda x, y: np.testing.assert_allclose(x, ratio * y, rtol=1e-9), a, b)
    assert [round(float(technique.uncorrected(t - 1)), 1) for t in (1, 10, 1000)] == [3.2, 6.5, 1.3]


# --------------------------------------------------------------------------------------------------------------- epsilon


def test_where_epsilon_stands():
    """Outside the root it is as large as a gradient, inside as large as its square, as epsilon hat it grows with the average."""
    params = {"w": np.zeros(4)}
    g = np.array([1e-12, 1e-8, 1e-4, 1.0])

    def first(**options):
        rule = technique.adam(**options)
        return rule.update({"w": g}, rule.init(params), params)[0]["w"]

    np.testing.assert_allclose(first(eps=1e-8), g / (g + 1e-8), rtol=1e-9)
    np.testing.assert_allclose(first(eps=1e-8, inside=True), g / np.sqrt(g**2 + 1e-8), rtol=1e-9)
    np.testing.assert_allclose(first(eps=0.0), 1, rtol=1e-9)
    hat = first(eps=1e-8 * math.sqrt(1e-3), corrected=False)
    np.testing.assert_allclose(hat / technique.uncorrected(0), first(eps=1e-8), rtol=1e-9)
    assert first(eps=1e-8)[2] > 0.999 and first(eps=1e-8, inside=True)[2] == pytest.approx(math.sqrt(0.5))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, STEPS), st.sampled_from([0.9, 0.999]), st.floats(1e-10, 1e-2))
def test_epsilon_hat_is_an_ordinary_one_that_shrinks(steps, b2, eps):
    """Kingma & Ba, end of section 2: eps hat = eps sqrt(1 - b2^t)."""
    params, gradients = problem()
    root = math.sqrt(1 - b2**steps)
    last = []
    for rule in (technique.adam(b2=b2, eps=eps), technique.adam(b2=b2, eps=eps * root, corrected=False)):
        state = train(rule, params, gradients[: steps - 1])[1] if steps > 1 else rule.init(params)
        last.append(rule.update(gradients[steps - 1], state, params)[0])
    longer = root / (1 - 0.9**steps)  # what the corrections come to
    tree.map(lambda one, hat: np.testing.assert_allclose(one, longer * hat, rtol=1e-9), *last)


# ---------------------------------------------------------------------------------------------------------- what decays


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_what_decays_is_what_transformers_trainer_decays(family):
    model = make(family, "sequence_classification", 0)
    _, params = ours(model, family, "sequence_classification")
    theirs = set(transformers.Trainer.get_decay_parameter_names(None, model))
    mine = {name for name, leaf in tree.items(params) if default_decay(name, leaf)}
    assert mine == theirs and mine
    if family in ("bert", "roberta", "electra"):
        assert mine == {name for name, leaf in tree.items(params) if technique.by_name(name, leaf)}
    assert {name for name, leaf in tree.items(params) if technique.everything(name, leaf)} > mine


def test_decay_pulls_a_norms_scale_to_zero_and_a_matrix_along():
    params = {"LayerNorm": {"weight": np.ones(4), "bias": np.zeros(4)}, "dense": {"weight": np.ones((4, 4))}}
    nothing = [tree.map(np.zeros_like, params)] * 100
    plain, _ = train(technique.adam_decoupled(0.1, 0.1), params, nothing)
    every, _ = train(technique.adam_decoupled(0.1, 0.1, technique.everything), params, nothing)
    kept = technique.left([0.1] * 100, 0.1)
    np.testing.assert_allclose(plain["dense"]["weight"], kept, rtol=1e-12)
    np.testing.assert_allclose(every["LayerNorm"]["weight"], kept, rtol=1e-12)
    assert (plain["LayerNorm"]["weight"] == 1).all() and kept == pytest.approx(math.exp(-1), rel=0.01)


def test_in_fine_tuning_decay_does_almost_nothing():
    assert technique.left([0.1], 0.01) == 0.999
    assert 1 - technique.left([2e-5] * 1000, 0.01) == pytest.approx(2e-4, rel=1e-3)
    rates = [float(warmup_linear(1e-4, 10_000, 1_000_000)(step)) for step in range(0, 1_000_000, 1000)]
    assert 1 - technique.left(rates, 1000 * 0.01) == pytest.approx(1 - math.exp(-0.5), rel=0.02), "in BERT's pretraining it does"


# ------------------------------------------------------------------------------------------------- backends, runs, refusals

RULES = {
    "l2": technique.adam_l2(warmup_linear(RATE, 10, STEPS), DECAY), "decoupled": technique.adam_decoupled(RATE, DECAY),
    "published": technique.adam_published(RATE, warmup_linear(1.0, 10, STEPS), 1e-3), "lamb": technique.lamb(constant(1e-2)),
    "bert": technique.adam_decoupled(RATE, corrected=False, eps=1e-6), "inside": technique.adam_l2(RATE, DECAY, inside=True),
    "clipped sgd": chain(clip_by_global_norm(1.0), technique.add_decay(DECAY), sgd(RATE, 0.9)),
}  # fmt: skip


@pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("name", RULES)
def test_the_same_rules_run_under_jax_jit_and_float32_stays(name, x64):
    import jax

    dtype, rule = np.float64 if x64 else np.float32, RULES[name]
    params, gradients = problem(dtype)
    mine, state = train(rule, params, gradients)
    assert {leaf.dtype for leaf in tree.leaves(mine)} == {np.dtype(dtype)}

    @jax.jit
    def step(g, state, p):
        g, state, p = wrap_jax((g, state, p))
        updates, state = rule.update(g, state, p)
        return unwrap((tree.map(np.add, p, updates), state))

    with jax.enable_x64(x64):
        jitted, after = params, rule.init(params)
        for g in gradients:
            jitted, after = step(g, after, jitted)
        tree.map(lambda a, b: assert_close(a, [np.asarray(b)], 1e-12 if x64 else 1e-5), mine, jitted)


@pytest.mark.parametrize("name", RULES)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(name, tmp_path):
    params, gradients = problem()
    gradient = lambda params, batch, step: (1.0, gradients[step])  # noqa: E731
    whole = fit(gradient, params, RULES[name], lambda step: {}, STEPS, seed=0)
    fit(gradient, params, RULES[name], lambda step: {}, 13, seed=0, folder=tmp_path)
    rest = fit(gradient, params, RULES[name], lambda step: {}, STEPS, seed=0, folder=tmp_path)
    tree.map(np.testing.assert_array_equal, whole.params, rest.params)


@pytest.mark.parametrize("rule", [technique.adam_l2, technique.adam_decoupled, technique.lamb])
def test_numbers_of_numpys_own_float64_promote_nothing(rule):
    params, wide = {"w": np.ones((2, 3), np.float32)}, np.float64
    rule = rule(wide(1e-3), wide(0.01), b1=wide(0.9), b2=wide(0.99), eps=wide(1e-8))
    updates, state = rule.update(params, rule.init(params), params)
    assert {leaf.dtype for leaf in (updates["w"], state[0].get("m", state[1].get("m"))["w"])} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    "make",
    [lambda: technique.adam(b1=1.0), lambda: technique.adam(eps=-1.0), lambda: technique.lamb(1e-3, weight_decay=-0.1),
     lambda: technique.adam_l2(1e-3, b2=2.0)],
)  # fmt: skip
def test_impossible_rules_are_refused(make):
    with pytest.raises(InputError):
        make()
