"""Disentangled attention against its equation, against transformers' DeBERTa of both versions, and what it costs."""

import math
import sys
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.deberta_v2 import modeling_deberta_v2

from bertcraft import check_grads
from bertcraft.bert import Config, Model, encoder
from bertcraft.bert.layout import parameter_shapes
from bertcraft.errors import InputError
from bertcraft.lab import flops
from bertcraft.techniques import deberta_disentangled_attention as technique
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree, value_and_grad, workspace

sys.path.insert(0, str(Path(__file__).parents[1] / "bert"))
from transformers_models import inputs, make, named, ours

VERSIONS = ("deberta", "deberta-v2")
AS_PRINTED = encoder.Sockets(attention=partial(technique.attention, to_content=technique.position_to_content_as_printed))


def draw(*shapes, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def largest(ours, theirs):
    """The largest difference of two trees, relative to the largest number of each array where that is above 1."""
    ours, theirs = dict(tree.items(ours)), dict(tree.items(theirs))
    assert ours.keys() == theirs.keys()
    return max(np.abs(ours[n] - theirs[n]).max(initial=0) / max(1.0, np.abs(theirs[n]).max(initial=0)) for n in ours)


# ------------------------------------------------------------------------------------------------------ the equations


def naive_row(distance, reach):
    """Equation 3, word by word."""
    if distance <= -reach:
        return 0
    return 2 * reach - 1 if distance >= reach else distance + reach


def naive_scores(query, key, key_rows, query_rows, reach, heads, printed=False):
    """Equation 4 without its first term, score by score, over sqrt(3 D): (B, heads, L, L)."""
    q, k = F.split_heads(query, heads), F.split_heads(key, heads)
    kr, qr = F.split_heads(key_rows[None], heads)[0], F.split_heads(query_rows[None], heads)[0]
    batch, _, length, size = q.shape
    scores = np.empty((batch, heads, length, length))
    for b, h, i, j in np.ndindex(*scores.shape):
        there, back = naive_row(i - j, reach), naive_row(j - i, reach)
        scores[b, h, i, j] = q[b, h, i] @ kr[h, there] + k[b, h, j] @ qr[h, back if printed else there]
    return scores / math.sqrt(3 * size)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 3), st.integers(1, 4), st.booleans(), st.data())
def test_scores_are_those_of_the_equation(length, reach, heads, size, printed, data):
    query, key, kr, qr = draw(*[(2, length, heads * size)] * 2, *[(2 * reach, heads * size)] * 2, seed=reach)
    rows = technique.table_rows(length, reach)
    which = technique.position_to_content_as_printed if printed else technique.position_to_content
    got = technique.position_scores(query, key, kr[rows], qr[rows], heads=heads, to_content=which)
    expected = naive_scores(query, key, kr, qr, reach, heads, printed)
    np.testing.assert_allclose(got, expected, atol=1e-12)
    at = np.array(data.draw(st.lists(st.lists(st.integers(0, length - 1), min_size=3, max_size=3), min_size=2, max_size=2)))
    some = technique.position_scores(
        encoder.take_positions(query, at), key, kr[rows], qr[rows], heads=heads, at=at, to_content=which
    )
    for row in range(2):
        np.testing.assert_allclose(some[row], expected[row][:, at[row]], atol=1e-12)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(0, 3))
def test_shifted_rows_are_read_off_by_the_difference_of_their_places(length, leading):
    x = draw((2,) * leading + (length, 2 * length - 1))[0]
    got = technique.shifted(x)
    assert got.shape == (*x.shape[:-1], length)
    for r, s in np.ndindex(length, length):
        np.testing.assert_array_equal(got[..., r, s], x[..., r, length - 1 + s - r])


def test_rows_of_the_table_by_hand():
    assert technique.table_rows(4, 2).tolist() == [0, 0, 1, 2, 3, 3, 3]  # distances -3 ... 3
    assert technique.table_rows(3, 9, buckets=4).tolist() == [2, 3, 4, 5, 6]


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 300), st.integers(3, 600), st.integers(1, 700))
def test_log_buckets_are_those_of_transformers(buckets, longest, length):
    middle = buckets // 2
    longest += middle
    distance = np.arange(-length, length + 1)
    got = technique.log_bucket(distance, buckets, longest)
    theirs = modeling_deberta_v2.make_log_bucket_position(torch.tensor(distance), buckets, longest).long().numpy()
    # theirs takes the logarithm in float32: where the exact value is close to an integer it may fall to either side
    exact = np.log(np.maximum(np.abs(distance), middle) / middle) / np.log((longest - 1) / middle) * (middle - 1)
    clear = np.abs(exact - np.round(exact)) > 1e-4 * np.maximum(exact, 1)
    np.testing.assert_array_equal(got[clear], theirs[clear])
    assert np.array_equal(got, -got[::-1]) and (np.diff(got) >= 0).all(), "odd, and in order"
    assert (got[np.abs(distance) <= middle] == distance[np.abs(distance) <= middle]).all()


