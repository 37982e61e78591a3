"""Checks of lesson 10: who sees whom, weights under a limit, who has heard of whom, the scores of a band, a decision."""

import tracemalloc

import numpy as np

from bertcraft.course.exercises import Exercise, Wrong, decision, same


def _pattern(length, window, dilation=1, global_tokens=0):
    seen = np.zeros((length, length), bool)
    for i in range(length):
        for step in range(-window, window + 1):
            if 0 <= i + step * dilation < length:
                seen[i, i + step * dilation] = True
    seen[:global_tokens], seen[:, :global_tokens] = True, True
    return seen


def _visible(visible) -> None:
    got = visible(7, 2)
    if isinstance(got, np.ndarray) and got.shape == (7, 7):
        got = _booleans(got, "visible")
        if np.array_equal(got, _pattern(7, 1)):
            raise Wrong(
                "a window of 2 means 2 places to either side (|i - j| <= 2); you see 1: < instead of <=, or half the window?"
            )
        if np.array_equal(got, np.tril(_pattern(7, 2))) or np.array_equal(got, np.triu(_pattern(7, 2))):
            raise Wrong("you look to one side only: BERT reads both, the distance is the absolute value of i - j")
        if not got.diagonal().any():
            raise Wrong("a token sees itself, too: distance 0 is within every window")
    same(got, _pattern(7, 2), "the window of visible(7, 2)")
    got = _booleans(visible(10, 2, 3), "visible")
    if np.array_equal(got, _pattern(10, 6)):
        raise Wrong("with dilation 3 only distances 0, 3 and 6 are seen; you see all up to 6")
    if np.array_equal(got, np.abs(np.subtract.outer(np.arange(10), np.arange(10))) % 3 == 0):
        raise Wrong("with a window of 2 and dilation 3 a token sees 2 places to either side, up to distance 6; yours has no end")
    if np.array_equal(got, (np.abs(np.subtract.outer(np.arange(10), np.arange(10))) % 3 == 0) & _pattern(10, 2)):
        raise Wrong("the window counts places, `dilation` tokens apart: it reaches to distance window * dilation")
    same(got, _pattern(10, 2, 3), "the pattern of visible(10, 2, dilation=3)")
    got, expected = _booleans(visible(8, 1, 1, 2), "visible"), _pattern(8, 1, 1, 2)
    if not np.array_equal(got, expected):
        if got[:2].all() and not got[:, :2].all():
            raise Wrong("global tokens see all, but they are not seen by all: their columns are true as well as their rows")
        if got[:, :2].all() and not got[:2].all():
            raise Wrong("global tokens are seen by all, but do not see all: their rows are true as well as their columns")
        if not (got & _pattern(8, 1))[2:, 2:].any():
            raise Wrong("the other tokens have lost their windows: global tokens come in addition (|, not &)")
    same(got, expected, "the pattern of visible(8, 1, global_tokens=2)")
    got, expected = _booleans(visible(10, 2, 3, 1), "visible"), _pattern(10, 2, 3, 1)
    if np.array_equal(got, expected & _pattern(10, 10, 3)):
        raise Wrong(
            "the dilation is the window's: a global token sees all and is seen by all, at distances between its steps, too"
        )
    same(got, expected, "the pattern of visible(10, 2, dilation=3, global_tokens=1)")


def _booleans(got, name: str):
    if isinstance(got, np.ndarray) and got.dtype != bool and set(np.unique(got)) <= {0, 1}:
        raise Wrong(f"{name} is to return booleans, not {got.dtype}: leave out the conversion")
    return got


