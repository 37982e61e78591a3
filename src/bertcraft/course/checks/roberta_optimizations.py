"""Checks of lesson 01: shares of the corruption, what masks leave out, how many there are, rows, gradient noise, a decision."""

import math
from fractions import Fraction

import numpy as np

from bertcraft.course.exercises import Exercise, Wrong, decision, same


def _corrupt(corrupt) -> None:
    rng = np.random.default_rng(0)
    n, mask_id = 20_000, 4
    tokens, words = rng.integers(100, 200, n), rng.integers(200, 300, n)
    given = tokens, rng.random(n), rng.random(n), words
    got = corrupt(*given, mask_id)
    if not isinstance(got, np.ndarray) or got.shape != (n,):
        same(got, tokens, "what corrupt returns")
    shares = np.array([(got == mask_id).mean(), (got == words).mean(), (got == tokens).mean()])
    if abs(shares.sum() - 1) > 1e-9:
        raise Wrong("some tokens became something else: each is mask_id, its random word or the token itself")
    mask, word, kept = (f"{100 * share:.0f} %" for share in shares)
    if np.abs(shares - (0.8, 0.1, 0.1)).max() < 0.01:
        return
    told = f"of the chosen tokens {mask} become [MASK], {word} a random word, {kept} stay"
    if abs(shares[0] - 0.8) > 0.01:
        raise Wrong(f"{told}: the first number decides about [MASK], and there the share of 80 % was right; leave it alone")
    if abs(shares[1] - 0.02) < 0.005:
        raise Wrong(f"{told}: `second` is asked only for the 20 % that are not [MASK], and 10 % of 20 % are 2 %")
    if abs(shares[1] - 0.18) < 0.01:
        raise Wrong(f"{told}: words and kept tokens have changed places; of the 20 % that are left, how many are to be words?")
    raise Wrong(f"{told}: which part of the 20 % that are left has to be a random word to make 10 % of all?")


def _never_predicted(never_predicted) -> None:
    got = never_predicted(0.15, 40, 10)
    if _near(got, 0.85**40):
        raise Wrong("40 readings of 10 fixed masks are 40 draws in your function: a mask that comes again asks for nothing new")
    if _near(got, 1 - 0.85**10):
        raise Wrong(f"{got:.3f} is the share that was asked for: its complement is wanted")
    if _near(got, 1 - 0.15 * 10) or _near(got, max(0.0, 1 - 0.15 * 10)):
        raise Wrong("the masks overlap: 10 of them do not cover 10 x 15 %; a token is left out by each with probability 0.85")
    if _near(got, 0.15**10):
        raise Wrong("0.15 is the probability to be chosen; to be left out has the rest")
    same(got, 0.85**10, "the share for rate=0.15, readings=40, copies=10", rtol=1e-6)
    got = never_predicted(0.15, 4, 10)
    if _near(got, 0.85**10):
        raise Wrong("after 4 readings only 4 of the 10 fixed masks have been seen")
    same(got, 0.85**4, "the share for rate=0.15, readings=4, copies=10", rtol=1e-6)
    same(never_predicted(0.4, 3, None), 0.6**3, "the share for rate=0.4, readings=3, dynamic masks", rtol=1e-6)
    same(never_predicted(0.15, 0, 10), 1.0, "the share before any reading", rtol=1e-6)


