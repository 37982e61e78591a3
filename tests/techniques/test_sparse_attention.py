"""Sparse attention against transformers' Longformer and BigBird, against naive masked attention, and what it costs."""

import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transformers import BigBirdConfig, LongformerConfig
from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention, BigBirdModel
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

from bertcraft import check_grads
from bertcraft.bert import Config, encoder, initial_params
from bertcraft.errors import InputError
from bertcraft.techniques import sparse_attention as technique
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree, value_and_grad, workspace

sys.path.insert(0, str(Path(__file__).parents[1] / "bert"))
from transformers_models import inputs, make, ours


def random_weights(module, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.5 if parameter.ndim > 1 else 0.1))
    return module.double()


def params_of(module):
    return tree.nest({name: p.detach().numpy().copy() for name, p in module.named_parameters()})


def assert_equal(ours, theirs, tolerance=1e-8):
    ours, theirs = dict(tree.items(ours)), dict(tree.items(theirs))
    assert ours.keys() == theirs.keys()
    for name in ours:
        scale = max(1.0, np.abs(theirs[name]).max(initial=0))
        assert np.abs(ours[name] - theirs[name]).max(initial=0) < tolerance * scale, name


def gradients_of(module, x):
    gradients = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in module.named_parameters()}
    return {"x": x.grad.numpy(), **tree.nest({name: g.numpy() for name, g in gradients.items()})}


def naive(query, key, value, visible, mask, heads):
    """Dense attention in which ``visible`` (heads or 1, L, L) says who sees whom; zero at padding and where nothing is seen."""
    q, k, v = (F.split_heads(x, heads) for x in (query, key, value))
    visible = np.broadcast_to(visible & mask[:, None, None, :], (len(query), heads, *visible.shape[-2:]))
    scores = np.where(visible, q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]), -np.inf)
    scores[~visible.any(axis=-1)] = 0
    return np.where(mask[..., None], F.merge_heads(F.softmax(scores) @ v), 0)


def draw(batch, length, hidden, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((batch, length, hidden)).astype(dtype) for _ in range(3)]


def within(length, window, dilation=1):
    distance = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    return (distance <= window * dilation) & (distance % dilation == 0)


# --------------------------------------------------------------------------------------------------- Longformer

MASKS = {"whole": [24, 24], "padded": [24, 13], "one token": [1, 24]}
GLOBALS = {
    "none": None, "first": [[0], [0]], "scattered": [[0, 7, 11], [20, 3, 12]], "unequal": [[0, -1, -1], [2, 0, 9]],
    "one text has none": [[-1, -1], [4, 5]],
}  # fmt: skip


@pytest.mark.parametrize("window", [2, 3, 4, 12])
@pytest.mark.parametrize("global_at", GLOBALS)
@pytest.mark.parametrize("lengths", MASKS)
def test_longformer_equals_transformers_forward_and_every_gradient(window, global_at, lengths, monkeypatch):
    softmax = torch.nn.functional.softmax  # theirs rounds the probabilities of doubles to float32: not here, to see 1e-8
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim=dim))
    config = LongformerConfig(hidden_size=12, num_attention_heads=3, attention_window=[2 * window], num_hidden_layers=1)
    theirs = random_weights(LongformerSelfAttention(config, 0), seed=window).eval()
    mask = np.arange(24) < np.array(MASKS[lengths])[:, None]
    at = GLOBALS[global_at] and np.where(np.take_along_axis(mask, np.array(GLOBALS[global_at]), 1), GLOBALS[global_at], -1)
    convention = np.where(mask, 0.0, -10000.0)
    for row, places in enumerate([] if at is None else at):
        convention[row, places[places >= 0]] = 10000.0
    values, weights, _ = draw(2, 24, 12)
    x, convention = torch.tensor(values, requires_grad=True), torch.tensor(convention)
    out = theirs(
        x, attention_mask=convention, is_index_masked=convention < 0, is_index_global_attn=convention > 0,
        is_global_attn=bool((convention > 0).any()),
    )[0]  # fmt: skip
    (out * torch.tensor(weights)).sum().backward()

    def loss(params):
        context = technique.longformer_attention(params, params["x"], mask, window, global_at=at, heads=3)
        return np.sum(context * weights), context

    (_, context), gradients = value_and_grad(loss, has_aux=True)({"x": values, **params_of(theirs)})
    assert_equal({"context": context}, {"context": out.detach().numpy()})
    assert_equal(gradients, gradients_of(theirs, x))
    assert not context[~mask].any(), "padding gets zero"


