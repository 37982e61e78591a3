"""Rates by depth are torch's parameter groups; layers join as in torch; frozen ones are quiet; ULMFiT's triangle."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcraft.bert import encoder
from bertcraft.errors import InputError
from bertcraft.techniques import layerwise_learning_rates as technique
from bertcraft.techniques.mixed_precision_training import loss_scaling
from bertcraft.tensor import tree
from bertcraft.tensor.gradient import unwrap, wrap_jax
from bertcraft.train import Rule, adamw, apply, chain, clip_by_global_norm, constant, fit, load_state, sgd, warmup_linear

sys.path.insert(0, str(Path(__file__).parents[1] / "bert"))
from transformers_models import make, ours

LAYERS, STEPS, RATE = 3, 20, 3e-2
BETAS = (0.9, 0.999)
SCALED = loss_scaling(sgd(0.1))


def small(family="bert", head="sequence_classification", seed=3, **changes):
    config = {"num_hidden_layers": LAYERS, "n_layers": LAYERS} if family == "distilbert" else {"num_hidden_layers": LAYERS}
    return make(family, head, seed, **config, **changes)


@pytest.fixture(scope="module")
def problem():
    """A small BERT with a head as a tree, its depths, and gradients of very different sizes."""
    config, params = ours(small(), "bert", "sequence_classification")
    rng = np.random.default_rng(1)
    gradients = [tree.map(lambda p: rng.standard_normal(p.shape) * 10.0 ** rng.uniform(-3, 1), params) for _ in range(STEPS)]
    return config, params, technique.depths(params, config), gradients


def train(rule: Rule, params, gradients):
    state = rule.init(params)
    for g in gradients:
        updates, state = rule.update(g, state, params)
        params = tree.map(np.add, params, updates)
    return params, state


def train_torch(params, groups, gradients, make_optimizer, schedule=None, starts=None):
    """torch's parameters and states by name; a group's gradients are None before its start, as those of a frozen module are."""
    tensors = {name: torch.tensor(leaf, requires_grad=True) for name, leaf in tree.items(params)}
    optimizer = make_optimizer([{**group, "params": [tensors[name] for name in group["params"]]} for group in groups])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule) if schedule else None
    depth = {name: place for place, group in enumerate(groups) for name in group["params"]}
    for step, g in enumerate(gradients):
        for name, leaf in tree.items(g):
            is_frozen = starts is not None and step < starts[depth[name]]
            tensors[name].grad = None if is_frozen else torch.tensor(leaf)
        optimizer.step()
        if scheduler:
            scheduler.step()
    states = {name: optimizer.state[tensor] for name, tensor in tensors.items()}
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}, states


def groups_of(depth, factors, **more):
    return [
        {"params": [name for name, own in depth.items() if own == d], "lr": RATE * factor, **more}
        for d, factor in enumerate(factors)
    ]


def assert_states(state, theirs, depth, names=(("m", "exp_avg"), ("v", "exp_avg_sq"))):
    """The moments and the number of updates of every parameter."""
    for d, own in state.items():
        own = own.get("rule", own)
        for mine, other in names:
            for name, leaf in tree.items(own[mine]):
                if other in theirs[name]:
                    np.testing.assert_allclose(leaf, theirs[name][other].numpy(), rtol=1e-12, atol=1e-12, err_msg=name)
                else:
                    assert not leaf.any(), f"{name} is asleep in torch"
                if "step" in theirs[name]:
                    assert int(own["step"]) == int(theirs[name]["step"]), name
                assert depth[name] == int(d)


def assert_close(params, theirs, tolerance=1e-12):
    for name, leaf in tree.items(params):
        np.testing.assert_allclose(leaf, theirs[name], rtol=tolerance, atol=tolerance, err_msg=name)


# ---------------------------------------------------------------------------------------------------------- rates by depth


def test_the_norm_behind_the_top_layer_of_pre_ln_lies_as_deep_as_that_layer():
    config, params = ours(small("roberta-prelayernorm"), "roberta-prelayernorm", "sequence_classification")
    found = technique.depths(params, config)
    assert found["roberta_prelayernorm.LayerNorm.weight"] == found["roberta_prelayernorm.LayerNorm.bias"] == LAYERS
    assert found["roberta_prelayernorm.embeddings.LayerNorm.weight"] == 0
    states = technique.below(params, config, ids := np.array([[5, 6, 7, 8]]), frozen=1)
    whole = technique.above(params, config, states, frozen=1)
    np.testing.assert_allclose(whole, encoder.encode(params, config, ids), atol=1e-12)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "mpnet", "deberta"])
def test_every_parameter_of_every_family_has_its_depth(family):
    config, params = ours(small(family), family, "sequence_classification")
    found = technique.depths(params, config)
    assert list(found) == [name for name, _ in tree.items(params)]
    assert set(found.values()) == set(range(LAYERS + 2))
    for name, depth in found.items():
        parts = name.split(".")
        if "layer" in parts:
            assert depth == int(parts[parts.index("layer") + 1]) + 1, name
        elif parts[0] != family or "pooler" in parts:
            assert depth == LAYERS + 1, name
        else:
            assert depth == 0 and ("embeddings" in name or "relative" in name or "encoder" in name), name


def test_layers_that_share_lie_at_no_depth():
    model = make("albert", "base", 0, num_hidden_layers=2, num_hidden_groups=1, inner_group_num=1)
    config, params = ours(model, "albert", "base")
    with pytest.raises(InputError, match="share their parameters"):
        technique.depths(params, config)


def test_one_array_may_be_two_parameters_of_a_layer():
    """As where the layer that takes the mean of a sentence encoder's states has the same zeros for queries and keys."""
    config, params = ours(small(), "bert", "sequence_classification")
    flat, inner = dict(tree.items(params)), "bert.encoder.layer.2.attention.self"
    flat[f"{inner}.key.weight"] = flat[f"{inner}.query.weight"]
    assert technique.depths(tree.nest(flat), config) == technique.depths(params, config)


