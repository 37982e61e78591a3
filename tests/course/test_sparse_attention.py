"""Lesson 10: its equations by independent naive functions, exercises by right and wrong answers, numbers that its text states."""

import ast
import math

import numpy as np
import pytest
from tests.course.lessons import altered, path, solution, stub, told

from bertcraft.techniques import sparse_attention as technique

SLUG = "sparse_attention"


# ------------------------------------------------------------------------------------------------------- the equations


def equation_1(query, key, value, sets):
    """One query at a time, in plain Python numbers; sets[i]: the places that i may see."""
    size, result = query.shape[1], []
    for i, places in enumerate(sets):
        weights = [math.exp(float(query[i] @ key[j]) / math.sqrt(size)) for j in places]
        result.append(sum(w * value[j] for w, j in zip(weights, places, strict=True)) / sum(weights))
    return np.array(result)


def window_set(i, n, w, dilation=1):
    """Equations (2) and (3)."""
    return sorted({j for step in range(-w, w + 1) if 0 <= (j := i + step * dilation) < n})


@pytest.mark.parametrize(("window", "dilation"), [(1, 1), (5, 1), (3, 2), (40, 1), (2, 7)])
def test_equations_1_to_3(window, dilation):
    query, key, value = np.random.default_rng(0).standard_normal((3, 23, 4))
    everything = np.ones((1, 23), bool)
    got = technique.window_attention(query[None], key[None], value[None], everything, window, dilation=dilation)[0]
    expected = equation_1(query, key, value, [window_set(i, 23, window, dilation) for i in range(23)])
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_equation_4():
    rng = np.random.default_rng(1)
    x, maps = rng.standard_normal((1, 20, 4)), {}
    for name in ("query", "key", "value"):
        maps[name] = {"weight": rng.standard_normal((4, 4)), "bias": rng.standard_normal(4)}
    query, key, value = (x[0] @ maps[name]["weight"].T + maps[name]["bias"] for name in ("query", "key", "value"))
    marked = {0, 13}
    sets = [range(20) if i in marked else sorted({*window_set(i, 20, 2), *marked}) for i in range(20)]
    got = technique.longformer_attention(maps, x, None, 2, global_at=np.array([0, 13]))[0]
    np.testing.assert_allclose(got, equation_1(query, key, value, sets), atol=1e-12)


def test_by_hand_with_three_tokens():
    value = np.array([[1.0], [2.0], [6.0]])
    zero = np.zeros((3, 1))
    np.testing.assert_allclose(equation_1(zero, zero, value, [range(3)] * 3).ravel(), [3, 3, 3])
    np.testing.assert_allclose(equation_1(zero, zero, value, [window_set(i, 3, 1) for i in range(3)]).ravel(), [1.5, 3, 4])


@pytest.mark.parametrize(("n", "w"), [(5, 1), (9, 8), (100, 7)])
def test_equation_5_by_counting_pairs(n, w):
    counted = sum(len(window_set(i, n, w)) for i in range(n))
    assert counted == n * (2 * w + 1) - w * (w + 1) == solution(SLUG, "visible")(n, w).sum()


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_equation_6_by_following_what_is_heard(layers):
    n, w = 40, 3
    heard = [{i} for i in range(n)]
    for _ in range(layers):
        heard = [set().union(*(heard[j] for j in window_set(i, n, w))) for i in range(n)]
    assert max(abs(i - j) for i in range(n) for j in heard[i]) == layers * w
    got = solution(SLUG, "reached")(solution(SLUG, "visible")(n, w), layers)
    assert [set(np.flatnonzero(row)) for row in got] == heard


@pytest.mark.parametrize(("layers", "w"), [(1, 1), (4, 8), (12, 5)])
def test_equation_7_by_adding_up_the_walk_step_by_step(layers, w):
    probability = {0: 1.0}
    for _ in range(layers):
        spread: dict[int, float] = {}
        for place, p in probability.items():
            for step in range(-w, w + 1):
                spread[place + step] = spread.get(place + step, 0.0) + p / (2 * w + 1)
        probability = spread
    variance = sum(p * place**2 for place, p in probability.items())
    assert math.sqrt(variance) == pytest.approx(math.sqrt(layers * w * (w + 1) / 3))


# ------------------------------------------------------------------------------------------------------- the exercises


def test_the_bug_to_be_found_is_told_what_it_does():
    state, text = told(SLUG, "attention_weights", stub(SLUG, "attention_weights"))
    assert state == "wrong"
    assert "goes to tokens that may not be seen" in text
    assert "e^0 is 1" in text


