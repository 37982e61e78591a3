"""Lesson 01: its equations by independent naive functions, exercises by right and wrong answers, numbers that its text states."""

import itertools
import math

import numpy as np
import pytest
from tests.course.lessons import altered, solution, stub, told

from bertcraft.bert import Config, initial_params
from bertcraft.course import measured
from bertcraft.lab import statistics, verdicts
from bertcraft.lab.experiments import roberta_optimizations as module
from bertcraft.techniques import roberta_optimizations as technique

SLUG = "roberta_optimizations"
VOCABULARY = {"mask_id": 4, "vocab_size": 30, "first_word_id": 5}


# ------------------------------------------------------------------------------------------------------- the equations


def small_model(head="masked_lm"):
    config = Config(
        family="bert", head=head, vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=12, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return config, initial_params(config, 0)


def test_equation_1_is_the_mean_surprise_at_the_chosen_places():
    from bertcraft.bert import encoder, heads

    config, params = small_model()
    ids = np.random.default_rng(0).integers(5, 30, (3, 9))
    masked = technique.mask_tokens(ids, np.random.default_rng(1).random((3, 27)), rate=0.3, **VOCABULARY)
    logits = heads.masked_lm_logits(params, config, encoder.encode(params, config, masked.input_ids)).astype(np.float64)
    surprise = []
    for row, position, word in zip(
        np.repeat([0, 1, 2], masked.at.shape[1]), masked.at.ravel(), masked.labels.ravel(), strict=True
    ):
        p = [math.exp(z) for z in logits[row, position]]
        surprise.append(-math.log(p[word] / sum(p)))
    got = technique.masked_lm_loss(params, masked._asdict(), None, config)
    assert float(got) == pytest.approx(sum(surprise) / len(surprise), rel=1e-5)


def test_equation_2_by_a_die_for_each_chosen_token():
    """The same numbers, taken one token at a time."""
    rng = np.random.default_rng(2)
    ids, numbers = rng.integers(5, 30, (200, 10)), rng.random((200, 30))
    masked = technique.mask_tokens(ids, numbers, rate=0.5, **VOCABULARY)
    for row in range(200):
        order, kind, word = numbers[row, :10], numbers[row, 10:20], numbers[row, 20:]
        expected = list(ids[row])
        for position in sorted(range(10), key=lambda i: order[i])[:5]:
            if kind[position] < 0.8:
                expected[position] = 4
            elif kind[position] < 0.9:
                expected[position] = 5 + math.floor(25 * word[position])
        assert masked.input_ids[row].tolist() == expected


@pytest.mark.parametrize("copies", [None, 1, 3])
def test_equation_3_by_counting_all_sequences_of_masks(copies):
    """Four tokens of which one is chosen, five readings: every sequence of masks is equally likely."""
    readings, drawn = 5, 5 if copies is None else copies
    never = total = 0
    for masks in itertools.product(range(4), repeat=drawn):
        read = [masks[technique.reading_number(np.array([n]), copies)[0]] for n in range(readings)]
        never += 4 - len(set(read))
        total += 4
    assert solution(SLUG, "never_predicted")(0.25, readings, copies) == pytest.approx(never / total)


def test_equation_4_by_counting_all_sequences_of_masks():
    masks = list(itertools.combinations(range(4), 2))  # six
    seen = [len(set(sequence)) for sequence in itertools.product(masks, repeat=4)]
    assert solution(SLUG, "distinct_masks")(4, 0.5, 4) == pytest.approx(np.mean(seen))


def test_equations_5_and_6_for_a_die_with_known_moments():
    """A gradient of two numbers that takes four values: batches of 1, 2 and 3 are all written out."""
    values = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [-1.0, 1.0]])
    mean = values.mean(axis=0)
    noise = np.mean([((v - mean) ** 2).sum() for v in values])
    squares = {}
    for batch in (1, 2, 3):
        means = [np.mean(rows, axis=0) for rows in itertools.product(values, repeat=batch)]
        assert np.mean([((m - mean) ** 2).sum() for m in means]) == pytest.approx(noise / batch)
        squares[batch] = np.mean([(m**2).sum() for m in means])
        assert squares[batch] == pytest.approx((mean**2).sum() + noise / batch)
    assert solution(SLUG, "noise_scale")(squares[1], squares[3], 1, 3) == pytest.approx(noise / (mean**2).sum())


