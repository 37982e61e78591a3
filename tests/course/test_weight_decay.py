"""Lesson 14: its equations by independent naive functions, its exercises by right and wrong answers."""

import math

import numpy as np
import pytest
from tests.course.lessons import altered, built, solution, stub, told

from bertcraft.techniques import weight_decay as technique
from bertcraft.tensor import tree
from bertcraft.train import warmup_linear

SLUG = "weight_decay"
B1, B2, EPS = 0.9, 0.999, 1e-8


# ------------------------------------------------------------------------------------------------------- the equations


def naive(w, gradients, rates, decay, place, peak=None):
    """One weight by (1) and (2), (3) or (4), with Python's numbers."""
    m = u = 0.0
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        if place == "gradient":
            g = g + decay * w
        m = B1 * m + (1 - B1) * g
        u = B2 * u + (1 - B2) * g * g
        direction = (m / (1 - B1**t)) / (math.sqrt(u / (1 - B2**t)) + EPS)
        if place == "gradient":
            w = w - rate * direction
        elif place == "torch":
            w = (1 - rate * decay) * w - rate * direction
        else:
            w = w - rate / peak * (peak * direction + decay * w)
    return w


def followed(rule, w, gradients):
    params = {"w": np.full((1, 1), w)}
    state = rule.init(params)
    for g in gradients:
        updates, state = rule.update({"w": np.full((1, 1), g)}, state, params)
        params = tree.map(np.add, params, updates)
    return float(params["w"][0, 0])


def test_equations_1_to_4_and_that_4_is_3_with_another_letter():
    gradients, peak = np.random.default_rng(0).standard_normal(60) * 0.3, 3e-3
    schedule, shape = warmup_linear(peak, 10, 60), warmup_linear(1.0, 10, 60)
    rates = [float(schedule(step)) for step in range(60)]
    for make, place in ((technique.adam_l2, "gradient"), (technique.adam_decoupled, "torch")):
        expected = naive(0.7, gradients, rates, 0.1, place)
        assert followed(make(schedule, 0.1), 0.7, gradients) == pytest.approx(expected, rel=1e-12)
    expected = naive(0.7, gradients, rates, 1e-3, "published", peak)
    assert followed(technique.adam_published(peak, shape, 1e-3), 0.7, gradients) == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(naive(0.7, gradients, rates, 1e-3 / peak, "torch"), rel=1e-12)


def test_equation_5():
    w, g, rate, decay = 0.7, -1.3, 0.1, 0.2
    assert w - rate * (g + decay * w) == pytest.approx((1 - rate * decay) * w - rate * g, rel=1e-15)


@pytest.mark.parametrize(("noise", "pull"), [(0.1, 0.0995), (0.001, 0.995), (0.0, 1.0)])
def test_equation_6_is_the_mean_step_of_adam_under_noise(noise, pull):
    """So small a rate that the weight stays; gradients up and down in turn."""
    w, decay, steps, rate = 1.0, 0.01, 8000, 1e-9
    assert decay * w / (math.hypot(noise, decay * w) + EPS) == pytest.approx(pull, rel=1e-3)
    gradients = noise * (-1.0) ** np.arange(steps)
    moved = w - followed(technique.adam_l2(rate, decay), w, gradients)
    assert moved / (rate * steps) == pytest.approx(pull, rel=0.01)
    alone = followed(technique.adam_decoupled(rate, 0.0), w, gradients) - followed(
        technique.adam_decoupled(rate, decay), w, gradients
    )
    assert alone / (rate * steps) == pytest.approx(decay * w, rel=0.01)


def test_equation_7_and_figures_of_section_4():
    rates = [float(warmup_linear(1e-4, 10_000, 10**6)(step)) for step in range(0, 10**6, 100)]
    product = 1.0
    for rate in rates:
        product *= (1 - rate * 0.01) ** 100
    assert product == pytest.approx(math.exp(-0.01 * 100 * sum(rates)), rel=1e-5) == pytest.approx(0.607, abs=5e-4)
    assert technique.left(rates, 1.0) == pytest.approx(product, rel=1e-3)
    assert f"{technique.left([2e-5] * 1000, 0.01):.4f}" == "0.9998"
    assert round(1 / (0.04 * 0.2)) == 125 and 1 / (1e-4 * 0.01) == pytest.approx(10**6)


