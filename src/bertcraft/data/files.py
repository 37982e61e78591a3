"""A folder of texts of any size, as blocks that can be read by themselves: a block is about a megabyte, the folder any size."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bertcraft.errors import DataError

BLOCK = 2**20  # bytes
LONGEST = 2**26  # bytes of one text: beyond it something is wrong
_HEAD = 2**16  # bytes of a file by which it is judged
_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")


@dataclass(frozen=True)
class Part:
    """Bytes of a text file, or rows of a Parquet file: those from ``start`` up to ``stop``."""

    path: str
    start: int
    stop: int
    paragraphs: bool = False  # a text ends at a blank line, not at the end of its line


Block = tuple[Part, ...]


def blocks(folder: str | Path, size: int = BLOCK) -> list[Block]:
    """All texts of the ``.txt`` and ``.parquet`` files in a folder and those in it, in blocks of about ``size`` bytes.

    In a text file (UTF-8) texts stand between blank lines; where the beginning of a file has no blank line, each line is a text.
    In a Parquet file they are the column ``text`` or the only column of strings. Only sizes are read here, not the texts: a
    folder of 20 GB takes a moment. Small files share a block.

    Raises DataError when the folder is missing, holds no such file or one that is not what its name says.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: expected one with .txt or .parquet files")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".txt", ".parquet") and path.is_file())
    if not files:
        raise DataError(f"{folder} holds no .txt and no .parquet file, nor does any folder in it")
    found: list[Block] = []
    shared: list[Part] = []
    filled = 0
    for path in files:
        bytes_of_file = path.stat().st_size
        parts = _parts(path, bytes_of_file, size)
        if len(parts) > 1:
            found += [(part,) for part in parts]
        elif parts:
            if filled and filled + bytes_of_file > size:
                found.append(tuple(shared))
                shared, filled = [], 0
            shared.append(parts[0])
            filled += bytes_of_file
    return found + ([tuple(shared)] if shared else [])


def texts(block: Block) -> Iterator[str]:
    """The texts of a block in their order. Each text of a folder is in exactly one of its blocks; none is empty.

    Raises DataError where a file is not UTF-8 or has a text of more than 64 MB, and where a Parquet file has changed since.
    """
    for part in block:
        yield from _rows(part) if part.path.lower().endswith(".parquet") else _lines(part)


def _parts(path: Path, bytes_of_file: int, size: int) -> list[Part]:
    if path.suffix.lower() == ".parquet":
        total = _parquet(path)[1]
        step = max(1, total * size // max(bytes_of_file, 1))
        return [Part(str(path), start, min(start + step, total)) for start in range(0, total, step)]
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if b"\0" in head:
        raise DataError(f"{path} is no UTF-8 text: it holds zero bytes")
    paragraphs = _BLANK_LINE.search(head.strip()) is not None
    return [Part(str(path), at, min(at + size, bytes_of_file), paragraphs) for at in range(0, bytes_of_file, size)]


def _lines(part: Part) -> Iterator[str]:
    """Texts that begin in the bytes of a part: in lines, those whose line begins there; in paragraphs, those whose blank line
    before them does. So a text over the edge of two parts is in the first of them, whole."""
    with open(part.path, "rb") as file:

        def lines() -> Iterator[tuple[int, bytes]]:
            at = max(part.start - 1, 0)
            file.seek(at)
            while line := file.readline(LONGEST):
                if len(line) == LONGEST:
                    raise _too_long(part, at)
                if at >= part.start:  # else it is the rest of a line that began before
                    yield at, line
                at += len(line)

        if not part.paragraphs:
            for at, line in lines():
                if at >= part.stop:
                    return
                if line.strip():
                    yield _decoded(line, part, at)
            return
        text: list[bytes] = []
        ours, size = part.start == 0, 0  # the file's first text has no blank line before it
        for at, line in lines():
            if line.strip():
                if ours:
                    text.append(line)
                    size += len(line)
                    if size > LONGEST:
                        raise _too_long(part, at)
                elif at >= part.stop:
                    return
                continue
            if text:
                yield _decoded(b"".join(text), part, at)
            text, size, ours = [], 0, at < part.stop
            if not ours:
                return
        if text:
            yield _decoded(b"".join(text), part, part.stop)


def _too_long(part: Part, at: int) -> DataError:
    return DataError(f"{part.path} has a text of more than {LONGEST >> 20} MB about byte {at}: break it into lines or paragraphs")


def _decoded(text: bytes, part: Part, at: int) -> str:
    try:
        return text.decode("utf-8").strip().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{part.path} is not UTF-8 about byte {at}: {error.reason}; convert it, for instance with iconv"
        ) from None


def _parquet(path: Path | str) -> tuple[str, int]:
    """The column of the texts of a Parquet file, and how many rows it has."""
    import polars

    try:
        frame = polars.scan_parquet(path)
        schema = frame.collect_schema()
        columns = [name for name, kind in schema.items() if kind == polars.String]
        if "text" not in columns and len(columns) != 1:
            raise DataError(f"{path} has no column 'text' and {len(columns)} columns of strings: expected 'text', or one alone")
        return "text" if "text" in columns else columns[0], frame.select(polars.len()).collect().item()
    except (polars.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from None


def _rows(part: Part) -> Iterator[str]:
    import polars

    column, total = _parquet(part.path)
    if total < part.stop:
        raise DataError(f"{part.path} has {total} rows, {part.stop} when the run began: it was changed")
    values = polars.scan_parquet(part.path).select(column).slice(part.start, part.stop - part.start).collect()[column]
    for value in values:
        if value and value.strip():
            yield value.strip()
