"""The shape of a lesson: how long it may be, which sections it has, what its exercises say of themselves.

The builder refuses a page that has a fault here. What is counted:

- The **main line** is everything before the first ``## Appendix``; what is folded in ``<details>`` does not belong to it.
- **Words of prose**: those of its Markdown cells, exercises' texts included; code blocks, displayed formulas, rows of tables and
  cells of solutions are not counted, and a formula in a sentence is one word.
- **Lines of code**: the lines of its code cells that are not blank, as built, with the library's functions that are brought in
  and their docstrings: what a reader sees. The cells of exercises are not counted.
- A **cell** has at most 25 such lines, wherever it stands, the exercises' with their solutions too.
- **Minutes**: those of the nine sections make the page's total in its first cell, those of the exercises their section's.

A technique's lesson has the nine sections of :data:`SECTIONS`, in order and numbered, each with an optional subtitle and its
minutes: ``## 2. Background and motivation: one token in seven (10 minutes)``; an exercise is headed
``### 8.3 Find the bug (two stars, 10 minutes)``, and one whose checked answer is a decision
``### 8.5 Which recipe? (two stars, 15 minutes, a decision)``. Another page (foundations, glossary) keeps the rules on cells and,
where its sections have minutes, on their sum.
"""

import re
from dataclasses import dataclass

from bertcraft.course import shelf
from bertcraft.course.catalogue import TECHNIQUES

SECTIONS = (
    "The claim",
    "Background and motivation",
    "Mathematical foundation",
    "NumPy implementation",
    "Performance analysis",
    "In production",
    "On your data",
    "Exercises",
    "Pitfalls, references, what next",
)
WORDS, LINES, CELL = 2_500, 350, 25
EXERCISES, CHECKED = 5, 3

# Written before this standard, exempt until they are rewritten; a rewritten lesson leaves the list, no lesson joins it.
OLD_SHAPE = ("00_index",)

_STARS = {"one star": 1, "two stars": 2, "three stars": 3}
_EXERCISE = re.compile(r"8\.(\d+) .+ \((one star|two stars|three stars), (\d+) minutes(, a decision)?\)")
_MINUTES = re.compile(r"\((\d+) minutes\)$")
_STATUS = re.compile(r"\bStatus today \(20\d\d\)")
_NOT_PROSE = re.compile(r"```.*?```|\$\$.*?\$\$|<details>.*?</details>|^\|.*?$|<[^>]+>", re.S | re.M)


@dataclass(frozen=True)
class Counts:
    """What a page holds; words and lines are those of the main line."""

    words: int
    lines: int
    longest: int  # lines of the longest cell
    figures: int  # cells with an alternative text
    minutes: int  # of all sections that are no appendix

    def __str__(self) -> str:
        length = f"{self.words:,} words, {self.lines} lines of code, the longest cell {self.longest}"
        return f"{length}, {self.figures} figures, {self.minutes} minutes"


@dataclass(frozen=True)
class _Exercise:
    title: str
    stars: int
    minutes: int
    is_decision: bool
    checked_stars: int | None  # those of the checked cell below it; None where nothing is checked


def counts(notebook) -> Counts:
    """The counts of a built notebook."""
    main = main_line(notebook)
    return Counts(
        words=sum(words(cell.source) for cell in main if cell.cell_type == "markdown" and not cell.metadata.get("solution")),
        lines=sum(lines(cell.source) for cell in main if cell.cell_type == "code" and not cell.metadata.get("exercise")),
        longest=max((lines(cell.source) for cell in notebook.cells if cell.cell_type == "code"), default=0),
        figures=sum("alt" in cell.metadata for cell in notebook.cells),
        minutes=sum(minutes or 0 for _, minutes in _sections(main)),
    )


def words(markdown: str) -> int:
    """Words of prose in a Markdown cell."""
    prose = re.sub(r"\$[^$]*\$", "x", _NOT_PROSE.sub("", markdown))
    return sum(any(map(str.isalnum, word)) for word in prose.split())


def lines(code: str) -> int:
    """Lines of a code cell that are not blank."""
    return sum(bool(line.strip()) for line in code.splitlines())


def faults(notebook) -> list[str]:
    """What keeps a built notebook from the shape, with the lines of the source; [] when nothing does, or it is exempt."""
    about = notebook.metadata[shelf.MARK]
    if about["lesson"] in OLD_SHAPE:
        return []
    found = [
        f"line {cell.metadata[shelf.MARK]['line']}: a cell of {lines(cell.source)} lines, at most {CELL} are allowed"
        for cell in notebook.cells
        if cell.cell_type == "code" and lines(cell.source) > CELL
    ]
    if about["solved"]:  # the rest is the same page again
        return found
    is_technique = about["lesson"] in {technique.name for technique in TECHNIQUES}
    found += _faults_of_minutes(notebook, is_technique)
    return found + _faults_of_a_technique(notebook) if is_technique else found