def test_equation_7_adds_the_surprise_at_the_answer_to_equation_1():
    from bertcraft.bert import encoder, heads

    config, params = small_model("pretraining")
    rng = np.random.default_rng(0)
    documents = [[rng.integers(5, 30, 3) for _ in range(3)] for _ in range(2)]
    pairs = technique.sentence_pairs(documents, 9, 2, 3, 0, rng)
    masked = technique.mask_tokens(pairs.input_ids, rng.random((len(pairs.labels), 27)), **VOCABULARY)
    batch = {**masked._asdict(), "token_type_ids": pairs.token_type_ids}
    hidden = encoder.encode(params, config, masked.input_ids, None, pairs.token_type_ids)
    surprise = []
    for z, answer in zip(heads.next_sentence_logits(params, config, hidden).astype(np.float64), pairs.labels, strict=True):
        surprise.append(math.log(math.exp(z[0]) + math.exp(z[1])) - z[answer])
    both = technique.masked_lm_and_next_sentence_loss(params, {**batch, "next_sentence": pairs.labels}, None, config)
    words = technique.masked_lm_loss(params, batch, None, config)
    assert float(both) == pytest.approx(float(words) + np.mean(surprise), rel=1e-5)


# ------------------------------------------------------------------------------------------------------- the exercises


WRONG = [
    ("corrupt", "second < 0.5", "second < 0.18", "which part of the 20 %"),
    ("corrupt", "second < 0.5", "second < 0.9", "have changed places"),
    ("corrupt", "first < 0.8", "first < 0.9", "leave it alone"),
    ("corrupt", "is_word, words, tokens", "is_word, words + 1000, tokens", "became something else"),
    ("never_predicted", "min(readings, copies)", "readings", "a mask that comes again asks for nothing new"),
    ("never_predicted", "min(readings, copies)", "copies", "only 4 of the 10"),
    ("never_predicted", "return (1 - rate) ** draws", "return 1 - (1 - rate) ** draws", "its complement is wanted"),
    ("never_predicted", "(1 - rate) ** draws", "1 - rate * draws", "the masks overlap"),
    ("never_predicted", "(1 - rate) ** draws", "rate ** draws", "to be left out has the rest"),
    ("distinct_masks", "math.comb(", "math.perm(", "math.comb, not math.perm"),
    ("distinct_masks", "-masks * math.expm1(readings * math.log1p(-1 / masks))", "min(masks, readings)", "drawn again"),
    (
        "distinct_masks", "-masks * math.expm1(readings * math.log1p(-1 / masks))", "masks * (1 - (1 - 1 / masks) ** readings)",
        "math.log1p",
    ),
    (
        "distinct_masks", "-masks * math.expm1(readings * math.log1p(-1 / masks))", "masks * (1 - 1 / masks) ** readings",
        "have not been seen",
    ),
    ("distinct_masks", "max(1, round(rate * words))", "round(rate * words)", "one word at least"),
    ("distinct_masks", "max(1, round(rate * words))", "max(1, math.floor(rate * words))", "which `round` makes 2"),
    ("distinct_masks", "max(1, round(rate * words))", "math.ceil(rate * words)", "which `round` makes 1"),
    ("document_rows", "for tokens in documents:", "for tokens in [np.concatenate(documents)]:", "tokens of two documents"),
    ("document_rows", "range(0, len(tokens), room)", "range(0, len(tokens) - room + 1, room)", "left over at the end"),
    ("document_rows", "length - 2, []", "length, []", "[CLS] and [SEP] take two"),
    ("document_rows", "range(0, len(tokens), room)", "range(0, max(len(tokens), 1), room)", "an empty document"),
    ("document_rows", "range(0, len(tokens), room)", "range(0, len(tokens) + (len(tokens) > 0), room)", "fills its rows exactly"),
    ("document_rows", "[sep_id]]))", "[sep_id], [0] * (room - len(tokens[start:]))]))", "a row is padded"),
    ("document_rows", "return rows", "return rows[::-1]", "in the order of the text"),
    ("document_rows", "return rows", "return rows + rows[-1:]", "each is wanted once"),
    ("noise_scale", "noise / square", "square / noise", "the other way round"),
    ("noise_scale", "(big * big_square - small * small_square) / (big - small)", "big_square", "holds noise, too"),
    ("noise_scale", " / (1 / small - 1 / big)", "", "not S"),
    ("noise_scale", "if square > 0 else float(\"inf\")", "", "infinity"),
    ("noise_scale", "(1 / small - 1 / big)", "(1 / big - 1 / small)", "the sign is wrong"),
    ("recipe", '"arm": "mask40"', '"arm": "half_left"', "where nothing can be copied"),
    ("recipe", '"arm": "mask40"', '"arm": "dynamic15"', "lies below zero"),
    ("recipe", '"because": "b"', '"because": "a"', "belongs to an arm that copies"),
    ("recipe", '"static": "c"', '"static": "a"', "with three, how often?"),
    ("recipe", '"unless": "b"', '"unless": "c"', "training losses do not compare"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "message"), WRONG)
