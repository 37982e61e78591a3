"""Lesson 04: its equations by independent naive functions, its exercises by right and wrong answers, what its text says."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from tests.course.lessons import altered, solution, stub, told

from bertcraft.bert import Config, encoder, heads
from bertcraft.techniques import albert_parameter_sharing as technique
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.tensor import tree, value_and_grad

SLUG = "albert_parameter_sharing"
CONFIG = Config(
    family="albert", head="pretraining", vocab_size=20, embedding_size=3, hidden_size=8, num_hidden_layers=3, num_hidden_groups=3,
    num_attention_heads=2, intermediate_size=10, max_position_embeddings=9, hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)  # fmt: skip
BATCH = {
    "input_ids": np.array([[2, 7, 3, 9, 3], [2, 8, 6, 3, 3]]), "token_type_ids": np.array([[0, 0, 0, 1, 1], [0, 0, 0, 0, 1]]),
    "attention_mask": np.ones((2, 5), np.int64), "at": np.array([[1, 3], [1, 2]]), "labels": np.array([[5, 9], [4, 6]]),
    "next_sentence": np.array([0, 1]),
}  # fmt: skip


def params_of(sharing: str) -> dict:
    """Parameters, none at its initial value."""
    rng = np.random.default_rng(0)
    start = technique.initial_params(CONFIG, 0, sharing, np.float64)
    return tree.map(lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape), start)


# ------------------------------------------------------------------------------------------------------- the equations


@pytest.mark.parametrize("shared", technique.SHARING)
def test_equation_1_and_what_is_kept_of_the_layers_matrix_by_matrix(shared):
    v, e, h, f, layers = 20, 3, 8, 10, 3
    rows = [v * e, e * h]
    for layer, part in itertools.product(range(layers), ("attention", "feed_forward")):
        if layer == 0 or shared not in ("all", part):
            rows += [h * h] * 4 if part == "attention" else [h * f, f * h]
    kept = {name: leaf for name, leaf in tree.items(params_of(shared)) if leaf.ndim == 2 and name.startswith("albert.")}
    places = sum(leaf.size for name, leaf in kept.items() if "position" in name or "token_type" in name or "pooler" in name)
    assert sum(rows) == sum(leaf.size for leaf in kept.values()) - places
    assert solution(SLUG, "count_weights")(v, e, h, f, layers, shared) == sum(rows)


def test_equation_2_is_one_layer_that_reads_its_own_output():
    params = params_of("all")
    whole = technique.complete(params, CONFIG)
    states = encoder.encode(whole, CONFIG, BATCH["input_ids"])
    again = encoder.encode(params, replace(CONFIG, num_hidden_groups=1), BATCH["input_ids"])
    np.testing.assert_array_equal(states, again)
    once = encoder.encode(params, replace(CONFIG, num_hidden_layers=1, num_hidden_groups=1), BATCH["input_ids"])
    assert np.abs(states - once).max() > 0.1


def test_equation_3_product_by_product():
    h, f, e, length, layers = 8, 10, 3, 5, 3
    shapes = [(length, e, h)]
    for _ in range(layers):
        shapes += [(length, h, h)] * 4 + [(length, h, f), (length, f, h)]
        shapes += [(length, h // 2, length), (length, length, h // 2)] * 2  # scores and sums of two heads
    assert technique.flops_per_token(CONFIG, length) * length == 2 * sum(a * b * c for a, b, c in shapes)


def test_equation_4_by_finite_differences_of_one_copy_at_a_time():
    rng = np.random.default_rng(1)
    w, x, g = rng.standard_normal((3, 3)), rng.standard_normal(3), rng.standard_normal(3)

    def loss(copies):
        y = x
        for copy in copies:
            y = copy @ y
        return g @ y

    total = np.zeros_like(w)
    for use, i, j in itertools.product(range(3), range(3), range(3)):
        moved = [[w.copy() for _ in range(3)] for _ in range(2)]
        for copies, step in zip(moved, (1e-6, -1e-6), strict=True):
            copies[use][i, j] += step
        total[i, j] += (loss(moved[0]) - loss(moved[1])) / 2e-6
    np.testing.assert_allclose(solution(SLUG, "shared_gradient")(w, x, g, 3), total, atol=1e-7)
    by_hand = solution(SLUG, "shared_gradient")(np.array([[3.0]]), np.array([1.0]), np.array([1.0]), 2)
    assert by_hand == 6


def test_equation_5_is_the_words_loss_and_the_surprise_at_the_order():
    params = params_of("all")
    whole = technique.complete(params, CONFIG)
    words = masking.masked_lm_loss(whole, BATCH, None, CONFIG)
    inputs = (BATCH["input_ids"], BATCH["attention_mask"], BATCH["token_type_ids"])
    z = heads.next_sentence_logits(whole, CONFIG, encoder.encode(whole, CONFIG, *inputs))
    order = [-math.log(math.exp(row[y]) / sum(map(math.exp, row))) for row, y in zip(z, BATCH["next_sentence"], strict=True)]
    total, _ = value_and_grad(technique.albert_loss)(params, BATCH, None, CONFIG)
    assert float(total) == pytest.approx(float(words) + np.mean(order), rel=1e-9)


# ------------------------------------------------------------------------------------------------------- the exercises


def test_the_bug_to_be_found_is_told_what_it_does():
    state, text = told(SLUG, "shared_gradient", stub(SLUG, "shared_gradient"))
    assert state == "wrong" and "hold three uses against (4)" in text


COUNTS = """attention = 1 if shared in ("all", "attention") else layers
    feed_forward = 1 if shared in ("all", "feed_forward") else layers"""
SWAPPED = """attention = 1 if shared in ("all", "feed_forward") else layers
    feed_forward = 1 if shared in ("all", "attention") else layers"""
ADDED, KEPT, TURNED = "total += np.outer(gradient, inputs[use])", "u[:, :width] * s[:width], vt[:width]", "rng.random() < 0.5"
WRONG = [
    ("count_weights", " + thin * hidden", "", "the map from the thin vectors"),
    ("count_weights", "vocabulary * thin + thin * hidden", "vocabulary * hidden", "not of H"),
    ("count_weights", COUNTS, "attention = feed_forward = layers", "however often it is used"),
    ("count_weights", COUNTS, SWAPPED, "names what is shared"),
    ("count_weights", "* 2 * hidden * inner", "* hidden * inner", "two matrices"),
    ("count_weights", "attention * 4", "attention * 3", "four matrices"),
    ("count_weights", "vocabulary * thin +", "vocabulary * hidden +", "not of H"),
    ("count_weights", "thin * hidden", "layers * thin * hidden", "once, and not in every layer"),
    ("count_weights", COUNTS, "attention = feed_forward = 1", "weights of its own"),
    ("count_weights", "2 * hidden * inner", "8 * hidden**2", "need not be 4 H"),
    ("count_weights", "return vocab", 'return None if shared == "none" else vocab', "it returns None"),
    ("shared_gradient", ADDED, f"if use == uses - 1:\n            {ADDED}", "the last use alone"),
    ("shared_gradient", ADDED, ADDED.replace("+=", "="), "hold three uses against (4)"),
    ("shared_gradient", "return total", "return total / uses", "not averaged"),
    ("shared_gradient", "gradient = weight.T @ gradient", "pass", "has come back through the later ones"),
    ("shared_gradient", "inputs[use])", "inputs[use + 1])", "not with its output"),
    ("shared_gradient", "np.outer(gradient, inputs[use])", "np.outer(inputs[use], gradient)", "transposed"),
    ("shared_gradient", ADDED, ADDED.replace("gradient", "weight.T @ gradient"), "by its *output*"),
    ("shared_gradient", "reversed(range(uses))", "range(uses)", "the last use is the first"),
    ("shared_gradient", "weight.T @ gradient", "weight @ gradient", "not through W"),
    ("shared_gradient", ADDED, f"if use == uses - 1:\n            {ADDED.replace('np', 'uses * np', 1)}", "different inputs"),
    ("honest_pairs", "zip(document, document[1:]", "zip(document, document[2:]", "no neighbours"),
    ("honest_pairs", "for document in documents:", "for document in [sum(documents, [])]:", "of two documents"),
    ("honest_pairs", "(b, a, 1) if exchanged else (a, b, 0)", "(b, a, 0) if exchanged else (a, b, 1)", "the opposite"),
    ("honest_pairs", f"int({TURNED})", "0", "all pairs have the same label"),
    ("honest_pairs", f"int({TURNED})", "len(found) % 2", "whatever the generator"),
    ("honest_pairs", TURNED, "rng.random() < 0.15", "expected one half"),
    ("honest_pairs", f"int({TURNED})", "int(rng.bit_generator.seed_seq.entropy % 2)", "one draw decides for all"),
    ("honest_pairs", "return found", "return found[:10]", "you made 10"),
    ("honest_pairs", "return found", "return [found[i] for i in rng.integers(len(found), size=len(found))]", "come twice"),
    ("honest_pairs", f"int({TURNED})", "int(hash((rng.bit_generator.seed_seq.entropy, a[0])) % 2)", "of a document: draw"),
    ("honest_pairs", TURNED, "np.random.random() < 0.5", "draw from rng alone"),
    ("thin_table", KEPT, "u[:, :width], vt[:width]", "singular values are missing"),
    ("thin_table", KEPT, "u[:, -width:] * s[-width:], vt[-width:]", "smallest"),
    ("thin_table", KEPT, "u[:, :width] * s[:width], s[:width, None] * vt[:width]", "come twice"),
    ("thin_table", KEPT, "table[:, :width], np.eye(width, table.shape[1])", "first two columns"),
    ("thin_table", KEPT, "u[:, :width] * s[:width]", "return two arrays"),
    ("thin_table", KEPT, "u * s, vt", "the shape of the thin table is (12, 5), expected (12, 2)"),
    ("thin_table", KEPT, "u[:, :width] * s[:width], vt[:width].T", "map is (5, 2), expected (2, 5): transposed?"),
    ("thin_table", KEPT, "u[:, :width] * s[:width], vt[:, :width].T", "no transposing"),
    ("thin_table", KEPT, "u[:, :2] * s[:2], vt[:2]", "expected (4, 3) and (3, 6)"),
    ("thin_table", "svd(table,", "svd(table - table.mean(axis=0),", "as in PCA"),
    ("ship", '"model": "attention"', '"model": "all"', "the next larger one fits"),
    ("ship", '"model": "attention"', '"model": "none"', "it does not fit"),
    ("ship", '"because": "b"', '"because": "a"', "all three take the same time"),
    ("ship", '"because": "b"', '"because": "c"', "no proof of equality"),
    ("ship", '"unless": "c"', '"unless": "a"', "the same speed"),
    ("ship", '"unless": "c"', '"unless": "b"', "does not depend on seeds"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "message"), WRONG)
def test_a_wrong_answer_is_told_why(name, old, new, message):
    state, text = told(SLUG, name, altered(SLUG, name, old, new))
    assert state == "wrong"
    assert message in text


@pytest.mark.parametrize("split", [(1, 0), (0, 1), (0.5, 0.5)])
def test_the_singular_values_may_stand_on_either_side(split):
    def thin_table(table, width):
        u, s, vt = np.linalg.svd(table, full_matrices=False)
        return u[:, :width] * s[:width] ** split[0], s[:width, None] ** split[1] * vt[:width]

    assert told(SLUG, "thin_table", thin_table)[0] == "solved"


# ------------------------------------------------------------------------------------------------------------ the text


def test_what_the_lesson_says_of_the_figures():
    """Numbers that the text states without computing them on the page."""
    large, bert = (Config(family=family, **technique.SIZES["large"]) for family in ("albert", "bert"))
    counted = technique.parameter_counts(large)
    assert (counted["attention"] + counted["feed_forward"]) / 1e6 == pytest.approx(12.6, abs=0.05)
    assert 30_000 * 1024 / 1e6 == 30.72 and (30_000 * 128 + 128 * 1024) / 1e6 == pytest.approx(3.97, abs=0.005)
    assert 335_141_888 / sum(counted.values()) == pytest.approx(18.95, abs=0.005)
    widest = Config(family="albert", **technique.SIZES["xxlarge"])
    assert sum(technique.parameter_counts(widest).values()) / 1e6 == pytest.approx(222.6, abs=0.05)
    assert technique.flops_per_token(widest, 512) / technique.flops_per_token(bert, 512) == pytest.approx(7.5, abs=0.05)
    assert sum(technique.parameter_counts(widest).values()) / 335_141_888 == pytest.approx(2 / 3, abs=0.01)
    assert widest.hidden_size == 4 * large.hidden_size
    base = replace(Config(family="albert", **technique.SIZES["base"]), num_hidden_groups=12)
    for shared, megabytes in {"none": 179, "attention": 127, "all": 23}.items():  # of the decision
        assert round(2 * sum(technique.parameter_counts(base, shared).values()) / 1e6) == megabytes
    assert math.log(2) == pytest.approx(0.69, abs=0.005)


def test_the_model_answer_on_layers_that_settle():
    """Exercise 8.6: what each use adds to the gradients by the fixed point and by the factor, by nudging one use at a time."""
    kappa, fixed, start, uses, nudge = 0.8, np.array([1.0, -2.0]), np.array([3.0, 0.5]), 6, 1e-6
    g = np.array([0.7, -0.4])

    def loss(factors, points):
        h = start
        for factor, point in zip(factors, points, strict=True):
            h = factor * (h - point) + point
        return g @ h

    def moved(values, use, by):
        return [value + by * (i == use) for i, value in enumerate(values)]

    factors, points = [kappa] * uses, [fixed] * uses
    for use in range(uses):
        by_kappa = (loss(moved(factors, use, nudge), points) - loss(moved(factors, use, -nudge), points)) / (2 * nudge)
        assert by_kappa == pytest.approx(kappa ** (uses - 1) * g @ (start - fixed), rel=1e-6)
        for axis in np.eye(2):
            ahead, back = (loss(factors, moved(points, use, by * axis)) for by in (nudge, -nudge))
            expected = (1 - kappa) * kappa ** (uses - 1 - use) * g @ axis
            assert (ahead - back) / (2 * nudge) == pytest.approx(expected, rel=1e-6)


def test_transformers_has_no_checkpointing_for_albert():
    """Part 7 says so; where it fails, the table there may offer it."""
    albert = pytest.importorskip("transformers.models.albert.modeling_albert")
    assert not albert.AlbertPreTrainedModel.supports_gradient_checkpointing
