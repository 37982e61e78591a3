"""The foundations' second part: its equations, naively, against the library; its exercises with wrong answers."""

import itertools
import math
import re

import numpy as np
import pytest
from scipy.stats import t as student
from tests.course import lessons

from bertcraft.bert import Config, heads, initial_params
from bertcraft.bert.heads import pooled
from bertcraft.course.checks import foundations_2 as checks
from bertcraft.tensor import functions as F

SLUG = "foundations_2"


def test_equation_1_the_pooler_and_the_head(rng=np.random.default_rng(7)):
    config = Config(
        family="bert", head="sequence_classification", vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=6, num_labels=3,
    )  # fmt: skip
    params, hidden = initial_params(config, seed=1), rng.standard_normal((2, 5, 4))
    pooler, head = params["bert"]["pooler"]["dense"], params["classifier"]
    for row, h in enumerate(hidden[:, 0]):
        vector = [math.tanh(np.dot(line, h) + b) for line, b in zip(*pooler.values(), strict=True)]
        np.testing.assert_allclose(pooled(params, config, hidden)[row], vector, rtol=1e-6)
        z = [np.dot(line, vector) + b for line, b in zip(*head.values(), strict=True)]
        np.testing.assert_allclose(heads.classification_logits(params, config, hidden)[row], z, rtol=1e-6)


def test_equation_2_by_hand_and_its_table():
    paired_interval = lessons.solution(SLUG, "paired_interval")
    mean, low, high = paired_interval(np.array([73.0, 70, 70]), np.array([70.0, 66, 68]), 4.303)
    assert (mean, round(low, 1), round(high, 1)) == (3, 0.5, 5.5)
    page = "\n".join(cell.text for cell in lessons._cells(SLUG))
    for n, factor in {2: 12.71, 3: 4.30, 5: 2.78, 10: 2.26}.items():
        assert round(student.ppf(0.975, n - 1), 2) == factor and f"{factor:.2f} for" in page
    assert all(round(student.ppf(0.975, n - 1), 3) == t for n, t in {3: 4.303, 5: 2.776, 10: 2.262}.items())


def test_an_interval_covers_the_truth_as_often_as_it_says(rng=np.random.default_rng(0)):
    d = rng.normal(1.0, 2.0, (4000, 5))
    half = 2.776 * d.std(axis=1, ddof=1) / math.sqrt(5)
    assert np.mean(np.abs(d.mean(axis=1) - 1) < half) == pytest.approx(0.95, abs=0.012)


def test_holm_by_hand():
    holm = lessons.solution(SLUG, "holm")
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])


def test_dropout_keeps_the_mean_of_each_place_and_is_off_without_a_generator():
    x, rng = np.array([2.0, 4.0, 6.0, 8.0]), np.random.default_rng(0)
    draws = np.stack([F.dropout(x, 0.5, rng) for _ in range(20_000)])
    np.testing.assert_allclose(draws.mean(axis=0), x, rtol=0.03)
    assert np.array_equal(F.dropout(x, 0.5, None), x)


# ---------------------------------------------------------------------------------------------------------- exercises

