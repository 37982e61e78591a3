"""Checks of lesson 20: one norm for all, where to clip, row by row, Adam after a spike, which threshold."""

import numpy as np

from bertcraft.course.exercises import Exercise, Wrong, decision, described, same


def _near(got, expected, rtol=1e-6) -> bool:
    try:
        return np.shape(got) == np.shape(expected) and bool(np.allclose(got, expected, rtol=rtol, atol=1e-12))
    except (TypeError, ValueError):
        return False


def _all_near(got, expected) -> bool:
    return len(got) == len(expected) and all(_near(a, b) for a, b in zip(got, expected, strict=True))


def _check_clip_all(clip_all) -> None:
    gradients = [np.array([[2.0, -4.0], [0.0, 1.0]]), np.array([6.0, 8.0, 0.0])]  # norms sqrt(21), 10 and 11
    norm = 11.0
    got = clip_all(gradients, 2.0)
    if not isinstance(got, (list, tuple)) or len(got) != 2:
        raise Wrong(f"return a list of arrays, one for each that came in; it got {described(got)}")
    if _all_near(got, [g * 2 / np.linalg.norm(g) for g in gradients]):
        raise Wrong("each array is clipped by itself: take the squares of all arrays into one norm, and one factor for all")
    if _all_near(got, [np.clip(g, -2, 2) for g in gradients]):
        raise Wrong("each number is clipped by itself, which turns the gradient: (2) multiplies all by one factor")
    if _all_near(got, [g * 2 / norm**2 for g in gradients]):
        raise Wrong("you divide by the square of the norm: the root is missing")
    if _all_near(got, [g * 2 / sum(np.linalg.norm(g) for g in gradients) for g in gradients]):
        raise Wrong("norms do not add up: the norm of all is the root of the sum of *squares*")
    if _all_near(got, [g / norm for g in gradients]):
        raise Wrong("the gradient is 1 long, and `most` was 2: the factor is most / norm")
    for a, g in zip(got, gradients, strict=True):
        same(a, g * 2 / norm, "gradients of norm 11, clipped at 2", rtol=1e-6)
    uneven = [np.array([3.0, 4.0]), np.array([12.0])]  # norms 5, 12 and 13
    got = clip_all(uneven, 6.5)
    if _all_near(got, [uneven[0], uneven[1] / 2]):
        raise Wrong("an array that is short enough by itself was left alone: the norm of all decides, and shortens all")
    for a, g in zip(got, uneven, strict=True):
        same(a, g / 2, "gradients of norm 13, clipped at 6.5", rtol=1e-6)
    short = clip_all(gradients, 50.0)
    if short is None:
        raise Wrong("gradients that are short enough are not handed back: return them as they are")
    if _all_near(short, [g * 50 / norm for g in gradients]):
        raise Wrong("gradients of norm 11 were made 50 long: clipping only ever shortens")
    for a, g in zip(short, gradients, strict=True):
        same(a, g, "gradients of norm 11, clipped at 50", rtol=1e-6)
    zeros = clip_all([np.zeros(3)], 1.0)
    same(zeros[0], np.zeros(3), "a gradient of zeros, clipped at 1")


def _clipped(g, most):
    return g * min(1.0, most / np.linalg.norm(g))


