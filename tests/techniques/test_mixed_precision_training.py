"""Rounding bit by bit against ml_dtypes, what is cast against torch.autocast, loss scaling against torch.amp.GradScaler, a BERT
against the same precision emulated in torch; what it costs."""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from bertcraft import check_grads, grad, value_and_grad
from bertcraft.bert import Config, heads, initial_params
from bertcraft.errors import InputError, TrainingError
from bertcraft.techniques import mixed_precision_training as technique
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree
from bertcraft.tensor.parallel import sharded_value_and_grad
from bertcraft.tensor.tensor import replaced
from bertcraft.tensor.xla import jit
from bertcraft.train import adamw, chain, clip_by_global_norm, fit, global_norm, load_state, sgd
from bertcraft.train.inplace import apply as apply_rule
from bertcraft.train.loop import numpy_engine

sys.path.insert(0, str(Path(__file__).parents[1] / "bert"))
from transformers_models import inputs, make, named, ours

THEIRS = {
    "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float8_e4m3": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}  # fmt: skip
TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16}
FORMS = pytest.mark.parametrize("form", THEIRS)
HALF = pytest.mark.parametrize("form", technique.HALF)
EPS = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # the largest relative error of a rounding


def every_number(form: str) -> np.ndarray:
    """All numbers of a format, nan and infinities included, as float32: 65,536 of 16 bits, 256 of 8."""
    theirs = np.dtype(THEIRS[form])
    return np.arange(2 ** (8 * theirs.itemsize), dtype=f"u{theirs.itemsize}").view(theirs).astype(np.float32)


def same_bits(ours, theirs) -> bool:
    bits = f"u{ours.itemsize}"
    return ours.dtype == theirs.dtype and bool(
        ((ours.view(bits) == theirs.view(bits)) | (np.isnan(ours) & np.isnan(theirs))).all()
    )


def converted(x, form):
    with np.errstate(over="ignore", invalid="ignore"):
        return x.astype(THEIRS[form]).astype(x.dtype)


def edges(form: str) -> np.ndarray:
    """Between each two neighbours of a format the middle (a tie) and the two float32 numbers beside it; beyond its ends too."""
    numbers = np.unique(every_number(form)[np.isfinite(every_number(form))]).astype(np.float64)
    middle = ((numbers[1:] + numbers[:-1]) / 2).astype(np.float32)
    last = np.float32(numbers[-1] + (numbers[-1] - numbers[-2]) / 2)  # half a unit above the largest
    ends = np.array([last, -last, np.finfo(np.float32).max, np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-45, -1e-45], np.float32)
    around = np.concatenate([middle, ends])
    with np.errstate(over="ignore"):
        return np.concatenate([around, np.nextafter(around, np.float32(np.inf)), np.nextafter(around, np.float32(-np.inf))])


# ------------------------------------------------------------------------------------------------------------ rounding


@FORMS
def test_every_number_of_a_format_stays_what_it_is(form):
    numbers = every_number(form)
    assert len(numbers) == 2 ** (8 * np.dtype(THEIRS[form]).itemsize)
    assert same_bits(technique.rounded(numbers, form), numbers)


@FORMS
def test_ties_subnormals_and_what_lies_beyond_are_rounded_as_ml_dtypes_rounds_them(form):
    assert same_bits(technique.rounded(edges(form), form), converted(edges(form), form))


@FORMS
@pytest.mark.parametrize("seed", range(4))
def test_random_bits_are_rounded_as_ml_dtypes_rounds_them(form, seed):
    bits = np.random.default_rng(seed).integers(0, 2**32, 10**6, dtype=np.uint32)
    x = bits.view(np.float32).reshape(1000, 1000)
    assert same_bits(technique.rounded(x, form), converted(x, form))
    assert same_bits(technique.rounded(x.T[::2], form), converted(x.T[::2], form)), "whatever the strides"


def test_doubles_are_rounded_once():
    """By way of float32 a number just above a tie would become the tie, and then the even neighbour."""
    above = np.array([1 + 2.0**-11 + 2.0**-40, -1 - 2.0**-11 - 2.0**-40])
    assert technique.rounded(above, "float16").tolist() == [1 + 2.0**-10, -1 - 2.0**-10]
    assert technique.rounded(above.astype(np.float32), "float16").tolist() == [1, -1]
    x = np.random.default_rng(0).standard_normal(10**5) * 10.0 ** np.arange(-50, 50).repeat(1000)
    assert same_bits(technique.rounded(x, "float16"), converted(x, "float16"))