WRONG = {
    "drop": (
        ("x / (1 - rate)", "x", "not scaled"),
        ("x / (1 - rate)", "x * (1 - rate)", "do not multiply"),
        ("x / (1 - rate)", "x / rate", "the scale is that of the numbers that go"),
        ("keep, x / (1 - rate), 0.0", "keep, 0.0, x / (1 - rate)", "you dropped these"),
        ("x / (1 - rate)", "x * len(keep) / keep.sum()", "how many stayed in this draw"),
    ),
    "paired_interval": (
        ("d = treatment - baseline", "d = baseline - treatment", "wrong sign"),
        (" / math.sqrt(len(d))", "", "smaller by sqrt(n)"),
        ("ddof=1", "ddof=0", "divide by n - 1"),
        ("t * d.std", "d.std", "the factor t is missing"),
        ("t * d.std", "1.96 * d.std", "the factor of very many runs"),
        ("t * d.std", "2.776 * d.std", "3 paired runs with the factor 4.303"),
        ("len(d)", "5", "3 paired runs"),
        ("len(d)", "(len(d) - 1)", "in the deviation alone"),
        ("math.sqrt(len(d))", "len(d)", "divided by its root"),
        ("d.std(ddof=1)", "math.sqrt(treatment.var(ddof=1) + baseline.var(ddof=1))", "unpaired runs"),
        ("d.std(ddof=1)", "d.var(ddof=1)", "take its root"),
        ("return d.mean(), d.mean() - half, d.mean() + half", "return d.mean()", "return a tuple of three numbers"),
    ),
    "verdict": (
        ("if low > line:", "if low + high > 2 * line:", "the interval holds 0, wherever its middle is"),
        ('line = -margin if form == "not worse" else 0.0', "line = 0.0", "the low end is compared with -margin"),
        ("-margin < low and high < margin", "low < 0 < high", "surely there, and surely small"),
        ("-margin < low and high < margin", "abs(low + high) / 2 < margin", "a wide interval around 0 shows nothing"),
        ("high < -margin or low > margin", "low > margin", "the whole interval lies below -margin"),
        ("high < -margin or low > margin", "high < 0 or low > 0", "equal has a margin"),
        ("-margin < low and high < margin", "-margin < high < margin", "[-1.4, 0.5]: one end sticks out"),
        ("-margin < low and high < margin", "-margin < low < margin", "[-0.5, 1.4]: one end sticks out"),
    ),
    "holm": (
        ("np.arange(len(p), 0, -1)", "len(p)", "Bonferroni"),
        ("np.maximum.accumulate(raised)", "raised", "none may be less than the one before it"),
        ("corrected[order] = np.minimum(np.maximum.accumulate(raised), 1.0)",
         "corrected[:] = np.minimum(np.maximum.accumulate(raised), 1.0)", "in order of size"),
        ("corrected[order] = np.minimum(np.maximum.accumulate(raised), 1.0)",
         "corrected = np.minimum(np.maximum.accumulate(raised), 1.0)[order]", "does not put the values back"),
        ("order = np.argsort(p)", "order = np.arange(len(p))", "the values are not sorted"),
        ("np.minimum(np.maximum.accumulate(raised), 1.0)", "np.maximum.accumulate(raised)", "no more than 1"),
    ),
    "choose": (
        ('"arm": "unit"', '"arm": "words"', "a difference that may hardly be there"),
        ('"arm": "unit"', '"arm": "cls"', "surely worse"),
        ('"arm": "unit"', '"arm": "mean"', "is there a reason not to take it"),
        ('"arm": "unit"', '"arm": "best"', "expected one of 'unit'"),
        ('"because": "b"', '"because": "a"', "no accident"),
        ('"because": "b"', '"because": "c"', "shows no equality"),
        ('"unless": "b"', '"unless": "a"', "no surprise"),
        ('"unless": "b"', '"unless": "c"', "your own users"),
        ('{"arm": "unit", "because": "b", "unless": "b"}', '"unit"', "return a dict with 'arm'"),
    ),
}  # fmt: skip


def test_the_three_numbers_of_an_interval_may_be_a_list():
    answer = lessons.altered(
        SLUG, "paired_interval", "return d.mean(), d.mean() - half, d.mean() + half",
        "return [d.mean(), d.mean() - half, d.mean() + half]",
    )  # fmt: skip
    assert lessons.told(SLUG, "paired_interval", answer) == ("solved", "")


@pytest.mark.parametrize(("name", "old", "new", "message"), [(name, *case) for name, cases in WRONG.items() for case in cases])
def test_a_wrong_answer_gets_the_message_meant_for_it(name, old, new, message):
    state, text = lessons.told(SLUG, name, lessons.altered(SLUG, name, old, new))
    assert state == "wrong"
    assert message in text


def test_the_forms_and_verdicts_are_those_of_the_cases():
    solution = lessons.solution(SLUG, "verdict")
    forms, verdicts = ("superior", "not worse", "equal"), ("reproduced", "contradicted", "cannot tell")
    assert {(case[0], case[4]) for case in checks._CASES} == set(itertools.product(forms, verdicts))
    assert all(solution(*case[:4]) == case[4] for case in checks._CASES)


# ------------------------------------------------------------------------------------------------------------ the lesson


@pytest.mark.parametrize("solved", [False, True])
def test_the_page_shows_what_it_says(solved):
    """What the text says of the figures: fine-tuning works, and the three claims get the three verdicts."""
    notebook = lessons.built(SLUG, solved)
    texts = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    accuracy = {name: float(value) for name, value in re.findall(r"^(before|after ) .*, ([\d.]+)% right", texts, re.M)}
    assert accuracy["before"] < 40 < 80 < accuracy["after "]
    found = {arm: (float(low), float(high)) for arm, low, high in re.findall(r"^(\w+) +- mean: .*\[(\S+), (\S+)\]", texts, re.M)}
    assert found["unit"][0] > 0 and found["cls"][1] < -1
    assert found["words"][0] < -1 < found["words"][1] or found["words"][0] < 1 < found["words"][1]