# ------------------------------------------------------------------------------------------------------- BigBird


@pytest.mark.parametrize("length", [24, 28, 60, 1024])
@pytest.mark.parametrize("padding", [0, 5])
def test_bigbird_equals_transformers_forward_and_every_gradient(length, padding):
    block, heads = (4 if length < 1024 else 64), 3
    config = BigBirdConfig(
        hidden_size=12, num_attention_heads=heads, block_size=block, num_random_blocks=2, max_position_embeddings=1024
    )
    theirs = random_weights(BigBirdBlockSparseAttention(config, seed=3), seed=length).train()  # it is random in training only
    mask = np.arange(length) < np.array([[length], [length - padding]])
    values, weights, _ = draw(2, length, 12)
    x = torch.tensor(values, requires_grad=True)
    blocked, band, from_mask, to_mask = BigBirdModel.create_masks_for_block_sparse_attn(torch.tensor(mask, dtype=x.dtype), block)
    out, probabilities = theirs(x, band, from_mask, to_mask, blocked, blocked)
    (out * torch.tensor(weights)).sum().backward()
    random = blocks_drawn_by(theirs, length, block, heads)

    def loss(params):
        query, key, value = (encoder.dense(params[name], params["x"]) for name in ("query", "key", "value"))
        context = technique.bigbird_attention(query, key, value, mask, block, random, heads=heads)
        return np.sum(context * weights), context

    (_, context), gradients = value_and_grad(loss, has_aux=True)({"x": values, **params_of(theirs)})
    assert_equal({"context": context}, {"context": out.detach().numpy()})
    assert_equal(gradients, gradients_of(theirs, x))
    assert probabilities.shape[-2:] == (length, length), "transformers' sparse attention itself fills an L x L array"


def blocks_drawn_by(module, length, block, heads):
    np.random.seed(module.seed)  # noqa: NPY002  what it draws from
    if length in (1024, 3072, 4096):
        last = {"last_idx": 1024}
        drawn = [
            module._bigbird_block_rand_mask(module.max_seqlen, module.max_seqlen, block, block, 2, **last) for _ in range(heads)
        ]
        return np.stack(drawn)[:, : length // block - 2]
    plan = module._get_rand_attn_plan(length, block, 2)
    return np.stack(module._bigbird_block_rand_mask_with_head(length, length, block, block, heads, *plan))


def bigbird_pattern(blocks, block, random):
    visible = np.zeros((len(random), blocks, blocks), bool)
    visible[:, [0, -1]] = visible[:, :, [0, -1]] = True
    visible |= within(blocks, 1)
    for head, i, j in zip(*np.nonzero(random >= 0), strict=True):
        visible[head, i + 1, random[head, i, j]] = True
    return np.kron(visible, np.ones((block, block), bool))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 4), st.integers(1, 3), st.data())
def test_bigbird_equals_naive_attention(length, block, number, heads, data):
    blocks = -(-length // block)
    random = technique.random_blocks(max(blocks, 2), number, heads, seed=length)
    mask = np.arange(length) < np.array([[data.draw(st.integers(1, length))] for _ in range(2)])
    query, key, value = draw(2, length, 4 * heads, seed=block)
    visible = bigbird_pattern(blocks, block, random)[:, :length, :length]
    if blocks == 1:
        visible = np.ones((heads, length, length), bool)
    got = technique.bigbird_attention(query, key, value, mask, block, random, heads=heads)
    np.testing.assert_allclose(got, naive(query, key, value, visible, mask, heads), atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 20), st.integers(0, 5), st.integers(1, 4), st.integers(0, 99))
