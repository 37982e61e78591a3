"""Clipping against torch's utilities and timm's statement, step by step; the paper's one-unit network; Adam, sums and scales."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bertcraft as bc
from bertcraft import check_grads
from bertcraft.errors import InputError
from bertcraft.techniques import gradient_accumulation as accumulation
from bertcraft.techniques import gradient_clipping as technique
from bertcraft.techniques.mixed_precision_training import loss_scaling
from bertcraft.tensor import tree
from bertcraft.tensor.xla import jit
from bertcraft.train import adamw, apply, chain, clip_by_global_norm, sgd
from bertcraft.train.rules import global_norm

quick = settings(max_examples=25, deadline=None, derandomize=True)
RULES = {
    "norm": technique.by_global_norm(0.7),
    "norm without eps": technique.by_global_norm(0.7, eps=0.0),
    "value": technique.by_value(0.3),
    "block": technique.by_block(0.7),
    "layer": technique.by_block(0.7, technique.layer_of),
    "adaptive": technique.adaptive(0.1),
    "none": technique.none(),
}
NAMES = ("embeddings.word.weight", "encoder.layer.0.a.weight", "encoder.layer.0.a.bias", "encoder.layer.1.a.weight", "head.bias")


@st.composite
def trees(draw):
    """Parameters and gradients of one structure, sizes and scales; some gradients are 0."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    shapes = [draw(st.lists(st.integers(1, 4), min_size=low, max_size=3)) for low in (2, 2, 0, 1, 1)]
    scales = [10.0 ** draw(st.integers(-4, 3)) * draw(st.booleans()) for _ in NAMES]
    params = {name: np.asarray(rng.standard_normal(shape) * 0.1) for name, shape in zip(NAMES, shapes, strict=True)}
    gradients = {
        name: np.asarray(scale * rng.standard_normal(p.shape)) for (name, p), scale in zip(params.items(), scales, strict=True)
    }
    return tree.nest(params), tree.nest(gradients)


def clipped(rule, gradients, params):
    found, state = rule.update(gradients, rule.init(params), params)
    assert float(state["norm"]) == pytest.approx(float(global_norm(gradients)))
    return found


def in_torch(params, gradients) -> dict:
    found = {}
    for (name, p), g in zip(tree.items(params), tree.leaves(gradients), strict=True):
        found[name] = torch.tensor(p, requires_grad=True)
        found[name].grad = torch.tensor(g)
    return found


def same(ours, theirs: dict, tolerance=1e-12) -> None:
    for name, leaf in tree.items(ours):
        np.testing.assert_allclose(leaf, theirs[name].grad.numpy(), rtol=tolerance, atol=1e-300, err_msg=name)


# -------------------------------------------------------------------------------------------- against torch and timm


@quick
@given(both=trees(), most=st.sampled_from([1e-3, 0.7, 5.0]))
def test_by_global_norm_equals_torch_and_without_eps_the_paper(both, most):
    params, gradients = both
    theirs = in_torch(params, gradients)
    norm = torch.nn.utils.clip_grad_norm_(theirs.values(), most)
    same(clipped(technique.by_global_norm(most), gradients, params), theirs)
    assert float(global_norm(gradients)) == pytest.approx(norm.item(), rel=1e-12)
    exact = clipped(technique.by_global_norm(most, eps=0.0), gradients, params)
    factor = most / norm.item() if norm.item() > most else 1.0
    tree.map(lambda a, g: np.testing.assert_allclose(a, g * factor, rtol=1e-12), exact, gradients)
    assert float(global_norm(exact)) <= most * (1 + 1e-12)


def test_torchs_eps_on_three_and_four():
    params, gradients = {"w": np.zeros(2)}, {"w": np.array([3.0, 4.0])}
    np.testing.assert_allclose(clipped(technique.by_global_norm(1.0), gradients, params)["w"], [3 / 5.000001, 4 / 5.000001])
    exact = clipped(technique.by_global_norm(1.0, eps=0.0), gradients, params)["w"]
    np.testing.assert_allclose(exact, [0.6, 0.8], rtol=1e-15)
    zero = clipped(technique.by_global_norm(1.0, eps=0.0), {"w": np.zeros(2)}, params)
    assert not zero["w"].any()
    edge = clipped(technique.by_global_norm(5.0), gradients, params)["w"]  # torch shortens what is exactly as long, too
    tensor = torch.zeros(2, dtype=torch.float64)
    tensor.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    torch.nn.utils.clip_grad_norm_([tensor], 5.0)
    np.testing.assert_array_equal(edge, tensor.grad.numpy())
    assert edge[0] < 3


