"""Meta-gradients against torch's and against closed forms; Reptile and prototypical networks against torch references."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call
from torch.func import grad as torch_grad

from bertcraft import check_grads
from bertcraft.bert import heads
from bertcraft.errors import InputError
from bertcraft.techniques import meta_learning as technique
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree, value_and_grad, xla

sys.path.insert(0, str(Path(__file__).parents[1] / "bert"))
from transformers_models import make, ours

RATE = 0.3


def network(seed=0, size=4, hidden=6, ways=3, dtype=np.float64):
    """Parameters of a body (with layer norm) and a head, both random."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(dtype)  # noqa: E731
    return {
        "body": {"weight": draw(hidden, size), "bias": draw(hidden), "scale": draw(hidden), "shift": draw(hidden)},
        "head": {"weight": draw(ways, hidden), "bias": draw(ways)},
    }


def features(params, batch):
    body = params["body"]
    return F.layer_norm(F.gelu(F.linear(batch["x"], body["weight"], body["bias"])), body["scale"], body["shift"], eps=1e-5)


def loss(params, batch):
    return F.cross_entropy(F.linear(features(params, batch), **params["head"]), batch["labels"])


def task(seed=0, size=4, ways=3, shots=2, queries=4, dtype=np.float64):
    rng = np.random.default_rng(seed)

    def batch(each):
        labels = rng.permutation(np.repeat(np.arange(ways), each))
        return {"x": rng.standard_normal((ways * each, size)).astype(dtype), "labels": labels}

    return technique.Task(batch(shots), batch(queries))


def to_torch(values):
    return tree.map(torch.tensor, values)


def torch_features(params, batch):
    body = params["body"]
    x = torch.nn.functional.gelu(torch.nn.functional.linear(batch["x"], body["weight"], body["bias"]))
    return torch.nn.functional.layer_norm(x, x.shape[-1:], body["scale"], body["shift"])


def torch_loss(params, batch):
    logits = torch.nn.functional.linear(torch_features(params, batch), params["head"]["weight"], params["head"]["bias"])
    return torch.nn.functional.cross_entropy(logits, batch["labels"])


def torch_adapted_loss(params, task, steps, only=None, first_order=False):
    """The query loss after adaptation, written for torch.func from the paper's equations."""
    support, query = to_torch(task.support), to_torch(task.query)
    for _ in range(steps):
        gradient = torch_grad(torch_loss)(params, support)
        if first_order:
            gradient = tree.map(torch.Tensor.detach, gradient)
        params = {
            branch: tree.map(lambda p, g: p - RATE * g, params[branch], gradient[branch])
            if only in (None, branch)
            else params[branch]
            for branch in params
        }
    return torch_loss(params, query)