@given(st.floats(0.05, 1), st.integers(1, 40), st.floats(0.1, 10))
def test_each_layer_has_the_rate_of_the_one_above_times_the_decay(decay, layers, head):
    found = technique.factors(decay, layers, head)
    assert len(found) == layers + 2 and found[-2:] == [1.0, head]
    for lower, upper in zip(found[:-2], found[1:-1], strict=True):
        assert math.isclose(lower, decay * upper, rel_tol=1e-12)


def test_the_papers_decays_over_twelve_layers():
    lowest = lambda decay, layers=12: technique.factors(decay, layers)[0]  # noqa: E731
    assert [round(lowest(decay), 3) for decay in (0.95, 0.9, 1.0)] == [0.540, 0.282, 1.0]
    assert round(lowest(technique.ULMFIT, 3), 3) == 0.057 and f"{lowest(technique.ULMFIT):.2e}" == "1.05e-05"
    assert technique.SUN == 0.95


@pytest.mark.parametrize("decay", [0.95, technique.ULMFIT])
def test_adamw_equals_torchs_parameter_groups_states_included(problem, decay):
    config, params, depth, gradients = problem
    factors = technique.factors(decay, LAYERS, head=1.5)
    rule = technique.layerwise(
        warmup_linear(RATE, 4, STEPS), factors, depth, lambda rate: adamw(rate, weight_decay=0.1, decay=lambda name, leaf: True)
    )
    mine, state = train(rule, params, gradients)
    shape = warmup_linear(1.0, 4, STEPS)
    theirs, states = train_torch(
        params, groups_of(depth, factors, weight_decay=0.1), gradients, torch.optim.AdamW, lambda step: float(shape(step))
    )
    assert_close(mine, theirs)
    assert_states(state, states, depth)
    assert {int(own["step"]) for own in state.values()} == {STEPS}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_equals_torchs_parameter_groups(problem, momentum):
    config, params, depth, gradients = problem
    factors = technique.factors(0.5, LAYERS)
    mine, state = train(technique.layerwise(constant(RATE), factors, depth, lambda rate: sgd(rate, momentum)), params, gradients)
    theirs, states = train_torch(params, groups_of(depth, factors, momentum=momentum), gradients, torch.optim.SGD)
    assert_close(mine, theirs)
    if momentum:
        assert_states(state, states, depth, (("velocity", "momentum_buffer"),))


