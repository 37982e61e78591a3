"""Lesson 03: its equations by independent naive functions, its exercises by right and wrong answers, what its text states."""

import math
import re

import numpy as np
import pytest
from tests.course.lessons import altered, built, solution, stub, told

from bertcraft.course import measured
from bertcraft.lab import statistics, verdicts
from bertcraft.techniques import deberta_disentangled_attention as technique

SLUG = "deberta_disentangled_attention"


# ------------------------------------------------------------------------------------------------------- the equations


def test_equation_1_is_a_product_of_sums():
    rng = np.random.default_rng(0)
    x, places = rng.standard_normal((2, 5, 8))
    w_q, w_k = rng.standard_normal((2, 8, 8))
    whole = ((x + places) @ w_q.T) @ ((x + places) @ w_k.T).T
    parts = sum((one @ w_q.T) @ (other @ w_k.T).T for one in (x, places) for other in (x, places))
    np.testing.assert_allclose(parts, whole)


def test_equations_2_to_4_score_by_score():
    rng = np.random.default_rng(1)
    length, reach, size = 6, 3, 4
    q, k = rng.standard_normal((2, 1, length, size))
    table, w_k, w_q = rng.standard_normal((2 * reach, size)), *rng.standard_normal((2, size, size))
    expected = np.empty((length, length))
    for i in range(length):
        for j in range(length):
            row = min(max(i - j + reach, 0), 2 * reach - 1)
            k_pi, q_pi = w_k @ table[row], w_q @ table[row]
            expected[i, j] = (q[0, i] @ k[0, j] + q[0, i] @ k_pi + k[0, j] @ q_pi) / math.sqrt(3 * size)
    rows = technique.table_rows(length, reach)
    more = technique.position_scores(q, k, (table @ w_k.T)[rows], (table @ w_q.T)[rows])
    np.testing.assert_allclose(more[0, 0] + q[0] @ k[0].T / math.sqrt(3 * size), expected)
    np.testing.assert_allclose(
        solution(SLUG, "scores")(q[0], k[0], table @ w_k.T, table @ w_q.T) / math.sqrt(3 * size), expected
    )  # fmt: skip


def test_equation_5_is_what_the_shift_reads():
    products = np.random.default_rng(2).standard_normal((7, 13))
    expected = [[products[i, i - j + 6] for j in range(7)] for i in range(7)]
    np.testing.assert_array_equal(technique.shifted(products[:, ::-1]), expected)
    np.testing.assert_array_equal(solution(SLUG, "read_off")(products), expected)


def test_equation_6_distance_by_distance():
    buckets, longest = 16, 100
    m = buckets // 2
    for d in range(-98, 99):
        far = m + math.ceil((m - 1) * math.log(max(abs(d), m) / m) / math.log((longest - 1) / m))
        assert technique.log_bucket(np.array(d), buckets, longest) == (d if abs(d) <= m else int(math.copysign(far, d)))


# ------------------------------------------------------------------------------------------------------- the exercises


def test_the_bug_to_be_found_is_told_what_it_does():
    state, text = told(SLUG, "scores", stub(SLUG, "scores"))
    assert state == "wrong" and "the third term has the paper's index" in text


CLIP = "np.clip(distance + reach, 0, 2 * reach - 1)"
READ = "products[i, i - j + length - 1]"
ROOT = "np.sqrt(size * (1 + terms * variance))"
WRONG = [
    ("rows_of", CLIP, "(distance + reach) % (2 * reach)", "to be cut, not taken modulo"),
    ("rows_of", CLIP, "np.clip(distance + reach, 0, 2 * reach)", "behind the table"),
    ("rows_of", CLIP, "np.clip(reach - distance, 0, 2 * reach - 1)", "the sign is wrong"),
    ("rows_of", CLIP, "np.clip(np.abs(distance), 0, 2 * reach - 1)", "before and behind share a row"),
    ("rows_of", CLIP, "distance + reach", "no row of its own"),
    ("rows_of", CLIP, "np.clip(distance, -reach, reach - 1)", "add the reach"),
    ("read_off", READ, "products[i, j - i + length - 1]", "you read distance j - i"),
    ("read_off", READ, "products[i, i + j]", "turn each window round"),
    ("read_off", READ, "products[i, j + 0 * i]", "the window has to move"),
    ("read_off", READ, "products[j, i - j + length - 1]", "the query is the row"),
    ("read_off", READ, "products[i, i - j + length - 1].T", "have changed places"),
    ("read_off", READ, "products[i, i - j]", "count from the end"),
    ("scores", "k, pos_query[rows]", "k, pos_query[np.clip(-distance + reach, 0, 2 * reach - 1)]", "has the paper's index"),
    ("scores", CLIP, "(distance + reach) % (2 * reach)", "longer than the table"),
    ("scores", "k, pos_query[rows]", "k, pos_query[(distance + reach) % (2 * reach)]", "longer than the table"),
    ("scores", CLIP, "np.clip(-distance + reach, 0, 2 * reach - 1)", "both terms read distance j - i"),
    ("scores", "q @ k.T + ", "", "own term q k is missing"),
    ("divisor", ROOT, "np.sqrt(3 * size)", "how many are there here"),
    ("divisor", ROOT, "np.sqrt(size * (1 + terms))", "that holds for variance 1"),
    ("divisor", ROOT, "(size * (1 + terms * variance))", "divided by its root"),
    ("divisor", ROOT, "np.sqrt(size * (1 + terms * variance**2))", "not its square"),
    ("divisor", ROOT, "np.sqrt(size * terms)", "the words' own term counts"),
    ("divisor", ROOT, "np.sqrt(size)", "for one term alone"),
    ("positions", '"arm": "numbers"', '"arm": "disentangled"', "44 % longer"),
    ("positions", '"arm": "numbers"', '"arm": "absolute"', "up to 300 tokens"),
    ("positions", '"because": "b"', '"because": "a"', "counted in hours"),
    ("positions", '"unless": "a"}', '"unless": "b"}', "does not make it larger"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "message"), WRONG)
