"""Checks of lesson 08: a rate by its name, a decay for another depth, the triangle, a late layer, stairs, which recipe."""

import math

import numpy as np

from bertcraft.course.exercises import Exercise, Wrong, decision, same
from bertcraft.techniques.layerwise_learning_rates import slanted_triangle


def _near(got, expected) -> bool:
    try:
        return np.shape(got) == np.shape(expected) and bool(np.allclose(got, expected, rtol=1e-9, atol=1e-12))
    except TypeError:
        return False


# ------------------------------------------------------------------------------------------------------------ rates by name

_LAYER = "bert.encoder.layer.{}.attention.self.query.weight"
_RATE, _DECAY, _LAYERS = 0.01, 0.5, 12


def _check_rate_of(rate_of) -> None:
    at = lambda name: rate_of(name, _RATE, _DECAY, _LAYERS)  # noqa: E731
    layer = lambda number: at(_LAYER.format(number))  # noqa: E731
    top, lowest = layer(11), layer(0)
    if _near(lowest, _RATE) and not _near(top, _RATE):
        raise Wrong("upside down: layer 0, the lowest, has the whole rate, and layer 11 the smallest")
    if _near(top, _RATE * _DECAY):
        raise Wrong("layer 11 is the top one of twelve and should have the whole rate: the numbers in the names begin with 0")
    if _near(top, layer(1)):
        raise Wrong("layer 11 has the rate of layer 1: its number has two digits, read all that stands between the dots")
    if _near(layer(9), _RATE * _DECAY * 2):
        raise Wrong("the decay times the number of layers above; each layer multiplies the rate again: a power")
    same(top, _RATE, "the rate of layer 11 of 12", rtol=1e-9)
    same([layer(n) for n in (10, 5, 0)], [_RATE * _DECAY**n for n in (1, 6, 11)], "the rates of layers 10, 5, 0", rtol=1e-9)
    tables = at("bert.embeddings.word_embeddings.weight")
    if _near(tables, lowest):
        raise Wrong("the embeddings have the rate of layer 0; they lie one depth below it, 12 below the top layer")
    same(tables, _RATE * _DECAY**12, "the rate of the embeddings", rtol=1e-9)
    for name in ("bert.pooler.dense.weight", "classifier.bias"):
        if _near(at(name), tables):
            raise Wrong(f"{name} gets the lowest rate: what is no layer is not all embeddings, pooler and classifier lie on top")
        if _near(at(name), _RATE / _DECAY):
            raise Wrong(f"{name} gets more than the rate: here the head learns as fast as the top layer")
        same(at(name), _RATE, f"the rate of {name}", rtol=1e-9)
    for name in ("position_embeddings.weight", "LayerNorm.bias"):
        if not _near(at(f"bert.embeddings.{name}"), tables):
            raise Wrong(f"bert.embeddings.{name} has not the rate of the word embeddings: all of bert.embeddings lies at depth 0")
    for name, share in ((_LAYER.format(5), 1), (_LAYER.format(0), _DECAY**5), ("bert.embeddings.LayerNorm.weight", _DECAY**6)):
        same(rate_of(name, _RATE, _DECAY, 6), _RATE * share, f"in a model of 6 layers the rate of {name}", rtol=1e-9)


# --------------------------------------------------------------------------------------------------- a decay for another depth


def _check_carried_over(carried_over) -> None:
    got = carried_over(0.5, 4, 12)
    if _near(got, 0.5):
        raise Wrong("0.5 a layer leaves 0.06 of the rate over four layers, and 0.0002 over twelve: it has to change")
    if _near(got, 0.5**3):
        raise Wrong("more layers need a gentler decay, nearer to 1: the fraction in the exponent is upside down")
    if _near(got, 0.5 * 4 / 12) or _near(got, 0.5 * 12 / 4):
        raise Wrong("decays multiply, layer by layer: the number of layers belongs into the exponent, not beside the decay")
    if _near(got, 0.5 ** (4 ** (1 / 12))) or _near(got, 0.5**4 / 12):
        raise Wrong("** goes first, and from right to left: the fraction in the exponent needs parentheses")
    if _near(got, 0.5 ** (5 / 13)):
        raise Wrong("between the top layer and the embeddings lie 12 steps, as many as layers, and not 13")
    if _near(got, 0.5 ** (4 - 12)):
        raise Wrong("the numbers of layers are subtracted: x^12 = 0.5^4 is solved by a root, which divides exponents")
    if _near(got, 0.5**4):
        raise Wrong("that is what the lowest has of the rate; asked for is the decay of *one* of the twelve layers")
    if _near(got, 1 - (1 - 0.5) * 4 / 12):
        raise Wrong("near for decays close to 1, and no more: ask which x has x^12 = 0.5^4")
    same(got, 0.5 ** (4 / 12), "the decay for 12 layers of one that is 0.5 for 4", rtol=1e-9)
    same(carried_over(0.95, 12, 6), 0.95**2, "the decay for 6 layers of one that is 0.95 for 12", rtol=1e-9)


