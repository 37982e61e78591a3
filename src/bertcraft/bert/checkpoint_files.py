"""Files that a stranger may have written: strict JSON, safetensors, and files replaced whole or not at all.

Nothing here knows of models. Sizes are checked before anything is allocated; what cannot be read is one
CheckpointError.
"""

import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertcraft.errors import CheckpointError

MAX_JSON_BYTES = 8 * 2**20  # a header of 10,000 tensors takes one
MAX_JSON_DEPTH = 32

# BF16 is the upper half of a float32 and is read as bits.
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: its bytes start at `offset` of the file; `dtype` is safetensors' name for it."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises CheckpointError for a larger or an unreadable one."""
    try:
        size = _size(path)
        if size > limit:
            raise CheckpointError(f"{path}: got a file of {size:,} bytes, expected at most {limit:,}")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, read strictly: see :func:`parse_object`."""
    return parse_object(read_bytes(path, MAX_JSON_BYTES), str(path))


def read_list(path: Path) -> list[Any]:
    """The JSON array in a file, read as strictly."""
    return _parse(read_bytes(path, MAX_JSON_BYTES), str(path), list, "an array")


def parse_object(raw: bytes, source: str) -> dict[str, Any]:
    """A JSON object in UTF-8 without duplicate keys, NaN, Infinity, overflowing numbers or deep nesting."""
    return _parse(raw, source, dict, "an object")


def _parse(raw: bytes, source: str, kind: type, name: str) -> Any:
    try:
        # Counted first: Python's parser recurses. A string matches as a whole, so its brackets do not count.
        depth = 0
        for token in re.finditer(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', raw, re.DOTALL):
            depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token[0], 0)
            if depth > MAX_JSON_DEPTH:
                raise ValueError(f"nested deeper than {MAX_JSON_DEPTH} levels")
        content = json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_float=_finite, parse_constant=_finite)
    except ValueError as error:  # also wrong UTF-8
        raise CheckpointError(f"{source}: not valid JSON ({str(error):.200}); fetch the file again") from None
    if not isinstance(content, kind):
        raise CheckpointError(f"{source}: got a JSON {type(content).__name__}, expected {name}")
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {key!r:.80} stands twice in one object")
        content[key] = value
    return content


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"got the number {text:.20}, expected a finite one")
    return number


def _size(path: Path) -> int:
    if not path.is_file():  # a pipe or a device would be read for ever
        got = "a folder, pipe or device" if path.exists() else "none"
        raise CheckpointError(f"{path}: expected a regular file, got {got}")
    return path.stat().st_size


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, by name; no data is read.

    The safetensors library validates offsets, shapes and the file's size; duplicate names, which it lets pass
    (the last one wins), are refused before.
    """
    from safetensors import SafetensorError, safe_open

    try:
        size = _size(path)
        with open(path, "rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if size < 8 or length > min(size - 8, MAX_JSON_BYTES):
                raise CheckpointError(
                    f"{path}: got a header of {length:,} bytes in a file of {size:,}, expected it inside the "
                    f"file of at most {MAX_JSON_BYTES:,}; the file is damaged or not safetensors"
                )
            header = parse_object(file.read(length), f"the header of {path}")
        with safe_open(path, framework="np"):
            pass
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not valid safetensors ({str(error)!r:.300}); fetch it again") from None
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if not isinstance(entry, dict):  # the library takes a list too
            raise CheckpointError(f"{path}: the header has {entry!r:.80} as {name!r:.80}, expected an object")
        offset = 8 + length + entry["data_offsets"][0]
        tensors[name] = StoredTensor(path, name, entry["dtype"], tuple(entry["shape"]), offset)
    return tensors


def read_array(tensor: StoredTensor, dtype: np.dtype) -> np.ndarray:
    """The values of a floating tensor, finite numbers of `dtype`, read straight into the array returned.

    Only a tensor stored in another dtype is copied once more. Raises CheckpointError for numbers that cannot be read, do not fit
    into memory, are too few, or are not finite.
    """
    count, source = math.prod(tensor.shape), f"{tensor.path}: {tensor.name}"
    try:
        values = np.fromfile(tensor.path, FLOATS[tensor.dtype], count, offset=tensor.offset)
    except OSError as error:
        raise CheckpointError(f"{source} cannot be read ({error.strerror})") from None
    except MemoryError:
        raise CheckpointError(f"{source} has {count:,} numbers, more than fit into memory") from None
    if values.size != count:
        raise CheckpointError(f"{source} is no longer whole: the file changed while being read; load it again")
    if tensor.dtype == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    values = values.astype(dtype, copy=False).reshape(tensor.shape)
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):  # no array of truth values
        raise CheckpointError(f"{source} holds NaN or infinity, expected finite numbers; fetch it again")
    return values


def replace_files(folder: Path, writers: Mapping[str, Callable[[Path], None]]) -> None:
    """Write files into a folder, all of them or none: each writer writes the path it is given.

    A name may lie in a folder of the folder ("1_Pooling/config.json").
    Everything is written and synced in a temporary folder inside it, and only then renamed into place. Other
    files of the folder are left alone. Raises the writer's error or OSError; a full disk leaves the files as
    they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
        for name, write in writers.items():
            Path(temporary, name).parent.mkdir(exist_ok=True)
            write(Path(temporary, name))
            with open(Path(temporary, name), "rb") as file:
                os.fsync(file.fileno())
        for name in writers:
            Path(folder, name).parent.mkdir(exist_ok=True)
            os.replace(Path(temporary, name), folder / name)
