"""Checks of lesson 07: neighbours, a static scale, a dynamic one, where to clip, bfloat16 by its bits, which precision."""

import numpy as np

from bertcraft.course.exercises import Exercise, Wrong, decision, same
from bertcraft.techniques.mixed_precision_training import rounded


def _near(got, expected) -> bool:
    with np.errstate(invalid="ignore"):
        try:
            return np.shape(got) == np.shape(expected) and bool(np.allclose(got, expected, rtol=1e-6, atol=0))
        except TypeError:
            return False


def _check_spacing(spacing) -> None:
    x = np.array([1.0, 1.5, -3.0, 0.1, 1000.0])
    expected = 2.0 ** np.array([-10, -10, -9, -14, -1])
    got = spacing(x, 10, -14)
    if _near(got, 2 * expected):
        raise Wrong("twice too large: frexp's m is below 1, so its e is one more than that of equation (1)")
    if _near(got, expected / 2):
        raise Wrong("that is half the distance, the largest error of a rounding; asked for is the distance itself")
    if _near(got, np.abs(x) * 2.0**-10):
        raise Wrong("between two powers of two the distance is the same everywhere: it follows the exponent, not x itself")
    if _near(got, 2.0 ** (np.ceil(np.log2(np.abs(x))) - 10)):
        raise Wrong("the exponent is rounded up: for 1.5, between 2^0 and 2^1, e is 0; take the floor")
    same(got, expected, "the distances of float16 at 1, 1.5, -3, 0.1, 1000", rtol=1e-6)
    small = np.array([2.0**-14, 1.5 * 2.0**-15, 2.0**-24])
    got = spacing(small, 10, -14)
    if _near(got, 2.0 ** np.array([-24, -25, -34])):
        raise Wrong(
            "right for normal numbers; below 2^lowest the exponent stays at lowest: subnormal numbers are equally far apart"
        )
    same(got, np.full(3, 2.0**-24), "the distances of float16 at its smallest numbers", rtol=1e-6)
    same(spacing(np.array([1.0]), 7, -126), np.array([2.0**-7]), "the distance of bfloat16 at 1", rtol=1e-6)
    got = spacing(np.array([2.0**-100]), 7, -126)
    if _near(got, np.array([2.0**-21])):
        raise Wrong("2^-100 is no subnormal number of bfloat16: take the format's own `lowest`, not float16's -14")
    same(got, np.array([2.0**-107]), "the distance of bfloat16 at 2^-100", rtol=1e-6)


def _check_largest_scale(largest_scale) -> None:
    gradients = np.array([1e-9, -0.3, 0.02])
    got = largest_scale(gradients)
    if _near(got, 2.0**18):
        raise Wrong("one power too far: 0.3 * 2^18 is 78,643, which float16 makes infinite; round the power down")
    if _near(got, 65504 / 0.3):
        raise Wrong(
            "the largest number would fit exactly, but this is no power of two: it would change the digits of every gradient"
        )
    if _near(got, 2.0**21):
        raise Wrong("the gradient -0.3 is larger than 0.02: compare sizes, without signs")
    if _near(got, 2.0**45):
        raise Wrong("you look at the smallest number; the one that overflows first is the largest")
    same(got, 2.0**17, "the scale for gradients 1e-9, -0.3, 0.02", rtol=1e-6)
    same(largest_scale(np.array([65504.0])), 1.0, "the scale for a gradient of 65504", rtol=1e-6)
    same(largest_scale(np.array([[3e6, 1.0]])), 2.0**-6, "the scale for a gradient of three millions", rtol=1e-6)
    for gradient, scale in ((0.25, 2.0**17), (65520.0, 0.5)):
        got = largest_scale(np.array([gradient]))
        if _near(got, 2 * scale):
            raise Wrong(f"{gradient:g} * {2 * scale:g} is {2 * gradient * scale:,.0f}: float16 ends at 65,504, not at 2^16")
        same(got, scale, f"the scale for a gradient of {gradient:g}", rtol=1e-6)


def _scales(finite, scale, interval, *, reset_by_growth=True, reset_by_overflow=True, late=0, grows=True, once=False):
    """The scales after each step, right or with a mistake."""
    after, good = [], 0
    for is_finite in finite:
        if is_finite:
            good += 1
            if grows and (good == interval if once else good >= interval + late):
                scale, good = scale * 2, 0 if reset_by_growth else good
        else:
            scale, good = scale / 2, 0 if reset_by_overflow else good
        after.append(scale)
    return np.array(after, float)