def test_it_is_the_update_that_a_factor_multiplies_and_so_is_the_decay(problem):
    """Twice the gradient is no other update of Adam's; twice the rate is, and decays twice as much."""
    config, params, depth, gradients = problem
    factors = technique.factors(0.5, LAYERS)
    updates, _ = (rule := technique.layerwise(constant(RATE), factors, depth)).update(gradients[0], rule.init(params), params)
    plain, _ = adamw(RATE).update(gradients[0], adamw(RATE).init(params), params)
    for (name, u), v in zip(tree.items(updates), tree.leaves(plain), strict=True):
        np.testing.assert_allclose(u, factors[depth[name]] * v, rtol=1e-12, atol=1e-16)
    scaled = technique.by_group(depth, dict.fromkeys(range(LAYERS + 2), adamw(RATE, eps=0.0)))
    twice, _ = scaled.update(tree.map(lambda g: 2 * g, gradients[0]), scaled.init(params), params)
    once, _ = scaled.update(gradients[0], scaled.init(params), params)
    assert_close(twice, dict(tree.items(once)))


def test_it_chains_behind_one_clipping_of_all_and_in_place_has_the_bits_of_its_definition(problem):
    config, params, depth, gradients = problem
    starts = technique.unfreezing(LAYERS, 3)
    rule = chain(
        clip_by_global_norm(1e9),
        technique.layerwise(warmup_linear(RATE, 4, STEPS), technique.factors(0.9, LAYERS), depth, starts=starts),
    )  # a threshold above all norms: the fast path sums their squares in another order
    mine, state = train(rule, params, gradients)
    there, fast = tree.map(np.array, params), rule.init(params)
    for g in gradients:
        fast = apply(rule, g, fast, there)
    tree.map(np.testing.assert_array_equal, mine, there)
    tree.map(np.testing.assert_array_equal, state[1], fast[1])
    clipped, _ = chain(clip_by_global_norm(1.0), rule).update(
        gradients[0], (clip_by_global_norm(1.0).init(params), rule.init(params)), params
    )
    norm = np.sqrt(sum(np.sum(g * g) for g in tree.leaves(gradients[0])))
    alone, _ = rule.update(tree.map(lambda g: g / (norm + 1e-6), gradients[0]), rule.init(params), params)
    assert norm > 1
    assert_close(clipped, dict(tree.items(alone)))


# ---------------------------------------------------------------------------------------------------------------- freezing


def test_layers_join_from_the_top_as_in_torch_states_and_steps_included(problem):
    config, params, depth, gradients = problem
    starts, factors = technique.unfreezing(LAYERS, 4), technique.factors(1 / 2.6, LAYERS, head=2.6)
    assert starts == [16, 12, 8, 4, 0]
    schedule = technique.slanted_triangle(1.0, STEPS)
    rule = technique.layerwise(
        lambda step: RATE * schedule(step), factors, depth,
        lambda rate: adamw(rate, weight_decay=0.1, decay=lambda name, leaf: True), starts,
    )  # fmt: skip
    groups = groups_of(depth, factors, weight_decay=0.1)
    for steps in (1, 4, 5, 12, 13, STEPS):  # on both sides of a layer's first update
        mine, state = train(rule, params, gradients[:steps])
        theirs, states = train_torch(
            params, groups, gradients[:steps], torch.optim.AdamW, lambda step: float(schedule(step)), starts
        )
        assert_close(mine, theirs)
        assert_states(state, states, depth)
        for name, leaf in tree.items(mine):
            before = dict(tree.items(params))[name]
            assert np.array_equal(leaf, before) == (steps <= starts[depth[name]]), name


def test_an_adam_that_counted_while_it_slept_takes_a_first_step_three_times_too_long():
    params = {"w": np.ones(5)}
    g = {"w": np.array([1.0, -2, 3, -4, 5])}
    plain, slept = adamw(RATE, weight_decay=0.0, eps=0.0), 5000
    state = plain.init(params) | {"step": np.array(slept)}
    counted, _ = plain.update(g, state, params)
    late = technique.delayed(plain, 7)
    state = late.init(params)
    for _ in range(7):
        updates, state = late.update(g, state, params)
        assert not updates["w"].any()
    updates, state = late.update(g, state, params)
    np.testing.assert_allclose(updates["w"], -RATE * np.sign(g["w"]), rtol=1e-12)
    expected = (1 - BETAS[0]) / math.sqrt(1 - BETAS[1])
    np.testing.assert_allclose(counted["w"] / updates["w"], expected, rtol=1e-2)
    assert round(expected, 1) == 3.2


