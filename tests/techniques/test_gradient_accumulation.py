"""Accumulated gradients are the full batch's, ours and torch's; the bug and its size; what transformers' Trainer does;
losses that do not accumulate and GradCache; LAMB against a torch optimiser."""

import functools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcraft import check_grads, value_and_grad
from bertcraft.bert import encoder, heads
from bertcraft.errors import InputError
from bertcraft.techniques import gradient_accumulation as technique
from bertcraft.techniques.mixed_precision_training import loss_scaling
from bertcraft.techniques.weight_decay import lamb
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree
from bertcraft.tensor.parallel import shard_rng, sharded_value_and_grad
from bertcraft.train import adamw, chain, clip_by_global_norm, sgd, warmup_linear

sys.path.insert(0, str(Path(__file__).parents[1] / "bert"))
from transformers_models import make, named, ours

ROWS, LENGTH = 8, 12


@pytest.fixture(scope="module")
def problem():
    """A random BertForMaskedLM, the same weights as ours, and a batch whose rows predict 1 to 11 tokens."""
    model = make("bert", "masked_lm", 3)
    config, params = ours(model, "bert", "masked_lm")
    rng = np.random.default_rng(0)
    ids, words = rng.integers(5, config.vocab_size, (2, ROWS, LENGTH))
    labels = np.where(rng.random(ids.shape) < np.linspace(0.1, 0.9, ROWS)[:, None], words, F.IGNORED)
    return model, config, params, {"input_ids": ids, "labels": labels}


def bert_loss(config, dropout=None):
    return lambda p, batch, rng: heads.loss(p, config, batch, rng)


def assert_equal_trees(a, b, tolerance=1e-12):
    for (name, x), y in zip(tree.items(a), tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance, rtol=0, err_msg=name)


def distance(a, b):
    return max(float(np.abs(x - y).max()) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))


def torch_gradients(model):
    return named(model, {name: p.grad.numpy().copy() for name, p in model.named_parameters()}, "bert", "masked_lm")


# ------------------------------------------------------------------------------------------------ equation (1)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_accumulated_by_tokens_is_the_full_batch_of_transformers(problem, size):
    model, config, params, batch = problem
    model.zero_grad()
    full = model(**{name: torch.tensor(array) for name, array in batch.items()}).loss
    full.backward()
    value, gradients = technique.accumulate(bert_loss(config), params, technique.micro_batches(batch, size))
    assert float(value) == pytest.approx(full.item(), abs=1e-10)
    theirs = torch_gradients(model)
    for name, gradient in tree.items(gradients):
        np.testing.assert_allclose(gradient, theirs[name], atol=1e-8, err_msg=name)


