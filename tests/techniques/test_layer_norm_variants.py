"""Norms and wirings against torch, transformers and the papers' formulas; what they do to gradients at the start."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st

import bertcraft as bc
from bertcraft import check_grads
from bertcraft.bert import Config, Sockets, encoder, families, heads
from bertcraft.errors import InputError
from bertcraft.techniques import layer_norm_variants as technique
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree, value_and_grad

sys.path.insert(0, str(Path(__file__).parents[1] / "bert"))
from transformers_models import equal_masked_lm, make

BOTH = [(wiring, norms) for wiring in technique.WIRINGS for norms in technique.NORMS]
SOME = [("post", "rms"), ("pre", "layer"), ("sandwich", "rms"), ("deep", "layer")]  # each of both
EPS = 1e-5
quick = settings(max_examples=8, deadline=None, derandomize=True)


def small(layers=2, heads=2, size=2, inner=5, **changes) -> Config:
    own = {"layer_norm_eps": EPS, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "vocab_size": 13}
    return Config(family="bert", hidden_size=heads * size, num_attention_heads=heads, num_hidden_layers=layers,
                  intermediate_size=inner, max_position_embeddings=12, **(own | changes))  # fmt: skip


def random_params(config: Config, wiring: str, norms: str, seed=0) -> dict:
    """Parameters of unit scale, none at its initial value."""
    rng = np.random.default_rng(seed)
    start = technique.initial_params(config, seed, wiring, norms, np.float64)
    return tree.map(lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape), start)


def batch_of(config: Config, seed=0, rows=3, length=7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = (np.arange(length) < rng.integers(3, length + 1, (rows, 1))).astype(np.int64)
    return rng.integers(1, config.vocab_size, (rows, length)) * mask, mask


def loss(params, config: Config, ids, mask, wiring: str, norms: str, rng=None):
    """A sum of cubes of the states that are no padding: every coordinate counts."""
    hidden = encoder.encode(params, config, ids, mask, rng=rng, sockets=technique.sockets(wiring, norms))
    return np.sum(hidden[np.nonzero(mask)] ** 3)


def equal(ours: dict, theirs: dict, tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        scale = max(1.0, float(np.abs(theirs[name]).max(initial=0)))
        np.testing.assert_allclose(ours[name], theirs[name], atol=tolerance * scale, err_msg=name)


# ------------------------------------------------------------------------------------------------------------- RMSNorm


@quick
@given(
    rows=st.lists(st.integers(1, 4), max_size=2), width=st.integers(1, 9), seed=st.integers(0, 99),
    eps=st.sampled_from([None, 1e-3, 1e-12]), scale=st.sampled_from([1e-4, 1, 1e3]), wide=st.booleans(),
)  # fmt: skip
def test_rms_norm_equals_torchs_module_and_its_default_eps(rows, width, seed, eps, scale, wide):
    rng, dtype = np.random.default_rng(seed), np.float64 if wide else np.float32
    x, weight, towards = (rng.standard_normal(shape).astype(dtype) for shape in ((*rows, width), (width,), (*rows, width)))
    x = x * dtype(scale)
    module = torch.nn.RMSNorm(width, eps, dtype=torch.float64 if wide else torch.float32)
    module.weight.data = torch.tensor(weight)
    tensor = torch.tensor(x, requires_grad=True)
    expected = module(tensor)
    (expected * torch.tensor(towards)).sum().backward()
    value, (dx, dw) = value_and_grad(lambda p: np.sum(F.rms_norm(*p, eps) * towards))((x, weight))
    tolerance = 1e-12 if wide else 1e-5
    np.testing.assert_allclose(F.rms_norm(x, weight, eps), expected.detach().numpy(), rtol=tolerance, atol=tolerance)
    for ours, theirs in ((dx, tensor.grad), (dw, module.weight.grad)):
        size = float(np.abs(theirs.numpy()).max(initial=1e-3))
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=tolerance, atol=50 * tolerance * size)
        assert ours.dtype == dtype


def test_rms_norm_is_a_layer_norm_without_its_mean():
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((4, 6)), rng.standard_normal(6)
    centred = x - x.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(F.rms_norm(centred, weight, EPS), F.layer_norm(x, weight, np.zeros(6), EPS), atol=1e-14)
    np.testing.assert_allclose(np.mean(F.rms_norm(x, np.ones(6)) ** 2, axis=1), 1, atol=1e-12)
    assert not F.rms_norm(np.zeros((2, 6)), weight).any()
    moved = F.rms_norm(x + 1, weight) - F.rms_norm(x, weight)
    assert np.abs(moved).max() > 0.1  # a layer norm would not see it
    check_grads(lambda *a: F.rms_norm(*a, EPS), x, weight)


# ---------------------------------------------------------------------------------------- against torch's encoder layers


def of_torch(layer, before: str | None) -> dict:
    """The tree of a torch.nn.TransformerEncoderLayer, its norms before or behind."""
    state = {name: value.detach().numpy().copy() for name, value in layer.named_parameters()}
    parts = zip(("query", "key", "value"), np.split(state["self_attn.in_proj_weight"], 3),
                np.split(state["self_attn.in_proj_bias"], 3), strict=True)  # fmt: skip
    maps = {to: {kind: state[f"{name}.{kind}"] for kind in ("weight", "bias")} for to, name in
            (("o", "self_attn.out_proj"), ("1", "linear1"), ("2", "linear2"), ("n1", "norm1"), ("n2", "norm2"))}  # fmt: skip
    found = {
        "attention": {"self": {n: {"weight": w, "bias": b} for n, w, b in parts}, "output": {"dense": maps["o"]}},
        "intermediate": {"dense": maps["1"]}, "output": {"dense": maps["2"]},
    }  # fmt: skip
    if before:
        found["attention"]["LayerNorm"], found["intermediate"]["LayerNorm"] = maps["n1"], maps["n2"]
    else:
        found["attention"]["output"]["LayerNorm"], found["output"]["LayerNorm"] = maps["n1"], maps["n2"]
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("before", [True, False], ids=["pre", "post"])
def test_a_stack_equals_torchs_encoder_with_norm_first_or_not(before, seed):
    rng, count = np.random.default_rng(seed), int(np.random.default_rng(seed).integers(1, 4))
    config = small(layers=count, heads=3, size=2, inner=7)
    torch.manual_seed(seed)
    one = torch.nn.TransformerEncoderLayer(6, 3, 7, 0.0, "gelu", EPS, batch_first=True, norm_first=before, dtype=torch.float64)
    stack = torch.nn.TransformerEncoder(one, count, torch.nn.LayerNorm(6, EPS, dtype=torch.float64), enable_nested_tensor=False)
    for parameter in stack.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    x, (_, mask) = rng.standard_normal((3, 7, 6)), batch_of(config, seed)
    given_x = torch.tensor(x, requires_grad=True)
    theirs = stack(given_x, src_key_padding_mask=torch.tensor(mask == 0))[torch.tensor(mask == 1)]
    (theirs**3).sum().backward()

    def run(trees, x):
        sockets = technique.sockets("pre" if before else "post")
        for layer in trees["layers"]:
            x = sockets.wiring(layer, x, x, F.padding_bias(mask, x.dtype), config, sockets)
        return technique.normed(trees["final"], x, config)[np.nonzero(mask)]

    trees = {"layers": [of_torch(layer, before) for layer in stack.layers],
             "final": {"weight": stack.norm.weight.detach().numpy(), "bias": stack.norm.bias.detach().numpy()}}  # fmt: skip
    np.testing.assert_allclose(run(trees, x), theirs.detach().numpy(), atol=1e-8)
    gradients, dx = bc.grad(lambda p: np.sum(run(*p) ** 3))((trees, x))
    np.testing.assert_allclose(dx, given_x.grad.numpy(), rtol=1e-8, atol=1e-8)
    for layer in stack.layers:
        for parameter in layer.parameters():
            parameter.data = parameter.grad
    for ours, layer in zip(gradients["layers"], stack.layers, strict=True):
        equal(dict(tree.items(ours)), dict(tree.items(of_torch(layer, before))), 1e-8)
    np.testing.assert_allclose(gradients["final"]["weight"], stack.norm.weight.grad.numpy(), rtol=1e-8)


def stated(params: dict, config: Config, ids, mask, wiring: str) -> torch.Tensor:
    """The table of the module's first lines in torch, of tensors in the tree of :func:`technique.initial_params`."""

    def layer_norm(p, x):
        if "bias" not in p:
            return TF.rms_norm(x, x.shape[-1:], p["weight"], EPS)
        return TF.layer_norm(x, x.shape[-1:], p["weight"], p["bias"], EPS)

    def linear(p, x):
        return TF.linear(x, p["weight"], p["bias"])

    def attention(p, x):
        q, k, v = (linear(p["self"][name], x).unflatten(-1, (config.num_attention_heads, -1)).transpose(1, 2)
                   for name in ("query", "key", "value"))  # fmt: skip
        blocked = torch.tensor(mask == 1)[:, None, None]
        found = TF.scaled_dot_product_attention(q, k, v, blocked)
        return linear(p["output"]["dense"], found.transpose(1, 2).flatten(2))

    body = params["bert"]
    tables = body["embeddings"]
    x = tables["word_embeddings"]["weight"][torch.tensor(ids)] + tables["position_embeddings"]["weight"][: ids.shape[1]]
    x = layer_norm(tables["LayerNorm"], x + tables["token_type_embeddings"]["weight"][0])
    for layer in body["encoder"]["layer"].values():
        halves = (
            (partial(attention, layer["attention"]), layer["attention"], layer["attention"]["output"]),
            (lambda x, p=layer: linear(p["output"]["dense"], TF.gelu(linear(p["intermediate"]["dense"], x))),
             layer["intermediate"], layer["output"]),
        )  # fmt: skip
        for half, before, behind in halves:
            match wiring:
                case "post":
                    x = layer_norm(behind["LayerNorm"], x + half(x))
                case "pre":
                    x = x + half(layer_norm(before["LayerNorm"], x))
                case "sandwich":
                    x = x + layer_norm(behind["LayerNorm"], half(layer_norm(before["LayerNorm"], x)))
                case "deep":
                    x = layer_norm(behind["LayerNorm"], (2 * config.num_hidden_layers) ** 0.25 * x + half(x))
    return layer_norm(body["LayerNorm"], x) if wiring in ("pre", "sandwich") else x