@pytest.mark.parametrize("rate", [0.003, 0.03, 0.3])
def test_equation_8_the_ceiling_is_the_same_at_every_rate(rate):
    decay, steps = 0.5, 10_000
    steady = -np.ones(steps)  # a gradient that never turns: directions of length 1
    assert followed(technique.adam_decoupled(rate, decay), 0.0, steady) == pytest.approx(1 / decay, rel=1e-6)
    assert followed(technique.adam_decoupled(rate, decay), 1.9, steady) <= 1 / decay + 1e-9
    published = followed(technique.adam_published(rate, lambda step: 1.0, 0.01), 0.0, steady)
    assert published == pytest.approx(rate / 0.01, rel=1e-6)


@pytest.mark.parametrize(("rate", "decay"), [(0.01, 0.5), (0.05, 0.1), (0.02, 1.0)])
def test_equation_9_how_far_a_step_turns_a_matrix_behind_a_norm(rate, decay):
    """Directions of one length at right angles to the weights, decay as in (3)."""
    rng, w, angles = np.random.default_rng(0), np.full(50, 0.1), []
    for _ in range(2000):
        direction = rng.standard_normal(50)
        direction -= w * (direction @ w) / (w @ w)
        direction *= 3.0 / np.linalg.norm(direction)
        new = (1 - rate * decay) * w - rate * direction
        angles.append(math.acos(new @ w / np.linalg.norm(new) / np.linalg.norm(w)))
        w = new
    assert np.mean(angles[-200:]) == pytest.approx(math.sqrt(2 * rate * decay), rel=0.03)
    assert np.linalg.norm(w) == pytest.approx(3.0 * math.sqrt(rate / (2 * decay)), rel=0.03)


def test_equation_10_and_the_figures_that_the_text_states():
    lengths = {t: (1 - B1**t) / math.sqrt(1 - B2**t) for t in (1, 10, 1000)}
    assert [round(each, 1) for each in lengths.values()] == [3.2, 6.5, 1.3]
    for t, each in lengths.items():
        assert technique.uncorrected(t - 1) == pytest.approx(each, rel=1e-9)
    assert round(float(technique.uncorrected(0, b2=0.98)), 1) == 0.7


def test_the_moving_average_of_exercise_6():
    rng, rate, decay, steps = np.random.default_rng(0), 0.03, 0.4, 50
    directions, w = rng.standard_normal(steps), 1.3
    for direction in directions:
        w = (1 - rate * decay) * w - rate * direction
    shrunk = (1 - rate * decay) ** (steps - np.arange(1, steps + 1))
    assert w == pytest.approx((1 - rate * decay) ** steps * 1.3 - rate * np.sum(shrunk * directions), rel=1e-12)


def test_berts_parameters_that_do_not_decay_are_counted_as_transformers_has_them():
    import torch
    import transformers

    with torch.device("meta"):
        model = transformers.BertModel(transformers.BertConfig())
    assert sum(p.numel() for p in model.parameters()) == 109_482_240
    assert sum(p.numel() for p in model.parameters() if p.ndim <= 1) == 122_112


def test_the_production_table_is_what_is_installed():
    import inspect

    import torch
    import transformers

    adamw, adam = (inspect.signature(each).parameters for each in (torch.optim.AdamW, torch.optim.Adam))
    assert (adamw["weight_decay"].default, adamw["eps"].default) == (0.01, 1e-8)
    assert (adam["weight_decay"].default, adam["eps"].default) == (0, 1e-8)
    assert adam["decoupled_weight_decay"].default is False
    fields = transformers.TrainingArguments.__dataclass_fields__
    assert (fields["weight_decay"].default, fields["adam_epsilon"].default) == (0.0, 1e-8)


