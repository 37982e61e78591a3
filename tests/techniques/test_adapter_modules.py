"""Adapters against peft and a torch reference, by hand counts, and what each method leaves alone."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bertcraft import check_grads
from bertcraft.bert import encoder, heads
from bertcraft.bert.config import Config
from bertcraft.bert.layout import parameter_shapes
from bertcraft.errors import InputError
from bertcraft.techniques import adapter_modules as technique
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree, value_and_grad

sys.path.insert(0, str(Path(__file__).parents[1] / "bert"))
from transformers_models import inputs, make, ours

METHODS = {
    "full": technique.full(), "head": technique.head_only(), "bitfit": technique.bitfit(), "houlsby": technique.houlsby(3),
    "lora": technique.lora(2, 4), "ia3": technique.ia3(), "prefix": technique.prefix(3),
    "gated": technique.gated_prefix(3),
}  # fmt: skip
HEAD = ["bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"]
HEAD_MODULES = ["pooler.dense", "classifier"]
SCALES = r".*\.(attention\.self\.key|attention\.self\.value|layer\.\d+\.output\.dense)"
INNER = r".*\.layer\.\d+\.output\.dense"


def classifier(seed, family="bert", **changes):
    """A transformers classifier in double, and the same as (config, params, batch) with labels."""
    theirs = make(family, "sequence_classification", seed, **changes)
    config, params = ours(theirs, family, "sequence_classification")
    batch = inputs(theirs, seed)
    return theirs, config, params, batch | {"labels": np.arange(len(batch["input_ids"])) % config.num_labels}


def start(method, params, config, seed=0):
    """The trained tree, away from its start: weights of unit scale."""
    rng = np.random.default_rng(seed)
    began = technique.start(method, params, config, rng)
    return tree.map(lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape).astype(leaf.dtype), began)


def loss(trained, params, config, batch, sockets):
    whole = technique.overlay(params, trained)
    mask, segments = batch.get("attention_mask"), batch.get("token_type_ids")
    places = batch.get("position_ids")
    hidden = encoder.encode(whole, config, batch["input_ids"], mask, segments, position_ids=places, sockets=sockets)
    logits = heads.classification_logits(whole, config, hidden)
    return F.cross_entropy(logits, batch["labels"]), logits


def ours_of(method, trained, params, config, batch):
    (value, logits), gradients = value_and_grad(loss, has_aux=True)(trained, params, config, batch, method.sockets)
    return value, logits, gradients


def theirs_of(model, batch):
    out = model(**{name: torch.tensor(array) for name, array in batch.items()})
    out.loss.backward()
    return out.loss.item(), out.logits.detach().numpy()


def put(model, arrays, names):
    """Copy arrays into a torch model; ``names(ours)`` is the name of its parameter. Returns those parameters by our name."""
    parameters = dict(model.named_parameters())
    found = {name: parameters[names(name)] for name in arrays}
    with torch.no_grad():
        for name, array in arrays.items():
            assert found[name].numel() == array.size
            found[name].copy_(torch.tensor(array).reshape(found[name].shape))
    return found


def assert_equal(found, expected, tolerance=1e-8):
    assert found.keys() == expected.keys()
    for name, values in found.items():
        scale = max(1.0, np.abs(expected[name]).max())
        assert np.abs(values - expected[name].reshape(values.shape)).max() < tolerance * scale, name


def assert_same_step(method, trained, params, config, batch, model, names):
    """Loss, logits and the gradient of every trained parameter are the torch model's, which trains nothing else."""
    parameters = put(model, dict(tree.items(trained)), names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(parameter is own for own in parameters.values()))
        assert parameter.dtype == torch.float64, name
    value, logits, gradients = ours_of(method, trained, params, config, batch)
    their_value, their_logits = theirs_of(model, batch)
    assert value == pytest.approx(their_value, abs=1e-10)
    np.testing.assert_allclose(logits, their_logits, atol=1e-8)
    assert_equal(dict(tree.items(gradients)), {name: p.grad.numpy() for name, p in parameters.items()})


