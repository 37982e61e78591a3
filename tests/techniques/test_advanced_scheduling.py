"""Every schedule is transformers' or torch's at every step, first and last; cut short and resumed; RAdam; the same under jit."""

import math
import warnings

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcraft.errors import InputError
from bertcraft.techniques import advanced_scheduling as technique
from bertcraft.tensor import Tensor, tree
from bertcraft.tensor.gradient import unwrap, wrap_jax
from bertcraft.train import adamw, warmup_cosine, warmup_linear, warmup_stable_decay
from bertcraft.train.schedules import FALLS

lengths = settings(deadline=None, max_examples=40)


def optimizer(rate=1.0, kind=torch.optim.SGD):
    return kind([torch.zeros(1, requires_grad=True)], lr=rate)


def rates(make, steps, rate=1.0):
    """The rates that torch's optimiser has in the updates 0 to ``steps``: what a training loop would use."""
    own = optimizer(rate)
    scheduler, found = make(own), []
    for _ in range(steps + 1):
        found.append(own.param_groups[0]["lr"])
        own.step()
        scheduler.step()
    return found


def of_transformers(name, steps, rate=1.0, **kwargs):
    return rates(lambda own: getattr(transformers, name)(own, **kwargs), steps, rate)


def assert_same(schedule, expected, peak=1.0, tolerance=1e-12):
    np.testing.assert_allclose([float(schedule(step)) for step in range(len(expected))], expected, rtol=0, atol=tolerance * peak)


@st.composite
def spans(draw, least=1):
    total = draw(st.integers(least, 250))
    return draw(st.integers(0, total)), total


peaks = st.floats(1e-6, 10)

# ------------------------------------------------------------------------------------------------------- transformers'


@lengths
@given(spans(), peaks)
def test_constant(span, peak):
    theirs = of_transformers("get_constant_schedule_with_warmup", span[1], peak, num_warmup_steps=span[0])
    assert_same(technique.warmup_constant(peak, span[0]), theirs, peak)


@lengths
@given(spans(), peaks, st.floats(0, 1))
def test_cosine_to_a_lowest_rate(span, peak, share):
    warmup, total = span
    own = {"rate": peak, "num_warmup_steps": warmup, "num_training_steps": total}
    theirs = of_transformers("get_cosine_with_min_lr_schedule_with_warmup", total, min_lr_rate=share, **own)
    ours = warmup_cosine(peak, warmup, total, lowest=share * peak)
    assert_same(lambda step: ours(step) if step >= warmup else theirs[step], theirs, peak)
    if not warmup:
        assert_same(
            ours, rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, total, share * peak), total, peak), peak, 1e-9
        )


def test_one_of_transformers_cosines_is_a_step_ahead_of_the_others():
    """cosine_warmup_with_min_lr counts from 1: its first update has a rate, its last one the lowest."""
    ahead = transformers.get_scheduler(
        "cosine_warmup_with_min_lr", optimizer(), 10, 50, scheduler_specific_kwargs={"min_lr_rate": 0.1}
    ).lr_lambdas[0]
    ours = warmup_cosine(1.0, 10, 50, lowest=0.1)
    assert ours(0) == 0 and ahead(0) == 0.1
    assert_same(lambda step: ours(step + 1), [ahead(step) for step in range(50)])


@lengths
@given(spans(), peaks, st.sampled_from([0.5, 1.0, 2.0, 3.0]), st.floats(0, 0.9))
def test_polynomial(span, peak, power, share):
    warmup, total = span
    if warmup == total:
        return  # transformers divides by 0 there
    own = {"num_warmup_steps": warmup, "num_training_steps": total, "lr_end": share * peak, "power": power}
    theirs = of_transformers("get_polynomial_decay_schedule_with_warmup", total + 3, peak, **own)
    ours = technique.warmup_polynomial(peak, warmup, total, power, share * peak)
    assert_same(ours, theirs, peak)
    assert math.isclose(ours(total), share * peak, abs_tol=1e-15) and ours(total + 3) == ours(total)
    if warmup == 0 and share == 0:
        assert_same(ours, rates(lambda o: torch.optim.lr_scheduler.PolynomialLR(o, total, power), total, peak), peak, 1e-9)


