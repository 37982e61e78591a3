"""Damaged and hostile checkpoint folders, by the thousand.

Lay out each image that `mutated` gives and open the folder: there must be one error message, or a model that
`checkpoint_judge.verify` accepts. At the end the trap must not exist.
"""

import json
import math
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bertcraft.bert.config_tables import ARCHITECTURES, FIELDS, KEYS

sys.path.insert(0, str(Path(__file__).parent))
from checkpoint_images import CONFIG, INDEX, WEIGHTS, Image, Special, joined, originals, split
from checkpoint_judge import family_of

BAD_VALUES = [
    None, True, False, -1, 0, 1, 2, 3, 5, 8, 7.0, 0.5, 1.5, -0.1, 10**6, 2**31 - 1, 2**31, 2**63, 10**400,
    1e-300, 1e300, "", "x", "4", "gelu", "gelu_fast", "mish", "absolute", "relative_key", "regression", [],
    [4], ["x"], {}, {"0": "a"}, {"0": "a", "1": "b"}, {"0": "a", "2": "b"}, {"a": 0}, {"a": 1, "b": "x"},
    [[]],
]  # fmt: skip
DTYPES = [
    "BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "F64",
    "I64", "U64", "C64", "F4", "F99", "", "f32", None, 32,
]  # fmt: skip
OTHER_KEYS = [
    "model_type", "architectures", "id2label", "label2id", "num_labels", "is_decoder",
    "add_cross_attention", "is_encoder_decoder", "pruned_heads", "quantization_config", "per_layer_config",
    "dtype", "torch_dtype", "hidden_size", "num_attention_heads", "num_hidden_layers", "unknown_key",
]  # fmt: skip


def config_edits() -> Iterator[tuple[str, Image]]:
    """Every key of every family's config.json, deleted and set to every bad value, all else sound."""
    for what, image in originals():
        if not what.endswith(("masked_lm", "sequence_classification")):
            continue
        labels_only = what.endswith("sequence_classification")  # the other keys are those of the masked LM
        content = json.loads(image[CONFIG])
        family = family_of(content["model_type"])
        keys = {KEYS.get(family, {}).get(name, name) for name in FIELDS[family]}
        for key in sorted({"id2label", "label2id", "num_labels"} if labels_only else keys | set(OTHER_KEYS)):
            without = {name: value for name, value in content.items() if name != key}
            if key in content:
                yield f"{what}: {key} deleted", image | {CONFIG: json.dumps(without).encode()}
            for value in BAD_VALUES:
                yield (
                    f"{what}: {key} = {value!r:.30}",
                    image | {CONFIG: json.dumps(content | {key: value}).encode()},
                )


def mutated(seed: int, count: int, trap: Path) -> Iterator[tuple[str, Image]]:
    """`count` folders with one to three random mutations each; opening a pickle makes the folder `trap`."""
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        what, image = originals()[rng.integers(len(originals()))]
        image, done = dict(image), []
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            mutation = _MUTATIONS[rng.integers(len(_MUTATIONS))]
            try:
                done.append(f"{mutation.__name__.strip('_')} {mutation(image, rng, trap)}")
            except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
                done.append("nothing")  # an earlier mutation left nothing for this one
        yield f"case {index}, {what}: {'; '.join(done)}", image


def _choose(rng, values):
    return values[rng.integers(len(values))]


def _weights(image: Image, rng) -> str:
    return _choose(rng, sorted(name for name in image if name.endswith(".safetensors")))


def _any_file(image: Image, rng) -> str:
    return _choose(rng, sorted(name for name in image if isinstance(image[name], bytes) and name != "vocab.txt"))


def _flip(image, rng, trap):
    name = _any_file(image, rng)
    raw = bytearray(image[name])
    places = [int(rng.integers(len(raw))) for _ in range(rng.integers(1, 4))]
    for place in places:
        raw[place] ^= 1 << int(rng.integers(8))
    image[name] = bytes(raw)
    return f"{name} at {places}"


def _flip_data(image, rng, trap):
    name = _weights(image, rng)
    raw = bytearray(image[name])
    start = 8 + int.from_bytes(raw[:8], "little")
    place = int(rng.integers(start, len(raw)))
    raw[place] ^= 1 << int(rng.integers(8))
    image[name] = bytes(raw)
    return f"{name} at {place}"