def test_it_is_the_same_mechanism_as_shards_over_threads(problem):
    """The same bits, dropout included: each micro-batch has random numbers of its own."""
    _, config, params, batch = problem
    params = tree.map(lambda p: p.astype(np.float32), params)
    config = type(config)(**{**vars(config), "hidden_dropout_prob": 0.1})
    sharded = sharded_value_and_grad(bert_loss(config), shard_size=3, weight=technique.predicted, seed=5, threads=2)
    value, gradients = technique.accumulate(
        bert_loss(config), params, technique.micro_batches(batch, 3), rng=functools.partial(shard_rng, 5, 9)
    )
    other_value, other = sharded(params, batch, 9)
    assert float(value) == pytest.approx(other_value, rel=1e-6)
    for a, b in zip(tree.leaves(gradients), tree.leaves(other), strict=True):
        assert a.dtype == np.float32 and np.array_equal(a, b)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_any_cut_gives_the_whole_gradient_and_mean_of_means_errs_by_a_covariance(rows, size, classes, seed):
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((rows, 4)) < 0.6, rng.integers(0, classes, (rows, 4)), F.IGNORED)
    labels[rng.integers(rows), 0] = 0  # something is predicted
    batch = {"x": rng.standard_normal((rows, 4, 3)), "labels": labels}
    w = rng.standard_normal((3, classes))

    def loss(w, batch, rng):
        return F.cross_entropy(batch["x"] @ w, batch["labels"])

    parts = technique.micro_batches(batch, size)
    assert [len(part["x"]) for part in parts] == [size] * (rows // size) + [rows % size] * (rows % size > 0)
    assert np.array_equal(np.concatenate([part["labels"] for part in parts]), labels)
    whole_value, whole = value_and_grad(loss)(w, batch, None)
    value, gradient = technique.accumulate(loss, w, parts)
    assert value == pytest.approx(whole_value, abs=1e-12)
    np.testing.assert_allclose(gradient, whole, atol=1e-12)
    means = technique.accumulate(loss, w, parts, technique.equally)[0]
    n, losses = np.array([technique.predicted(part) for part in parts]), np.array([loss(w, part, None) for part in parts])
    assert means - value == pytest.approx(-np.cov(n, losses, bias=True)[0, 1] / n.mean(), abs=1e-12), "equation (2)"


def test_the_gradient_is_right_numerically_and_to_the_second_order():
    rng = np.random.default_rng(1)
    parts = technique.micro_batches({"x": rng.standard_normal((5, 3)), "labels": rng.integers(0, 4, 5)}, 2)

    def loss(w, part, rng):
        return F.cross_entropy(np.tanh(part["x"] @ w), part["labels"])

    w = rng.standard_normal((3, 4))
    check_grads(lambda w: technique.accumulate(loss, w, parts)[0], w)
    check_grads(lambda w: technique.accumulate(loss, w, parts)[1], w, order=1)  # the gradient's own gradient


def test_it_compiles_under_jax():
    import jax

    from bertcraft.tensor.gradient import unwrap, wrap_jax

    rng = np.random.default_rng(1)
    parts = technique.micro_batches({"x": rng.standard_normal((5, 3)), "labels": rng.integers(0, 4, 5)}, 2)
    params = {"in": rng.standard_normal((3, 6)), "out": rng.standard_normal((6, 4))}

    def loss(p, part, rng):
        return F.cross_entropy(F.gelu(part["x"] @ p["in"]) @ p["out"], part["labels"])

    def encode(p, part, rng):
        return part["x"] @ p["in"], F.gelu(part["x"] @ p["in"])

    def both(p):
        cached = technique.cached_value_and_grad(encode, technique.in_batch_negatives, p, parts)
        return technique.accumulate(loss, p, parts), cached

    with jax.enable_x64(True):
        jitted = jax.tree.map(np.asarray, jax.jit(lambda p: unwrap(both(wrap_jax(p))))(params))
    tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), both(params), jitted)


# --------------------------------------------------------------------------------------------------- the bug


def test_two_and_ten_tokens():
    """A published example: 2.45771 for the full batch and by tokens, 2.45368 by mean of means.

    Those figures determine the two means, 2.447635 over 2 tokens and 2.459725 over 10; the logits are made to have them.
    """
    rng = np.random.default_rng(0)
    labels = np.full((2, 10), F.IGNORED)
    labels[0, :2], labels[1] = 0, 0
    logits = rng.standard_normal((2, 10, 7))
    for row, mean in ((0, 2.447635), (1, 2.459725)):
        for token in np.flatnonzero(labels[row] == 0):  # logsumexp(z) - z_0 = mean, solved for z_0
            logits[row, token, 0] = F.logsumexp(logits[row, token, 1:]) - np.log(np.expm1(mean))
    parts = technique.micro_batches({"logits": logits, "labels": labels}, 1)

    def loss(scale, part, rng):
        return F.cross_entropy(scale * part["logits"], part["labels"])

    one = np.array(1.0)
    assert [technique.predicted(part) for part in parts] == [2, 10]
    full = torch.nn.functional.cross_entropy(torch.tensor(logits).flatten(0, 1), torch.tensor(labels).flatten())
    assert round(full.item(), 5) == 2.45771
    assert round(float(technique.accumulate(loss, one, parts)[0]), 5) == 2.45771
    assert round(float(technique.accumulate(loss, one, parts, technique.equally)[0]), 5) == 2.45368


def trainer_gradients(model, batch, size, compute_loss=None):
    """What transformers' Trainer accumulates, read off a step of SGD with rate 1; dropout off."""
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    import tempfile

    from transformers import Trainer, TrainingArguments

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    rows = [{name: torch.tensor(array[i]) for name, array in batch.items()} for i in range(ROWS)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=size, gradient_accumulation_steps=ROWS // size, max_steps=1, optim="sgd",
            learning_rate=1.0, lr_scheduler_type="constant", max_grad_norm=0.0, train_sampling_strategy="sequential",
            use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=rows, compute_loss_func=compute_loss).train()
    with torch.no_grad():
        gradients = {name: (before[name] - p).numpy() for name, p in model.named_parameters()}
        for name, p in model.named_parameters():
            p.copy_(before[name])
    model.eval()
    return named(model, gradients, "bert", "masked_lm")


