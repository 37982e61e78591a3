"""A lesson's source becomes two notebooks, with stubs and with solutions; both are run, with the same bytes each time."""

import ast
import hashlib
import json
from pathlib import Path

from bertcraft.course import inline, kernel, knobs, measured, shape, shelf, source
from bertcraft.data import cache
from bertcraft.errors import InputError

IMAGES = ("image/png", "image/jpeg", "image/svg+xml")
LARGEST = 1_500_000  # bytes of a notebook
KEPT = ("alt", "exercise", "stars", "tags")  # of a cell's header


def build(path: Path, solved: bool):
    """The notebook of a lesson, not run yet, without outputs.

    Its cells carry under ``metadata[shelf.MARK]`` what :func:`execute` needs and takes away: the cell's line in the source and
    its line for the quick mode. Raises InputError with the file and the line where the source is at fault, and where the
    page is not of the shape that :mod:`bertcraft.course.shape` describes.
    """
    from nbformat import v4

    cells, seen, known = [], {}, set()
    for cell in source.read(path):
        if cell.metadata.get("solution") and not solved:
            continue
        text = _text(path, cell, solved, known)
        new = {"code": v4.new_code_cell, "markdown": v4.new_markdown_cell}.get(cell.type)
        if new is None:
            raise InputError(f"{path.name}, line {cell.line}: a {cell.type} cell; expected code or markdown")
        same = seen[cell.type, text] = seen.get((cell.type, text), 0) + 1
        metadata = {key: value for key, value in cell.metadata.items() if key in KEPT}
        metadata[shelf.MARK] = {"line": cell.line, "quick": cell.metadata.get("quick", "")}
        cells.append(new(text, id=_id(cell.type, text, same), metadata=metadata))
    about = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        shelf.MARK: {"lesson": path.stem, "solved": solved, "edition": _edition(path.stem, cells)},
    }
    notebook = v4.new_notebook(cells=cells, metadata=about)
    if faults := shape.faults(notebook):
        raise InputError(f"{path.name}: {'; '.join(faults)}")
    return notebook


def both(path: Path):
    """The learner's notebook of a lesson and, after it, what its solutions change: both editions tested by one run.

    Those are the solved exercises, what only the solved edition has, and every cell that reads a name which one of these binds.
    """
    stubs, solved = build(path, solved=False), build(path, solved=True)
    same = {cell.id for cell in stubs.cells}
    changed: set[str] = set()
    for cell in solved.cells:
        if cell.cell_type != "code":
            continue
        names = [node for node in ast.walk(inline.parsed(cell.source)) if isinstance(node, ast.Name)]
        if cell.id not in same or changed & {name.id for name in names if isinstance(name.ctx, ast.Load)}:
            changed |= set(inline.bound(inline.parsed(cell.source)))
            cell.id = f"{cell.id}-solved"
            stubs.cells.append(cell)
    return stubs


def execute(notebook, quick: bool = False):
    """The notebook with its outputs, run in a kernel of its own.

    ``quick``: with each cell's line for the quick mode, so that a test takes seconds. Raises InputError with the lesson and the
    line for an error, a warning, a machine's path or a figure without alternative text on the page, and when the notebook takes
    too long.
    """
    if quick:
        notebook = notebook.copy()
        notebook.cells = [cell.copy() for cell in notebook.cells]
        for cell in notebook.cells:
            if line := cell.metadata[shelf.MARK]["quick"]:
                cell.source = quickened(cell.source, line)
    return _described(kernel.run(notebook, quick), notebook)


def _described(ran, notebook):
    """The run notebook with the alternative text of each figure, from the header of its cell: ``# %% alt="..."``.

    It stands where the programs that show notebooks look for it: in the image's own metadata (IPython's key, which nbconvert
    and Sphinx read), in the cell's (nbconvert too) and as the output's plain text (VS Code, terminals).
    """
    about = notebook.metadata[shelf.MARK]
    for cell, marked in zip(ran.cells, notebook.cells, strict=True):
        images = [(output, kind) for output in cell.get("outputs", ()) for kind in output.get("data", ()) if kind in IMAGES]
        where = f"lessons/{about['lesson']}.py, the cell at line {marked.metadata[shelf.MARK]['line']}"
        if images and about["lesson"] not in shape.OLD_SHAPE:
            if not cell.metadata.get("alt"):
                raise InputError(f'{where}: it shows a figure without alternative text: write # %% alt="..." at its head')
            if len(images) > 1:
                raise InputError(f"{where}: it shows {len(images)} figures; one a cell, so that each has its alternative text")
        for output, kind in images if cell.metadata.get("alt") else ():
            output["metadata"].setdefault(kind, {})["alt"] = output["data"]["text/plain"] = cell.metadata["alt"]
    return ran


def written(notebook) -> bytes:
    """The bytes of a notebook's file. Raises InputError when it is too large."""
    import nbformat

    nbformat.validate(notebook)
    content = (nbformat.writes(notebook).rstrip("\n") + "\n").encode()
    if len(content) > LARGEST:
        about = notebook.metadata[shelf.MARK]
        sizes = sorted(((len(json.dumps(cell.get("outputs", ""))), i) for i, cell in enumerate(notebook.cells, 1)), reverse=True)
        largest = ", ".join(f"cell {i} ({size / 1e3:.0f} kB)" for size, i in sizes[:3])
        raise InputError(
            f"{about['lesson']}: the notebook has {len(content) / 1e6:.2f} MB, at most {LARGEST / 1e6} are allowed; "
            f"the largest outputs are those of {largest}"
        )
    return content