@pytest.mark.parametrize(("total", "power"), [(1, 1.0), (17, 1.0), (40, 2.0), (250, 3.0)])
def test_polynomial_is_torchs_without_warm_up(total, power):
    theirs = rates(lambda o: torch.optim.lr_scheduler.PolynomialLR(o, total, power), total + 3)
    assert_same(technique.warmup_polynomial(1.0, 0, total, power), theirs)


@lengths
@given(spans(), peaks, st.integers(1, 7))
def test_hard_restarts(span, peak, cycles):
    warmup, total = span
    own = {"num_warmup_steps": warmup, "num_training_steps": total, "num_cycles": cycles}
    theirs = of_transformers("get_cosine_with_hard_restarts_schedule_with_warmup", total + 3, peak, **own)
    assert_same(technique.warmup_restarts(peak, warmup, total, cycles), theirs, peak)
    assert warmup == total or technique.warmup_restarts(peak, warmup, total, cycles)(total) == 0


@lengths
@given(spans(), st.data(), peaks, st.sampled_from(sorted(FALLS)))
def test_warm_up_stable_decay_in_its_three_shapes(span, data, peak, fall):
    warmup, total = span
    decay = data.draw(st.integers(0, total - warmup))
    theirs = of_transformers(
        "get_wsd_schedule", total, peak, num_warmup_steps=warmup, num_decay_steps=decay, num_training_steps=total, decay_type=fall
    )
    ours = warmup_stable_decay(peak, warmup, decay, total, fall)
    assert_same(ours, theirs, peak)
    assert ours(total) == ours(3 * total) == 0


@pytest.mark.parametrize(
    "name", [name for name in technique.SCHEDULES if name not in ("one_cycle", "bert", "warmup_stable_decay")]
)
def test_names_are_those_of_transformers(name):
    kwargs = {"polynomial": {"power": 2.0, "lr_end": 0.0}, "cosine_with_restarts": {"num_cycles": 4}}.get(name)
    theirs = rates(lambda o: transformers.get_scheduler(name, o, 7, 60, scheduler_specific_kwargs=kwargs), 60, 0.3)
    assert_same(technique.named(name, 0.3, 7, 60), theirs)


def test_the_named_stable_decay_falls_in_its_last_fifth():
    own = {"num_warmup_steps": 7, "num_decay_steps": 12, "num_training_steps": 60, "decay_type": "linear"}
    theirs = of_transformers("get_wsd_schedule", 60, 0.3, **own)
    assert_same(technique.named("warmup_stable_decay", 0.3, 7, 60), theirs)
    assert technique.named("warmup_stable_decay", 0.3, 60, 60)(59) == pytest.approx(0.3 * 59 / 60)


# ----------------------------------------------------------------------------------------------------------------- torch's


@lengths
@given(st.integers(1, 30), st.integers(1, 3), st.floats(0, 0.5), peaks)
def test_warm_restarts_are_torchs(first, factor, share, peak):
    lowest = share * peak
    make = lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, first, factor, lowest)  # noqa: E731
    assert_same(technique.warm_restarts(peak, first, factor, lowest), rates(make, 8 * first + 5, peak), peak)


@lengths
@given(st.integers(8, 250), st.floats(0.2, 0.45), peaks, st.booleans(), st.sampled_from(["cos", "linear"]))
def test_one_cycle_is_torchs_first_and_last_step_included(total, share, peak, three, strategy):
    def make(own):
        return torch.optim.lr_scheduler.OneCycleLR(
            own, peak, total, pct_start=share, anneal_strategy=strategy, cycle_momentum=False, three_phase=three, div_factor=10,
            final_div_factor=100,
        )  # fmt: skip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = rates(make, total - 1, peak)
    fall = {"cos": "cosine", "linear": "linear"}[strategy]
    ours = technique.one_cycle(peak, share * total - 1, total, 10, 100, fall, three)
    assert_same(ours, theirs, peak)
    assert math.isclose(ours(total - 1), peak / 1000, rel_tol=1e-9) and ours(total + 5) == ours(total - 1)


