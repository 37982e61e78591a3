"""Lesson 00: its equations, naively, against the library; its exercises with wrong answers that learners give."""

import math
import re

import numpy as np
import pytest
from tests.course import lessons

import bertcraft as bc
from bertcraft.tensor import functions as F

SLUG = "foundations"


@pytest.fixture
def rng():
    return np.random.default_rng(7)


# ---------------------------------------------------------------------------------------------------------- equations


def test_equations_1_and_2_the_tape_finds_the_measured_slopes():
    function = lambda p: (p["w"] * 3.0 + p["b"] - 5.0) ** 2  # noqa: E731
    value, gradient = bc.value_and_grad(function)({"w": np.array(2.0), "b": np.array(1.0)})
    assert (value, gradient["w"], gradient["b"]) == (4.0, 12.0, 4.0)
    for name, at in (("w", {"w": 2 + 1e-6, "b": 1.0}), ("b", {"w": 2.0, "b": 1 + 1e-6})):
        assert (function(at) - 4) / 1e-6 == pytest.approx(float(gradient[name]), rel=1e-5)


def test_equation_2_the_lessons_own_tape():
    names = {"np": np}
    for cell in lessons._cells(SLUG):
        if cell.text.startswith(("class Tiny", "def backward")):
            exec(cell.text.split("for place, line in")[0] if "class Tiny" in cell.text else cell.text, names)
    gradients = names["gradients"]
    assert (gradients[names["w"].place], gradients[names["b"].place], gradients[names["t"].place]) == (12.0, 4.0, -4.0)
    assert len(names["Tiny"].tape) == len(gradients) == 8


def test_equation_3_the_gradients_of_a_linear_layer(rng):
    x, weight, bias, g = (rng.standard_normal(shape) for shape in ((5, 3), (2, 3), (2,), (5, 2)))
    found = bc.grad(lambda p: np.sum(F.linear(*p) * g))((x, weight, bias))
    by_hand = [np.zeros_like(array) for array in (x, weight, bias)]
    for i in range(5):
        for o in range(2):
            by_hand[2][o] += g[i, o]
            for k in range(3):
                by_hand[0][i, k] += g[i, o] * weight[o, k]
                by_hand[1][o, k] += g[i, o] * x[i, k]
    for one, other in zip(found, by_hand, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def naive_attention(query, key, value):
    """Equation 4, a number at a time."""
    result = np.zeros((len(query), value.shape[1]))
    for i, q in enumerate(query):
        powers = [math.exp(sum(a * b for a, b in zip(q, k, strict=True)) / math.sqrt(len(q))) for k in key]
        for weight, v in zip(powers, value, strict=True):
            result[i] += weight / sum(powers) * v
    return result


def test_equation_4_attention(rng):
    q, k, v = rng.standard_normal((4, 6)), rng.standard_normal((5, 6)), rng.standard_normal((5, 6))
    np.testing.assert_allclose(F.attention(q[None], k[None], v[None])[0], naive_attention(q, k, v), atol=1e-12)


def test_equation_4_on_the_napkin():
    q, k, v = np.log(2) * np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [1.0], [2.0]]), np.array([[21.0], [0.0], [0.0]])
    np.testing.assert_allclose(naive_attention(q, k, v).ravel(), [7, 3, 1])
    np.testing.assert_allclose(F.attention(q[None], k[None], v[None]).ravel(), [7, 3, 1])


def test_equation_5_layer_norm(rng):
    x, weight, bias = rng.standard_normal(6), rng.standard_normal(6), rng.standard_normal(6)
    mean = sum(x) / 6
    variance = sum((number - mean) ** 2 for number in x) / 6
    naive = [(a - mean) / math.sqrt(variance + 1e-12) * w + b for a, w, b in zip(x, weight, bias, strict=True)]
    np.testing.assert_allclose(F.layer_norm(x, weight, bias), naive, atol=1e-12)
    np.testing.assert_allclose(F.layer_norm(np.array([1.0, 3.0]), np.ones(2), np.zeros(2)), [-1, 1])