@quick
@given(both=trees(), most=st.sampled_from([1e-3, 0.3, 5.0]))
def test_by_value_equals_torch(both, most):
    params, gradients = both
    theirs = in_torch(params, gradients)
    torch.nn.utils.clip_grad_value_(theirs.values(), most)
    same(clipped(technique.by_value(most), gradients, params), theirs)


@quick
@given(both=trees(), most=st.sampled_from([1e-3, 0.7, 5.0]), by_layer=st.booleans())
def test_by_block_equals_torch_called_for_each(both, most, by_layer):
    params, gradients = both
    theirs = in_torch(params, gradients)
    groups = (NAMES[:1], NAMES[1:3], NAMES[3:4], NAMES[4:]) if by_layer else [(name,) for name in NAMES]
    for group in groups:
        torch.nn.utils.clip_grad_norm_([theirs[name] for name in group], most)
    rule = technique.by_block(most, technique.layer_of) if by_layer else technique.by_block(most)
    same(clipped(rule, gradients, params), theirs)


def timm(parameters, factor, eps):
    """Adaptive clipping as Wightman states it in PyTorch, after Brock et al.'s own code."""

    def unit(x):
        return x.norm(2.0) if x.ndim <= 1 else x.norm(2.0, dim=tuple(range(1, x.ndim)), keepdim=True)

    for p in parameters:
        most, norm = unit(p.detach()).clamp(min=eps) * factor, unit(p.grad)
        p.grad = torch.where(norm < most, p.grad, p.grad * (most / norm.clamp(min=1e-6)))


@quick
@given(both=trees(), ratio=st.sampled_from([0.01, 0.1, 2.0]), eps=st.sampled_from([1e-3, 0.5]))
def test_adaptive_equals_the_statement_in_torch(both, ratio, eps):
    params, gradients = both
    theirs = in_torch(params, gradients)
    timm([theirs[name] for name in NAMES[:-1]], ratio, eps)
    rule = technique.adaptive(ratio, eps, skipped=lambda name: name.startswith("head."))
    same(clipped(rule, gradients, params), theirs)


@pytest.mark.parametrize("way", ["norm", "value", "block", "adaptive"])
def test_fifty_steps_of_clipped_adamw_equal_torch(way):
    rng = np.random.default_rng(5)
    params = tree.nest({name: rng.standard_normal((3, 4) if i % 2 else (4,)) for i, name in enumerate(NAMES)})
    theirs = in_torch(params, params)
    optimiser = torch.optim.AdamW(theirs.values(), lr=1e-2, weight_decay=0.0)
    rule = chain(RULES[way], adamw(1e-2, weight_decay=0.0))
    state, changed = rule.init(params), 0
    for _ in range(50):
        g = tree.map(lambda p, s=10.0 ** rng.uniform(-3, 1): s * rng.standard_normal(p.shape), params)
        for tensor, leaf in zip(theirs.values(), tree.leaves(g), strict=True):
            tensor.grad = torch.tensor(leaf)
        match way:
            case "norm":
                torch.nn.utils.clip_grad_norm_(theirs.values(), 0.7)
            case "value":
                torch.nn.utils.clip_grad_value_(theirs.values(), 0.3)
            case "block":
                for tensor in theirs.values():
                    torch.nn.utils.clip_grad_norm_([tensor], 0.7)
            case "adaptive":
                timm(theirs.values(), 0.1, 1e-3)
        changed += any(not np.array_equal(t.grad.numpy(), leaf) for t, leaf in zip(theirs.values(), tree.leaves(g), strict=True))
        optimiser.step()
        updates, state = rule.update(g, state, params)
        params = tree.map(np.add, params, updates)
    assert 0 < changed
    for name, leaf in tree.items(params):
        np.testing.assert_allclose(leaf, theirs[name].detach().numpy(), rtol=1e-12, atol=1e-12, err_msg=name)