WRONG = [
    ("visible", "apart <= window * dilation", "apart < window * dilation", "you see 1"),
    ("visible", "np.abs(place[:, None] - place)", "(place[:, None] - place) % length", "window"),
    ("visible", " & (apart % dilation == 0)", "", "only distances 0, 3 and 6"),
    ("visible", "apart <= window * dilation", "apart <= window", "it reaches to distance window * dilation"),
    ("visible", " | is_global[:, None] | is_global", " | is_global[:, None]", "their columns are true as well"),
    ("visible", " | is_global[:, None] | is_global", " | is_global", "their rows are true as well"),
    (
        "visible",
        "is_global[:, None] | is_global",
        "(is_global[:, None] | is_global) & (apart % dilation == 0)",
        "dilation is the window's",
    ),
    ("visible", "return seen | is_global[:, None] | is_global", "return (seen | is_global[:, None] | is_global) + 0", "not int"),
    ("attention_weights", "np.where(seen, scores, -np.inf)", "np.where(seen, scores, 0)", "a score of 0 is an ordinary score"),
    ("attention_weights", "np.where(seen, scores, -np.inf)", "np.where(seen, -np.inf, scores)", "see what is hidden"),
    ("attention_weights", "weights.sum(axis=-1, keepdims=True)", "weights.sum(axis=0, keepdims=True)", "columns sum to 1"),
    ("reached", "range(layers)", "range(layers + 1)", "four layers"),
    ("reached", "range(layers)", "range(layers - 1)", "two layers"),
    ("reached", "(seen.astype(int) @ heard) > 0", "(seen.astype(int) @ heard)", "booleans"),
    ("reached", "seen.astype(int) @ heard", "seen.T.astype(int) @ heard", "row and column have changed places"),
    ("reached", "heard = (seen.astype(int) @ heard) > 0", "heard = heard | seen", "one layer"),
    ("band_scores", " / np.sqrt(size)", "", "sqrt(D)"),
    ("band_scores", "np.where((j >= 0) & (j < length), scores, -np.inf)", "scores", "It has to be -inf"),
    ("take", '"arm": "fused"', '"arm": "global"', "it is dearer than fused dense attention"),
    ("take", '"arm": "fused"', '"arm": "cut"', "a point is worth ten steps"),
    ("take", '"arm": "fused"', '"arm": "window"', "at eleven times the cost"),
    ("take", '"because": "b"', '"because": "a"', "linear says how it grows"),
    ("take", '"because": "b"', '"because": "c"', "neither is shown to be better"),
    ("take", '"unless": "a"}', '"unless": "b"}', "other texts and another rival"),
    ("take", '"unless": "a"}', '"unless": "c"}', "the spread between seeds"),
]


@pytest.mark.parametrize(("name", "old", "new", "message"), WRONG)
def test_a_wrong_answer_is_told_why(name, old, new, message):
    state, text = told(SLUG, name, altered(SLUG, name, old, new))
    assert state == "wrong"
    assert message in text


def test_wrong_answers_of_other_kinds_are_told_why():
    def masked_afterwards(scores, seen):
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return np.where(seen, weights / weights.sum(axis=-1, keepdims=True), 0)

    def all_pairs(query, key, window):
        return query @ key.T / np.sqrt(query.shape[1])

    def from_all_pairs(query, key, window):
        n = len(key)
        columns = np.arange(n)[:, None] - window + np.arange(2 * window + 1)
        found = np.take_along_axis(query @ key.T / np.sqrt(query.shape[1]), columns % n, axis=1)
        return np.where((columns >= 0) & (columns < n), found, -np.inf)

    def rolled(query, key, window):
        shifted = [np.roll(key, window - c, axis=0) for c in range(2 * window + 1)]
        return np.stack([(query * each).sum(axis=1) for each in shifted], axis=1) / np.sqrt(query.shape[1])

    def backwards(query, key, window):
        return from_all_pairs(query, key, window)[:, ::-1]

    def ways(seen, layers):
        heard = np.eye(len(seen), dtype=np.int8)
        for _ in range(layers):
            heard = (seen.astype(np.int8) @ heard).astype(np.int8)
        return heard > 0

    for name, answer, message in (
        ("attention_weights", masked_afterwards, "hide before the softmax"),
        ("band_scores", all_pairs, "scores of all pairs"),
        ("band_scores", from_all_pairs, "an array of L x L is hidden in it"),
        ("band_scores", rolled, "the text is no ring"),
        ("band_scores", backwards, "the offsets run the wrong way"),
        ("reached", ways, "overflow"),
    ):
        state, text = told(SLUG, name, answer)
        assert state == "wrong"
        assert message in text


# ----------------------------------------------------------------------------------------------------------- the pages


def test_what_the_lesson_says_of_the_figures():
    """Numbers that the text states without computing them on the page."""
    n, w, H = 4096, 256, 768
    assert 3 * w / (2 * w + 1) == pytest.approx(1.5, abs=0.01), "the price of dense products"
    layer = [24 * H**2 + 4 * keys * H for keys in (8192, 3 * w)]
    assert layer[0] / layer[1] == pytest.approx(2.4, abs=0.05), "operations of a layer at 8,192 tokens"
    assert (12 * 3 * (H * H + H) + (4096 - 512) * H) / 124_645_632 == pytest.approx(0.2, abs=0.01), "a fifth more parameters"
    assert n * n / (n * (2 * w + 1) - w * (w + 1)) == pytest.approx(8.2, abs=0.05)
    assert 24 * (6 * H) * H**2 == 4 * (6 * H) ** 2 * H, "half of a layer's operations at 6H tokens"
    assert 4 * 12 * n**2 / 2**20 == 768, "MiB of scores of a layer in float32"
    assert math.sqrt(12 * w * (w + 1) / 3) == pytest.approx(513, abs=0.5)
    assert math.sqrt(12 * 1000 * 1001 / 3) == pytest.approx(2000, abs=2)
    assert math.sqrt(4 * 8 * 9 / 3) == pytest.approx(9.8, abs=0.05)


def test_the_heart_of_the_lesson_is_the_library_s_window():
    heart = lesson_function("heart")
    query, key, value = np.random.default_rng(3).standard_normal((3, 48, 4))
    got = heart(query, key, value, *technique._window_blocks(6, 8, 7))
    expected = equation_1(query, key, value, [window_set(i, 48, 7) for i in range(48)])
    np.testing.assert_allclose(got, expected, atol=1e-12)


def lesson_function(name):
    """A function that a cell of the lesson defines."""
    tree = ast.parse(path(SLUG).read_text(encoding="utf-8"))
    (node,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    names = {"np": np}
    exec(compile(ast.Module([node], []), SLUG, "exec"), names)
    return names[name]