def test_equation_6_cross_entropy_and_its_derivative():
    logits = np.log(np.array([[1.0, 2.0, 5.0]]))
    for right, loss in ((2, math.log(8 / 5)), (0, math.log(8))):
        naive = -math.log(math.exp(logits[0, right]) / sum(math.exp(a) for a in logits[0]))
        assert float(F.cross_entropy(logits, np.array([right]))) == pytest.approx(naive) == pytest.approx(loss)
    gradient = bc.grad(lambda a: F.cross_entropy(a, np.array([2])))(logits)
    np.testing.assert_allclose(gradient, [[1 / 8, 2 / 8, -3 / 8]])


# ---------------------------------------------------------------------------------------------------------- exercises


def test_the_bug_to_be_found_is_told_what_it_does():
    state, text = lessons.told(SLUG, "split_heads", lessons.stub(SLUG, "split_heads"))
    assert state == "wrong"
    assert "a reshape reads the numbers in order" in text


WRONG = {
    "slopes": (
        ('"add": lambda: (1.0, 1.0)', '"add": lambda: (x, y)', 'the slopes of "add"'),
        ("lambda: (y, x)", "lambda: (x, y)", "the *other* factor"),
        ("-z / y", "z / y", "wrong sign"),
        ("-z / y", "-1 / y**2", "that of 1 / y, times x"),
        ("(z,)", "(x * np.exp(x - 1),)", "e^x itself"),
        ("(1 - z * z,)", "(1 - x * x,)", "with its *result* z"),
        ("x > 0", "x >= 0", "relu at x = 0"),
        ("1.0 if x > 0", "z if x > 0", "this is relu itself"),
        ("(z,)", "z", "return a tuple"),
        ('"tanh": lambda: (1 - z * z,)', '"tanh": lambda: None', '"tanh" returns nothing'),
    ),
    "unbroadcast": (
        ("return g.sum(axis=stretched, keepdims=True)", "return g", "shape"),
        ("return g.sum(axis=stretched, keepdims=True)", "return g.sum(axis=stretched)", "axes that the argument has stay"),
        ("g = g.sum(axis=tuple(range(new_axes)))", "g = g.mean(axis=tuple(range(new_axes)))", "paths add up"),
        ("g = g.sum(axis=tuple(range(new_axes)))", "g = g[(0,) * new_axes]", "the first copy alone"),
        ("g = g.sum(axis=tuple(range(new_axes)))", "g = g", "still has the shape of g"),
    ),
    "attend": (
        (" / math.sqrt(query.shape[1])", "", "not divided by the square root"),
        ("math.sqrt(query.shape[1])", "query.shape[1]", "divided by D = 9"),
        ("math.sqrt(query.shape[1])", "math.sqrt(len(key))", "number of tokens, 5"),
        ("math.sqrt(query.shape[1])", "np.sqrt(query.shape[1])", "float64"),
        ("scores - scores.max(axis=1, keepdims=True)", "scores", "overflows"),
        ("scores - scores.max(axis=1, keepdims=True)", "scores - scores.max()", "a largest score of its own"),
        ("scores - scores.max(axis=1, keepdims=True)", "np.clip(scores, -700, 700)", "do not cut them off"),
        ("scores.max(axis=1, keepdims=True)", "np.abs(scores).max(axis=1, keepdims=True)", "and not its size"),
        ("scores.max(axis=1, keepdims=True)", "scores.max(axis=0)", "of each *column*"),
        (" / math.sqrt(query.shape[1])", " * math.sqrt(query.shape[1])", "multiplied by the square root"),
        ("return weights @ value",
         "powers = np.exp(query @ key.T); return powers / powers.sum(axis=1, keepdims=True) / math.sqrt(query.shape[1]) @ value",
         "divides the weights"),
        ("weights.sum(axis=1, keepdims=True)", "weights.sum(axis=0)", "axis=1, not 0"),
        ("weights / weights.sum(axis=1, keepdims=True)", "weights / weights.sum()", "row by row"),
        ("weights = np.exp(scores)", "weights = scores", "expected"),
    ),
    "split_heads": (
        ("x.reshape(batch, length, heads, hidden // heads)", "x.reshape(batch, heads, length, hidden // heads)", "shape"),
        ("separate.transpose(0, 2, 1, 3)", "separate", "swap the middle two"),
        ("separate.transpose(0, 2, 1, 3)", "separate.transpose(2, 0, 1, 3)", "before the batch"),
        ("separate.transpose(0, 2, 1, 3)", "x.reshape(batch, length, -1, heads).transpose(0, 3, 1, 2)", "every A-th number"),
        ("separate.transpose(0, 2, 1, 3)", "x.transpose(0, 2, 1).reshape(batch, heads, length, -1)", "expected 1"),
    ),
    "masked_loss": (
        ("return -log_p", "return log_p", "*minus* the logarithm"),
        ("labels].mean()", "labels].sum()", "divide by their number, 3"),
        ("labels].mean()", "labels].sum() / len(asked)", "all 6 positions"),
        ("logits, labels = logits[asked], labels[asked]", "labels = np.where(asked, labels, 0)", "not asked for token 0"),
        ("logits, labels = logits[asked], labels[asked]", "labels = labels % logits.shape[1]", "-100 was made an index"),
        ("logits - logits.max(axis=1, keepdims=True)", "logits", "not finite"),
        ("shifted - np.log(", "shifted / np.log(2) - np.log2(", "in bits"),
        ("shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))", "logits", "no log-probabilities"),
        ("labels].mean()", "labels]", "return their mean"),
        ("[np.arange(len(labels)), labels]", "[:, labels]", "every row's number for every label"),
        ("labels != -100", "labels > 0", "token 0 is a token too"),
        ("log_p[np.arange", "np.log(np.exp(log_p) + 1e-12)[np.arange", "the loss of logits near 1000"),
    ),
}  # fmt: skip


