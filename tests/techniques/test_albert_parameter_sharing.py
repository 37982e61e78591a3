"""ALBERT against transformers' three models, shared parameters against untied copies, sentence order, and what it costs."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bertcraft import check_grads
from bertcraft.bert import Config, Model, encoder
from bertcraft.bert.layout import parameter_shapes
from bertcraft.errors import InputError
from bertcraft.lab import flops
from bertcraft.techniques import albert_parameter_sharing as technique
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.tensor import tree, value_and_grad
from bertcraft.tensor.parallel import sharded_value_and_grad

sys.path.insert(0, str(Path(__file__).parents[1] / "bert"))
from transformers_models import inputs, make, named, ours

SHARING = tuple(technique.SHARING)
GROUPS = "albert.encoder.albert_layer_groups."


def small(layers=3, heads=2, size=2, inner=5, embedding=3, head="pretraining", **changes) -> Config:
    return Config(family="albert", head=head, vocab_size=17, hidden_size=heads * size, num_attention_heads=heads,
                  intermediate_size=inner, embedding_size=embedding, num_hidden_layers=layers, num_hidden_groups=layers,
                  max_position_embeddings=12, **changes)  # fmt: skip


def random_params(config: Config, sharing: str, seed=0, dtype=np.float64) -> dict:
    """Parameters of unit scale, none at its initial value."""
    rng = np.random.default_rng(seed)
    start = technique.initial_params(config, seed, sharing, dtype)
    return tree.map(lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape).astype(dtype), start)


def batch_of(config: Config, seed=0, rows=2, length=7) -> dict:
    """A padded batch of masked pairs."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(length) < rng.integers(4, length + 1, (rows, 1))).astype(np.int64)
    return {
        "input_ids": rng.integers(3, config.vocab_size, (rows, length)) * mask, "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, (rows, length)), "at": np.array([[1, 3]] * rows),
        "labels": np.array([[5, -100], *[[4, 9]] * (rows - 1)]), "next_sentence": rng.integers(0, 2, rows),
    }  # fmt: skip


def is_shared(name: str, sharing: str) -> bool:
    """Whether a parameter's name is that of a part which all groups have in common."""
    return name.startswith(GROUPS) and name.split(".")[6] in technique.SHARING[sharing]


def in_the_first(name: str) -> str:
    """The name of the same parameter in the first group."""
    return GROUPS + "0." + name.removeprefix(GROUPS).split(".", 1)[1]


def summed(gradients: dict, sharing: str) -> dict:
    """Gradients of untied copies by name, those of shared parts added up under the name in the first group."""
    found = {}
    for name, gradient in gradients.items():
        key = in_the_first(name) if is_shared(name, sharing) else name
        found[key] = found.get(key, 0) + gradient
    return found


def equal(ours: dict, theirs: dict, tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], atol=tolerance, rtol=tolerance, err_msg=name)


# ------------------------------------------------------------------------------------------------------- transformers


def both(head: str, sharing: str, seed: int):
    """A model of transformers with parts alike in all groups, and ours, in which these stand once."""
    layers = [2, 4, 3][seed % 3]
    network = make(
        "albert", head, seed, num_hidden_layers=layers, num_hidden_groups=layers, inner_group_num=1 + seed % 2, num_labels=2
    )
    state = named(network, dict(network.named_parameters()), "albert", head)
    with torch.no_grad():
        for name, parameter in state.items():
            if is_shared(name, sharing):
                parameter.copy_(state[in_the_first(name)])
    config, params = ours(network, "albert", head)
    return network, config, technique.shared(params, sharing)


def their_loss(network, head: str, batch: dict):
    tensors = {name: torch.tensor(batch[name]) for name in ("input_ids", "attention_mask", "token_type_ids")}
    if head == "base":
        return (network(**tensors).pooler_output ** 3).sum()
    labels = np.full(batch["input_ids"].shape, -100)
    np.put_along_axis(labels, batch["at"], batch["labels"], axis=1)
    order = {"sentence_order_label": torch.tensor(batch["next_sentence"])} if head == "pretraining" else {}
    return network(**tensors, labels=torch.tensor(labels), **order).loss