def _attention_weights(attention_weights) -> None:
    rng = np.random.default_rng(0)
    scores, seen = rng.standard_normal((6, 6)) - 1.0, _pattern(6, 1)
    expected = np.where(seen, np.exp(scores), 0)
    expected /= expected.sum(axis=1, keepdims=True)
    got = attention_weights(scores, seen)
    if isinstance(got, np.ndarray) and got.shape == (6, 6) and got.dtype.kind == "f" and not np.allclose(got, expected):
        if np.allclose(got.sum(axis=0), 1):
            raise Wrong("the columns sum to 1, not the rows: the softmax is over the keys, the last axis")
        if (got[~seen] > 0).any() and np.allclose(got.sum(axis=1), 1):
            if np.allclose(got, _softmax(np.where(seen, -np.inf, scores), ~seen)):
                raise Wrong("you hide what may be seen and see what is hidden: `seen` is true where a weight is allowed")
            share = got[~seen].sum() / got.sum()
            raise Wrong(
                f"{100 * share:.0f} % of the weight goes to tokens that may not be seen: a score of 0 is an ordinary score, and "
                "e^0 is 1. Which score has the weight 0?"
            )
        if not np.allclose(got.sum(axis=1), 1) and not got[~seen].any():
            raise Wrong(
                "nothing hidden is seen, but the rows do not sum to 1: hide before the softmax, which divides by what is left"
            )
    same(got, expected, "the weights")
    scores[:, 0] = 900.0  # a hidden score that is larger than all others
    got = attention_weights(scores, seen)
    expected = _softmax(np.where(seen, scores, -np.inf), seen)
    if isinstance(got, np.ndarray) and not np.isfinite(got).all():
        raise Wrong("with large scores the weights are not finite: subtract the largest score that may be seen before np.exp")
    same(got, expected, "the weights where a score is 900")