# ----------------------------------------------------------------------------------------------------- as rules


@pytest.mark.parametrize("make", [technique.by_value, technique.by_block, technique.adaptive])
def test_a_threshold_of_numpy_leaves_a_float32_gradient_as_it_is(make):
    """As those of ``thresholds`` are."""
    params = {"w": np.ones((2, 3), np.float32)}
    for limit in technique.thresholds(np.array([0.5, 1.5])):
        rule = make(limit)
        assert rule.update(params, rule.init(params), params)[0]["w"].dtype == np.float32


@pytest.mark.parametrize("name", RULES)
def test_the_same_rule_under_jit_and_in_place(name):
    rng = np.random.default_rng(8)
    shapes = dict(zip(NAMES, ((4, 3), (3, 5), (5,), (2, 2), ()), strict=True))
    params = tree.nest({key: np.asarray(rng.standard_normal(shape)).astype(np.float32) for key, shape in shapes.items()})
    gradients = tree.map(lambda p: np.asarray(3 * rng.standard_normal(p.shape)).astype(np.float32), params)
    rule = chain(RULES[name], sgd(0.5, momentum=0.9))
    state = rule.init(params)
    updates, after = rule.update(gradients, state, params)
    traced, traced_after = jit(rule.update)(gradients, state, params)

    def same_numbers(a, b):
        np.testing.assert_allclose(np.asarray(b), a, rtol=2e-5)
        assert np.asarray(b).dtype == a.dtype or a.dtype == np.int64

    tree.map(same_numbers, (updates, after), (traced, traced_after))  # by name: JAX sorts the keys of a dict
    assert {leaf.dtype for leaf in tree.leaves(updates)} == {np.dtype(np.float32)}
    moved = tree.map(np.array, params)
    apply(rule, gradients, rule.init(params), moved)
    tree.map(lambda m, p, u: np.testing.assert_allclose(m, p + u, rtol=1e-5, atol=1e-12), moved, params, updates)


def test_what_the_fast_path_shortens_is_what_the_definition_does_without_eps_too():
    rng = np.random.default_rng(0)
    params = {"w": rng.standard_normal((40, 30)).astype(np.float32)}
    for eps in (1e-6, 0.0):
        rule = chain(clip_by_global_norm(1.0, eps), adamw(1e-2))
        for scale in (0.0, 1e-3, 1e3):
            g = {"w": np.float32(scale) * rng.standard_normal((40, 30)).astype(np.float32)}
            fast = {"w": params["w"].copy()}
            apply(rule, g, rule.init(fast), fast)
            updates, _ = rule.update(g, rule.init(params), params)
            np.testing.assert_allclose(fast["w"], params["w"] + updates["w"], rtol=1e-6, atol=1e-7)


def test_numbers_that_are_no_thresholds_are_refused():
    for make, name in ((technique.by_value, "limit"), (technique.by_block, "max_norm"), (technique.adaptive, "ratio")):
        for number in (0.0, -1.0, float("nan")):
            with pytest.raises(InputError, match=name):
                make(number)
    with pytest.raises(InputError, match="eps: got 0"):
        technique.adaptive(0.1, 0.0)
    with pytest.raises(InputError, match="eps must be 0 or more"):
        technique.by_global_norm(1.0, -1e-6)


def test_an_infinite_gradient_makes_no_step_of_numbers_as_in_torch():
    params, gradients = {"w": np.zeros(2)}, {"w": np.array([np.inf, 1.0])}
    theirs = in_torch(params, gradients)
    torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(clipped(technique.by_global_norm(1.0), gradients, params)["w"], theirs["w"].grad.numpy())


# --------------------------------------------------------------------------------------------------- directions


@quick
@given(both=trees(), name=st.sampled_from([*RULES]))
def test_by_norm_the_direction_stays_and_nothing_grows(both, name):
    params, gradients = both
    found = clipped(RULES[name], gradients, params)
    for a, g in zip(tree.leaves(found), tree.leaves(gradients), strict=True):
        assert np.all(np.abs(a) <= np.abs(g) * (1 + 1e-12)) and np.all(a * g >= 0)
    if name.startswith("norm") and float(global_norm(gradients)) > 0:
        assert technique.angle(found, gradients) < 1e-4


