"""Lesson 25: its equations by independent naive functions, its exercises by right and wrong answers, its pages run."""

import math

import numpy as np
import pytest
from tests.course.lessons import altered, solution, stub, told

from bertcraft.techniques import meta_learning as technique
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree, value_and_grad

SLUG = "meta_learning"


# ------------------------------------------------------------------------------------------------------- the equations


def cubic(params, batch):
    """A loss whose second derivative is not constant: the sum of a (theta - c)^4 and a product of neighbours."""
    apart = params["theta"] - batch
    return np.sum(apart**4) / 4 + np.sum(params["theta"][1:] * params["theta"][:-1])


def cubic_gradient(theta, c):
    gradient = [(t - x) ** 3 for t, x in zip(theta, c, strict=True)]
    for i in range(len(theta) - 1):
        gradient[i] += theta[i + 1]
        gradient[i + 1] += theta[i]
    return np.array(gradient)


def cubic_hessian(theta, c):
    n = len(theta)
    return np.array([[3 * (theta[i] - c[i]) ** 2 if i == j else float(abs(i - j) == 1) for j in range(n)] for i in range(n)])


@pytest.mark.parametrize("steps", [1, 3])
def test_equations_1_to_4_with_written_out_hessians(steps):
    rng = np.random.default_rng(0)
    start, support, query, rate = *rng.standard_normal((3, 4)), 0.05
    theta, factors = start, []
    for _ in range(steps):
        factors.append(np.eye(4) - rate * cubic_hessian(theta, support))
        theta = theta - rate * cubic_gradient(theta, support)  # (1)
    np.testing.assert_allclose(technique.adapt(cubic, {"theta": start}, support, steps, rate)["theta"], theta, atol=1e-12)
    expected = cubic_gradient(theta, query)
    for factor in reversed(factors):
        expected = factor @ expected  # (3) and (4)
    task = technique.Task(support, query)
    value, gradient = technique.maml(cubic, {"theta": start}, task, steps, rate)
    assert float(value) == pytest.approx(float(cubic({"theta": theta}, query))), "equation (2)"
    np.testing.assert_allclose(gradient["theta"], expected, atol=1e-12)
    first = technique.first_order_maml(cubic, {"theta": start}, task, steps, rate)[1]["theta"]
    np.testing.assert_allclose(first, cubic_gradient(theta, query), atol=1e-12)


def quadratic(params, batch):
    return 0.5 * batch["h"] * (params["theta"] - batch["c"]) ** 2


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("joint", lambda h: h),
        ("maml", lambda h: h * (1 - 0.4 * h) ** 2),
        ("first order", lambda h: h * (1 - 0.4 * h)),
        ("reptile", lambda h: 1 - (1 - 0.4 * h) ** 5),
    ],
)
def test_equation_5_is_where_the_gradient_of_all_tasks_is_zero(name, weight):
    h, c = (1.0, 2.0, 0.5), (0.0, 1.0, -2.0)
    tasks = [technique.Task(*2 * ({"h": a, "c": b},)) for a, b in zip(h, c, strict=True)]
    there = {"theta": np.array(sum(weight(a) * b for a, b in zip(h, c, strict=True)) / sum(map(weight, h)))}
    method = {
        "joint": lambda p, t: value_and_grad(quadratic)(p, t.query),
        "maml": lambda p, t: technique.maml(quadratic, p, t, 1, 0.4),
        "first order": lambda p, t: technique.first_order_maml(quadratic, p, t, 1, 0.4),
        "reptile": lambda p, t: technique.reptile(quadratic, p, [t.support] * 5, 0.4),
    }[name]
    assert float(technique.over_tasks(method, there, tasks)[1]["theta"]) == pytest.approx(0, abs=1e-12)
    if name == "maml":
        assert solution(SLUG, "best_start")(np.array(h), np.array(c), 0.4) == pytest.approx(float(there["theta"]))


def test_what_the_lesson_computes_by_hand():
    h, c = np.array([1.0, 2.0]), np.array([0.0, 1.0])
    left = 1 - 0.4 * h
    places = [np.average(c, weights=w) for w in (h, h * left**2, h * left, 1 - left, 1 - left**1000)]
    assert [round(float(place), 2) for place in places] == [0.67, 0.18, 0.4, 0.67, 0.5]
    task = technique.Task(*2 * ({"h": 1.0, "c": 0.0},))
    assert float(technique.maml(quadratic, {"theta": np.array(0.5)}, task, 1, 0.4)[1]["theta"]) == pytest.approx(0.18)