# ----------------------------------------------------------------------------------------------- against production code


def peft_name(name):
    """The name that peft gives a parameter of ours."""
    if name in HEAD:
        module = HEAD_MODULES[name.startswith("classifier")]
        return f"base_model.model.{name.replace(module, f'{module}.modules_to_save.default', 1)}"
    if name.endswith((".lora_A", ".lora_B")):
        return f"base_model.model.{name}.default.weight"
    return f"base_model.model.{name.removesuffix('.ia3')}.ia3_l.default"


@pytest.mark.parametrize("seed", range(8))
def test_lora_equals_peft_forward_every_gradient_and_merged(seed):
    theirs, config, params, batch = classifier(seed)
    rank, alpha = 1 + seed % 4, 3 + seed
    method = technique.lora(rank, alpha)
    trained = start(method, params, config, seed)
    model = peft.get_peft_model(
        theirs, peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=["query", "value"], modules_to_save=HEAD_MODULES)
    )
    model = model.double().eval()
    assert_same_step(method, trained, params, config, batch, model, peft_name)
    merged = model.merge_and_unload()
    assert_merged_equal(method, trained, params, config, batch, merged)


@pytest.mark.parametrize("seed", range(8))
def test_ia3_equals_peft_forward_every_gradient_and_merged(seed):
    theirs, config, params, batch = classifier(seed)
    method = technique.ia3()
    trained = start(method, params, config, seed)
    model = peft.get_peft_model(
        theirs, peft.IA3Config(target_modules=SCALES, feedforward_modules=INNER, modules_to_save=HEAD_MODULES)
    )
    model = model.double().eval()
    assert_same_step(method, trained, params, config, batch, model, peft_name)
    assert_merged_equal(method, trained, params, config, batch, model.merge_and_unload())


def assert_merged_equal(method, trained, params, config, batch, theirs):
    merged = technique.merge(method, technique.overlay(params, trained), config)
    expected = {name: p.detach().numpy() for name, p in theirs.named_parameters()}
    assert_equal(dict(tree.items(merged)), expected)
    plain, adapted = loss(merged, {}, config, batch, encoder.BERT), ours_of(method, trained, params, config, batch)
    np.testing.assert_allclose(plain[1], adapted[1], atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_a_prefix_equals_peft_forward_and_every_gradient(seed):
    theirs, config, params, batch = classifier(seed)
    length, layers, hidden = 1 + seed % 4, config.num_hidden_layers, config.hidden_size
    method = technique.prefix(length)
    trained = start(method, params, config, seed)
    flat = dict(tree.items(trained))
    model = peft.get_peft_model(theirs, peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=length))
    model = model.double().eval()
    copied = lambda name: name.replace("classifier", "classifier.modules_to_save.default")  # noqa: E731
    head = put(model, {name: flat[name] for name in HEAD}, lambda name: f"base_model.{copied(name)}")
    names = [f"bert.encoder.layer.{layer}.attention.self.prefix.{part}" for layer in range(layers) for part in ("key", "value")]
    table = model.prompt_encoder["default"].embedding.weight  # (P, layers * 2 * hidden): keys, then values, layer by layer
    with torch.no_grad():
        table.copy_(torch.tensor(np.concatenate([flat[name] for name in names], axis=1)))
    for parameter in head.values():
        parameter.requires_grad_(True)
    their_value, their_logits = theirs_of(model, batch)
    ids = batch["input_ids"]
    batch["position_ids"] = np.broadcast_to(np.arange(ids.shape[1]) + length, ids.shape)  # peft counts on from the prefix
    value, logits, gradients = ours_of(method, trained, params, config, batch)
    assert value == pytest.approx(their_value, abs=1e-10)
    np.testing.assert_allclose(logits, their_logits, atol=1e-8)
    parts = table.grad.numpy().reshape(length, 2 * layers, hidden)
    expected = {name: parts[:, i] for i, name in enumerate(names)} | {name: p.grad.numpy() for name, p in head.items()}
    assert_equal(dict(tree.items(gradients)), expected)


