"""Lesson 07: its equations by independent naive functions, its exercises by right and wrong answers."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from tests.course.lessons import altered, built, solution, stub, told

from bertcraft.techniques import mixed_precision_training as technique
from bertcraft.tensor import functions as F
from bertcraft.tensor import value_and_grad

SLUG = "mixed_precision_training"
DIGITS, LOWEST, HIGHEST = 10, -14, 15  # float16's, as the text has them


# ------------------------------------------------------------------------------------------------------- the equations


def numbers():
    """All numbers of float16 above 0 by equation (1) and the sentence after it, as fractions in order."""
    subnormal = [Fraction(j) * Fraction(2) ** (LOWEST - DIGITS) for j in range(1, 2**DIGITS)]
    normal = [(1 + Fraction(j, 2**DIGITS)) * Fraction(2) ** e for e in range(LOWEST, HIGHEST + 1) for j in range(2**DIGITS)]
    return subnormal + normal


def test_equation_1_names_every_number_of_float16():
    theirs = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(float)
    assert [float(x) for x in numbers()] == theirs.tolist()
    assert float(numbers()[0]) == 2.0**-24 == pytest.approx(6e-8, rel=0.01) and numbers()[-1] == 65504


def test_equation_2_and_the_example_by_hand():
    known = np.array([float(x) for x in numbers()])
    x = np.random.default_rng(0).uniform(0.7, 1.9, 2000) * 2.0 ** np.random.default_rng(1).integers(-14, 15, 2000)
    x = x[x >= 2.0**LOWEST]
    nearest = np.array([known[np.argmin(np.abs(known - each))] for each in x])
    np.testing.assert_array_equal(technique.rounded(x, "float16"), nearest)
    e = np.array([math.floor(math.log2(each)) for each in x])
    assert (np.abs(nearest - x) <= 2.0 ** (e - DIGITS - 1)).all()
    assert (2.0 ** (e - DIGITS - 1) <= 2.0**-11 * x).all()
    assert float(technique.rounded(np.array([0.1]), "float16")[0]) == (1 + 614 / 1024) / 16 == pytest.approx(0.09998, abs=5e-6)
    assert [f"{2.0 ** -(d + 1):.1e}" for d in (23, 10, 7, 3)] == ["6.0e-08", "4.9e-04", "3.9e-03", "6.2e-02"]


def test_equation_3_and_the_upper_end():
    ends = np.array([2.0**-25, 2.0**-25 * (1 + 2**-20), 65519.99, 65520.0])
    assert technique.rounded(ends, "float16").tolist() == [0, 2.0**-24, 65504, np.inf]


def test_equation_4_word_by_word_and_berts_batch():
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((5, 7)), np.array([1, 6, 0, 3, 3])
    _, got = value_and_grad(lambda z: F.cross_entropy(z, y))(z)
    for i, c in itertools.product(range(5), range(7)):
        p = math.exp(z[i, c]) / sum(math.exp(v) for v in z[i])
        assert got[i, c] == pytest.approx((p - (c == y[i])) / 5)
    n = round(0.15 * 256 * 512)
    assert n == 19_661 and n * 2.0**-25 == pytest.approx(0.0006, abs=5e-5) and 1 / 30522 == pytest.approx(0.00003, abs=5e-6)


def test_equation_5_for_every_number_on_the_way():
    rng = np.random.default_rng(0)
    params = {"w": rng.standard_normal((4, 4)), "shift": np.zeros((3, 4)), "out": rng.standard_normal((4, 6))}
    x, y = rng.standard_normal((3, 4)), np.array([0, 5, 2])

    def loss(p, scale):
        hidden = np.tanh(x @ p["w"]) + p["shift"]  # the gradient of a shift is that of what it is added to
        return F.cross_entropy(hidden @ p["out"], y) * scale

    plain, scaled = (value_and_grad(loss)(params, scale)[1] for scale in (1.0, 2.0**12))
    for name, g in plain.items():
        np.testing.assert_array_equal(2.0**12 * g, scaled[name])


def test_equation_6_and_the_example_by_hand():
    rng = np.random.default_rng(0)
    w = technique.rounded(rng.uniform(0.3, 9, 5000) * rng.choice([-1, 1], 5000), "float16")
    update = w * rng.choice([-1, 1], 5000) * rng.uniform(0, 2.0**-10, 5000)
    stays, u = technique.rounded(w - update, "float16") == w, 2.0**-11
    assert stays[np.abs(update) < u / 2 * np.abs(w)].all() and not stays[np.abs(update) > u * np.abs(w)].any()
    assert 0 < stays.mean() < 1
    assert technique.rounded(np.array([1.0003]), "float16") == 1 and float(np.spacing(np.float16(1))) == pytest.approx(
        0.00098, abs=5e-6
    )


@pytest.mark.parametrize("form", ["float16", "bfloat16"])
def test_equation_7_as_the_mean_over_all_draws(form):
    x = np.array([1.0003, -0.7, 2.0**-24 * 1.25, 3.0])
    draws = (np.arange(4096) + 0.5) / 4096
    mean = np.mean([technique.rounded(x, form, np.full(4, draw)) for draw in draws], axis=0)
    spacing = solution(SLUG, "spacing")(x, technique.FORMATS[form].digits, technique.FORMATS[form].lowest)
    assert (np.abs(mean - x) <= spacing / 4096).all()


def test_figures_that_the_text_states():
    """Shares of memory by number of texts; the model answer of exercise 8.7."""
    state = 16 * 109_482_240
    whole = {wide: [state + 12 * technique.kept_by_a_layer(n, 512, 768, 12, wide) for n in (1, 4, 64)] for wide in (2, 4)}
    assert [round(100 * a / b) for a, b in zip(whole[2], whole[4], strict=True)] == [87, 72, 55]
    gradients = 2.0 ** np.arange(-50.0, -1)
    assert solution(SLUG, "largest_scale")(gradients) == 2.0**17
    lost = gradients[technique.rounded(gradients * 2.0**17, "float16") == 0]
    assert lost.tolist() == (2.0 ** np.arange(-50.0, -41)).tolist()
    total = 0.0
    for _ in range(300):
        total = float(technique.rounded(np.array([total + 1.0]), "bfloat16")[0])
    assert total == 256


def test_the_solutions_are_what_the_library_does():
    bits = np.random.default_rng(0).integers(0, 2**32, 10**5, dtype=np.uint32)
    x = bits.view(np.float32)
    got = (solution(SLUG, "bfloat16_bits")(x).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(got, technique.rounded(x, "bfloat16"))
    normal = np.abs(x[np.isfinite(x) & (np.abs(x) > 1e-4) & (np.abs(x) < 6e4)]).astype(np.float16)
    np.testing.assert_array_equal(solution(SLUG, "spacing")(normal.astype(float), 10, -14), np.spacing(normal).astype(float))
    finite, state, found = (
        np.random.default_rng(1).random(200) < 0.8,
        {"scale": np.float32(64), "good_steps": 0, "skipped": 0},
        [],
    )
    for each in finite:
        state = technique.next_scale(state, each, 2.0, 0.5, 3)
        found.append(float(state["scale"]))
    np.testing.assert_array_equal(solution(SLUG, "scales")(finite, 64.0, 3), found)


# -------------------------------------------------------------------------------------------------------- the page


def test_the_proofs_on_the_page_hold_in_both_editions():
    for solved in (False, True):
        text = "".join(
            "".join(output.get("text", "")) for cell in built(SLUG, solved).cells for output in cell.get("outputs", ())
        )
        for line in (
            "float16, the same numbers: True", "bfloat16, the same numbers: True", "the same scale at each: True  skipped: 5",
            "the same weights to 1e-6: True", "ours within a unit of bfloat16: True", "Attempting to unscale FP16 gradients",
        ):  # fmt: skip
            assert line in text, line


# ------------------------------------------------------------------------------------------------------- the exercises


def test_the_bug_to_be_found_is_told_what_it_does():
    state, text = told(SLUG, "scaled_step", stub(SLUG, "scaled_step"))
    assert state == "wrong" and "divide first" in text


E, NEAREST = "np.maximum(e - 1, lowest)", "(bits + 0x7FFF + last) >> 16"
WRONG = [
    ("spacing", E, "np.maximum(e, lowest)", "twice too large"),
    ("spacing", "- digits)", "- digits - 1)", "half the distance"),
    ("spacing", f"2.0 ** ({E} - digits)", "np.abs(x) * 2.0**-digits", "the same everywhere"),
    ("spacing", E, "np.ceil(np.log2(np.abs(x)))", "take the floor"),
    ("spacing", E, "(e - 1.0)", "subnormal numbers are equally far apart"),
    ("spacing", E, "np.maximum(e - 1, -14)", "the format's own `lowest`"),
    ("largest_scale", "floor", "ceil", "round the power down"),
    ("largest_scale", "65504 /", "65536 /", "0.25 * 262144 is 65,536"),
    (
        "largest_scale",
        "np.floor(np.log2(65504 / np.abs(gradients).max()))",
        "(16 - np.frexp(np.abs(gradients).max())[1])",
        "65520 * 1 is 65,520",
    ),
    (
        "largest_scale",
        "2.0 ** np.floor(np.log2(65504 / np.abs(gradients).max()))",
        "65504 / np.abs(gradients).max()",
        "no power of two",
    ),
    ("largest_scale", "np.abs(gradients).max()", "gradients.max()", "without signs"),
    ("largest_scale", ".max()", ".min()", "the one that overflows first"),
    ("scales", "else 0", "else good", "in a row"),
    ("scales", "scale, good = scale * 2, 0", "scale, good = scale * 2, good - 1", "count anew after a doubling"),
    ("scales", "scale, good = scale * 2, 0", "scale = scale * 2", "grows only once"),
    ("scales", "good == interval:", "good == interval + 1:", "one step late"),
    ("scales", "good == interval:", "True:", "at every good step"),
    ("scales", "scale * 2, 0", "scale, 0", "only ever falls"),
    ("scales", "np.array(after, float)", "np.array([64.0, *after[:-1]], float)", "*before* each step"),
    ("scaled_step", "scaled_gradient / scale\n", "scaled_gradient\n", "never divided by the scale"),
    ("scaled_step", "if length > limit:", "if False:", "nothing is clipped"),
    ("scaled_step", "if length > limit:", "if True:", "only ever shortens"),
    ("scaled_step", "gradient * (limit / length)", "np.clip(gradient, -limit, limit)", "keep its direction"),
    ("scaled_step", "if length > limit:", "if length * scale > limit:", "the true length with the limit"),
    ("scaled_step", "(limit / length)", "(1 / length)", "whatever the limit"),
    ("bfloat16_bits", NEAREST, "bits >> 16", "cut off, not rounded"),
    ("bfloat16_bits", NEAREST, "(bits + 0x8000) >> 16", "ties always go up"),
    ("bfloat16_bits", NEAREST, "(bits + 0x7FFF) >> 16", "ties always go down"),
    ("bfloat16_bits", "np.where(np.isnan(x), 0x7FC0, nearest)", "nearest", "nan has become"),
    ("bfloat16_bits", "np.where(np.isnan(x), 0x7FC0, nearest).astype(np.uint16)", "bits", "all 32 bits"),
    ("which_precision", '"float16", "because"', '"bfloat16", "because"', "may be worse"),
    ("which_precision", '"float16", "because"', '"alone", "because"', "worse by at least"),
    ("which_precision", '"because": "b"', '"because": "a"', "can have any mean"),
    ("which_precision", '"because": "b"', '"because": "c"', "shows no equality"),
    ("which_precision", '"bfloat16_is": "c"', '"bfloat16_is": "a"', "was not shown"),
    ("which_precision", '"bfloat16_is": "c"', '"bfloat16_is": "b"', "no difference was shown"),
    ("which_precision", '"unless": "a"', '"unless": "b"', "no surprise"),
    ("which_precision", '"unless": "a"', '"unless": "c"', "it is its loss"),
]


@pytest.mark.parametrize(("name", "old", "new", "message"), WRONG)
def test_a_wrong_answer_is_told_why(name, old, new, message):
    state, text = told(SLUG, name, altered(SLUG, name, old, new))
    assert state == "wrong"
    assert message in text
