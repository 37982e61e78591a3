"""Checks of lesson 04: a count, the gradient of a shared matrix, honest pairs, a thin table, a decision."""

import numpy as np

from bertcraft.course.exercises import Exercise, Wrong, decision, described, same


def _near(got, expected) -> bool:
    return np.shape(got) == np.shape(expected) and bool(np.allclose(got, expected, rtol=1e-6, atol=1e-10))


def _check_count_weights(count_weights) -> None:
    v, thin, h, f, layers = 30_000, 128, 1024, 4096, 24
    table, attention, inner = v * thin + thin * h, 4 * h * h, 2 * h * f
    for shared, expected in {
        "all": table + attention + inner,
        "none": table + layers * (attention + inner),
        "attention": table + attention + layers * inner,
        "feed_forward": table + layers * attention + inner,
    }.items():
        got = count_weights(v, thin, h, f, layers, shared)
        got = got.item() if isinstance(got, np.ndarray) and got.ndim == 0 else got
        if not isinstance(got, (int, float, np.number)):
            raise Wrong(f"with {shared!r} shared it returns {described(got)}, expected a number")
        if _near(got, expected - thin * h):
            raise Wrong("the map from the thin vectors to the hidden size is missing: e times H numbers")
        if any(_near(got, expected - table + v * h + rest) for rest in (0, thin * h)):
            raise Wrong("the table has V rows of e numbers, not of H: that is what the factorisation saves")
        if _near(got, expected + (layers - 1) * thin * h):
            raise Wrong("the map from the thin vectors stands before the first layer, once, and not in every layer")
        if shared == "none" and _near(got, table + attention + inner):
            raise Wrong("with nothing shared every layer has weights of its own")
        if shared == "all" and _near(got, table + layers * (attention + inner)):
            raise Wrong("with everything shared there is one layer, however often it is used")
        if shared == "attention" and _near(got, table + layers * attention + inner):
            raise Wrong('"attention" names what is shared: attention once, the feed-forward part in every layer')
        if _near(got, expected - inner / 2) or _near(got, expected - layers * inner / 2):
            raise Wrong("the feed-forward part has two matrices, H x F and F x H")
        if _near(got, expected - attention / 4) or _near(got, expected - layers * attention / 4):
            raise Wrong("attention has four matrices: queries, keys, values and the output")
        same(got, expected, f"the weights of ALBERT-large with {shared!r} shared")
    got, expected = count_weights(10, 2, 3, 5, 1, "none"), 10 * 2 + 2 * 3 + 4 * 9 + 30
    if _near(got, expected - 30 + 8 * 9):
        raise Wrong("the feed-forward part is as wide as `inner` says, which need not be 4 H")
    same(got, expected, "the weights of a model of one layer")


def _check_shared_gradient(shared_gradient) -> None:
    rng = np.random.default_rng(0)
    weight, x, g = rng.standard_normal((3, 3)), rng.standard_normal(3), rng.standard_normal(3)

    def parts(uses):
        inputs = [x]
        for _ in range(uses):
            inputs.append(weight @ inputs[-1])
        found, upstream = [], g
        for use in reversed(range(uses)):
            found.append(np.outer(upstream, inputs[use]))
            upstream = weight.T @ upstream
        return found, inputs  # the last use first

    found, inputs = parts(3)
    got = shared_gradient(weight, x, g, 3)
    if _near(got, found[0]):
        raise Wrong("that is the last use alone: every use adds its part")
    if _near(got, found[-1]):
        raise Wrong("right where W is used once; hold three uses against (4), term by term")
    if _near(got, sum(found) / 3):
        raise Wrong("the parts are added up, not averaged")
    if _near(got, 3 * found[0]):
        raise Wrong("the uses have different inputs and gradients: three times the last one is not their sum")
    if _near(got, sum(np.outer(g, inputs[use]) for use in range(3))):
        raise Wrong("the gradient that arrives at an earlier use has come back through the later ones: W^T g, then W^T W^T g")
    if _near(
        got, sum(np.outer(part, out) for part, out in zip([weight.T @ weight.T @ g, weight.T @ g, g], inputs[1:], strict=True))
    ):
        raise Wrong("each use is multiplied with its *input*, not with its output")
    backward = [np.linalg.matrix_power(weight.T, n) @ g for n in range(4)]  # the gradient after n uses, the last use first
    if _near(got, sum(np.outer(backward[n + 1], inputs[2 - n]) for n in range(3))):
        raise Wrong("a use's part takes the gradient by its *output*: add the part, then take the gradient back through W^T")
    if _near(got, sum(np.outer(backward[n], inputs[n]) for n in range(3))):
        raise Wrong("the gradient comes from the end: the last use is the first to be treated")
    if _near(got, sum(np.outer(np.linalg.matrix_power(weight, n) @ g, inputs[2 - n]) for n in range(3))):
        raise Wrong("a gradient goes back through W^T, not through W")
    if _near(got, sum(found).T):
        raise Wrong("the result is transposed: rows belong to the output, outer(gradient, input)")
    same(got, sum(found), "the gradient of W, used three times,", rtol=1e-6)
    same(shared_gradient(weight, x, g, 1), parts(1)[0][0], "with one use", rtol=1e-6)