def _truncate(image, rng, trap):
    name = _any_file(image, rng)
    image[name] = image[name][: rng.integers(len(image[name]))]
    return f"{name} to {len(image[name])}"


def _lengthen(image, rng, trap):
    name = _any_file(image, rng)
    more = _choose(rng, [b"\0", b" ", b"\n", b"}", rng.bytes(4), rng.bytes(100), b"\0" * 10_000])
    image[name] += more
    return f"{name} by {len(more)}"


def _overwrite(image, rng, trap):
    name = _any_file(image, rng)
    raw = bytearray(image[name])
    place = int(rng.integers(len(raw)))
    size = min(int(rng.integers(1, 64)), len(raw) - place)
    raw[place : place + size] = _choose(rng, [bytes(size), b"\xff" * size, rng.bytes(size)])
    image[name] = bytes(raw)
    return f"{name} at {place}, {size} bytes"


def _remove(image, rng, trap):
    name = _choose(rng, sorted(image))
    del image[name]
    return name


def _swap(image, rng, trap):
    one, other = _any_file(image, rng), _any_file(image, rng)
    image[one], image[other] = image[other], image[one]
    return f"{one} and {other}"


def _from_another(image, rng, trap):
    what, other = _choose(rng, originals())
    name = _any_file(other, rng)
    image[name] = other[name]
    return f"{name} of {what}"


def _special(image, rng, trap):
    name = _any_file(image, rng)
    image[name] = _choose(
        rng,
        [
            Special("pipe"), Special("folder"), Special("link", name), Special("link", "/dev/zero"),
            Special("link", "nowhere"), Special("link", "vocab.txt"),
        ],
    )  # fmt: skip
    return f"{name} as {image[name]}"


def _pickle(image, rng, trap):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(trap),)

    code = pickle.dumps(Trap(), protocol=int(rng.integers(6)))
    name = _choose(rng, [CONFIG, WEIGHTS, INDEX, "pytorch_model.bin", "tokenizer.json", "model-1.safetensors"])
    if name == "pytorch_model.bin" or rng.random() < 0.3:
        image.pop(WEIGHTS, None)
    image[name] = code + rng.bytes(int(rng.integers(50)))
    return name


def _header_length(image, rng, trap):
    name = _weights(image, rng)
    raw = image[name]
    length = int.from_bytes(raw[:8], "little")
    value = _choose(
        rng,
        [
            0, 1, 2, length - 1, length + 1, length // 2, len(raw) - 8, len(raw) - 7, len(raw), 10**8,
            10**8 + 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 8,
        ],
    )  # fmt: skip
    image[name] = value.to_bytes(8, "little") + raw[8:]
    return f"{name} to {value}"


def _header_entry(image, rng, trap):
    """One field of one tensor's entry."""
    file = _weights(image, rng)
    header, data = split(image[file])
    name, other = _choose(rng, sorted(header)), _choose(rng, sorted(header))
    entry, second = header[name], header[other]
    begin, end = entry["data_offsets"]
    shape = entry["shape"]
    field, value = _choose(
        rng,
        [
            ("dtype", _choose(rng, DTYPES)), ("dtype", _choose(rng, DTYPES)), ("shape", shape[::-1]),
            ("shape", [math.prod(shape)]), ("shape", [1, *shape]), ("shape", [*shape, 1]),
            ("shape", [shape[0] + 1, *shape[1:]]), ("shape", [shape[0] - 1, *shape[1:]]), ("shape", []),
            ("shape", [0]), ("shape", [-size for size in shape]),
            ("shape", [float(size) for size in shape]), ("shape", [str(shape)]), ("shape", [2**63, 2]),
            ("shape", [2**64, *shape]), ("shape", [2**32, 2**32]), ("shape", [0, 2**62]),
            ("shape", [1] * 100 + shape), ("shape", None), ("shape", 3), ("shape", {}),
            ("data_offsets", second["data_offsets"]), ("data_offsets", [end, begin]),
            ("data_offsets", [begin, end + 4]), ("data_offsets", [begin + 4, end + 4]),
            ("data_offsets", [begin - 4, end - 4]), ("data_offsets", [begin]),
            ("data_offsets", [begin, end, end]), ("data_offsets", [2**64 - 16, 2**64 - 8]),
            ("data_offsets", [-8, end]), ("data_offsets", None), ("data_offsets", [0, len(data)]),
            ("data_offsets", [begin, begin]), ("more", 1),
        ],
    )  # fmt: skip
    entry[field] = value
    image[file] = joined(json.dumps(header).encode(), data)
    return f"{file}: {name}.{field} = {value!r:.60}"


