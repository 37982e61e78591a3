"""A user's own table: CSV, TSV, JSONL or Parquet, read in a stream, never whole into memory.

What is wrong with a file ends in one message that names the line, or in a counted note: no row is dropped silently. CSV and
JSON are read by Python's own modules, which know the line they are at; Parquet by polars. Nothing is executed or unpickled.
"""

import csv
import difflib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bertcraft.errors import DataError

KINDS = {
    ".csv": "CSV", ".tsv": "TSV", ".tab": "TSV", ".jsonl": "JSONL", ".ndjson": "JSONL", ".parquet": "Parquet", ".pq": "Parquet",
}  # fmt: skip
LONGEST = 2**24  # characters of a line or field: beyond it something is wrong, a quote left open for instance
_PEEK = 100  # objects of a JSONL file whose keys are its columns
_BATCH = 5_000  # rows of a Parquet file read at a time

_MARKS = {  # the first bytes of files: longer marks first, where one begins with another
    b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8-sig",
}  # fmt: skip
_FOREIGN = {  # what is not a text file, whatever its name says
    b"PAR1": "a Parquet file: name it .parquet", b"PK\x03\x04": "a zip file (an Excel workbook?): save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV UTF-8", b"\x1f\x8b": "a gzip file: decompress it first",
    b"BZh": "a bzip2 file: decompress it first", b"\x28\xb5\x2f\xfd": "a zstd file: decompress it first", b"%PDF": "a PDF",
}  # fmt: skip

# Bytes that are not UTF-8 arrive as U+DC80 to U+DCFF (Python's "surrogateescape") and are read as Windows-1252, and the
# five that it lacks as Latin-1, whose letters it shares.
_BROKEN = re.compile("[\udc80-\udcff]")
_WESTERN = {0xDC00 + byte: bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(128, 256)}
_SURROGATE = re.compile("[\ud800-\udfff]")


class Malformed(NamedTuple):
    """A row that has no values: where it is, as in "line 7", and why."""

    where: str
    reason: str  # "4 fields where the first line names 2 columns"


Row = tuple[str, ...] | Malformed