def test_random_blocks_are_new_to_their_block_and_as_many_as_there_are(blocks, number, heads, seed):
    random = technique.random_blocks(blocks, number, heads, seed)
    assert random.shape == (heads, blocks - 2, number)
    for head in random:
        for i, row in enumerate(head, start=1):
            known, chosen = {0, blocks - 1, i - 1, i, i + 1}, row[row >= 0]
            assert len(set(chosen)) == len(chosen) == min(number, blocks - len(known)) and not known & set(chosen)
    assert np.array_equal(random, technique.random_blocks(blocks, number, heads, seed))


# ------------------------------------------------------------------------------------- windows of any length and step


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 90), st.integers(1, 100), st.lists(st.integers(1, 7), min_size=1, max_size=3), st.data())
def test_windows_equal_naive_attention(length, window, dilations, data):
    """Any length, dilations of each head, padding anywhere (all but one token of a text at worst), any global tokens."""
    heads = len(dilations)
    mask = np.array([data.draw(st.lists(st.booleans(), min_size=length, max_size=length)) for _ in range(2)])
    mask[[0, 1], [length - 1, 0]] = True
    place = st.integers(0, length - 1)
    at = np.full((2, 3), -1)
    for row in at:
        chosen = data.draw(st.lists(place, max_size=3, unique=True))
        row[: len(chosen)] = chosen
    given = np.where((at < 0) & data.draw(st.booleans()), length + 1, at)  # none is also a place behind the end, or on padding
    at = np.where(np.take_along_axis(mask, np.maximum(at, 0), axis=1), at, -1)
    is_global = np.zeros((2, length + 1), bool)
    is_global[[[0], [1]], at] = True
    given_mask = mask.astype(data.draw(st.sampled_from([bool, np.int32, np.int64, np.uint8])))
    x = draw(2, length, 4 * heads, seed=window)[0]
    rng = np.random.default_rng(length)
    size = 4 * heads
    names = ("query", "key", "value")
    p = {name: {"weight": rng.standard_normal((size, size)), "bias": rng.standard_normal(size)} for name in names}
    got = technique.longformer_attention(p, x, given_mask, window, global_at=given, dilations=dilations, heads=heads)
    parts = [encoder.dense(p[name], x) for name in names]
    for row in range(2):
        whole = is_global[row, :length]
        visible = np.stack([within(length, window, d) for d in dilations]) | whole | whole[:, None]
        expected = naive(*(part[row : row + 1] for part in parts), visible, mask[row : row + 1], heads)
        np.testing.assert_allclose(got[row : row + 1], expected, atol=1e-10)


def test_a_mask_of_integers_is_one_of_booleans():
    query, key, value = draw(2, 11, 4)
    mask, random = np.arange(11) < [[9], [5]], technique.random_blocks(6, 1, 2, 0)
    for number in (np.int32, np.int64, np.uint8):
        for attention in (
            lambda mask: technique.bigbird_attention(query, key, value, mask, 2, random, heads=2),
            lambda mask: technique.window_attention(query, key, value, mask, 1, heads=2),
        ):
            np.testing.assert_array_equal(attention(mask.astype(number)), attention(mask))


@pytest.mark.parametrize("which", ["window", "dilated", "global", "bigbird"])
def test_derivatives_to_second_order(which):
    query, key, value = draw(1, 11, 4)
    mask = np.arange(11)[None] < 9

    def function(query, key, value):
        if which == "bigbird":
            random = technique.random_blocks(6, 1, 2, 0)
            return technique.bigbird_attention(query, key, value, mask, 2, random, heads=2)
        if which == "global":
            p = {"query": {"weight": query[0, :4]}, "key": {"weight": key[0, :4]}, "value": {"weight": value[0, :4]}}
            return technique.longformer_attention(p, query, mask, 2, global_at=np.array([0, 5]), heads=2)
        dilation = 3 if which == "dilated" else 1
        return technique.window_attention(query, key, value, mask, 1, dilation=dilation, heads=2)

    check_grads(function, query, key, value)