@pytest.mark.parametrize(("wiring", "norms"), BOTH)
@quick
@given(
    layers=st.integers(1, 3), heads=st.integers(1, 3), size=st.integers(1, 3), inner=st.integers(1, 6), seed=st.integers(0, 99)
)
def test_every_wiring_and_norm_equals_its_statement_in_torch(wiring, norms, layers, heads, size, inner, seed):
    config = small(layers, heads, size + 1, inner, hidden_act="gelu")
    params, (ids, mask) = random_params(config, wiring, norms, seed), batch_of(config, seed)
    tensors = tree.map(lambda leaf: torch.tensor(leaf, requires_grad=True), params)
    expected = (stated(tensors, config, ids, mask, wiring)[torch.tensor(mask == 1)] ** 3).sum()
    expected.backward()
    value, gradients = value_and_grad(loss)(params, config, ids, mask, wiring, norms)
    assert float(value) == pytest.approx(expected.item(), rel=1e-8, abs=1e-8)
    theirs = tree.map(lambda t: np.zeros(t.shape) if t.grad is None else t.grad.numpy(), tensors)
    words = theirs["bert"]["embeddings"]["word_embeddings"]["weight"]
    words[config.pad_token_id] = 0
    equal(dict(tree.items(gradients)), dict(tree.items(theirs)), 1e-8)


