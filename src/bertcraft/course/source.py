"""The source of a lesson, ``lessons/NN_slug.py``: its cells, and what an exercise's cell holds with and without its solution."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from bertcraft.errors import InputError

MARKER = re.compile(r"# %%(?!%)")
HERE = "# your code here"
BLOCK = re.compile(r"^(?P<indent>[ \t]*)### (?P<what>BEGIN|END) (?P<name>SOLUTION|STUB)[ \t]*$")


@dataclass(frozen=True)
class Cell:
    """A cell of the source: ``line`` is that of its first line of text in the file."""

    type: str  # "code" or "markdown"
    text: str
    line: int
    metadata: dict = field(default_factory=dict)  # exercise, stars, quick, solution

    @property
    def exercise(self) -> str | None:
        """The exercise whose function it holds."""
        return self.metadata.get("exercise")


def read(path: Path) -> list[Cell]:
    """The cells of a lesson. Raises InputError where the file cannot be taken apart."""
    import jupytext

    text = path.read_text(encoding="utf-8")
    cells = jupytext.reads(text, fmt="py:percent").cells
    lines = [number for number, line in enumerate(text.splitlines(), 1) if MARKER.match(line)]
    if len(lines) != len(cells):
        raise InputError(
            f"{path}: {len(lines)} lines begin with '# %%', {len(cells)} cells were read: begin with one, quote none"
        )
    return [Cell(cell.cell_type, cell.source, line + 1, dict(cell.metadata)) for cell, line in zip(cells, lines, strict=True)]


def unsolved(text: str) -> str:
    """An exercise's cell as a learner gets it: a stub, or the code that is to be mended, in place of the solution.

    Raises InputError unless the blocks BEGIN SOLUTION ... END SOLUTION (and BEGIN STUB ... END STUB after it) are whole.
    """
    return _replaced(text, solved=False)


def solved(text: str) -> str:
    """An exercise's cell with its solution: without the marks, and without the stub's block."""
    return _replaced(text, solved=True)


def _replaced(text: str, solved: bool) -> str:
    kept, inside, seen = [], None, []
    lines = text.splitlines()
    for place, line in enumerate(lines):
        mark = BLOCK.match(line)
        if mark and mark["what"] == "BEGIN":
            if inside:
                raise InputError(f"line {place + 1} of the cell begins a {mark['name']} inside a {inside}")
            inside = mark["name"]
            seen.append(inside)
            if inside == "STUB" and seen[-2:] != ["SOLUTION", "STUB"]:
                raise InputError("a STUB stands right after the solution that it is shown in place of")
            if inside == "SOLUTION" and not solved and not _stub_follows(lines[place:]):
                kept += [f"{mark['indent']}{HERE}", f"{mark['indent']}..."]
        elif mark:
            if inside != mark["name"]:
                raise InputError(f"line {place + 1} of the cell ends a {mark['name']} that did not begin")
            inside = None
        elif inside is None or (inside == "SOLUTION") == solved:
            kept.append(_uncommented(line) if inside == "STUB" else line)
    if inside:
        raise InputError(f"the {inside} does not end")
    if "SOLUTION" not in seen:
        raise InputError("the cell of an exercise holds no ### BEGIN SOLUTION")
    return "\n".join(kept)


def _stub_follows(lines: list[str]) -> bool:
    """Whether the block that begins in the first line is followed by a stub."""
    end = next((i for i, line in enumerate(lines) if (mark := BLOCK.match(line)) and mark["what"] == "END"), None)
    if end is None:
        return False
    following = next((line for line in lines[end + 1 :] if line.strip()), "")
    mark = BLOCK.match(following)
    return bool(mark and mark["what"] == "BEGIN" and mark["name"] == "STUB")


def _uncommented(line: str) -> str:
    bare = re.fullmatch(r"([ \t]*)#(?: (.*)|)", line)
    if bare is None:
        if line.strip():
            raise InputError(f"every line of a STUB is commented out with '# ', this is not: {line.strip()}")
        return line
    return f"{bare[1]}{bare[2] or ''}".rstrip()
