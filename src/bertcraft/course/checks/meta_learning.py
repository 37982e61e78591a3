"""Checks of lesson 25: where MAML settles, a leak, the gradient through steps, an episode, a head of prototypes, a decision."""

import numpy as np

from bertcraft.course.exercises import Exercise, Wrong, decision, same


def _near(got, expected) -> bool:
    return np.shape(got) == np.shape(expected) and bool(np.allclose(got, expected, rtol=1e-6, atol=1e-10))


def _check_best_start(best_start) -> None:
    h, c, rate = np.array([1.0, 2.0, 0.5]), np.array([0.0, 1.0, -2.0]), 0.4
    left = 1 - rate * h

    def settles(weights):
        return np.sum(weights * c) / np.sum(weights)

    got = best_start(h, c, rate)
    if _near(got, settles(h)):
        raise Wrong("that is joint training: where the mean loss *before* the step is smallest; the rate has no part in it")
    if _near(got, settles(h * left)):
        raise Wrong("that is first-order MAML, with one factor 1 - rate * h; the loss after the step has it squared")
    if _near(got, settles(left**2)):
        raise Wrong("each task's loss has its curvature as a factor, too: the weights are h (1 - rate h)^2")
    if _near(got, c.mean()):
        raise Wrong("the plain mean of the goals is where Reptile ends with very many steps")
    if _near(got, np.sum(h * left**2 * c)):
        raise Wrong("a weighted mean is divided by the sum of its weights")
    same(got, settles(h * left**2), "the start for three tasks at rate 0.4", rtol=1e-6)
    same(best_start(h, c, 0.0), settles(h), "the start at rate 0, when no step is taken,", rtol=1e-6)


def _regression(theta, batch):
    x, y = batch
    return x.T @ (x @ theta - y) / len(x)


def _tasks(count: int):
    rng = np.random.default_rng(0)
    return [tuple((rng.standard_normal((n, 3)), rng.standard_normal(n)) for n in (4, 6)) for _ in range(count)]


def _check_meta_batch(meta_batch) -> None:
    tasks, start, rate = _tasks(3), np.array([0.5, -1.0, 2.0]), 0.2

    def adapted(theta, support, steps):
        for _ in range(steps):
            theta = theta - rate * _regression(theta, support)
        return theta

    expected = np.mean([_regression(adapted(start, s, 2), q) for s, q in tasks], axis=0)
    theta, leaked = start, []
    for s, q in tasks:
        theta = adapted(theta, s, 2)
        leaked.append(_regression(theta, q))
    got = meta_batch(_regression, start, tasks, 2, rate)
    if _near(got, np.mean(leaked, axis=0)):
        raise Wrong(
            "the first task is right; the second begins where the first one's steps ended: each task must adapt from the "
            "same theta"
        )
    if _near(got, np.mean([_regression(adapted(start, s, 2), s) for s, q in tasks], axis=0)):
        raise Wrong("the gradient after the steps is taken on the support, which was just learnt: judge on the query")
    if _near(got, np.mean([_regression(start, q) for s, q in tasks], axis=0)):
        raise Wrong("the query's gradient is taken at theta, before adaptation: take it at the adapted parameters")
    if _near(got, np.mean([_regression(start - 2 * rate * _regression(start, s), q) for s, q in tasks], axis=0)):
        raise Wrong("each step takes the gradient at the old theta again: the second step starts from where the first one led")
    if _near(got, np.mean([_regression(adapted(start, s, 1), q) for s, q in tasks], axis=0)):
        raise Wrong("only one step is taken, whatever `steps` says")
    same(got, expected, "the meta-gradient of three tasks with two steps", rtol=1e-6)
    same(meta_batch(_regression, start, tasks[:1], 0, rate), _regression(start, tasks[0][1]), "with no inner step", rtol=1e-6)


