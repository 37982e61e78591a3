"""The table of techniques in README, from the catalogue and the stored results."""

import re
from pathlib import Path

from bertcraft.course import measured, shelf
from bertcraft.course.catalogue import TECHNIQUES, Technique
from bertcraft.course.rankings import table
from bertcraft.errors import DataError
from bertcraft.lab import words

BEGIN, END = "<!-- made by: bertcraft lessons build index -->", "<!-- end of what is made -->"


def path() -> Path:
    """Where README stands, in a source tree."""
    return shelf.folder("lessons").parent / "README.md"


def text() -> str:
    """README with the table of today; all else in it stays. Raises DataError where its marks are missing."""
    found = path().read_text(encoding="utf-8")
    parts = re.split(f"({re.escape(BEGIN)}|{re.escape(END)})", found)
    if len(parts) != 5:
        raise DataError(f"{path()}: expected the marks {BEGIN} and {END}, once each")
    parts[2] = f"\n\n{techniques()}\n\n"
    return "".join(parts)


def techniques() -> str:
    """A row a technique in Markdown: its lesson, whether it is there, and its primary comparison as it was measured."""
    return table(("", "technique", "works today", "measured here"), [_row(each) for each in TECHNIQUES])


def _row(each: Technique) -> tuple[str, ...]:
    there = shelf.notebook(each.name).exists()
    title = f"[{each.title}](notebooks/{each.name}.ipynb)" if there else each.title
    found = measured.headline(each.slug)
    return f"{each.rank:02d}", title, "yes" if there else "not yet", found if found != words.NOT_YET or there else ""