def test_the_solutions_are_what_the_library_does():
    rng = np.random.default_rng(0)
    w, g = rng.standard_normal((2, 4, 3))
    params, state = {"w": w}, {"w": g}
    m, u = 0.1 * g, 0.001 * g * g
    found = solution(SLUG, "direction")(m, u, 1, B1, B2, EPS)
    rule = technique.adam()
    np.testing.assert_allclose(found, rule.update(state, rule.init(params), params)[0]["w"], rtol=1e-9)
    step = solution(SLUG, "adamw_step")(w, g, g * g, 0.01, 0.1, EPS)
    rule = technique.adam_decoupled(0.01, 0.1)
    np.testing.assert_allclose(step, w + rule.update(state, rule.init(params), params)[0]["w"], rtol=1e-9)
    rule = technique.lamb(0.01, 0.1)
    updates, _ = rule.update(state, rule.init(params), params)
    found = solution(SLUG, "lamb_step")(w, g / (np.abs(g) + 1e-6), 0.01, 0.1)
    np.testing.assert_allclose(found, w + updates["w"], rtol=1e-9)


# -------------------------------------------------------------------------------------------------------- the page


def text_of(solved):
    return "".join("".join(output.get("text", "")) for cell in built(SLUG, solved).cells for output in cell.get("outputs", ()))


def test_the_proofs_on_the_page_hold_in_both_editions():
    for solved in (False, True):
        text = text_of(solved)
        for line in (
            "AdamW is (3)                    True", "Adam is (2)                     True",
            "Adam, told to decouple, is (3)  True", "SGD is (5)                      True", "measured slope: 1.000000",
            "decay 0.01  L2 in the gradient: 0.9003   decoupled: 0.9990", "122,112 of 109,482,240 parameters",
            "after 100 steps without gradient, ungrouped: 0.366",
        ):  # fmt: skip
            assert line in text, line


# ------------------------------------------------------------------------------------------------------- the exercises


@pytest.mark.parametrize(("name", "message"), [("direction", "inside the root"), ("adamw_step", "not decoupled")])
def test_the_bug_to_be_found_is_told_what_it_does(name, message):
    state, text = told(SLUG, name, stub(SLUG, name))
    assert state == "wrong" and message in text


