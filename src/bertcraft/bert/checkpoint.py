"""Checkpoints as Hugging Face keeps them: a folder of config.json, model.safetensors and tokenizer files.

What `write` writes, ``transformers.AutoModel.from_pretrained`` opens; what transformers saves, `read` reads.
A folder that is not exactly the model of its config.json is refused with one message. Pickles are not opened.
"""

import json
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from bertcraft.bert.checkpoint_files import (
    FLOATS,
    MAX_JSON_BYTES,
    StoredTensor,
    read_array,
    read_bytes,
    read_header,
    read_object,
    replace_files,
)
from bertcraft.bert.config import Config
from bertcraft.bert.layout import (
    Dims,
    parameter_dims,
    parameter_shapes,
    pretraining_names,
    tied_parameters,
)
from bertcraft.errors import CheckpointError, InputError
from bertcraft.tensor import tree

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
SENTENCE_FILES = ("modules.json", "config_sentence_transformers.json", "sentence_*_config.json")
_MAX_TOKENIZER_BYTES = 2**28

# Buffers that older versions of transformers saved: 0, 1, 2, ... and zeros.
_BUFFER = re.compile(r"(\w+\.)?embeddings\.(position_ids|token_type_ids)")


def read(folder: str | Path, *, may_lack_head: bool = False) -> tuple[Config, dict]:
    """The configuration and the nested tree of parameters of a checkpoint folder.

    Numbers stored as F32, F16 or BF16 become float32; if any is F64, all become float64. Tensors that the
    model in config.json's `architectures` does not have are ignored if they belong to pre-training
    (`pretraining_names`) and refused otherwise. Weights without the head in `architectures` are those of a base model
    where they `may_lack_head`, and refused otherwise. Raises CheckpointError.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; expected one with {CONFIG} and {WEIGHTS}")
    if not (folder / CONFIG).exists():
        raise CheckpointError(f"{folder}: got no {CONFIG}, expected one beside the weights")
    content = read_object(folder / CONFIG)
    stored = _stored_tensors(folder)
    try:
        config = Config.from_dict(content, stored.keys(), may_lack_head=may_lack_head)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}/{error}") from None
    return config, tree.nest(_parameters(folder, config, stored))


def _stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of the folder but buffers; layer norms under their present names (gamma is weight now)."""
    if (folder / WEIGHTS).exists():
        found: Iterable = read_header(folder / WEIGHTS).items()
    elif (folder / INDEX).exists():
        found = _sharded(folder)
    else:
        pickles = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(kind))
        got = f"only {_listed(pickles)}, which can run any code and is never opened" if pickles else "none"
        raise CheckpointError(
            f"{folder}: expected {WEIGHTS} (or {INDEX}), got {got}; load the model with transformers where "
            "you trust it and call save_pretrained(folder), which writes that file"
        )
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in found:
        if _BUFFER.fullmatch(name):
            continue
        name = re.sub(r"(LayerNorm|layer_norm)\.gamma$", r"\1.weight", name)
        name = re.sub(r"(LayerNorm|layer_norm)\.beta$", r"\1.bias", name)
        if name in tensors:
            raise CheckpointError(f"{tensor.path}: holds {name!r:.80} twice, under its old and present name")
        tensors[name] = tensor
    return tensors