def _check_accumulated_step(accumulated_step) -> None:
    weights, scale, most = np.array([1.0, -2.0, 0.5]), 1024.0, 2.0
    parts = np.array([[6.0, -8.0, 0.0], [-4.0, 2.0, 1.0], [1.0, 0.0, 8.0]])
    mean = parts.mean(axis=0)
    got, tiny = accumulated_step(weights, parts * scale, scale, most, 0.1), 1e-4
    step = (weights - np.asarray(got, float)) / 0.1 if np.shape(got) == (3,) else None
    of_parts = np.mean([_clipped(part, most) for part in parts], axis=0)
    if _near(step, of_parts / scale, 1e-3):
        raise Wrong("the micro-batches are clipped one by one, and still scaled: add up, divide by the scale, then clip, once")
    if _near(step, of_parts, 1e-3):
        raise Wrong("unscaled, but each micro-batch is clipped by itself: by (7) only the sum of all may be clipped")
    if any(_near(step, _clipped(parts.sum(axis=0), most) / 3 / over, 1e-3) for over in (1, scale)):
        raise Wrong(
            "the sum is clipped, and then divided by the number of micro-batches: clip their mean, the true gradient, last"
        )
    short = accumulated_step(np.zeros(3), parts * tiny * scale, scale, most, 1.0)
    if _near(step, _clipped(mean, most) / scale, 1e-3):
        if _near(short, -mean * tiny, 1e-3):
            raise Wrong(
                "clipped before it is unscaled: by (8) the threshold is then 1024 times as strict; divide by the scale first"
            )
        raise Wrong("divided by the scale twice: the step is a thousandth of what it should be")
    if _near(short, -mean * tiny * scale, 1e-3):
        raise Wrong("the scale is never divided out: a gradient that is shorter than the limit makes a step 1024 times too long")
    if _near(short, -parts.sum(axis=0) * tiny, 1e-3):
        raise Wrong("that is the sum of the micro-batches, not their mean: divide by their number first")
    if _near(short, -_clipped(mean, most), 1e-3):
        raise Wrong("a gradient shorter than the limit was made longer: clipping only ever shortens")
    same(got, weights - 0.1 * _clipped(mean, most), "the weights after a step clipped at 2", rtol=1e-5)
    same(short, -mean * tiny, "the weights after a step that needs no clipping", rtol=1e-5)


def _rows(gradient, weight, ratio, eps, axis=1):
    longest = ratio * np.maximum(np.linalg.norm(weight, axis=axis, keepdims=True), eps)
    return gradient * np.minimum(1, longest / np.maximum(np.linalg.norm(gradient, axis=axis, keepdims=True), 1e-12))


def _check_clip_rows(clip_rows) -> None:
    gradient = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [1e-3, 0.0, 2e-3], [5.0, -1.0, 2.0]])
    weight = np.array([[0.3, 0.4, 0.0], [1.0, 1.0, 1.0], [0.6, 0.0, 0.8], [0.0, 0.0, 0.0]])
    ratio, eps = 0.01, 0.1
    with np.errstate(divide="ignore", invalid="ignore"):
        got = clip_rows(gradient, weight, ratio, eps)
    expected = _rows(gradient, weight, ratio, eps)
    if isinstance(got, np.ndarray) and got.shape == expected.shape:
        if np.isnan(got).any():
            raise Wrong("nan where a row of the gradient is 0: 0 / 0; keep the divisor above 0")
        if _near(got, _rows(gradient, weight, ratio, eps, axis=0)):
            raise Wrong("you measure columns: row i of a matrix (out, in) makes output i, so sum along axis 1")
        if _near(got, _rows(gradient, weight, ratio, eps, axis=(0, 1))):
            raise Wrong("one length for the whole matrix: each row has its own, axis=1 with keepdims")
        if _near(got[0], gradient[0] * 0.01 / 5) and not _near(got, expected):
            raise Wrong("the rows are cut to ratio itself: the longest a row may be is ratio times *its weights'* length")
        if _near(got[3], np.zeros(3)):
            raise Wrong("a row whose weights are 0 can never move: count a row of weights as at least eps long")
        if _near(got[0], gradient[0] * ratio * (0.5 + eps) / 5):
            raise Wrong("eps is added to the length: it is the least that a length counts for, a maximum")
        if _near(got[0], gradient[0] * eps / 5):
            raise Wrong(
                "eps is compared with the limit: compare it with the length of the weights, and take ratio times the longer"
            )
        if _near(got[2], gradient[2] * ratio / np.linalg.norm(gradient[2])):
            raise Wrong("a row shorter than its limit was made longer: the factor is at most 1")
    same(got, expected, "the rows of a gradient (4, 3)", rtol=1e-6)


def _spike(size, steps, b1, b2, *, square=True, root=True, start=1.0, stays=False):
    """Adam's steps after a spike, right or with a mistake."""
    m, u, found = start, start, []
    for number in range(steps):
        g = size if number == 0 or stays else 1.0
        m, u = b1 * m + (1 - b1) * g, b2 * u + (1 - b2) * (g**2 if square else g)
        found.append(m / (np.sqrt(u) if root else u))
    return np.array(found)