class Bottleneck(nn.Module):
    """Figure 2 of Houlsby et al. 2019, right, written down again."""

    def __init__(self, hidden, size):
        super().__init__()
        self.down, self.up = nn.Linear(hidden, size), nn.Linear(size, hidden)

    def forward(self, x):
        return x + self.up(nn.functional.gelu(self.down(x)))


class Adapted(nn.Module):
    """The end of a half of transformers' layer (BertSelfOutput, BertOutput), with a bottleneck before the residual."""

    def __init__(self, plain, hidden, size):
        super().__init__()
        self.dense, self.dropout, self.LayerNorm = plain.dense, plain.dropout, plain.LayerNorm
        self.adapter = Bottleneck(hidden, size)

    def forward(self, states, residual):
        return self.LayerNorm(residual + self.adapter(self.dropout(self.dense(states))))


@pytest.mark.parametrize("seed", range(8))
def test_houlsby_equals_a_torch_reference_forward_and_every_gradient(seed):
    theirs, config, params, batch = classifier(seed)
    size = 1 + seed
    for layer in theirs.bert.encoder.layer:
        layer.attention.output = Adapted(layer.attention.output, config.hidden_size, size)
        layer.output = Adapted(layer.output, config.hidden_size, size)
    method = technique.houlsby(size)
    trained = start(method, params, config, seed)
    assert_same_step(method, trained, params, config, batch, theirs.double().eval(), lambda name: name)


@pytest.mark.parametrize("which", ["full", "head", "bitfit"])
@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "albert", "mpnet", "deberta"])
def test_methods_that_add_nothing_train_transformers_own_parameters(family, which):
    theirs, config, params, batch = classifier(5, family)
    trained = start(METHODS[which], params, config)
    names = {name for name, _ in tree.items(trained)}
    own = {name for name in dict(tree.items(params)) if name.startswith(f"{family}.") and ".pooler." not in name}
    head = set(dict(tree.items(params))) - own
    expected = {"full": own, "head": set(), "bitfit": {name for name in own if name.endswith("bias")}}[which]
    assert names == head | expected
    assert_same_step(METHODS[which], trained, params, config, batch, theirs, lambda name: name)
    merged = technique.merge(METHODS[which], technique.overlay(params, trained), config)
    assert dict(tree.items(merged)).keys() == dict(tree.items(params)).keys()


def test_layers_are_those_of_their_numbers_in_whatever_order_a_tree_has_them():
    """JAX gives trees back with sorted keys: 0, 1, 10, 2."""
    _, config, params, _ = classifier(0, num_hidden_layers=11)
    layers = params["bert"]["encoder"]["layer"]
    other = technique._replaced(params, ("bert", "encoder"), {"layer": {key: layers[key] for key in sorted(layers)}})
    one, two = (technique.start(METHODS["prefix"], each, config, np.random.default_rng(0)) for each in (params, other))
    assert dict(tree.items(one)).keys() == dict(tree.items(two)).keys()
    for name, leaf in tree.items(one):
        np.testing.assert_array_equal(leaf, dict(tree.items(two))[name], err_msg=name)


@pytest.mark.parametrize("which", ["houlsby", "lora", "ia3", "prefix", "gated"])
def test_roberta_and_electra_take_adapters_too_and_other_families_are_refused(which):
    method = METHODS[which]
    for family in ("roberta", "electra"):
        _, config, params, batch = classifier(2, family)
        trained = start(method, params, config)
        value, _, gradients = ours_of(method, trained, params, config, batch)
        assert np.isfinite(value)
        assert all(np.abs(gradient).max() > 0 for name, gradient in tree.items(gradients) if "embeddings" not in name)
    for family in ("distilbert", "albert", "mpnet"):
        _, config, params, _ = classifier(2, family)
        with pytest.raises(InputError, match=f"{family}; this method knows the layers of bert, roberta and electra"):
            technique.start(method, params, config, np.random.default_rng(0))


