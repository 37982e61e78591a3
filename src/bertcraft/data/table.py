"""A user's own table, whatever file it came from: rows of texts, and what was noticed while they were read."""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bertcraft.data.lines import as_western
from bertcraft.data.text import counted, listed
from bertcraft.errors import DataError

_SURROGATE = re.compile("[\ud800-\udfff]")


class Malformed(NamedTuple):
    """A row that has no values: where it is, as in "line 7", and why; ``column`` where the fault is in one that was asked for."""

    where: str
    reason: str  # "4 fields where the first line names 2 columns"
    column: str | None = None


Row = tuple[str, ...] | Malformed


@dataclass(frozen=True)
class Table:
    """A file that was read once from end to end and found sound. ``notes`` are for the user: what was noticed, counted."""

    path: Path
    kind: str  # "CSV", "TSV", "JSON", "JSONL" or "Parquet"
    columns: list[str]
    count: int  # rows, malformed ones included
    notes: list[str]
    _rows: Callable[[list[str]], Iterator[Row]]

    def rows(self, *names: str) -> Iterator[Row]:
        """The values of some columns, row by row, as texts; a row that has none is :class:`Malformed`.

        A missing value is "", a number its shortest text ("4", also for 4.0), true and false are "true" and "false". (Parquet's
        numbers of 32 bits are those that Python reads, 0.10000000149011612 for 0.1; its decimals keep their zeros.)
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


def named(path: Path, names: Iterable[str]) -> dict[str, str]:
    """The names of a file's columns without the spaces around them -> the names as the file has them.

    Raises DataError where two differ in nothing else.
    """
    found: dict[str, str] = {}
    for name in names:
        short = name.strip() or name
        if found.setdefault(short, name) != name:
            both = f"{found[short]!r:.60} and {name!r:.60}"
            raise DataError(f"{path}: the columns {both} differ in spaces only; give each a name of its own")
    return found


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


def kind_of(value) -> str:
    """What a value of JSON or Parquet is, with its article."""
    kinds = {list: "a list", dict: "an object", str: "a text", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")


def values(names: Iterable[str], found: Iterable, where: str) -> Row:
    """Values of JSON or Parquet, one a column of these names, as texts."""
    texts = []
    for name, value in zip(names, found, strict=True):
        match value:
            case None:
                text = ""
            case str():
                text = _SURROGATE.sub("\ufffd", value)  # half a character, which JSON can spell
            case bool():
                text = str(value).lower()
            case bytes():
                text = as_western(value.decode("utf-8", "surrogateescape"))
            case float():
                text = "" if math.isnan(value) else str(int(value)) if value.is_integer() else str(value)
            case list() | dict():
                return Malformed(where, f"{kind_of(value)} in {name!r} where a text or a label is expected", name)
            case _:
                text = str(value)
        texts.append(text)
    return tuple(texts)