def _check_through_steps(through_steps) -> None:
    ((X, y), (query_X, query_y)) = _tasks(1)[0]
    theta, rate, steps = np.array([0.5, -1.0, 2.0]), 0.2, 2
    shrink = np.eye(3) - rate * X.T @ X / len(X)
    adapted = theta
    for _ in range(steps):
        adapted = adapted - rate * _regression(adapted, (X, y))
    after = _regression(adapted, (query_X, query_y))
    got = through_steps(theta, X, y, query_X, query_y, steps, rate)
    if _near(got, after):
        raise Wrong("that is g', first-order MAML: on the way back each step multiplies it by I - rate * H")
    if _near(got, shrink @ after):
        raise Wrong("there is one factor I - rate * H for *each* step, and two steps were taken")
    if _near(got, shrink @ shrink @ _regression(theta, (query_X, query_y))):
        raise Wrong("the factors are right, but g' is the query's gradient at the *adapted* parameters, not at the start")
    query_shrink = np.eye(3) - rate * query_X.T @ query_X / len(query_X)
    if _near(got, query_shrink @ query_shrink @ after):
        raise Wrong("H belongs to the support, along whose gradient the steps went; you took the query's")
    unscaled = np.eye(3) - rate * X.T @ X
    if _near(got, unscaled @ unscaled @ after):
        raise Wrong("the loss is a mean over n examples, so H is X^T X / n")
    same(got, shrink @ shrink @ after, "the gradient through two steps", rtol=1e-6)
    same(through_steps(theta, X, y, query_X, query_y, 0, rate), _regression(theta, (query_X, query_y)), "with no step", rtol=1e-6)


def _check_draw_episode(draw_episode) -> None:
    labels = np.random.default_rng(1).permutation(np.repeat(np.array([3, 7, 11, 20, 21, 40]), 9))
    ways, shots, queries = 4, 2, 3
    drawn = []
    for seed in range(12):
        got = draw_episode(labels, ways, shots, queries, np.random.default_rng(seed))
        if not isinstance(got, (tuple, list)) or len(got) != 4:
            raise Wrong("return four arrays: rows of the support, their labels, rows of the query, their labels")
        support, new, query, asked = map(np.asarray, got)
        for array, size, what in (
            (support, ways * shots, "the rows of the support"), (new, ways * shots, "the labels of the support"),
            (query, ways * queries, "the rows of the query"), (asked, ways * queries, "the labels of the query"),
        ):  # fmt: skip
            if array.shape != (size,):
                raise Wrong(f"{what}: expected {size} of them for {ways} classes, got an array of shape {array.shape}")
        if set(new.tolist()) == set(range(ways)) and len(set(labels[support].tolist())) < ways:
            raise Wrong("a class was drawn twice, under two labels: draw classes without replacement")
        if set(support.tolist()) & set(query.tolist()):
            raise Wrong("some rows are in the support and in the query: the model is asked what it was just told")
        if len(set(support.tolist())) < len(support) or len(set(query.tolist())) < len(query):
            raise Wrong("a row comes twice: draw without replacement")
        if np.array_equal(new, labels[support]):
            raise Wrong(f"the labels are those of the data set ({sorted(set(new.tolist()))}); new ones go from 0 to {ways - 1}")
        if sorted(set(new.tolist())) != list(range(ways)) or sorted(set(asked.tolist())) != list(range(ways)):
            raise Wrong(f"the new labels must be 0 to {ways - 1}, each of them used in support and query")
        for k in range(ways):
            told, wanted = set(labels[support[new == k]].tolist()), set(labels[query[asked == k]].tolist())
            if len(told) > 1 or len(wanted) > 1:
                raise Wrong(f"new label {k} stands for several classes at once")
            if told != wanted:
                raise Wrong(
                    f"new label {k} means class {told.pop()} in the support and class {wanted.pop()} in the query: "
                    "draw the classes once for both"
                )
        if (np.bincount(new) != shots).any() or (np.bincount(asked) != queries).any():
            raise Wrong(f"every class needs {shots} rows to learn from and {queries} to be asked about")
        classes = [int(labels[support[new == k]][0]) for k in range(ways)]
        drawn.append((classes, frozenset(support.tolist())))
    once, again = (draw_episode(labels, ways, shots, queries, np.random.default_rng(0)) for _ in range(2))
    if not all(np.array_equal(one, other) for one, other in zip(once, again, strict=True)):
        raise Wrong("the same rng gives another episode each time: draw with the rng you are given, with nothing else")
    if len({tuple(classes) for classes, _ in drawn}) == 1:
        raise Wrong("every episode has the same classes: draw them with rng")
    if all(classes == sorted(classes) for classes, _ in drawn):
        raise Wrong("the classes always come in the order of their numbers, so label 0 is mostly the same class: shuffle them")
    firsts = {frozenset(np.flatnonzero(labels == c)[:shots].tolist()) for c in set(labels.tolist())}
    if all(any(first <= rows for first in firsts) for _, rows in drawn):
        raise Wrong("the support always holds the first rows of a class: draw the rows with rng, too")