# ----------------------------------------------------------------------------------------------------- where they start


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("which", [name for name in METHODS if name != "prefix"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_at_zero_an_adapter_changes_no_bit(which, seed, dtype):
    _, config, params, batch = classifier(seed)
    params = tree.map(lambda leaf: leaf.astype(dtype), params)
    trained = technique.start(METHODS[which], params, config, np.random.default_rng(0))
    plain = loss({}, params, config, batch, encoder.BERT)[1]
    if which == "houlsby":  # starts near the identity, and is it with a zero projection upwards
        near = loss(trained, params, config, batch, METHODS[which].sockets)[1]
        assert 0 < np.abs(near - plain).max() < 1e-4
        trained = tree.nest({name: leaf * (".up." not in name) for name, leaf in tree.items(trained)})
    adapted = loss(trained, params, config, batch, METHODS[which].sockets)[1]
    assert adapted.dtype == dtype and np.array_equal(adapted, plain)


def test_houlsby_starts_with_the_authors_truncated_normal():
    _, config, params, _ = classifier(0)
    trained = dict(tree.items(technique.start(technique.houlsby(2000), params, config, np.random.default_rng(0))))
    weights = np.concatenate([leaf.ravel() for name, leaf in trained.items() if name.endswith(("down.weight", "up.weight"))])
    assert np.abs(weights).max() <= 2e-3 and weights.std() == pytest.approx(0.8796e-3, rel=0.01)  # of a normal cut at two
    assert not any(leaf.any() for name, leaf in trained.items() if name.endswith((".down.bias", ".up.bias")))


def test_a_prefix_starts_as_the_keys_and_values_of_words():
    """The first layer then sees what it would see with those words before the text, at their positions."""
    _, config, params, batch = classifier(1, num_hidden_layers=1)
    trained = technique.start(technique.prefix(3), params, config, np.random.default_rng(4))
    words = np.random.default_rng(4).integers(config.vocab_size, size=(1, 3))
    both = np.concatenate([np.broadcast_to(words, (3, 3)), batch["input_ids"]], axis=1)
    places = np.concatenate([np.arange(3), np.arange(11)])[None].repeat(3, axis=0)
    mask = np.concatenate([np.ones((3, 3), int), batch["attention_mask"]], axis=1)
    segments = np.concatenate([np.zeros((3, 3), int), batch["token_type_ids"]], axis=1)
    expected = encoder.encode(params, config, both, mask, segments, position_ids=places)[:, 3:]
    whole, sockets = technique.overlay(params, trained), technique.prefix(3).sockets
    found = encoder.encode(whole, config, batch["input_ids"], batch["attention_mask"], batch["token_type_ids"], sockets=sockets)
    np.testing.assert_allclose(found, expected, atol=1e-10)


# --------------------------------------------------------------------------------------------------------- any shape


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 99), st.integers(1, 9), st.floats(0.5, 40), st.sampled_from(["lora", "ia3"]))
def test_merged_into_the_model_it_computes_the_same(seed, rank, alpha, which):
    _, config, params, batch = classifier(seed)
    method = technique.lora(rank, alpha) if which == "lora" else technique.ia3()
    whole = technique.overlay(params, start(method, params, config, seed))
    merged = technique.merge(method, whole, config)
    assert {n: leaf.shape for n, leaf in tree.items(merged)} == {n: leaf.shape for n, leaf in tree.items(params)}
    expected, found = loss(whole, {}, config, batch, method.sockets)[1], loss(merged, {}, config, batch, encoder.BERT)[1]
    np.testing.assert_allclose(found, expected, atol=1e-8 * max(1, np.abs(expected).max()))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.data())
