"""A training run on disk: one safetensors file that is either the whole state or not there.

The file is written in a folder of its own beside the old one, forced to disk, and moved over it in one step
(``os.replace``). A process killed at any moment leaves the old state or the new one; what it was writing is
never read and is removed the next time. A digest inside the file covers everything, so damage is noticed and
nothing half-right is ever trained on. Trees are stored as named tensors plus their structure as JSON, hence
without pickle.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bertcraft.errors import InputError, TrainingError
from bertcraft.tensor import tree

FILE = "state.safetensors"
FORMAT = "bertcraft run 1"
_SAVING = "saving-"


def save_state(folder: str | os.PathLike, step: int, params: Any, rule_state: Any, metadata: dict) -> None:
    """Replace the state in ``folder`` (made if need be), or leave the one that is there untouched.

    ``params`` and ``rule_state`` are trees of arrays of any shape and of the dtypes bool, integer and float
    (16 to 64 bits); ``metadata`` is a dict that JSON can hold. Raises TrainingError when the disk is full or
    cannot be written, InputError when the metadata is not JSON.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    tensors: dict[str, np.ndarray] = {}
    run = {"step": int(step), "params": _structure(params, "params", tensors)}
    run |= {"rule_state": _structure(rule_state, "rule_state", tensors), "metadata": metadata}
    text = _json(run)

    folder, saving = Path(folder), None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        saving = Path(tempfile.mkdtemp(prefix=_SAVING, dir=folder))
        save_file(tensors, saving / FILE, {"format": FORMAT, "run": text, "digest": _digest(text, tensors)})
        _sync(saving / FILE)
        os.replace(saving / FILE, folder / FILE)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        kept = "the state saved before is intact" if (folder / FILE).exists() else "no state was there before"
        raise TrainingError(
            f"the state of step {step} could not be saved in {folder}: {error}; {kept}. "
            "Make room or choose another folder, then start the same run again"
        ) from error
    finally:
        if saving is not None:
            shutil.rmtree(saving, ignore_errors=True)


def load_state(folder: str | os.PathLike) -> tuple[int, Any, Any, dict] | None:
    """``(step, params, rule_state, metadata)`` as saved, or None when the folder holds no state.

    Shapes, dtypes and the kinds of tree (dict, list, tuple) are those that were saved; every leaf is an
    array. Removes what a killed process left half-written. Raises TrainingError when the file is damaged or
    not a state.
    """
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    for leftover in folder.glob(_SAVING + "*"):
        shutil.rmtree(leftover, ignore_errors=True)
    path = folder / FILE
    if not path.exists():
        return None
    advice = f"Remove {path} to start the run from the beginning"
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            tensors = {name: np.array(file.get_tensor(name)) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"the saved state {path} cannot be read: {error}. {advice}") from error
    if header.get("format") != FORMAT:
        raise TrainingError(f"{path} is not the state of a run ({FORMAT!r}): it says {header.get('format')!r}. {advice}")
    text = header.get("run", "")
    if _digest(text, tensors) != header.get("digest"):
        raise TrainingError(f"the saved state {path} is damaged: its content does not match its digest. {advice}")
    run = json.loads(text)
    return run["step"], _tree(run["params"], tensors), _tree(run["rule_state"], tensors), run["metadata"]


def check_signature(folder: str | os.PathLike, saved: dict, wanted: dict) -> None:
    """Raise TrainingError, with both values, when a saved run was configured differently."""
    wanted = json.loads(_json(wanted))  # as the saved one has been: a tuple is a list, a key a string

    def told(signature, key):
        return repr(signature[key]) if key in signature else "nothing"

    differing = [
        f"{key}: {told(saved, key)} there, {told(wanted, key)} here"
        for key in {**saved, **wanted}
        if key not in saved or key not in wanted or saved[key] != wanted[key]
    ]
    if differing:
        raise TrainingError(
            f"the state in {folder} belongs to another run ({'; '.join(differing)}). "
            f"Use another folder, or remove {Path(folder) / FILE} to start over"
        )


def check_structure(folder: str | os.PathLike, what: str, saved: Any, wanted: Any) -> None:
    """Raise TrainingError when two trees differ in names, shapes or dtypes of leaves, naming one."""
    saved, wanted = _shapes(saved), _shapes(wanted)
    for name in {**saved, **wanted}:
        if saved.get(name) != wanted.get(name):
            raise TrainingError(
                f"the state in {folder} belongs to another run "
                f"({what} {name}: {saved.get(name, 'nothing')} there, "
                f"{wanted.get(name, 'nothing')} here). Use another folder, or remove {Path(folder) / FILE}"
            )


def _shapes(part: Any) -> dict[str, str]:
    return {name: f"{np.asarray(leaf).dtype} {np.shape(leaf)}" for name, leaf in tree.items(part)}


def _structure(part: Any, name: str, tensors: dict[str, np.ndarray]) -> Any:
    """The tree with names for leaves, and lists and tuples marked; the leaves go into ``tensors``."""
    if isinstance(part, dict):
        if not all(isinstance(key, str) for key in part):
            raise InputError(f"{name} cannot be saved: the keys of a tree must be text, got {list(part)!r:.60}")
        return {key: _structure(branch, f"{name}.{key}", tensors) for key, branch in part.items()}
    if isinstance(part, (list, tuple)):
        kind = "list" if isinstance(part, list) else "tuple"
        return [kind, *(_structure(branch, f"{name}.{i}", tensors) for i, branch in enumerate(part))]
    leaf = np.asarray(part, order="C")  # safetensors would write the memory of any other order as it lies
    if leaf.dtype.kind not in "biuf":
        raise InputError(f"{name} cannot be saved: expected an array of numbers, got {part!r:.60}")
    if name in tensors:
        raise InputError(f"two leaves of the tree are called {name!r}: rename a key that contains a dot")
    tensors[name] = leaf.astype(leaf.dtype.newbyteorder("="), copy=False)
    return name


def _json(value: Any) -> str:
    """JSON of plain Python, in which NumPy's numbers count as Python's."""

    def plain(other):
        if isinstance(other, np.generic):
            return other.item()
        raise InputError(f"metadata of a run must be JSON (numbers, text, lists, dicts), got {other!r:.60}")

    return json.dumps(value, default=plain)


def _tree(structure: Any, tensors: dict[str, np.ndarray]) -> Any:
    """The inverse of :func:`_structure`."""
    if isinstance(structure, dict):
        return {key: _tree(branch, tensors) for key, branch in structure.items()}
    if isinstance(structure, list):
        branches = [_tree(branch, tensors) for branch in structure[1:]]
        return branches if structure[0] == "list" else tuple(branches)
    return tensors[structure]


def _digest(text: str, tensors: dict[str, np.ndarray]) -> str:
    """BLAKE2b over the description of the run and every tensor's name, dtype, shape and bytes."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name, leaf in sorted(tensors.items()):
        digest.update(f"\0{name} {leaf.dtype} {leaf.shape}\0".encode())
        digest.update(leaf.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Force a file, or the names in a folder, to disk. Only POSIX can do the latter."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