def test_equation_6_one_step_from_a_zero_head():
    rng = np.random.default_rng(1)
    ways, shots, rate = 4, 3, 0.7
    x, labels = F.normalize(rng.standard_normal((ways * shots, 5))), np.repeat(np.arange(ways), shots)
    head = {"weight": np.zeros((ways, 5))}

    def loss(params, batch):
        return F.cross_entropy(batch["x"] @ params["weight"].T, batch["labels"])

    stepped = technique.adapt(loss, head, {"x": x, "labels": labels}, 1, rate)["weight"]
    mu = np.array([sum(x[i] for i in range(len(x)) if labels[i] == k) / shots for k in range(ways)])
    np.testing.assert_allclose(stepped, rate / ways * (mu - sum(mu) / ways), atol=1e-12)


def test_one_example_a_class_makes_that_step_the_nearest_mean():
    """With the lesson's own model: its answers after one step of the head, and those by distance."""
    from bertcraft.lab.experiments import meta_learning as experiment

    rng = np.random.default_rng(2)
    task = technique.Task(*({"x": rng.standard_normal((n, 8)).astype(np.float32), "labels": np.arange(n) % 5} for n in (5, 40)))
    start = experiment.initial(8, 5)
    stepped = technique.adapt(experiment.loss, start, task.support, 1, 0.1, technique.in_branch("head"))
    unit = [batch["x"] / np.linalg.norm(batch["x"], axis=1, keepdims=True) for batch in task]
    nearest = [min(range(5), key=lambda k: math.dist(x, unit[0][k])) for x in unit[1]]
    assert np.argmax(experiment.logits(stepped, task.query), axis=1).tolist() == nearest
    everything = technique.adapt(experiment.loss, start, task.support, 1, 0.1)
    np.testing.assert_array_equal(everything["map"]["weight"], start["map"]["weight"]), "the first step moves the head alone"


def test_equation_7_by_distances():
    rng = np.random.default_rng(3)
    x, centres = rng.standard_normal((6, 4)), rng.standard_normal((3, 4))
    expected = [[-(math.dist(row, centre) ** 2) for centre in centres] for row in x]
    np.testing.assert_allclose(technique.prototypical_logits(x, centres), expected, atol=1e-12)
    weight, bias = solution(SLUG, "head_of_prototypes")(centres)
    np.testing.assert_allclose(F.softmax(x @ weight.T + bias), F.softmax(np.array(expected)), atol=1e-12)


def test_what_reptile_does_in_secret():
    """Exercise 8.7: averaged over the order, two steps follow l1 + l2 - (rate / 2) g1.g2, to first order in the rate."""
    rng = np.random.default_rng(4)
    theta, a, b = rng.standard_normal((3, 4))
    g, H = [cubic_gradient(theta, c) for c in (a, b)], [cubic_hessian(theta, c) for c in (a, b)]
    errors = []
    for rate in (1e-4, 5e-5):
        found = np.mean([technique.reptile(cubic, {"theta": theta}, pair, rate)[1]["theta"] for pair in ((a, b), (b, a))], axis=0)
        expected = g[0] + g[1] - rate / 2 * (H[1] @ g[0] + H[0] @ g[1])
        errors.append(np.abs(found / rate - expected).max())
    assert errors[0] < 1e-4 * np.abs(expected).max()
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1), "what is left is of second order"


def test_tasks_side_by_side_do_not_mix():
    """The trick of the waves: copies of the parameters along a first axis, losses added up."""
    rng = np.random.default_rng(5)
    w, x = rng.standard_normal((1, 3)), rng.standard_normal((4, 6, 3))
    loss = lambda params, batch: np.sum(np.mean((batch @ np.swapaxes(params["w"], -1, -2)) ** 4, axis=(1, 2)))  # noqa: E731
    copies = {"w": w + np.zeros((4, 1, 1))}
    together = technique.adapt(loss, copies, x, 2, 0.01)["w"]
    for t in range(4):
        alone = technique.adapt(loss, {"w": w[None]}, x[t : t + 1], 2, 0.01)["w"]
        np.testing.assert_allclose(together[t], alone[0], atol=1e-12)
    assert tree.leaves(copies)[0].shape == (4, 1, 3)


