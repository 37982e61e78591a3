"""Lesson 15: its equations by independent naive functions, its exercises by right and wrong answers."""

import math

import numpy as np
import pytest
from tests.course.lessons import altered, built, solution, stub, told

from bertcraft.bert import encoder, families
from bertcraft.bert.config import Config
from bertcraft.techniques import layer_norm_variants as technique
from bertcraft.tensor import functions as F
from bertcraft.tensor import value_and_grad

SLUG = "layer_norm_variants"
CONFIG = Config(family="bert", vocab_size=23, hidden_size=8, num_attention_heads=2, num_hidden_layers=3, intermediate_size=16,
                max_position_embeddings=9, layer_norm_eps=1e-6, hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0)  # fmt: skip


# ------------------------------------------------------------------------------------------------------- the equations


def equation_1(x, weight, bias, eps):
    mean = sum(x) / len(x)
    variance = sum((each - mean) ** 2 for each in x) / len(x)
    return [w * (each - mean) / math.sqrt(variance + eps) + b for each, w, b in zip(x, weight, bias, strict=True)]


def equation_2(x, weight, eps):
    root = math.sqrt(sum(each * each for each in x) / len(x) + eps)
    return [w * each / root for each, w in zip(x, weight, strict=True)]


def test_equations_1_to_3_and_the_example_by_hand():
    rng = np.random.default_rng(0)
    x, weight, bias = rng.standard_normal((3, 6))
    np.testing.assert_allclose(F.layer_norm(x, weight, bias, 0.1), equation_1(x, weight, bias, 0.1), atol=1e-14)
    np.testing.assert_allclose(F.rms_norm(x, weight, 0.1), equation_2(x, weight, 0.1), atol=1e-14)
    of_centred = np.array(equation_2(x - x.mean(), weight, 0.1)) + bias
    np.testing.assert_allclose(of_centred, equation_1(x, weight, bias, 0.1), atol=1e-14)
    assert equation_1([1, 7], [1, 1], [0, 0], 0) == [-1, 1] and equation_2([1, 7], [1, 1], 0) == [0.2, 1.4]
    assert np.mean(np.square([0.2, 1.4])) == pytest.approx(1)
    np.testing.assert_allclose(equation_1(x + 100, weight, bias, 0.1), equation_1(x, weight, bias, 0.1), atol=1e-12)


@pytest.mark.parametrize("wiring", technique.WIRINGS)
def test_equations_4_to_7_half_by_half(wiring):
    params = technique.initial_params(CONFIG, 0, wiring, dtype=np.float64)
    layer, sockets = families.layers(params, CONFIG)[0], technique.sockets(wiring)
    x = np.random.default_rng(1).standard_normal((2, 5, 8))
    attention = lambda x: encoder.self_attention(layer, x, x, None, CONFIG)  # noqa: E731
    feed_forward = lambda x: encoder.feed_forward(layer, x, CONFIG)  # noqa: E731

    def ln(x):
        return np.array([[equation_1(token, np.ones(8), np.zeros(8), 1e-6) for token in text] for text in x])

    expected, alpha = x, (2 * 3) ** 0.25
    for half in (attention, feed_forward):
        expected = {
            "post": lambda x, f=half: ln(x + f(x)),
            "pre": lambda x, f=half: x + f(ln(x)),
            "sandwich": lambda x, f=half: x + ln(f(ln(x))),
            "deep": lambda x, f=half: ln(alpha * x + f(x)),
        }[wiring](expected)
    got = sockets.wiring(layer, x, x, None, CONFIG, sockets)
    np.testing.assert_allclose(got, expected, atol=1e-10)


def test_equation_8_for_additions_that_have_nothing_to_do_with_the_state():
    rng = np.random.default_rng(2)
    x, v = rng.standard_normal((4000, 32)), 0.3
    for layer in range(1, 6):
        for _ in range(2):
            x = x + math.sqrt(v) * rng.standard_normal(x.shape)
        assert np.mean(x**2) == pytest.approx(1 + 2 * layer * v, rel=0.02)


def test_equation_9_the_example_by_hand_and_what_is_read_off():
    x = np.array([3.0, 4.0])
    jacobian = np.array([value_and_grad(lambda x, i=i: F.rms_norm(x, np.ones(2), 0.0)[i])(x)[1] for i in range(2)])
    by_hand = math.sqrt(2) / 5 * np.array([[0.64, -0.48], [-0.48, 0.36]])
    np.testing.assert_allclose(jacobian, by_hand, atol=1e-12)
    np.testing.assert_allclose(by_hand @ x, 0, atol=1e-12)
    assert math.sqrt(2) / 5 == pytest.approx(0.28, abs=0.005)
    longer = np.array([value_and_grad(lambda x, i=i: F.rms_norm(x, np.ones(2), 0.0)[i])(10 * x)[1] for i in range(2)])
    np.testing.assert_allclose(longer, jacobian / 10, atol=1e-12)