# ------------------------------------------------------------------------------------------------------------- the triangle


def _check_slanted(slanted) -> None:
    def told(total, cut_frac, ratio, beyond=0):
        steps = range(total + 1 + beyond)
        shares = np.array([float(slanted_triangle(1.0, total, cut_frac, ratio)(step)) for step in steps])
        return np.array([slanted(step, total, cut_frac, ratio) for step in steps], float), shares

    got, right = told(40, 0.1, 32)
    cut, steps = 4, np.arange(41)
    p = np.where(steps < cut, steps / cut, (40 - steps) / 36)
    if _near(got, p):
        raise Wrong("that is p, which goes down to 0; the triangle begins and ends at 1 / ratio of the peak")
    if _near(got, p / 32):
        raise Wrong("p over the ratio has its peak at 1 / 32: it is 1 + p (ratio - 1) that is divided by the ratio")
    if _near(got, 1 + p * 31 / 32):
        raise Wrong("1 has to be divided by the ratio too: put 1 + p (ratio - 1) in parentheses")
    if _near(got[cut:], right[cut:]) and not _near(got[:cut], right[:cut]):
        raise Wrong("right from the peak on; before it the rate rises: p is step / cut")
    if _near(got[:cut], right[:cut]) and not _near(got[cut:], right[cut:]):
        raise Wrong("right up to the peak; after it p is the share that is left of the way from the cut to the end")
    same(got, right, "the shares of the peak at steps 0 to 40 of 40, cut_frac 0.1, ratio 32", rtol=1e-9)
    got, right = told(77, 0.1, 32)
    if got[-1] < 0:
        raise Wrong("for 77 steps it ends below 0: that is the printed formula where cut is rounded; divide by total - cut")
    if not _near(got.max(), 1.0):
        raise Wrong("for 77 steps the peak is missed: cut is the whole number 7, not 7.7")
    if got.argmax() == 8:
        raise Wrong("for 77 steps the peak is at step 8: cut, 7.7, is to be rounded down")
    if _near(got[:8], right[:8]) and _near(got[70:], np.full(8, 1 / 32)):
        raise Wrong("for 77 steps it is down at step 70: that is the printed formula where cut is rounded; divide by total - cut")
    same(got, right, "the shares of the peak at steps 0 to 77 of 77", rtol=1e-9)
    got, right = told(30, 0.25, 10)
    same(got, right, "the shares of the peak at steps 0 to 30 of 30, cut_frac 0.25, ratio 10", rtol=1e-9)
    got, right = told(40, 0.1, 32, beyond=3)
    if not _near(got, right):
        raise Wrong("right up to the end; behind it the triangle goes on falling, and should stay at 1 / ratio")


# ------------------------------------------------------------------------------------------------------ a layer that joins late


def _late(gradients, start, *, more=(0, 0), gathers=False, corrects=True):
    """Adam's updates, right or with a mistake, for a rate of 1; more: what is added to the counts in m's and u's correction."""
    b1, b2, m, u, found = 0.9, 0.999, 0.0, 0.0, []
    for t, g in enumerate(gradients, 1):
        if gathers or t > start:
            m, u = b1 * m + (1 - b1) * g, b2 * u + (1 - b2) * g * g
        if t <= start:
            found.append(0.0)
            continue
        first, second = (1 - b ** (t - start + extra) if corrects else 1.0 for b, extra in zip((b1, b2), more, strict=True))
        found.append(-(m / first) / math.sqrt(u / second))
    return np.array(found)


def _check_late_adam(late_adam) -> None:
    gradients, start = np.array([3.0, -1.0, 2.0, 0.5, -4.0, 1.0, 0.25, -2.0]), 3
    got, right = np.asarray(late_adam(gradients, start, 0.1), float), 0.1 * _late(gradients, start)
    if got.shape == right.shape and (got[:start].any() or got[start] == 0):
        raise Wrong("it wakes at the wrong step: with start = 3 the updates 1, 2 and 3 are 0, and the fourth is not")
    if _near(got, 0.1 * _late(gradients, start, more=(start, start))):
        raise Wrong(
            f"the first update of the layer is {abs(got[start]):.3f} long for a rate of 0.1: a first step of Adam's is as long "
            "as the rate. The corrections count the updates of *this* weight, of which there was none while it slept"
        )
    if any(_near(got, 0.1 * _late(gradients, start, more=(start, 0)[::way])) for way in (1, -1)):
        raise Wrong("one of the two counts is right, the other still that of all steps: both divisors need this weight's own")
    if _near(got, 0.1 * _late(gradients, start, more=(1, 1))):
        raise Wrong("the count is one too many: at the first update after the sleep it is 1")
    if any(_near(got, 0.1 * _late(gradients, start, more=(extra, extra), gathers=True)) for extra in (0, start)):
        raise Wrong("the means have seen gradients while the layer slept: a frozen layer computes none, they begin at 0 with it")
    if _near(got, 0.1 * _late(gradients, start, corrects=False)):
        raise Wrong("nothing is corrected: the first update is 3.2 times the rate; divide m by 1 - b1^t, u by 1 - b2^t")
    if _near(got, -right):
        raise Wrong("the sign is wrong: an update is added to the weight, and goes against the gradient")
    same(got, right, "the updates of a weight that joins after 3 steps", rtol=1e-9)
    never = np.asarray(late_adam(gradients, 0, 1.0), float)
    same(never, _late(gradients, 0), "the updates of a weight that never slept", rtol=1e-9)