def _check_after_spike(after_spike) -> None:
    given = (1000.0, 60, 0.9, 0.999)
    got, expected = after_spike(*given), _spike(*given)
    if _near(got, _spike(*given, square=False)):
        raise Wrong("u is the mean of *squared* gradients: its share of the spike is size**2")
    if _near(got, _spike(*given, root=False)):
        raise Wrong("the step divides by the root of u")
    if _near(got, _spike(1000.0, 60, 0.999, 0.9)):
        raise Wrong("the betas are exchanged: m forgets with b1, u with b2")
    if _near(got, _spike(1000.0, 60, 0.1, 0.001)):
        raise Wrong("the shares are exchanged: m keeps b1 of what it was and takes 1 - b1 of the gradient; so does u, with b2")
    if _near(got, _spike(*given, stays=True)):
        raise Wrong("the gradient stays `size` long: after the first step it is 1 again")
    if _near(got, _spike(*given, start=0.0)):
        raise Wrong("m and u begin at 0 in yours: here a long past of gradients of 1 has made both 1")
    if _near(got, np.r_[1.0, expected[:-1]]):
        raise Wrong("one step late: Adam updates m and u with the gradient, and steps by the new ones")
    same(got, expected, "Adam's steps after a gradient of 1000", rtol=1e-6)
    same(after_spike(1.0, 5, 0.9, 0.98), np.ones(5), "Adam's steps when the spike is 1, no spike,", rtol=1e-6)
    other = (10.0, 8, 0.5, 0.98)
    same(after_spike(*other), _spike(*other), "Adam's steps after a gradient of 10, with the betas 0.5 and 0.98,", rtol=1e-6)


EXERCISES = (
    Exercise(
        "clip_all", "One norm for all", 1, _check_clip_all,
        ("Add up the squares of all numbers of all arrays; the root of that is the norm.",
         "One factor for all arrays, and only where the norm is above `most`."),
    ),
    Exercise(
        "accumulated_step", "Too early", 2, _check_accumulated_step,
        ("How often is `clip` called, and what does a gradient times 1024 look like to it?",
         "Mean over the micro-batches, divided by the scale: that is the true gradient. Clip this one."),
    ),
    Exercise(
        "clip_rows", "Row by row", 2, _check_clip_rows,
        ("np.linalg.norm(weight, axis=1, keepdims=True) is a column of lengths.",
         "The factor is the smaller of 1 and longest / length; keep length above 0."),
    ),
    Exercise(
        "after_spike", "After the spike", 3, _check_after_spike,
        ("Two numbers are carried along, m and u, both 1 at the start.",
         "m = b1 * m + (1 - b1) * g, u = b2 * u + (1 - b2) * g**2, then the step; g is `size` only once."),
    ),
    Exercise(
        "which_threshold", "Which threshold?", 2,
        decision({
            "arm": {
                "norm_1": "",
                "none": "15 of 40 runs are lost; an arm was shown to be as good, within what was agreed, and lost 3",
                "norm_0.05": "its interval reaches +0.027: it may be worse by more than the 0.02 that were agreed",
                "value": "it lost fewest, and its whole interval lies above +0.02: it is worse by more than was agreed",
            },
            "because": {
                "b": "",
                "a": "norm, 0.05 has a lower one, and says little: its interval is four times as wide as what is allowed",
                "c": "that of norm, 0.05 holds 0 as well: holding 0 shows no equality, a wide interval always does",
            },
            "clipping_at_1": {
                "c": "",
                "a": "its interval holds 0 and both signs: no improvement was shown, and none was asked for",
                "b": "+0.002 with an interval around 0: no harm was shown either",
            },
            "unless": {
                "a": "",
                "b": "+0.012 lies within what ten such seeds scatter: no surprise",
                "c": "how often it clips was not what was agreed on; and 4 and 5 % are hardly different",
            },
        }),
        ("Hold each interval's upper end against +0.02 first, and only then count lost runs.",
         "Not shown to be worse is not the same as shown not to be worse."),
    ),
)  # fmt: skip