def test_through_points():
    schedule = technique.through([(0, 1.0), (4, 3.0), (10, 0.0)], "linear")
    assert [float(schedule(step)) for step in (0, 1, 2, 4, 7, 10, 99)] == [1.0, 1.5, 2.0, 3.0, 1.5, 0.0, 0.0]


def googles(init_lr, num_train_steps, num_warmup_steps):
    """optimization.py of google-research/bert, without TensorFlow: polynomial_decay from step 0, then the mask of warm-up."""

    def rate(step):
        decayed = (init_lr - 0.0) * (1 - min(step, num_train_steps) / num_train_steps) ** 1.0 + 0.0
        is_warmup = float(step < num_warmup_steps)
        return (1.0 - is_warmup) * decayed + is_warmup * (init_lr * step / max(1, num_warmup_steps))

    return rate


@lengths
@given(spans(), peaks)
def test_berts_own_is_googles(span, peak):
    warmup, total = span
    theirs = googles(peak, total, warmup)
    assert_same(technique.bert(peak, warmup, total), [theirs(step) for step in range(total + 3)], peak)


def test_berts_own_jumps_and_never_reaches_its_peak():
    found = [float(technique.bert(1e-4, 100, 1000)(step)) for step in range(1001)]
    assert found[99] == pytest.approx(9.9e-5) and found[100] == pytest.approx(9.0e-5) and max(found) == found[99]
    assert max(float(warmup_linear(1e-4, 100, 1000)(step)) for step in range(1001)) == 1e-4


# ------------------------------------------------------------------------------------------------------- another length


@lengths
@given(spans(least=2), st.data())
def test_a_schedule_cut_short_is_not_a_short_schedule(span, data):
    warmup, total = span[0] // 2, span[1]
    cut = data.draw(st.integers(warmup + 1, total))
    left = warmup_linear(1.0, warmup, total)(cut)
    assert left == pytest.approx((total - cut) / (total - warmup)) and warmup_linear(1.0, warmup, cut)(cut) == 0
    stable = warmup_stable_decay(1.0, warmup, 0, total)
    again = technique.resumed(stable, cut - 1, cut)
    assert again(cut) == 0, "a flat one can fall wherever it is cut"