@pytest.fixture
def undropped(problem):
    model, config, params, batch = problem
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model, config, params, batch


def test_token_weighted_is_what_the_trainer_does_with_num_items_in_batch(undropped):
    model, config, params, batch = undropped

    def by_tokens(output, labels, num_items_in_batch):
        total = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten(), reduction="sum")
        return total / num_items_in_batch

    _, gradients = technique.accumulate(bert_loss(config), params, technique.micro_batches(batch, 2))
    theirs = trainer_gradients(model, batch, 2, by_tokens)
    for name, gradient in tree.items(gradients):
        np.testing.assert_allclose(gradient, theirs[name], atol=1e-8, err_msg=name)


def test_the_trainer_by_default_adds_up_the_means_of_a_masked_bert(undropped):
    """transformers issue 47688, open in 5.23: BertForMaskedLM takes **kwargs, so the Trainer believes that its loss is
    already divided by num_items_in_batch; it is not. The gradient is the mean of means times the number of micro-batches."""
    model, config, params, batch = undropped
    theirs = trainer_gradients(model, batch, 2)
    parts = technique.micro_batches(batch, 2)
    _, gradients = technique.accumulate(bert_loss(config), params, parts, technique.equally)
    for name, gradient in tree.items(gradients):
        np.testing.assert_allclose(len(parts) * gradient, theirs[name], atol=1e-8, err_msg=name)


def test_the_old_trainer_took_the_mean_of_means(undropped):
    model, config, params, batch = undropped
    model.accepts_loss_kwargs = False  # so the Trainer treated every model until October 2024
    try:
        theirs = trainer_gradients(model, batch, 2)
    finally:
        del model.accepts_loss_kwargs
    parts = technique.micro_batches(batch, 2)
    _, gradients = technique.accumulate(bert_loss(config), params, parts, technique.equally)
    for name, gradient in tree.items(gradients):
        np.testing.assert_allclose(gradient, theirs[name], atol=1e-8, err_msg=name)
    assert distance(gradients, technique.accumulate(bert_loss(config), params, parts)[1]) > 0.01


# ------------------------------------------------------------------------------------------------ one update


def test_three_updates_from_micro_batches_are_those_of_the_full_batch_in_torch(problem):
    """Clipped once after the last micro-batch, one step of AdamW and of the schedule."""
    import transformers

    model, config, params, batch = problem
    model = make("bert", "masked_lm", 3)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=1e-2,
    )
    scheduler = transformers.get_linear_schedule_with_warmup(optimizer, 1, 4)
    rule = chain(clip_by_global_norm(1.0), adamw(warmup_linear(1e-2, 1, 4)))
    state = rule.init(params)
    for _ in range(3):
        optimizer.zero_grad()
        model(**{name: torch.tensor(array) for name, array in batch.items()}).loss.backward()
        assert torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) > 1, "clipping is at work"
        optimizer.step()
        scheduler.step()
        parts = technique.micro_batches(batch, 3)
        _, params, state = technique.update(rule, bert_loss(config), params, state, parts)
    assert state[1]["step"] == 3
    theirs = named(model, {name: p.detach().numpy() for name, p in model.named_parameters()}, "bert", "masked_lm")
    for name, parameter in tree.items(params):
        np.testing.assert_allclose(parameter, theirs[name], atol=1e-8, err_msg=name)


class TorchLamb(torch.optim.Optimizer):
    """You et al. 2020, algorithm 2, as a torch optimiser; groups without weight decay are not rescaled."""

    def __init__(self, groups, lr, betas=(0.9, 0.999), eps=1e-6):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                state["t"] += 1
                state["m"].lerp_(p.grad, 1 - b1)
                state["v"].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                r = state["m"] / (1 - b1 ** state["t"]) / ((state["v"] / (1 - b2 ** state["t"])).sqrt() + group["eps"])
                ratio = 1.0
                if group["weight_decay"]:
                    r = r + group["weight_decay"] * p
                    if p.norm() > 0 and r.norm() > 0:
                        ratio = p.norm() / r.norm()
                p.sub_(group["lr"] * ratio * r)


