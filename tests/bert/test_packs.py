"""Sentences of any length, cut into packs of one size."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bertcraft.bert.sentences import packs


@given(st.lists(st.integers(1, 60), max_size=80), st.integers(1, 300), st.integers(1, 4))
def test_packs_hold_each_sentence_once_and_are_even(lengths, batch_tokens, threads):
    lengths = np.array(lengths, int)
    cut = packs(lengths, batch_tokens, threads)
    together = np.concatenate([*cut, np.array([], int)])
    assert sorted(together) == list(range(len(lengths)))
    assert (np.diff(lengths[together]) <= 0).all(), "longest first"
    sizes = [int(lengths[part].sum()) for part in cut]
    longest, total = lengths.max(initial=0), lengths.sum()
    assert all(size < batch_tokens + longest for size in sizes)
    count = -(-total // (batch_tokens * threads)) * threads
    if longest * count <= total:  # no sentence is longer than a share
        assert len(cut) == count, "as many for each thread"
        assert max(sizes, default=0) - min(sizes, default=0) <= 2 * longest