def test_the_formats_by_their_numbers():
    f = technique.FORMATS
    assert (f["float16"].largest, 2.0 ** f["float16"].lowest, 2.0 ** (f["float16"].lowest - 10)) == (65504, 2**-14, 2**-24)
    assert f["bfloat16"].largest == float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    one_more = lambda form, dw: technique.rounded(np.float32([1 + dw]), form)[0]  # noqa: E731
    assert one_more("float16", 2**-11) == 1 and one_more("float16", 2**-11 + 2**-20) > 1
    assert one_more("bfloat16", 2**-8) == 1 and one_more("bfloat16", 2**-8 + 2**-20) > 1
    assert technique.rounded(np.zeros((0, 3), np.float32), "float16").shape == (0, 3)
    assert technique.rounded(np.float32(1 / 3), "bfloat16") == np.float32(0.333984375)


@FORMS
def test_stochastic_rounding_goes_to_a_neighbour_and_is_right_on_average(form):
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, 50).astype(np.float32) * np.float32(2.0 ** technique.FORMATS[form].lowest * 3)  # some are subnormal
    x[:10] = rng.uniform(-3, 3, 10)
    x[10:12] = technique.rounded(x[10:12], form)
    draws = np.stack([technique.rounded(x, form, rng.random(x.shape, np.float32)) for _ in range(20_000)]).astype(np.float64)
    assert (np.ptp(draws[:, 10:12], axis=0) == 0).all(), "a number of the format stays what it is"
    low, high = draws.min(axis=0), draws.max(axis=0)
    assert same_bits(technique.rounded(draws.astype(np.float32), form), draws.astype(np.float32))
    assert all(len(np.unique(column)) <= 2 for column in draws.T) and ((low <= x) & (x <= high)).all()
    share = (x - low) / np.where(high > low, high - low, 1)
    error = np.abs((draws == high).mean(axis=0) - share)[high > low]
    assert (error < 5 * np.sqrt(share * (1 - share) / len(draws))[high > low] + 1e-6).all()
    assert np.abs(technique.rounded(x, form) - x).max() > 0, "which rounding to nearest is not"


def test_derivatives_of_rounding_and_of_a_cast():
    x = np.float32([0.3, -1.7, 3e-9])
    g = np.float32([1 / 3, 2, 1e-9])
    through = lambda f: grad(lambda x: np.sum(f(x, "float16") * g))(x)  # noqa: E731
    np.testing.assert_array_equal(through(technique.rounded), g)
    np.testing.assert_array_equal(through(technique.cast), np.float32(np.float16(g)))
    twice = grad(lambda x: np.sum(grad(lambda y: np.sum(technique.rounded(y, "float16") ** 2))(x)))(x)
    np.testing.assert_array_equal(twice, np.float32([2, 2, 2]))


@FORMS
def test_under_xla_rounding_has_the_same_bits(form):
    normal = edges(form)
    normal = normal[~((np.abs(normal) < np.finfo(np.float32).tiny) & (normal != 0))]  # XLA takes float32's subnormals for 0
    if form == "bfloat16":
        normal = normal[(np.abs(normal) >= 2 * np.finfo(np.float32).tiny) | (normal == 0)]  # and gives none back
    expected = technique.rounded(normal, form)
    got = np.asarray(jit(lambda x: technique.rounded(x, form))(normal))
    assert same_bits(got, expected)
    noise = np.random.default_rng(0).random(normal.shape, np.float32)
    drawn = np.asarray(jit(lambda x, noise: technique.rounded(x, form, noise))(normal, noise))
    assert same_bits(drawn, technique.rounded(normal, form, noise))
    finite = normal[np.isfinite(normal)][:1000]
    g = np.random.default_rng(1).standard_normal(finite.shape).astype(np.float32)
    slope = jax.jit(grad(lambda x, g: np.sum(technique.cast(x, form) * g)))(finite, g)
    assert same_bits(np.asarray(slope), technique.rounded(g, form))


# -------------------------------------------------------------------------------------------- what is cast, and what is not

