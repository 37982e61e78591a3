"""Sampling as statistics; which tokens count as fake; losses and every gradient against transformers; shards; JAX."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bertcraft.bert import Config, Model, encode, heads, load
from bertcraft.errors import InputError
from bertcraft.techniques import electra_pretraining as technique
from bertcraft.techniques.roberta_optimizations import mask_tokens
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree, value_and_grad
from bertcraft.tensor.check import check_grads
from bertcraft.tensor.parallel import sharded_value_and_grad

sys.path.insert(0, str(Path(__file__).parents[1] / "bert"))
from transformers_models import make, named, ours

LENGTH = 14
DISCRIMINATOR = Config(
    family="electra", head="replaced_token_detection", vocab_size=40, embedding_size=12, hidden_size=16,
    num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, max_position_embeddings=LENGTH,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
GENERATOR = technique.generator_config(DISCRIMINATOR, 0.5)
BOTH = {"generator": GENERATOR, "discriminator": DISCRIMINATOR}


def make_batch(rows=6, seed=0, vocab_size=40, length=LENGTH, rate=0.3):
    """Texts of unequal lengths, padded with 0."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, vocab_size, (rows, length))
    ids[:, 0] = 2
    mask = (np.arange(length) < rng.integers(4, length + 1, (rows, 1))).astype(np.int64)
    ids = ids * mask
    masked = mask_tokens(ids, rng.random((rows, 3 * length)), mask_id=4, vocab_size=vocab_size, first_word_id=5, rate=rate)
    return ids, technique.electra_batch({**masked._asdict(), "attention_mask": mask}, rng.random((rows, length)))


def params_of(sharing="shared", seed=3, dtype=np.float64):
    """Parameters of unit scale, no value at its initial zero or one."""
    rng = np.random.default_rng(seed)
    params = technique.initial_params(GENERATOR, DISCRIMINATOR, seed, sharing, dtype)
    return tree.map(lambda leaf: leaf + dtype(0.1) * rng.standard_normal(leaf.shape).astype(dtype), params)


# --------------------------------------------------------------------------------------------------------- sampling


def test_samples_have_the_distribution_of_the_softmax():
    rng = np.random.default_rng(0)
    n, vocabulary, columns = 5_000, 20, 60
    logits = 1.5 * rng.standard_normal((columns, vocabulary))
    drawn = technique.sample(np.repeat(logits[None], n, 0), rng.random((n, columns)))
    expected = n * F.softmax(logits)
    found = np.array([np.bincount(column, minlength=vocabulary) for column in drawn.T])
    p = []
    for f, e in zip(found, expected, strict=True):
        f, e = f[e > 5], e[e > 5]
        p.append(stats.chisquare(f, e * (f.sum() / e.sum())).pvalue)
    assert stats.kstest(p, "uniform").pvalue > 1e-3, "of sixty distributions: as far from each as chance has it"
    table = np.histogram2d(drawn[:, 0], drawn[:, 1], bins=[np.arange(0, 22, 4), np.arange(0, 22, 4)])[0] + 1
    assert stats.chi2_contingency(table).pvalue > 1e-3, "positions are drawn independently"


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(2, 50), st.floats(0.1, 300), st.integers(0, 2**32 - 1))
def test_samples_are_tokens_of_positive_probability(rows, vocabulary, scale, seed):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.standard_normal((rows, 4, vocabulary))).astype(np.float32)
    draw = rng.random((rows, 4))
    draw[0] = 0, np.nextafter(0, 1), 0.5, np.nextafter(1, 0)
    samples = technique.sample(logits, draw)
    assert samples.shape == (rows, 4) and ((samples >= 0) & (samples < vocabulary)).all()
    assert (np.take_along_axis(F.softmax(logits), samples[..., None], -1) > 0).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.integers(2, 14), st.floats(0.01, 1), st.integers(0, 2**32 - 1))