def _check_head_of_prototypes(head_of_prototypes) -> None:
    rng = np.random.default_rng(2)
    centres, x = rng.standard_normal((4, 3)), rng.standard_normal((7, 3))
    got = head_of_prototypes(centres)
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        raise Wrong("return two arrays: the weight (N, D) and the bias (N,)")
    weight, bias = map(np.asarray, got)
    same(weight.shape, (4, 3), "the shape of the weight")
    same(bias.shape, (4,), "the shape of the bias")
    squares = np.sum(centres**2, axis=1)

    def probabilities(scores):
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def alike(other_weight, other_bias) -> bool:
        return _near(probabilities(x @ weight.T + bias), probabilities(x @ other_weight.T + other_bias))

    if alike(2 * centres, squares):
        raise Wrong("the bias has the wrong sign: -|x - mu|^2 = -|x|^2 + 2 x.mu - |mu|^2")
    if alike(centres, -squares):
        raise Wrong("the mixed term of the square has a factor 2: -|x - mu|^2 = -|x|^2 + 2 x.mu - |mu|^2")
    if alike(2 * centres, 0 * squares):
        raise Wrong("without the bias a long mean wins too often: -|mu|^2 differs from class to class, so it does not cancel")
    if alike(-2 * centres, squares):
        raise Wrong("these are the scores of the *farthest* mean: all signs are turned")
    if alike(2 * centres, -np.sqrt(squares)):
        raise Wrong("the bias is minus the *squared* length of the mean, not its length")
    if alike(centres, -squares / 2):
        raise Wrong("the nearest mean is right, but the softmax is too flat: all scores are half of what they should be")
    distances = -np.sum((x[:, None] - centres) ** 2, axis=2)
    same(probabilities(x @ weight.T + bias), probabilities(distances), "the softmax of the scores", rtol=1e-6)


EXERCISES = (
    Exercise(
        "best_start", "Where MAML settles", 1, _check_best_start,
        ("After the step the distance to the goal is (1 - rate h) times what it was; put that into the loss.",
         "The loss after the step is h (1 - rate h)^2 / 2 times (theta - c)^2, a parabola: add them up, set the slope to 0."),
    ),
    Exercise(
        "meta_batch", "The first task leaks", 2, _check_meta_batch,
        ("Print theta at the beginning of each task.",
         "The inner loop needs a variable of its own, `adapted = theta`, set anew for each task."),
    ),
    Exercise(
        "through_steps", "Through two steps", 2, _check_through_steps,
        ("Three parts: go forward (the steps), take the query's gradient there, go back.",
         "The way back is a product with the same matrix for each step: np.eye(len(theta)) - rate * X.T @ X / len(X)."),
    ),
    Exercise(
        "draw_episode", "An honest episode", 2, _check_draw_episode,
        ("`rng.permutation(np.unique(labels))[:ways]` draws the classes, once for support and query.",
         "Shuffle the rows of a class once and cut: the first `shots` to learn from, the next `queries` to be asked about."),
    ),
    Exercise(
        "head_of_prototypes", "The nearest mean as a linear layer", 3, _check_head_of_prototypes,
        ("-|x - mu|^2 has three terms. Which of them is the same for all classes, and what does a softmax make of it?",
         "What is left is linear in x: the factor of x is the weight, the rest the bias."),
    ),
    Exercise(
        "take", "What goes into the product?", 2,
        decision({
            "arm": {
                "classifier": "",
                "maml": "its interval less the classifier holds 0: nothing is shown for a training loop through a training loop",
                "nearest": "the classifier's gain over it has an interval well above 0",
            },
            "because": {
                "b": "",
                "a": "MAML has the highest number in the table, and some arm always has; what tells that it is no accident?",
                "c": "an interval that holds 0 shows no equality: that takes a margin, and the interval inside it",
            },
            "unless": {
                "b": "",
                "a": "one seed of eleven is no surprise, and the interval knows of the spread between seeds",
                "c": "other data and another network; what the product will see are your own intents",
            },
        }),
        ("Which rows of the third column hold 0?",
         "Two arms that cannot be told apart differ in the last column."),
    ),
)  # fmt: skip