# ------------------------------------------------------------------------------------------------- in the encoder

SOCKETS = {
    "window": technique.longformer(2), "global": technique.longformer(2, global_tokens=2),
    "dilated": technique.longformer(2, dilations=3), "bigbird": technique.bigbird(2, random=1),
}  # fmt: skip


@pytest.mark.parametrize("socket", SOCKETS)
def test_padding_changes_nothing_in_an_encoder(socket):
    config, params = ours(make("bert", "base", 3), "bert", "base")
    sockets = encoder.Sockets(attention=SOCKETS[socket])
    ids = np.random.default_rng(0).integers(3, config.vocab_size, (2, 9))
    alone = encoder.encode(params, config, ids, sockets=sockets)
    longer = np.concatenate([ids, np.zeros((2, 1), int)], axis=1)
    mask = np.broadcast_to(np.arange(10) < 9, (2, 10)).astype(int)
    np.testing.assert_allclose(encoder.encode(params, config, longer, mask, sockets=sockets)[:, :9], alone, atol=1e-12)


def test_a_window_as_long_as_the_text_is_bert_with_every_gradient():
    model = make("bert", "masked_lm", 5)
    config, params = ours(model, "bert", "masked_lm")
    batch = inputs(model, 0, padded=True)
    real = batch["attention_mask"][..., None]

    def loss(params, sockets):
        hidden = encoder.encode(params, config, batch["input_ids"], batch["attention_mask"], sockets=sockets)
        return np.sum(np.square(hidden) * real)

    dense = value_and_grad(loss)(params, encoder.BERT)
    for attention in (technique.longformer(11), technique.longformer(1, global_tokens=11), technique.bigbird(4)):
        value, gradients = value_and_grad(loss)(params, encoder.Sockets(attention=attention))
        assert value == pytest.approx(dense[0], abs=1e-9)
        assert_equal(gradients, dense[1])


@pytest.mark.parametrize("socket", SOCKETS)
def test_float32_stays_and_dropout_repeats(socket):
    config, params = ours(make("bert", "base", 3, attention_probs_dropout_prob=0.3), "bert", "base")
    params = tree.map(lambda leaf: leaf.astype(np.float32), params)
    ids = np.random.default_rng(0).integers(3, config.vocab_size, (2, 9))
    mask = (np.arange(9) < [[9], [5]]).astype(int)

    def loss(params, seed):
        rng = None if seed is None else np.random.default_rng(seed)
        hidden = encoder.encode(params, config, ids, mask, rng=rng, sockets=encoder.Sockets(attention=SOCKETS[socket]))
        return np.sum(hidden[:, :3] * hidden[:, 1:4])

    value, gradients = value_and_grad(loss)(params, 1)
    assert value.dtype == np.float32 and {leaf.dtype for leaf in tree.leaves(gradients)} == {np.dtype(np.float32)}
    assert value == loss(params, 1) != loss(params, 2)
    assert loss(params, None) == loss(params, None) != value


def test_random_blocks_are_drawn_evenly():
    random = technique.random_blocks(12, 2, 3000, seed=1)
    for i, row in ((1, random[:, 0]), (5, random[:, 4]), (10, random[:, 9])):
        free = sorted(set(range(12)) - {0, 11, i - 1, i, i + 1})
        assert stats.chisquare(np.bincount(row.ravel(), minlength=12)[free]).pvalue > 1e-3


def test_bigbird_sees_other_blocks_with_another_seed():
    config, params = ours(make("bert", "base", 3), "bert", "base")
    ids = np.random.default_rng(0).integers(3, config.vocab_size, (1, 23))
    seeds = [encoder.Sockets(attention=technique.bigbird(2, random=1, seed=seed)) for seed in (0, 0, 1)]
    first, again, other = (encoder.encode(params, config, ids, sockets=sockets) for sockets in seeds)
    assert np.array_equal(first, again) and not np.allclose(first, other)


