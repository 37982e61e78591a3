"""Lesson 09: its equations by independent naive functions, its figures by hand, its exercises by right and wrong answers."""

import math

import numpy as np
import pytest
from tests.course.lessons import altered, built, solution, stub, told

from bertcraft.techniques import advanced_scheduling as technique
from bertcraft.train import adamw, schedules

SLUG = "advanced_scheduling"

# ------------------------------------------------------------------------------------------------------- the equations


def standing(rate, curvature, noise):
    """The mean of w^2 that equation (1) no longer changes, by repeating it."""
    square = 5.0
    for _ in range(20_000):
        square = (1 - rate * curvature) ** 2 * square + rate**2 * noise**2
    return square


def test_equation_1_is_the_mean_over_many_valleys():
    rng, rate, curvature, noise = np.random.default_rng(0), 0.4, 1.5, 0.7
    w, square = np.full(200_000, 2.0), 4.0
    for _ in range(4):
        w = w - rate * (curvature * w + noise * rng.standard_normal(len(w)))
        square = (1 - rate * curvature) ** 2 * square + rate**2 * noise**2
        assert np.mean(w**2) == pytest.approx(square, rel=0.02)


def test_equation_2_and_the_example_by_hand():
    for rate, curvature, noise in ((0.5, 1.0, 1.0), (0.05, 1.0, 1.0), (0.3, 0.2, 2.0)):
        expected = rate * noise**2 / (curvature * (2 - rate * curvature))
        assert standing(rate, curvature, noise) == pytest.approx(expected, rel=1e-6)
        loss = rate * noise**2 / (2 * (2 - rate * curvature))
        assert curvature * expected / 2 == pytest.approx(loss)
    assert 0.5 / 3 == pytest.approx(standing(0.5, 1, 1) / 2) == pytest.approx(0.167, abs=5e-4)
    assert 0.05 / 3.9 == pytest.approx(standing(0.05, 1, 1) / 2) == pytest.approx(0.013, abs=5e-4)
    assert [round(1 / (rate * 0.06)) for rate in (0.5, 0.05)] == [33, 333]


def test_equations_3_and_4_step_by_step():
    peak, warmup, total, power = 0.3, 6, 40, 2.0
    shapes = {
        "linear": lambda x, t: 1 - x,
        "cosine": lambda x, t: (1 + math.cos(math.pi * x)) / 2,
        "polynomial": lambda x, t: (1 - x) ** power,
        "inverse_sqrt": lambda x, t: math.sqrt(warmup / t),
    }
    for name, shape in shapes.items():
        for t in range(total + 1):
            share = t / warmup if t < warmup else shape((t - warmup) / (total - warmup), t)
            assert float(technique.named(name, peak, warmup, total)(t)) == pytest.approx(peak * share, abs=1e-15), (name, t)
    by_hand = [float(technique.named("linear", 1.0, 1, 4)(t)) for t in range(6)]
    assert by_hand == pytest.approx([0, 1, 2 / 3, 1 / 3, 0, 0])


def test_equation_5_for_every_parameter_of_adams_first_update():
    g = np.random.default_rng(0).standard_normal(50) * 10.0 ** np.random.default_rng(1).uniform(-6, 3, 50)
    rule, params = adamw(0.01, weight_decay=0.0, eps=0.0), {"w": np.zeros(50)}
    change, _ = rule.update({"w": g}, rule.init(params), params)
    np.testing.assert_allclose(change["w"], -0.01 * np.sign(g), rtol=1e-9)


@pytest.mark.parametrize("b2", [0.9, 0.98, 0.999])
def test_equations_6_and_7_by_sums(b2):
    for t in (1, 2, 3, 10, 500):
        weights = [b2**k for k in range(t)]
        age = sum(k * w for k, w in enumerate(weights)) / sum(weights)
        assert age == pytest.approx(b2 / (1 - b2) - t * b2**t / (1 - b2**t), rel=1e-6, abs=1e-9)
        assert float(technique.average_length(t - 1, b2)) == pytest.approx(1 + 2 * age, rel=1e-6)
        assert solution(SLUG, "length")(np.array(weights)) == pytest.approx(1 + 2 * age)
    assert float(technique.average_length(10**6, b2)) == pytest.approx(2 / (1 - b2) - 1)
    assert round(2 / (1 - 0.999) - 1) == 1999
    assert [round(float(technique.average_length(t)), 2) for t in (0, 1)] == [1.0, 2.0]


