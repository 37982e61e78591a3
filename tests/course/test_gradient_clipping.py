"""Lesson 20: its equations by independent naive functions, its exercises by right and wrong answers."""

import math

import numpy as np
import pytest
from tests.course.lessons import altered, built, solution, stub, told

from bertcraft.techniques import gradient_clipping as technique
from bertcraft.tensor import grad
from bertcraft.train import adamw, chain, sgd

SLUG = "gradient_clipping"

# ------------------------------------------------------------------------------------------------------- the equations


def clipped(rule, gradients, params=None):
    params = params or {name: np.zeros_like(g) for name, g in gradients.items()}
    return rule.update(gradients, rule.init(params), params)[0]


def shortened(numbers, most):
    """Equation (2), number by number."""
    norm = math.sqrt(sum(x * x for x in numbers))
    return [x * min(1.0, most / norm) for x in numbers]


def power(w, steps):
    x = 1.0
    for _ in range(steps):
        x = w * x
    return x


def test_equation_1_and_the_example_by_hand():
    first = grad(lambda w: power(w, 50))
    second = grad(first)
    for w in (0.9, 1.1):
        assert float(first(np.array(w))) == pytest.approx(50 * w**49)
        assert float(second(np.array(w))) == pytest.approx(50 * 49 * w**48)
    steep, bent = float(first(np.array(1.1))), float(second(np.array(1.1)))
    assert (round(float(first(np.array(0.9))), 2), round(steep)) == (0.29, 5336)
    assert 0.001 * steep == pytest.approx(5, abs=0.5)
    assert steep / bent == pytest.approx(1.1 / 49) == pytest.approx(0.022, abs=5e-4)
    assert round(0.001 * steep / (steep / bent), -1) == 240


def test_equation_2_and_the_example_by_hand():
    assert shortened([3, 4], 1) == pytest.approx([0.6, 0.8])
    exact = clipped(technique.by_global_norm(1.0, eps=0.0), {"w": np.array([3.0, 4.0])})["w"]
    np.testing.assert_allclose(exact, [0.6, 0.8], rtol=1e-15)
    assert [f"{x:.8f}" for x in (3 / 5.000001, 4 / 5.000001)] == ["0.59999988", "0.79999984"]
    g = np.random.default_rng(0).standard_normal(7)
    got = clipped(technique.by_global_norm(0.5, eps=0.0), {"a": g[:3], "b": g[3:]})
    np.testing.assert_allclose(np.r_[got["a"], got["b"]], shortened(g, 0.5))


def test_equation_3_and_the_example_by_hand():
    g = np.array([3.0, 0.1, -2.0])
    assert clipped(technique.by_value(1.0), {"w": g})["w"].tolist() == [max(-1.0, min(1.0, x)) for x in g]
    assert [round(math.degrees(math.atan2(0.1, x)), 1) for x in (3, 1)] == [1.9, 5.7]


def test_equation_4_and_the_example_by_hand():
    rng = np.random.default_rng(0)
    weight, gradient = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    weight[0], gradient[0], weight[1] = [0.3, 0.4, 0], [3, 4, 0], 0
    got = clipped(technique.adaptive(0.01, eps=0.1), {"w": gradient}, {"w": weight})["w"]
    for i in range(4):
        length, own = (math.sqrt(sum(x * x for x in row)) for row in (gradient[i], weight[i]))
        np.testing.assert_allclose(got[i], gradient[i] * min(1, 0.01 * max(own, 0.1) / length))
    np.testing.assert_allclose(got[0], [0.003, 0.004, 0])
    np.testing.assert_allclose(solution(SLUG, "clip_rows")(gradient, weight, 0.01, 0.1), got)


def adam(gradients, eps, b1=0.9, b2=0.98, rate=0.1):
    """Adam for one number, corrections included."""
    m = u = 0.0
    for t, g in enumerate(gradients, 1):
        m, u = b1 * m + (1 - b1) * g, b2 * u + (1 - b2) * g * g
        step = rate * (m / (1 - b1**t)) / (math.sqrt(u / (1 - b2**t)) + eps)
    return step


def test_equation_5_a_constant_factor_divides_epsilon_and_does_nothing_else():
    gradients = np.random.default_rng(0).standard_normal(20)
    for factor in (1e-3, 50.0):
        assert adam(factor * gradients, 1e-2) == pytest.approx(adam(gradients, 1e-2 / factor), rel=1e-12)
    long = 1 + np.abs(gradients)[:, None] * np.ones(3)  # all longer than 1: two thresholds below, one run

    def last_step(clip):
        rule = adamw(0.1, eps=0.0, weight_decay=0.0)
        params = {"w": np.zeros(3)}
        state = rule.init(params)
        for g in long:
            step, state = rule.update(clipped(clip, {"w": g}), state, params)
        return step["w"]

    one, tenth = (last_step(technique.by_global_norm(most, eps=0.0)) for most in (1.0, 0.1))
    free = last_step(technique.none())
    np.testing.assert_allclose(one, tenth, rtol=1e-12)
    assert np.abs(one / free - 1).max() > 1e-3