def test_a_prefix_is_attention_over_more_keys_by_the_formula(batch, length, size, heads_, data):
    """With a gate it is attention to the text, plus the gate times attention to the prefix alone."""
    hidden = 2 * heads_
    rng = np.random.default_rng(length)
    config = Config(family="bert", head="base", hidden_size=hidden, num_attention_heads=heads_)
    linear = lambda: {"weight": rng.standard_normal((hidden, hidden)), "bias": rng.standard_normal(hidden)}  # noqa: E731
    own = {part: linear() for part in ("query", "key", "value")}
    own["prefix"] = {part: rng.standard_normal((size, hidden)) for part in ("key", "value")} | {"gate": rng.standard_normal(1)}
    layer = {"attention": {"self": own, "output": {"dense": linear()}}}
    x = rng.standard_normal((batch, length, hidden))
    mask = np.arange(length) < np.array([[data.draw(st.integers(1, length))] for _ in range(batch)])
    bias = F.padding_bias(mask.astype(int), x.dtype)
    found = technique.prefix_attention(layer, x, x, bias, config)
    gated = technique.gated_prefix_attention(layer, x, x, bias, config)

    def attended(query, key, value):
        parts = []
        for head in range(heads_):
            at = slice(2 * head, 2 * head + 2)
            weights = np.exp(query[:, at] @ key[:, at].T / np.sqrt(2))
            parts.append(weights / weights.sum(axis=1, keepdims=True) @ value[:, at])
        return np.concatenate(parts, axis=1)

    for row in range(batch):
        seen = x[row, mask[row]]
        query, key, value = (encoder.dense(own[p], given) for p, given in (("query", x[row]), ("key", seen), ("value", seen)))
        before, output = (own["prefix"]["key"], own["prefix"]["value"]), layer["attention"]["output"]["dense"]
        both = attended(query, np.concatenate([before[0], key]), np.concatenate([before[1], value]))
        np.testing.assert_allclose(found[row], encoder.dense(output, both), atol=1e-10)
        beside = attended(query, key, value) + own["prefix"]["gate"] * attended(query, *before)
        np.testing.assert_allclose(gated[row], encoder.dense(output, beside), atol=1e-10)


@pytest.mark.parametrize("which", ["houlsby", "lora", "ia3", "prefix", "gated"])
def test_derivatives_to_second_order(which):
    _, config, params, batch = classifier(3, num_hidden_layers=1, hidden_act="gelu")
    method = METHODS[which]
    flat = dict(tree.items(start(method, params, config)))
    names = [name for name in flat if name not in HEAD]

    def function(*leaves):
        return loss(tree.nest(dict(zip(names, leaves, strict=True))), params, config, batch, method.sockets)[1]

    check_grads(function, *(flat[name] for name in names))


# ------------------------------------------------------------------------------------------------ what is trained


def weightless(config):
    """A tree of the shapes of a model that takes no memory."""
    return tree.nest({name: np.broadcast_to(np.float32(0), shape) for name, shape in parameter_shapes(config).items()})


HAND_COUNTS = {  # of BERT-base, without the head
    "head": 0,
    "bitfit": 12 * (4 * 768 + 3072 + 768 + 2 * 768) + 768,  # and the bias of the embeddings' layer norm
    "houlsby-8": 313_536 + 36_864,  # Houlsby et al. 2019: 2 m d + d + m, twice a layer; and the layer norms
    "houlsby-64": 2_379_264 + 36_864,
    "lora": 12 * 2 * 8 * (768 + 768),
    "ia3": 12 * (768 + 768 + 3072),
    "prefix": 12 * 2 * 16 * 768,
    "gated-prefix": 12 * (2 * 16 * 768 + 1),
}


@pytest.mark.parametrize("which", HAND_COUNTS)
def test_so_many_numbers_of_bert_base_are_trained_as_a_hand_count_says(which):
    config = Config(family="bert", head="sequence_classification", num_labels=3)
    head = 768 * 768 + 768 + 3 * 768 + 3
    trained = technique.start(technique.METHODS[which], weightless(config), config, np.random.default_rng(0))
    assert technique.count(trained) == HAND_COUNTS[which] + head
    assert technique.count(weightless(config)) == 109_482_240 + 3 * 768 + 3