def test_a_wrong_answer_is_told_why(name, old, new, message):
    state, text = told(SLUG, name, altered(SLUG, name, old, new))
    assert state == "wrong"
    assert message in text


def test_exact_arithmetic_is_as_right_as_expm1():
    """Fractions do not round, so the naive form of equation (4) is right in them."""
    naive = "float(masks * (1 - (1 - __import__('fractions').Fraction(1, masks)) ** readings))"
    for answer in (naive, naive.removeprefix("float")):
        right = altered(SLUG, "distinct_masks", "-masks * math.expm1(readings * math.log1p(-1 / masks))", answer)
        assert told(SLUG, "distinct_masks", right)[0] == "solved"


def test_the_bug_to_be_found_is_told_what_it_does():
    state, text = told(SLUG, "corrupt", stub(SLUG, "corrupt"))
    assert state == "wrong"
    assert "80 % become [MASK], 2 % a random word, 18 % stay" in text
    assert "10 % of 20 % are 2 %" in text


# ----------------------------------------------------------------------------------------------------------- the pages


def test_what_the_lesson_says_of_the_stored_runs():
    experiment, runs = module.EXPERIMENT, measured.runs(SLUG)
    assert verdicts.primary(experiment, runs).verdict == statistics.REPRODUCED
    found = {each.comparison.treatment: each for each in verdicts.outcomes(experiment, runs) if each.comparison.metric == "loss"}
    assert [round(found[arm].interval.mean, 2) for arm in ("dynamic", "dynamic_20")] == [-0.19, -0.03]
    checked = {each.arm: each for each in verdicts.checked(experiment, runs)}
    assert [round(checked[arm].value, 2) for arm in ("static10", "dynamic")] == [-0.64, -0.83]
    failed = {arm for arm, each in checked.items() if not each.passed}
    assert failed == {"static1", "static10_80", "dynamic_80"}
    kept = [np.mean([run["figures"]["loss_kept"] for run in runs if run["arm"] == arm]) for arm in failed]
    assert [round(min(kept), 1), round(max(kept), 1)] == [4.7, 6.0]
    curves = {(run["arm"], run["seed"]): run["figures"]["curve"] for run in runs if "curve" in run["figures"]}
    assert all(curves["static10", seed][:2] == curves["dynamic", seed][:2] for seed in range(10)), "up to ten readings"


def test_the_posterior_of_the_model_answer_by_counting():
    """A chosen position, a vocabulary of V words: kept or replaced, every case that shows the word."""
    for p, expected in ((0.1, 0.9997), (1e-6, 0.029)):
        vocabulary = 30_000
        kept, replaced = 0.1 * p, 0.1 / vocabulary
        assert kept / (kept + replaced) == pytest.approx(p / (p + 1 / vocabulary)) == pytest.approx(expected, rel=0.01)


def test_what_the_lesson_says_of_the_figures():
    """Numbers that the text states without computing them on the page."""
    assert 0.85**10 == pytest.approx(0.197, abs=5e-4)
    assert 0.85**40 == pytest.approx(0.0015, abs=5e-5)
    assert 45 * (1 - (44 / 45) ** 40) == pytest.approx(26.7, abs=0.05)
    assert math.comb(510, round(0.15 * 510)) > 1e80  # atoms in the universe, as they are usually counted
    assert 0.03 / 0.88 == pytest.approx(0.034, abs=5e-4)
    assert (89.0 - 86.6) / (90.2 - 86.6) == pytest.approx(2 / 3)