@pytest.mark.parametrize(("b2", "standstill"), [(0.999, 6904), (0.98, 490)])
def test_equation_6_and_what_the_text_says_of_it(b2, standstill):
    size, t = 1000.0, np.arange(120)
    m, u = (1 + (1 - beta) * beta**t * (size**power - 1) for beta, power in ((0.9, 1), (b2, 2)))
    np.testing.assert_allclose(solution(SLUG, "after_spike")(size, 120, 0.9, b2), m / np.sqrt(u), rtol=1e-12)
    assert math.log((1 - b2) * size**2) / math.log(1 / b2) == pytest.approx(standstill, abs=1)
    assert (1 - b2) * b2**standstill * size**2 == pytest.approx(1, rel=0.02)
    if b2 == 0.999:
        assert m[0] / np.sqrt(u[0]) == pytest.approx(3.2, abs=0.05) and m[0] == pytest.approx(100.9)
        assert np.sqrt(u[0]) == pytest.approx(31.6, abs=0.05)
        assert 1 / (m[100] / np.sqrt(u[100])) == pytest.approx(30, abs=1)


def test_equation_7_and_the_example_by_hand():
    one, two = 4.0, -3.0
    assert (one + two) / 2 == 0.5 == shortened([(one + two) / 2], 1.0)[0]
    assert (shortened([one], 1.0)[0] + shortened([two], 1.0)[0]) / 2 == 0
    g = np.random.default_rng(0).standard_normal(9)
    shards = [np.linalg.norm(part) for part in np.split(g, 3)]
    assert math.sqrt(sum(norm**2 for norm in shards)) == pytest.approx(np.linalg.norm(g))


def test_equation_8_the_scale_divides_the_threshold():
    g = np.random.default_rng(0).standard_normal(5)
    scaled = np.array(shortened(1024 * g, 1.0)) / 1024
    np.testing.assert_allclose(scaled, shortened(g, 1 / 1024), rtol=1e-12)


def test_figures_that_the_text_states():
    """The model answer of exercise 8.6."""
    g = np.r_[1e6, np.ones(99)]
    cosine = np.abs(g).sum() / (np.linalg.norm(g) * np.sqrt(100))
    assert math.cos(math.radians(technique.angle({"w": np.sign(g)}, {"w": g}))) == pytest.approx(cosine)
    assert cosine == pytest.approx(1 / math.sqrt(100), rel=1e-3)
    assert solution(SLUG, "after_spike")(1e9, 1, 0.0, 0.999)[0] == pytest.approx(1 / math.sqrt(1 - 0.999), rel=1e-3)
    assert round(1 / math.sqrt(1 - 0.999)) == 32


def test_what_the_text_says_of_the_leap_from_the_wall():
    """Section 2: 4.8 long is the gradient that throws the unclipped walk 1.4 away; no clipped step is above 0.06."""
    start = {"w": 4.7, "b": -1.9}
    leap, most = (
        max(np.hypot(np.diff(walk["w"]), np.diff(walk["b"])))
        for walk in (
            technique.descent(technique.one_unit_loss, start, sgd(0.3), 20),
            technique.descent(technique.one_unit_loss, start, chain(technique.by_global_norm(0.2), sgd(0.3)), 20),
        )
    )
    assert (round(leap, 1), round(leap / 0.3, 1)) == (1.4, 4.8)
    assert most <= 0.3 * 0.2


# ------------------------------------------------------------------------------------------------------------ the page


def test_the_proofs_on_the_page_hold_in_both_editions():
    for solved in (False, True):
        text = "".join(
            "".join(output.get("text", "")) for cell in built(SLUG, solved).cells for output in cell.get("outputs", ())
        )
        for line in (
            "ours equals the library's to 1e-15: True", "with eps  [0.59999988 0.79999984], as torch to 1e-15: True",
            "without   [0.6 0.8], as torch to 1e-15: False", "the same weights to 1e-12: True",
            "clipped before unscaling, as by (8): True", "Trainer clips at 1.0",
        ):  # fmt: skip
            assert line in text, line


# ------------------------------------------------------------------------------------------------------- the exercises


def test_the_bug_to_be_found_is_told_what_it_does():
    state, text = told(SLUG, "accumulated_step", stub(SLUG, "accumulated_step"))
    assert state == "wrong" and "add up, divide by the scale, then clip, once" in text


NORM, EACH = "np.sqrt(sum(np.sum(g**2) for g in gradients))", "[g * (most / norm) for g in gradients]"
TRUE, STEP = "np.mean(scaled_gradients, axis=0) / scale", "weights - rate * clip(gradient)"
MEASURED = """np.linalg.norm(weight, axis=1, keepdims=True), eps)
    length = np.linalg.norm(gradient, axis=1, keepdims=True)"""