def _check_scales(scales) -> None:
    finite = np.array([0, 1, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1], bool)
    got = scales(finite, 64.0, 3)
    if _near(got, _scales(finite, 64.0, 3, reset_by_overflow=False)):
        raise Wrong("after an overflow you go on counting: the good steps have to be in a row")
    if _near(got, _scales(finite, 64.0, 3, reset_by_growth=False)):
        raise Wrong("once it has grown, your scale grows at every good step: count anew after a doubling, too")
    if _near(got, _scales(finite, 64.0, 3, reset_by_growth=False, once=True)):
        raise Wrong("in a long row of good steps your scale grows only once: count anew after a doubling, too")
    if _near(got, _scales(finite, 64.0, 3, late=1)):
        raise Wrong("your scale grows one step late: the third good step of three doubles it")
    if _near(got, _scales(finite, 64.0, 1)):
        raise Wrong("your scale doubles at every good step: `interval` of them are needed")
    if _near(got, _scales(finite, 64.0, 3, grows=False)):
        raise Wrong("your scale only ever falls: after `interval` good steps in a row it has to double")
    if isinstance(got, np.ndarray) and _near(got[1:], _scales(finite, 64.0, 3)[:-1]):
        raise Wrong("these are the scales *before* each step; asked for are those after it")
    same(got, _scales(finite, 64.0, 3), "the scales of 15 steps, from 64, doubled after 3,", rtol=1e-6)
    same(scales(np.zeros(2, bool), 1.0, 5), np.array([0.5, 0.25]), "the scales of two overflows", rtol=1e-6)


def _check_scaled_step(scaled_step) -> None:
    weights, gradient, scale = np.array([1.0, -2.0, 0.5]), np.array([3.0, -4.0, 12.0]), 1024.0
    got = scaled_step(weights, gradient * scale, scale, 1.0, 0.1)
    right = weights - 0.1 * gradient / 13
    if _near(got, weights - 0.1 * gradient / 13 / scale):
        raise Wrong("clipped to length 1 and then divided by 1024: the step is 0.0001 long; divide first, clip the true gradient")
    if _near(got, weights - 0.1 * gradient):
        raise Wrong("nothing is clipped: a true gradient of length 13 is above the limit")
    if _near(got, weights - 0.1 * np.clip(gradient, -1, 1)):
        raise Wrong("you clip each entry by itself, which turns the gradient: scale the whole to the length, keep its direction")
    same(got, right, "the weights after a step clipped at 1", rtol=1e-6)
    tiny = scaled_step(np.zeros(3), gradient * 1e-6 * scale, scale, 1.0, 0.1)
    if _near(tiny, -0.1 * gradient * 1e-6 * scale):
        raise Wrong("the gradient is never divided by the scale: a short one makes a step that is 1024 times too long")
    if _near(tiny, -0.1 * gradient / 13):
        raise Wrong("a gradient shorter than the limit was made longer: clipping only ever shortens")
    same(tiny, -0.1 * gradient * 1e-6, "the weights after a step that needs no clipping", rtol=1e-6)
    short = scaled_step(np.zeros(3), gradient * 0.01 * scale, scale, 1.0, 0.1)
    if _near(short, -0.1 * gradient / 13):
        raise Wrong("a gradient of length 0.13 was made longer: compare the true length with the limit, not the scaled one")
    same(short, -0.1 * gradient * 0.01, "the weights after a step of a gradient of length 0.13, limit 1,", rtol=1e-6)
    wide = scaled_step(np.zeros(3), gradient * scale, scale, 2.0, 0.1)
    if _near(wide, -0.1 * gradient / 13):
        raise Wrong("clipped to length 1, whatever the limit: this one was 2")
    same(wide, -0.2 * gradient / 13, "the weights after a step clipped at 2", rtol=1e-6)
    got = scaled_step(weights, np.array([1.0, np.inf, 0.0]), scale, 1.0, 0.1)
    same(got, weights, "the weights after an overflow", rtol=1e-6)