# -------------------------------------------------------------------------------------------- as the encoder's other parts


@pytest.mark.parametrize(("wiring", "norms"), SOME)
def test_derivatives_are_those_of_differences_to_second_order(wiring, norms):
    config = small(layers=1, heads=1, size=3, inner=4)
    params, (ids, mask) = random_params(config, wiring, norms), batch_of(config, rows=2, length=4)
    names, leaves = zip(*tree.items(params), strict=True)
    check_grads(lambda *given: loss(tree.nest(dict(zip(names, given, strict=True))), config, ids, mask, wiring, norms), *leaves)


@pytest.mark.parametrize(("wiring", "norms"), SOME)
def test_the_same_function_under_jit(wiring, norms):
    jax = pytest.importorskip("jax")
    config = small()
    params, (ids, mask) = random_params(config, wiring, norms), batch_of(config)
    value, gradients = value_and_grad(loss)(params, config, ids, mask, wiring, norms)
    with jax.enable_x64(True):

        def whole(p, weights):  # under jit a mask is no list of positions
            hidden = encoder.encode(p, config, ids, mask, sockets=technique.sockets(wiring, norms))
            return np.sum(hidden**3 * weights[..., None])

        theirs, traced = jax.jit(value_and_grad(whole))(params, mask.astype(np.float64))
    assert float(theirs) == pytest.approx(float(value), rel=1e-10)
    equal(dict(tree.items(gradients)), {name: np.asarray(leaf) for name, leaf in tree.items(traced)}, 1e-9)