def test_jax_compiles_it_to_the_same_numbers():
    jax = pytest.importorskip("jax")
    values, weights, _ = draw(2, 13, 8, dtype=np.float32)
    mask = np.arange(13) < [[13], [6]]
    rng = np.random.default_rng(0)
    params = {name: {"weight": rng.standard_normal((8, 8)).astype(np.float32)} for name in ("query", "key", "value")}

    def loss(params, x, mask):
        wide = technique.longformer_attention(params, x, mask, 2, global_at=np.array([0, 4]), dilations=2, heads=2)
        random = technique.random_blocks(5, 1, 2, 0)
        return np.sum((wide + technique.bigbird_attention(x, x, x, mask, 3, random, heads=2)) * weights)

    value, gradients = value_and_grad(loss)(params, values, mask)
    compiled, theirs = jax.jit(value_and_grad(loss))(params, values, mask)
    assert float(compiled) == pytest.approx(float(value), rel=1e-4)
    assert_equal(gradients, tree.map(np.asarray, theirs), tolerance=1e-5)


def test_what_cannot_be_meant_is_refused():
    config, params = ours(make("bert", "base", 3), "bert", "base")
    ids = np.full((2, 9), 4)
    with pytest.raises(InputError, match="without at="):
        encoder.encode(params, config, ids, at=np.zeros((2, 1), int), sockets=encoder.Sockets(attention=SOCKETS["window"]))
    for wrong in ({"window": 0}, {"window": 2, "dilations": (1, 2, 3, 4, 5)}, {"window": 2, "dilations": 0}):
        with pytest.raises(InputError, match="expected a window"):
            encoder.encode(params, config, ids, sockets=encoder.Sockets(attention=technique.longformer(**wrong)))
    with pytest.raises(InputError, match="expected blocks"):
        technique.bigbird(0)


@pytest.mark.parametrize("family", ["mpnet", "deberta"])
@pytest.mark.parametrize("pattern", ["window", "bigbird"])
def test_relative_positions_are_refused_and_not_left_out(family, pattern):
    config = Config(
        family=family, vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=20, **({"relative_attention": True, "pos_att_type": ("c2p",)} if family == "deberta" else {}),
    )  # fmt: skip
    with pytest.raises(InputError, match="relative positions"):
        encoder.encode(
            initial_params(config, 0), config, np.full((2, 9), 4), sockets=encoder.Sockets(attention=SOCKETS[pattern])
        )


# -------------------------------------------------------------------------------------------------- what it costs

PATTERNS = {
    "window": lambda p, x, n: technique.longformer_attention(p, x, None, 32),
    "global": lambda p, x, n: technique.longformer_attention(p, x, None, 32, global_at=np.arange(4)),
    "dilated": lambda p, x, n: technique.longformer_attention(p, x, None, 32, dilations=4),
    "bigbird": lambda p, x, n: technique.bigbird_attention(x, x, x, None, 8, technique.random_blocks(n // 8, 2, 1, 0)),
}


def peak(function, *args):
    workspace.release()  # memory kept from before would be used again and not be seen
    tracemalloc.start()
    function(*args)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("pattern", PATTERNS)
def test_memory_grows_with_the_length_and_no_array_has_its_square(pattern):
    eye = {name: {"weight": np.eye(8, dtype=np.float32)} for name in ("query", "key", "value")}

    def forward_and_backward(length):
        x = draw(1, length, 8, dtype=np.float32)[0]
        value_and_grad(lambda x: np.sum(np.square(PATTERNS[pattern](eye, x, length))))(x)

    half, whole = peak(forward_and_backward, 4096), peak(forward_and_backward, 8192)
    assert whole < 2.3 * half
    assert whole < 8192 * 8192, "not even booleans of L x L"


def test_drawing_random_blocks_takes_memory_in_proportion_too():
    assert peak(technique.random_blocks, 4096, 3, 2, 0) < 2.3 * peak(technique.random_blocks, 2048, 3, 2, 0)
