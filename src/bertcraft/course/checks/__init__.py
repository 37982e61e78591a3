"""The checkers of the lessons' exercises: one module a lesson, each with a tuple ``EXERCISES``."""

import importlib
import importlib.util

from bertcraft.course.exercises import Exercise


def of(slug: str) -> tuple[Exercise, ...]:
    """The checked exercises of a lesson, in its order; none where it has no checkers."""
    name = f"{__name__}.{slug}"
    if importlib.util.find_spec(name) is None:
        return ()
    return importlib.import_module(name).EXERCISES