@pytest.mark.parametrize(("wiring", "norms"), BOTH)
def test_at_some_positions_it_is_the_whole(wiring, norms):
    """The last layer's queries are then others than its keys: both are normalised."""
    config = small(layers=2)
    params, (ids, mask), at = random_params(config, wiring, norms), batch_of(config), np.array([[0, 2], [1, 1], [2, 0]])
    sockets = technique.sockets(wiring, norms)
    whole = encoder.encode(params, config, ids, mask, sockets=sockets)
    some = encoder.encode(params, config, ids, mask, sockets=sockets, at=at)
    np.testing.assert_allclose(some, np.take_along_axis(whole, at[..., None], axis=1), atol=1e-12)


@pytest.mark.parametrize(("wiring", "norms"), BOTH)
def test_dropout_falls_on_what_a_half_adds(wiring, norms):
    """With halves that add nothing, dropout has nothing to drop; with those of weights it has."""
    config = small(hidden_dropout_prob=0.5)
    params = random_params(config, wiring, norms)
    x, layer = np.random.default_rng(1).standard_normal((2, 5, 4)), families.layers(params, config)[0]
    silent = technique.sockets(wiring, norms)
    nothing = Sockets(lambda layer, x, *rest: 0 * x, lambda layer, x, config: 0 * x, silent.norm, silent.wiring)
    rng = np.random.default_rng
    np.testing.assert_array_equal(
        silent.wiring(layer, x, x, None, config, nothing), silent.wiring(layer, x, x, None, config, nothing, rng(0))
    )
    dropped = [silent.wiring(layer, x, x, None, config, silent, rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert np.abs(dropped[0] - dropped[2]).max() > 0.1


def test_the_plain_model_is_post_layer_norm():
    config = small()
    params, (ids, mask) = random_params(config, "post", "layer"), batch_of(config)
    np.testing.assert_array_equal(
        encoder.encode(params, config, ids, mask), encoder.encode(params, config, ids, mask, sockets=technique.sockets("post"))
    )
    for name, leaf in tree.items(technique.initial_params(config, 3)):
        np.testing.assert_array_equal(leaf, dict(tree.items(bc.bert.initial_params(config, 3)))[name])


# -------------------------------------------------------------------------------------------------- transformers' pre-LN


def test_the_tree_of_pre_layer_norm_is_that_of_roberta_prelayernorm():
    ours = {name.removeprefix("bert."): leaf for name, leaf in tree.items(technique.initial_params(small(), 0, "pre"))}
    other = Config(family="roberta_prelayernorm", vocab_size=13, hidden_size=4, num_attention_heads=2, num_hidden_layers=2,
                   intermediate_size=5, max_position_embeddings=12, pad_token_id=0)  # fmt: skip
    theirs = {n.removeprefix("roberta_prelayernorm."): leaf for n, leaf in tree.items(bc.bert.initial_params(other, 0))}
    assert {n: leaf.shape for n, leaf in ours.items()} == {n: leaf.shape for n, leaf in theirs.items()}


def test_texts_go_through_a_folder_of_transformers_and_back(tmp_path):
    """Padded texts; forward and gradients of every head are in tests/bert/test_families.py."""
    import transformers

    words = {f"Ġ{word}": 30 + i for i, word in enumerate("the cat sat here".split())}
    letters = {letter: 4 + i for i, letter in enumerate("Ġthecasrd.,kmnopgilu")}
    special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 40}
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("c", "a"), ("ca", "t"), ("Ġ", "cat")]
    vocabulary = special | letters | words | {"th": 34, "the": 35, "ca": 36, "cat": 37}
    sizes = {"vocab_size": 60, "pad_token_id": 1, "max_position_embeddings": 40}
    network = make("roberta-prelayernorm", "masked_lm", 6, torch.float32, **sizes)
    network.save_pretrained(tmp_path / "theirs")
    transformers.RobertaTokenizer(vocab=vocabulary, merges=merges).save_pretrained(tmp_path / "theirs")
    texts = [" the cat", "the cat, the <mask>.", "cat " * 20, "here"]
    model, tokenizer = equal_masked_lm(tmp_path / "theirs", texts)
    assert model.config.family == "roberta_prelayernorm" and len(model.fill(" the <mask>")[0]) == 5
    model.save(tmp_path / "ours")
    again = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "ours")
    assert type(again).__name__ == "RobertaPreLayerNormForMaskedLM"
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    equal_masked_lm(tmp_path / "ours", texts)


