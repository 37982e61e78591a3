"""Rows are full, padding is marked, and the examples of a step are a function of seed and step alone."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bertcraft.data import corpus
from bertcraft.data.batches import batch_indices, epoch_order, frame, pack, pad, tokenize
from bertcraft.data.tokenizer import train_wordpiece
from bertcraft.errors import DataError, InputError

PAD, CLS, SEP = 0, 2, 3
texts = st.lists(st.lists(st.integers(5, 99), max_size=12).map(lambda ids: np.array(ids, np.int32)), max_size=12)
seeds = st.integers(0, 2**63)


@given(texts, st.integers(3, 9))
def test_packed_rows_are_full_and_hold_the_texts_in_order(lists, length):
    assume(sum(map(len, lists)) >= length - 2)
    rows = pack(lists, length, CLS, SEP)
    assert rows.dtype == np.int32 and rows.shape[1:] == (length,) and len(rows) >= 1
    assert (rows[:, 0] == CLS).all() and (rows[:, -1] == SEP).all()
    inside = rows[:, 1:-1].ravel()
    kept = inside[inside != SEP]
    everything = np.concatenate(lists)
    assert (kept == everything[: len(kept)]).all()
    assert len(everything) - len(kept) < length - 2  # less than a row is dropped


@given(texts, st.integers(3, 9))
def test_a_separator_stands_where_a_text_ends_inside_a_row(lists, length):
    assume(sum(map(len, lists)) >= length - 2)
    rows = pack(lists, length, CLS, SEP)[:, 1:-1]
    inside, place = rows.ravel(), 0
    for tokens in lists:
        if len(tokens) == 0:
            continue
        if place % rows.shape[1] and place < len(inside):
            assert inside[place] == SEP
            place += 1
        part = inside[place : place + len(tokens)]
        assert (part == tokens[: len(part)]).all()
        place += len(tokens)


def test_a_worked_example_of_packing():
    rows = pack([np.array([11, 12, 13]), np.array([21, 22]), np.array([31, 32, 33])], 6, CLS, SEP)
    assert rows.tolist() == [[CLS, 11, 12, 13, SEP, SEP], [CLS, 21, 22, SEP, 31, SEP]]


def test_too_little_text_for_a_row_is_said():
    with pytest.raises(DataError, match="hold 3 tokens, a row of length 128 takes 126"):
        pack([np.arange(3)], 128, CLS, SEP)
    with pytest.raises(DataError, match="hold 0 tokens"):
        pack([], 8, CLS, SEP)
    with pytest.raises(InputError, match="length is 2"):
        pack([np.arange(9)], 2, CLS, SEP)


@given(texts, st.one_of(st.none(), st.integers(0, 5)))
def test_padding_is_marked_and_nothing_is_lost(lists, more):
    longest = max(map(len, lists), default=0)
    ids, mask = pad(lists, PAD, None if more is None else longest + more)
    assert ids.shape == mask.shape == (len(lists), longest + (more or 0))
    assert ids.dtype == mask.dtype == np.int32
    for row, kept, tokens in zip(ids, mask, lists, strict=True):
        assert kept.tolist() == [1] * len(tokens) + [0] * (len(row) - len(tokens))
        assert row.tolist() == tokens.tolist() + [PAD] * (len(row) - len(tokens))


def test_a_text_longer_than_the_row_is_refused():
    with pytest.raises(InputError, match="a text has 5 tokens, more than length 4"):
        pad([np.arange(5)], PAD, 4)


@given(texts, st.one_of(st.none(), st.integers(2, 9)))
def test_framed_texts_fit_and_keep_their_ends(lists, length):
    framed = frame(lists, CLS, SEP, length)
    assert len(framed) == len(lists)
    for tokens, whole in zip(framed, lists, strict=True):
        assert tokens.dtype == np.int32 and tokens[0] == CLS and tokens[-1] == SEP
        kept = len(whole) if length is None else min(len(whole), length - 2)
        assert (tokens[1:-1] == whole[:kept]).all() and len(tokens) == kept + 2


def test_tokens_are_those_of_the_tokenizer_without_special_ones():
    lines = [document.text for document in corpus("utterances").held_out][:5000] + ["", "?"]
    tokenizer = train_wordpiece(lines, 1000, "batches")
    ids = tokenize(tokenizer, lines)
    assert all(tokens.dtype == np.int32 for tokens in ids) and ids[-2].shape == (0,)
    assert [t.tolist() for t in ids] == [tokenizer.encode(x, add_special_tokens=False).ids for x in lines]
    assert tokenize(tokenizer, []) == []
    tokenizer.enable_truncation(4)
    with pytest.raises(InputError, match="no_truncation"):
        tokenize(tokenizer, lines)


@given(st.integers(1, 60), st.integers(1, 80), seeds, st.integers(1, 6))
def test_each_epoch_sees_every_example_exactly_once(n, batch_size, seed, epochs):
    steps = -(-n * epochs // batch_size)
    seen = np.concatenate([batch_indices(n, batch_size, seed, step) for step in range(steps)])
    assert seen.dtype == np.int64 and len(seen) == steps * batch_size
    for epoch in range(epochs):
        assert sorted(seen[epoch * n : (epoch + 1) * n].tolist()) == list(range(n))


@given(st.integers(1, 50), st.integers(1, 50), seeds, st.integers(0, 10**6))
def test_a_step_needs_no_other_state(n, batch_size, seed, step):
    epoch_order.cache_clear()
    first = batch_indices(n, batch_size, seed, step)
    epoch_order.cache_clear()
    assert (batch_indices(n, batch_size, seed, step) == first).all()
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    assert first.tolist() == [epoch_order(n, seed, p // n)[p % n] for p in positions]


def test_epochs_and_seeds_differ_and_the_order_is_protected():
    orders = [epoch_order(100, seed, epoch).tolist() for seed in (0, 1, 2**32) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 6
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(100, 0, 0)[0] = 1
    fresh = batch_indices(100, 10, 0, 0)
    fresh[:] = 0  # the caller's own copy
    assert (batch_indices(100, 10, 0, 0) == epoch_order(100, 0, 0)[:10]).all()


def test_the_order_is_the_same_tomorrow():
    assert batch_indices(10, 8, 7, 1).tolist() == [5, 0, 3, 5, 6, 8, 1, 9]


@pytest.mark.parametrize("arguments", [(0, 1, 0, 0), (1, 0, 0, 0), (1, 1, 0, -1), (1, 1, -1, 0)])
def test_arguments_that_make_no_batch_are_refused(arguments):
    with pytest.raises(InputError, match="expected n"):
        batch_indices(*arguments)
