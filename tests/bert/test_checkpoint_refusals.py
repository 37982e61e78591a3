"""Checkpoint folders that are damaged, hostile or not what they say: each is refused with one clear line."""

import json
import os
import pickle
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bertcraft.bert import checkpoint
from bertcraft.tensor import tree

sys.path.insert(0, str(Path(__file__).parent))
from small_checkpoints import assert_same, edit_config, refused, saved, small


def test_missing_and_unexpected_tensors_are_listed(tmp_path):
    _, tensors = saved(tmp_path)
    few = {name: value for name, value in tensors.items() if "layer.1." not in name}
    save_file(few, tmp_path / "model.safetensors")
    refused(tmp_path, "missing 'bert.encoder.layer.1.attention.self.query.weight', ", " and 11 more")
    edit_config(tmp_path, num_hidden_layers=1)
    checkpoint.read(tmp_path)
    save_file(few | {"adapter.x": tensors["pooler.dense.bias"]}, tmp_path / "model.safetensors")
    assert "missing '" not in refused(tmp_path, "unexpected 'adapter.x'")


@pytest.mark.parametrize(
    ("family", "change", "parts"),
    [
        (
            "bert",
            {"vocab_size": 12},
            ("word_embeddings", "shape (11, 6), expected (12, 6)", "has vocab_size 12"),
        ),
        ("bert", {"hidden_size": 8}, ("shape (11, 6), expected (11, 8)", "has hidden_size 8")),
        ("bert", {"type_vocab_size": 3}, ("token_type_embeddings", "has type_vocab_size 3")),
        ("bert", {"intermediate_size": 7}, ("intermediate.dense.weight", "has intermediate_size 7")),
        ("bert", {"num_hidden_layers": 3}, ("missing 'bert.encoder.layer.2.",)),
        ("bert", {"num_hidden_layers": 1}, ("unexpected 'encoder.layer.1.",)),
        ("distilbert", {"dim": 8}, ("shape (11, 6), expected (11, 8)", "has dim 8")),
        ("albert", {"embedding_size": 127}, ("shape (11, 128)", "has embedding_size 127")),
        ("electra", {"embedding_size": 6}, ("unexpected 'embeddings_project.",)),
        (
            "albert",
            {"inner_group_num": 2},
            ("missing 'albert.encoder.albert_layer_groups.0.albert_layers.1.",),
        ),
        (
            "bert",
            {"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]},
            ("config.json: architectures",),
        ),
        ("bert", {"model_type": "distilbert", "architectures": None}, ("missing", "unexpected")),
    ],
    ids=str,
)
def test_a_config_that_contradicts_the_weights_is_refused(tmp_path, family, change, parts):
    saved(tmp_path, family)
    edit_config(tmp_path, **change)
    refused(tmp_path, *parts)


def test_a_classifier_with_another_number_of_labels_is_refused(tmp_path):
    saved(tmp_path, "bert", "sequence_classification", num_labels=3)
    edit_config(tmp_path, id2label={"0": "a", "1": "b"}, label2id=None)
    refused(tmp_path, "classifier.weight: got the shape (3, 6), expected (2, 6)", "num_labels 2")


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.bool_, np.uint16])
def test_numbers_that_are_no_floats_are_refused(tmp_path, dtype):
    _, tensors = saved(tmp_path)
    save_file(tensors | {"pooler.dense.bias": np.ones(6, dtype)}, tmp_path / "model.safetensors")
    refused(tmp_path, "bert.pooler.dense.bias: got the dtype ", "expected one of F64, F32, F16, BF16")


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, bad, dtype):
    _, tensors = saved(tmp_path)
    tensors["encoder.layer.1.output.dense.weight"] = np.ones((6, 5), dtype)
    tensors["encoder.layer.1.output.dense.weight"][3, 2] = bad
    save_file(tensors, tmp_path / "model.safetensors")
    refused(tmp_path, "encoder.layer.1.output.dense.weight holds NaN or infinity")