def test_equation_10_at_the_last_norm():
    """A gradient through the norm of a state of mean square 1 + 2 N v shrinks by its root, but for the part along the state."""
    rng = np.random.default_rng(3)
    for layers in (3, 12, 48):
        square = 1 + 2 * layers * 0.1
        x, g = math.sqrt(square) * rng.standard_normal((200, 64)), rng.standard_normal((200, 64))
        back = value_and_grad(lambda x: np.sum(F.rms_norm(x, np.ones(64), 0.0) * g))(x)[1]
        assert np.linalg.norm(back) / np.linalg.norm(g) == pytest.approx(1 / math.sqrt(square), rel=0.03)


def test_figures_that_the_text_states():
    assert technique.deep_norm_constants(12) == pytest.approx((2.21, 0.32), abs=0.005)
    assert 0.02 * math.sqrt(768 / 64) == pytest.approx(0.07, abs=0.001)
    alpha, beta = technique.deep_norm_constants(12)
    assert beta**-4 == pytest.approx(8 * 12) and 0.23 * beta / alpha == pytest.approx(0.03, abs=0.005)
    share = lambda v, layer: v / (1 + 2 * layer * v)  # noqa: E731
    assert (0.1 / 1.1, share(0.1, 1), share(0.1, 12), share(1, 1), share(1, 12)) == pytest.approx(
        (0.09, 0.08, 0.03, 0.33, 0.04), abs=0.005
    )
    assert (0.125 / 0.07) ** 4 == pytest.approx(10, abs=0.5)  # of v
    base = Config(family="bert")
    assert technique.norm_parameters(base) == 38_400 and technique.norm_parameters(base, norms="rms") == 19_968


def test_the_solutions_are_what_the_library_does():
    rng = np.random.default_rng(5)
    x, g = rng.standard_normal((2, 4, 8))
    weight, bias = rng.standard_normal((2, 8))
    np.testing.assert_allclose(solution(SLUG, "rms_norm")(x, weight, 0.2), F.rms_norm(x, weight, 0.2), atol=1e-14)
    np.testing.assert_allclose(solution(SLUG, "layer_norm")(x, weight, bias, 0.2), F.layer_norm(x, weight, bias, 0.2), atol=1e-14)
    back = value_and_grad(lambda x: np.sum(F.rms_norm(x, weight, 0.2) * g))(x)[1]
    np.testing.assert_allclose(solution(SLUG, "rms_norm_backward")(g, x, weight, 0.2), back, atol=1e-12)
    params = technique.initial_params(CONFIG, 0, "pre", dtype=np.float64)
    layer, states = families.layers(params, CONFIG)[0], rng.standard_normal((2, 5, 8))
    own = solution(SLUG, "pre_layer")(
        states,
        lambda x: encoder.self_attention(layer, x, x, None, CONFIG),
        lambda x: encoder.feed_forward(layer, x, CONFIG),
        lambda x: technique.normed(layer["attention"]["LayerNorm"], x, CONFIG),
        lambda x: technique.normed(layer["intermediate"]["LayerNorm"], x, CONFIG),
    )
    np.testing.assert_allclose(own, technique.pre_layer_norm(layer, states, states, None, CONFIG, technique.sockets("pre")))
    matrix, shift = rng.standard_normal((6, 8)), rng.standard_normal(6)
    new, offset = solution(SLUG, "folded")(weight, bias, matrix, shift)
    np.testing.assert_allclose(x @ new.T + offset, (weight * x + bias) @ matrix.T + shift, atol=1e-12)


# -------------------------------------------------------------------------------------------------------- the page


def test_the_proofs_on_the_page_hold_in_both_editions():
    for solved in (False, True):
        text = "".join(
            "".join(output.get("text", "")) for cell in built(SLUG, solved).cells for output in cell.get("outputs", ())
        )
        for line in (
            "RMSNorm                  values True, gradients True", "TransformerEncoderLayer  values True, gradients True",
            "analytic and numeric gradients agree", "RobertaPreLayerNormModel there and back: True",
            "every gradient to 1e-10: True",
        ):  # fmt: skip
            assert line in text, line


