"""The lines of a user's text file: decoded by its first bytes, unpacked where it is a gzip file, as a stream."""

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bertcraft.data.text import counted
from bertcraft.errors import DataError

LONGEST = 2**24  # characters of a line or field: beyond it something is wrong, a quote left open for instance
DAMAGED = (gzip.BadGzipFile, EOFError, zlib.error)  # what reading a gzip file that is none, or is cut off, raises

_MARKS = {  # the first bytes of files: longer marks first, where one begins with another
    b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8-sig",
}  # fmt: skip

# Bytes that are not UTF-8 arrive as U+DC80 to U+DCFF (Python's "surrogateescape") and are read as Windows-1252, and the
# five that it lacks as Latin-1, whose letters it shares.
_BROKEN = re.compile("[\udc80-\udcff]")
_WESTERN = {0xDC00 + byte: bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(128, 256)}


def as_western(text: str) -> str:
    """A text decoded with "surrogateescape": its bytes that were no UTF-8 as Windows-1252."""
    return text.translate(_WESTERN)


def packed(path: Path) -> bool:
    """Whether its name says that it is a gzip file."""
    return path.suffix.lower() == ".gz"


def opened(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked where its name ends in .gz."""
    return gzip.open(path, "rb") if packed(path) else open(path, "rb")


class Lines:
    """The lines of a text file, decoded, and what was seen of its encoding while they were read.

    ``start``: its first bytes. ``piece``: lines are given in pieces of at most so many characters; None takes whole lines only.
    """

    def __init__(self, path: Path, start: bytes, piece: int | None = None):
        self.path, self.piece, self.encoding = path, piece, _encoding(start)
        self.number = self.utf8 = self.other = self.first_other = self.first_utf8 = 0

    def __iter__(self) -> Iterator[str]:
        errors = "surrogateescape" if self.encoding.startswith("utf-8") else "strict"
        most, begins = self.piece or LONGEST, True
        with opened(self.path) as binary, io.TextIOWrapper(binary, self.encoding, errors, newline="") as file:
            try:
                while line := file.readline(most):
                    self.number += begins
                    yield line if line.isascii() and "\0" not in line else self._checked(line)
                    if len(line) == LONGEST:
                        raise self.wrong(f"is longer than {LONGEST:,} characters; is this a {self.path.suffix} file?")
                    begins = line.endswith(("\n", "\r"))
            except UnicodeDecodeError:
                number = self.number + 1
                raise DataError(f"{self.path}: line {number} is not {self.encoding.upper()} as its first bytes say") from None
            except DAMAGED:
                raise DataError(f"{self.path}: this gzip file is cut off or damaged; write it anew") from None

    def _checked(self, line: str) -> str:
        if "\0" in line:
            raise self.wrong("holds a NUL byte: the file is damaged or no text; save it anew as UTF-8")
        if _BROKEN.search(line):
            self.other += 1
            self.first_other = self.first_other or self.number
            return as_western(line)
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
