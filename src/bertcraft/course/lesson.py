"""A lesson as its notebook holds it: ``lesson = open_lesson("gradient_accumulation")``."""

import importlib.util
import warnings

from bertcraft.course import checks, display, exercises, measured, progress, shelf
from bertcraft.course.exercises import Exercise
from bertcraft.errors import DataError, InputError

_COLOURS = {"solved": "#009e73", "not started": "#5b5b5b", "wrong": "#d55e00"}


def open_lesson(slug: str) -> "Lesson":
    """The lesson of a technique, or "foundations", "foundations_2" or "index". Raises InputError for any other name."""
    warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm's, for who lacks ipywidgets; nobody misses them
    return Lesson(slug, shelf.name_of(slug), checks.of(slug))


class Lesson:
    """What a notebook calls: its tables and plots of what was measured, and the checks of its exercises.

    ``check.<exercise>(function)``, ``hint("<exercise>")``, ``solution("<exercise>")`` display what they find; so do the rest.
    """

    def __init__(self, slug: str, name: str, exercises: tuple[Exercise, ...] = ()):
        self.slug, self.name, self.exercises = slug, name, exercises
        self.check = Checks(self)
        self._hints_given: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"lesson {self.name}"

    # ---- exercises

    def exercise(self, name: str) -> Exercise:
        """The exercise of that name. Raises InputError when there is none."""
        for exercise in self.exercises:
            if exercise.name == name:
                return exercise
        known = ", ".join(each.name for each in self.exercises) or "none that is checked"
        raise InputError(f"this lesson has no exercise {name!r}; it has {known}")

    def hint(self, name: str) -> None:
        """Display the next hint of an exercise."""
        hints = self.exercise(name).hints
        given = self._hints_given.get(name, 0)
        if given >= len(hints):
            rest = "There is no further hint" if hints else "There is no hint"
            text = f'{rest}; `solution("{name}")` shows the whole.'
            return display.show(display.message(f"Hints for {name}", text, _COLOURS["not started"]))
        self._hints_given[name] = given + 1
        mark = f"Hint {given + 1} of {len(hints)} for {name}"
        display.show(display.message(mark, hints[given], _COLOURS["not started"]))

    def solution(self, name: str) -> None:
        """Display the solution of an exercise, checked or not, as the notebook in ``solutions/`` has it."""
        text = shelf.solution(self.name, name)
        display.show(display.Page(text, markdown=f"```python\n{text}\n```"))

    # ---- what was measured

    def claim(self) -> None:
        """Display what is claimed of the technique, what its paper reports and what was measured here."""
        display.show(measured.claim(self.slug))

    def results(self, *metrics: str, arms: tuple[str, ...] = ()) -> None:
        """Display the stored experiment: a row an arm, a column a metric, with 95 % intervals over seeds.

        Names of metrics and arms choose some of them, in that order; without, all are shown.
        """
        display.show(measured.arms(self.slug, metrics, arms))

    def comparisons(self) -> None:
        """Display the experiment's comparisons: paired differences with 95 % intervals, and the verdict by rule."""
        display.show(measured.comparisons(self.slug))

    @property
    def runs(self) -> list[dict]:
        """The stored runs, by arm and seed: dicts with "arm", "seed", "figures", "seconds"; [] where none is stored."""
        return measured.runs(self.slug)

    def plots(self, n: int) -> None:
        """Display the experiment's plot number ``n``, from 1; says so where nothing is measured."""
        display.show(measured.plot(self.slug, n))

    # ---- what may not be installed

    def installed(self, *packages: str) -> bool:
        """Whether all of these can be imported; where one cannot, displays the command that installs them."""
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing:
            names = " ".join(package.replace("_", "-") for package in missing)
            text = f"this cell runs after `pip install {names}`; nothing below needs it."
            display.show(display.message("Not installed", text, _COLOURS["not started"]))
        return not missing

    def play(self, function, **choices: list) -> None:
        """Call ``function`` with its default arguments, and again as sliders are moved where ipywidgets is installed.

        ``choices``: argument -> the values to choose from.
        """
        from bertcraft.course import sliders

        sliders.play(function, choices)


class Checks:
    """``check.<exercise>(function)``: compares with the reference and says what is wrong."""

    def __init__(self, lesson: Lesson):
        self._lesson = lesson

    def __dir__(self):
        return [exercise.name for exercise in self._lesson.exercises]

    def __getattr__(self, name: str):
        try:
            exercise = self._lesson.exercise(name)
        except InputError as error:
            raise AttributeError(str(error)) from None
        return lambda function: _check(self._lesson, exercise, function)


def _check(lesson: Lesson, exercise: Exercise, function) -> None:
    outcome = exercises.judge(exercise, function)
    mark = {"solved": "Solved", "not started": "Not started", "wrong": "Not yet"}[outcome.state]
    text = outcome.text or f"{exercise.title} {'*' * exercise.stars}."
    if outcome.state != "not started":
        try:
            progress.record(lesson.slug, exercise.name, outcome.state == "solved")
            if outcome.state == "solved":
                done = progress.solved(lesson.slug) & {each.name for each in lesson.exercises}
                text += f" {len(done)} of the {len(lesson.exercises)} checked exercises of this lesson are solved."
        except DataError as error:  # a check is worth more than its record
            text += f" ({error})"
    display.show(
        display.message(f"{mark}: {exercise.name}" if outcome.state == "solved" else mark, text, _COLOURS[outcome.state])
    )