# ------------------------------------------------------------------------------------------------------------------- stairs


def _check_stairs(stairs) -> None:
    schedule = lambda count: 1.0 / (1 + count)  # noqa: E731
    right = np.array([1, 1, 1, 0.5, 0.5, 0.5, 1 / 3, 1 / 3])
    got = np.asarray(stairs(schedule, 3, 8), float)
    if _near(got, [schedule(step) for step in range(8)]):
        raise Wrong("the schedule is advanced at every step: its argument should be the number of epochs that are over")
    if _near(got, [schedule(-(-step // 3)) for step in range(8)]):
        raise Wrong("only the first step has the first rate: round down, an epoch counts when it is over")
    if _near(got, [schedule((step + 1) // 3) for step in range(8)]):
        raise Wrong("the stair comes a step early: steps are counted from 0, and step 2 belongs to the first epoch of 3")
    if _near(got, [schedule(step / 3) for step in range(8)]):
        raise Wrong("that is a smooth fall at the pace of epochs; one that is advanced once an epoch stands still within it")
    if _near(got, [schedule(step // 3 + 1) for step in range(8)]):
        raise Wrong("the first steps have the rate of count 1; no epoch is over then, and the count is 0")
    if _near(got, [schedule(step // 3 * 3) for step in range(8)]):
        raise Wrong("the stairs are right and the count is not: it is counted in steps, and should be in epochs")
    if _near(got, [schedule(step % 3) for step in range(8)]):
        raise Wrong("the schedule begins anew in each epoch: % is the step within an epoch, // the number of epochs")
    same(got, right, "the rates of 8 steps, 3 an epoch, for 1 / (1 + count)", rtol=1e-9)


EXERCISES = (
    Exercise(
        "rate_of", "A rate by its name", 1, _check_rate_of,
        ("Three cases: the name holds `embeddings`, it holds `.layer.` and a number, or neither.",
         'The number of a layer: `int(name.split(".layer.")[1].split(".")[0])`. Twelve layers are 0 to 11.'),
    ),
    Exercise(
        "carried_over", "Another number of layers", 1, _check_carried_over,
        ("What the lowest has is the decay to the power of the number of layers, by (1).",
         "decay^layers = x^own_layers: take the root."),
    ),
    Exercise(
        "slanted", "The triangle", 2, _check_slanted,
        ("`cut` is a whole number of steps. p goes from 0 to 1 before it and from 1 to 0 behind it.",
         "Behind the cut p = (total - step) / (total - cut), and at least 0; the share is (1 + p (ratio - 1)) / ratio."),
    ),
    Exercise(
        "late_adam", "A layer that jumps", 2, _check_late_adam,
        ("How long is Adam's very first update of any weight, for a rate of 0.1? And how long is this one?",
         "In 1 - b1^t, t is the number of gradients that have gone into m."),
    ),
    Exercise(
        "stairs", "By epoch", 1, _check_stairs,
        ("How many epochs are over before step 0, step 2, step 3 of epochs of three steps?",
         "`step // steps_an_epoch` counts them."),
    ),
    Exercise(
        "which_recipe", "Which recipe?", 2,
        decision({
            "recipe": {
                "one at 1e-4": "",
                "one at 5e-5": "the development texts prefer 1e-4 for one rate, and B starts from there",
                "0.9 at 1e-4": "its gain in A is over a baseline whose own rate was never chosen",
                "0.9 at 2e-4": "B does not show that it is better, and that was the condition",
            },
            "gain_in_A": {
                "b": "",
                "a": "A changes two things at once; at 1e-4 the first table has one rate as high as 0.9",
                "c": "its interval lies wholly above 0: with ten seeds that is hardly chance",
            },
            "B_says": {
                "c": "",
                "a": "its interval reaches down to -0.5: no gain is shown",
                "b": "equality within 0.5 would need the whole interval within 0.5, and it reaches to +0.9",
            },
            "unless": {
                "a": "",
                "b": "a single seed with 84 lies within what seeds scatter",
                "c": "more seeds make A's interval narrower, and its baseline no fairer",
            },
        }),
        ("Compare the two rows of the first table column by column, then at each one's best.",
         "An interval can lie above 0, within 0.5 on both sides, or neither."),
    ),
)  # fmt: skip