def test_frozen_is_not_a_rate_or_a_gradient_of_zero(problem):
    config, params, depth, gradients = problem
    frozen = technique.by_group(depth, {d: technique.FROZEN if d <= 2 else adamw(RATE) for d in range(LAYERS + 2)})
    mine, state = train(frozen, params, gradients)
    there, after = tree.map(np.array, params), frozen.init(params)
    for g in gradients:
        after = apply(frozen, g, after, there)
    tree.map(np.testing.assert_array_equal, mine, there)
    for (name, leaf), before in zip(tree.items(mine), tree.leaves(params), strict=True):
        assert np.array_equal(leaf, before) == (depth[name] <= 2), name
    assert state["0"] == state["1"] == {} and tree.leaves(state["3"]["m"])
    zero = [tree.map(np.zeros_like, g) for g in gradients]
    moved, _ = train(adamw(RATE), params, [gradients[0], *zero[1:]])
    for (name, leaf), first in zip(tree.items(moved), tree.leaves(train(adamw(RATE), params, gradients[:1])[0]), strict=True):
        assert not np.array_equal(leaf, first), f"{name}: momentum went on"


def quiet(model, frozen):
    """transformers' model in training mode, whose embeddings and first layers are in evaluation mode."""
    model.train()
    model.bert.embeddings.eval()
    for layer in model.bert.encoder.layer[:frozen]:
        layer.eval()
    for layer in model.bert.encoder.layer[frozen:]:
        for module in layer.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        layer.attention.self.dropout.p = 0.0
    return model.bert


@pytest.mark.parametrize("frozen", range(LAYERS + 1))
def test_frozen_layers_do_not_drop_out_as_in_torchs_evaluation_mode(frozen):
    model = small(hidden_dropout_prob=0.4, attention_probs_dropout_prob=0.0)
    config, params = ours(model, "bert", "sequence_classification")
    rng = np.random.default_rng(0)
    ids = rng.integers(5, config.vocab_size, (3, 7))
    mask = np.arange(7) < np.array([[7], [5], [2]])
    states = technique.below(params, config, ids, mask.astype(int), frozen=frozen)
    whole = technique.above(params, config, states, mask.astype(int), frozen=frozen)
    with torch.no_grad():
        body = quiet(model, frozen)
        theirs = body(torch.tensor(ids), attention_mask=torch.tensor(mask.astype(int))).last_hidden_state.numpy()
    np.testing.assert_allclose(whole[mask], theirs[mask], atol=1e-9)
    np.testing.assert_allclose(whole, encoder.encode(params, config, ids, mask.astype(int)), atol=1e-12)
    dropping = replace(config, hidden_dropout_prob=0.4)
    one, other = (
        technique.above(params, dropping, states, mask.astype(int), frozen=frozen, rng=np.random.default_rng(seed))
        for seed in (1, 2)
    )
    assert np.array_equal(one, other) == (frozen == LAYERS), "what is above drops out"
    loud, again = (encoder.encode(params, dropping, ids, mask.astype(int), rng=np.random.default_rng(seed)) for seed in (1, 2))
    assert not np.array_equal(loud, again), "left to itself a frozen layer drops out"


# ---------------------------------------------------------------------------------------------------------------- schedules


def of_the_paper(peak, total, cut_frac, ratio):
    """Equation 3 as printed, with the denominator cut (1 / cut_frac - 1)."""
    cut = math.floor(total * cut_frac)
    p = lambda t: t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))  # noqa: E731
    return lambda t: peak * (1 + p(t) * (ratio - 1)) / ratio


@settings(deadline=None)
@given(st.integers(1, 60), st.sampled_from([0.05, 0.1, 0.2, 0.25, 0.5]), st.floats(1, 64), st.floats(1e-5, 1))
def test_the_slanted_triangle_is_the_papers_where_its_cut_is_whole(cut, cut_frac, ratio, peak):
    total = round(cut / cut_frac)
    if int(total * cut_frac) != cut:  # 0.05 * 420 is 21.000000000000004, but some products fall below
        return
    ours, theirs = technique.slanted_triangle(peak, total, cut_frac, ratio), of_the_paper(peak, total, cut_frac, ratio)
    for step in range(total + 1):
        assert math.isclose(ours(step), theirs(step), rel_tol=1e-12, abs_tol=1e-13 * peak), step