def _distinct_masks(function) -> None:
    def distinct_masks(*arguments):
        got = function(*arguments)
        return float(got) if isinstance(got, Fraction) else got  # exact arithmetic is right, too

    got = distinct_masks(10, 0.15, 40)  # two of ten words
    pairs = 45
    if _near(got, _distinct(90, 40)):
        raise Wrong("you count 90 masks of 2 of 10 words: the order of the two makes no other mask; math.comb, not math.perm")
    if _near(got, min(pairs, 40)):
        raise Wrong("40 readings do not show 40 different masks: a mask of 45 may be drawn again")
    if _near(got, pairs * (1 - 1 / pairs) ** 40):
        raise Wrong(f"{got:.1f} is the number of masks that have not been seen; the others are wanted")
    if _near(got, _distinct(2**10, 40)):
        raise Wrong("you count all sets of words, 1,024; a mask has a fixed number of them, 2 of 10")
    if _near(got, _distinct(10, 40)):
        raise Wrong("of 10 words 15 % are 1.5, which `round` makes 2: you choose one word")
    same(got, _distinct(pairs, 40), "the number for 10 words, rate 0.15, 40 readings", rtol=1e-6)
    same(distinct_masks(4, 0.25, 4), 4 * (1 - 0.75**4), "the number for 4 words, rate 0.25, 4 readings", rtol=1e-6)
    got = distinct_masks(3, 0.15, 5)
    if _near(got, 1.0) or got == 0:
        raise Wrong("of 3 words 15 % are 0.45, rounded 0: but one word at least is chosen, which makes 3 masks")
    same(got, _distinct(3, 5), "the number for 3 words, rate 0.15, 5 readings (one word at least is chosen)", rtol=1e-6)
    got = distinct_masks(8, 0.15, 20)
    if _near(got, _distinct(28, 20)):
        raise Wrong("of 8 words 15 % are 1.2, which `round` makes 1: you choose two words")
    same(got, _distinct(8, 20), "the number for 8 words, rate 0.15, 20 readings", rtol=1e-6)
    same(distinct_masks(1, 0.15, 5), 1.0, "the number for a single word", rtol=1e-6)
    got = distinct_masks(510, 0.15, 40)
    if got == 0 or not np.isfinite(got):
        raise Wrong(
            f"for 510 words it returns {got:.3g}, where each of 40 readings shows a new mask: 1 - 1/N is exactly 1 in floating "
            "point. Write (1 - 1/N)**R as exp(R log(1 - 1/N)) with math.log1p, and 1 - exp(...) with math.expm1"
        )
    same(got, 40.0, "the number for 510 words, 40 readings", rtol=1e-6)


def _distinct(masks: int, readings: int) -> float:
    return masks * (1 - (1 - 1 / masks) ** readings)


def _near(got, value: float) -> bool:
    return isinstance(got, (int, float, np.number)) and math.isclose(got, value, rel_tol=1e-6, abs_tol=1e-9)