RIGHT = {
    "unbroadcast": (("return g.sum(axis=stretched, keepdims=True)", "return g.sum(axis=stretched).reshape(shape)"),),
    "attend": (("math.sqrt(query.shape[1])", "key.shape[1] ** 0.5"),),
    "split_heads": (("separate.transpose(0, 2, 1, 3)", "np.stack(np.split(x, heads, axis=2), axis=1)"),),
    "masked_loss": (("labels != -100", "labels >= 0"),),
}  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new"), [(name, *case) for name, cases in RIGHT.items() for case in cases])
def test_another_right_answer_passes(name, old, new):
    assert lessons.told(SLUG, name, lessons.altered(SLUG, name, old, new)) == ("solved", "")


@pytest.mark.parametrize(("name", "old", "new", "message"), [(name, *case) for name, cases in WRONG.items() for case in cases])
def test_a_wrong_answer_gets_the_message_meant_for_it(name, old, new, message):
    state, text = lessons.told(SLUG, name, lessons.altered(SLUG, name, old, new))
    assert state == "wrong"
    assert message in text


# ------------------------------------------------------------------------------------------------------------ the lesson


@pytest.mark.parametrize("solved", [False, True])
def test_the_page_shows_what_it_promises(solved):
    notebook = lessons.built(SLUG, solved)
    texts = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = sum("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ()))
    assert pictures == 4
    assert sum("the same hidden states: True" in text for text in texts) == 1
    printed = "".join(texts)
    unigram = float(re.search(r"knowing frequencies ([\d.]+) nats", printed)[1])
    stuck, near = map(float, re.search(r"sees \[MASK\]: plain ([\d.]+), near ([\d.]+)", printed).groups())
    assert stuck > unigram - 0.1 and near < unigram - 0.5  # on the plateau, and off it
    assert float(re.findall(r"^step +\d+: ([\d.]+)$", printed, re.M)[-1]) < unigram - 0.5
    assert float(re.search(r"among 30 random words: ([\d.]+)", printed)[1]) > 0.95
    plain = [output.get("data", {}).get("text/plain", "") for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum(text.startswith("Solved: ") for text in plain) == (5 if solved else 0)
