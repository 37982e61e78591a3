"""CSV and TSV files, read by Python's own module, which knows the line it is at."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from bertcraft.data.lines import LONGEST, Lines
from bertcraft.data.table import Malformed, Row, Table, Unusable
from bertcraft.data.text import counted
from bertcraft.errors import DataError

_ESCAPED = re.compile(r'\\(["\\])')


class _Quote(DataError):
    """A quote that does not close, or not where a field ends."""

    def __init__(self, lines: Lines, what: str):
        super().__init__(f"{lines.path}: {what}; correct that line, or save the file anew")
        self.what = what


def read(path: Path, kind: str, start: bytes) -> Table:
    delimiter, notes = "\t", []
    if kind == "CSV":
        header = next((line for line in Lines(path, start) if line.strip()), "")
        first = re.sub(r'"[^"]*"', "", header)
        delimiter = max(",;\t|", key=first.count)  # the comma, unless another stands there more often
        if delimiter != ",":
            notes.append(f"columns are separated by {({';': 'semicolons', '|': 'bars'}).get(delimiter, 'tabs')}")
    standard = {"delimiter": delimiter, "strict": True}
    if kind == "TSV":
        other, how = standard | {"quoting": csv.QUOTE_NONE}, "quotes are taken as ordinary characters"
    else:
        other, how = standard | {"escaped": True}, "a backslash is taken to stand before quotes inside a text"

    def otherwise(why: str) -> Table | None:
        """Read with the other way to write quotes, where everything then fits."""
        try:
            table, malformed, _ = _scanned(path, kind, start, other, [*notes, f"{how}: read in the usual way, {why}"])
        except DataError:
            return None
        return None if malformed or any('"' in column for column in table.columns) else table

    try:
        table, _, long = _scanned(path, kind, start, standard, notes)
    except _Quote as error:
        if (table := otherwise(error.what)) is None:
            raise error from None
        return table
    if kind == "TSV" and long and len(table.columns) > 1:  # two texts in ordinary quotes, and all rows between them
        return otherwise(f"the record of line {long} has several lines") or table
    return table


def _scanned(path: Path, kind: str, start: bytes, options: dict, notes: list[str]) -> tuple[Table, int, int]:
    """The table, the number of its malformed rows, and the line of the first record of several lines (0: there is none)."""
    lines, unusable = Lines(path, start), Unusable()
    records = _records(lines, options)
    header = next((record for *_, record in records if record), [])
    columns = [name.strip() or f"column {number}" for number, name in enumerate(header, 1)]
    count = long = 0
    for line, last, record in records:
        count += 1
        long = long or (line if last > line else 0)
        if isinstance(row := _fields(line, record, columns), Malformed):
            unusable.add(row)
    above = "the first line must hold the names of the columns: remove what stands above it"
    unusable.check(path, count, above if len(columns) == 1 else "put texts that hold the separator between quotes")

    def rows(names: list[str]) -> Iterator[Row]:
        at = [columns.index(name) for name in names]
        records = _records(Lines(path, start), options)
        next(record for *_, record in records if record)
        for line, _, record in records:
            row = _fields(line, record, columns)
            yield row if isinstance(row, Malformed) else tuple(row[i] for i in at)

    return Table(path, kind, columns, count, [*lines.notes(), *notes], rows), unusable.number, long


def _records(lines: Lines, options: dict) -> Iterator[tuple[int, int, list[str]]]:
    """The records of a CSV or TSV file, each with the lines on which it begins and ends.

    ``options``: those of ``csv.reader``, and "escaped": a backslash stands before quotes, and before itself, inside a text.
    """
    csv.field_size_limit(max(LONGEST, csv.field_size_limit()))
    own = {name: value for name, value in options.items() if name != "escaped"}
    given = (_ESCAPED.sub(_doubled, line) for line in lines) if options.get("escaped") else lines
    reader = csv.reader(given, **own)
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
        if line > 1 or [field.lower() for field in record] != ["sep=", ""]:  # a line for Excel, which says the separator
            yield line, reader.line_num, record


def _doubled(escaped: re.Match) -> str:
    return '""' if escaped[1] == '"' else "\\"


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
