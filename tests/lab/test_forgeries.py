"""Fakes from counts: words come as often as they were counted, after the word before or anywhere, from the same numbers alike."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcraft.lab import forgeries
from bertcraft.pretrain.held_out import mask

ROWS = np.array([[2, 10, 11, 10, 12, 3], [2, 10, 11, 13, 3, 0], [2, 11, 13, 3, 0, 0]])
VOCABULARY = 20


def shares(forger, before, draws=20_000):
    drawn = forger(np.full(draws, before), np.random.default_rng(0).random(draws))
    return np.bincount(drawn, minlength=VOCABULARY) / draws


@pytest.mark.parametrize(
    ("before", "expected"),
    [(10, {11: 2 / 3, 12: 1 / 3}), (11, {10: 1 / 3, 13: 2 / 3}), (2, {10: 2 / 3, 11: 1 / 3})],
)
def test_a_word_is_drawn_as_often_as_it_follows_the_one_before(before, expected):
    found = shares(forgeries.Forger(ROWS, VOCABULARY, neighbours=True), before)
    for word in range(VOCABULARY):
        assert found[word] == pytest.approx(expected.get(word, 0), abs=0.015)


@pytest.mark.parametrize("before", [10, 15])
def test_without_neighbours_a_word_is_drawn_by_its_frequency(before):
    found = shares(forgeries.Forger(ROWS, VOCABULARY, neighbours=False), before)
    counts = np.bincount(ROWS[ROWS >= 5], minlength=VOCABULARY)
    np.testing.assert_allclose(found, counts / counts.sum(), atol=0.015)


def test_after_a_token_that_no_word_ever_followed_any_word_is_drawn():
    found = shares(forgeries.Forger(ROWS, VOCABULARY, neighbours=True), 12)
    counts = np.bincount(ROWS[ROWS >= 5], minlength=VOCABULARY)
    np.testing.assert_allclose(found, counts / counts.sum(), atol=0.015)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.booleans(), st.floats(0, 1, exclude_max=True))
def test_every_draw_is_a_word_of_the_text(seed, neighbours, draw):
    rng = np.random.default_rng(seed)
    rows = rng.integers(5, VOCABULARY, (3, 7))
    before = rng.integers(0, VOCABULARY, (2, 4))
    drawn = forgeries.Forger(rows, VOCABULARY, neighbours)(before, np.full((2, 4), draw))
    assert drawn.shape == (2, 4) and np.isin(drawn, rows[:, 1:]).all()


def test_before_is_the_true_token_left_of_a_masked_place():
    rows = np.random.default_rng(1).integers(5, VOCABULARY, (6, 9))
    rows[:, 0] = 2
    batch = mask(rows, np.arange(6), np.zeros(6), 0, 0.4, {"mask_id": 4, "vocab_size": VOCABULARY, "first_word_id": 5})
    counted = batch["labels"] >= 0
    true = np.take_along_axis(rows, batch["at"] - 1, axis=1)
    assert counted.sum() > 12 and (batch["input_ids"] == 4).any()
    np.testing.assert_array_equal(forgeries.before(batch)[counted], true[counted])