def test_log_buckets_of_the_released_models_are_exactly_those_of_transformers():
    distance = np.arange(-5000, 5001)  # of v2 and v3: 256 buckets, 512 positions
    theirs = modeling_deberta_v2.make_log_bucket_position(torch.tensor(distance), 256, 512).long().numpy()
    np.testing.assert_array_equal(technique.log_bucket(distance, 256, 512), theirs)
    assert technique.log_bucket(np.array([127, 128, 129, 511, 512]), 256, 512).tolist() == [127, 128, 129, 255, 256]


def test_derivatives_to_second_order():
    query, key, pos_key, pos_query = draw((1, 4, 4), (1, 4, 4), (7, 4), (7, 4))
    check_grads(partial(technique.position_scores, heads=2), query, key, pos_key, pos_query)
    at = np.array([[2, 0]])

    def attend(query, key, pos_key, pos_query):
        more = technique.position_scores(query[:, :2], key, pos_key, pos_query, heads=2, at=at)
        return F.attention(query[:, :2], key, key, more, heads=2)

    check_grads(attend, query, key, pos_key, pos_query)


# ------------------------------------------------------------------------------------------------------- transformers


def both(version, seed, **changes):
    """A random model of transformers with its inputs, and the same of ours."""
    network = make(version, "base", seed, **changes)
    arrays = inputs(network, seed, padded=True)
    return network, arrays, *ours(network, version, "base")


def their_states_and_gradients(network, arrays, weights, version):
    out = network(**{name: torch.tensor(array) for name, array in arrays.items()}).last_hidden_state
    (out * torch.tensor(weights)).sum().backward()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in network.named_parameters()}
    return out.detach().numpy(), {n: g.numpy() for n, g in named(network, gradients, version, "base").items()}


def states_and_gradients(params, config, arrays, weights, sockets=encoder.BERT):
    def loss(params):
        given = (arrays.get(name) for name in ("input_ids", "attention_mask", "token_type_ids"))
        hidden = encoder.encode(params, config, *given, sockets=sockets)
        return np.sum(hidden * weights), hidden

    (_, hidden), gradients = value_and_grad(loss, has_aux=True)(params)
    return hidden, dict(tree.items(gradients))


RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("version", VERSIONS)
def test_equals_transformers_forward_and_every_gradient(version, seed):
    network, arrays, config, params = both(version, seed, **RELATIVE)
    real = (arrays["attention_mask"] == 1)[..., None]
    weights = draw((*real.shape[:2], config.hidden_size))[0] * real
    expected, expected_gradients = their_states_and_gradients(network, arrays, weights, version)
    hidden, gradients = states_and_gradients(params, config, arrays, weights)
    assert largest({"hidden": hidden * real}, {"hidden": expected * real}) < 1e-8
    assert largest(gradients, expected_gradients) < 1e-8
    assert all(np.any(gradients[name]) for name in gradients if "pos_" in name or "rel_embeddings" in name)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_index_is_that_of_the_code_and_not_that_of_the_paper(version):
    """Equation 4 has d(j,i) in its last term, the code d(i,j): the released weights need the code's."""
    network, arrays, config, params = both(version, 2, **RELATIVE)
    real = (arrays["attention_mask"] == 1)[..., None]
    weights = draw((*real.shape[:2], config.hidden_size))[0] * real
    expected, _ = their_states_and_gradients(network, arrays, weights, version)
    code, _ = states_and_gradients(params, config, arrays, weights, encoder.Sockets(attention=technique.attention))
    paper, _ = states_and_gradients(params, config, arrays, weights, AS_PRINTED)
    assert np.abs((code - expected) * real).max() < 1e-8
    assert np.abs((paper - expected) * real).max() > 0.1