ROWS = "gradient * np.minimum(1, longest / np.maximum(length, 1e-12))"
WRONG = [
    ("clip_all", EACH, "[g * (most / np.linalg.norm(g)) for g in gradients]", "each array is clipped by itself"),
    ("clip_all", EACH, "[g * (most / norm) if np.sum(g**2) > most**2 else g for g in gradients]", "was left alone"),
    ("clip_all", EACH, "[np.clip(g, -most, most) for g in gradients]", "each number is clipped by itself"),
    ("clip_all", NORM, "sum(np.sum(g**2) for g in gradients)", "the root is missing"),
    ("clip_all", NORM, "sum(np.linalg.norm(g) for g in gradients)", "norms do not add up"),
    ("clip_all", "(most / norm)", "(1 / norm)", "`most` was 2"),
    ("clip_all", "norm <= most", "norm == 0", "only ever shortens"),
    ("clip_all", EACH, "gradients[0]", "a list of arrays"),
    ("clip_all", "        return gradients", "        return None", "not handed back"),
    ("accumulated_step", TRUE, "np.mean([clip(g / scale) for g in scaled_gradients], axis=0)", "only the sum of all"),
    ("accumulated_step", STEP, "weights - rate * clip(gradient * scale) / scale", "1024 times as strict"),
    ("accumulated_step", STEP, "weights - rate * clip(gradient) / scale", "divided by the scale twice"),
    ("accumulated_step", TRUE, "np.mean(scaled_gradients, axis=0)", "never divided out"),
    ("accumulated_step", TRUE, "np.sum(scaled_gradients, axis=0) / scale", "not their mean"),
    ("accumulated_step", STEP, "weights - rate * clip(gradient * 3) / len(scaled_gradients)", "clip their mean"),
    ("accumulated_step", STEP, "weights - rate * clip(gradient * 3 * scale) / 3 / scale", "clip their mean"),
    ("accumulated_step", "min(1.0, most / (", "min(1.0, 1 / (", "clipped at 2"),
    ("accumulated_step", "min(1.0, most / (np.linalg.norm(g) + 1e-6))", "most / np.linalg.norm(g)", "only ever shortens"),
    ("clip_rows", ROWS, "gradient / length * np.minimum(longest, length)", "0 / 0"),
    ("clip_rows", MEASURED, MEASURED.replace("axis=1", "axis=0"), "you measure columns"),
    ("clip_rows", MEASURED, MEASURED.replace("axis=1, ", ""), "the whole matrix"),
    ("clip_rows", "np.maximum(np.linalg.norm(weight, axis=1, keepdims=True), eps)", "1", "its weights'"),
    ("clip_rows", "np.maximum(np.linalg.norm(weight, axis=1, keepdims=True), eps)",
     "np.linalg.norm(weight, axis=1, keepdims=True)", "can never move"),
    ("clip_rows", "np.maximum(np.linalg.norm(weight, axis=1, keepdims=True), eps)",
     "(np.linalg.norm(weight, axis=1, keepdims=True) + eps)", "eps is added"),
    ("clip_rows", "ratio * np.maximum(np.linalg.norm(weight, axis=1, keepdims=True), eps)",
     "np.maximum(ratio * np.linalg.norm(weight, axis=1, keepdims=True), eps)", "compared with the limit"),
    ("clip_rows", ROWS, "gradient * (longest / np.maximum(length, 1e-12))", "was made longer"),
    ("after_spike", "g**2", "g", "mean of *squared* gradients"),
    ("after_spike", "np.sqrt(u)", "u", "root of u"),
    ("after_spike", "number == 0", "number >= 0", "it is 1 again"),
    ("after_spike", "m, u, found = 1.0, 1.0, []", "m, u, found = 0.0, 0.0, []", "begin at 0"),
    ("after_spike", "np.array(found)", "np.array([1.0, *found[:-1]])", "one step late"),
    ("after_spike", "m, u, found = 1.0, 1.0, []", "m, u, found, b1, b2 = 1.0, 1.0, [], b2, b1", "exchanged"),
    ("after_spike", "m, u, found = 1.0, 1.0, []", "m, u, found, b1, b2 = 1.0, 1.0, [], 1 - b1, 1 - b2", "shares are exchanged"),
    ("after_spike", "m, u, found = 1.0, 1.0, []", "m, u, found, b1, b2 = 1.0, 1.0, [], 0.9, 0.999", "the betas 0.5 and 0.98"),
    ("which_threshold", '"norm_1"', '"none"', "15 of 40"),
    ("which_threshold", '"norm_1"', '"norm_0.05"', "may be worse"),
    ("which_threshold", '"norm_1"', '"value"', "worse by more"),
    ("which_threshold", '"because": "b"', '"because": "a"', "says little"),
    ("which_threshold", '"because": "b"', '"because": "c"', "shows no equality"),
    ("which_threshold", '"clipping_at_1": "c"', '"clipping_at_1": "a"', "no improvement was shown"),
    ("which_threshold", '"clipping_at_1": "c"', '"clipping_at_1": "b"', "no harm was shown"),
    ("which_threshold", '"unless": "a"', '"unless": "b"', "no surprise"),
    ("which_threshold", '"unless": "a"', '"unless": "c"', "not what was agreed on"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "message"), WRONG)
def test_a_wrong_answer_is_told_why(name, old, new, message):
    state, text = told(SLUG, name, altered(SLUG, name, old, new))
    assert state == "wrong"
    assert message in text
