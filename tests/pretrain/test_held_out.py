"""The loss on held-out text, split by what a model sees at a chosen position: [MASK], the true word, another one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcraft.bert import Config, encoder, heads, initial_params
from bertcraft.pretrain.held_out import HeldOut, Words, log_frequency
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree

CONFIG = Config(
    family="bert", head="masked_lm", vocab_size=40, hidden_size=40, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=20, max_position_embeddings=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
VOCABULARY = {"mask_id": 4, "vocab_size": 40, "first_word_id": 5}


def rows_of(count: int, seed: int = 0) -> np.ndarray:
    """Texts of 10 to 38 words, some far more common than others, [CLS] before and [SEP] and padding after them."""
    rng = np.random.default_rng(seed)
    rows = np.minimum(5 + rng.geometric(0.1, (count, 40)), 39).astype(np.int32)
    lengths = rng.integers(12, 41, count)
    rows[:, 0] = 2
    rows[np.arange(count), lengths - 1] = 3
    rows[np.arange(40) >= lengths[:, None]] = 0
    return rows


ROWS = rows_of(400)
WORDS = Words(VOCABULARY, log_frequency(ROWS, 40))


def copier() -> dict:
    """A "model" whose logits are the word frequencies, and 30 for the word that is shown, unless that is [MASK]."""
    params = tree.map(np.zeros_like, initial_params(CONFIG, 0))
    body, head = params["bert"], params["cls"]["predictions"]
    body["embeddings"]["word_embeddings"]["weight"][:] = np.eye(40)  # a word is a direction of its own
    layer = body["encoder"]["layer"]["0"]
    for norm in (body["embeddings"], layer["attention"]["output"], layer["output"]):
        norm["LayerNorm"]["weight"][:] = 1
    head["transform"]["dense"]["weight"][:] = np.eye(40)
    head["transform"]["LayerNorm"]["weight"][:] = 30 / np.sqrt(39)  # the direction of a word has that norm after it
    head["bias"][:] = WORDS.log_frequency
    head["bias"][4] = -1000  # [MASK] itself is no word to guess: what is left is the word frequencies
    return params


def test_a_model_that_only_copies_is_perfect_where_the_word_was_kept_and_no_better_than_word_frequencies_at_mask():
    held_out = HeldOut(ROWS, WORDS)
    found = held_out(copier(), CONFIG)
    assert found["loss_kept"] < 1e-3
    assert found["loss"] == pytest.approx(held_out.unigram, rel=0.01)
    assert found["loss_random"] > 20
    common = WORDS.log_frequency.argmax()
    labels, shown = held_out._chosen(held_out.batch)
    assert found["accuracy"] == pytest.approx((labels[shown == 4] == common).mean(), abs=1e-9)
    assert found["accuracy_all"] > found["accuracy"] + 0.05, "at all positions it looks as if it had learnt something"


def test_the_mean_over_all_positions_is_the_cross_entropy_of_the_batch():
    params = initial_params(CONFIG, 1)
    params["cls"]["predictions"]["bias"][:] = np.random.default_rng(0).normal(size=40)
    held_out = HeldOut(ROWS, WORDS)
    batch = held_out.batch
    hidden = encoder.encode(params, CONFIG, batch["input_ids"], batch["attention_mask"], at=batch["at"])
    found = held_out(params, CONFIG)
    assert found["loss_all"] == pytest.approx(float(heads.masked_lm_loss(params, CONFIG, hidden, batch["labels"])))
    shown = np.take_along_axis(batch["input_ids"], batch["at"], axis=1)
    at_mask = np.where(shown == 4, batch["labels"], F.IGNORED)
    assert found["loss"] == pytest.approx(float(heads.masked_lm_loss(params, CONFIG, hidden, at_mask)))


def test_types_of_tokens_are_read_where_there_are_some():
    params, one, other = initial_params(CONFIG, 1), HeldOut(ROWS, WORDS), HeldOut(ROWS, WORDS)
    other.batch["token_type_ids"] = np.ones_like(other.batch["input_ids"])
    assert abs(one(params, CONFIG)["loss"] - other(params, CONFIG)["loss"]) > 1e-6
    other.batch["token_type_ids"][:] = 0
    assert one(params, CONFIG) == other(params, CONFIG)


def test_who_knows_the_word_frequencies_alone_has_the_unigram_loss():
    params = tree.map(np.zeros_like, initial_params(CONFIG, 0))
    held_out = HeldOut(ROWS, WORDS)
    assert held_out(params, CONFIG)["loss"] == pytest.approx(np.log(40), rel=1e-5)
    params["cls"]["predictions"]["bias"][:] = WORDS.log_frequency
    found = held_out(params, CONFIG)
    assert found["loss"] == pytest.approx(held_out.unigram, rel=1e-5)
    assert found["loss_all"] == pytest.approx(held_out.unigram_all, rel=1e-5)


@given(count=st.integers(3, 600), seed=st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_it_is_a_mean_over_tokens_whatever_the_number_of_rows(count, seed):
    """Rows of unequal lengths, in parts of 250: the mean over all is that of the three kinds, weighted by their numbers."""
    held_out = HeldOut(rows_of(count, seed), WORDS)
    params = initial_params(CONFIG, 2)
    found = held_out(params, CONFIG)
    labels, shown = held_out._chosen(held_out.batch)
    masked, kept = shown == 4, shown == labels
    assert held_out.masked == masked.sum()
    counts = {"loss": masked.sum(), "loss_kept": kept.sum(), "loss_random": (~masked & ~kept).sum()}
    assert all((found[name] is None) == (number == 0) for name, number in counts.items())
    total = sum(found[name] * number for name, number in counts.items() if number)
    assert found["loss_all"] == pytest.approx(total / len(labels), rel=1e-5)


def test_masks_are_the_same_each_time_and_padding_is_no_word():
    one, two = HeldOut(ROWS, WORDS), HeldOut(ROWS, WORDS)
    assert all(np.array_equal(one.batch[name], two.batch[name]) for name in one.batch)
    moved = np.where(ROWS == 0, 1, ROWS)  # another id for padding
    other = HeldOut(moved, WORDS, pad_id=1)
    assert np.array_equal(other.batch["attention_mask"], one.batch["attention_mask"])
    assert (one.batch["labels"][one.batch["labels"] != F.IGNORED] >= 5).all()