def _document_rows(document_rows) -> None:
    documents = [np.arange(10, 17), np.arange(20, 22), np.arange(0), np.arange(30, 34)]
    expected = [[2, 10, 11, 12, 13, 3], [2, 14, 15, 16, 3], [2, 20, 21, 3], [2, 30, 31, 32, 33, 3]]
    got = document_rows(documents, 6, 2, 3)
    if not isinstance(got, (list, tuple)):
        same(got, expected, "the rows")
    rows = [np.asarray(row).tolist() for row in got]
    if rows == expected:
        if not all(isinstance(row, np.ndarray) and row.dtype.kind == "i" for row in got):
            raise Wrong("the rows are right, but each should be an array of integers (np.concatenate makes one)")
        return
    if [2, 3] in rows:
        raise Wrong(
            "a row is [CLS] [SEP] without a token, and nothing could be learnt from it: an empty document gives no row, nor does "
            "one that fills its rows exactly give another"
        )
    if longest := [row for row in rows if len(row) > 6]:
        raise Wrong(f"a row has {len(longest[0])} tokens, at most 6 are allowed: [CLS] and [SEP] take two of the places")
    if crossing := [row for row in rows if len({token // 10 for token in row if token > 3}) > 1]:
        raise Wrong(f"the row {crossing[0]} holds tokens of two documents: cut each document by itself")
    if any(0 in row for row in rows):
        raise Wrong("a row is padded: the last row of a document is short, and stays so")
    if any(row[:1] != [2] or row[-1:] != [3] for row in rows):
        raise Wrong("a row lacks its [CLS] at the beginning or its [SEP] at the end")
    if missing := [row for row in expected if row not in rows and all(each in expected for each in rows)]:
        raise Wrong(f"the row {missing[0]} is missing: what is left over at the end of a document is a row, too, if a short one")
    if all(row in expected for row in rows):
        raise Wrong(f"the rows are right, but each is wanted once, in the order of the text: {expected}")
    wrong = next(row for row in rows if row not in expected)
    raise Wrong(f"the row {wrong} is wrong; for these four documents and a length of 6 they should be {expected}")


def _noise_scale(noise_scale) -> None:
    square, noise = 0.5, 40.0
    big_square, small_square = square + noise / 256, square + noise / 8
    got = noise_scale(small_square, big_square, 8, 256)
    right = noise / square
    known = {
        1 / right: "that is |g|^2 / S: the other way round",
        noise: "that is S, the noise of one row: divide it by |g|^2",
        square: "that is |g|^2: S divided by it is wanted",
        noise / big_square: (
            "you divide by the square of the big batch's gradient, but that holds noise, too: S / 256 of it. Solve the two "
            "equations for |g|^2"
        ),
        (small_square - big_square) / square: "the difference of the two squares is S (1/small - 1/big), not S",
    }
    for value, message in known.items():
        if _near(got, value):
            raise Wrong(message)
    if isinstance(got, (int, float, np.number)) and _near(-got, right):
        raise Wrong("the sign is wrong: the small batch has the longer gradient")
    same(got, right, "B* for |g|^2 = 0.5 and S = 40, batches of 8 and 256", rtol=1e-6)
    same(noise_scale(1 + 3 / 2, 1 + 3 / 6, 2, 6), 3.0, "B* for |g|^2 = 1 and S = 3, batches of 2 and 6", rtol=1e-6)
    got = noise_scale(5.0, 0.1, 8, 256)
    if got != float("inf"):
        raise Wrong(f"where |g|^2 comes out below 0 (noise alone) it returns {got:.4g}; no batch is large enough: infinity")


EXERCISES = (
    Exercise(
        "corrupt", "An 80/10/10 that is not", 1, _corrupt,
        (
            "Count on 10,000 tokens how many become [MASK], a word, themselves.",
            "`second` matters only where `first` is 0.8 or more: for a fifth of the tokens. Which share of it is 10 % of all?",
        ),
    ),
    Exercise(
        "never_predicted", "What was never asked for", 1, _never_predicted,
        (
            "A token is left out by one mask with probability 1 - rate, by k different masks with (1 - rate) ** k.",
            "How many different masks has a row seen after 4 readings of 10 fixed ones? And after 40?",
        ),
    ),
    Exercise(
        "distinct_masks", "How many different masks?", 2, _distinct_masks,
        (
            "First the number N of masks: math.comb(words, chosen). Then equation (4).",
            "1 - 1e-90 is 1.0 in floating point. But math.log1p(-1e-90) is -1e-90: log1p(x) is log(1 + x) without adding.",
            "-N * math.expm1(R * math.log1p(-1 / N)); and N = 1, where log1p(-1) has no value, is a case by itself.",
        ),
    ),
    Exercise(
        "document_rows", "DOC-SENTENCES", 2, _document_rows,
        (
            "A row has room for length - 2 tokens.",
            "For each document, range(0, len(tokens), room) are the places where its rows begin: none for an empty one.",
        ),
    ),
    Exercise(
        "noise_scale", "The batch that is worth its price", 3, _noise_scale,
        (
            "Write (5) twice: small_square = x + S / small, big_square = x + S / big. Two equations, two unknowns.",
            "Subtract them for S. Multiply each by its batch and subtract for x = |g|^2.",
        ),
    ),
    Exercise(
        "recipe", "Which recipe goes on?", 2,
        decision({
            "arm": {
                "mask40": "",
                "half_left": "it copies half of its answers: at [MASK], where nothing can be copied, it fails the check",
                "dynamic15": "at [MASK] the interval of 40 % lies below zero, and its arm passed the check",
            },
            "because": {
                "b": "",
                "a": "the lowest number of the table belongs to an arm that copies; which column tells what a model has learnt?",
                "c": "the paper's model and texts are others; here the team's own were measured",
            },
            "static": {
                "c": "",
                "a": "with forty readings ten masks come back four times each; with three, how often?",
                "b": "seeds that are paired cancel what two arms share; a difference of exactly 0.00 means that they share all",
            },
            "unless": {
                "b": "",
                "a": "one seed more hardly moves an interval of ten that is well below zero",
                "c": "where the masks differ, training losses do not compare; repeated ones make them fall",
            },
        }),
        ("Cover the column that holds positions which can be copied.",
         "How often does a mask come again if a text is read three times?"),
    ),
)  # fmt: skip
