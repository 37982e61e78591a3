"""Is a derivative right? Numeric against analytic, to any order, by random projections.

The derivative of a function along a random direction is one number, whichever the shapes. Comparing that
number finds any wrong element of a gradient with probability 1, at the cost of a few evaluations (as
``check_grads`` of HIPS/autograd does). For the second order, the first derivative along a direction is the
function that is differentiated again. The projection's weights are arguments too: they arrive in a derivative as its
``g``, and a derivative may lose the history of that.
"""

from collections.abc import Callable

import numpy as np

from bertcraft.tensor.arguments import check_plain
from bertcraft.tensor.gradient import grad, unwrap

_STEP = 1e-4  # of a difference: the five-point formula errs by about step^4, less than rounding does


def check_grads(f: Callable, *arrays, order: int = 2, tolerance: float = 1e-6, seed: int = 0) -> None:
    """Compare the derivatives of ``f(*arrays)`` up to ``order`` with finite differences.

    arrays: float64 arrays or numbers of any shape. f: returns one floating-point array of any shape and is
    smooth near the given point (a kink closer than about 1e-3 looks like a wrong derivative). tolerance: the
    largest difference, relative to the larger of the two values (differences below about 1e-10 are rounding).
    seed: of the random directions.

    The first call's value must come again: a function that draws random numbers draws the same ones each time.

    Raises AssertionError naming order, argument, numeric and analytic value when they differ, or naming the function
    whose derivative has the wrong shape; TypeError for arrays that are not float64 (float32 has too few digits for
    differences: convert with ``.astype(np.float64)``); ValueError when arrays or results are not finite, or when a derivative
    is too small beside the values for differences to show it.
    """
    if not arrays or order < 1:
        raise ValueError(f"expected arrays and order >= 1, got {len(arrays)} arrays and order {order}")
    points = tuple(_point(i, array) for i, array in enumerate(arrays))
    rng = np.random.default_rng(seed)
    value = unwrap(f(*points))
    if not (isinstance(value, float) or (hasattr(value, "dtype") and value.dtype.kind == "f")):
        got = f"an array of {value.dtype}" if hasattr(value, "dtype") else type(value).__name__
        raise TypeError(f"f must return one floating-point array, got {got}")
    if not np.array_equal(value, unwrap(f(*points)), equal_nan=True):
        raise ValueError("f gave another value when it was called again: let it draw the same random numbers each time")
    _check_writes(f, points)
    weights = rng.standard_normal(np.shape(value))

    def projected(points):
        *arrays, weights = points
        return np.sum(f(*arrays) * weights)

    names = [f"argument {i}" for i in range(len(points))]
    names.append("the gradient of the result (is a derivative's g taken out of its history?)")
    _check(projected, (*points, weights), names, 1, order, tolerance, rng)


def _check_writes(f: Callable, points: tuple) -> None:
    """Raise AssertionError where a derivative writes into its g: the gradient of a sum is one number, seen at every place."""
    try:
        grad(lambda points: np.sum(f(*points)))(points)
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        raise AssertionError(
            f"a derivative writes into an array that it was given, which others read too ({error}): compute a new one"
        ) from error


def _point(i: int, array) -> np.ndarray:
    check_plain(array)
    array = np.asarray(array).view()
    array.flags.writeable = False
    if array.dtype != np.float64:
        raise TypeError(f"argument {i} is {array.dtype}, expected float64: convert with .astype(np.float64)")
    if not np.isfinite(array).all():
        raise ValueError(f"argument {i} has values that are not finite: check derivatives at finite points")
    return array


def _check(scalar: Callable, points: tuple, names: list[str], order: int, last: int, tolerance: float, rng) -> None:
    """Check the gradient of a scalar function of a tuple, then that of its derivative along a direction."""
    directions = tuple(rng.standard_normal(p.shape) for p in points)
    analytic = grad(scalar)(points)
    for i, (gradient, direction, name) in enumerate(zip(analytic, directions, names, strict=True)):
        samples = []
        for steps in (-2, -1, 1, 2):
            moved = np.asarray(points[i] + steps * _STEP * direction)
            samples.append(float(unwrap(scalar((*points[:i], moved, *points[i + 1 :])))))
        expected, found = _five_point(samples), float(np.sum(gradient * direction))
        if not np.isfinite([expected, found]).all():
            raise ValueError(
                f"order {order}, {name}: numeric {expected!r}, analytic {found!r}; "
                "derivatives are checked where the function and they are finite"
            )
        largest = max(map(abs, samples))
        rounding = 100 * np.finfo(np.float64).eps * max(1.0, largest) / _STEP
        if largest > 1e6 and rounding > 1e-3 * max(abs(expected), abs(found)):
            raise ValueError(
                f"order {order}, {name}: a value of {largest:.0e} has too few digits for differences to show a derivative of "
                f"{max(abs(expected), abs(found)):.0e}: subtract a constant from f, or divide it"
            )
        if abs(expected - found) > tolerance * max(abs(expected), abs(found)) + rounding:
            raise AssertionError(
                f"the derivative of order {order} with respect to {name} is wrong: along a random "
                f"direction the numeric value is {expected:.12g}, the analytic one {found:.12g}"
            )
    if order < last:
        along = tuple(rng.standard_normal(p.shape) for p in points)

        def directional(points):
            return sum(np.sum(g * d) for g, d in zip(grad(scalar)(points), along, strict=True))

        _check(directional, points, names, order + 1, last, tolerance, rng)


def _five_point(samples: list[float]) -> float:
    """The derivative from the values at -2, -1, 1 and 2 steps."""
    a, b, c, d = samples
    return (8 * (c - b) - (d - a)) / (12 * _STEP)