def _softmax(scores, seen):
    weights = np.where(seen, np.exp(scores - np.max(scores, axis=1, keepdims=True)), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def _reached(reached) -> None:
    seen = _pattern(12, 2)
    got = reached(seen, 3)
    if isinstance(got, np.ndarray) and got.dtype == bool and got.shape == (12, 12):
        for layers, what in ((1, "one layer"), (2, "two layers"), (4, "four layers")):
            if np.array_equal(got, _pattern(12, 2 * layers)):
                raise Wrong(f"for three layers of a window of 2 it returns what {what} reach: distance {2 * layers}, expected 6")
    elif isinstance(got, np.ndarray) and got.dtype.kind in "iuf":
        raise Wrong("the number of ways is not asked for, only whether there is one: booleans (> 0)")
    same(got, _pattern(12, 6), "what three layers of a window of 2 reach")
    same(reached(seen, 0), np.eye(12, dtype=bool), "what no layer at all reaches: each token itself")
    one_way = np.tril(_pattern(8, 1))  # a token sees itself and the one before it
    got = reached(one_way, 2)
    if isinstance(got, np.ndarray) and np.array_equal(got, np.tril(_pattern(8, 2)).T):
        raise Wrong("row and column have changed places: with `seen` i sees j (row i), so the news goes from j to i")
    same(got, np.tril(_pattern(8, 2)), "what two layers reach when a token sees itself and the one before")
    got = reached(_pattern(40, 3), 40)
    if isinstance(got, np.ndarray) and got.dtype == bool and not got.all():
        raise Wrong(
            "after 40 layers some are not reached that were reached before: the numbers of ways overflow; turn them into "
            "booleans after each layer"
        )
    same(got, np.ones((40, 40), bool), "what 40 layers of a window of 3 reach in 40 tokens")


def _band_scores(band_scores) -> None:
    rng = np.random.default_rng(0)
    query, key = rng.standard_normal((9, 4)), rng.standard_normal((9, 4))
    full = query @ key.T
    columns = np.arange(9)[:, None] - 2 + np.arange(5)
    inside = (columns >= 0) & (columns < 9)
    raw = np.take_along_axis(full, columns % 9, axis=1)
    expected = np.where(inside, raw / 2, -np.inf)
    got = band_scores(query, key, 2)
    if isinstance(got, np.ndarray) and got.shape == (9, 5) and got.dtype.kind == "f":
        if np.allclose(got, raw / 2):
            raise Wrong("the first token sees the last: the text is no ring (np.roll?); outside of it the scores are -inf")
        if np.allclose(np.where(inside, got, 0), np.where(inside, raw, 0)):
            raise Wrong("the scores are not divided by sqrt(D), here 2")
        if np.allclose(got, np.where(inside, raw / 2, 0)):
            raise Wrong("outside of the text stands 0: that is an ordinary score, and would get a weight. It has to be -inf")
        if np.allclose(got[:, ::-1], expected):
            raise Wrong("the offsets run the wrong way: the first column is for j = i - window, the last for i + window")
    elif isinstance(got, np.ndarray) and got.shape == (9, 9):
        raise Wrong("it returns scores of all pairs, (L, L); asked for are 2 * window + 1 of each token")
    same(got, expected, "the scores of 9 tokens, window 2")
    short = np.arange(3)[:, None] - 5 + np.arange(11)
    wide = np.where((short >= 0) & (short < 3), np.take_along_axis(query[:3] @ key[:3].T, short % 3, axis=1) / 2, -np.inf)
    same(band_scores(query[:3], key[:3], 5), wide, "the scores of 3 tokens, window 5 (wider than the text)")
    n = 3000
    query = rng.standard_normal((n, 4))
    tracemalloc.start()
    try:
        band_scores(query, query, 2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if peak > n * n / 2:  # of booleans alone it would be twice that
        raise Wrong(
            f"right, but for {n:,} tokens it takes {peak / 1e6:.0f} MB at once: an array of L x L is hidden in it; do without"
        )


EXERCISES = (
    Exercise(
        "visible", "Who sees whom", 1, _visible,
        (
            "np.abs(place[:, None] - place) with place = np.arange(length) holds all distances.",
            "A distance is seen if it is at most window * dilation and a multiple of dilation.",
            "is_global[:, None] are the rows of global tokens, is_global the columns; | joins.",
        ),
    ),
    Exercise(
        "attention_weights", "Zero is not nothing", 1, _attention_weights,
        (
            "Which weight has a token with a score of 0 beside one with a score of -2?",
            "np.exp(-np.inf) is 0. np.where(seen, scores, ...) puts it where it belongs.",
        ),
    ),
    Exercise(
        "reached", "Who has heard of whom", 2, _reached,
        (
            "After one layer i has heard of j if it sees j. After two: if it sees someone who has heard of j.",
            "(A @ B)[i, j] counts the m for which A[i, m] and B[m, j]: the matrix product of booleans as integers.",
            "Start from np.eye(n, dtype=bool); in each layer heard = (seen.astype(int) @ heard) > 0.",
        ),
    ),
    Exercise(
        "band_scores", "The band, without the square", 3, _band_scores,
        (
            "np.pad(key, [(window, window), (0, 0)]): then the keys of token i are the rows i to i + 2 * window.",
            "sliding_window_view(padded, 2 * window + 1, axis=0) is a view (L, D, 2 * window + 1), with no copy.",
            'np.einsum("nd,ndc->nc", query, keys) / np.sqrt(D); and -np.inf where j = i - window + c is outside of 0 ... L - 1.',
        ),
    ),
    Exercise(
        "take", "Which model reads the contracts?", 2,
        decision({
            "arm": {
                "fused": "",
                "cut": "the fused dense arm is better by 3.1 points, surely more than 0, and a point is worth ten steps",
                "global": "it is dearer than fused dense attention, and the interval of their difference holds 0",
                "window": "its gain over cutting has an interval that holds 0, at eleven times the cost",
            },
            "because": {
                "b": "",
                "a": "linear says how it grows; at 4,096 tokens the last column has the window as the dearer one",
                "c": "the interval of their difference holds 0: neither is shown to be better",
            },
            "unless": {
                "a": "",
                "b": "other texts and another rival: in 2020 it was RoBERTa in pieces of 512, not fused dense attention",
                "c": "one seed of six is no surprise, and the interval knows of the spread between seeds",
            },
        }),
        (
            "Which gains over cutting have an interval above 0?",
            "Of two arms that cannot be told apart, take the cheaper one: the last column.",
        ),
    ),
)  # fmt: skip