@dataclass(frozen=True)
class Table:
    """A file that was read once from end to end and found sound. ``notes`` are for the user: what was noticed, counted."""

    path: Path
    kind: str  # "CSV", "TSV", "JSONL" or "Parquet"
    columns: list[str]
    count: int  # rows, malformed ones included
    notes: list[str]
    _rows: Callable[[list[str]], Iterator[Row]]

    def rows(self, *names: str) -> Iterator[Row]:
        """The values of some columns, row by row, as texts; a row that has none is :class:`Malformed`.

        A missing value is "", a number its shortest text ("4", also for 4.0), true and false are "true" and "false".
        """
        return self._rows([self.column(name) for name in names])

    def column(self, name: str) -> str:
        """The same name, when the table has one column of it. Raises DataError: the columns, and the nearest name."""
        if self.columns.count(name) == 1:
            return name
        if name in self.columns:
            raise DataError(f"{self.path}: {self.columns.count(name)} columns are called {name!r}; give each a name of its own")
        near = [column for column in self.columns if column.casefold().strip() == name.casefold().strip()]
        near = near or difflib.get_close_matches(name, self.columns, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{self.path}: no column {name!r}; its columns are {listed(self.columns)}{hint}")


def listed(names: list[str], most: int = 12) -> str:
    """Names in quotes, with commas between them, those beyond ``most`` counted."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(repr(shortened(name, 40)) for name in names[:most]) + more


def shortened(text: str, width: int) -> str:
    """The text in one line of at most ``width`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 3].rstrip() + "..."


def counted(number: int, one: str, many: str = "") -> str:
    """ "1 row", "1,200 rows"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def read_table(path: str | Path) -> Table:
    """Open a file by the end of its name and read it once, to know that all of it can be read.

    Raises DataError, naming the line where there is one: no such file, a folder, an empty file, another format, a quote left
    open, a NUL byte, more rows malformed than not.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a file" if path.exists() else "there is no such file"
        raise DataError(f"{path}: {what}; expected a CSV, TSV, JSONL or Parquet file")
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"{path}: the name ends in {path.suffix or 'nothing known'!r}, expected one of {', '.join(KINDS)}")
    with open(path, "rb") as file:
        start = file.read(4096)
    if not start.strip():
        raise DataError(f"{path}: the file is empty; expected columns of texts and labels")
    if kind == "Parquet":
        return _parquet(path)
    for mark, what in _FOREIGN.items():
        if start.startswith(mark):
            raise DataError(f"{path}: this is no {kind} file but {what}")
    table = _json_lines(path, start) if kind == "JSONL" else _separated(path, kind, start)
    if table.count == 0:
        raise DataError(f"{path}: there is no row below the names of the columns {listed(table.columns)}")
    return table


# ------------------------------------------------------------------------------------------------------- lines of text


class _Lines:
    """The lines of a text file, decoded, and what was seen of its encoding while they were read."""

    def __init__(self, path: Path, start: bytes):
        self.path, self.encoding = path, _encoding(start)
        self.number = self.utf8 = self.other = self.first_other = self.first_utf8 = 0

    def __iter__(self) -> Iterator[str]:
        errors = "surrogateescape" if self.encoding.startswith("utf-8") else "strict"
        with open(self.path, encoding=self.encoding, errors=errors, newline="") as file:
            try:
                while line := file.readline(LONGEST):
                    self.number += 1
                    yield line if line.isascii() and "\0" not in line else self._checked(line)
                    if len(line) == LONGEST:
                        raise self.wrong(f"is longer than {LONGEST:,} characters; is this a {self.path.suffix} file?")
            except UnicodeDecodeError:
                number = self.number + 1
                raise DataError(f"{self.path}: line {number} is not {self.encoding.upper()} as its first bytes say") from None

    def _checked(self, line: str) -> str:
        if "\0" in line:
            raise self.wrong("holds a NUL byte: the file is damaged or no text; save it anew as UTF-8")
        if _BROKEN.search(line):
            self.other += 1
            self.first_other = self.first_other or self.number
            return line.translate(_WESTERN)
        self.utf8 += 1
        self.first_utf8 = self.first_utf8 or self.number
        return line

    def wrong(self, what: str) -> DataError:
        return DataError(f"{self.path}: line {self.number} {what}")

    def notes(self) -> list[str]:
        western = f"not UTF-8 (the first: line {self.first_other}), read as Windows-1252"
        if self.other and self.utf8:
            others = f"{counted(self.utf8, 'other is', 'others are')} (the first: line {self.first_utf8})"
            return [f"the file mixes encodings: {counted(self.other, 'line is', 'lines are')} {western}; {others}"]
        if self.other:
            return [f"{counted(self.other, 'line is', 'lines are')} {western}; save it as UTF-8 if letters look wrong"]
        return [] if self.encoding == "utf-8" else [f"encoding: {self.encoding}"]


def _encoding(start: bytes) -> str:
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            return name
    odd, even = start[1::2].count(0), start[::2].count(0)  # UTF-16 without a mark: every other byte of plain letters is 0
    if max(odd, even) > len(start) / 8 and min(odd, even) < max(odd, even) / 8:
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8"


class Unusable:
    """Counts the malformed rows of a table."""

    def __init__(self):
        self.number, self.first = 0, None

    def add(self, row: Malformed) -> None:
        self.number += 1
        self.first = self.first or row

    def notes(self) -> list[str]:
        """What a user is to be told: a sentence, or nothing."""
        if self.first is None:
            return []
        return [f"{counted(self.number, 'row')} cannot be used (the first: {self.first.where}, {self.first.reason})"]

    def check(self, path: Path, count: int, hint: str) -> None:
        """Raises DataError when most rows are malformed: then the file is not what it seems."""
        if self.number > count / 2:
            raise DataError(f"{path}: {self.notes()[0]} of {count:,}; {hint}")


# --------------------------------------------------------------------------------------------------------- CSV and TSV


class _Quote(DataError):
    """A quote that does not close, or not where a field ends."""

    def __init__(self, lines: _Lines, what: str):
        super().__init__(f"{lines.path}: {what}; correct that line, or save the file anew as {lines.path.suffix}")
        self.what = what


def _separated(path: Path, kind: str, start: bytes) -> Table:
    delimiter, notes = "\t", []
    if kind == "CSV":
        first = re.sub(r'"[^"]*"', "", next(iter(_Lines(path, start))))
        delimiter = max(",;\t|", key=first.count)  # the comma, unless another stands there more often
        if delimiter != ",":
            notes.append(f"columns are separated by {({';': 'semicolons', '|': 'bars'}).get(delimiter, 'tabs')}")
    standard = {"delimiter": delimiter, "strict": True}
    try:
        return _scanned(path, kind, start, standard, notes)[0]
    except _Quote as error:  # there are two other ways to write quotes: taken only where everything then fits
        if kind == "TSV":
            other, how = standard | {"quoting": csv.QUOTE_NONE}, "quotes are taken as ordinary characters"
        else:
            other, how = standard | {"escapechar": "\\"}, "a backslash is taken to stand before quotes inside a text"
        try:
            table, malformed = _scanned(path, kind, start, other, [*notes, f"{how}: read in the usual way, {error.what}"])
        except DataError:
            raise error from None
        if malformed or any('"' in column for column in table.columns):
            raise error from None
        return table


def _scanned(path: Path, kind: str, start: bytes, options: dict, notes: list[str]) -> tuple[Table, int]:
    """The table and the number of its malformed rows."""
    lines, unusable = _Lines(path, start), Unusable()
    records = _records(lines, options)
    header = next((record for _, record in records if record), [])
    columns = [name.strip() or f"column {number}" for number, name in enumerate(header, 1)]
    count = 0
    for line, record in records:
        count += 1
        if isinstance(row := _fields(line, record, columns), Malformed):
            unusable.add(row)
    unusable.check(path, count, "put texts that hold the separator between quotes")

    def rows(names: list[str]) -> Iterator[Row]:
        at = [columns.index(name) for name in names]
        records = _records(_Lines(path, start), options)
        next(record for _, record in records if record)
        for line, record in records:
            row = _fields(line, record, columns)
            yield row if isinstance(row, Malformed) else tuple(row[i] for i in at)

    return Table(path, kind, columns, count, [*lines.notes(), *notes], rows), unusable.number


def _records(lines: _Lines, options: dict) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV or TSV file, each with the line on which it begins."""
    csv.field_size_limit(max(LONGEST, csv.field_size_limit()))
    reader = csv.reader(lines, **options)
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            what = f"line {line}: " + (
                "a quote is opened and not closed"
                if "unexpected end" in str(error) or "limit" in str(error) or reader.line_num > line
                else 'a quote stands inside a text that is between quotes (write it twice: "")'
            )
            raise _Quote(lines, what) from None
        yield line, record


def _fields(line: int, record: list[str], columns: list[str]) -> list[str] | Malformed:
    """The fields of a record, one a column; empty ones at the end of a line may be too many, as Excel leaves them."""
    if not record:  # a blank line
        return [""] * len(columns)
    if len(record) > len(columns) and not any(record[len(columns) :]):
        record = record[: len(columns)]
    if len(record) == len(columns):
        return record
    reason = f"{counted(len(record), 'field')} where the first line names {counted(len(columns), 'column')}"
    return Malformed(f"line {line}", reason)


# --------------------------------------------------------------------------------------------------------------- JSONL


def _json_lines(path: Path, start: bytes) -> Table:
    lines, unusable = _Lines(path, start), Unusable()
    objects = _objects(lines)
    first = list(itertools.islice(objects, _PEEK))
    columns = list(dict.fromkeys(key for value in first if isinstance(value, dict) for key in value))
    count = 0
    for value in itertools.chain(first, objects):
        count += 1
        if isinstance(value, Malformed):
            unusable.add(value)
    unusable.check(path, count, "expected a JSON object on each line")

    def rows(names: list[str]) -> Iterator[Row]:
        lines = _Lines(path, start)
        for value in _objects(lines):
            if isinstance(value, dict):
                value = _values((value.get(name) for name in names), f"line {lines.number}")
            yield value

    return Table(path, "JSONL", columns, count, lines.notes(), rows)


def _objects(lines: _Lines) -> Iterator[dict | Malformed]:
    for line in lines:
        try:
            value = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError):
            yield Malformed(f"line {lines.number}", "which is no JSON")
            continue
        yield value if isinstance(value, dict) else Malformed(f"line {lines.number}", f"{_json_kind(value)}, no object")


def _json_kind(value) -> str:
    kinds = {list: "a list", dict: "an object", str: "a text", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")


def _values(values: Iterable, where: str) -> Row:
    """Values of JSON or Parquet as texts."""
    texts = []
    for value in values:
        match value:
            case None:
                text = ""
            case str():
                text = _SURROGATE.sub("\ufffd", value)  # half a character, which JSON can spell
            case bool():
                text = str(value).lower()
            case bytes():
                text = value.decode("utf-8", "surrogateescape").translate(_WESTERN)
            case float():
                text = "" if math.isnan(value) else str(int(value)) if value.is_integer() else str(value)
            case list() | dict():
                return Malformed(where, f"{_json_kind(value)} where a text or a label is expected")
            case _:
                text = str(value)
        texts.append(text)
    return tuple(texts)


# ------------------------------------------------------------------------------------------------------------- Parquet


def _parquet(path: Path) -> Table:
    with open(path, "rb") as file:
        start = file.read(4)
        file.seek(-4, 2)
        end = file.read(4)
    if start != b"PAR1" or end != b"PAR1":
        what = "is cut off" if start == b"PAR1" else "is no Parquet file, whatever its name says"
        raise DataError(f"{path}: {what} (Parquet begins and ends with PAR1)")
    import polars as pl

    def checked(read: Callable):
        try:
            return read()
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            reason = shortened(str(error), 160)
            raise DataError(f"{path}: this Parquet file cannot be read ({reason}); write it anew") from None

    def scan():
        return pl.scan_parquet(path, glob=False)

    columns = checked(lambda: scan().collect_schema().names())
    count = checked(lambda: scan().select(pl.len()).collect().item())

    def rows(names: list[str]) -> Iterator[Row]:
        batches = checked(lambda: scan().select(names).collect_batches(chunk_size=_BATCH, maintain_order=True))
        numbers = itertools.count(1)
        while (batch := checked(lambda: next(batches, None))) is not None:
            for row in batch.iter_rows():
                yield _values(row, f"row {next(numbers)}")

    return Table(path, "Parquet", columns, count, [], rows)