def _header_names(image, rng, trap):
    """Tensors renamed, exchanged, deleted, added, listed twice."""
    file = _weights(image, rng)
    header, data = split(image[file])
    names = sorted(set(header) - {"__metadata__"})
    name, other = _choose(rng, names), _choose(rng, names)
    entry = header[name]
    kind = _choose(
        rng,
        [
            "exchange", "exchange", "rename", "prefix", "old", "delete", "list", "twice", "value", "meta",
            "same shape",
        ],
    )  # fmt: skip
    text = None
    if kind == "exchange":
        header[name], header[other] = header[other], header[name]
    elif kind == "same shape":  # a file that is sound and states another model
        alike = [each for each in names if header[each]["shape"] == entry["shape"]]
        other = _choose(rng, alike)
        header[name], header[other] = header[other], header[name]
    elif kind == "rename":
        new = _choose(
            rng,
            [
                "x", "", other, "__metadata__", name + " ", name.upper(), "classifier.weight", "\x1b[31m\n",
                "embeddings.position_ids", "pooler.dense.weight", "a" * 5000, "\ud800",
            ],
        )  # fmt: skip
        header = {new if each == name else each: value for each, value in header.items()}
    elif kind == "prefix":
        first, _, rest = name.partition(".")
        new = _choose(rng, [rest, f"bert.{name}", f"roberta.{name}", f"model.{name}"])
        header = {new if each == name else each: value for each, value in header.items()}
    elif kind == "old":
        new = {"weight": "gamma", "bias": "beta", "gamma": "weight", "beta": "bias"}
        stem, _, last = name.rpartition(".")
        header = {f"{stem}.{new[last]}" if each == name else each: value for each, value in header.items()}
    elif kind == "delete":
        del header[name]
    elif kind == "list":
        header[name] = [entry["dtype"], entry["shape"], entry["data_offsets"]]
    elif kind == "value":
        header[name] = _choose(rng, [None, 1, "x", [], {}, {"dtype": "F32"}])
    elif kind == "meta":
        header["__metadata__"] = _choose(rng, [None, {}, {"format": "tf"}, {"a": 1}, [], "x", {"a": {"b": "c"}}])
    else:
        body = json.dumps({name: header[other] if rng.random() < 0.5 else entry | {"shape": entry["shape"][::-1]}})
        text = json.dumps(header)[:-1] + ", " + body[1:]
    image[file] = joined((text or json.dumps(header)).encode(), data)
    return f"{file}: {kind} {name} {other}"


def _header_text(image, rng, trap):
    file = _weights(image, rng)
    header, data = split(image[file])
    text = json.dumps(header).encode()
    text = _choose(
        rng,
        [
            b"", b"{}", b"[]", b"null", b"  " + text, text + b" " * 9, text + b"\0" * 8, text[:-1],
            text * 2, b"\xef\xbb\xbf" + text, text.replace(b"F32", b"F\xff2", 1), b"[" * 100_000,
            b'{"a":' * 100_000, text[:-1] + b', "x": ' + b"[" * 200 + b"]" * 200 + b"}",
            text.decode().encode("utf-16"), text.replace(b"[", b"[ ", 5), b" " * 9_000_000,
        ],
    )  # fmt: skip
    image[file] = joined(text, data)
    return f"{file}: {text[:30]!r}"


def _data_value(image, rng, trap):
    """A number that is not finite, or very large or small, in a sound file."""
    file = _weights(image, rng)
    header, data = split(image[file])
    name = _choose(rng, sorted(set(header) - {"__metadata__"}))
    dtype = {"F32": np.float32, "F64": np.float64, "F16": np.float16}[header[name]["dtype"]]
    begin, end = header[name]["data_offsets"]
    values = np.frombuffer(data[begin:end], dtype).copy()
    value = _choose(rng, [np.nan, np.inf, -np.inf, np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal, -0.0])
    values[rng.integers(values.size)] = value
    image[file] = image[file][: -len(data)] + data[:begin] + values.tobytes() + data[end:]
    return f"{file}: {name} gets {value}"