# ------------------------------------------------------------------------------------------------------- the exercises


def test_the_bug_to_be_found_is_told_what_it_does():
    state, text = told(SLUG, "meta_batch", stub(SLUG, "meta_batch"))
    assert state == "wrong"
    assert "must adapt from the same theta" in text


WEIGHTS, DRAWN = "curvatures * (1 - rate * curvatures) ** 2", "rng.permutation(np.unique(labels))[:ways]"
HEAD = "2 * centres, -np.sum(centres**2, axis=1)"
WRONG = [
    ("best_start", WEIGHTS, "curvatures", "joint training"),
    ("best_start", WEIGHTS, "curvatures * (1 - rate * curvatures)", "first-order MAML"),
    ("best_start", WEIGHTS, "(1 - rate * curvatures) ** 2", "its curvature as a factor"),
    ("best_start", WEIGHTS, "np.ones(len(goals))", "very many steps"),
    ("best_start", "np.sum(weights * goals) / np.sum(weights)", "np.sum(weights * goals)", "divided by the sum"),
    ("meta_batch", "gradient(adapted, query)", "gradient(adapted, support)", "judge on the query"),
    ("meta_batch", "gradient(adapted, query)", "gradient(theta, query)", "before adaptation"),
    ("meta_batch", "gradient(adapted, support)", "gradient(theta, support)", "the second step starts from"),
    ("meta_batch", "range(steps)", "range(min(steps, 1))", "only one step"),
    ("through_steps", "gradient = shrink @ gradient", "pass", "first-order MAML"),
    ("through_steps", "    return gradient", "    return np.linalg.solve(shrink, gradient)", "for *each* step"),
    ("through_steps", "theta = theta - rate", "theta = theta - 0 * rate", "at the *adapted* parameters"),
    ("through_steps", "- rate * X.T @ X / len(X)\n", "- rate * query_X.T @ query_X / len(query_X)\n", "H belongs to the support"),
    ("through_steps", "- rate * X.T @ X / len(X)\n", "- rate * X.T @ X\n", "H is X^T X / n"),
    ("draw_episode", "rows[shots : shots + queries]", "rows[:queries]", "what it was just told"),
    ("draw_episode", "np.repeat(new, shots)", "labels[np.concatenate(support)]", "the labels are those of the data set"),
    ("draw_episode", DRAWN, "np.unique(labels)[:ways]", "the same classes"),
    ("draw_episode", DRAWN, "np.sort(rng.permutation(np.unique(labels))[:ways])", "in the order of their numbers"),
    ("draw_episode", "rng.permutation(np.flatnonzero(labels == c))", "np.flatnonzero(labels == c)", "the first rows of a class"),
    ("draw_episode", DRAWN, "rng.choice(np.unique(labels), ways)", "drawn twice"),
    ("draw_episode", DRAWN, "np.random.permutation(np.unique(labels))[:ways]", "with the rng you are given"),
    ("head_of_prototypes", HEAD, "2 * centres, np.sum(centres**2, axis=1)", "the wrong sign"),
    ("head_of_prototypes", HEAD, "centres, -np.sum(centres**2, axis=1)", "a factor 2"),
    ("head_of_prototypes", HEAD, "2 * centres, np.zeros(len(centres))", "a long mean wins too often"),
    ("head_of_prototypes", HEAD, "2 * centres, -np.linalg.norm(centres, axis=1)", "*squared* length"),
    ("head_of_prototypes", HEAD, "centres, -np.sum(centres**2, axis=1) / 2", "too flat"),
    ("take", '"arm": "classifier"', '"arm": "maml"', "a training loop through a training loop"),
    ("take", '"because": "b"', '"because": "c"', "shows no equality"),
    ("take", '"unless": "b"', '"unless": "a"', "the spread between seeds"),
]


@pytest.mark.parametrize(("name", "old", "new", "message"), WRONG)
def test_a_wrong_answer_is_told_why(name, old, new, message):
    state, text = told(SLUG, name, altered(SLUG, name, old, new))
    assert state == "wrong"
    assert message in text