def test_files_that_are_missing_or_of_another_kind_are_named(tmp_path):
    refused(tmp_path / "nowhere", "no such folder")
    refused(tmp_path, "got no config.json")
    saved(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    weights.rename(tmp_path / "elsewhere")
    refused(tmp_path, "expected model.safetensors (or model.safetensors.index.json), got none")
    os.mkfifo(weights)  # opening it would wait for ever
    refused(tmp_path, "expected a regular file")
    weights.unlink()
    weights.symlink_to("/dev/zero")
    refused(tmp_path, "expected a regular file")
    weights.unlink()
    weights.symlink_to(tmp_path / "elsewhere")  # the cache of the hub is made of symlinks
    checkpoint.read(tmp_path)
    config.unlink()
    config.mkdir()
    refused(tmp_path, "config.json: expected a regular file")


def test_a_pickle_is_never_opened(tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    opened = tmp_path / "opened"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(opened),)

    trap = pickle.dumps(Trap())
    (tmp_path / "pytorch_model.bin").write_bytes(trap)
    refused(
        tmp_path,
        "got only 'pytorch_model.bin', which can run any code and is never opened",
        "save_pretrained",
    )
    (tmp_path / "model.safetensors").write_bytes(trap)
    refused(tmp_path, "damaged or not safetensors")
    (tmp_path / "config.json").write_bytes(trap)
    refused(tmp_path, "not valid JSON")
    assert not opened.exists()
    pickle.loads(trap)
    assert opened.exists()  # the trap works


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "got a JSON list, expected an object"),
        (b'{"model_type": "bert", "model_type": "bert"}', "the key 'model_type' stands twice"),
        (b'{"model_type": "bert", "x": {"a": 1, "a": 1}}', "the key 'a' stands twice"),
        (b'{"model_type": "bert", "x": NaN}', "got the number NaN"),
        (b'{"model_type": "bert", "x": [-Infinity]}', "got the number -Infinity"),
        (b'{"model_type": "bert", "x": 1e999}', "got the number 1e999"),
        (b'{"model_type": "bert", "x": ' + b"9" * 5000 + b"}", "4300 digits"),
        (b'{"model_type": "bert", "x": ' + b"[" * 33 + b"]" * 33 + b"}", "nested deeper than 32 levels"),
        (b"[" * 4_000_000, "nested deeper than 32 levels"),
        (b'{"x": "' + b'\\"' * 2_000_000, "not valid JSON"),
        (b'{"model_type": "\xff"}', "not valid JSON"),
        (b'{"model_type": "bert"}' + b" " * 2**23, "expected at most 8,388,608"),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else None,
)
def test_a_bad_config_file_is_refused_quickly(tmp_path, text, part):
    saved(tmp_path)
    (tmp_path / "config.json").write_bytes(text)
    start = time.process_time()
    refused(tmp_path, "config.json", part)
    assert time.process_time() - start < 5


def test_brackets_in_strings_are_no_nesting(tmp_path):
    config, _ = saved(tmp_path)
    edit_config(tmp_path, note="[" * 100 + '\\"{' * 100)
    assert checkpoint.read(tmp_path)[0] == replace(config, extra={"note": "[" * 100 + '\\"{' * 100})


def write_raw(path: Path, header: bytes, data: bytes, length: int | None = None) -> None:
    size = len(header) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + header + data)