KEPT, ROOT = "rate * decay / new_rate, decay", "(np.sqrt(u) + eps)"
CORRECTED = "m / (1 - b1**t), u / (1 - b2**t)"
STEP, RATIO = "rate * (m / (np.sqrt(u) + eps) + decay * w)", "length / moved if"
SCALED = "ratio * update"
LENGTHS = "np.linalg.norm(w), np.linalg.norm(update)"
WRONG = [
    ("new_decay", KEPT, "decay, rate * decay / new_rate", "in the wrong order"),
    ("new_decay", KEPT, "new_rate * decay / rate, decay", "the wrong way"),
    ("new_decay", KEPT, "decay, decay", "a quarter as much"),
    ("new_decay", KEPT, "rate * decay, decay", "the shrinkage itself"),
    ("new_decay", KEPT, "rate * decay / new_rate, rate * decay / new_rate", "the rate is not in it"),
    ("new_decay", KEPT, "rate * decay / new_rate, new_rate * decay / rate", "of the published rule"),
    ("new_decay", KEPT, "rate * decay / new_rate", "two decays"),
    ("new_decay", KEPT, "rate * decay / new_rate, 1 / decay", "the ceiling itself"),
    ("direction", f"m / {ROOT}", "m / np.sqrt(u + eps)", "inside the root"),
    ("direction", f"m / {ROOT}", "m / (np.sqrt(u) + eps / np.sqrt(1 - b2**t))", "epsilon hat"),
    ("direction", CORRECTED, "m, u", "without bias correction"),
    ("direction", CORRECTED, "m / (1 - b1 ** (t + 1)), u / (1 - b2 ** (t + 1))", "off by one"),
    ("direction", ROOT, "np.sqrt(u)", "epsilon is missing"),
    ("direction", ROOT, "(u + eps)", "root is missing"),
    ("direction", ROOT, "np.maximum(np.sqrt(u), eps)", "adds it everywhere"),
    ("direction", ROOT, "(np.sqrt(u) + np.sqrt(eps))", "the root of epsilon"),
    ("direction", ROOT, "np.sqrt(u + eps**2)", "epsilon squared"),
    ("adamw_step", STEP, "rate * (m + decay * w) / (np.sqrt(u) + eps)", "not decoupled"),
    ("adamw_step", STEP, "rate * m / (np.sqrt(u) + eps) - decay * w", "the published rule"),
    ("adamw_step", "+ decay * w", "- decay * w", "makes weights grow"),
    ("adamw_step", " + decay * w", "", "nothing decays"),
    ("adamw_step", f"w - {STEP}", "(w - rate * m / (np.sqrt(u) + eps)) * (1 - rate * decay)", "shrinks the old weight"),
    ("adamw_step", "decay * w", "decay * w**2", "its square or its sign"),
    ("adamw_step", "decay * w", "decay * np.sign(w)", "its square or its sign"),
    ("adamw_step", "decay * w", "decay", "nor the decay alone"),
    ("adamw_step", ROOT, "np.sqrt(u)", "epsilon is missing"),
    ("adamw_step", ROOT, "np.sqrt(u + eps)", "inside the root"),
    ("adamw_step", "return w - rate", "return w + rate", "against it"),
    ("adamw_step", "return w - rate", "return -rate", "the update alone"),
    ("lamb_step", RATIO, "moved / length if", "upside down"),
    ("lamb_step", LENGTHS, "np.linalg.norm(w), np.linalg.norm(direction)", "of the direction alone"),
    ("lamb_step", SCALED, "update", "nothing is scaled"),
    ("lamb_step", RATIO, "1 / moved if", "length 1"),
    ("lamb_step", LENGTHS, "(np.linalg.norm(v, 2) for v in (w, update))", "largest singular value"),
    ("lamb_step", SCALED, "np.sqrt((w * w).sum(-1, keepdims=True) / (update * update).sum(-1, keepdims=True)) * update",
     "a ratio a row"),
    ("lamb_step", "if length > 0 and moved > 0 else 1.0", "if moved > 0 else 1.0", "never moves"),
    ("lamb_step", SCALED, "(length / np.linalg.norm(direction) * direction + decay * w)", "behind the ratio"),
    ("lamb_step", "w - rate * ratio", "w + rate * ratio", "against it"),
    ("lamb_step", "w - rate * ratio", "-rate * ratio", "the change alone"),
    ("lamb_step", "update = direction + decay * w", "update = direction", "nothing decays"),
    ("lamb_step", SCALED, "np.abs(w) / np.abs(update) * update", "a ratio an element"),
    ("lamb_step", "if length > 0 and moved > 0 else 1.0", "if length > 0 else 1.0", "divided by its length"),
    ("which_decay", '"adamw", "l2_is"', '"l2", "l2_is"', "nobody has seen it"),
    ("which_decay", '"adamw", "l2_is"', '"none", "l2_is"', "at least 0.041"),
    ("which_decay", '"adamw", "l2_is"', '"all", "l2_is"', "nothing is gained"),
    ("which_decay", '"l2_is": "b"', '"l2_is": "a"', "the lowest of its grid"),
    ("which_decay", '"l2_is": "b"', '"l2_is": "c"', "wholly above 0"),
    ("which_decay", '"norms": "c"', '"norms": "a"', "no cost was shown"),
    ("which_decay", '"norms": "c"', '"norms": "b"', "shows no equality"),
    ("which_decay", '"unless": "a"', '"unless": "b"', "the arm stays"),
    ("which_decay", '"unless": "a"', '"unless": "c"', "no surprise"),
]  # fmt: skip


def test_a_right_answer_in_other_words_passes():
    shrunk = f"(1 - rate * decay) * w - rate * m / {ROOT}"
    for name, old, new in (("new_decay", KEPT, f"np.array([{KEPT}])"), ("adamw_step", f"w - {STEP}", shrunk)):
        assert told(SLUG, name, altered(SLUG, name, old, new)) == ("solved", "")


@pytest.mark.parametrize(("name", "old", "new", "message"), WRONG)
def test_a_wrong_answer_is_told_why(name, old, new, message):
    state, text = told(SLUG, name, altered(SLUG, name, old, new))
    assert state == "wrong"
    assert message in text