def test_adapters_are_the_share_of_bert_base_that_the_paper_reports():
    share = {size: HAND_COUNTS[f"houlsby-{size}"] / 109_482_240 for size in (8, 64)}
    assert share == pytest.approx({8: 0.0032, 64: 0.0221}, abs=1e-4)


@pytest.mark.parametrize("which", METHODS)
def test_the_frozen_tree_is_neither_changed_nor_copied(which):
    _, config, params, batch = classifier(6)
    before = tree.map(np.copy, params)
    trained = start(METHODS[which], params, config)
    whole = technique.overlay(params, trained)
    ours_of(METHODS[which], trained, params, config, batch)
    own, flat = dict(tree.items(trained)), dict(tree.items(whole))
    assert flat.keys() == params_names(params) | own.keys()
    for name, leaf in tree.items(params):
        assert np.array_equal(leaf, dict(tree.items(before))[name])
        assert flat[name] is (own[name] if name in own else leaf)
    began = technique.start(METHODS[which], params, config, np.random.default_rng(0))
    for name, leaf in tree.items(began):
        assert not any(np.shares_memory(leaf, other) for other in tree.leaves(params)), name


def params_names(params):
    return {name for name, _ in tree.items(params)}


# ------------------------------------------------------------------------------------------------- in training


@pytest.mark.parametrize("which", METHODS)
def test_float32_stays_and_dropout_repeats(which):
    _, config, params, batch = classifier(3)
    config = replace(config, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3)
    params = tree.map(lambda leaf: leaf.astype(np.float32), params)
    trained = technique.start(METHODS[which], params, config, np.random.default_rng(0))

    def dropped(trained, seed):
        rng = None if seed is None else np.random.default_rng(seed)
        whole = technique.overlay(params, trained)
        mask, sockets = batch["attention_mask"], METHODS[which].sockets
        hidden = encoder.encode(whole, config, batch["input_ids"], mask, rng=rng, sockets=sockets)
        return F.cross_entropy(heads.classification_logits(whole, config, hidden, rng), batch["labels"])

    value, gradients = value_and_grad(dropped)(trained, 1)
    assert value.dtype == np.float32 and {leaf.dtype for leaf in tree.leaves(gradients)} == {np.dtype(np.float32)}
    assert dropped(trained, 1) == pytest.approx(value, rel=1e-5)
    assert dropped(trained, 1) == dropped(trained, 1) != dropped(trained, 2)


@pytest.mark.parametrize("which", ["houlsby", "lora", "ia3", "prefix", "gated"])
def test_jax_compiles_it_to_the_same_numbers(which):
    jax = pytest.importorskip("jax")
    _, config, params, batch = classifier(3)
    params = tree.map(lambda leaf: leaf.astype(np.float32), params)
    trained, sockets = start(METHODS[which], params, config), METHODS[which].sockets

    def value(trained, params, batch):
        return loss(trained, params, config, batch, sockets)[0]

    expected, gradients = value_and_grad(value)(trained, params, batch)
    compiled, theirs = jax.jit(value_and_grad(value))(trained, params, batch)
    assert float(compiled) == pytest.approx(float(expected), rel=1e-4)
    assert_equal(dict(tree.items(gradients)), {name: np.asarray(g) for name, g in tree.items(theirs)}, tolerance=1e-4)


def test_what_cannot_be_meant_is_refused():
    _, config, params, _ = classifier(0)
    for method in (technique.houlsby(2), technique.prefix(2), technique.gated_prefix(2)):
        whole = technique.overlay(params, start(method, params, config))
        with pytest.raises(InputError, match="expected full, head, bitfit, lora or ia3"):
            technique.merge(method, whole, config)
    no_prefix = (lambda: technique.prefix(-1), lambda: technique.gated_prefix(0))
    for wrong in (lambda: technique.houlsby(0), lambda: technique.lora(0, 1), *no_prefix):
        with pytest.raises(InputError, match="expected 1 or more"):
            wrong()
    with pytest.raises(InputError, match="positions"):
        technique.start(technique.prefix(24), params, config, np.random.default_rng(0))