def test_equation_8_and_the_straight_warm_up():
    for b2 in (0.98, 0.999):
        end = 2 / (1 - b2) - 1
        for t in (7, 40, 3000):
            n = 1 + 2 * (b2 / (1 - b2) - t * b2**t / (1 - b2**t))
            factor = math.sqrt((n - 4) * (n - 2) * end / ((end - 4) * (end - 2) * n))
            assert float(technique.rectification(t - 1, b2)) == pytest.approx(factor, rel=1e-6)
        assert [float(technique.rectification(t, b2)) > 0 for t in range(7)] == [False] * 5 + [True] * 2
    assert [technique.untuned_warmup(b2) for b2 in (0.999, 0.98)] == [2000, 100]


def test_the_model_answer_of_exercise_8_6():
    curvature, noise, square = 1.3, 0.8, 30.0
    for _ in range(399):
        rate = curvature * square / (curvature**2 * square + noise**2)
        after = lambda r, s=square: (1 - r * curvature) ** 2 * s + r**2 * noise**2  # noqa: E731
        assert after(rate) < min(after(rate * 0.99), after(rate * 1.01))
        assert 1 / after(rate) == pytest.approx(1 / square + curvature**2 / noise**2)
        square = after(rate)
    assert rate == pytest.approx(1 / (curvature * 399), rel=0.02)


# ----------------------------------------------------------------------------------------------------- what the text states


def test_figures_that_the_text_states():
    old, new = schedules.warmup_linear(1.0, 50, 500), schedules.warmup_linear(1.0, 50, 1000)
    assert round(float(old(375)), 2) == 0.28 and round(float(technique.joined(old, 375, new)(376)), 2) == 0.66
    every = np.arange(1_000_000)
    last = {name: float(technique.named(name, 1.0, 10_000, 1_000_000)(every[-1])) for name in ("linear", "cosine", "bert")}
    assert last["linear"] == pytest.approx(1 / 990_000) and last["cosine"] < 1e-11 and last["bert"] == pytest.approx(1e-6)
    assert float(technique.bert(1.0, 10_000, 1_000_000)(every).max()) == pytest.approx(0.9999)
    assert round(100 * 2 / 30) == 7
    bert = technique.bert(1.0, 10_000, 1_000_000)
    assert [float(bert(step)) for step in (9_999, 10_000)] == [0.9999, 0.99]


def test_the_solutions_are_what_the_library_does():
    line, prolonged = solution(SLUG, "line"), solution(SLUG, "prolonged")
    for warmup, total in ((0, 9), (4, 20), (7, 7), (0, 1)):
        ours = schedules.warmup_linear(0.4, warmup, total)
        steps = range(total + 4)
        assert [line(t, 0.4, warmup, total) for t in steps] == pytest.approx([float(ours(t)) for t in steps])
    again = technique.resumed(schedules.warmup_linear(0.4, 0, 30), 20, 50)
    np.testing.assert_allclose(prolonged(0.4, 30, 20, 50), [float(again(t)) for t in range(20, 50)])
    last = solution(SLUG, "last_update")
    cosine = schedules.warmup_cosine(0.3, 0, 39, lowest=0.03)
    assert [last(t, 0.3, 0.03, 40) for t in range(40)] == pytest.approx([float(cosine(t)) for t in range(40)])


def test_the_proofs_on_the_page_hold_in_both_editions():
    for solved in (False, True):
        text = "".join(
            "".join(output.get("text", "")) for cell in built(SLUG, solved).cells for output in cell.get("outputs", ())
        )
        assert text.count("the same to 1e-12: True") == 9 and "the same to 1e-12: False" not in text
        for line in (
            "at step 80 theirs 0.312, ours 0.000",
            "the line by hand: [0.0, 1.0, 0.667, 0.333, 0.0, 0.0]", "with respect to each rate agree",
            "after loading is one of 500", "next updates have [0.278, 0.657, 0.656]",
        ):  # fmt: skip
            assert line in text, line


# ------------------------------------------------------------------------------------------------------- the exercises


def test_the_bug_to_be_found_is_told_what_it_does():
    state, text = told(SLUG, "last_update", stub(SLUG, "last_update"))
    assert state == "wrong" and "it is updates - 1 steps from step 0" in text