def assert_trees_equal(found, expected, tolerance=1e-8):
    for (name, one), (other_name, other) in zip(tree.items(found), tree.items(expected), strict=True):
        assert name == other_name
        np.testing.assert_allclose(one, np.asarray(other), rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_meta_gradients_equal_torch(steps):
    params, data = network(steps), task(steps)
    methods = {
        "maml": (technique.maml, {}),
        "first order": (technique.first_order_maml, {"first_order": True}),
        "anil": (technique.anil, {"only": "head"}),
    }
    found = {}
    for name, (method, options) in methods.items():
        value, gradient = method(loss, params, data, steps, RATE)
        theirs = torch_grad(torch_adapted_loss)(to_torch(params), data, steps, **options)
        assert float(value) == pytest.approx(float(torch_adapted_loss(to_torch(params), data, steps, **options)), abs=1e-10)
        assert_trees_equal(gradient, theirs)
        found[name] = np.concatenate([leaf.ravel() for leaf in tree.leaves(gradient)])
    if steps:
        assert np.abs(found["maml"] - found["first order"]).max() > 1e-3, "second derivatives make a difference"
        assert np.abs(found["maml"] - found["anil"]).max() > 1e-3


def test_the_meta_gradient_of_a_bert_equals_torch():
    model = make("bert", "sequence_classification", 5, num_labels=3, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    config, params = ours(model, "bert", "sequence_classification")
    rng = np.random.default_rng(0)

    def batch(n):
        ids = rng.integers(3, config.vocab_size, (n, 7))
        mask = (np.arange(7) < rng.integers(2, 8, (n, 1))).astype(np.int64)
        return {"input_ids": ids, "attention_mask": mask, "labels": rng.integers(0, 3, n)}

    data = technique.Task(batch(4), batch(5))
    value, gradient = technique.maml(lambda p, b: heads.loss(p, config, b), params, data, 2, 0.05)

    def theirs(state, batch):
        logits = functional_call(model, state, (), {k: v for k, v in batch.items() if k != "labels"}).logits
        return torch.nn.functional.cross_entropy(logits, batch["labels"])

    state = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    adapted = state
    for _ in range(2):
        first = torch.autograd.grad(theirs(adapted, to_torch(data.support)), list(adapted.values()), create_graph=True)
        adapted = {name: p - 0.05 * g for (name, p), g in zip(adapted.items(), first, strict=True)}
    expected = theirs(adapted, to_torch(data.query))
    second = dict(zip(state, torch.autograd.grad(expected, list(state.values())), strict=True))
    assert float(value) == pytest.approx(expected.item(), abs=1e-10)
    for name, found in tree.items(gradient):
        np.testing.assert_allclose(found, second[name].numpy(), rtol=0, atol=1e-8, err_msg=name)


def regression(params, batch):
    return 0.5 * np.mean(np.square(batch["x"] @ params["w"] - batch["y"]))


def regression_task(seed=0, size=5):
    rng = np.random.default_rng(seed)
    batch = lambda n: {"x": rng.standard_normal((n, size)), "y": rng.standard_normal(n)}  # noqa: E731
    return {"w": rng.standard_normal(size)}, technique.Task(batch(7), batch(9))


@pytest.mark.parametrize("steps", [1, 4])
def test_linear_regression_has_a_closed_form(steps):
    params, data = regression_task(steps)
    x, y = data.support["x"], data.support["y"]
    hessian, best = x.T @ x / len(x), np.linalg.lstsq(x, y)[0]
    shrink = np.linalg.matrix_power(np.eye(5) - RATE * hessian, steps)
    adapted = best + shrink @ (params["w"] - best)
    qx, qy = data.query["x"], data.query["y"]
    after = qx.T @ (qx @ adapted - qy) / len(qx)  # g', the gradient of the query loss at the adapted parameters

    np.testing.assert_allclose(technique.adapt(regression, params, data.support, steps, RATE)["w"], adapted, atol=1e-10)
    np.testing.assert_allclose(technique.maml(regression, params, data, steps, RATE)[1]["w"], shrink @ after, atol=1e-10)
    np.testing.assert_allclose(technique.first_order_maml(regression, params, data, steps, RATE)[1]["w"], after, atol=1e-10)
    back = technique.reptile(regression, params, [data.support] * steps, RATE)[1]["w"]
    np.testing.assert_allclose(back, (np.eye(5) - shrink) @ (params["w"] - best), atol=1e-10)


def test_the_loss_after_adaptation_has_the_numeric_gradient():
    params, data = network(3), task(3)
    names, arrays = zip(*tree.items(params), strict=True)

    def after(*leaves):
        start = tree.nest(dict(zip(names, leaves, strict=True)))
        return loss(technique.adapt(loss, start, data.support, 2, RATE), data.query)

    check_grads(after, *arrays, order=1)


def test_reptile_equals_plain_descent_in_torch():
    params = network(1)
    batches = [task(seed).support for seed in range(4)]
    value, back = technique.reptile(loss, params, batches, RATE)
    moved = {name: torch.nn.Parameter(torch.tensor(leaf)) for name, leaf in tree.items(params)}
    rule, losses = torch.optim.SGD(moved.values(), lr=RATE), []
    for batch in batches:
        rule.zero_grad()
        now = torch_loss(tree.nest(moved), to_torch(batch))
        now.backward()
        rule.step()
        losses.append(now.item())
    assert value == pytest.approx(np.mean(losses), abs=1e-10)
    assert_trees_equal(back, tree.map(lambda p, q: p - q.detach().numpy(), params, tree.nest(moved)))
    alone = technique.reptile(loss, params, batches[:1], RATE)[1]
    gradient = value_and_grad(loss)(params, batches[0])[1]
    assert_trees_equal(alone, tree.map(lambda g: RATE * g, gradient), 1e-12)


def test_prototypical_networks_equal_a_torch_reference():
    params, data = network(2), task(2)
    body = {"body": params["body"]}
    value, gradient = value_and_grad(lambda p: technique.prototypical_loss(features, p, data, 3))(body)
    theirs = tree.map(lambda leaf: torch.tensor(leaf, requires_grad=True), body)
    support, query = torch_features(theirs, to_torch(data.support)), torch_features(theirs, to_torch(data.query))
    labels = torch.tensor(data.support["labels"])
    centres = torch.stack([support[labels == k].mean(0) for k in range(3)])
    expected = torch.nn.functional.cross_entropy(-torch.cdist(query, centres).square(), torch.tensor(data.query["labels"]))
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), abs=1e-10)
    assert_trees_equal(gradient, tree.map(lambda leaf: leaf.grad.numpy(), theirs))


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(1, 5), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_prototypes_are_means_and_each_is_nearest_to_itself(ways, shots, size, queries, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(ways), shots))
    x = rng.standard_normal((len(labels), size)).astype(np.float32)
    centres = technique.prototypes(x, labels, ways)
    assert centres.dtype == np.float32
    np.testing.assert_allclose(centres, [x[labels == k].mean(axis=0) for k in range(ways)], atol=1e-5)
    assert np.array_equal(technique.prototypical_logits(centres, centres).argmax(axis=1), np.arange(ways))
    logits = technique.prototypical_logits(rng.standard_normal((queries, size)), centres)
    assert logits.shape == (queries, ways) and (logits <= 0).all()