def our_loss(params: dict, head: str, batch: dict, config: Config):
    if head == "pretraining":
        return technique.albert_loss(params, batch, None, config)
    whole = technique.complete(params, config)
    if head == "masked_lm":
        return masking.masked_lm_loss(whole, batch, None, config)
    from bertcraft.bert import heads

    hidden = encoder.encode(whole, config, batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    return np.sum(heads.pooled(whole, config, hidden) ** 3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("head", ["base", "masked_lm", "pretraining"])
@pytest.mark.parametrize("sharing", SHARING)
def test_equals_transformers_forward_and_every_gradient(sharing, head, seed):
    network, config, params = both(head, sharing, seed)
    batch = batch_of(config, seed, rows=3, length=9)
    expected = their_loss(network, head, batch)
    expected.backward()
    theirs = named(network, {name: p.grad.numpy() for name, p in network.named_parameters()}, "albert", head)
    value, gradients = value_and_grad(our_loss)(params, head, batch, config)
    assert float(value) == pytest.approx(expected.item(), abs=1e-8)
    equal(dict(tree.items(gradients)), summed(theirs, sharing), 1e-8)
    assert all(np.any(gradient) for gradient in summed(theirs, sharing).values() if gradient.ndim == 2)


@pytest.mark.parametrize("head", ["base", "masked_lm", "pretraining"])
def test_all_shared_is_the_albert_of_transformers_with_one_group(head):
    """Here transformers shares by itself: its one group runs as often as there are layers."""
    network = make("albert", head, 5, num_hidden_layers=4, num_hidden_groups=1, inner_group_num=1, num_labels=2)
    config, params = ours(network, "albert", head)
    batch = batch_of(config, 5, rows=3, length=9)
    expected = their_loss(network, head, batch)
    expected.backward()
    theirs = named(network, {name: p.grad.numpy() for name, p in network.named_parameters()}, "albert", head)
    value, gradients = value_and_grad(our_loss)(params, head, batch, replace(config, num_hidden_groups=4))
    assert float(value) == pytest.approx(expected.item(), abs=1e-8)
    equal(dict(tree.items(gradients)), theirs, 1e-8)


@pytest.mark.parametrize("sharing", SHARING)
def test_a_model_that_shares_is_saved_for_transformers(sharing, tmp_path):
    config = small(head="masked_lm")
    params, batch = random_params(config, sharing, dtype=np.float32), batch_of(config)
    Model(config, technique.complete(params, config)).save(tmp_path / "model")
    network = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "model").eval()
    arguments = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        expected = network(**{name: torch.tensor(array) for name, array in arguments.items()}).logits.numpy()
    got = Model(config, technique.complete(params, config))(**arguments).logits
    real = batch["attention_mask"] == 1
    np.testing.assert_allclose(got[real], expected[real], atol=2e-5, rtol=1e-4)
    if sharing == "all":  # it is the checkpoint of a model of one group as it stands
        alone = Model(replace(config, num_hidden_groups=1), params)(**arguments).logits
        np.testing.assert_array_equal(alone, got)


# ------------------------------------------------------------------------------------------------- what sharing means

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(1, 5))


@settings(deadline=None, max_examples=40)
@given(SHAPES, st.sampled_from(SHARING), st.integers(1, 2), st.integers(0, 9))
def test_the_gradient_of_a_shared_parameter_is_the_sum_over_its_uses(shape, sharing, inner_group, seed):
    config = small(*shape, inner_group_num=inner_group)
    params, batch = random_params(config, sharing, seed), batch_of(config, seed)
    copies = tree.map(np.copy, technique.complete(params, config))
    loss = partial(technique.albert_loss, batch=batch, rng=None, config=config)
    value, gradients = value_and_grad(loss)(params)
    untied_value, untied = value_and_grad(loss)(copies)
    assert float(value) == pytest.approx(float(untied_value), rel=1e-12)
    equal(dict(tree.items(gradients)), summed(dict(tree.items(untied)), sharing), 1e-9)
    assert dict(tree.items(copies)).keys() == parameter_shapes(config).keys()