@pytest.mark.parametrize("version", VERSIONS)
def test_texts_longer_than_any_that_it_was_made_for_are_read(version):
    network, _, config, params = both(version, 0, **RELATIVE, position_biased_input=False)
    ids = np.random.default_rng(0).integers(3, config.vocab_size, (2, 2 * config.max_position_embeddings))
    with torch.no_grad():
        expected = network(torch.tensor(ids)).last_hidden_state.numpy()
    np.testing.assert_allclose(Model(config, params)(ids).last_hidden_state, expected, atol=1e-8)
    absolute = both(version, 0, **RELATIVE, position_biased_input=True)[2:]
    with pytest.raises(InputError, match="takes at most 23"):
        Model(*absolute)(ids)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_default_of_transformers_does_not_know_the_order_of_its_tokens(version):
    """relative_attention is False unless it is asked for: with the positions at the input off as well, a bag of words is left."""
    changes = {"position_biased_input": False, "type_vocab_size": 0, "max_relative_positions": -1}
    changes |= {"conv_kernel_size": 0} if version == "deberta-v2" else {}
    ids = np.random.default_rng(0).integers(3, 30, (2, 9))
    for relative in (False, True):
        _, _, config, params = both(version, 4, relative_attention=relative, pos_att_type=["c2p", "p2c"], **changes)
        straight, turned = (encoder.encode(params, config, x) for x in (ids, ids[:, ::-1]))
        assert np.allclose(straight, turned[:, ::-1], atol=1e-9) != relative
    assert not Config(family="deberta").relative_attention


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_enhanced_mask_decoder_is_the_last_layer_twice_with_positions_in_its_queries(seed):
    """As the authors pretrain (their masked_language_model.py), with transformers' layers; transformers has no such decoder."""
    network, arrays, config, params = both("deberta-v2", seed, **RELATIVE, num_hidden_layers=3)
    positions = draw((11, config.hidden_size), seed=1)[0]
    real = (arrays["attention_mask"] == 1)[..., None]
    weights = draw((*real.shape[:2], config.hidden_size))[0] * real
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    states = network(**tensors, output_hidden_states=True).hidden_states[-2]
    added = torch.tensor(positions, requires_grad=True)
    queries, body = states + added, network.encoder
    mask = body.get_attention_mask(tensors["attention_mask"])
    for _ in range(2):
        distances, table = body.get_rel_pos(states), body.get_rel_embedding()
        queries = body.layer[-1](states, mask, query_states=queries, relative_pos=distances, rel_embeddings=table)[0]
    (queries * torch.tensor(weights)).sum().backward()

    segments = {"token_type_ids": arrays["token_type_ids"]} if "token_type_ids" in arrays else {}
    at = np.broadcast_to(np.arange(11), (3, 11))

    def loss(trained, at=None):
        found = technique.enhanced_mask_decoder(
            trained["params"], config, trained["positions"], arrays["input_ids"], arrays["attention_mask"], at=at, **segments
        )
        return np.sum(found * weights), found

    trained = {"params": params, "positions": positions}
    (_, found), gradients = value_and_grad(loss, has_aux=True)(trained)
    assert largest({"states": found * real}, {"states": queries.detach().numpy() * real}) < 1e-8
    theirs = {name: p.grad.numpy() for name, p in network.named_parameters()}
    assert largest(gradients["params"], named(network, theirs, "deberta-v2", "base")) < 1e-8
    np.testing.assert_allclose(gradients["positions"], added.grad.numpy(), atol=1e-8)
    np.testing.assert_allclose(loss(trained, at[:, ::-1])[1], found[:, ::-1], atol=1e-11)


# -------------------------------------------------------------------------------------------------------- in the encoder


@pytest.mark.parametrize("version", VERSIONS)
def test_float32_stays_and_dropout_repeats(version):
    _, arrays, config, params = both(version, 2, **RELATIVE, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.0)
    params = tree.map(lambda leaf: leaf.astype(np.float32), params)

    def loss(params, seed):
        rng = None if seed is None else np.random.default_rng(seed)
        hidden = encoder.encode(params, config, arrays["input_ids"], arrays["attention_mask"], rng=rng)
        return np.sum(hidden[:, :3] * hidden[:, 1:4])

    value, gradients = value_and_grad(loss)(params, 1)
    assert value.dtype == np.float32 and {leaf.dtype for leaf in tree.leaves(gradients)} == {np.dtype(np.float32)}
    assert value == loss(params, 1) != loss(params, 2)
    assert loss(params, None) == loss(params, None) != value