OPERATIONS = {  # ours, torch's; of float32 arguments x (2, 5, 8), weight (6, 8), bias (6,)
    "linear": (lambda x, w, b: F.linear(x, w, b), torch.nn.functional.linear),
    "matmul": (lambda x, w, b: x @ np.swapaxes(x, -1, -2), lambda x, w, b: x @ x.mT),
    "attention": (
        lambda x, w, b: F.attention(x, x, x), lambda x, w, b: torch.nn.functional.scaled_dot_product_attention(x, x, x),
    ),
    "softmax": (lambda x, w, b: F.softmax(x), lambda x, w, b: torch.softmax(x, -1)),
    "log_softmax": (lambda x, w, b: F.log_softmax(x), lambda x, w, b: torch.log_softmax(x, -1)),
    "layer_norm": (
        lambda x, w, b: F.layer_norm(x, w[0], w[1]), lambda x, w, b: torch.nn.functional.layer_norm(x, (8,), w[0], w[1]),
    ),
    "gelu": (lambda x, w, b: F.gelu(x), lambda x, w, b: torch.nn.functional.gelu(x)),
    "tanh": (lambda x, w, b: np.tanh(x), lambda x, w, b: torch.tanh(x)),
    "embedding": (
        lambda x, w, b: F.embedding(w, np.array([1, 3])), lambda x, w, b: torch.nn.functional.embedding(torch.tensor([1, 3]), w),
    ),
    "sum": (lambda x, w, b: np.sum(x, axis=0), lambda x, w, b: x.sum(0)),
    "cross_entropy": (
        lambda x, w, b: F.cross_entropy(x, np.zeros((2, 5), int)),
        lambda x, w, b: torch.nn.functional.cross_entropy(x.flatten(0, 1), torch.zeros(10, dtype=torch.long)),
    ),
    "residual": (
        lambda x, w, b: x[..., :6] + F.linear(x, w, b), lambda x, w, b: x[..., :6] + torch.nn.functional.linear(x, w, b),
    ),
    "loss of scores": (
        lambda x, w, b: F.linear_cross_entropy(x, w, b, np.zeros((2, 5), int)),
        lambda x, w, b: torch.nn.functional.cross_entropy(
            torch.nn.functional.linear(x, w, b).flatten(0, 1), torch.zeros(10, dtype=torch.long)
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_torch_casts_on_a_cpu_is_cast_here_and_nothing_else(name):
    ours_, theirs = OPERATIONS[name]
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((2, 5, 8), (6, 8), (6,))]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = theirs(*map(torch.tensor, arrays))

    def found(*arrays):
        value = ours_(*arrays)
        return np.sum(value), value

    (_, got), _ = value_and_grad(lambda arrays: technique.mixed_precision(found, "bfloat16")(*arrays), has_aux=True)(arrays)
    is_lowered = same_bits(np.asarray(got), technique.rounded(np.asarray(got), "bfloat16"))
    assert got.dtype == np.float32 and is_lowered == (expected.dtype == torch.bfloat16)
    scale = max(1, float(expected.float().abs().max()))
    np.testing.assert_allclose(got, expected.float().numpy(), atol=2 * EPS["bfloat16"] * scale)
    if name in ("linear", "matmul"):
        assert (got == expected.float().numpy()).mean() > 0.95, "but where another order of the sum falls to the other side"


def test_where_torch_on_a_cpu_differs_from_torch_on_cuda_we_are_with_cuda():
    """Of bfloat16 scores the CPU makes bfloat16 probabilities; CUDA's list has softmax among those in float32, and so have we."""
    scores = torch.randn(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.softmax(scores @ scores.mT, -1).dtype == torch.bfloat16
    x = scores.numpy()
    got = technique.mixed_precision(lambda x: F.softmax(F.linear(x, x)), "bfloat16")(x)
    assert not same_bits(got, technique.rounded(got, "bfloat16"))


def test_products_of_rounded_numbers_are_exact_in_float32_and_summed_there():
    x, y = (technique.rounded(np.random.default_rng(s).standard_normal(1000).astype(np.float32), "float16") for s in (0, 1))
    assert (x * y == x.astype(np.float64) * y).all()
    ones = np.full((1, 4096), 1.0, np.float32)
    tail = np.full((4096, 1), 2.0**-12, np.float32)
    tail[0] = 1  # a float16 sum would stay at 1
    assert technique.product(ones, tail, "float16")[0, 0] == np.float16(1 + 4095 * 2.0**-12)


def test_stand_ins_end_with_the_block_and_on_its_thread():
    x = np.float32([[1 / 3]])
    with replaced({F.linear: lambda x, w: "instead"}):
        assert F.linear(x, x) == "instead"
        with ThreadPoolExecutor(1) as other:
            assert other.submit(F.linear, x, x).result()[0, 0] == np.float32(x * x)[0, 0], "another thread computes as ever"
    assert F.linear(x, x)[0, 0] == np.float32(x * x)[0, 0]
    with pytest.raises(ZeroDivisionError):
        technique.mixed_precision(lambda: 1 / 0, "float16")()
    assert F.linear(x, x)[0, 0] == np.float32(x * x)[0, 0], "also where the loss raises"


def test_weights_kept_in_16_bits_do_not_swallow_a_loss_scale():
    with pytest.raises(InputError, match="goes around all other rules"):
        technique.kept_in(technique.loss_scaling(sgd(1.0)), "float16")


def test_of_float32_it_is_the_loss_itself_and_other_names_are_refused():
    loss = lambda params: params  # noqa: E731
    assert technique.mixed_precision(loss, "float32") is loss
    for form in ("float8_e4m3", "half"):
        with pytest.raises(InputError, match="expected one of float32, float16, bfloat16"):
            technique.mixed_precision(loss, form)


# ------------------------------------------------------------------------------------------------------------------- a BERT


class Sixteen(torch.autograd.Function):
    """Through a real 16-bit tensor, both ways. torch takes doubles there by way of float32, and so rounds twice: unless the
    float32 number is made odd where it is not exact, so that it is never a tie that was none (Boldo & Melquiond 2008)."""

    @staticmethod
    def convert(x, form):
        single = x.float()
        if x.dtype == torch.float64:
            beside = torch.nextafter(single, torch.where(single < x, torch.inf, -torch.inf).float())
            single = torch.where((single != x) & (single.view(torch.int32) % 2 == 0), beside, single)
        return single.to(form).to(x.dtype)

    @staticmethod
    def forward(context, x, form):
        context.form = form
        return Sixteen.convert(x, form)

    @staticmethod
    def backward(context, g):
        return Sixteen.convert(g, context.form), None


class Emulated(TorchFunctionMode):
    """The same precision in torch: operands and results of all products are rounded, and their gradients."""

    def __init__(self, form):
        super().__init__()
        self.form = TORCH[form]

    def __torch_function__(self, function, types, args=(), kwargs=None):
        low = lambda x: None if x is None else Sixteen.apply(x, self.form)  # noqa: E731
        if function is torch.nn.functional.linear:
            x, weight, bias = (*args, *(kwargs or {}).values(), None)[:3]
            total = low(x) @ low(weight).T
            return low(total if bias is None else total + low(bias))
        if function in (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__):
            return low(torch.matmul(*map(low, args)))
        return function(*args, **(kwargs or {}))


def masked(model, seed):
    arrays = inputs(model, seed)
    rng = np.random.default_rng(seed)
    words = rng.integers(3, model.config.vocab_size, arrays["input_ids"].shape)
    chosen = (rng.random(words.shape) < 0.4) & (arrays["attention_mask"] == 1)
    chosen[:, 0] = True
    return {**arrays, "labels": np.where(chosen, words, F.IGNORED)}


def their_gradients(model, batch, form, scale):
    model.zero_grad()
    with Emulated(form):
        loss = model(**{name: torch.tensor(array) for name, array in batch.items()}).loss
        (loss * scale).backward()
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    return loss.item(), {n: g.numpy() for n, g in named(model, found, "bert", "masked_lm").items()}


@HALF
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_bert_in_mixed_precision_is_the_one_emulated_in_torch(form, seed, dtype):
    """Summed in double precision they are the same to 1e-9: no sum falls to the other side of a tie. In float32 some do, each
    by a unit of the format, and what follows from them differs as much: the gradients by some roundings of their length."""
    model = make("bert", "masked_lm", seed, dtype=torch.float64 if dtype is np.float64 else torch.float32)
    config, params = ours(model, "bert", "masked_lm")
    batch, scale = masked(model, seed), 256.0
    expected, theirs = their_gradients(model, batch, form, scale)
    loss = technique.mixed_precision(lambda p, scale: heads.loss(p, config, batch) * scale, form)
    got, gradients = value_and_grad(loss)(params, scale)
    exact = value_and_grad(lambda p: heads.loss(p, config, batch) * scale)(params)
    gradients, exact_gradients = dict(tree.items(gradients)), dict(tree.items(exact[1]))
    assert all(g.dtype == dtype for g in gradients.values())
    length = global_norm(list(exact_gradients.values()))
    if dtype is np.float64:
        assert float(got) / scale == pytest.approx(expected, rel=1e-12)
        for name, g in gradients.items():
            assert np.abs(g - theirs[name]).max() <= 1e-9 * max(np.abs(theirs[name]).max(), 1.0), name
    else:
        assert float(got) / scale == pytest.approx(expected, rel=4 * EPS[form])
        assert global_norm([g - theirs[name] for name, g in gradients.items()]) < 8 * EPS[form] * length
    # and it is near the exact one, but is not it
    distance = global_norm([gradients[n] - exact_gradients[n] for n in gradients]) / length
    assert EPS[form] / 8 < distance < 64 * EPS[form]


def test_the_gradient_is_right_where_rounding_is_too_fine_to_be_seen(monkeypatch):
    """With 52 digits, a double's own, nothing is rounded and the functions are smooth: to second order against differences."""
    monkeypatch.setitem(technique.FORMATS, "fine", technique.Format(52, -1022, 1023, np.finfo(np.float64).max))
    draw = lambda *shape: np.random.default_rng(len(shape) + shape[0]).standard_normal(shape)  # noqa: E731
    check_grads(partial(technique.linear, form="fine"), draw(2, 3, 4), draw(5, 4), draw(5))
    check_grads(partial(technique.product, form="fine"), draw(2, 3, 4), draw(2, 4, 3))
    check_grads(partial(technique.attention, heads=2, form="fine"), draw(1, 3, 4), draw(1, 3, 4), draw(1, 3, 4), draw(1, 1, 1, 3))
    check_grads(lambda x, w, b: technique.linear_cross_entropy(x, w, b, np.array([0, 2, F.IGNORED]), form="fine"),
                draw(3, 4), draw(5, 4), draw(5))  # fmt: skip
    x, w, b = np.float32(draw(2, 3, 4)), np.float32(draw(5, 4)), np.float32(draw(5))
    assert not np.array_equal(technique.linear(x, w, b, form="bfloat16"), F.linear(x, w, b))


@pytest.fixture(scope="module")
def small():
    config = Config(
        family="bert", head="masked_lm", vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=12, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    ids, words = rng.integers(5, 60, (2, 8, 12))
    labels = np.where(rng.random(ids.shape) < 0.3, words, F.IGNORED)
    return initial_params(config, 0), {"input_ids": ids, "labels": labels}, lambda p, b, rng: heads.loss(p, config, b, rng)


@HALF
def test_jitted_loss_and_gradients_are_numpys(small, form):
    params, batch, loss = small
    lowered = technique.mixed_precision(loss, form)
    value, gradients = value_and_grad(lambda p, b: lowered(p, b, None) * 256.0)(params, batch)
    jitted, jitted_gradients = jax.jit(value_and_grad(lambda p, b: lowered(p, b, None) * 256.0))(params, batch)
    assert float(jitted) == pytest.approx(float(value), rel=2 * EPS[form])
    difference = global_norm(tree.map(lambda a, b: np.asarray(a) - b, jitted_gradients, gradients))
    exact = value_and_grad(lambda p, b: loss(p, b, None) * 256.0)(params, batch)[1]
    assert difference < 4 * EPS[form] * global_norm(exact), "some sums fall to the other side of a tie"
    assert global_norm(tree.map(np.subtract, gradients, exact)) > EPS[form] / 8 * global_norm(exact)


# ------------------------------------------------------------------------------------------------------------- loss scaling


def planted(rng, step, overflows):
    g = rng.standard_normal((3, 4)).astype(np.float32)
    if step in overflows:
        g[step % 3, step % 4] = (np.inf, -np.inf, np.nan)[step % 3]
    return g


@pytest.mark.parametrize("way", ["inplace", "update"])
@pytest.mark.parametrize("interval", [2000, 25])
def test_dynamic_scaling_is_grad_scalers_over_500_steps_with_planted_overflows(interval, way):
    rng = np.random.default_rng(1)
    overflows = set(rng.choice(500, 30, replace=False).tolist()) | {0, 1, 2, 24, 49, 50, 499}
    start = rng.standard_normal((3, 4)).astype(np.float32)
    parameter = torch.nn.Parameter(torch.tensor(start))
    optimiser = torch.optim.AdamW([parameter], lr=1e-2, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_factor=2.0, backoff_factor=0.5, growth_interval=interval)
    rule = technique.loss_scaling(chain(clip_by_global_norm(1.0), adamw(1e-2, b2=0.98, eps=1e-6)), interval=interval)
    params = {"w": start.copy()}
    state, scales = rule.init(params), []
    for step in range(500):
        g = planted(rng, step, overflows)
        optimiser.zero_grad()
        scaler.scale((parameter * torch.tensor(g)).sum()).backward()
        scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_([parameter], 1.0)
        scaler.step(optimiser)
        scaler.update()

        before = params["w"].copy()
        scaled = {"w": g * np.float32(rule.loss_scale(state))}
        if way == "inplace":
            state = apply_rule(rule, scaled, state, params)
        else:
            updates, state = rule.update(scaled, state, params)
            params = {"w": params["w"] + updates["w"]}
        scales.append(float(state["scale"]))
        assert float(state["scale"]) == scaler.get_scale() and int(state["good_steps"]) == scaler._get_growth_tracker()
        assert (step in overflows) == np.array_equal(before, params["w"])
        np.testing.assert_allclose(params["w"], parameter.detach().numpy(), rtol=2e-5, atol=1e-6)
    assert int(state["skipped"]) == len(overflows)
    grew = sum(b > a for a, b in zip(scales, scales[1:], strict=False))
    assert grew == 0 if interval == 2000 else grew >= 5
    assert state["scale"].dtype == np.float32 and int(state["rule"][1]["step"]) == 500 - len(overflows)


def test_the_scale_does_not_grow_beyond_float32_as_grad_scalers_does_not():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=1)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.0)
    rule = technique.loss_scaling(sgd(0.0), 2.0**126, interval=1)
    params = {"w": np.zeros(1, np.float32)}
    state = rule.init(params)
    for _ in range(4):
        scaler.scale(parameter.sum() * 0).backward()
        scaler.step(optimiser)
        scaler.update()
        with np.errstate(over="ignore"):
            _, state = rule.update({"w": np.zeros(1, np.float32)}, state, params)
        assert float(state["scale"]) == scaler.get_scale()
    assert float(state["scale"]) == 2.0**127


def test_a_static_scale_stays_and_its_overflows_are_skipped():
    rule = technique.static_loss_scaling(sgd(0.5), 1024.0)
    params = {"w": np.ones(2, np.float32)}
    state = rule.init(params)
    for g, expected in ((2.0, 0.0), (np.inf, 0.0), (np.nan, 0.0), (-2.0, 1.0)):
        state = apply_rule(rule, {"w": np.full(2, 1024 * g, np.float32)}, state, params)
        assert params["w"].tolist() == [expected] * 2 and float(state["scale"]) == 1024
    assert int(state["skipped"]) == 2


def test_jitted_it_is_the_same_rule():
    rule = technique.loss_scaling(chain(clip_by_global_norm(1.0), adamw(1e-2)), interval=3)
    params = {"w": np.ones((2, 3), np.float32)}
    state = their_state = rule.init(params)
    their_params = params
    step = jit(rule.update)
    rng = np.random.default_rng(0)
    for number in range(12):
        g = {"w": planted(rng, number, {4, 5, 9})[:2, :3] * np.float32(state["scale"])}
        updates, state = rule.update(g, state, params)
        params = tree.map(np.add, params, updates)
        updates, their_state = step(g, their_state, their_params)
        their_params = tree.map(lambda p, u: p + np.asarray(u), their_params, updates)
        np.testing.assert_allclose(params["w"], their_params["w"], rtol=1e-5)
        for name in ("scale", "good_steps", "skipped"):
            assert float(state[name]) == float(their_state[name])


def test_a_scale_goes_around_a_chain_and_its_numbers_are_checked():
    with pytest.raises(InputError, match="goes around all other rules"):
        chain(clip_by_global_norm(1.0), technique.loss_scaling(sgd(0.1)))
    for wrong in ({"scale": 0}, {"growth": 0.5}, {"backoff": 0}, {"backoff": 2}, {"interval": 0}):
        with pytest.raises(InputError, match="expected a scale above 0"):
            technique.loss_scaling(sgd(0.1), **wrong)


def test_scaled_gradients_come_back_true_and_small_ones_survive(small):
    params, batch, loss = small
    weight = lambda batch: int((batch["labels"] >= 0).sum())  # noqa: E731
    step = sharded_value_and_grad(loss, shard_size=3, weight=weight)
    value, gradients = step(params, batch, 0)
    scaled_value, scaled = step(params, batch, 0, 1024.0)
    assert scaled_value == value
    tree.map(lambda a, b: np.testing.assert_array_equal(a * np.float32(1024), b), gradients, scaled)
    lowered = sharded_value_and_grad(
        technique.mixed_precision(lambda p, b, r: loss(p, b, r) * 1e-4, "float16"), shard_size=3, weight=weight
    )

    def off(scale):
        low = lowered(params, batch, 0, scale)[1]
        difference = tree.map(lambda a, b: a * np.float32(1e-4) - b / np.float32(scale), gradients, low)
        return global_norm(difference) / (1e-4 * global_norm(gradients))

    assert off(1.0) > 0.01 > 5 * off(2.0**14), "below 2^-24 they are lost, but for the scale"


def overflowing(small, at):
    """Batches, and a step function of a loss that overflows in float16 at some steps: larger than 65,504 it cannot be."""
    params, batch, loss = small
    batches = lambda step: {**batch, "factor": np.full(8, 1e6 if step in at else 1.0, np.float32)}  # noqa: E731
    lowered = technique.mixed_precision(lambda p, b, rng: loss(p, b, rng) * b["factor"][0], "float16")
    return params, batches, sharded_value_and_grad(lowered, shard_size=4)


def test_fit_skips_what_overflows_halves_and_goes_on_to_the_same_bits(small, tmp_path):
    params, batches, step = overflowing(small, {3, 4, 9})
    rule = technique.loss_scaling(chain(clip_by_global_norm(1.0), adamw(1e-2)), interval=4)
    told = []
    whole = fit(step, params, rule, batches, 14, seed=0, report=told.append)
    assert [p.step for p in told if p.skipped] == [4, 5, 10]
    assert [np.log2(p.loss_scale) for p in told] == [16, 16, 16, 15, 14, 14, 14, 14, 15, 14, 14, 14, 14, 15]
    assert (
        not np.isfinite(whole.gradient_norms[[3, 4, 9]]).any() and np.isfinite(np.delete(whole.gradient_norms, [3, 4, 9])).all()
    )
    assert whole.losses[-1] < whole.losses[0]
    fit(step, params, rule, batches, 5, seed=0, folder=tmp_path)
    saved = load_state(tmp_path)[2]["rule"]
    assert (float(saved["scale"]), int(saved["good_steps"]), int(saved["skipped"])) == (2.0**14, 0, 2)
    rest = fit(step, params, rule, batches, 14, seed=0, folder=tmp_path)
    tree.map(np.testing.assert_array_equal, whole.params, rest.params)
    np.testing.assert_array_equal(whole.gradient_norms, rest.gradient_norms)


def test_a_run_that_no_scale_can_save_ends_with_an_error(small):
    params, batches, _ = overflowing(small, ())
    broken = lambda params, batch, step, scale: (np.nan, tree.map(lambda p: np.full_like(p, np.nan), params))  # noqa: E731
    rule = technique.loss_scaling(adamw(1e-2))
    with pytest.raises(TrainingError, match="stopped in step 17.*no finite loss before it"):  # 2^16 has been halved to below 1
        fit(broken, params, rule, batches, 40, seed=0)
    with pytest.raises(TrainingError, match="stopped in step 101"):  # a scale that stays
        fit(broken, params, technique.static_loss_scaling(adamw(1e-2), 1024.0), batches, 300, seed=0)
    late = lambda params, batch, step, scale: (broken if step else sound)(params, batch, step, scale)  # noqa: E731
    sound = lambda params, batch, step, scale: (1.5, tree.map(np.zeros_like, params))  # noqa: E731
    with pytest.raises(TrainingError, match="the last finite loss was 1.5"):
        fit(late, params, rule, batches, 40, seed=0)
    assert numpy_engine(broken, adamw(1e-2)).loss_scale is None


# ------------------------------------------------------------------------------------------------------ without master weights


@pytest.mark.parametrize("seed", [None, 5])
@HALF
def test_weights_kept_in_16_bits_are_numbers_of_the_format_both_ways(form, seed):
    rng = np.random.default_rng(0)
    params = {
        "a": {"weight": technique.rounded(rng.standard_normal((40, 9)).astype(np.float32), form)},
        "b": np.zeros(3, np.float32),
    }
    rule = technique.kept_in(chain(clip_by_global_norm(1.0), adamw(1e-2)), form, seed)
    state, other, there = rule.init(params), rule.init(params), tree.map(np.copy, params)
    for _ in range(20):
        g = tree.map(lambda p: rng.standard_normal(p.shape).astype(np.float32), params)
        updates, state = rule.update(g, state, params)
        params = tree.map(np.add, params, updates)
        other = apply_rule(rule, g, other, there)
    for p, q in zip(tree.leaves(params), tree.leaves(there), strict=True):
        np.testing.assert_allclose(p, q, atol=1e-6)
        assert same_bits(technique.rounded(q, form), q)
    assert int(state["step"]) == int(other["step"]) == 20


def test_small_updates_are_lost_to_the_nearest_number_and_count_on_average_stochastically():
    start = {"w": np.ones(20_000, np.float32)}
    for seed, expected in ((None, 1.0), (3, 1 + 100 * 2.0**-12)):
        rule, params = technique.kept_in(sgd(1.0), "bfloat16", seed), tree.map(np.copy, start)
        rule = rule._replace(inplace=None)
        state = rule.init(params)
        for _ in range(100):
            updates, state = rule.update({"w": np.full(20_000, -(2.0**-12), np.float32)}, state, params)
            params = tree.map(np.add, params, updates)
        assert params["w"].mean(dtype=np.float64) == pytest.approx(expected, abs=5e-4 * (expected > 1))


# --------------------------------------------------------------------------------------------------------------------- costs


def test_sixteen_bytes_a_parameter_both_ways_counted_and_in_torch():
    assert [sum(parts.values()) for parts in technique.MODEL_STATE.values()] == [16, 16]
    size = lambda tensors: sum(t.numel() * t.element_size() for t in tensors if t.numel() > 1)  # noqa: E731
    model = torch.nn.Linear(100, 50, bias=False)
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 100)).sum().backward()
    optimiser.step()
    moments = [t for state in optimiser.state.values() for t in state.values()]
    in_float32 = size(model.parameters()) + size(p.grad for p in model.parameters()) + size(moments)
    half = torch.nn.Linear(100, 50, bias=False).to(torch.bfloat16)
    half(torch.ones(1, 100, dtype=torch.bfloat16)).sum().backward()
    master = size(model.parameters())
    mixed = size(half.parameters()) + size(p.grad for p in half.parameters()) + master + size(moments)
    assert in_float32 == mixed == 16 * 5000