@settings(deadline=None, max_examples=40)
@given(SHAPES, st.sampled_from(SHARING), st.integers(1, 2), st.booleans())
def test_parameters_are_counted_as_they_are_kept(shape, sharing, inner_group, pooled):
    config = small(*shape, head="base", inner_group_num=inner_group, add_pooling_layer=pooled)
    kept = sum(leaf.size for leaf in tree.leaves(technique.initial_params(config, 0, sharing)))
    assert sum(technique.parameter_counts(config, sharing).values()) == kept


def test_all_ways_of_sharing_begin_alike():
    config = small()
    untied = dict(tree.items(technique.initial_params(config, 3, "none")))
    for sharing in SHARING:
        own = dict(tree.items(technique.initial_params(config, 3, sharing)))
        assert own.keys() == {name for name in untied if in_first(name) or not is_shared(name, sharing)}
        assert all(np.array_equal(own[name], untied[name]) for name in own)
    with pytest.raises(InputError, match="sharing: got 'ffn', expected one of all, attention, feed_forward, none"):
        technique.initial_params(config, 0, "ffn")


def in_first(name: str) -> bool:
    return not name.startswith(GROUPS) or name.startswith(GROUPS + "0.")


@pytest.mark.parametrize("sharing", SHARING)
def test_derivatives_agree_with_finite_differences_to_second_order(sharing):
    config = small(2)
    params, batch = random_params(config, sharing), batch_of(config)
    names, leaves = zip(*tree.items(params), strict=True)

    def loss(*leaves):
        return technique.albert_loss(tree.nest(dict(zip(names, leaves, strict=True))), batch, None, config)

    check_grads(loss, *leaves)