def test_its_layers_and_those_of_a_bert_do_not_pass_for_each_other():
    config = Config(family="roberta_prelayernorm", vocab_size=60, hidden_size=4, num_attention_heads=2, num_hidden_layers=1,
                    intermediate_size=5, max_position_embeddings=23)  # fmt: skip
    layer = families.layers(bc.bert.initial_params(config, 0), config)[0]
    x = np.zeros((1, 2, 4), np.float32)
    with pytest.raises(KeyError, match="LayerNorm"):
        encoder.post_layer_norm(layer, x, x, None, config, encoder.BERT)


# ----------------------------------------------------------------------------------------------------- at the start


def of_the_theory(layers: int, hidden: int, wiring: str, seed: int) -> tuple[Config, dict]:
    """The setting of Xiong et al., section 3.3: even attention, values by one matrix, ReLU, matrices H x H of variance 1/H."""
    config = Config(family="bert", vocab_size=64, hidden_size=hidden, num_attention_heads=1, num_hidden_layers=layers,
                    intermediate_size=hidden, max_position_embeddings=16, hidden_act="relu", head="masked_lm")  # fmt: skip
    params = technique.initial_params(config, seed, wiring, dtype=np.float64)
    for layer in families.layers(params, config):
        own = layer["attention"]
        own["self"]["query"]["weight"][:] = own["self"]["key"]["weight"][:] = 0
        own["output"]["dense"]["weight"][:] = np.eye(hidden)
    return config, params


def states_before_the_last_norms(params, config, ids) -> list[float]:
    """Mean squared length over H of what each layer's last norm reads, in post-LN."""
    read = []

    def norm(p, x, added, config, rng=None):
        read.append(float(np.mean(np.sum(np.square(x + added), axis=-1))) / config.hidden_size)
        return encoder.norm(p, x, added, config, rng)

    encoder.encode(params, config, ids, sockets=Sockets(norm=norm))
    return read[1::2]


def test_states_have_the_sizes_of_lemma_2():
    ids = np.random.default_rng(0).integers(1, 64, (8, 16))
    grown, read = [], []
    for seed in range(3):
        config, params = of_the_theory(8, 128, "pre", seed)
        grown.append(technique.state_sizes(params, config, ids, technique.sockets("pre")))
        config, params = of_the_theory(8, 128, "post", seed)
        read.append(states_before_the_last_norms(params, config, ids))
        np.testing.assert_allclose(technique.state_sizes(params, config, ids, encoder.BERT), 1, atol=1e-9)
    assert np.mean(read) == pytest.approx(1.5, abs=0.1) and np.shape(read) == (3, 8)
    depth, mean = np.arange(1, 9), np.mean(grown, axis=0)
    assert np.all((1 + depth / 2) * 0.9 < mean) and np.all(mean < (1 + 3 * depth / 2) * 1.1)


def test_a_norms_derivative_falls_with_the_length_of_what_it_reads():
    """Lemma 3: the largest stretch of LN at x is sqrt(H) / |x|, within a factor."""
    x = np.random.default_rng(0).standard_normal(32)
    one = np.ones(32)
    for length in (0.5, 2.0, 8.0):
        given_x = torch.tensor(x * length)
        theirs = torch.autograd.functional.jacobian(lambda y: TF.layer_norm(y, (32,), eps=1e-12), given_x)
        rows = [bc.grad(lambda y, i=i: F.layer_norm(y, one, 0 * one)[i])(x * length) for i in range(32)]
        np.testing.assert_allclose(np.array(rows), theirs.numpy(), atol=1e-10)
        stretch = np.linalg.norm(np.array(rows), 2)
        assert stretch == pytest.approx(np.sqrt(32) / np.linalg.norm(length * (x - x.mean())), rel=1e-6)


def first_loss(params, batch, config, wiring):
    hidden = encoder.encode(params, config, batch["input_ids"], sockets=technique.sockets(wiring))
    return heads.masked_lm_loss(params, config, hidden, batch["labels"])