def test_a_header_that_lies_is_refused(tmp_path):
    saved(tmp_path)
    file = tmp_path / "model.safetensors"
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    name = "pooler.dense.bias"

    def with_entry(**changes):
        return json.dumps(header | {name: header[name] | changes}).encode()

    begin, end = header[name]["data_offsets"]
    cases = {
        "truncated": (json.dumps(header).encode(), data[:-1], None),
        "longer": (json.dumps(header).encode(), data + b"\0", None),
        "shape": (with_entry(shape=[7]), data, None),
        "negative": (with_entry(shape=[-6]), data, None),
        "huge": (with_entry(shape=[2**62, 2**62]), data, None),
        "overlap": (with_entry(data_offsets=[begin - 4, end - 4]), data, None),
        "reversed": (with_entry(data_offsets=[end, begin]), data, None),
        "list": (json.dumps(header | {name: ["F32", [6], [begin, end]]}).encode(), data, None),
        "length": (json.dumps(header).encode(), data, 2**63),
        "length beyond the file": (json.dumps(header).encode(), data, len(raw)),
        "twice": (
            json.dumps(header).encode()[:-1] + f', "{name}": {json.dumps(header[name])}}}'.encode(),
            data,
            None,
        ),
        "nothing": (b"", b"", None),
    }
    for case, (text, content, size) in cases.items():
        write_raw(file, text, content, size)
        assert refused(tmp_path, "model.safetensors"), case
    file.write_bytes(raw[:5])
    refused(tmp_path, "damaged")


def test_the_size_of_the_file_is_checked_before_memory_is_taken(tmp_path):
    """Config and header agree on 4 GB of embeddings, the file is small."""
    saved(tmp_path)
    edit_config(tmp_path, vocab_size=10**9 // 6)
    file = tmp_path / "model.safetensors"
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    entry = header["embeddings.word_embeddings.weight"]
    grown = 10**9 // 6 * 24 - 11 * 24
    after = entry["data_offsets"][0]
    for other in header.values():
        if "data_offsets" in other:
            begin, end = other["data_offsets"]
            other["data_offsets"] = [begin + grown * (begin > after), end + grown * (begin >= after)]
    entry["shape"] = [10**9 // 6, 6]
    write_raw(file, json.dumps(header).encode(), raw[8 + length :])
    tracemalloc.start()
    try:
        refused(tmp_path, "not valid safetensors")
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


def test_float32_weights_are_read_into_memory_once(tmp_path):
    config, params = small(vocab_size=20_000, hidden_size=64, max_position_embeddings=512)
    total = sum(value.nbytes for value in tree.leaves(params))
    checkpoint.write(tmp_path, config, params)
    checkpoint.read(tmp_path)  # imports
    tracemalloc.start()
    try:
        again = checkpoint.read(tmp_path)[1]
        assert tracemalloc.get_traced_memory()[1] < 1.1 * total
    finally:
        tracemalloc.stop()
    assert_same(again, dict(tree.items(params)))
    assert all(value.flags.writeable and value.flags.c_contiguous for value in tree.leaves(again))


@pytest.mark.parametrize(
    ("places", "part"),
    [
        ({"x": "../model.safetensors"}, "got the file '../model.safetensors'"),
        ({"x": "/etc/passwd.safetensors"}, "got the file '/etc/passwd.safetensors'"),
        ({"x": "pytorch_model.bin"}, "got the file 'pytorch_model.bin'"),
        ({"x": "a\\b.safetensors"}, "got the file"),
        ({"x": "model-1.safetensors"}, "which model.safetensors.index.json does not place there"),
        ({"x": "gone.safetensors"}, "gone.safetensors: expected a regular file, got none"),
        ({"x": 3}, "expected a 'weight_map'"),
        ([], "expected a 'weight_map'"),
        (None, "expected a 'weight_map'"),
        ({}, "missing"),
    ],
    ids=str,
)
def test_a_bad_index_of_shards_is_refused(tmp_path, places, part):
    saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-1.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    refused(tmp_path, part)


def test_an_index_that_names_a_tensor_no_shard_holds_is_refused(tmp_path):
    _, tensors = saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "a.safetensors")
    places = dict.fromkeys([*tensors], "a.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert_same(checkpoint.read(tmp_path)[1], {f"bert.{name}": value for name, value in tensors.items()})
    index.write_text(json.dumps({"weight_map": places | {"ghost": "a.safetensors"}}))
    refused(tmp_path, "the files do not hold 'ghost'")
