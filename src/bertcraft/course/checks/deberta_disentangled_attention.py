"""Checks of lesson 03: rows of the table, scores read off products, the index of the third term, the scale, a decision."""

import math

import numpy as np

from bertcraft.course.exercises import Exercise, Wrong, decision, same


def _rows_of(rows_of) -> None:
    distance = np.array([[-7, -4, -3, 0], [1, 3, 4, 9]])
    expected = np.clip(distance + 4, 0, 7)
    got = rows_of(distance, 4)
    known = (
        ((distance + 4) % 8, "far distances come round to the other end of the table: they are to be cut, not taken modulo"),
        (np.clip(distance + 4, 0, 8), "distance 4 of reach 4 has row 7, the last of 8: you return 8, which is behind the table"),
        (
            np.clip(4 - distance, 0, 7),
            "the sign is wrong: row 0 is that of the lowest distances i - j, of keys far to the right",
        ),
        (np.clip(np.abs(distance), 0, 7), "before and behind share a row: the table has one for each sign"),
        (distance + 4, "what is farther than the reach has no row of its own: cut it to the first or last one"),
        (np.clip(distance, -4, 3), "these are distances that are cut; a row is counted from 0: add the reach"),
    )
    _told(got, known)
    same(got, expected, "the rows for distances -7 ... 9 and a reach of 4")
    same(rows_of(np.arange(-3, 4), 100), np.arange(97, 104), "the rows for distances -3 ... 3 and a reach of 100")


def _told(got, known) -> None:
    for value, message in known:
        if isinstance(got, np.ndarray) and got.shape == value.shape and np.allclose(got, value, rtol=1e-9):
            raise Wrong(message)


def _read_off(read_off) -> None:
    for length in (1, 4, 6):
        products = np.random.default_rng(length).standard_normal((length, 2 * length - 1))
        i, j = np.arange(length)[:, None], np.arange(length)
        column = i - j + length - 1
        got = read_off(products.copy())
        if length > 1:
            known = (
                (products[i, j - i + length - 1], "you read distance j - i: the distance of query i and key j is i - j"),
                (products[i, i + j], "the distance i - j falls as j grows: turn each window round"),
                (products[i, j + 0 * i], "every row is read from the same column: the window has to move with i"),
                (products[j, column], "the query is the row: products[i, ...], not products[j, ...]"),
                (products[i, column].T, "rows and columns have changed places: [i, j] is query i, key j"),
                (products[i, i - j], "negative columns count from the end: distance d stands in column d + L - 1"),
            )
            _told(got, known)
        same(got, products[i, column], f"the scores of {length} tokens", rtol=1e-9)


def _scores(scores) -> None:
    rng = np.random.default_rng(3)

    def reference(q, k, pos_key, pos_query, there, back):
        return q @ k.T + np.einsum("id,ijd->ij", q, pos_key[there]) + np.einsum("jd,ijd->ij", k, pos_query[back])

    for length, reach in ((3, 8), (7, 3)):
        q, k = rng.standard_normal((2, length, 5))
        tables = rng.standard_normal((2, 2 * reach, 5))
        distance = np.arange(length)[:, None] - np.arange(length)
        cut, back = (np.clip(each + reach, 0, 2 * reach - 1) for each in (distance, -distance))
        expected = reference(q, k, *tables, cut, cut)
        got = scores(q, k, *tables)
        if length > reach:  # the short text has told of the index already
            round_ = (distance + reach) % (2 * reach)
            message = "a text longer than the table: far distances come round to its other end; they are to be cut, (2)"
            wrong = (reference(q, k, *tables, *rows) for rows in ((round_, round_), (round_, cut), (cut, round_)))
            _told(got, ((each, message) for each in wrong))
        _told(got, (
            (reference(q, k, *tables, cut, back),
             "the third term has the paper's index, j - i: released weights want q_pi of i - j there as well"),
            (reference(q, k, *tables, back, back), "both terms read distance j - i: (4) has i - j in both"),
            (reference(q, k, *tables, back, cut), "the second term reads distance j - i: (4) has i - j"),
            (expected - q @ k.T, "the words' own term q k is missing"),
            (expected / math.sqrt(15), "these are divided by the root of 3 D: the sum alone is wanted"),
        ))  # fmt: skip
        same(got, expected, f"the scores of {length} tokens, a table of 2 x {reach} rows", rtol=1e-9)


def _divisor(divisor) -> None:
    for size, terms, variance in ((64, 1, 1.0), (64, 2, 0.25), (16, 0, 3.0), (32, 2, 4.0)):
        right = math.sqrt(size * (1 + terms * variance))
        known = {
            math.sqrt(3 * size): "that is DeBERTa's own, for two more terms of variance 1: how many are there here?",
            size * (1 + terms * variance): "that is the variance; scores are divided by its root",
            math.sqrt(size * (1 + terms)): "that holds for variance 1: what is the variance of a product of two numbers?",
            math.sqrt(size * (1 + terms * variance**2)): (
                "in each term one factor is a word's, of variance 1: the product has the variance of the other, not its square"
            ),
            math.sqrt(size): "that is for one term alone: the words' own term counts, and so does each other one",
        }
        got = divisor(size, terms, variance)
        for value, message in known.items():
            near = isinstance(got, (int, float, np.number)) and math.isclose(got, value, rel_tol=1e-9)
            if near and not math.isclose(value, right, rel_tol=1e-9):
                raise Wrong(message)
        same(got, right, f"the divisor for D = {size}, {terms} more terms of variance {variance}", rtol=1e-9)


EXERCISES = (
    Exercise(
        "rows_of", "Which row?", 1, _rows_of,
        ("The nearest thing in NumPy to a minimum of a maximum is np.clip.", "np.clip(distance + reach, lowest row, last row)"),
    ),
    Exercise(
        "read_off", "Read it off", 2, _read_off,
        (
            "Write i in a column and j in a row; i - j is then an array (L, L).",
            "Distance d stands in column d + L - 1. products[rows, columns] picks a number for each pair.",
        ),
    ),
    Exercise(
        "scores", "Find the bug", 2, _scores,
        (
            "Compare the two index arrays with (4): which distance does each term read?",
            "What is (distance + reach) % (2 * reach) for a distance of `reach`? And what should it be, by (2)?",
        ),
    ),
    Exercise(
        "divisor", "How soft at the start?", 1, _divisor,
        (
            "The variance of a product of two independent numbers of mean 0 is the product of their variances.",
            "The words' own term has variance D; each other one D times the variance of the distances' numbers. Add them up.",
        ),
    ),
    Exercise(
        "positions", "Which positions?", 2,
        decision({
            "arm": {
                "numbers": "",
                "absolute": "rows of 256 cost it 2.1 nats, and the team's texts have up to 300 tokens",
                "disentangled": "it is 0.05 better for as many operations, but a step takes 44 % longer: what is that worth?",
            },
            "because": {
                "b": "",
                "a": "operations are not what limits them: their week is counted in hours",
                "c": "the fastest step is that of absolute positions",
            },
            "not_absolute": {
                "a": "",
                "b": "look at the last column, and at how long their texts are",
                "c": "its step is the fastest of the three",
            },
            "unless": {
                "a": "",
                "b": "that -0.05 is real does not make it larger than the 0.11 that the time is worth",
                "c": "a sixth seed makes intervals a little narrower; no choice hangs on their width",
            },
        }),
        ("What does a step of the disentangled arm cost, in steps of the arm with numbers?",
         "0.05 at equal operations; and 0.11 for half as much time again. Which is more?"),
    ),
)  # fmt: skip