def editions(path: Path) -> tuple[bool, ...]:
    """``solved`` of the notebooks that a lesson has: (False, True), or (False,) where nothing is to be solved."""
    has_solutions = any(cell.exercise or cell.metadata.get("solution") for cell in source.read(path))
    return (False, True) if has_solutions else (False,)


def write(name: str, solved: bool, content: bytes) -> Path:
    """Put a notebook in its place, whole or not at all."""
    path = shelf.notebook(name, solved)
    path.parent.mkdir(parents=True, exist_ok=True)
    cache.write(path, content)
    return path


def stale(path: Path, solved: bool) -> str:
    """Why the notebook in its place cannot be what the source builds, found without running it; "" when nothing is seen.

    The source, the code brought into it and the stored results are looked at; other code that the lesson calls is not.
    """
    committed = shelf.notebook(path.stem, solved)
    try:
        old = json.loads(committed.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "it is not built yet"
    except ValueError:
        return "it is not a notebook"
    return differs_in_source(old, build(path, solved))


def differs_in_source(old: dict, new) -> str:
    """The first difference between a notebook's file and one just built in what was written, in words; "" when there is none."""
    for i, (one, other) in enumerate(zip(old["cells"], new.cells, strict=False)):
        if (one["cell_type"], one["id"], "".join(one["source"])) != (other.cell_type, other.id, other.source):
            first = next((line for line in other.source.splitlines() if line.strip()), "")
            return f"cell {i + 1} ({first[:50]!r}) is not that of the source"
        if any(one["metadata"].get(key) != other.metadata.get(key) for key in KEPT):
            return f"the header of cell {i + 1} is not that of the source"
    if len(old["cells"]) != len(new.cells):
        return f"it has {len(old['cells'])} cells, the source {len(new.cells)}"
    if old["metadata"].get(shelf.MARK) != new.metadata[shelf.MARK]:
        return "the results that it shows have changed since"
    return ""


def differs(old: dict, new) -> str:
    """The first difference between a notebook's file and one just run, in words; "" when there is none."""
    if where := differs_in_source(old, new):
        return where
    again = json.loads(written(new))
    for i, (one, other) in enumerate(zip(old["cells"], again["cells"], strict=True)):
        if one != other:
            return f"the output of cell {i + 1} is another{_first_difference(one, other)}"
    return "" if old == again else "its metadata are others"


def _edition(name: str, cells: list) -> str:
    """A hash of what a lesson says and shows: its cells, and the stored results that it shows.

    Those of its experiment, of all experiments for the index, and of every knob where a cell draws :mod:`bertcraft.course.knobs`.
    """
    digest = hashlib.sha256()
    for cell in cells:
        kept = {key: value for key, value in cell.metadata.items() if key in KEPT}
        digest.update(json.dumps([cell.cell_type, cell.source, kept]).encode())
    shown = [name]
    if any("knobs.draw(" in cell.source for cell in cells):
        shown += [measured.experiment(knob.slug).name for knob in knobs.KNOBS if not name.endswith(knob.slug)]
    files = sorted(shelf.folder("results").glob("*.json")) if name == shelf.INDEX else map(shelf.results, sorted(shown))
    for file in files:
        if file.exists():
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _text(path: Path, cell: source.Cell, solved: bool, known: set[str]) -> str:
    if cell.type != "code":
        return cell.text
    try:
        text = cell.text
        if cell.exercise:
            text = source.solved(text) if solved else source.unsolved(text)
        elif any(map(source.BLOCK.match, text.splitlines())):
            raise InputError('a solution without exercise="name" in the cell\'s header')
        return inline.inlined(text, known)
    except InputError as error:
        raise InputError(f"{path.name}, line {cell.line}: {error}") from None
    except SyntaxError as error:
        raise InputError(f"{path.name}, line {cell.line}: {error.msg} in line {error.lineno} of the cell") from None


def _id(kind: str, text: str, same: int) -> str:
    """Of a cell: always the same one for the same text; ``same`` counts equal cells."""
    return hashlib.sha256(f"{kind}\0{text}\0{same}".encode()).hexdigest()[:12]


def quickened(text: str, line: str) -> str:
    """A cell with a line of other values right after its own assignments to those names; at its end where it has none."""
    names = {name for node in ast.parse(line).body for name in inline.bound(node)}
    first: dict[str, int] = {}
    for node in inline.parsed(text).body:
        for name in names & set(inline.bound(node)):
            first.setdefault(name, node.end_lineno)
    lines = text.splitlines()
    place = max(first.values(), default=len(lines))
    return "\n".join([*lines[:place], line, *lines[place:]])


def _first_difference(one: dict, other: dict) -> str:
    """Where the outputs of a cell begin to differ, if they do in text."""
    lines = []
    for cell in (one, other):
        texts = [output.get("text") or output.get("data", {}).get("text/plain", []) for output in cell.get("outputs", [])]
        lines.append([line.rstrip("\n") for text in texts for line in text])
    for was, now in zip(*lines, strict=False):
        if was != now:
            return f": it was {was[:60]!r}, it is {now[:60]!r}"
    return ""
