"""Sound checkpoint folders as images: dicts from file name to bytes or a `Special` (pipe, folder, link)."""

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from bertcraft.bert.config import Config
from bertcraft.bert.config_tables import ARCHITECTURES
from bertcraft.bert.layout import parameter_shapes

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
SIZES = {
    "vocab_size": 7,
    "hidden_size": 4,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "intermediate_size": 3,
    "max_position_embeddings": 6,
}


@dataclass(frozen=True)
class Special:
    """Something in a folder that is no plain file: kind "pipe", "folder" or "link" (to `target`)."""

    kind: str
    target: str = ""


Image = dict[str, bytes | Special]


def lay_out(image: Image, folder: Path) -> None:
    """Make the folder, new or left from another image, hold exactly the image."""
    folder.mkdir(parents=True, exist_ok=True)
    same = set()
    for path in folder.iterdir():
        plain = path.is_file() and not path.is_symlink()
        if plain and path.read_bytes() == image.get(path.name):
            same.add(path.name)
        elif path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
    for name, content in image.items():
        path = folder / name
        if name in same:
            continue
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content.kind == "pipe":
            os.mkfifo(path)
        elif content.kind == "folder":
            path.mkdir()
        else:
            path.symlink_to(content.target)


@cache
def originals() -> tuple[tuple[str, Image], ...]:
    """A sound folder for each family and head, and for each way in which one is stored."""
    images = []
    for family, heads in ARCHITECTURES.items():
        for head in heads:
            images.append((f"{family} {head}", _sound(family, head)))
    for form in ("F16", "BF16", "F64", "old names", "sharded", "untied"):
        images.append((f"bert masked_lm {form}", _sound("bert", "masked_lm", form)))
    images.append(("roberta base sharded", _sound("roberta", "base", "sharded")))
    return tuple(images)


def _sound(family: str, head: str, form: str = "") -> Image:
    changes = {"embedding_size": 3} if family in ("electra", "albert") else {}
    config = Config(family=family, head=head, tie_word_embeddings=form != "untied", **SIZES, **changes)
    rng = np.random.default_rng([len(family), len(head)])
    tensors = {
        name.removeprefix(f"{family}.") if head == "base" else name: rng.normal(size=shape).astype(np.float32)
        for name, shape in parameter_shapes(config).items()
    }
    if form == "old names":
        tensors |= {
            "bert.embeddings.position_ids": np.arange(6)[None],
            "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"].copy(),
            "cls.predictions.decoder.bias": tensors["cls.predictions.bias"].copy(),
            "cls.seq_relationship.bias": np.ones(2, np.float32),
        }
        for name in [name for name in tensors if "LayerNorm" in name]:
            tensors[name.replace("weight", "gamma").replace("bias", "beta")] = tensors.pop(name)
    image: Image = {CONFIG: json.dumps(config.to_dict(), indent=2).encode(), "vocab.txt": b"[PAD]\n[UNK]\n"}
    if form == "sharded":
        names = sorted(tensors)
        shards = {f"model-{part + 1}.safetensors": names[part::3] for part in range(3)}
        image |= {shard: save({name: tensors[name] for name in part}) for shard, part in shards.items()}
        places = {name: shard for shard, part in shards.items() for name in part}
        return image | {INDEX: json.dumps({"metadata": {"total_size": 1}, "weight_map": places}).encode()}
    if form in ("F16", "F64"):
        tensors = {name: value.astype({"F16": np.float16, "F64": np.float64}[form]) for name, value in tensors.items()}
    if form == "BF16":
        halves = {
            name: np.frombuffer(value.tobytes(), np.uint16)[1::2].reshape(value.shape).copy() for name, value in tensors.items()
        }
        header, data = split(save(halves))
        header = {name: entry | {"dtype": "BF16"} for name, entry in header.items()}
        return image | {WEIGHTS: joined(json.dumps(header).encode(), data)}
    return image | {WEIGHTS: save(tensors, {"format": "pt"})}


def split(raw: bytes) -> tuple[dict, bytes]:
    """The header and the data of a safetensors file."""
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def joined(header: bytes, data: bytes) -> bytes:
    """A safetensors file of a header and data, whatever they hold."""
    return len(header).to_bytes(8, "little") + header + data