def test_by_value_turns_the_papers_vector():
    """(3, 0.1) at 1: from 1.9 degrees to 5.7."""
    params, gradients, along = {"w": np.zeros(2)}, {"w": np.array([3.0, 0.1])}, {"w": np.array([1.0, 0.0])}
    turned = clipped(technique.by_value(1.0), gradients, params)
    assert technique.angle(gradients, along) == pytest.approx(1.909, abs=1e-3)
    assert technique.angle(turned, along) == pytest.approx(5.711, abs=1e-3)
    assert technique.angle(turned, gradients) == pytest.approx(5.711 - 1.909, abs=2e-3)
    assert technique.angle(clipped(technique.by_global_norm(1.0), gradients, params), along) == pytest.approx(1.909, abs=1e-3)


def test_layers_of_names():
    names = ("bert.encoder.layer.3.output.dense.weight", "bert.embeddings.LayerNorm.bias", "classifier.bias", "bias")
    assert [technique.layer_of(name) for name in names] == ["bert.encoder.layer.3", "bert.embeddings", "classifier.bias", "bias"]


def test_thresholds_are_of_the_mean_norm():
    np.testing.assert_allclose(technique.thresholds(np.array([1.0, 3.0, np.nan])), [1.0, 2.0, 4.0, 10.0, 20.0])


# ---------------------------------------------------------------------------------------------- the one-unit network


def test_the_one_unit_network_and_its_derivatives_equal_torch():
    rng = np.random.default_rng(0)
    params = {"w": rng.uniform(2, 6, 20), "b": rng.uniform(-4, -1, 20)}
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
    x = torch.full((20,), 0.5, dtype=torch.float64)
    for _ in range(50):
        x = tensors["w"] * torch.sigmoid(x) + tensors["b"]
    loss = (torch.sigmoid(x) - 0.7) ** 2
    loss.sum().backward()
    np.testing.assert_allclose(technique.one_unit_loss(params), loss.detach().numpy(), atol=1e-12)
    found = bc.grad(lambda p: np.sum(technique.one_unit_loss(p)))(params)
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, tensors[name].grad.numpy(), rtol=1e-8, atol=1e-12)
    check_grads(lambda w, b: technique.one_unit_loss({"w": w, "b": b}, steps=8), np.array(3.0), np.array(-1.5))


def test_in_the_linear_case_first_and_second_derivative_explode_together():
    """Section 2.3: x_t = x_0 w^t has the derivatives t x_0 w^(t-1) and t (t - 1) x_0 w^(t-2)."""

    def last(w, steps):
        x = 0.5
        for _ in range(steps):
            x = w * x
        return x

    for steps in (5, 50):
        first, second = bc.grad(lambda w: last(w, steps)), bc.grad(bc.grad(lambda w: last(w, steps)))
        assert float(first(np.array(1.1))) == pytest.approx(steps * 0.5 * 1.1 ** (steps - 1))
        assert float(second(np.array(1.1))) == pytest.approx(steps * (steps - 1) * 0.5 * 1.1 ** (steps - 2))


def test_there_is_a_wall_and_clipping_does_not_jump_off_it():
    """On the wall a plain step leads far away; a clipped one stays near and goes on down."""
    w, b = np.meshgrid(np.linspace(3.5, 7, 141), np.linspace(-3.5, -1.5, 81))
    gradients = bc.grad(lambda p: np.sum(technique.one_unit_loss(p)))({"w": w, "b": b})
    steep = np.hypot(gradients["w"], gradients["b"])
    assert steep.max() > 300 * np.median(steep)
    place = np.unravel_index(np.argmax(steep), steep.shape)
    start = {"w": w[place], "b": b[place]}
    plain = technique.descent(technique.one_unit_loss, start, sgd(0.1), 1)
    kept = technique.descent(technique.one_unit_loss, start, chain(technique.by_global_norm(0.5), sgd(0.1)), 200)
    jump = np.hypot(plain["w"][1] - plain["w"][0], plain["b"][1] - plain["b"][0])
    longest = np.hypot(np.diff(kept["w"]), np.diff(kept["b"])).max()
    assert jump > 3 and longest <= 0.05 * (1 + 1e-9)
    assert technique.one_unit_loss({name: path[-1] for name, path in kept.items()}) < 0.01
    assert kept["w"].shape == (201,)


