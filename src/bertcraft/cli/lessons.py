"""``bertcraft lessons``: building the course's notebooks."""

import time
from importlib.util import find_spec
from typing import Annotated

import typer

from bertcraft.errors import BertcraftError, InputError

app = typer.Typer(no_args_is_help=True)

LESSONS = typer.Argument(metavar="NN", help="Numbers (06) or names (gradient_accumulation) of lessons; default: all.")


@app.callback()
def _lessons() -> None:
    """Build the notebooks of the course from their sources (for authors)."""


@app.command("build")
def lessons_build(
    lessons: Annotated[list[str] | None, LESSONS] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing: build again, say what differs; exit status 1 if anything does.")
    ] = False,
) -> None:
    """Build lessons/NN_slug.py into notebooks/, for learner and teacher.

    Each notebook is run from top to bottom and stored with its outputs: with
    stubs in notebooks/, with the answers in notebooks/solutions/. Building
    twice gives the same bytes. An error, a warning, a path of this machine on
    a page, much more than 90 seconds on two cores or 1.5 MB is refused, as is
    a page that has not the shape of a lesson (bertcraft/course/shape.py says
    which; the counts are printed, and the words of the glossary that it uses
    before it explains them); what was there stays.

    [bold]Examples[/]

      bertcraft lessons build 06
      bertcraft lessons build --check
    """
    need("jupytext", "nbclient", "nbformat", "ipykernel")
    import json

    from bertcraft.course import builder, glossary, shape, shelf

    names = [shelf.name_of(lesson) for lesson in lessons or ()] or shelf.lesson_names()
    names.sort(key=lambda name: (name == shelf.INDEX, name))  # the index lists the other notebooks
    failures, differs = [], False
    for name in names:
        path = shelf.folder("lessons") / f"{name}.py"
        if not path.exists():
            raise InputError(f"{name} has no source {path}")
        try:
            if name == shelf.INDEX:
                differs |= _rankings(check)
            for solved in builder.editions(path):
                start = time.perf_counter()
                built = builder.build(path, solved)
                notebook = builder.execute(built)
                content = builder.written(notebook)
                state = "same"
                place = shelf.notebook(name, solved)
                if not place.exists():
                    state = "not built yet" if check else "new"
                elif place.read_bytes() != content:
                    state = builder.differs(json.loads(place.read_bytes()), notebook) if check else "changed"
                differs |= state != "same"
                if not check:
                    builder.write(name, solved, content)
                edition = "solutions" if solved else "lesson"
                took, size = time.perf_counter() - start, len(content) / 1e3
                print(f"{name:30} {edition:9} {took:4.0f} s {size:5.0f} kB  {state}", flush=True)
                if not solved:
                    print(f"{'':30} {shape.counts(notebook)}", flush=True)
                    for each in glossary.unexplained(built):
                        print(f"{'':30} {each}", flush=True)
        except BertcraftError as error:  # the others are built all the same
            failures.append(str(error))
    if failures:
        raise InputError("; ".join(failures))
    if check and differs:
        raise typer.Exit(1)


def _rankings(check: bool) -> bool:
    """Write or check the pages that are made with the index; whether one was another."""
    from bertcraft.course import evidence, rankings, readme
    from bertcraft.course.catalogue import TECHNIQUES
    from bertcraft.data import cache

    pages = {readme.path(): readme.text(), rankings.path(): rankings.text()}
    pages |= {evidence.path(each): evidence.text(each) for each in TECHNIQUES}
    differing = {place for place, text in pages.items() if not place.exists() or place.read_text(encoding="utf-8") != text}
    for place in differing if not check else ():
        place.parent.mkdir(exist_ok=True)
        cache.write(place, pages[place].encode())
    for name, own in (("README", [*pages][:1]), ("00_technique_rankings", [*pages][1:2]), ("evidence", [*pages][2:])):
        size = sum(len(pages[place].encode()) for place in own) / 1e3
        print(f"{name:30} {'page':9} {'':6} {size:5.0f} kB  {'changed' if differing & set(own) else 'same'}")
    return bool(differing)


def need(*modules: str, otherwise: str = "") -> None:
    """Raises InputError with the command that installs them unless all these modules are there."""
    if missing := [module for module in modules if find_spec(module) is None]:
        raise InputError(
            f"this needs {' and '.join(missing)}: pip install 'bertcraft[notebook]'{f'; {otherwise}' if otherwise else ''}"
        )
