"""The course: the catalogue of techniques, the lessons' notebooks and how they are built, exercises, and a learner's progress."""

__all__ = ["open_lesson"]


def __getattr__(name: str):
    if name == "open_lesson":
        from bertcraft.course.lesson import open_lesson

        return open_lesson
    raise AttributeError(f"module 'bertcraft.course' has no attribute {name!r}")