def test_the_paper_scale_figures():
    """ZeRO's figure 1: 7.5 billion parameters on 64 devices; BERT's two sizes; Korthikanti's layer."""
    bill = [technique.zero_bytes(7_500_000_000, 64, stage) / 1e9 for stage in range(4)]
    assert [round(gigabytes, 1) for gigabytes in bill] == [120.0, 31.4, 16.6, 1.9]
    assert round(technique.zero_bytes(109_482_240, 1, 0) / 2**30, 2) == 1.63
    assert round(technique.zero_bytes(335_141_888, 1, 3) / 2**30, 2) == 4.99
    layer = partial(technique.kept_by_a_layer, 8, 512, 1024, 16)
    assert layer() == 8 * 512 * 1024 * (34 + 5 * 16 * 512 / 1024)
    assert layer(wide=4) == 8 * 512 * 1024 * (66 + 9 * 16 * 512 / 1024)
    assert round(layer(wide=4) / layer(), 3) == 1.865  # "nearly 2x"


def test_numbers_lost():
    values = np.float32([0, 2.0**-24, 2.0**-25, -(2.0**-26), 1])
    assert technique.lost(values, "float16") == 0.5 and technique.lost(values, "float16", 4.0) == 0
    assert technique.lost(values, "bfloat16") == 0 and technique.lost(np.zeros(3, np.float32), "float16") == 0