@pytest.mark.parametrize("sharing", SHARING)
def test_float32_stays_and_dropout_repeats(sharing):
    config = small(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
    params, batch = random_params(config, sharing, dtype=np.float32), batch_of(config)

    def loss(params, seed):
        return technique.albert_loss(params, batch, None if seed is None else np.random.default_rng(seed), config)

    value, gradients = value_and_grad(loss)(params, 1)
    assert value.dtype == np.float32 and {leaf.dtype for leaf in tree.leaves(gradients)} == {np.dtype(np.float32)}
    assert value == loss(params, 1) != loss(params, 2)
    assert loss(params, None) == loss(params, None) != value


@pytest.mark.parametrize("sharing", SHARING)
def test_shards_add_up_to_the_whole_batch(sharing):
    config = small(head="masked_lm")
    params, batch = random_params(config, sharing), batch_of(config, rows=5)
    loss = lambda p, b, rng: masking.masked_lm_loss(technique.complete(p, config), b, rng, config)  # noqa: E731
    value, gradients = value_and_grad(loss)(params, batch, None)
    sharded = sharded_value_and_grad(loss, shard_size=2, weight=masking.predicted, threads=2)
    together, parts = sharded(params, batch, 0)
    assert together == pytest.approx(float(value), rel=1e-12)
    equal(dict(tree.items(parts)), dict(tree.items(gradients)), 1e-11)
    assert (batch["labels"] < 0).any(), "a mean of means would be wrong"


@pytest.mark.parametrize("sharing", SHARING)
def test_jax_compiles_it_to_the_same_numbers(sharing):
    jax = pytest.importorskip("jax")
    config = small()
    params, batch = random_params(config, sharing, dtype=np.float32), batch_of(config)
    loss = value_and_grad(partial(technique.albert_loss, rng=None, config=config))
    value, gradients = loss(params, batch)
    compiled, theirs = jax.jit(loss)(params, batch)
    assert float(compiled) == pytest.approx(float(value), rel=1e-5)
    equal(dict(tree.items(gradients)), dict(tree.items(tree.map(np.asarray, theirs))), 1e-4)


# ------------------------------------------------------------------------------------------------------ what it costs

EXACT = {"base": 11_683_584, "large": 17_683_968, "xlarge": 58_724_864, "xxlarge": 222_595_584}


@pytest.mark.parametrize("size", EXACT)
def test_the_four_sizes_have_as_many_parameters_as_transformers_says(size):
    config = Config(family="albert", **technique.SIZES[size])
    with torch.device("meta"):
        network = transformers.AlbertModel(transformers.AlbertConfig(**technique.SIZES[size]))
    counted = technique.parameter_counts(config)
    assert sum(counted.values()) == EXACT[size] == sum(p.numel() for p in network.parameters())
    layer = network.encoder.albert_layer_groups[0].albert_layers[0]
    assert counted["attention"] == sum(p.numel() for p in layer.attention.parameters())
    assert counted["attention"] + counted["feed_forward"] == sum(p.numel() for p in layer.parameters())
    assert counted["projection"] == sum(p.numel() for p in network.encoder.embedding_hidden_mapping_in.parameters())


@pytest.mark.parametrize("sharing", SHARING)
def test_the_base_model_with_other_ways_of_sharing(sharing):
    """Table 4 of the paper, in millions, E = 128: 12 all, 64 attention, 38 feed-forward, 89 none."""
    config = replace(Config(family="albert", **technique.SIZES["base"]), num_hidden_groups=12)
    printed = {"all": 12, "attention": 64, "feed_forward": 38, "none": 89}
    millions = sum(technique.parameter_counts(config, sharing).values()) / 1e6
    assert millions == pytest.approx(printed[sharing], abs=0.7)
    if sharing == "none":
        with torch.device("meta"):
            network = transformers.AlbertModel(transformers.AlbertConfig(**technique.SIZES["base"], num_hidden_groups=12))
        assert 1e6 * millions == sum(p.numel() for p in network.parameters())


def test_the_claim_18_times_fewer():
    """BERT-large has 335.1 million parameters, ALBERT-large 17.7: 18.95 times fewer; the paper's 334 / 18 are 18.6."""
    large = Config(family="bert", hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    bert = sum(int(np.prod(shape)) for shape in parameter_shapes(large).values())
    albert = sum(technique.parameter_counts(Config(family="albert", **technique.SIZES["large"])).values())
    assert bert / albert == pytest.approx(18.95, abs=0.005)


@settings(deadline=None, max_examples=25)
@given(SHAPES, st.sampled_from(SHARING), st.integers(1, 9), st.integers(1, 2))
def test_operations_are_those_that_are_counted_and_sharing_saves_none(shape, sharing, length, inner_group):
    config = small(*shape, head="base", inner_group_num=inner_group)
    params = technique.complete(technique.initial_params(config, 0, sharing), config)
    ids = np.full((2, length), 3)
    assert flops.count(encoder.encode, params, config, ids) == 2 * length * technique.flops_per_token(config, length)


def test_albert_large_costs_what_bert_large_does():
    """3.350e11 at 512 tokens for BERT-large; ALBERT-large has the map from its thin embeddings besides."""
    shape = technique.SIZES["large"]
    albert, bert = (512 * technique.flops_per_token(Config(family=family, **shape), 512) for family in ("albert", "bert"))
    assert bert == pytest.approx(3.350e11, rel=1e-3) and albert - bert == 2 * 512 * 128 * 1024
    assert technique.flops_per_token(Config(family="albert"), 512) > 7 * bert / 512, "xxlarge: more than seven times as much"


# ----------------------------------------------------------------------------------------------------- sentence order


def documents_of(rng, count, longest=6):
    """Segments whose first token says which document they are from and their place in it."""
    return [
        [np.r_[1000 * d + s + 10, rng.integers(5, 10, rng.integers(0, longest))] for s in range(rng.integers(1, 9))]
        for d in range(count)
    ]


def parted(row, types, mask):
    """The two segments of a row [CLS] A [SEP] B [SEP]."""
    first, second = row[(types == 0) & (mask == 1)], row[types == 1]
    assert first[0] == 2 and first[-1] == second[-1] == 3
    return first[1:-1], second[:-1]


def test_half_of_the_pairs_are_exchanged_and_none_is_across_documents():
    documents = documents_of(np.random.default_rng(0), 300)
    pairs = technique.order_pairs(documents, 20, 2, 3, 0, np.random.default_rng(1))
    assert len(pairs.labels) == sum(len(document) - 1 for document in documents) > 500
    assert stats.binomtest(int(pairs.labels.sum()), len(pairs.labels), 0.5).pvalue > 1e-3
    assert {array.dtype for array in pairs} == {np.dtype(np.int32)}
    straight = iter(technique.consecutive(documents))
    for row, types, label in zip(*pairs, strict=True):
        first, second = parted(row, types, row != 0)
        earlier, later = (second, first) if label else (first, second)
        expected = next(straight)
        assert np.array_equal(earlier, expected[0]) and np.array_equal(later, expected[1])
        assert later[0] == earlier[0] + 1 and later[0] // 1000 == earlier[0] // 1000
    again = technique.order_pairs(documents, 20, 2, 3, 0, np.random.default_rng(2))
    assert 0.4 < np.mean(again.labels != pairs.labels) < 0.6, "drawn anew"


@given(st.integers(1, 30), st.integers(1, 30), st.integers(2, 40))
def test_the_longer_segment_is_cut_and_no_length_tells_the_order(a, b, room):
    kept = technique.fitting(a, b, room)
    assert kept == technique.fitting(b, a, room)[::-1]
    if a + b <= room:
        assert kept == (a, b)
    else:
        assert room - 1 <= sum(kept) <= room and min(kept) == min(a, b, room // 2)


@settings(deadline=None, max_examples=40)
@given(st.integers(5, 16), st.integers(0, 99))
def test_pairs_fit_and_an_exchanged_one_has_the_same_words(length, seed):
    documents = documents_of(np.random.default_rng(seed), 5, longest=12) + [[np.array([5]), np.array([6])]]
    straight, turned = (technique.order_pairs(documents, length, 2, 3, 0, Fixed(value)) for value in (0.9, 0.1))
    assert not straight.labels.any() and turned.labels.all() and straight.input_ids.shape[1] == length
    for (a, a_types), (b, b_types) in zip(zip(*straight[:2], strict=True), zip(*turned[:2], strict=True), strict=True):
        one, two = parted(a, a_types, a != 0), parted(b, b_types, b != 0)
        assert np.array_equal(one[0], two[1]) and np.array_equal(one[1], two[0]) and min(map(len, one)) > 0
        assert np.array_equal(np.sort(a), np.sort(b)) and not a_types[a == 0].any()


class Fixed:
    """A generator that draws one number only."""

    def __init__(self, value):
        self.value = value

    def random(self, count):
        return np.full(count, self.value)


def test_what_cannot_be_paired_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="a document of at least two segments"):
        technique.order_pairs([[np.array([5])], []], 9, 2, 3, 0, rng)
    with pytest.raises(InputError, match="length: got 4, expected at least 5"):
        technique.order_pairs([[np.array([5]), np.array([6])]], 4, 2, 3, 0, rng)


# ------------------------------------------------------------------------------------------------ what the layers do


def test_layers_move_the_states_as_transformers_layers_do():
    network = make("albert", "base", 3, num_hidden_layers=4, num_hidden_groups=1, inner_group_num=1)
    config, params = ours(network, "albert", "base")
    arrays = inputs(network, 3)
    with torch.no_grad():
        states = network(**{n: torch.tensor(a) for n, a in arrays.items()}, output_hidden_states=True).hidden_states
    found = technique.layer_changes(params, config, **arrays)
    real = torch.tensor(arrays["attention_mask"] == 1)
    for layer, (before, after) in enumerate(zip(states[:-1], states[1:], strict=True)):
        before, after = before[real], after[real]
        assert found.distance[layer] == pytest.approx((after - before).norm(dim=-1).mean().item(), abs=1e-8)
        cosine = torch.nn.functional.cosine_similarity(before, after, dim=-1)
        assert found.angle[layer] == pytest.approx(torch.rad2deg(torch.arccos(cosine)).mean().item(), abs=1e-6)
    whole = technique.layer_changes(params, config, arrays["input_ids"][:, :3])
    assert whole.distance.shape == whole.angle.shape == (4,) and np.all(whole.angle > 0)