def masked_batches(count: int, vocabulary=64) -> list[dict]:
    rng = np.random.default_rng(7)
    return [{"input_ids": rng.integers(1, vocabulary, (4, 12)), "labels": rng.integers(1, vocabulary, (4, 12))}
            for _ in range(count)]  # fmt: skip


def test_gradient_norms_are_of_the_mean_gradient():
    config = small(layers=3, head="masked_lm")
    params, batches = technique.initial_params(config, 0, "pre", dtype=np.float64), masked_batches(3, 13)
    found = technique.gradient_norms(partial(first_loss, config=config, wiring="pre"), params, iter(batches), config)
    together = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}  # equal sizes: one mean
    gradients = bc.grad(first_loss)(params, together, config, "pre")
    for number, layer in enumerate(families.layers(gradients, config)):
        expected = [np.linalg.norm(layer[part]["dense"]["weight"]) for part in ("intermediate", "output")]
        np.testing.assert_allclose(found[number], expected, rtol=1e-10)


def test_the_last_gradient_falls_with_depth_in_pre_and_not_in_post_layer_norm():
    """Theorem 1: as 1 / sqrt(layers), a half from 4 to 16, or not at all."""
    batches, last = masked_batches(2), {}
    for wiring in ("post", "pre"):
        for layers in (4, 16):
            found = [
                technique.gradient_norms(partial(first_loss, config=config, wiring=wiring), params, batches, config)[-1, 1]
                for config, params in (of_the_theory(layers, 64, wiring, seed) for seed in range(3))
            ]
            last[wiring, layers] = np.mean(found)
    assert last["pre", 16] / last["pre", 4] == pytest.approx(0.5, rel=0.25)
    assert last["post", 16] > 0.8 * last["post", 4] and last["post", 16] > 3 * last["pre", 16]


# --------------------------------------------------------------------------------------------------------- figures, errors


def test_numbers_in_the_norms():
    base = Config(family="bert")
    assert technique.norm_parameters(base) == 25 * 2 * 768 == 38_400
    assert technique.norm_parameters(base, norms="rms") == 38_400 - 24 * 768
    for wiring, norms in BOTH:
        config = small(layers=3)
        params = technique.initial_params(config, 0, wiring, norms)
        counted = sum(leaf.size for name, leaf in tree.items(params) if "LayerNorm" in name)
        assert counted == technique.norm_parameters(config, wiring, norms)


def test_deep_norm_has_the_constants_of_its_paper():
    assert technique.deep_norm_constants(12) == pytest.approx((24**0.25, 96**-0.25))
    config = small(layers=12)
    plain, deep = (dict(tree.items(technique.initial_params(config, 0, wiring))) for wiring in ("post", "deep"))
    assert plain.keys() == deep.keys()
    for name, leaf in deep.items():
        smaller = name.endswith("dense.weight") and "encoder" in name or name.endswith("value.weight")
        np.testing.assert_allclose(leaf, plain[name] * (96**-0.25 if smaller else 1), rtol=1e-6, err_msg=name)


def test_the_same_seed_gives_the_same_weights_whatever_the_norms():
    config = small()
    plain = dict(tree.items(technique.initial_params(config, 4)))
    for wiring, norms in BOTH[:-2]:
        for name, leaf in tree.items(technique.initial_params(config, 4, wiring, norms)):
            assert leaf.dtype == np.float32
            if "LayerNorm" not in name:
                np.testing.assert_array_equal(leaf, plain[name])


def test_a_deviation_of_the_start_is_that_of_the_weights():
    plain, half = (dict(tree.items(technique.initial_params(small(), 4, "pre", deviation=d))) for d in (0.5, 0.25))
    for name, leaf in plain.items():
        drawn = name.endswith("weight") and "LayerNorm" not in name
        np.testing.assert_allclose(half[name], leaf * (0.5 if drawn else 1), rtol=1e-6, err_msg=name)


def test_unknown_names_and_families_are_refused():
    with pytest.raises(InputError, match="wiring 'first'.*post, pre, sandwich, deep"):
        technique.sockets("first")
    with pytest.raises(InputError, match="norms 'batch'.*layer, rms"):
        technique.initial_params(small(), 0, "pre", "batch")
    with pytest.raises(InputError, match="family 'roberta', expected bert"):
        technique.initial_params(Config(family="roberta"), 0)