def _faults_of_a_technique(notebook) -> list[str]:
    main, found = main_line(notebook), []
    headed = [f"{i}. {name}" for i, name in enumerate(SECTIONS, 1)]
    sections = [title for title, _ in _sections(main)]
    for i in range(max(len(headed), len(sections))):
        one, other = (each[i] if i < len(each) else "nothing" for each in (headed, sections))
        if other != one and not other.startswith(f"{one}: "):
            found.append(f"section {i + 1} is headed {other!r}, expected {one!r} (and a subtitle after a colon)")
            break
    how_much = counts(notebook)
    if how_much.words > WORDS:
        found.append(f"{how_much.words:,} words of prose, at most {WORDS:,} are allowed before the appendices")
    if how_much.lines > LINES:
        found.append(f"{how_much.lines} lines of code, at most {LINES} are allowed before the appendices")
    text = "\n".join(cell.source for cell in main)
    if not _STATUS.search(text):
        found.append("nothing is headed **Status today (year)**")
    if "schematic(" not in text:
        found.append("no cell draws the canonical picture with drawing.schematic(...)")
    return found + _faults_of_exercises(notebook)


def _faults_of_exercises(notebook) -> list[str]:
    found, exercises = [], []
    for line, title, cell in _exercise_headings(notebook):
        match = _EXERCISE.fullmatch(title)
        if not match:
            found.append(f"line {line}: the exercise is headed {title!r}, expected '8.1 Title (two stars, 10 minutes)'")
            continue
        checked = cell.metadata["stars"] if cell else None
        exercises.append(_Exercise(title, _STARS[match[2]], int(match[3]), bool(match[4]), checked))
        if checked not in (None, exercises[-1].stars):
            found.append(f"line {line}: the heading says {match[2]}, the cell stars={checked}")
    checked = [each for each in exercises if each.checked_stars]
    if len(exercises) < EXERCISES:
        found.append(f"{len(exercises)} exercises, expected at least {EXERCISES}")
    if len(checked) < CHECKED:
        found.append(f"{len(checked)} checked exercises, expected at least {CHECKED}")
    if not any(each.is_decision for each in checked):
        found.append("no checked exercise is marked as a decision: '### 8.n Title (two stars, 15 minutes, a decision)'")
    section = next((minutes for title, minutes in _sections(notebook.cells) if title.startswith("8. Exercises")), None)
    if section is not None and section != (total := sum(each.minutes for each in exercises)):
        found.append(f"the exercises take {total} minutes, their section says {section}")
    return found


def _faults_of_minutes(notebook, required: bool) -> list[str]:
    sections = _sections(notebook.cells)
    if not required and not any(minutes for _, minutes in sections):
        return []
    without = [repr(title) for title, minutes in sections if minutes is None]
    found = [f"no '(N minutes)' in the heading of {', '.join(without)}"] if without else []
    total = counts(notebook).minutes
    told = re.findall(r"\b(\d+) minutes\b", re.sub(r"^#.*", "", notebook.cells[0].source, flags=re.M))
    if told != [str(total)]:
        told = " and ".join(told) or "none"
        found.append(f"the first cell tells {told} as the minutes of the page, its sections sum up to {total} (appendices aside)")
    return found


def main_line(notebook) -> list:
    """The cells before the first appendix."""
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown" and re.search(r"^## Appendix\b", cell.source, re.M):
            return notebook.cells[:i]
    return notebook.cells


def _sections(cells) -> list[tuple[str, int | None]]:
    """Headings of the second level without and with their minutes."""
    return [
        (_MINUTES.sub("", title).strip(), int(match[1]) if (match := _MINUTES.search(title)) else None)
        for cell in cells
        if cell.cell_type == "markdown"
        for title in headings(cell.source, 2)
    ]


def _exercise_headings(notebook) -> list:
    """(line, heading, the checked cell below it or None) of each heading of the third level in section 8."""
    found, inside = [], False
    for cell in notebook.cells:
        if cell.cell_type == "code":
            if inside and found and cell.metadata.get("exercise"):
                found[-1] = (*found[-1][:2], cell)
            continue
        for line in _outside_of_code(cell.source).splitlines():
            if line.startswith("## "):
                inside = line.startswith("## 8. ")
            elif line.startswith("### ") and inside:
                found.append((cell.metadata[shelf.MARK]["line"], line[4:].strip(), None))
    return found


def headings(markdown: str, level: int) -> list[str]:
    """The headings of a level in a Markdown cell."""
    return re.findall(rf"^{'#' * level} (.+?)\s*$", _outside_of_code(markdown), re.M)


def _outside_of_code(markdown: str) -> str:
    return re.sub(r"```.*?```", "", markdown, flags=re.S)