def _check_honest_pairs(honest_pairs) -> None:
    documents = [[(d, s) for s in range(n)] for d, n in enumerate((6, 1, 9, 2, 0, 12))]
    expected = [(a, b) for document in documents for a, b in zip(document, document[1:], strict=False)]
    labels, by_document = [], []
    for seed in range(30):
        got = honest_pairs(documents, np.random.default_rng(seed))
        if not isinstance(got, list) or not all(isinstance(each, tuple) and len(each) == 3 for each in got):
            raise Wrong("return a list of triples (first, second, label)")
        if any(first[0] != second[0] for first, second, _ in got):
            raise Wrong(
                "a pair has segments of two documents: then the topic gives the answer away, as in next-sentence prediction"
            )
        if any(abs(first[1] - second[1]) != 1 for first, second, _ in got):
            raise Wrong("these two are no neighbours: the segments of a pair follow each other in the document")
        if len(got) != len(expected):
            raise Wrong(f"{len(expected)} pairs of neighbours are in these documents, you made {len(got)}")
        for first, second, label in got:
            if label not in (0, 1):
                raise Wrong(f"a label is 0 or 1, got {label!r}")
            if (first[1] > second[1]) != bool(label):
                raise Wrong("0 means as in the text, 1 exchanged: a label says the opposite of its pair")
        if len({frozenset(map(tuple, pair)) for *pair, _ in got}) != len(expected):
            raise Wrong("some neighbours come twice and others not at all: each pair of neighbours once")
        labels.append([int(label) for *_, label in got])
        by_document.append([{label for first, _, label in got if first[0] == d} for d in range(len(documents))])
    share = float(np.mean(labels))
    if share in (0.0, 1.0):
        raise Wrong("all pairs have the same label: exchange each with probability one half")
    if all(len(set(each)) == 1 for each in labels):
        raise Wrong("one draw decides for all pairs of a reading: draw for each pair")
    if all(len(found) < 2 for each in by_document for found in each):
        raise Wrong("one draw decides for all pairs of a document: draw for each pair")
    if len({tuple(each) for each in labels}) == 1:
        raise Wrong("the same pairs are exchanged whatever the generator: use rng")
    if not 0.42 < share < 0.58:
        raise Wrong(f"{share:.0%} of the pairs are exchanged, expected one half")
    if honest_pairs(documents, np.random.default_rng(0)) != honest_pairs(documents, np.random.default_rng(0)):
        raise Wrong("two generators of the same seed give different pairs: draw from rng alone")