# ------------------------------------------------------------------------------------------------------ under Adam


def steps_of(rule, gradients, params):
    state, updates = rule.init(params), []
    for g in gradients:
        update, state = rule.update(g, state, params)
        updates.append(update["w"])
    return np.array(updates)


@pytest.mark.parametrize("factor", [1e-3, 7.0])
def test_a_constant_factor_does_nothing_under_adam(factor):
    """Without eps exactly; with it as if it were divided by the factor."""
    rng = np.random.default_rng(1)
    params = {"w": rng.standard_normal(6)}
    gradients = [{"w": rng.standard_normal(6)} for _ in range(30)]
    scaled = [{"w": factor * g["w"]} for g in gradients]
    plain = steps_of(adamw(0.1, eps=0.0), gradients, params)
    np.testing.assert_allclose(steps_of(adamw(0.1, eps=0.0), scaled, params), plain, rtol=1e-12)
    with_eps = steps_of(adamw(0.1, eps=1e-3), gradients, params)
    np.testing.assert_allclose(steps_of(adamw(0.1, eps=factor * 1e-3), scaled, params), with_eps, rtol=1e-12)
    assert np.abs(steps_of(adamw(0.1, eps=1e-3), scaled, params) / with_eps - 1).max() > 1e-3
    descent = steps_of(sgd(0.1), scaled, params)
    np.testing.assert_allclose(descent, factor * steps_of(sgd(0.1), gradients, params))


def test_clipping_acts_under_adam_by_the_rare_long_gradient():
    """One gradient of a hundred times the length: its step is the same, the next ones are shortened unless it was clipped."""
    rng = np.random.default_rng(2)
    params = {"w": np.zeros(4)}
    gradients = [{"w": 1 + 0.1 * rng.standard_normal(4)} for _ in range(40)]
    gradients[20] = {"w": 100 * gradients[20]["w"]}
    plain = np.abs(steps_of(adamw(0.1, eps=0.0, weight_decay=0.0), gradients, params)).mean(axis=1)
    rule = chain(technique.by_global_norm(2.0), adamw(0.1, eps=0.0, weight_decay=0.0))
    kept = np.abs(steps_of(rule, gradients, params)).mean(axis=1)
    assert plain[39] < 0.7 * kept[39] and kept[20] == pytest.approx(0.1, rel=0.1)
    always = chain(technique.by_global_norm(1e-3, eps=0.0), adamw(0.1, eps=0.0, weight_decay=0.0))
    turned = [{"w": g["w"] / np.linalg.norm(g["w"])} for g in gradients]  # all clipped: gradients of one length
    np.testing.assert_allclose(
        steps_of(always, gradients, params), steps_of(adamw(0.1, eps=0.0, weight_decay=0.0), turned, params), rtol=1e-9
    )


# --------------------------------------------------------------------------------------------- sums first, scales first


def squares(params, batch, rng):
    return np.mean(np.square(batch["x"] @ params["w"] - batch["labels"]))


@pytest.mark.parametrize("name", RULES)
def test_after_accumulation_it_is_the_clipped_whole(name):
    rng = np.random.default_rng(3)
    batch = {"x": rng.standard_normal((8, 3)), "labels": rng.standard_normal(8)}
    params = {"w": rng.standard_normal(3)}
    parts = accumulation.micro_batches(batch, 3)
    rule = chain(RULES[name], sgd(1.0))
    whole = rule.update(bc.grad(squares)(params, batch, None), rule.init(params), params)[0]
    _, moved, _ = accumulation.update(rule, squares, params, rule.init(params), parts, weight=lambda part: len(part["labels"]))
    np.testing.assert_allclose(moved["w"], params["w"] + whole["w"], rtol=1e-12)
    each = [clipped(RULES[name], bc.grad(squares)(params, part, None), params)["w"] * len(part["labels"]) / 8 for part in parts]
    if name != "none":
        assert np.abs(np.sum(each, axis=0) + whole["w"]).max() > 1e-3  # clipping each part is another algorithm


