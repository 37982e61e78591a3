"""JSON files: an object on each line, or a list of objects; as a stream, however long either is."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from bertcraft.data.lines import LONGEST, Lines
from bertcraft.data.table import Malformed, Row, Table, Unusable, kind_of, named, values
from bertcraft.errors import DataError

_MOST_COLUMNS = 500  # keys beyond them are values that were written as keys
_PIECE = 2**16  # characters of a list that are read at a time
_BLANK = "\ufeff \t\r\n"
_DECODER = json.JSONDecoder()

Objects = Iterator[tuple[str, dict | Malformed]]  # where, as in "line 7", and what


def read(path: Path, kind: str, start: bytes) -> Table:
    """The table of a JSONL file, or of a JSON file, which may be either. ``start``: its first bytes.

    Raises DataError when most of it is no objects, or when a list ends before its end.
    """
    if kind == "JSON" and _Text(Lines(path, start, _PIECE)).sign() == "[":
        return _table(path, kind, lambda: Lines(path, start, _PIECE), _listed, "expected a list of JSON objects")
    hint = "expected a JSON object on each line" + (", or a list of objects" if kind == "JSON" else "; a list is a .json file")
    return _table(path, kind, lambda: Lines(path, start), _by_line, hint)


def _table(path: Path, kind: str, opened: Callable[[], Lines], objects: Callable[[Lines], Objects], hint: str) -> Table:
    lines, unusable, count = opened(), Unusable(), 0
    keys: dict[str, None] = {}  # in the order in which they appear
    for _, value in objects(lines):
        count += 1
        if isinstance(value, Malformed):
            unusable.add(value)
        elif len(keys) < _MOST_COLUMNS:
            keys |= dict.fromkeys(value)
    unusable.check(path, count, hint)
    columns = named(path, itertools.islice(keys, _MOST_COLUMNS))

    def rows(names: list[str]) -> Iterator[Row]:
        own = [columns[name] for name in names]
        for where, value in objects(opened()):
            yield values(names, map(value.get, own), where) if isinstance(value, dict) else value

    return Table(path, kind, list(columns), count, lines.notes(), rows)


def _checked(where: str, value) -> tuple[str, dict | Malformed]:
    return where, value if isinstance(value, dict) else Malformed(where, f"{kind_of(value)}, no object")


def _by_line(lines: Lines) -> Objects:
    for line in lines:
        where = f"line {lines.number}"
        try:
            value = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError):
            yield where, Malformed(where, "which is no JSON")
            continue
        yield _checked(where, value)


def _listed(lines: Lines) -> Objects:
    """The items of a list, on whatever lines."""
    text = _Text(lines)
    for number in itertools.count(1):
        sign = text.sign()
        if number > 1 and sign == "]":
            break
        if sign != ("," if number > 1 else "["):
            raise DataError(f"{lines.path}: the list goes on with {sign or 'nothing'!r} behind item {number - 1}: is it cut off?")
        text.at += 1
        if number == 1 and text.sign() == "]":
            break
        where = f"item {number} of the list"
        yield _checked(where, text.value(where))
    text.at += 1
    if sign := text.sign():
        raise DataError(f"{lines.path}: {sign!r} stands behind the end of the list; expected one list and nothing else")


class _Text:
    """A text of which a part is in memory, read up to ``at``."""

    def __init__(self, lines: Lines):
        self.path, self.pieces, self.text, self.at = lines.path, iter(lines), "", 0

    def more(self, size: int) -> bool:
        """Have so many more characters, and none that were read; False at the end."""
        new = []
        while size > 0 and (piece := next(self.pieces, "")):
            new.append(piece)
            size -= len(piece)
        self.text, self.at = self.text[self.at :] + "".join(new), 0
        return bool(new)

    def sign(self) -> str:
        """The next character that is not blank; "" at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _BLANK:
                self.at += 1
            if self.at < len(self.text) or not self.more(_PIECE):
                return self.text[self.at : self.at + 1]

    def value(self, where: str):
        """The JSON that begins here."""
        self.sign()
        size = _PIECE
        while True:
            try:
                value, self.at = _DECODER.raw_decode(self.text, self.at)
                return value
            except (ValueError, RecursionError) as error:
                if len(self.text) - self.at > LONGEST or not self.more(size):
                    what = getattr(error, "msg", "nested too deeply")
                    raise DataError(f"{self.path}: {where} is no JSON or cut off ({what})") from None
                size *= 2