def _config_value(image, rng, trap):
    content = json.loads(image[CONFIG])
    key, value = _choose(rng, [*content, *OTHER_KEYS]), _choose(rng, BAD_VALUES)
    image[CONFIG] = json.dumps(content | {key: value}).encode()
    return f"{key} = {value!r:.30}"


def _config_near(image, rng, trap):
    """A number nearly right, a key gone: what people's own edits look like."""
    content = json.loads(image[CONFIG])
    key = _choose(rng, sorted(content))
    value = content.pop(key)
    if isinstance(value, int) and rng.random() < 0.8:
        content[key] = _choose(rng, [value + 1, value - 1, value * 2, -value, float(value), str(value), [value]])
    image[CONFIG] = json.dumps(content).encode()
    return f"{key}: {value} to {content.get(key)!r:.30}"


def _config_head(image, rng, trap):
    content = json.loads(image[CONFIG])
    family = _choose(rng, [*ARCHITECTURES, content["model_type"], content["model_type"], "gpt2", "Bert"])
    named = _choose(rng, [name for heads in ARCHITECTURES.values() for name in heads.values()])
    content["architectures"] = _choose(
        rng,
        [
            [named], [*ARCHITECTURES.get(family, ARCHITECTURES["bert"]).values()][:1], [], None, named,
            [named, named], ["BertForMultipleChoice"],
        ],
    )  # fmt: skip
    image[CONFIG] = json.dumps(content | {"model_type": family}).encode()
    return f"{family} {content['architectures']}"


def _config_text(image, rng, trap):
    text = image[CONFIG]
    image[CONFIG] = _choose(
        rng,
        [
            b"", b"null", b"[]", b'"bert"', b"7", b"[" * 100_000, b'{"a":' * 100_000,
            b"{" + b" " * 9_000_000 + b"}", text[:-1] + b', "vocab_size": 7}', text[:-1] + b', "x": NaN}',
            text[:-1] + b', "x": 1e999}', text.replace(b"0.1", b"NaN", 1),
            text.replace(b"0.1", b"-Infinity", 1), text.replace(b": 4", b": 4e0", 1),
            text[:-1] + b', "x": ' + b"[" * 50 + b"]" * 50 + b"}",
            text[:-1] + b', "x": ' + b"9" * 5000 + b"}", text[:-1] + b', "x": "\xff"}',
            text[:-1] + b', "x": "\\ud800\\u0000\x1b"}', text[:-1] + b', "x": "\\ud800"}',
            b"\xef\xbb\xbf" + text, text.decode().encode("utf-16"), text.replace(b'"', b"'"), text + b",",
            text + text,
        ],
    )  # fmt: skip
    return repr(image[CONFIG][-30:])


def _index(image, rng, trap):
    content = json.loads(image[INDEX])
    places = content["weight_map"]
    name, shard = (
        _choose(rng, sorted(places)),
        _choose(
            rng,
            [
                "../model.safetensors", "/dev/zero", "model-1.safetensors", "model-9.safetensors",
                "vocab.txt", "", ".", "a/model-1.safetensors", "model-1.safetensors\0", None, 3,
                "pytorch_model.bin", ".safetensors", "x" * 300 + ".safetensors",
            ],
        ),
    )  # fmt: skip
    if rng.random() < 0.3:
        name = "new.tensor"
    content["weight_map"] = _choose(
        rng,
        [
            places | {name: shard}, places | {name: shard}, [], {}, None, {name: shard},
            {each: places[each] for each in places if each != name},
        ],
    )  # fmt: skip
    image[INDEX] = json.dumps(content).encode()
    return f"{name} in {shard!r:.40}"


_MUTATIONS = [
    _flip, _flip, _flip_data, _flip_data, _truncate, _lengthen, _overwrite, _remove, _swap, _from_another,
    _special, _pickle, _header_length, _header_entry, _header_entry, _header_entry, _header_names,
    _header_names, _header_names, _header_text, _data_value, _data_value, _config_value, _config_near,
    _config_near, _config_head, _config_text, _index,
]  # fmt: skip
