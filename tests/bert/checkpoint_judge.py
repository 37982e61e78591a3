"""An independent judge of what may be loaded from a checkpoint folder, damaged or not.

It parses the files anew, by the letter of the safetensors format, and knows the tied tensors and the tensors
that may be ignored from lists of its own.
"""

import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import transformers

from bertcraft.bert.config import Config
from bertcraft.bert.config_tables import ALIASES, ARCHITECTURES, FIELDS, KEYS
from bertcraft.bert.layout import parameter_shapes

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
_FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_KEPT = (
    "cls.", "lm_head.", "generator_", "discriminator_predictions.", "vocab_", "predictions.",
    "sop_classifier.", "pooler.",
)  # fmt: skip


def verify(folder: Path, config: Config, params: dict) -> None:
    """Raise AssertionError unless the model is exactly what the folder's files state, and they are sound."""
    raw = json.loads((folder / CONFIG).read_text(encoding="utf-8"), object_pairs_hook=_once)
    stored = _stored(folder)
    _verify_config(raw, config, stored)

    flat = dict(_flatten(params))
    shapes = parameter_shapes(config)
    assert flat.keys() == shapes.keys(), "other parameters than the configuration's"
    family, left, wide = config.family, dict(stored), False
    tied = _tied(config)
    values = {}
    for name in shapes:
        found = [each for each in _spellings(name, family) if each in left]
        if not found:  # then its tied twin
            found = [each for twin in tied.get(name, ()) for each in _spellings(twin, family) if each in left]
        assert len(found) == 1, f"{name} stands in the file {len(found)} times"
        dtype, shape, data = left.pop(found[0])
        assert shape == shapes[name] and dtype in _FLOAT_BYTES, name
        values[name], wide = _decode(dtype, shape, data), wide or dtype == "F64"
    for name, twins in tied.items():
        for twin in twins:
            for spelling in _spellings(twin, family):
                if spelling in left:
                    dtype, shape, data = left.pop(spelling)
                    assert shape == shapes[name] and (_decode(dtype, shape, data) == values[name]).all(), twin
    for name in left:
        rest = name.removeprefix(f"{family}.")
        buffer = rest in ("embeddings.position_ids", "embeddings.token_type_ids")
        # DeBERTa's enhanced mask decoder has positions where its encoder reads none; transformers leaves them, too
        positions = rest == "embeddings.position_embeddings.weight" and config.position_biased_input is False
        assert buffer or positions or rest.startswith(_KEPT), f"{name} is in the file and was ignored"
    for name, expected in values.items():
        got = flat[name]
        assert isinstance(got, np.ndarray) and got.dtype == (np.float64 if wide else np.float32), name
        assert got.shape == shapes[name] and np.isfinite(got).all() and (got == expected).all(), name


@cache
def _default_config(model_type: str):
    return transformers.CONFIG_MAPPING[model_type]()


def family_of(model_type: str) -> str:
    """The family of a model type, written out by hand."""
    return {"roberta-prelayernorm": "roberta_prelayernorm"}.get(model_type, model_type)


# What a setting is where transformers' configuration of the family has no such key.
_MISSING = {
    "cls_dropout": None, "position_buckets": -1, "share_att_key": False, "norm_rel_ebd": "none", "conv_kernel_size": 0,
    "conv_groups": 1, "conv_act": "tanh",
}  # fmt: skip


def _verify_config(raw: dict, config: Config, stored: dict) -> None:
    family = family_of(raw["model_type"])
    default = _default_config(raw["model_type"])
    assert config.family == family
    if raw.get("architectures"):
        assert raw["architectures"] == [ARCHITECTURES[family][config.head]]
    left = {key: value for key, value in raw.items() if key not in ("model_type", "architectures", "dtype", "torch_dtype")}
    for name in FIELDS[family]:
        keys = [
            KEYS.get(family, {}).get(name, name),
            *(name for alias in ALIASES.get(family, ()) if alias == name),
        ]
        given = [left.pop(key) for key in dict.fromkeys(keys) if key in left]
        got = getattr(config, name)
        if name == "pos_att_type":  # a list, or in old files words with | between them
            parts = [value.split("|") if isinstance(value, str) else value for value in given]
            given = [None if value is None else tuple(value) for value in parts]
        expected = given or [getattr(default, keys[0], _MISSING.get(keys[0], "absolute"))]
        assert all(got == value and isinstance(got, bool) == isinstance(value, bool) for value in expected), name
    labels, count, ids = left.pop("id2label", None), left.pop("num_labels", None), left.pop("label2id", None)
    if labels is None:
        assert config.num_labels == (2 if count is None else count)
        assert config.labels == tuple(f"LABEL_{index}" for index in range(config.num_labels))
    else:
        assert {str(index): label for index, label in enumerate(config.labels)} == labels
        assert count is None or count == len(labels)
    if ids is not None:
        inverse = {label: index for index, label in enumerate(config.labels)}
        assert (inverse if config.label2id is None else config.label2id) == ids
    assert config.extra == left
    assert config.add_pooling_layer or not any("pooler." in name for name in stored)