def test_only_masked_positions_are_replaced_and_a_right_sample_is_original(rows, length, rate, seed):
    ids, batch = make_batch(rows, seed, length=max(length, 5), rate=rate)
    samples = np.random.default_rng(seed).integers(5, 8, batch["at"].shape)  # few, so that some are right
    replaced = technique.replace_tokens(batch, samples)
    assert replaced.masked.sum() == (batch["labels"] >= 0).sum()
    assert np.array_equal(replaced.input_ids != ids, replaced.fake), "fake is what differs from the text, and nothing else"
    assert np.array_equal(replaced.input_ids[~replaced.masked], ids[~replaced.masked])
    for row in range(rows):
        for position, label, token in zip(batch["at"][row], batch["labels"][row], samples[row], strict=True):
            assert label < 0 or replaced.input_ids[row, position] == token


def test_the_share_of_fakes_is_the_masking_rate_times_the_generators_error():
    _, batch = make_batch(1500, rate=0.15)
    params = params_of()
    replaced = technique.losses(params, batch, None, **BOTH).replaced
    of_generator, _ = technique.models(params)
    hidden = encode(of_generator, GENERATOR, batch["input_ids"], batch["attention_mask"], at=batch["at"])
    probability = F.softmax(heads.masked_lm_logits(of_generator, GENERATOR, hidden))
    counted = batch["labels"] >= 0
    right = np.take_along_axis(probability, np.where(counted, batch["labels"], 0)[..., None], -1)[..., 0][counted]
    spread = np.sqrt((right * (1 - right)).sum())
    assert abs(replaced.fake.sum() - (1 - right).sum()) < 4 * spread
    rate = replaced.masked.sum() / batch["attention_mask"].sum()
    assert replaced.fake.sum() / batch["attention_mask"].sum() == pytest.approx(rate * (1 - right.mean()), rel=0.05)


# ----------------------------------------------------------------------------------------------- against transformers


def from_transformers(sharing):
    """Two transformers models, joined as the sharing says, and the same parameters as ours."""
    sizes = {"vocab_size": 41, "embedding_size": 9, "pad_token_id": 0, "type_vocab_size": 2}
    theirs = {
        "generator": make("electra", "masked_lm", 5, **sizes, hidden_size=8, num_attention_heads=2, num_hidden_layers=2),
        "discriminator": make(
            "electra", "replaced_token_detection", 6, **sizes, hidden_size=12, num_attention_heads=3, num_hidden_layers=2
        ),
    }  # fmt: skip
    configs, params = {}, {}
    for name, head in (("generator", "masked_lm"), ("discriminator", "replaced_token_detection")):
        configs[name], params[name] = ours(theirs[name], "electra", head)
    if sharing == "shared":
        theirs["discriminator"].electra.embeddings = theirs["generator"].electra.embeddings
        del params["discriminator"]["electra"]["embeddings"]
    return theirs, configs, params


def with_differences(generator, discriminator):
    """DeBERTa-V3's sharing in torch: calls the discriminator with embeddings detach(generator's) + its own."""
    tables = {
        f"electra.embeddings.{name}": own + dict(generator.electra.embeddings.named_parameters())[name].detach()
        for name, own in discriminator.electra.embeddings.named_parameters()
    }
    return lambda **inputs: torch.func.functional_call(discriminator, tables, kwargs=inputs)