def test_transformers_resumed_with_another_length_jumps_and_torchs_cosine_keeps_the_old_one():
    def run(scheduler, own, steps):
        found = []
        for _ in range(steps):
            found.append(own.param_groups[0]["lr"])
            own.step()
            scheduler.step()
        return found

    own = optimizer(0.3)
    scheduler = transformers.get_linear_schedule_with_warmup(own, 5, 40)
    first, saved = run(scheduler, own, 20), (scheduler.state_dict(), own.state_dict())
    other = optimizer(0.3)
    longer = transformers.get_linear_schedule_with_warmup(other, 5, 100)
    longer.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    found = run(longer, other, 80)
    # the first update after loading still has the rate that the optimiser had saved; from the next on it is the new schedule
    old, new = warmup_linear(0.3, 5, 40), warmup_linear(0.3, 5, 100)
    assert_same(technique.joined(old, 21, new), first + found)
    assert new(20) > 1.4 * old(20), "a jump up"

    own = optimizer(0.3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(own, 40)
    run(cosine, own, 20)
    other = optimizer(0.3)
    longer = torch.optim.lr_scheduler.CosineAnnealingLR(other, 100)
    longer.load_state_dict(cosine.state_dict())
    other.load_state_dict(own.state_dict())
    assert longer.T_max == 40
    np.testing.assert_allclose(run(longer, other, 21), [warmup_cosine(0.3, 0, 40)(step) for step in range(20, 41)], atol=1e-12)


@lengths
@given(spans(least=3), st.data(), st.integers(1, 300))
def test_resumed_without_a_jump(span, data, more):
    warmup, total = span[0] // 2, span[1]
    at = data.draw(st.integers(warmup, total - 1))
    old = warmup_cosine(0.3, warmup, total)
    ours = technique.resumed(old, at, at + more)
    assert [ours(step) for step in range(at + 1)] == [old(step) for step in range(at + 1)]
    falling = [float(ours(step)) for step in range(at, at + more + 1)]
    np.testing.assert_allclose(np.diff(falling), -old(at) / more, atol=1e-12)
    assert ours(at + more) == ours(at + more + 9) == 0


# ---------------------------------------------------------------------------------------------------------- why warm-up


def problem(dtype=np.float64, steps=30):
    rng = np.random.default_rng(0)
    params = {"a": {"weight": rng.standard_normal((5, 3)).astype(dtype)}, "b": rng.standard_normal(4).astype(dtype)}
    gradients = [
        tree.map(lambda p: (rng.standard_normal(p.shape) * 10.0 ** rng.uniform(-3, 1)).astype(dtype), params)
        for _ in range(steps)
    ]
    return params, gradients


def train(rule, params, gradients):
    state = rule.init(params)
    for g in gradients:
        updates, state = rule.update(g, state, params)
        params = tree.map(np.add, params, updates)
    return params, state


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.9), (0.9, 0.98)])
def test_radam_is_torchs_states_included(betas):
    params, gradients = problem()
    mine, state = train(technique.radam(warmup_linear(0.1, 0, 40), *betas), params, gradients)
    tensors = [torch.tensor(leaf, requires_grad=True) for leaf in tree.leaves(params)]
    own = torch.optim.RAdam(tensors, lr=0.1, betas=betas)
    scheduler = torch.optim.lr_scheduler.LambdaLR(own, lambda step: 1 - step / 40)
    for g in gradients:
        for tensor, leaf in zip(tensors, tree.leaves(g), strict=True):
            tensor.grad = torch.tensor(leaf)
        own.step()
        scheduler.step()
    for name, leaves in (("m", "exp_avg"), ("v", "exp_avg_sq")):
        for a, tensor in zip(tree.leaves(state[name]), tensors, strict=True):
            np.testing.assert_allclose(a, own.state[tensor][leaves].numpy(), rtol=1e-12, atol=1e-12)
    for a, tensor in zip(tree.leaves(mine), tensors, strict=True):
        np.testing.assert_allclose(a, tensor.detach().numpy(), rtol=1e-12, atol=1e-12)
    assert int(state["step"]) == 30


def test_the_variance_grows_into_a_warm_up():
    r = np.array([float(technique.rectification(step)) for step in range(20_000)])
    assert (r[:5] == 0).all() and 0 < r[5] < 0.03, "rho_t passes 5 in the sixth update"
    assert (np.diff(r) >= 0).all() and r[-1] == pytest.approx(1, abs=1e-3)
    assert technique.untuned_warmup() == 2000 and technique.untuned_warmup(0.98) == 100
    linear = np.minimum(1, np.arange(20_000) / technique.untuned_warmup())
    assert np.abs(r - linear).max() < 0.35, "a line of 2 / (1 - b2) steps is near it"
    assert technique.average_length(0) == pytest.approx(1.0, abs=1e-6)
    assert float(technique.average_length(9)) == pytest.approx(10, rel=0.01)


def test_adams_first_update_is_the_rate_whatever_the_gradient():
    """Every parameter moves by the rate: warm-up makes that small, nothing else does. Later updates are shorter."""
    rng = np.random.default_rng(3)
    params = {"w": np.zeros(5000)}
    rule = adamw(0.1, weight_decay=0.0, eps=0.0)
    for size in 10.0 ** np.arange(-6, 4):
        updates, _ = rule.update({"w": size * rng.standard_normal(5000)}, rule.init(params), params)
        np.testing.assert_allclose(np.abs(updates["w"]), 0.1, rtol=1e-9)
    noise = adamw(0.1, weight_decay=0.0)
    state, lengths = noise.init(params), []
    for _ in range(200):
        updates, state = noise.update({"w": rng.standard_normal(5000)}, state, params)
        lengths.append(float(np.sqrt(np.mean(updates["w"] ** 2))))
    assert lengths[0] == pytest.approx(0.1, rel=1e-6)
    assert np.mean(lengths[100:]) == pytest.approx(0.1 * math.sqrt(0.1 / 1.9), rel=0.05), "noise alone, once averages are long"