def _once(pairs):
    assert len(dict(pairs)) == len(pairs), "a key stands twice"
    return dict(pairs)


def _stored(folder: Path) -> dict[str, tuple[str, tuple, bytes]]:
    """Name -> (dtype, shape, bytes) of all safetensors files in use, parsed by the letter of the format."""
    files = [WEIGHTS]
    places = None
    if not (folder / WEIGHTS).exists():
        places = json.loads((folder / INDEX).read_text(), object_pairs_hook=_once)["weight_map"]
        files = sorted(set(places.values()))
    stored: dict[str, tuple[str, tuple, bytes]] = {}
    for file in files:
        assert Path(file).name == file
        raw = (folder / file).read_bytes()
        length = int.from_bytes(raw[:8], "little")
        assert 8 + length <= len(raw)
        header, data = json.loads(raw[8 : 8 + length], object_pairs_hook=_once), raw[8 + length :]
        header.pop("__metadata__", None)
        reached = 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            assert begin == reached <= end, f"a gap or overlap before {name}"
            if entry["dtype"] in _FLOAT_BYTES:
                assert end - begin == math.prod(entry["shape"]) * _FLOAT_BYTES[entry["dtype"]], name
            assert name not in stored and (places is None or places[name] == file), name
            stored[name] = entry["dtype"], tuple(entry["shape"]), data[begin:end]
            reached = end
        assert reached == len(data), "bytes that no tensor covers"
    assert places is None or places.keys() == stored.keys()
    return stored


def _decode(dtype: str, shape: tuple, data: bytes) -> np.ndarray:
    if dtype == "BF16":  # the upper half of a float32
        data, dtype = b"".join(b"\0\0" + data[at : at + 2] for at in range(0, len(data), 2)), "F32"
    return np.frombuffer(data, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).reshape(shape)


def _spellings(name: str, family: str) -> list[str]:
    """A parameter's name as files have it: with or without prefix, layer norms under their old names too."""
    names = [name, name.removeprefix(f"{family}.")] if name.startswith(f"{family}.") else [name]
    if name.rpartition(".")[0].endswith(("LayerNorm", "layer_norm")):
        names += [each.replace("weight", "gamma") for each in names] + [each.replace("bias", "beta") for each in names]
    return [*dict.fromkeys(names)]


def _tied(config: Config) -> dict[str, tuple[str, ...]]:
    """Parameter -> names of tensors that may stand beside it or instead of it, written out by hand."""
    if config.head not in ("masked_lm", "pretraining") or not config.tie_word_embeddings:
        return {}
    words = f"{config.family}.embeddings.word_embeddings.weight"
    if config.legacy is False:  # DeBERTa's second masked-LM head has no decoder of its own
        return {}
    return {
        "deberta": {
            words: ("cls.predictions.decoder.weight",),
            "cls.predictions.bias": ("cls.predictions.decoder.bias",),
        },
        "bert": {
            words: ("cls.predictions.decoder.weight",),
            "cls.predictions.bias": ("cls.predictions.decoder.bias",),
        },
        "roberta": {words: ("lm_head.decoder.weight",), "lm_head.bias": ("lm_head.decoder.bias",)},
        "electra": {words: ("generator_lm_head.weight",)},
        "distilbert": {words: ("vocab_projector.weight",)},
        "albert": {words: ("predictions.decoder.weight",), "predictions.bias": ("predictions.decoder.bias",)},
        "mpnet": {words: ("lm_head.decoder.weight",), "lm_head.bias": ("lm_head.decoder.bias",)},
        "roberta_prelayernorm": {words: ("lm_head.decoder.weight",), "lm_head.bias": ("lm_head.decoder.bias",)},
    }[config.family]


def _flatten(tree: dict, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