def test_a_wrong_answer_is_told_why(name, old, new, message):
    state, text = told(SLUG, name, altered(SLUG, name, old, new))
    assert state == "wrong"
    assert message in text


@pytest.mark.parametrize("name", ["rows_of", "read_off", "scores", "divisor", "positions"])
def test_the_solution_is_solved_and_the_stub_is_not(name):
    assert told(SLUG, name, solution(SLUG, name))[0] == "solved"
    assert told(SLUG, name, stub(SLUG, name))[0] != "solved"


# ----------------------------------------------------------------------------------------------------------- the pages


def test_what_the_lesson_says_of_the_stored_runs():
    experiment, runs = measured.experiment(SLUG), measured.runs(SLUG)

    def apart(treatment, baseline="absolute"):
        return verdicts.difference(experiment, runs, treatment, baseline, "loss")

    primary = verdicts.primary(experiment, runs)
    assert primary.verdict == statistics.REPRODUCED and round(primary.interval.mean, 1) == -0.5, "half a nat"
    steps = apart("disentangled", "absolute_steps")
    assert steps.high < 0 and abs(steps.mean - primary.interval.mean) < 0.1, "not because of fewer or more steps"
    assert apart("t5").low > 0, "a bare number is worse than absolute places"
    assert abs(apart("disentangled", "c2p").mean) < 0.1, "content to position alone does nearly as well as both"
    assert apart("emd", "disentangled").low > 0, "the decoder only harms"
    emd = [run["figures"]["unigram"] - run["figures"]["loss"] for run in runs if run["arm"] == "emd"]
    assert sum(below < 0.5 for below in emd) == 2 and len(emd) == 5, "two of five runs hardly left the plateau"
    failed = {each.arm for each in verdicts.checked(experiment, runs) if not each.passed}
    assert {"absolute_packed", "t5_packed"} <= failed and "disentangled_packed" not in failed
    cost = np.mean([run["figures"]["longer"] for run in runs if run["arm"] == "disentangled_packed"])
    assert round(cost, 2) == 0.06


def test_what_the_lesson_says_of_the_figures():
    """Numbers that the text states without computing them on the page."""
    assert technique.extra_parameters(768, 12, 512) == 14_942_208
    by_hand = 2 * 1 + 2 * 1 + 1 * 1, 2 * 1 - 2 + 0  # i = 1, j = 0 and i = 1, j = 2
    assert by_hand == (5, 0)
    assert 148 / 103 == pytest.approx(1.44, abs=0.005)  # of the decision
    assert math.log(300 / 128) == pytest.approx(0.852, abs=5e-4) and math.log(511 / 128) == pytest.approx(1.384, abs=5e-4)
    assert technique.log_bucket(300, 256, 512) == 207 == 128 + math.ceil(127 * 0.615)


@pytest.mark.parametrize("solved", [False, True])
def test_the_page_shows_what_it_promises(solved):
    """transformers' two models from random weights, a model saved and opened again, requests at places never learnt."""
    outputs = [output for cell in built(SLUG, solved).cells for output in cell.get("outputs", ())]
    text = "".join(output.get("text", "") for output in outputs)
    for version in (1, 3):
        assert f"version {version}: states the same to 1e-10: True, every gradient to 1e-10: True" in text
    apart = [float(each) for each in re.findall(r"with the paper's index the states differ by ([\d.]+)", text)]
    assert len(apart) == 2 and min(apart) > 0.1
    assert "DebertaV2Model there and back: True" in text
    assert "relative_attention=False: backwards, each word has the same vector: True" in text
    assert "relative_attention=True : backwards, each word has the same vector: False" in text
    assert "the disentangled model's loss moves by less than 1e-4: True" in text