# ------------------------------------------------------------------------------------------------------- the exercises


def test_the_bug_to_be_found_is_told_what_it_does():
    state, text = told(SLUG, "layer_norm", stub(SLUG, "layer_norm"))
    assert state == "wrong" and "the small difference of two large numbers" in text


ROOT = "np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)"
LAYER = "x = x + attention(first(x))\n    return x + feed_forward(second(x))"
SQUARE = "np.mean(centred**2, axis=-1, keepdims=True)"
DOUBLE = "np.mean(np.float64(x) ** %d, axis=-1, keepdims=True)"
WRONG = [
    ("rms_norm", "x / np", "(x - x.mean(axis=-1, keepdims=True)) / np", "a mean is taken away"),
    ("rms_norm", ROOT, "np.std(x, axis=-1, keepdims=True)", "as np.std does"),
    ("rms_norm", "np.mean", "np.sum", "divided by the length"),
    ("rms_norm", ROOT, "(np.sqrt(np.mean(x * x, axis=-1, keepdims=True)) + eps)", "eps stands behind the root"),
    ("rms_norm", ROOT, "(np.sqrt(np.sum(x * x, axis=-1, keepdims=True)) + eps)", "divided by the length"),
    ("rms_norm", " + eps", "", "eps is missing"),
    ("rms_norm", "np.mean(x * x, axis=-1, keepdims=True)", "np.mean(x, axis=-1, keepdims=True) ** 2", "the square of the mean"),
    ("rms_norm", "np.sqrt", "", "the root is missing"),
    ("rms_norm", ", axis=-1, keepdims=True", "", "one mean square for all"),
    ("rms_norm", " * weight", "", "the weight is missing"),
    ("rms_norm", "* weight", "* (1 + weight)", "Gemma"),
    ("layer_norm", SQUARE, "np.maximum(np.mean(x * x, axis=-1, keepdims=True) - mean**2, 0)", "their digits are used up"),
    ("layer_norm", SQUARE, "np.std(x, axis=-1, keepdims=True)", "np.std; the variance is its square"),
    ("layer_norm", SQUARE, "np.sum(centred**2, axis=-1, keepdims=True)", "the sum of the squares"),
    ("layer_norm", SQUARE, "np.mean(centred, axis=-1, keepdims=True) ** 2", "which is 0 of centred numbers"),
    ("layer_norm", SQUARE, "np.mean(x**2, axis=-1, keepdims=True)", "the mean is not taken away"),
    ("layer_norm", SQUARE, f"({DOUBLE % 2} - {DOUBLE % 1} ** 2).astype(x.dtype)", "10^9"),
    ("layer_norm", SQUARE, "np.var(x, axis=-1, keepdims=True, ddof=1)", "divided by H - 1"),
    ("layer_norm", "np.sqrt(variance + eps)", "(np.sqrt(variance) + eps)", "eps stands behind the root"),
    ("pre_layer", LAYER,
     "x = first(x + attention(x))\n    return second(x + feed_forward(x))", "post-LN"),
    ("pre_layer", LAYER,
     "x = first(x)\n    x = x + attention(x)\n    x = second(x)\n    return x + feed_forward(x)", "goes through the norm"),
    ("pre_layer", "x = x + attention(first(x))\n    return x +", "return x + attention(first(x)) +", "the first half's input"),
    ("pre_layer", "second(x)", "first(x)", "both halves use the first norm"),
    ("pre_layer", "first(x)", "second(x)", "both halves use the second norm"),
    ("pre_layer", LAYER, "return x + feed_forward(second(x + attention(first(x))))", "what attention found is lost"),
    ("pre_layer", LAYER, "x = x + attention(second(x))\n    return x + feed_forward(first(x))", "the norms are exchanged"),
    ("pre_layer", LAYER, "x = x + feed_forward(second(x))\n    return x + attention(first(x))", "feed-forward comes first"),
    ("pre_layer", LAYER, "x = x + first(attention(x))\n    return x + second(feed_forward(x))", "behind the halves"),
    ("pre_layer", LAYER, "x = x + first(attention(first(x)))\n    return x + second(feed_forward(second(x)))", "sandwich"),
    ("pre_layer", LAYER, "return x + attention(first(x))", "the feed-forward half is missing"),
    ("pre_layer", "attention(first(x))", "attention(x)", "attention reads x without a norm"),
    ("pre_layer", "return x + ", "return ", "what leaves the layer"),
    ("pre_layer", "x = x + attention(first(x))\n    return x + ", "x = attention(first(x))\n    return ", "nothing is added"),
    ("pre_layer", "return x + feed_forward(second(x))", "return second(x + feed_forward(second(x)))", "a norm too many"),
    ("pre_layer", "feed_forward(second(x))", "feed_forward(x)", "without a norm"),
    ("folded", "weight * scale,", "weight * scale[:, None],", "the columns"),
    ("folded", "weight * scale,", "weight / scale,", "you divide"),
    ("folded", "weight * scale,", "weight,", "W is as it was"),
    ("folded", "weight * scale, bias + weight @ shift", "bias + weight @ shift, weight * scale", "the new weight comes first"),
    ("folded", "bias + weight @ shift", "bias", "the shift is lost"),
    ("folded", "bias + weight @ shift", "weight @ shift", "the old bias is lost"),
    ("folded", "weight @ shift", "shift", "through W first"),
    ("folded", "weight @ shift", "(weight * scale) @ shift", "through the new weight"),
    ("folded", "weight @ shift", "shift @ weight", "transposed"),
    ("folded", "return weight * scale, bias + weight @ shift", "return weight * scale", "two arrays"),
    ("rms_norm_backward", " - y * np.mean(g * y, axis=-1, keepdims=True)", "", "the part along x is missing"),
    ("rms_norm_backward", "g = g * weight", "pass", "the weight is missing"),
    ("rms_norm_backward", ") / root", ") / root * weight", "the weight comes in twice"),
    ("rms_norm_backward", "y * np.mean(g * y,", "weight * y * np.mean(g * weight * y,", "the weight comes in twice"),
    ("rms_norm_backward", " + eps", "", "eps is left out"),
    ("rms_norm_backward", "y * np.mean(g * y, axis=-1, keepdims=True)",
     "x * np.sum(g * x, axis=-1, keepdims=True) / np.sum(x * x, axis=-1, keepdims=True)", "eps is left out"),
    ("rms_norm_backward", "y = x / root", "y = x", "x stands where y belongs"),
    ("rms_norm_backward", "g * y, axis=-1, keepdims=True", "g * y", "one mean for all tokens"),
    ("rms_norm_backward", "np.mean(g * y", "np.sum(g * y", "a sum where a mean belongs"),
    ("rms_norm_backward", ") / root", ")", "the division by the root"),
    ("rms_norm_backward", "(g - y", "(g - g.mean(axis=-1, keepdims=True) - y", "a layer norm's"),
    ("rms_norm_backward", "(g - y", "(g + y", "the sign"),
    ("which_wiring", '"arm": "rms"', '"arm": "post"', "they can try one"),
    ("which_wiring", '"arm": "rms"', '"arm": "pre"', "a slower step"),
    ("which_wiring", '"because": "b"', '"because": "a"', "which they cannot look for"),
    ("which_wiring", '"because": "b"', '"because": "c"', "nobody asked"),
    ("which_wiring", '"post_is": "a"', '"post_is": "b"', "lies above 0"),
    ("which_wiring", '"post_is": "a"', '"post_is": "c"', "equality was not shown"),
    ("which_wiring", '"unless": "a"', '"unless": "b"', "scatter around"),
    ("which_wiring", '"unless": "a"', '"unless": "c"', "still be less"),
]  # fmt: skip


RIGHT = [
    ("rms_norm", "np.mean(x * x, axis=-1, keepdims=True)", "np.linalg.norm(x, axis=-1, keepdims=True) ** 2 / x.shape[-1]"),
    ("layer_norm", SQUARE, "np.var(x, axis=-1, keepdims=True)"),
    ("pre_layer", LAYER, "x += attention(first(x))\n    x += feed_forward(second(x))\n    return x"),
    ("folded", "weight * scale, bias + weight @ shift", "[weight @ np.diag(scale), weight @ shift + bias]"),
    ("rms_norm_backward", "(g - y * np.mean(g * y, axis=-1, keepdims=True)) / root",
     "g / root - x * np.sum(g * x, axis=-1, keepdims=True) / (x.shape[-1] * root**3)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new"), RIGHT)
def test_another_way_of_writing_it_is_accepted(name, old, new):
    assert told(SLUG, name, altered(SLUG, name, old, new))[0] == "solved"


@pytest.mark.parametrize(("name", "old", "new", "message"), WRONG)
def test_a_wrong_answer_is_told_why(name, old, new, message):
    state, text = told(SLUG, name, altered(SLUG, name, old, new))
    assert state == "wrong"
    assert message in text
