"""Lesson 08: its equations by independent naive functions, its exercises by right and wrong answers."""

import math

import numpy as np
import pytest
from tests.course.lessons import altered, built, solution, stub, told

from bertcraft.lab.experiments import layerwise_learning_rates as experiment
from bertcraft.techniques import layerwise_learning_rates as technique
from bertcraft.train import adamw, warmup_linear

SLUG = "layerwise_learning_rates"


# ------------------------------------------------------------------------------------------------------- the equations


def rate_at_depth(decay, rate, layers, depth):
    """Equation (1) as its recursion, from the top layer down."""
    return rate if depth == layers else decay * rate_at_depth(decay, rate, layers, depth + 1)


def test_equation_1_and_the_examples_by_hand():
    for decay, layers in ((1 / 2.6, 3), (0.95, 12), (0.9, 6)):
        rates = [rate_at_depth(decay, 0.01, layers, depth) for depth in range(layers + 1)]
        np.testing.assert_allclose(rates, 0.01 * np.array(technique.factors(decay, layers)[:-1]), rtol=1e-12)
    by_hand = [rate_at_depth(1 / 2.6, 0.01, 3, depth) for depth in (3, 2, 1, 0)]
    assert [round(rate, 4) for rate in by_hand] == [0.01, 0.0038, 0.0015, 0.0006]
    assert round(2.6**-12, 5) == 0.00001 and round(2.6**-3, 3) == 0.057 and abs(0.79**12 - 0.057) < 0.003
    assert round(2.6 ** (-3 / 12), 2) == 0.79 and round(0.95**12, 2) == 0.54
    assert round(0.9**6, 2) == 0.53


def adam(gradients, rate, counts, b1=0.9, b2=0.999, eps=0.0):
    """The updates of equation (2), with any t that is given."""
    m = u = 0.0
    for g, t in zip(gradients, counts, strict=True):
        m, u = b1 * m + (1 - b1) * g, b2 * u + (1 - b2) * g * g
        yield -rate * (m / (1 - b1**t)) / (math.sqrt(u / (1 - b2**t)) + eps)


def test_equation_2_is_the_librarys_and_forgives_a_factor():
    gradients = np.random.default_rng(0).standard_normal(30)
    rule = adamw(0.1, weight_decay=0.0)
    params, found = {"w": np.zeros(1)}, []
    state = rule.init(params)
    for g in gradients:
        updates, state = rule.update({"w": np.array([g])}, state, params)
        found.append(float(updates["w"][0]))
    np.testing.assert_allclose(found, list(adam(gradients, 0.1, range(1, 31), eps=1e-8)), rtol=1e-9)
    once, thrice = (list(adam(c * gradients, 0.1, range(1, 31))) for c in (1, 3))
    np.testing.assert_allclose(once, thrice, rtol=1e-12)
    assert abs(once[0]) == pytest.approx(0.1)


def test_equation_3_is_when_depths_join():
    for layers, every in ((6, 21), (3, 1)):
        assert technique.unfreezing(layers, every) == [every * (layers + 1 - depth) for depth in range(layers + 2)]


def too_long(k, s, b1=0.9, b2=0.999):
    """Equation (4)."""
    return (1 - b1**k) / (1 - b1 ** (s + k)) / math.sqrt((1 - b2**k) / (1 - b2 ** (s + k)))


@pytest.mark.parametrize("sleep", [1, 25, 1000])
def test_equation_4_is_a_count_of_all_steps_against_that_of_a_late_rule(sleep):
    gradients = np.random.default_rng(1).standard_normal(40)
    wrong = list(adam(gradients, 0.1, range(sleep + 1, sleep + 41)))
    rule = technique.delayed(adamw(0.1, eps=0.0, weight_decay=0.0), sleep)
    params, found = {"w": np.zeros(1)}, []
    state = rule.init(params)
    for g in (*np.full(sleep, 7.0), *gradients):
        updates, state = rule.update({"w": np.array([g])}, state, params)
        found.append(float(updates["w"][0]))
    assert not any(found[:sleep])
    np.testing.assert_allclose([a / b for a, b in zip(wrong, found[sleep:], strict=True)],
                               [too_long(k, sleep) for k in range(1, 41)], rtol=1e-9)  # fmt: skip