def _check_thin_table(thin_table) -> None:
    rng = np.random.default_rng(3)
    table = rng.standard_normal((12, 5)) @ np.diag([5.0, 3.0, 2.0, 0.5, 0.1])
    u, s, vt = np.linalg.svd(table, full_matrices=False)
    got = thin_table(table, 2)
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        raise Wrong("return two arrays: the thin table (V, e) and the map (e, H)")
    thin, project = map(np.asarray, got)
    for what, one, shape in (("thin table", thin, (12, 2)), ("map", project, (2, 5))):
        if one.shape != shape:
            hint = ": transposed?" if one.shape == shape[::-1] else ""
            raise Wrong(f"the shape of the {what} is {one.shape}, expected {shape}{hint}")
    product = thin @ project
    if _near(product, u[:, :2] @ vt[:2]):
        raise Wrong("the singular values are missing: they say how long each direction is")
    if _near(product, (u[:, -2:] * s[-2:]) @ vt[-2:]):
        raise Wrong("these are the two *smallest* directions: keep those with the largest singular values")
    if _near(product, (u[:, :2] * s[:2] ** 2) @ vt[:2]):
        raise Wrong("the singular values come twice: into the table or into the map, or their roots into both")
    if _near(product, (u[:, :2] * s[:2]) @ vt[:, :2].T):
        raise Wrong("the directions are the *rows* of what svd returns last, which is V^T already: no transposing")
    if _near(product, np.pad(table[:, :2], ((0, 0), (0, 3)))):
        raise Wrong("that keeps the first two columns; the best plane need not lie along the axes")
    mean = table.mean(axis=0)
    around = np.linalg.svd(table - mean, full_matrices=False)[2][:2]
    if any(_near(product, rows @ around.T @ around) for rows in (table, table - mean)):
        raise Wrong("the mean was taken away first, as in PCA: a product has no place to put it back")
    same(product, (u[:, :2] * s[:2]) @ vt[:2], "the product of the two", rtol=1e-6)
    other = rng.standard_normal((4, 6))  # fewer rows than columns, another width
    u, s, vt = np.linalg.svd(other, full_matrices=False)
    thin, project = map(np.asarray, thin_table(other, 3))
    if thin.shape != (4, 3) or project.shape != (3, 6):
        raise Wrong(f"of a table (4, 6), 3 wide: the shapes are {thin.shape} and {project.shape}, expected (4, 3) and (3, 6)")
    same(thin @ project, (u[:, :3] * s[:3]) @ vt[:3], "the product of the two, of width 3,", rtol=1e-6)


EXERCISES = (
    Exercise(
        "count_weights", "Count it", 1, _check_count_weights,
        ("Three parts: embeddings with their map, attention, feed-forward. Each of the last two counts once or once a layer.",
         "The table and its map have V e + e H weights; attention has 4 H^2, the feed-forward part 2 H F."),
    ),
    Exercise(
        "shared_gradient", "Find the mistake", 2, _check_shared_gradient,
        ("How many outer products should be added up?",
         "Keep a sum, `total += np.outer(g, inputs[use])`, and let g go back through W after each use."),
    ),
    Exercise(
        "honest_pairs", "Pairs whose topic tells nothing", 2, _check_honest_pairs,
        ("`zip(document, document[1:])` are the neighbours of a document.",
         "One number for each pair: `rng.random() < 0.5` exchanges it, and that is the label."),
    ),
    Exercise(
        "thin_table", "The best thin table", 3, _check_thin_table,
        ("The nearest table of rank e is the sum of the e largest parts of the SVD. Which of u, s and vt does a part consist of?",
         "Keep the first e columns of u, numbers of s and rows of vt; s belongs to one of the two factors."),
    ),
    Exercise(
        "ship", "Which one do you ship?", 2,
        decision({
            "model": {
                "attention": "",
                "all": "it pays 1.5 points for room that nobody asked for: the next larger one fits",
                "none": "it does not fit: 179 MB, and the limit is 130",
            },
            "because": {
                "b": "",
                "a": "sharing changes how often a number is *kept*, not how often it is used: all three take the same time",
                "c": "an interval that holds 0 is no proof of equality; and nothing needs to be equal here",
            },
            "unless": {
                "c": "",
                "a": "it is the same model at the same speed, whatever is shared",
                "b": "more seeds narrow the intervals; but -1.5 is far from 0 already, and what fits does not depend on seeds",
            },
        }),
        ("Cross out what does not fit, then look at what is left.",
         "Which column decided? Only a change that touches it lets another row win."),
    ),
)  # fmt: skip
