"""Comparing an answer with the right one, and saying in words how they differ."""

from numbers import Number

import numpy as np


class Wrong(Exception):
    """Raised by a checker: the message says what is wrong in the learner's terms."""


def same(got, expected, what: str, *, rtol: float | None = None, atol: float = 0.0) -> None:
    """Raise :class:`Wrong` unless ``got`` is ``expected``: in type, shape, dtype and values.

    ``what`` names it in the message: "the loss", "the gradient of `weight`". Numbers may differ by ``rtol`` times the larger of
    the value and the largest value of the array (default: 1e-4 in float32, 1e-8 in float64), plus ``atol``. Lists, tuples and
    dicts are compared part by part. Anything else must be equal.
    """
    if got is None or got is ...:
        raise Wrong(f"{what}: nothing was returned; is a `return` missing on some path?")
    if isinstance(expected, dict):
        _same_dict(got, expected, what, rtol, atol)
    elif isinstance(expected, (list, tuple)):
        _same_list(got, expected, what, rtol, atol)
    elif isinstance(expected, np.ndarray) and expected.ndim:
        _same_array(got, expected, what, rtol, atol)
    elif isinstance(expected, (bool, np.bool_, str, bytes)):
        if not isinstance(got, type(expected)) and not (isinstance(got, np.bool_) and isinstance(expected, bool)):
            raise Wrong(f"{what}: expected {_kind(expected)}, got {described(got)}")
        if got != expected:
            raise Wrong(f"{what} is {got!r}, expected {expected!r}")
    elif isinstance(expected, (Number, np.ndarray)):
        _same_number(got, expected, what, rtol, atol)
    elif got != expected:
        raise Wrong(f"{what} is {described(got)}, expected {described(expected)}")


def _same_dict(got, expected: dict, what: str, rtol, atol) -> None:
    if not isinstance(got, dict):
        raise Wrong(f"{what}: expected a dict, got {described(got)}")
    if missing := [key for key in expected if key not in got]:
        raise Wrong(f"{what} lacks {', '.join(map(repr, missing))}")
    if extra := [key for key in got if key not in expected]:
        raise Wrong(f"{what} holds {', '.join(map(repr, extra))}, which does not belong there")
    for key in expected:
        same(got[key], expected[key], f"{what}[{key!r}]", rtol=rtol, atol=atol)


def _same_list(got, expected: list | tuple, what: str, rtol, atol) -> None:
    if not isinstance(got, (list, tuple)):
        raise Wrong(f"{what}: expected a {type(expected).__name__} of {len(expected)}, got {described(got)}")
    if len(got) != len(expected):
        raise Wrong(f"{what} has {len(got)} parts, expected {len(expected)}")
    for i, (one, other) in enumerate(zip(got, expected, strict=True)):
        same(one, other, f"{what}[{i}]", rtol=rtol, atol=atol)


def _same_number(got, expected, what: str, rtol, atol) -> None:
    if not isinstance(got, (Number, np.ndarray)) or isinstance(got, np.ndarray) and got.dtype == object:
        raise Wrong(f"{what}: expected a number, got {described(got)}")
    if np.shape(got):
        raise Wrong(f"{what} has shape {np.shape(got)}, expected a single number")
    _same_values(np.asarray(got), np.asarray(expected), what, rtol, atol)


def _same_array(got, expected: np.ndarray, what: str, rtol, atol) -> None:
    if not isinstance(got, np.ndarray):
        hint = " (np.array(...) makes one of a list)" if isinstance(got, list) else ""
        raise Wrong(f"{what}: expected an array of shape {expected.shape}, got {described(got)}{hint}")
    if got.shape != expected.shape:
        hint = ": transposed?" if got.shape == expected.shape[::-1] else ""
        raise Wrong(f"{what} has shape {got.shape}, expected {expected.shape}{hint}")
    if got.dtype != expected.dtype and not (got.dtype.kind == expected.dtype.kind == "i"):
        hint = ""
        if (got.dtype, expected.dtype) == (np.float64, np.float32):
            hint = ": a float64 array among what you combine promotes the rest"
        raise Wrong(f"{what} is {got.dtype}, expected {expected.dtype}{hint}")
    _same_values(got, expected, what, rtol, atol)


def _same_values(got: np.ndarray, expected: np.ndarray, what: str, rtol, atol) -> None:
    if expected.dtype.kind not in "fc":
        wrong = got != expected
    else:
        if np.isnan(got).any() and not np.isnan(expected).any():
            raise Wrong(f"{what} is NaN{_at(np.isnan(got))}, expected {_shown(expected[_first(np.isnan(got))])}")
        if rtol is None:
            rtol = 1e-4 if np.float32 in (got.dtype, expected.dtype) else 1e-8
        finite = np.where(np.isfinite(expected), np.abs(expected), 0)
        with np.errstate(invalid="ignore"):
            allowed = rtol * np.maximum(finite, finite.max(initial=0)) + atol
            wrong = ~((np.abs(got - expected) <= allowed) | (got == expected) | (np.isnan(got) & np.isnan(expected)))
    if not wrong.any():
        return
    place = _first(wrong)
    share = f" ({wrong.sum()} of {wrong.size} values are wrong)" if wrong.size > 1 else ""
    relation = _relation(got, expected, rtol or 0)
    raise Wrong(f"{what} is {_shown(got[place])}{_at(wrong)}, expected {_shown(expected[place])}{share}{relation}")


def _relation(got: np.ndarray, expected: np.ndarray, rtol: float) -> str:
    """What the wrong values have to do with the right ones, where it is simple."""
    if not (np.isfinite(got).all() and np.isfinite(expected).all()) or got.size == 0:
        return ""
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    scale = np.abs(expected).max()
    near = max(rtol, 1e-6) * scale
    if not scale:
        return ""
    factor = float((got * expected).sum() / (expected**2).sum())
    if factor and abs(factor - 1) > 1e-3 and np.abs(got - factor * expected).max() <= near * abs(factor):
        return ": the sign is wrong" if abs(factor + 1) < 1e-3 else f": {_shown(factor)} times the right value"
    offset = got - expected
    if got.size > 2 and np.ptp(offset) <= near:
        return f": everywhere {_shown(abs(offset.flat[0]))} too {'large' if offset.flat[0] > 0 else 'small'}"
    return ""


def _first(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(mask)), mask.shape)) if mask.ndim else ()


def _at(mask: np.ndarray) -> str:
    return f" at [{', '.join(map(str, _first(mask)))}]" if mask.ndim else ""


def _shown(number) -> str:
    return f"{number:.4g}" if np.asarray(number).dtype.kind == "f" else str(number)


def _kind(value) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "True or False"
    return "text" if isinstance(value, str) else f"a {type(value).__name__}"


def described(value) -> str:
    """A value in a few words: small ones themselves, large ones by their shape and type."""
    if isinstance(value, np.ndarray):
        if value.size <= 6:
            return f"array({np.array2string(value, precision=4, separator=', ').replace(chr(10), '')})"
        return f"an array {value.shape} of {value.dtype}"
    if isinstance(value, (list, tuple, dict)) and len(value) > 6:
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {described(each)}' for key, each in value.items())}}}"
    if isinstance(value, (list, tuple)):
        inside = ", ".join(map(described, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' if len(value) == 1 else ''})"
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"
    if isinstance(value, np.generic):
        return str(value)
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    if isinstance(value, (bool, int, str, type(None))):
        return repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}...'"
    return f"a {type(value).__name__}"