def _check_bfloat16_bits(bfloat16_bits) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal(500), [0.0, -0.0, 1e38, -1e-38]]).astype(np.float32)
    ties = np.float32([1 + 2.0**-8, 1 + 3 * 2.0**-8, -(1 + 2.0**-8), 2 + 2.0**-7])
    expected, tied = (rounded(each, "bfloat16").view(np.uint32) >> 16 for each in (x, ties))
    got, at_ties = bfloat16_bits(x), bfloat16_bits(ties)
    bits = x.view(np.uint32)
    if not isinstance(got, np.ndarray) or got.dtype.kind not in "ui":
        raise Wrong("return the bits, an array of whole numbers, as x.view(np.uint32) >> 16 would be")
    if _near(got, bits):
        raise Wrong("these are all 32 bits; a bfloat16 is the upper 16: shift them down by 16")
    if _near(got, bits >> 16):
        raise Wrong("cut off, not rounded: every number comes out too near to 0, and such errors add up")
    if _near(got, expected) and not _near(at_ties, tied):
        if _near(at_ties, (ties.view(np.uint32) + 0x8000) >> 16):
            raise Wrong(
                "ties always go up: 1 + 2^-8 lies in the middle, and its even neighbour is 1. Add one less where it is even"
            )
        if _near(at_ties, (ties.view(np.uint32) + 0x7FFF) >> 16):
            raise Wrong("ties always go down: 1 + 3 * 2^-8 lies in the middle, and its even neighbour is above it")
        raise Wrong("right but for ties: of two neighbours equally near, the one whose last bit is 0 is taken")
    same(got, expected.astype(got.dtype), "the bits of 504 numbers")
    same(at_ties, tied.astype(at_ties.dtype), "the bits of four ties")
    odd = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    as_numbers = (np.asarray(bfloat16_bits(odd)).astype(np.uint32) << 16).view(np.float32)
    if not np.isnan(as_numbers).all():
        raise Wrong(
            f"nan has become {as_numbers[~np.isnan(as_numbers)][0]:g}: the carry runs over its bits; set it apart (0x7FC0)"
        )
    ends = np.float32([np.inf, -np.inf, np.finfo(np.float32).max])
    same(
        np.asarray(bfloat16_bits(ends)),
        np.array([0x7F80, 0xFF80, 0x7F80], got.dtype),
        "the bits of infinities and float32's largest",
    )


EXERCISES = (
    Exercise(
        "spacing", "The next number", 1, _check_spacing,
        ("In (1) the digits count steps of 2^(e-d). frexp's e belongs to an m from 1/2 to 1, that of (1) to one from 1 to 2.",
         "`np.maximum(e - 1, lowest)` is the exponent, also where numbers are subnormal."),
    ),
    Exercise(
        "largest_scale", "The largest scale that fits", 1, _check_largest_scale,
        ("Only the largest |g| matters: S may be at most 65504 over it.",
         "The power of two at or below a number: 2 ** floor(log2(number))."),
    ),
    Exercise(
        "scales", "The life of a scale", 2, _check_scales,
        ("Two things are carried from step to step: the scale, and the good steps since it last changed.",
         "Both an overflow and a doubling set the count to 0."),
    ),
    Exercise(
        "scaled_step", "A step that goes nowhere", 2, _check_scaled_step,
        ("How long is a gradient that was scaled by 65,536, compared with the limit? And after it was clipped and divided?",
         "The limit is meant for the true gradient."),
    ),
    Exercise(
        "bfloat16_bits", "bfloat16 by its bits", 3, _check_bfloat16_bits,
        ("Adding 0x8000 to the bits carries into the upper half exactly when the lower half is at least a half.",
         "At exactly a half it should carry only if the upper half is odd: add 0x7FFF plus the last bit of the upper half.",
         "A nan has all exponent bits set, and a carry may run out of them: np.where(np.isnan(x), 0x7FC0, ...)."),
    ),
    Exercise(
        "which_precision", "Which precision?", 2,
        decision({
            "arm": {
                "float16": "",
                "bfloat16": "its interval goes from -0.034 to +0.036: it may be worse by more than the 0.02 that were agreed",
                "alone": "it is worse by at least 0.071 nats, and 0.02 were agreed; nothing here needs its four bytes",
            },
            "because": {
                "b": "",
                "a": "bfloat16's is smaller, and says little: five seeds with a wide interval can have any mean",
                "c": "bfloat16's interval holds 0 as well: holding 0 shows no equality, with few seeds any interval does",
            },
            "bfloat16_is": {
                "c": "",
                "a": "its interval reaches beyond 0.02 on both sides: equality within 0.02 was not shown",
                "b": "its interval holds 0 and both signs: no difference was shown either",
            },
            "unless": {
                "a": "",
                "b": "+0.010 lies within what five such seeds scatter: no surprise",
                "c": "it was fast enough; it is its loss that was not within what was agreed",
            },
        }),
        ("Hold each interval against the band from -0.02 to +0.02.", "Three answers are possible: inside, outside, neither."),
    ),
)  # fmt: skip