def _sharded(folder: Path) -> list[tuple[str, StoredTensor]]:
    places = read_object(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise CheckpointError(f"{folder / INDEX}: expected a 'weight_map' from tensor names to file names")
    found: dict[str, StoredTensor] = {}
    for shard in sorted(set(places.values())):
        if not re.fullmatch(r"[\w.-]+\.safetensors", shard, re.ASCII):  # no path that leads out of the folder
            raise CheckpointError(f"{folder / INDEX}: got the file {shard!r:.80}, expected 'name.safetensors'")
        for name, tensor in read_header(folder / shard).items():
            if places.get(name) != shard:
                raise CheckpointError(f"{folder / shard}: holds {name!r:.80}, which {INDEX} does not place there")
            found[name] = tensor
    if missing := [name for name in places if name not in found]:
        raise CheckpointError(f"{folder / INDEX}: the files do not hold {_listed(missing)}")
    return list(found.items())


def _parameters(folder: Path, config: Config, stored: Mapping[str, StoredTensor]) -> dict[str, np.ndarray]:
    """The arrays by full name, every name, shape and dtype checked before the first is read."""
    dims, tied = parameter_dims(config), tied_parameters(config)
    known = dims.keys() | tied.keys() | pretraining_names(config)
    chosen: dict[str, StoredTensor] = {}
    unexpected: list[str] = []
    for name, tensor in stored.items():  # a base model is saved without the family's prefix
        full = name if name in known else f"{config.family}.{name}"
        if full not in known:
            unexpected.append(name)
        elif full in chosen:
            raise CheckpointError(f"{tensor.path}: holds {full!r} twice, with and without its first part")
        else:
            chosen[full] = tensor
    for name, parameter in tied.items():  # of two tied tensors a file may hold either
        if name in chosen and parameter not in chosen:
            chosen[parameter] = chosen.pop(name)
    missing = [name for name in dims if name not in chosen]
    if missing or unexpected:
        got = _difference(missing, unexpected)
        raise CheckpointError(
            f"{folder}: the tensors are not those of the {config.architecture} in {CONFIG}: {got}; "
            f"correct {CONFIG} or fetch the weights again"
        )
    for name in [*dims, *(name for name in tied if name in chosen)]:
        _check_stored(name, chosen[name], dims[tied.get(name, name)], config)
    wide = any(chosen[name].dtype == "F64" for name in dims)
    dtype = np.dtype(np.float64 if wide else np.float32)
    arrays = {name: read_array(chosen[name], dtype) for name in dims}
    for name, parameter in tied.items():
        if name in chosen and not np.array_equal(read_array(chosen[name], dtype), arrays[parameter]):
            raise CheckpointError(
                f"{folder}: {name} differs from {parameter}, expected equal values as tie_word_embeddings is "
                f"true; if they should differ, set it to false in {CONFIG}"
            )
    return arrays


def _check_stored(name: str, tensor: StoredTensor, dims: Dims, config: Config) -> None:
    if tensor.dtype not in FLOATS:
        expected = ", ".join(FLOATS)
        raise CheckpointError(f"{tensor.path}: {name}: got the dtype {tensor.dtype}, expected one of {expected}")
    shape = tuple(getattr(config, dim) if isinstance(dim, str) else dim for dim in dims)
    if tensor.shape != shape:
        wrong = [dim for dim, size, got in zip(dims, shape, tensor.shape, strict=False) if size != got]
        fields = [dim for dim in wrong or dims if isinstance(dim, str)]
        settings = ", ".join(f"{config.key(field)} {getattr(config, field)}" for field in fields)
        raise CheckpointError(
            f"{tensor.path}: {name}: got the shape {reprlib.repr(tensor.shape)}, expected {shape}"
            + (f" as {CONFIG} has {settings}" if settings else "")
        )


def _difference(missing: list[str], unexpected: list[str]) -> str:
    parts = {"missing": missing, "unexpected": unexpected}
    return "; ".join(f"{kind} {_listed(names)}" for kind, names in parts.items() if names)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(f"{name!r:.100}" for name in names[:5]) + more


def write(
    folder: str | Path,
    config: Config,
    params: dict,
    tokenizer_files: Mapping[str, bytes] | None = None,
    more: Mapping[str, Callable[[Path], None]] | None = None,
) -> None:
    """Write a checkpoint that transformers opens: config.json, model.safetensors and tokenizer files by name.

    `more` are writers of further files by name, replaced together with the rest.
    `params` is the nested tree of `parameter_shapes(config)`, of float32, float64 or float16. The folder is
    made if need be and keeps its other files. Raises InputError for parameters that are not those of the
    configuration or not finite, CheckpointError when the files cannot be written; a full disk leaves the
    previous checkpoint.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    folder, arrays = Path(folder), _checked_arrays(config, params)
    dtype = str(np.result_type(*arrays.values()))
    try:
        content = json.dumps(config.to_dict() | {"dtype": dtype}, indent=2, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"config.extra: expected what JSON can hold, got a value it cannot ({error})") from None
    if len(content) > MAX_JSON_BYTES:
        raise InputError(f"config: got {len(content):,} bytes of JSON, expected at most {MAX_JSON_BYTES:,}")
    if strange := sorted((tokenizer_files or {}).keys() - set(TOKENIZER_FILES)):
        raise InputError(f"tokenizer_files: got {_listed(strange)}, expected {', '.join(TOKENIZER_FILES)}")
    writers = {name: partial(Path.write_bytes, data=data) for name, data in (tokenizer_files or {}).items()} | dict(more or {})
    writers[CONFIG] = partial(Path.write_text, data=content + "\n", encoding="utf-8")
    writers[WEIGHTS] = partial(save_file, arrays, metadata={"format": "pt"})  # "pt": transformers asks for it
    try:
        replace_files(folder, writers)
    except (OSError, SafetensorError) as error:
        needed = sum(array.nbytes for array in arrays.values())
        raise CheckpointError(
            f"{folder}: the checkpoint of {needed / 1e6:,.1f} MB could not be written ({str(error):.200}); "
            "free space or choose another folder"
        ) from None


def _checked_arrays(config: Config, params: dict) -> dict[str, np.ndarray]:
    """The arrays under the names that transformers saves: without the family's prefix in a base model."""
    flat, shapes = dict(tree.items(params)), parameter_shapes(config)
    missing, unexpected = [n for n in shapes if n not in flat], [n for n in flat if n not in shapes]
    if missing or unexpected:
        raise InputError(f"params: not those of {config.architecture}: {_difference(missing, unexpected)}")
    arrays = {}
    for name, shape in shapes.items():
        array = np.ascontiguousarray(flat[name])
        if array.dtype not in (np.float32, np.float64, np.float16):
            raise InputError(f"params: {name}: got {array.dtype}, expected float32, float64 or float16")
        if array.shape != shape:
            raise InputError(f"params: {name}: got the shape {array.shape}, expected {shape}")
        if not (np.isfinite(array.min()) and np.isfinite(array.max())):
            raise InputError(f"params: {name}: got NaN or infinity, expected finite numbers; nothing written")
        arrays[name.removeprefix(f"{config.family}.") if config.head == "base" else name] = array
    return arrays


def read_tokenizer_files(folder: str | Path) -> dict[str, bytes]:
    """The tokenizer's files of a checkpoint folder, by name, as `write` takes them."""
    present = [name for name in TOKENIZER_FILES if Path(folder, name).exists()]
    return {name: read_bytes(Path(folder, name), _MAX_TOKENIZER_BYTES) for name in present}


def resolve(folder_or_hub_id: str | Path) -> Path:
    """The folder of a checkpoint: the given one if it exists, else that of a model of the Hugging Face hub.

    From the hub only configuration, safetensors and tokenizer are fetched, into its local cache;
    HF_HUB_OFFLINE=1 takes the cache alone. Raises CheckpointError.
    """
    path, name = Path(folder_or_hub_id), str(folder_or_hub_id)
    if name and path.is_dir():
        return path
    if path.exists() or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name, re.ASCII):
        raise CheckpointError(f"{name!r}: no such folder; expected one with {CONFIG} or the id of a hub model")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise CheckpointError(
            f"{name}: no such folder; to fetch a model of that name from the Hugging Face hub, run: pip install huggingface_hub"
        ) from None
    try:
        here = [CONFIG, INDEX, *TOKENIZER_FILES, *SENTENCE_FILES]
        wanted = ["*.safetensors", *here, *(f"*/{name}" for name in here)]
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # no network, no such model, not in the cache: the library has a dozen kinds
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{name}: no such folder, and the hub gave no model of that name ({reason:.300}); check the id and the network"
        ) from None
