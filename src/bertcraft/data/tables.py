"""A user's own table: CSV, TSV, JSON, JSONL or Parquet, read in a stream, never whole into memory.

What is wrong with a file ends in one message that names the line, or in a counted note: no row is dropped silently. CSV and
JSON are read by Python's own modules, which know the line they are at; Parquet by polars. Nothing is executed or unpickled.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from bertcraft.data import json_table, separated
from bertcraft.data.lines import DAMAGED, opened, packed
from bertcraft.data.table import Row, Table, named, values
from bertcraft.data.text import listed, shortened
from bertcraft.errors import DataError

KINDS = {
    ".csv": "CSV", ".tsv": "TSV", ".tab": "TSV", ".json": "JSON", ".jsonl": "JSONL", ".ndjson": "JSONL", ".parquet": "Parquet",
    ".pq": "Parquet",
}  # fmt: skip
_ENDINGS = tuple(KINDS) + tuple(f"{ending}.gz" for ending in KINDS)
_BATCH = 5_000  # rows of a Parquet file read at a time

_FOREIGN = {  # what is not a text file, whatever its name says
    b"PAR1": "a Parquet file: name it .parquet", b"PK\x03\x04": "a zip file (an Excel workbook?): save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV UTF-8",
    b"\x1f\x8b": "a gzip file: put .gz behind its name",
    b"BZh": "a bzip2 file: decompress it first", b"\x28\xb5\x2f\xfd": "a zstd file: decompress it first", b"%PDF": "a PDF",
}  # fmt: skip


def is_table(name: str) -> bool:
    """Whether a file is a table by the end of its name, packed or not."""
    return name.lower().endswith(_ENDINGS)


def read_table(path: str | Path) -> Table:
    """Open a file by the end of its name and read it once, to know that all of it can be read.

    Raises DataError, naming the line where there is one: no such file, a folder, an empty file, another format, a quote left
    open, a NUL byte, more rows malformed than not.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a file" if path.exists() else "there is no such file"
        raise DataError(f"{path}: {what}; expected a CSV, TSV, JSON, JSONL or Parquet file")
    ending = Path(path.stem if packed(path) else path.name).suffix
    kind = KINDS.get(ending.lower())
    if kind is None or (kind == "Parquet" and packed(path)):
        got = f"the name ends in {''.join(path.suffixes[-2:])!r}" if path.suffixes else "the name has no ending"
        raise DataError(f"{path}: {got}, expected one of {', '.join(KINDS)}; all but Parquet may have .gz behind it")
    with opened(path) as file:
        try:
            start = file.read(4096)
        except DAMAGED:
            raise DataError(f"{path}: this is no gzip file, or a damaged one, whatever its name says") from None
    if not start.strip():
        raise DataError(f"{path}: the file is empty; expected columns of texts and labels")
    for mark, what in _FOREIGN.items() if kind != "Parquet" else ():
        if start.startswith(mark):
            raise DataError(f"{path}: this is no {kind} file but {what}")
    if kind in ("CSV", "TSV") and re.match(rb'(\xef\xbb\xbf)?\s*(\[\s*)?\{\s*"', start):
        raise DataError(f"{path}: this is no {kind} file but JSON: name it .json (a list of objects) or .jsonl (one a line)")
    if kind == "Parquet":
        table = _parquet(path)
    else:
        table = separated.read(path, kind, start) if kind in ("CSV", "TSV") else json_table.read(path, kind, start)
    if table.count == 0:
        raise DataError(f"{path}: there is no row below the names of the columns {listed(table.columns)}")
    return table


def _parquet(path: Path) -> Table:
    with open(path, "rb") as file:
        start = file.read(4)
        file.seek(max(0, path.stat().st_size - 4))
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

    columns = named(path, checked(lambda: scan().collect_schema().names()))
    count = checked(lambda: scan().select(pl.len()).collect().item())

    def rows(names: list[str]) -> Iterator[Row]:
        own = [columns[name] for name in names]
        batches = checked(lambda: scan().select(own).collect_batches(chunk_size=_BATCH, maintain_order=True))
        numbers = itertools.count(1)
        while (batch := checked(lambda: next(batches, None))) is not None:
            for row in batch.iter_rows():
                yield values(names, row, f"row {next(numbers)}")

    return Table(path, "Parquet", list(columns), count, [], rows)