def test_after_the_sum_over_devices_it_is_the_clipped_whole(tmp_path):
    """Four devices with two parts each, compiled, against the whole batch in NumPy."""
    code = textwrap.dedent(
        """
        import jax, numpy as np
        from bertcraft.pretrain.xla import xla_engine
        from bertcraft.tensor import functions as F, tree
        from bertcraft.tensor import grad
        from bertcraft.techniques import gradient_clipping as technique
        from bertcraft.train import chain, sgd
        jax.config.update("jax_enable_x64", True)
        assert jax.device_count() == 4
        rng = np.random.default_rng(3)
        batch = {"x": rng.standard_normal((16, 3)), "labels": rng.standard_normal(16)}
        params = {"w": rng.standard_normal((3,)), "b": np.zeros(1)}
        loss = lambda p, batch, rng: np.sum(np.square(batch["x"] @ p["w"] + p["b"] - batch["labels"]))
        for clip in (technique.by_global_norm(0.7), technique.by_value(0.3), technique.by_block(0.7), technique.adaptive(0.1)):
            rule = chain(clip, sgd(1.0))
            engine = xla_engine(loss, rule, seed=0, accumulate=2)
            found, state, _, norm = engine.advance(engine.place(params), engine.place(rule.init(params)), batch, 0)
            gradients = grad(loss)(params, batch, None)
            updates, after = rule.update(gradients, rule.init(params), params)
            for name in params:
                np.testing.assert_allclose(np.asarray(found[name]), params[name] + updates[name], rtol=1e-10)
            assert abs(norm - float(after[0]["norm"])) < 1e-9 * norm and norm > 1
        """
    )
    flags = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=flags, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", RULES)
def test_after_unscaling_and_not_before(name):
    """Around the chain the loss scale is divided out first; a rule that sees scaled gradients has another threshold."""
    rng = np.random.default_rng(4)
    params = {"w": rng.standard_normal(5)}
    gradients = {"w": 3 * rng.standard_normal(5)}
    plain = chain(RULES[name], sgd(1.0))
    scaled = loss_scaling(plain, scale=1024.0)
    expected = plain.update(gradients, plain.init(params), params)[0]["w"]
    times = {"w": 1024.0 * gradients["w"]}
    np.testing.assert_allclose(scaled.update(times, scaled.init(params), params)[0]["w"], expected, rtol=1e-12)
    before = clipped(RULES[name], times, params)["w"] / 1024.0  # the other order
    if name != "none":
        assert np.abs(before).max() < 0.01 * np.abs(expected).max()


def test_torchs_grad_scaler_clips_after_unscale_too():
    rng = np.random.default_rng(6)
    start = rng.standard_normal(5).astype(np.float32)
    tensor = torch.tensor(start, requires_grad=True)
    optimiser, scaler = torch.optim.SGD([tensor], lr=1.0), torch.amp.GradScaler("cpu", init_scale=1024.0)
    g = 3 * rng.standard_normal(5).astype(np.float32)
    scaler.scale((tensor * torch.tensor(g)).sum()).backward()
    scaler.unscale_(optimiser)
    torch.nn.utils.clip_grad_value_([tensor], 0.3)
    scaler.step(optimiser)
    rule = loss_scaling(chain(technique.by_value(0.3), sgd(1.0)), scale=1024.0)
    updates, _ = rule.update({"w": 1024 * g}, rule.init({"w": start}), {"w": start})
    np.testing.assert_allclose(start + updates["w"], tensor.detach().numpy(), rtol=1e-6)


def test_the_library_has_one_clipping_by_global_norm():
    assert technique.by_global_norm is clip_by_global_norm
    np.testing.assert_allclose(technique.unit_norms(np.array([[3.0, 4.0], [0.0, 1.0]])), [[5.0], [1.0]])
    assert float(technique.unit_norms(np.array([3.0, 4.0]))) == 5.0 and float(technique.unit_norms(np.array(2.0))) == 2.0
