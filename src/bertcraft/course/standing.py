"""How far a learner is: by lesson, by path, and what comes next."""

from dataclasses import dataclass

from bertcraft.course import checks, progress, shelf
from bertcraft.course.catalogue import PATHS, LearningPath, technique

FOUNDATIONS = {"foundations": "Foundations, part 1", "foundations_2": "Foundations, part 2"}


@dataclass(frozen=True)
class Standing:
    """A lesson with checked exercises, and which of them are solved, in the lesson's order."""

    number: str  # "06"
    slug: str
    title: str
    solved: tuple[str, ...]
    left: tuple[str, ...]
    tries: int  # checks so far, of all its exercises

    @property
    def is_begun(self) -> bool:
        """Whether an exercise was checked and one is left."""
        return bool(self.tries and self.left)


def lessons() -> list[Standing]:
    """Every built lesson with checked exercises, in the order of their numbers. Raises DataError as ``progress.read`` does."""
    done = progress.read()
    found = []
    for name in shelf.lesson_names():
        number, _, slug = name.partition("_")
        names = [exercise.name for exercise in checks.of(slug)]
        if names and shelf.notebook(name).exists():
            own = done.get(slug, {})
            title = FOUNDATIONS.get(slug) or technique(slug).title
            solved = tuple(each for each in names if "solved" in own.get(each, {}))
            left = tuple(each for each in names if each not in solved)
            found.append(Standing(number, slug, title, solved, left, sum(own[each]["tries"] for each in names if each in own)))
    return found


def of_path(path: LearningPath, every: list[Standing]) -> list[Standing]:
    """Those of a path, in its order."""
    return [each for technique in path.techniques for each in every if each.slug == technique.slug]


def next_of(every: list[Standing]) -> Standing | None:
    """What to do next: the lesson that is begun; else, on the path that was walked furthest, the next; else the first one left.

    The foundations come before all that is not begun. None when everything is solved.
    """
    left = [each for each in every if each.left]
    if begun := [each for each in left if each.is_begun]:
        return begun[0]
    if left and left[0].slug in FOUNDATIONS:
        return left[0]
    walked = sorted(PATHS, key=lambda path: -sum(len(each.solved) for each in of_path(path, every)))
    on_paths = [each for path in walked for each in of_path(path, every) if each.left]
    return next(iter(on_paths or left), None)