def test_a_meta_batch_is_the_mean_of_its_tasks():
    params, tasks = network(4), [task(seed) for seed in range(3)]
    one = lambda p, t: technique.maml(loss, p, t, 1, RATE)  # noqa: E731
    value, gradient = technique.over_tasks(one, params, tasks)
    parts = [one(params, each) for each in tasks]
    assert float(value) == pytest.approx(np.mean([part[0] for part in parts]))
    assert_trees_equal(gradient, tree.map(lambda *leaves: sum(leaves) / 3, *(part[1] for part in parts)), 1e-12)


def test_float32_stays_float32():
    params, data = network(dtype=np.float32), task(dtype=np.float32)
    results = [method(loss, params, data, 2, RATE) for method in (technique.maml, technique.first_order_maml, technique.anil)]
    results.append(technique.reptile(loss, params, [data.support] * 2, RATE))
    results.append(value_and_grad(lambda p: technique.prototypical_loss(features, p, data, 3))(params))
    assert {leaf.dtype for leaf in tree.leaves(results)} == {np.dtype(np.float32)}


def test_jax_computes_the_same_meta_gradient():
    params, data = network(dtype=np.float32), task(dtype=np.float32)
    one = lambda p, t: technique.maml(loss, p, t, 1, RATE)[1]  # noqa: E731
    there = dict(tree.items(xla.jit(one)(params, data)))
    for name, leaf in tree.items(one(params, data)):
        np.testing.assert_allclose(leaf, there[name], rtol=0, atol=2e-5, err_msg=name)


def test_bad_input_is_refused():
    params, data = network(), task()
    with pytest.raises(InputError, match="0 or more, got -1"):
        technique.maml(loss, params, data, -1, RATE)
    with pytest.raises(InputError, match="no parameter adapts.*body.weight"):
        technique.anil(loss, params, data, 1, RATE, head="classifier")
    with pytest.raises(InputError, match="at least one batch"):
        technique.reptile(loss, params, [], RATE)
    with pytest.raises(InputError, match="at least one task"):
        technique.over_tasks(lambda p, t: technique.maml(loss, p, t, 1, RATE), params, [])
    with pytest.raises(InputError, match="no example of class 1"):
        technique.prototypes(np.ones((2, 3)), np.array([0, 2]), 3)
