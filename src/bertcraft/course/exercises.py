"""Exercises: what a checker says of a learner's function, in one line and in her terms.

A lesson's checkers are in :mod:`bertcraft.course.checks`, one module a lesson, each with a tuple ``EXERCISES``. A checker is a
function ``check(function)``: it calls the learner's function on inputs that it knows the answers of, returns None when all are
right and raises :class:`Wrong` with the message for her when one is not.
"""

import functools
import inspect
import linecache
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bertcraft.course.same import Wrong, described, same

__all__ = ["Exercise", "Outcome", "Wrong", "decision", "described", "judge", "same"]


@dataclass(frozen=True)
class Exercise:
    """A checked exercise: its name is that of the function to write, and of ``check.<name>``."""

    name: str
    title: str
    stars: int  # 1 to 3
    check: Callable[[Callable], None]
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a check found: ``state`` is "solved", "not started" or "wrong"; ``text`` says what is wrong, in one line."""

    state: str
    text: str = ""


def decision(questions: Mapping[str, Mapping[str, str]]) -> Callable[[Callable], None]:
    """The checker of an exercise whose answer is a decision: her function, without arguments, returns a dict of choices.

    ``questions``: question -> choice -> what is wrong with it, "" for the right one. The first wrong choice is told.
    """

    def check(function: Callable) -> None:
        got = function()
        if not isinstance(got, dict) or set(got) != set(questions):
            raise Wrong(f"return a dict with {', '.join(map(repr, questions))}; it got {described(got)}")
        for question, choices in questions.items():
            choice = got[question]
            if not isinstance(choice, str) or choice not in choices:
                raise Wrong(f"{question!r} is {described(choice)}, expected one of {', '.join(map(repr, choices))}")
            if choices[choice]:
                raise Wrong(f"{question!r}, {choice!r}: {choices[choice]}")

    return check


class _NotStarted(Exception):
    pass


def judge(exercise: Exercise, function) -> Outcome:
    """Check a learner's function. Never raises for anything that her function does or returns."""
    if not callable(function):
        return Outcome(
            "wrong",
            f"check.{exercise.name} wants the function itself, without calling it: "
            f"check.{exercise.name}({exercise.name}); it got {described(function)}",
        )
    guarded = _Guard(function)
    try:
        exercise.check(guarded)
    except _NotStarted:
        return Outcome("not started", f"{guarded.name} returns nothing so far (if you have begun: is its `return` missing?)")
    except Wrong as error:
        return Outcome("wrong", _one_line(str(error)))
    except Exception as error:  # the checker could not work with what it was given
        if not guarded.calls:
            raise
        return Outcome(
            "wrong",
            f"the check could not use what {guarded.name} returned, {described(guarded.returned)} "
            f"({type(error).__name__}: {_one_line(str(error))})",
        )
    return Outcome("solved")


class _Guard:
    """A learner's function as a checker sees it: arrays are handed over as copies, and an exception becomes a message.

    ``function.__wrapped__`` is the function itself, for a checker that wants to see arrays changed in place.
    """

    def __init__(self, function: Callable):
        functools.update_wrapper(self, function)
        self.name = getattr(function, "__name__", "your function")
        self.calls, self.returned = 0, None

    def __call__(self, *arguments, **named):
        try:
            returned = self.__wrapped__(*map(_copy, arguments), **{name: _copy(value) for name, value in named.items()})
        except Wrong:
            raise
        except Exception as error:
            raise Wrong(
                f"{self.name} raises {type(error).__name__}: {_one_line(str(error))}{self._where(error)}, "
                f"when it is called as {self._call(arguments, named)}"
            ) from error
        if not self.calls and (returned is None or returned is ...):
            raise _NotStarted
        self.calls, self.returned = self.calls + 1, returned
        return returned

    def _where(self, error: Exception) -> str:
        """The line of her function in which the exception arose; "" where it did not reach it."""
        code = getattr(self.__wrapped__, "__code__", None)
        trace, line = error.__traceback__, None
        while code and trace:
            if trace.tb_frame.f_code.co_filename == code.co_filename:
                line = trace.tb_lineno
            trace = trace.tb_next
        text = linecache.getline(code.co_filename, line).strip() if line else ""
        return f" in the line `{text}`" if text else ""

    def _call(self, arguments: tuple, named: dict) -> str:
        try:
            given = inspect.signature(self.__wrapped__).bind(*arguments, **named).arguments
            parts = [f"{name}={described(value)}" for name, value in given.items()]
        except (TypeError, ValueError):  # it does not take what it was called with
            parts = [described(value) for value in arguments]
            parts += [f"{name}={described(value)}" for name, value in named.items()]
        return f"{self.name}({', '.join(parts)})"


def _copy(value):
    """Arrays copied, also inside lists, tuples and dicts; what a learner's function changes in place is not the checker's."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) in (list, tuple):
        return type(value)(map(_copy, value))
    if type(value) is dict:
        return {key: _copy(each) for key, each in value.items()}
    return value


def _one_line(text: str) -> str:
    return " ".join(text.split())
