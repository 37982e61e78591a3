"""Masking as statistics and against transformers; input formats; losses and their gradients against transformers."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bertcraft.techniques import roberta_optimizations as technique
from bertcraft.tensor import tree, value_and_grad

sys.path.insert(0, str(Path(__file__).parents[1] / "bert"))
from transformers_models import make, named, ours

VOCABULARY = {"mask_id": 4, "vocab_size": 1000, "first_word_id": 5}


def masked(ids, seed=0, reading=0, **options):
    random = technique.uniforms(seed, np.arange(len(ids)), np.full(len(ids), reading), 3 * ids.shape[1])
    return technique.mask_tokens(ids, random, **VOCABULARY, **options)


def texts(n=4000, length=40, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, 1000, (n, length))
    ids[:, 0], ids[:, -1] = 2, 3
    return ids


def test_uniforms_are_uniform_and_independent_between_readings():
    u = technique.uniforms(3, np.arange(2000), np.zeros(2000), 50)
    assert u.min() >= 0 and u.max() < 1
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    for other in (
        technique.uniforms(3, np.arange(2000), np.ones(2000), 50),
        technique.uniforms(4, np.arange(2000), np.zeros(2000), 50),
        technique.uniforms(3, np.arange(2000) + 1, np.zeros(2000), 50)[:, :50],
    ):
        assert abs(np.corrcoef(u.ravel(), other.ravel())[0, 1]) < 0.01
    assert np.array_equal(u[7:9], technique.uniforms(3, np.arange(7, 9), np.zeros(2), 50))


def test_fifteen_percent_are_chosen_and_split_80_10_10():
    ids = texts()
    result = masked(ids)
    counted = result.labels >= 0
    assert np.array_equal(counted.sum(axis=1), np.full(len(ids), round(0.15 * 38)))
    original = np.take_along_axis(ids, result.at, 1)[counted]
    now = np.take_along_axis(result.input_ids, result.at, 1)[counted]
    assert np.array_equal(original, result.labels[counted])
    n = counted.sum()
    became_mask, stayed = (now == 4).sum(), (now == original).sum()
    assert stats.binomtest(int(became_mask), int(n), 0.8).pvalue > 1e-4
    # a random word is the old one once in 995 times
    assert stats.binomtest(int(stayed), int(n), 0.1 + 0.1 / 995).pvalue > 1e-4
    drawn = now[(now != 4) & (now != original)]
    assert stats.chisquare(np.bincount(drawn, minlength=1000)[5:]).pvalue > 1e-4
    places = np.bincount(result.at[counted], minlength=40)[1:-1]
    assert stats.chisquare(places).pvalue > 1e-4, "every position is chosen equally often"


def test_the_shares_are_those_of_transformers_collator():
    from transformers import BertTokenizer, DataCollatorForLanguageModeling

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"w{i}" for i in range(995)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    collator = DataCollatorForLanguageModeling(BertTokenizer(vocab=vocabulary), mlm_probability=0.15, seed=0)
    ids = texts(2000)
    theirs = collator([{"input_ids": row.tolist()} for row in ids])
    chosen = theirs["labels"].numpy() != -100
    now = theirs["input_ids"].numpy()
    result = masked(ids)
    ours_now = np.take_along_axis(result.input_ids, result.at, 1)[result.labels >= 0]
    ours_old = result.labels[result.labels >= 0]
    for share, other in (
        ((now[chosen] == 4).mean(), (ours_now == 4).mean()),
        ((now[chosen] == ids[chosen]).mean(), (ours_now == ours_old).mean()),
        (chosen[:, 1:-1].mean(), (result.labels >= 0).sum() / ids[:, 1:-1].size),
    ):
        assert abs(share - other) < 0.012


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.integers(1, 12), st.floats(0.01, 1), st.integers(0, 2**32 - 1))
def test_nothing_but_chosen_words_changes(n, length, rate, seed):
    ids = np.random.default_rng(seed).integers(0, 30, (n, length))
    result = masked(ids, seed, rate=rate)
    counted = result.labels >= 0
    rows = np.broadcast_to(np.arange(n)[:, None], result.at.shape)
    changed = np.zeros(ids.shape, bool)
    changed[rows[counted], result.at[counted]] = True
    assert changed.sum() == counted.sum(), "no position is chosen twice"
    assert np.array_equal(result.input_ids[~changed], ids[~changed])
    assert (ids[changed] >= 5).all(), "special tokens are never chosen"
    words = (ids >= 5).sum(axis=1)
    expected = np.where(words > 0, np.maximum(1, np.rint(rate * words)), 0)
    assert np.array_equal(counted.sum(axis=1), expected)


def test_dynamic_masks_differ_at_each_reading_and_static_ones_repeat():
    ids = texts(50)
    first, second = masked(ids, reading=0), masked(ids, reading=1)
    assert not np.array_equal(first.at, second.at)
    assert np.array_equal(masked(ids, reading=0).input_ids, first.input_ids)
    readings = np.arange(40)
    assert np.array_equal(technique.reading_number(readings, None), readings)
    static = technique.reading_number(readings, technique.STATIC_COPIES)
    assert len(set(static)) == 10 and all((static == copy).sum() == 4 for copy in range(10)), "each mask is read 4 times"


def test_trimming_a_shard_changes_no_loss():
    model = make("bert", "masked_lm", 3)
    config, params = ours(model, "bert", "masked_lm")
    rng = np.random.default_rng(0)
    ids = rng.integers(5, config.vocab_size, (4, 20))
    lengths = np.array([9, 7, 12, 5])
    ids[np.arange(20) >= lengths[:, None]] = 0
    vocabulary = {"mask_id": 4, "vocab_size": config.vocab_size, "first_word_id": 5}
    result = technique.mask_tokens(ids, rng.random((4, 60)), **vocabulary)
    batch = {**result._asdict(), "attention_mask": (ids != 0).astype(int)}
    whole = technique.masked_lm_loss(params, batch, None, config)
    cut = technique.trimmed(batch)
    assert cut["input_ids"].shape == (4, 12)
    assert float(technique.masked_lm_loss(params, cut, None, config)) == pytest.approx(float(whole), abs=1e-12)


@pytest.mark.parametrize("with_next_sentence", [False, True])
def test_losses_and_every_gradient_equal_transformers(with_next_sentence):
    model = make("bert", "pretraining", 7)
    config, params = ours(model, "bert", "pretraining")
    rng = np.random.default_rng(1)
    documents = [[rng.integers(5, config.vocab_size, rng.integers(2, 9)) for _ in range(4)] for _ in range(3)]
    pairs = technique.sentence_pairs(documents, 16, 2, 3, 0, rng)
    mask = (pairs.input_ids != 0).astype(int)
    vocabulary = {"mask_id": 4, "vocab_size": config.vocab_size, "first_word_id": 5}
    result = technique.mask_tokens(pairs.input_ids, rng.random((len(mask), 48)), **vocabulary)
    batch = {
        **result._asdict(), "attention_mask": mask, "token_type_ids": pairs.token_type_ids, "next_sentence": pairs.labels,
    }  # fmt: skip

    labels = np.full(pairs.input_ids.shape, -100)
    rows = np.broadcast_to(np.arange(len(mask))[:, None], result.at.shape)
    counted = result.labels >= 0
    labels[rows[counted], result.at[counted]] = result.labels[counted]
    out = model(
        input_ids=torch.tensor(result.input_ids), attention_mask=torch.tensor(mask),
        token_type_ids=torch.tensor(pairs.token_type_ids),
    )  # fmt: skip
    expected = torch.nn.functional.cross_entropy(out.prediction_logits.flatten(0, 1), torch.tensor(labels).flatten())
    if with_next_sentence:
        nsp = torch.tensor(pairs.labels, dtype=torch.long)
        expected = expected + torch.nn.functional.cross_entropy(out.seq_relationship_logits, nsp)
    expected.backward()
    loss = technique.masked_lm_and_next_sentence_loss if with_next_sentence else technique.masked_lm_loss
    value, gradients = value_and_grad(lambda p: loss(p, batch, None, config))(params)
    assert float(value) == pytest.approx(expected.item(), abs=1e-9)
    theirs = named(model, {name: p.grad for name, p in model.named_parameters()}, "bert", "pretraining")
    for name, gradient in tree.items(gradients):
        other = 0 if theirs[name] is None else theirs[name].numpy()
        np.testing.assert_allclose(gradient, other, atol=1e-8, err_msg=name)


def test_sentence_pairs_follow_half_of_the_time_and_fit():
    rng = np.random.default_rng(0)
    documents = [[np.array([100 * d + s] * 3) + 5 for s in range(20)] for d in range(40)]
    pairs = technique.sentence_pairs(documents, 12, 2, 3, 0, rng)
    assert len(pairs.labels) == 40 * 19
    assert stats.binomtest(int(pairs.labels.sum()), len(pairs.labels), 0.5).pvalue > 1e-3
    first, second = pairs.input_ids[:, 1], pairs.input_ids[:, 5]
    follows = pairs.labels == 0
    assert np.array_equal(second[follows], first[follows] + 1)
    assert ((second[~follows] - 5) // 100 != (first[~follows] - 5) // 100).all(), "drawn from another document"
    assert np.array_equal(pairs.token_type_ids[0], [0] * 5 + [1] * 4 + [0] * 3)
    long = technique.sentence_pairs([[np.arange(5, 40)] * 2, [np.arange(50, 53)] * 2], 16, 2, 3, 0, rng)
    assert long.input_ids.shape[1] == 16 and (long.input_ids[:, 0] == 2).all()
    with pytest.raises(ValueError, match="two documents"):
        technique.sentence_pairs([[np.arange(3)]], 12, 2, 3, 0, rng)


def test_full_sentences_lose_and_repeat_nothing():
    rng = np.random.default_rng(0)
    parts = [rng.integers(5, 99, rng.integers(1, 9)) for _ in range(60)]
    rows = technique.full_sentences(parts, 11, 2, 3)
    assert (rows[:, 0] == 2).all() and (rows[:, -1] == 3).all()
    stream = rows[:, 1:-1].ravel()
    words = np.concatenate(parts)
    kept = stream[stream != 3]
    assert np.array_equal(kept, words[: len(kept)]) and len(words) - len(kept) < 11