def test_what_the_text_and_the_picture_say_of_equation_4():
    after_long = [too_long(k, 10_000) for k in range(1, 1001)]
    assert round(after_long[0], 1) == 3.2 == round(0.1 / math.sqrt(0.001), 1)
    assert 1 + int(np.argmax(after_long)) == 12 and round(max(after_long), 1) == 6.6 and round(after_long[-1], 1) == 1.3
    after_25 = [too_long(k, 25) for k in range(1, 1001)]
    assert round(after_25[0], 2) == 0.54 and max(after_25) < 1.4
    ratio = [too_long(k, 1000) / too_long(k, 10_000) for k in (1, 12)]
    assert all(0.77 < each < 0.83 for each in ratio)


def triangle(t, T, peak=1.0, cut_frac=0.1, ratio=32):
    """Equation (5)."""
    cut = math.floor(cut_frac * T)
    p = t / cut if t <= cut else (T - t) / (T - cut)
    return peak * (1 + p * (ratio - 1)) / ratio


def test_equation_5_the_example_by_hand_and_the_printed_divisor():
    for steps in (40, 77, 300):
        ours = technique.slanted_triangle(1.0, steps)
        assert all(float(ours(t)) == pytest.approx(triangle(t, steps), rel=1e-12) for t in range(steps + 1))
    assert triangle(0, 40) == 1 / 32 and triangle(4, 40) == 1 and round(triangle(22, 40), 3) == 0.516
    printed = lambda t, T: 1 - (t - T // 10) / (T // 10 * (1 / 0.1 - 1))  # noqa: E731
    assert (1 + printed(77, 77) * 31) / 32 < 0 and printed(40, 40) == pytest.approx(0, abs=1e-12)


def parts_of_work(layers, frozen, kept):
    """Equation (6), layer by layer: a part forward unless it is kept, two backward where it learns."""
    return sum((0 if kept and layer < frozen else 1) + (2 if layer >= frozen else 0) for layer in range(layers))


def test_equation_6():
    for layers in (6, 12):
        for frozen in range(layers + 1):
            assert parts_of_work(layers, frozen, False) == layers + 2 * (layers - frozen)
            assert parts_of_work(layers, frozen, True) == 3 * (layers - frozen)
    assert parts_of_work(6, 3, False) / 18 == pytest.approx(2 / 3) and parts_of_work(6, 3, True) / 18 == 0.5


def test_figures_that_the_text_states():
    assert round(0.0002 * 25_000) == 5
    deviation = 100 * math.sqrt(0.054 * 0.946 / 25_000)
    assert round(deviation, 2) == 0.14 and round(deviation / 0.02) == 7
    # the model answer of 8.7: the geometric mean of the factors
    share = technique.factors(0.9, 6)[:-1]
    assert math.exp(np.mean(np.log(share))) == pytest.approx(0.9**3) and round(0.9**3, 2) == 0.73
    # that of 8.5: the sums of the rates on the right panel of section 4
    by_step, by_epoch = warmup_linear(1.0, 12, 60), technique.by_epoch(warmup_linear(1.0, 1, 5), 12)
    assert [round(sum(float(rate(step)) for step in range(60)), 9) for rate in (by_step, by_epoch)] == [30, 30]


def test_the_live_runs_texts_are_those_of_no_reported_seed():
    assert experiment.task_of(51) == "trec" and experiment.EXPERIMENT.primary_seeds <= 51 and 51 not in experiment.TUNING.seeds


def test_the_solutions_are_what_the_library_does():
    config, params = experiment.tuning.classifier(experiment.model(), 3, 0, 0.0)
    factors, rate_of = technique.factors(0.9, config.num_hidden_layers), solution(SLUG, "rate_of")
    for name, depth in technique.depths(params, config).items():
        assert rate_of(name, 2e-4, 0.9, config.num_hidden_layers) == pytest.approx(2e-4 * factors[depth]), name
    for layers, own in ((12, 6), (3, 24)):
        decay = solution(SLUG, "carried_over")(0.9, layers, own)
        assert technique.factors(decay, own)[0] == pytest.approx(technique.factors(0.9, layers)[0])
    schedule = lambda count: 1 / (1 + count)  # noqa: E731
    found = solution(SLUG, "stairs")(schedule, 7, 30)
    assert found.tolist() == [technique.by_epoch(schedule, 7)(step) for step in range(30)]


# -------------------------------------------------------------------------------------------------------- the page


def test_the_proofs_on_the_page_hold_in_both_editions():
    for solved in (False, True):
        text = "".join(
            "".join(output.get("text", "")) for cell in built(SLUG, solved).cells for output in cell.get("outputs", ())
        )
        for line in (
            "above without dropout is the encoder: True", "each update is its factor times AdamW's: True",
            "20 steps, the same weights and mean squares to 1e-12: True", "the same counts of updates: True",
            "by depth: {0: 6, 1: 8, 2: 10, 3: 12, 4: 14, 5: 16, 6: 18, 7: 20}", "and the step 0.0100 long",
            "3. frozen, the same output twice: False  after eval(): True",
        ):  # fmt: skip
            assert line in text, line


# ------------------------------------------------------------------------------------------------------- the exercises


def test_the_bug_to_be_found_is_told_what_it_does():
    state, text = told(SLUG, "late_adam", stub(SLUG, "late_adam"))
    assert state == "wrong" and "0.058 long for a rate of 0.1" in text and "of *this* weight" in text


BELOW, P = "decay ** (layers - 1 - number)", "max(0, (total - step) / (total - cut))"
CORRECTED = "(m / (1 - b1**count)) / np.sqrt(u / (1 - b2**count))"
SLEEPING = "        if t <= start:\n            updates.append(0.0)\n            continue\n"
MEANS = "        m, u = b1 * m + (1 - b1) * g, b2 * u + (1 - b2) * g * g\n"
WRONG = [
    ("rate_of", BELOW, "decay**number", "upside down"),
    ("rate_of", BELOW, "decay ** (layers - number)", "begin with 0"),
    ("rate_of", 'split(".")[0]', "strip()[0]", "two digits"),
    ("rate_of", "decay**layers", "decay ** (layers - 1)", "one depth below"),
    ("rate_of", "layers - 1 - number", "11 - number", "of 6"),
    ("rate_of", "decay**layers", "decay**12", "of 6"),
    ("rate_of", '"embeddings" in name', '"word_embeddings" in name', "all of bert.embeddings"),
    ("rate_of", BELOW, "decay * (layers - 1 - number)", "multiplies the rate again"),
    ("rate_of", "\n    return rate", "\n    return rate * decay**layers", "not all embeddings"),
    ("rate_of", "\n    return rate", "\n    return rate / decay", "more than the rate"),
    ("carried_over", "decay ** (layers / own_layers)", "decay", "has to change"),
    ("carried_over", "layers / own_layers", "own_layers / layers", "upside down"),
    ("carried_over", "decay ** (layers / own_layers)", "decay * layers / own_layers", "belongs into the exponent"),
    ("carried_over", "layers / own_layers", "layers", "of *one* of the twelve"),
    ("carried_over", "decay ** (layers / own_layers)", "decay ** layers ** (1 / own_layers)", "parentheses"),
    ("carried_over", "decay ** (layers / own_layers)", "decay ** layers / own_layers", "parentheses"),
    ("carried_over", "layers / own_layers", "(layers + 1) / (own_layers + 1)", "not 13"),
    ("carried_over", "layers / own_layers", "layers - own_layers", "a root"),
    ("carried_over", "decay ** (layers / own_layers)", "1 - (1 - decay) * layers / own_layers", "no more"),
    ("slanted", "(1 + p * (ratio - 1)) / ratio", "p", "which goes down to 0"),
    ("slanted", "(1 + p * (ratio - 1)) / ratio", "p / ratio", "its peak at 1 / 32"),
    ("slanted", "step / cut if", "1.0 if", "before it the rate rises"),
    ("slanted", P, "max(0, 1 - step / total)", "right up to the peak"),
    ("slanted", P, "1 - (step - cut) / (cut * (1 / cut_frac - 1))", "ends below 0"),
    ("slanted", "int(total * cut_frac)", "total * cut_frac", "not 7.7"),
    ("slanted", P, "(total - step) / (total - cut)", "goes on falling"),
    ("slanted", "int(total * cut_frac)", "round(total * cut_frac)", "rounded down"),
    ("slanted", P, "max(0, 1 - (step - cut) / (cut * (1 / cut_frac - 1)))", "printed formula"),
    ("slanted", "(1 + p * (ratio - 1)) / ratio", "1 + p * (ratio - 1) / ratio", "in parentheses"),
    ("slanted", "int(total * cut_frac)", "int(total * 0.1)", "cut_frac 0.25, ratio 10"),
    ("slanted", "(1 + p * (ratio - 1)) / ratio", "(1 + p * 31) / 32", "cut_frac 0.25, ratio 10"),
    ("late_adam", CORRECTED, "m / np.sqrt(u)", "nothing is corrected"),
    ("late_adam", SLEEPING + MEANS, MEANS + SLEEPING, "seen gradients while the layer slept"),
    ("late_adam", "    for t, g", "    start += 1\n    for t, g", "wakes at the wrong step"),
    ("late_adam", "append(-rate", "append(rate", "the sign is wrong"),
    ("late_adam", "count = t - start", "count = t - start + 1", "one too many"),
    ("late_adam", "b2**count", "b2**t", "both divisors"),
    ("late_adam", "b1**count", "b1**t", "both divisors"),
    ("stairs", "step // steps_an_epoch", "step", "at every step"),
    ("stairs", "step // steps_an_epoch", "-(-step // steps_an_epoch)", "round down"),
    ("stairs", "step // steps_an_epoch", "(step + 1) // steps_an_epoch", "a step early"),
    ("stairs", "step // steps_an_epoch", "step / steps_an_epoch", "stands still within it"),
    ("stairs", "step // steps_an_epoch", "step % steps_an_epoch", "begins anew"),
    ("stairs", "step // steps_an_epoch", "step // steps_an_epoch + 1", "no epoch is over"),
    ("stairs", "step // steps_an_epoch", "step // steps_an_epoch * steps_an_epoch", "counted in steps"),
    ("which_recipe", '"one at 1e-4"', '"one at 5e-5"', "prefer 1e-4"),
    ("which_recipe", '"one at 1e-4"', '"0.9 at 1e-4"', "never chosen"),
    ("which_recipe", '"one at 1e-4"', '"0.9 at 2e-4"', "that was the condition"),
    ("which_recipe", '"gain_in_A": "b"', '"gain_in_A": "a"', "two things at once"),
    ("which_recipe", '"gain_in_A": "b"', '"gain_in_A": "c"', "hardly chance"),
    ("which_recipe", '"B_says": "c"', '"B_says": "a"', "no gain is shown"),
    ("which_recipe", '"B_says": "c"', '"B_says": "b"', "reaches to +0.9"),
    ("which_recipe", '"unless": "a"', '"unless": "b"', "what seeds scatter"),
    ("which_recipe", '"unless": "a"', '"unless": "c"', "no fairer"),
]


@pytest.mark.parametrize(("name", "old", "new", "message"), WRONG)
def test_a_wrong_answer_is_told_why(name, old, new, message):
    state, text = told(SLUG, name, altered(SLUG, name, old, new))
    assert state == "wrong"
    assert message in text