def test_lamb_on_accumulated_gradients_equals_torch(problem):
    _, config, params, batch = problem
    model = make("bert", "masked_lm", 3)
    optimizer = TorchLamb(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=1e-2,
    )
    rule = lamb(1e-2)
    state = rule.init(params)
    for size in (1, 2, 4, 8, 3):
        optimizer.zero_grad()
        model(**{name: torch.tensor(array) for name, array in batch.items()}).loss.backward()
        optimizer.step()
        parts = technique.micro_batches(batch, size)
        _, params, state = technique.update(rule, bert_loss(config), params, state, parts)
    theirs = named(model, {name: p.detach().numpy() for name, p in model.named_parameters()}, "bert", "masked_lm")
    for name, parameter in tree.items(params):
        np.testing.assert_allclose(parameter, theirs[name], atol=1e-8, err_msg=name)


# ------------------------------------------------------------------------------- losses that do not accumulate


def encode_pairs(config):
    """Two mean-pooled vectors a row, with dropout when there is a generator."""

    def encode(params, batch, rng):
        return tuple(np.mean(encoder.encode(params, config, batch[side], rng=rng), axis=1) for side in ("first", "second"))

    return encode


def pairs(config, rows=6):
    first, second = np.random.default_rng(2).integers(5, config.vocab_size, (2, rows, 7))
    return {"first": first, "second": second}


def test_in_batch_negatives_equal_torch():
    first, second = np.random.default_rng(0).standard_normal((2, 5, 4))
    a, b = (torch.tensor(x, requires_grad=True) for x in (first, second))
    scores = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1) / 0.05
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(5))
    expected.backward()
    value, gradients = value_and_grad(lambda z: technique.in_batch_negatives(*z))((first, second))
    assert float(value) == pytest.approx(expected.item(), abs=1e-10)
    np.testing.assert_allclose(gradients[0], a.grad.numpy(), atol=1e-8)
    np.testing.assert_allclose(gradients[1], b.grad.numpy(), atol=1e-8)
    check_grads(lambda a, b: technique.in_batch_negatives(a, b, 0.5), first, second)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("size", [1, 2, 4, 6])
def test_in_batch_negatives_do_not_accumulate_but_cached_gradients_are_exact(problem, size, dropout):
    _, config, params, _ = problem
    config = type(config)(**{**vars(config), "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout})
    encode, batch = encode_pairs(config), pairs(config)
    parts = technique.micro_batches(batch, size)
    rng = functools.partial(shard_rng, 4, 0) if dropout else technique.no_dropout

    def loss(p, part, rng):
        return technique.in_batch_negatives(*encode(p, part, rng))

    def whole(p):  # the graph of everything at once, with the same dropout
        rows = [encode(p, part, rng(k)) for k, part in enumerate(parts)]
        return technique.in_batch_negatives(*(np.concatenate(side) for side in zip(*rows, strict=True)))

    expected_value, expected = value_and_grad(whole)(params)
    value, gradients = technique.cached_value_and_grad(encode, technique.in_batch_negatives, params, parts, rng)
    assert float(value) == pytest.approx(float(expected_value), abs=1e-12)
    assert_equal_trees(gradients, expected, 1e-10)
    accumulated = technique.accumulate(loss, params, parts, lambda part: len(part["first"]), rng)[1]
    if size < 6:
        assert distance(accumulated, expected) > 1e-2
    else:
        assert_equal_trees(accumulated, expected, 1e-10)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "batch, size", [(np.zeros((0, 2)), 1), ({"a": np.zeros(3), "b": np.zeros(4)}, 2), (np.zeros(3), 0), ({}, 1)]
)
def test_batches_that_cannot_be_cut_are_refused(batch, size):
    with pytest.raises(InputError, match="number of rows"):
        technique.micro_batches(batch, size)


def test_a_rule_that_scales_the_loss_is_refused_since_this_one_is_not_scaled():
    rule = loss_scaling(sgd(0.1))
    with pytest.raises(InputError, match="goes around all other rules"):
        technique.update(rule, lambda p, part, rng: np.sum(p), np.ones(2), rule.init(np.ones(2)), [{}], weight=len)


def test_a_batch_that_predicts_nothing_is_refused(problem):
    _, config, params, batch = problem
    nothing = {**batch, "labels": np.full_like(batch["labels"], F.IGNORED)}
    with pytest.raises(InputError, match="at least one predicted token"):
        technique.accumulate(bert_loss(config), params, technique.micro_batches(nothing, 2))