@settings(deadline=None)
@given(st.integers(2, 500), st.floats(0.01, 0.9), st.floats(1.01, 64))
def test_it_begins_and_ends_at_the_peak_over_the_ratio_whatever_the_length(total, cut_frac, ratio):
    if not 0 < int(total * cut_frac) < total:
        with pytest.raises(InputError, match="a rise and a fall"):
            technique.slanted_triangle(1.0, total, cut_frac, ratio)
        return
    rates = [float(technique.slanted_triangle(1.0, total, cut_frac, ratio)(step)) for step in range(total + 3)]
    assert all(math.isclose(rates[step], 1 / ratio, rel_tol=1e-12) for step in (0, total, total + 2))
    assert math.isclose(max(rates), 1.0, rel_tol=1e-12) and rates.index(max(rates)) == int(total * cut_frac)
    assert min(rates) >= 1 / ratio - 1e-12
    cut = int(total * cut_frac)
    np.testing.assert_allclose(np.diff(rates[cut : total + 1]), (1 / ratio - 1) / (total - cut), rtol=1e-9, atol=1e-12)


def test_the_printed_formula_falls_below_zero_where_its_cut_is_rounded():
    assert of_the_paper(1.0, 77, 0.1, 32)(77) < 0 < technique.slanted_triangle(1.0, 77)(77)


def test_a_schedule_by_epoch_is_torchs_stepped_once_an_epoch():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: float(warmup_linear(1.0, 1, 5)(epoch)))
    ours = technique.by_epoch(warmup_linear(0.3, 1, 5), 7)
    for step in range(5 * 7 + 3):
        assert math.isclose(ours(step), optimizer.param_groups[0]["lr"], abs_tol=1e-15)
        optimizer.step()
        if step % 7 == 6:
            scheduler.step()


# ------------------------------------------------------------------------------------------------- backends, runs, refusals


def rule_of(config, depth):
    return technique.layerwise(
        technique.slanted_triangle(RATE, STEPS), technique.factors(0.9, LAYERS), depth, starts=technique.unfreezing(LAYERS, 4)
    )


@pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])
def test_the_same_functions_run_under_jax_jit_and_float32_stays(problem, x64):
    import jax

    config, params, depth, gradients = problem
    dtype = np.float64 if x64 else np.float32
    params, gradients = tree.map(lambda p: p.astype(dtype), params), [tree.map(lambda g: g.astype(dtype), g) for g in gradients]
    rule = rule_of(config, depth)
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
        assert_close(mine, dict(tree.items(tree.map(np.asarray, jitted))), 1e-12 if x64 else 1e-5)
        assert int(after["0"]["rule"]["step"]) == int(state["0"]["rule"]["step"]) == 4
        states = jax.jit(lambda p, ids: unwrap(technique.below(wrap_jax(p), config, ids, frozen=2)))(params, np.arange(5)[None])
        np.testing.assert_allclose(states, technique.below(params, config, np.arange(5)[None], frozen=2), atol=1e-4)


def test_a_run_that_is_stopped_while_layers_sleep_goes_on_to_the_same_bits(problem, tmp_path):
    config, params, depth, gradients = problem
    gradient = lambda params, batch, step: (1.0, gradients[step])  # noqa: E731
    whole = fit(gradient, params, rule_of(config, depth), lambda step: {}, STEPS, seed=0)
    fit(gradient, params, rule_of(config, depth), lambda step: {}, 10, seed=0, folder=tmp_path)
    saved = load_state(tmp_path)[2]["rule"]
    assert {d: int(own["slept"]) for d, own in saved.items() if d != "4"} == {"0": 10, "1": 10, "2": 8, "3": 4}
    rest = fit(gradient, params, rule_of(config, depth), lambda step: {}, STEPS, seed=0, folder=tmp_path)
    tree.map(np.testing.assert_array_equal, whole.params, rest.params)


def test_what_cannot_be_meant_is_refused(problem):
    config, params, depth, _ = problem
    for decay, layers, head in ((0.0, 3, 1.0), (1.1, 3, 1.0), (0.9, 0, 1.0), (0.9, 3, 0.0)):
        with pytest.raises(InputError, match="got"):
            technique.factors(decay, layers, head)
    with pytest.raises(InputError, match="no rule for the groups 4"):
        technique.by_group(depth, dict.fromkeys(range(4), adamw(1e-3)))
    with pytest.raises(InputError, match="new.weight belongs to no group"):
        technique.by_group(depth, dict.fromkeys(range(5), adamw(1e-3))).init({"new": {"weight": np.ones(3)}})
    for rule in (lambda: technique.delayed(SCALED, 2), lambda: technique.by_group(depth, dict.fromkeys(range(5), SCALED))):
        with pytest.raises(InputError, match="scales the loss goes around all other rules"):
            rule()
    for frozen in (-1, LAYERS + 1):
        with pytest.raises(InputError, match="expected 0 to 3 layers"):
            technique.below(params, config, np.ones((1, 3), int), frozen=frozen)
