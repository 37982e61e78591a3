"""What the tests of lessons share: an exercise's function from the lesson's source, a whole lesson run."""

import ast
from functools import cache
from pathlib import Path

import bertcraft
from bertcraft.course import checks, exercises, inline, shelf, source

LESSONS = Path(__file__).parents[2] / "lessons"


def path(slug: str) -> Path:
    """The source of a lesson."""
    (found,) = LESSONS.glob(f"[0-9][0-9]_{slug}.py")
    return found


def solution(slug: str, name: str):
    """The function of an exercise with its solution, from the source of the lesson."""
    return _function(slug, name, source.solved)


def stub(slug: str, name: str):
    """The function of an exercise as the learner gets it."""
    return _function(slug, name, source.unsolved)


def altered(slug: str, name: str, old: str, new: str):
    """The solution with one piece of its text replaced: a wrong answer that a learner may give."""

    def form(text: str) -> str:
        text = source.solved(text)
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in the solution of {name}"
        return text.replace(old, new)

    return _function(slug, name, form)


def told(slug: str, name: str, function) -> tuple[str, str]:
    """What ``check.<name>(function)`` finds: ("solved" | "not started" | "wrong", the message)."""
    (exercise,) = (each for each in checks.of(slug) if each.name == name)
    outcome = exercises.judge(exercise, function)
    return outcome.state, outcome.text


def execute(slug: str, solved: bool, quick: bool = True):
    """The lesson's notebook, built and run; an error or a warning on its page raises."""
    from bertcraft.course import builder

    return builder.execute(builder.build(path(slug), solved), quick=quick)


def built(slug: str, solved: bool):
    """The lesson's notebook as it is committed; tests/course/test_lessons.py holds it to its source."""
    import nbformat

    return nbformat.read(shelf.notebook(path(slug).stem, solved), as_version=4)


def _function(slug: str, name: str, form):
    """The function of an exercise's cell, in a namespace with what the cells before it import and define.

    Nothing else of those cells is run: a constant counts where it is written out, a result does not.
    """
    names = {"np": __import__("numpy"), "bc": bertcraft}
    for cell in _cells(slug):
        if cell.type != "code":
            continue
        if cell.exercise == name:
            exec(compile(form(cell.text), f"<{slug}: {name}>", "exec"), names)
            return names[name]
        for node in inline.parsed(source.solved(cell.text) if cell.exercise else cell.text).body:
            if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)) or _is_constant(node):
                try:
                    exec(compile(ast.Module([node], []), f"<{slug}>", "exec"), names)
                except NameError:  # a default value that only a run computes
                    continue
    raise AssertionError(f"{path(slug).name} has no cell of an exercise {name!r}")


def _is_constant(node: ast.stmt) -> bool:
    if not isinstance(node, ast.Assign):
        return False
    try:
        ast.literal_eval(node.value)
    except ValueError:
        return False
    return True


@cache
def _cells(slug: str):
    return source.read(path(slug))