# ------------------------------------------------------------------------------------------------------ backends, refusals

ALL = {name: technique.named(name, 0.3, 5, 40) for name in technique.SCHEDULES} | {
    "no warm-up": technique.named("linear", 0.3, 0, 40), "warm restarts": technique.warm_restarts(0.3, 4, 2, 0.01),
    "equal restarts": technique.warm_restarts(0.3, 7), "three phases": technique.one_cycle(0.3, 9, 40, three=True),
    "joined": technique.joined(warmup_linear(0.3, 5, 20), 10, warmup_linear(0.3, 5, 40)),
    "resumed": technique.resumed(warmup_linear(0.3, 5, 20), 10, 40), "cosine fall": warmup_stable_decay(0.3, 5, 8, 40, "cosine"),
    "1-sqrt fall": warmup_stable_decay(0.3, 5, 8, 40, "1-sqrt"), "rectification": technique.rectification,
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_every_kind_of_integer_gives_the_same_rate_under_jit_too(name):
    import jax

    schedule = ALL[name]
    traced = jax.jit(lambda step: getattr(rate := schedule(Tensor(step)), "value", rate))
    for step in range(45):
        rate = float(schedule(step))
        assert rate == float(schedule(np.int64(step))) == float(schedule(np.asarray(step, np.int32)))
        assert math.isclose(rate, float(traced(step)), rel_tol=2e-4 if name == "rectification" else 1e-5, abs_tol=2e-7)
    with jax.enable_x64(True):
        for step in (0, 1, 4, 5, 20, 39, 40):
            assert math.isclose(float(schedule(step)), float(jax.jit(traced)(step)), rel_tol=1e-12, abs_tol=1e-15)


def test_radam_runs_under_jit_and_float32_stays():
    import jax

    params, gradients = problem(np.float32)
    wide, _ = train(technique.radam(np.float64(0.1), *map(np.float64, (0.9, 0.99, 1e-8))), params, gradients)
    assert {leaf.dtype for leaf in tree.leaves(wide)} == {np.dtype(np.float32)}
    rule = technique.radam(warmup_linear(0.1, 0, 40))
    mine, _ = train(rule, params, gradients)
    assert {leaf.dtype for leaf in tree.leaves(mine)} == {np.dtype(np.float32)}

    @jax.jit
    def step(g, state, p):
        g, state, p = wrap_jax((g, state, p))
        updates, state = rule.update(g, state, p)
        return unwrap((tree.map(np.add, p, updates), state))

    jitted, state = params, rule.init(params)
    for g in gradients:
        jitted, state = step(g, state, jitted)
    tree.map(lambda a, b: np.testing.assert_allclose(a, np.asarray(b), rtol=1e-4, atol=1e-5), mine, jitted)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: technique.named("linaer", 0.1, 1, 9), "schedule: got 'linaer', expected one of linear, cosine"),
        (lambda: technique.named("one_cycle", 0.1, 0, 9), "expected more than 0 and less than 8 warm-up steps, got 0"),
        (lambda: technique.named("one_cycle", 0.1, 8, 9), "got 8"),
        (lambda: technique.named("cosine_with_restarts", -0.1, 8, 9), "got -0.1"),
        (lambda: technique.named("polynomial", 0.1, 10, 9), "got 9 steps"),
        (lambda: technique.warm_restarts(0.1, 0), "got 0 steps"),
        (lambda: technique.warm_restarts(0.1, 3, 0), "the factor of cycles must be 1 or more, got 0"),
        (lambda: technique.through([(0, 1.0)]), "two points or more"),
        (lambda: technique.through([(3, 1.0), (3, 2.0)]), "their steps rising"),
        (lambda: technique.radam(0.1, b2=1.0), "b1 and b2 must be in .0, 1., got 0.9 and 1.0"),
        (lambda: technique.resumed(warmup_linear(0.1, 1, 9), 5, 5), "a total of more than 5 steps"),
        (lambda: warmup_stable_decay(0.1, 1, 2, 9, "steep"), "fall: got 'steep', expected one of linear, cosine, 1-sqrt"),
    ],
)
def test_impossible_schedules_are_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()