@pytest.mark.parametrize("sharing", technique.SHARING)
@pytest.mark.parametrize("detect", technique.DETECT)
def test_losses_and_every_gradient_equal_transformers(sharing, detect):
    theirs, configs, params = from_transformers(sharing)
    ids, batch = make_batch(5, 1, vocab_size=41)
    labels, draw = np.full(ids.shape, -100), np.zeros(ids.shape)
    counted = batch["labels"] >= 0
    rows = np.broadcast_to(np.arange(len(ids))[:, None], counted.shape)
    where = rows[counted], batch["at"][counted]
    labels[where], draw[where] = batch["labels"][counted], batch["draw"][counted]
    labels, draw, original = torch.tensor(labels), torch.tensor(draw), torch.tensor(ids)
    mask = torch.tensor(batch["attention_mask"])

    guess = theirs["generator"](input_ids=torch.tensor(batch["input_ids"]), attention_mask=mask, labels=labels)
    cumulated = guess.logits.detach().softmax(-1).cumsum(-1)
    drawn = torch.searchsorted(cumulated, draw[..., None], right=True)[..., 0]
    corrupted = torch.where(labels >= 0, drawn, original)
    fake = (corrupted != original).long()
    assert fake.sum() > 5
    judge = theirs["discriminator"]
    if sharing == "disentangled":
        judge = with_differences(theirs["generator"], judge)
    judged = judge(input_ids=corrupted, attention_mask=mask, labels=fake)
    chosen = labels >= 0 if detect == "masked" else mask == 1
    # in double precision, which the model's own loss is not
    detection = torch.nn.functional.binary_cross_entropy_with_logits(judged.logits[chosen], fake[chosen].double())
    assert detect == "masked" or judged.loss.item() == pytest.approx(detection.item(), abs=1e-6)
    total = guess.loss + 50 * detection
    total.backward()

    options = {"sharing": sharing, "detect": detect}
    parts = technique.losses(params, batch, None, **configs, **options)
    assert float(parts.masked_lm) == pytest.approx(guess.loss.item(), abs=1e-10)
    assert float(parts.detection) == pytest.approx(detection.item(), abs=1e-10)
    assert np.array_equal(parts.replaced.input_ids, corrupted.numpy())
    value, gradients = value_and_grad(lambda p: technique.electra_loss(p, batch, None, **configs, **options))(params)
    assert float(value) == pytest.approx(total.item(), abs=1e-9)
    seen = 0
    for name, head in (("generator", "masked_lm"), ("discriminator", "replaced_token_detection")):
        model = theirs[name]
        expected = named(model, {n: p.grad for n, p in model.named_parameters()}, "electra", head)
        for leaf, gradient in tree.items(gradients[name]):
            other = 0 if expected[leaf] is None else expected[leaf].numpy()
            np.testing.assert_allclose(gradient, other, atol=1e-8, err_msg=f"{name}.{leaf}")
            seen += bool(np.any(other))
    assert seen > 60, "nearly all parameters have a gradient to compare"


# -------------------------------------------------------------------------------------------------------- gradients


def test_gradients_equal_numeric_ones():
    """The samples are constants of the derivative; they change in jumps, and none lies within a step of the difference."""
    _, batch = make_batch(2, 4)
    leaves = dict(tree.items(params_of()))
    names = list(leaves)
    # the row of a padding token would get no gradient, and the generator may sample that token
    configs = {name: replace(config, pad_token_id=None) for name, config in BOTH.items()}

    def loss(*arrays):
        return technique.electra_loss(tree.nest(dict(zip(names, arrays, strict=True))), batch, None, **configs)

    check_grads(loss, *leaves.values(), order=1)


@pytest.mark.parametrize("sharing", technique.SHARING)
def test_only_full_sharing_lets_the_discriminator_pull_at_the_generators_embeddings(sharing):
    _, batch = make_batch(4, 2)
    loss = value_and_grad(lambda p: technique.losses(p, batch, None, **BOTH, sharing=sharing).detection)
    _, gradients = loss(params_of(sharing))
    of_generator = dict(tree.items(gradients["generator"]))
    pulled = {name for name, leaf in of_generator.items() if np.any(leaf)}
    shared = {name for name in of_generator if name.startswith("electra.embeddings.")}
    assert pulled == (shared if sharing == "shared" else set()), "and none of them passes through the sampling"
    if sharing == "disentangled":
        assert np.any(gradients["discriminator"]["electra"]["embeddings"]["word_embeddings"]["weight"])


@pytest.mark.parametrize("detect", technique.DETECT)
@pytest.mark.parametrize("shard_size", [1, 2, 4])
def test_shards_add_up_to_the_whole_batch(detect, shard_size):
    _, batch = make_batch(7, 5)
    params = params_of()
    loss = lambda p, b, rng: technique.electra_loss(p, b, rng, **BOTH, detect=detect)  # noqa: E731
    value, gradients = value_and_grad(loss)(params, batch, None)
    sharded, parts = sharded_value_and_grad(loss, shard_size=shard_size, threads=1)(params, batch, 0)
    assert sharded == pytest.approx(float(value), rel=1e-12)
    tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), parts, gradients)
    lengths = batch["attention_mask"].sum(axis=1)
    assert lengths.min() < lengths.max(), "a mean of means would be wrong"