def test_dropout_falls_on_the_table_of_positions():
    _, _, config, params = both("deberta-v2", 1, **RELATIVE, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.0)
    from bertcraft.bert import families

    layer, x = families.layers(params, config)[0], draw((1, 9, config.hidden_size))[0]
    with_, without = (technique.projected(layer, x, x, None, config, rng) for rng in (np.random.default_rng(0), None))
    for dropped, kept in zip(with_[:3], without[:3], strict=True):
        np.testing.assert_array_equal(dropped, kept)
    assert not np.allclose(with_[3], without[3])


def test_queries_of_unknown_places_are_refused():
    _, _, config, params = both("deberta", 0, **RELATIVE)
    from bertcraft.bert import families

    layer, x = families.layers(params, config)[0], draw((1, 9, config.hidden_size))[0]
    with pytest.raises(InputError, match="got 4 queries for a text of 9 tokens: pass at="):
        technique.attention(layer, x[:, :4], x, None, config)


@pytest.mark.parametrize("version", VERSIONS)
def test_jax_compiles_it_to_the_same_numbers(version):
    jax = pytest.importorskip("jax")
    _, arrays, config, params = both(version, 0, **RELATIVE)
    params = tree.map(lambda leaf: leaf.astype(np.float32), params)
    at = np.array([[0, 1], [0, 0], [0, 2]])
    positions = draw((23, config.hidden_size), dtype=np.float32)[0]

    def loss(params, ids, mask):
        whole = encoder.encode(params, config, ids, mask)
        some = technique.enhanced_mask_decoder(params, config, positions, ids, mask, at=at)
        return np.sum(whole[:, 0] * some[:, 1])

    value, gradients = value_and_grad(loss)(params, arrays["input_ids"], arrays["attention_mask"])
    compiled, theirs = jax.jit(value_and_grad(loss))(params, arrays["input_ids"], arrays["attention_mask"])
    assert float(compiled) == pytest.approx(float(value), rel=1e-4)
    assert largest(gradients, tree.map(np.asarray, theirs)) < 1e-4


# ---------------------------------------------------------------------------------------------------------- what it costs

BASE = {"relative_attention": True, "pos_att_type": ("c2p", "p2c"), "position_biased_input": False}


def test_the_parameters_of_the_base_model_that_disentangling_adds():
    """2 L d^2 + 2 k d = 14,942,208 for k = 512; the code has a bias in the queries of positions besides, 9,216 numbers."""
    config = Config(family="deberta", **BASE)
    count = lambda config: sum(math.prod(shape) for shape in parameter_shapes(config).values())  # noqa: E731
    more = count(config) - count(replace(config, relative_attention=False))
    assert technique.extra_parameters(768, 12, 512) == 14_942_208 == more - 9_216
    assert count(config) == 138_601_728 and count(config) - 50_265 * 768 == 99_998_208


@pytest.mark.parametrize(("length", "kinds"), [(8, ("c2p", "p2c")), (5, ("p2c",)), (6, ("c2p",))])
def test_each_term_costs_twice_the_products_of_plain_scores(length, kinds):
    """L x (2L - 1) products of D numbers a term, where content to content has L x L; and a projection of 2L - 1 rows a layer."""
    config = Config(family="deberta", **BASE | {"pos_att_type": kinds}, vocab_size=20, hidden_size=12, num_hidden_layers=2,
                    num_attention_heads=3, intermediate_size=7, max_position_embeddings=16)  # fmt: skip
    params = tree.nest({name: np.ones(shape, np.float32) for name, shape in parameter_shapes(config).items()})
    ids = np.full((1, length), 3)
    counts = [flops.count(encoder.encode, params, replace(config, relative_attention=on), ids) for on in (True, False)]
    distances, hidden = 2 * length - 1, config.hidden_size
    term = 2 * length * distances * hidden + 2 * distances * hidden**2
    assert counts[0] - counts[1] == config.num_hidden_layers * len(kinds) * term


def test_no_array_of_length_by_length_vectors():
    length, hidden = 192, 256
    config = Config(family="deberta", **BASE, vocab_size=20, hidden_size=hidden, num_hidden_layers=1, num_attention_heads=2,
                    intermediate_size=8, max_position_embeddings=length)  # fmt: skip
    params = tree.nest({name: np.ones(shape, np.float32) for name, shape in parameter_shapes(config).items()})
    ids = np.full((1, length), 3)
    workspace.release()
    tracemalloc.start()
    value_and_grad(lambda params: np.sum(np.square(encoder.encode(params, config, ids))))(params)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < length * length * hidden * 4 / 2, "half of what one array (L, L, H) takes"