RISE, FALL = "peak * step / warmup", "max(0.0, (total - step) / max(1, total - warmup))"
MORE = "left * (total - np.arange(at, total)) / (total - at)"
AGES = "1 + 2 * np.sum(weights * ages) / np.sum(weights)"
WRONG = [
    ("line", RISE, "peak * (step + 1) / warmup", "step 0 has the rate 0"),
    ("line", FALL, "max(0.0, (total - 1 - step) / (total - 1 - warmup))", "0 is reached at step `total`"),
    ("line", FALL, "(total - 1 - step) / (total - 1 - warmup)", "0 is reached at step `total`"),
    ("line", FALL, "max(0.0, 1 - step / total)", "counts from step 0"),
    ("line", FALL, "max(0.0, 1 - (step - warmup) / total)", "it has total - warmup steps"),
    ("line", FALL, "(total - step) / max(1, total - warmup)", "is negative"),
    ("line", "if step < warmup:", "if step / warmup < 1:", "divide by 0"),
    (
        "line",
        "if step < warmup:\n        return peak * step / warmup",
        "if step <= warmup:\n        return peak * step / max(1, warmup)",
        "your first update has the rate 0",
    ),
    ("line", "return peak * max(", "if step < total: return peak * max(", "at step 12 of 12 nothing is returned"),
    ("line", "if step < warmup:", "peak = 1\n    if step < warmup:", "multiply by `peak`"),
    ("last_update", "step / (updates - 1)", "(step + 1) / updates", "has lost the peak"),
    ("last_update", "step / (updates - 1)", "min(1, step / (updates - 2))", "one step less was enough"),
    ("last_update", "step / (updates - 1)", "step / (updates + 1)", "not one more"),
    ("last_update", "step / (updates - 1)", "step / updates - 1", "in brackets"),
    ("last_update", "step / (updates - 1)", "1 if step == updates - 1 else step / updates", "by force"),
    ("last_update", "step / (updates - 1)", "step / 6", "the rates of 3"),
    ("prolonged", MORE, "peak * (total - np.arange(at, total)) / total", "the rate jumps up, from 0.4 to 0.57"),
    ("prolonged", MORE, "peak * np.maximum(0, planned - np.arange(at, total)) / planned", "the old line"),
    ("prolonged", MORE, "peak * (total - np.arange(at, total)) / (total - at)", "begin again at the peak"),
    ("prolonged", MORE, "np.full(total - at, left)", "stays where it is"),
    ("prolonged", MORE, "np.linspace(left, 0, total - at)", "linspace reaches its end"),
    ("prolonged", "np.arange(at, total)", "np.arange(at + 1, total + 1)", "that of step at + 1"),
    ("prolonged", "(planned - at) /", "(planned - at + 1) /", "the rate of step at - 1"),
    ("prolonged", "(total - at)", "total", "the new line is total - at steps long"),
    ("prolonged", MORE, "np.linspace(left, 0, total - at + 1)", "one rate too many"),
    ("length", AGES, "np.sum(weights) ** 2 / np.sum(weights**2)", "equal *variance*"),
    ("length", " / np.sum(weights)", "", "divide by their sum"),
    ("length", AGES, "1 + 2 * np.mean(weights * ages)", "not by how many they are"),
    ("length", "np.arange(len(weights))", "np.arange(len(weights))[::-1]", "the first weight has the age 0"),
    ("length", "weights * ages", "np.sort(weights)[::-1] * ages", "the length for weights 0, 0, 2, 1"),
    ("length", AGES, "2 * np.sum(weights * (ages + 1)) / np.sum(weights)", "the youngest number has the age 0"),
    ("length", AGES, "1 + 2 * np.sum(weights * (ages + 1)) / np.sum(weights)", "the youngest number has the age 0"),
    ("length", "1 + 2 * ", "", "the mean age itself"),
    ("length", "1 + 2 * ", "2 * ", "one short"),
    ("which_schedule", '"schedule": "flat"', '"schedule": "line"', "it has not settled"),
    ("which_schedule", '"schedule": "flat"', '"schedule": "prolonged"', "worse by at least 0.028"),
    ("which_schedule", '"because": "b"', '"because": "a"', "one row is the yardstick itself"),
    ("which_schedule", '"because": "b"', '"because": "c"', "holding 0 shows nothing"),
    ("which_schedule", '"flat_is": "c"', '"flat_is": "a"', "was not shown"),
    ("which_schedule", '"flat_is": "c"', '"flat_is": "b"', "a difference of 0.01 would look just like this"),
    ("which_schedule", '"unless": "a"', '"unless": "b"', "no surprise"),
    ("which_schedule", '"unless": "a"', '"unless": "c"', "each was tuned"),
]


@pytest.mark.parametrize(("name", "old", "new", "message"), WRONG)
def test_a_wrong_answer_is_told_why(name, old, new, message):
    state, text = told(SLUG, name, altered(SLUG, name, old, new))
    assert state == "wrong"
    assert message in text