@pytest.mark.parametrize("sharing", technique.SHARING)
def test_float32_stays_and_dropout_is_drawn(sharing):
    _, batch = make_batch(3)
    params = params_of(sharing, dtype=np.float32)
    value, gradients = value_and_grad(lambda p: technique.electra_loss(p, batch, None, **BOTH, sharing=sharing))(params)
    assert value.dtype == np.float32 and {leaf.dtype for leaf in tree.leaves(gradients)} == {np.dtype(np.float32)}
    dropping = {name: replace(config, hidden_dropout_prob=0.5) for name, config in BOTH.items()}
    first, again, other = (
        float(technique.electra_loss(params, batch, np.random.default_rng(s), **dropping, sharing=sharing)) for s in (0, 0, 1)
    )
    assert first == again != other


def test_it_compiles_under_jax():
    pytest.importorskip("jax")
    from bertcraft.tensor.xla import jit

    _, batch = make_batch(3)
    shallow = {name: replace(config, num_hidden_layers=1) for name, config in BOTH.items()}
    params = technique.initial_params(*shallow.values(), 1, "disentangled")
    losses = lambda p, b: technique.losses(p, b, None, **shallow, sharing="disentangled")  # noqa: E731
    expected, compiled = losses(params, batch), jit(losses)(params, batch)
    assert np.array_equal(compiled.replaced.input_ids, expected.replaced.input_ids)
    assert float(compiled.masked_lm) == pytest.approx(float(expected.masked_lm), rel=1e-5)
    assert float(compiled.detection) == pytest.approx(float(expected.detection), rel=1e-5)


# ---------------------------------------------------------------------------------------- parameters and bad input


def test_the_discriminator_is_a_model_that_transformers_opens(tmp_path):
    from transformers import ElectraForPreTraining

    params = params_of("disentangled", dtype=np.float32)
    _, discriminator = technique.models(params, "disentangled")
    Model(DISCRIMINATOR, discriminator).save(tmp_path)
    ids, _ = make_batch(2)
    ids = np.maximum(ids, 1)
    theirs = ElectraForPreTraining.from_pretrained(tmp_path).eval()(input_ids=torch.tensor(ids)).logits
    np.testing.assert_allclose(load(tmp_path)(ids).logits, theirs.detach().numpy(), atol=1e-5)


def test_all_sharings_start_from_one_discriminator():
    starts = [technique.models(technique.initial_params(GENERATOR, DISCRIMINATOR, 1, s), s)[1] for s in technique.SHARING]
    for other in starts[1:]:
        assert dict(tree.items(other)).keys() == dict(tree.items(starts[0])).keys()
        tree.map(np.testing.assert_array_equal, starts[0], other)


def test_the_generator_is_narrower_and_as_deep():
    assert (GENERATOR.hidden_size, GENERATOR.num_attention_heads, GENERATOR.intermediate_size) == (8, 2, 12)
    assert GENERATOR.head == "masked_lm" and GENERATOR.num_hidden_layers == 2 and GENERATOR.embedding_size == 12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: technique.generator_config(DISCRIMINATOR, 0.3), "multiple of 4"),
        (lambda: technique.generator_config(Config(family="bert")), "'electra'"),
        (lambda: technique.initial_params(GENERATOR, DISCRIMINATOR, 0, "half"), "shared, disentangled, separate"),
        (lambda: technique.losses({}, {}, None, **BOTH, detect="none"), "all, masked"),
        (lambda: technique.electra_batch({"at": np.zeros((2, 3))}, np.zeros((2, 2))), "expected a number for each"),
        (
            lambda: technique.initial_params(replace(GENERATOR, embedding_size=8), DISCRIMINATOR, 0),
            "size 8 and 12 cannot be shared",
        ),
    ],
)
def test_bad_input_is_told(call, message):
    with pytest.raises(InputError, match=message):
        call()
