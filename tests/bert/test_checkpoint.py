"""What transformers saves is read, what is written transformers opens, and nothing is half written."""

import json
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bertcraft.bert import checkpoint
from bertcraft.bert.layout import parameter_shapes, tied_parameters
from bertcraft.errors import InputError
from bertcraft.tensor import tree

sys.path.insert(0, str(Path(__file__).parent))
from small_checkpoints import assert_same, edit_config, refused, saved, small
from transformers_models import ALL_PAIRS, OTHER_NAMES, PAIRS, class_name, make, named

AUTO = {
    "base": transformers.AutoModel,
    "masked_lm": transformers.AutoModelForMaskedLM,
    "sequence_classification": transformers.AutoModelForSequenceClassification,
    "token_classification": transformers.AutoModelForTokenClassification,
    "question_answering": transformers.AutoModelForQuestionAnswering,
    "replaced_token_detection": transformers.AutoModelForPreTraining,
    "pretraining": transformers.AutoModelForPreTraining,
}


@pytest.fixture(autouse=True)
def _quiet():
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()


# -------------------------------------------------------------------------------- against transformers


@pytest.mark.parametrize(("family", "head"), ALL_PAIRS)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**16), tied=st.booleans())
def test_what_transformers_saves_is_read_and_what_is_written_it_opens(family, head, tmp_path_factory, seed, tied):
    model = make(family, head, seed, torch.float32, tie_word_embeddings=tied)
    theirs, ours = tmp_path_factory.mktemp("theirs"), tmp_path_factory.mktemp("ours") / "new" / "folder"
    model.save_pretrained(theirs)

    config, params = checkpoint.read(theirs)
    assert (config.model_type, config.head, config.tie_word_embeddings) == (family, head, tied)
    assert config.family == OTHER_NAMES.get(family, family)
    state = {name: value.numpy() for name, value in named(model, model.state_dict(), family, head).items()}
    assert_same(params, {name: state[name] for name in parameter_shapes(config)})
    assert state.keys() == parameter_shapes(config).keys() | tied_parameters(config).keys()

    checkpoint.write(ours, config, params)
    opened, info = AUTO[head].from_pretrained(ours, output_loading_info=True)
    assert not any(info.values()), info
    assert type(opened) is type(model)
    again = named(opened, opened.state_dict(), family, head)
    for name, value in state.items():
        np.testing.assert_array_equal(again[name].numpy(), value, err_msg=name)
    skip = ("_name_or_path", "transformers_version", "position_embedding_type")
    contents = [{k: v for k, v in each.config.to_dict().items() if k not in skip} for each in (opened, model)]
    assert contents[0] == contents[1]
    assert checkpoint.read(ours)[0] == config
    with (
        safe_open(ours / "model.safetensors", "np") as file,
        safe_open(theirs / "model.safetensors", "np") as original,
    ):
        assert file.metadata() == {"format": "pt"}
        assert sorted(file.keys()) == sorted(original.keys())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_float_types_are_read_exactly(tmp_path, dtype):
    model = make("bert", "masked_lm", 5, torch.float32).to(dtype)
    model.save_pretrained(tmp_path)
    config, params = checkpoint.read(tmp_path)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    state = {name: value.to(wide).numpy() for name, value in model.state_dict().items()}
    assert_same(params, {name: state[name] for name in parameter_shapes(config)})


def test_one_float64_tensor_makes_all_float64(tmp_path):
    _, tensors = saved(tmp_path)
    tensors["pooler.dense.bias"] = tensors["pooler.dense.bias"].astype(np.float64) + 1e-12
    save_file(tensors, tmp_path / "model.safetensors")
    _, params = checkpoint.read(tmp_path)
    assert_same(params, {f"bert.{name}": value.astype(np.float64) for name, value in tensors.items()})


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_float64_and_float16_are_written_as_they_are(tmp_path, dtype):
    config, params = small()
    params = tree.map(lambda value: value.astype(dtype), params)
    checkpoint.write(tmp_path, config, params)
    opened = transformers.AutoModel.from_pretrained(tmp_path)
    for name, value in opened.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), dict(tree.items(params))[f"bert.{name}"])
        assert value.numpy().dtype == dtype
    back = checkpoint.read(tmp_path)[1]
    expected = np.float64 if dtype == np.float64 else np.float32
    assert_same(back, {name: value.astype(expected) for name, value in tree.items(params)})


def test_a_sharded_checkpoint_is_read(tmp_path):
    model = make("electra", "masked_lm", 4, torch.float32)
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2 and not (tmp_path / "model.safetensors").exists()
    config, params = checkpoint.read(tmp_path)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    assert_same(params, {name: state[name] for name in parameter_shapes(config)})


# -------------------------------------------------------------------------------- names old and new


def test_old_names_buffers_and_leftovers_of_pretraining_are_understood(tmp_path):
    """The file of bert-base-uncased: gamma and beta, position ids, a masked LM that kept pooler and NSP."""
    config, params = small("bert", "pretraining")
    flat = dict(tree.items(params))
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in flat.items()
    }
    old["bert.embeddings.position_ids"] = np.arange(9)[None]
    old["cls.predictions.decoder.weight"] = flat["bert.embeddings.word_embeddings.weight"]
    old["cls.predictions.decoder.bias"] = flat["cls.predictions.bias"]
    checkpoint.write(tmp_path, config, params)
    save_file(old, tmp_path / "model.safetensors", {"format": "pt"})
    edit_config(tmp_path, architectures=["BertForMaskedLM"])

    config, params = checkpoint.read(tmp_path)
    assert config.head == "masked_lm"
    assert_same(params, {name: flat[name] for name in parameter_shapes(config)})
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).state_dict()
    for name, value in tree.items(params):
        np.testing.assert_array_equal(value, theirs[name].numpy())


def test_a_head_of_pretraining_is_ignored_in_a_base_model_but_not_a_classifier(tmp_path):
    _, tensors = saved(tmp_path, "bert", "pretraining")
    edit_config(tmp_path, architectures=["BertModel"])
    config, params = checkpoint.read(tmp_path)
    assert_same(params, {name: tensors[name] for name in parameter_shapes(config)})
    tensors["classifier.weight"] = np.ones((2, 6), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    refused(tmp_path, "not those of the BertModel in config.json", "unexpected 'classifier.weight'")


def test_a_base_model_without_pooler_is_read_and_written(tmp_path):
    _, tensors = saved(tmp_path)
    without = {name: value for name, value in tensors.items() if not name.startswith("pooler")}
    save_file(without, tmp_path / "model.safetensors")
    config, params = checkpoint.read(tmp_path)
    assert not config.add_pooling_layer
    assert_same(params, {f"bert.{name}": value for name, value in without.items()})
    checkpoint.write(tmp_path / "again", config, params)
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == without.keys()
    save_file(without | {"pooler.dense.bias": tensors["pooler.dense.bias"]}, tmp_path / "model.safetensors")
    refused(tmp_path, "missing 'bert.pooler.dense.weight'")


@pytest.mark.parametrize(("family", "head"), [pair for pair in PAIRS if pair[1] in ("masked_lm", "pretraining")])
def test_a_tied_tensor_may_be_there_twice_if_equal_and_under_either_name(tmp_path, family, head):
    config, tensors = saved(tmp_path, family, head)
    file, tied = tmp_path / "model.safetensors", tied_parameters(config)
    copies = {name: tensors[parameter] for name, parameter in tied.items()}
    for content in (
        tensors | copies,
        {name: value for name, value in tensors.items() if name not in tied.values()} | copies,
    ):
        save_file(content, file)
        assert_same(checkpoint.read(tmp_path)[1], {name: tensors[name] for name in parameter_shapes(config)})
    for name, value in copies.items():
        save_file(tensors | copies | {name: np.nextafter(value, np.float32(9))}, file)
        refused(tmp_path, f"{name} differs from {tied[name]}", "tie_word_embeddings")
        save_file(tensors | copies | {name: value[:-1].copy()}, file)
        refused(tmp_path, f"{name}: got the shape", "vocab_size 11")


def test_the_same_tensor_under_two_names_is_refused(tmp_path):
    _, tensors = saved(tmp_path)
    bias = tensors["embeddings.LayerNorm.bias"]
    for other in ("embeddings.LayerNorm.beta", "bert.embeddings.LayerNorm.bias"):
        save_file(tensors | {other: bias}, tmp_path / "model.safetensors")
        refused(tmp_path, "twice")


# -------------------------------------------------------------------------------- writing


def test_writing_keeps_other_files_and_replaces_its_own(tmp_path):
    config, params = small()
    (tmp_path / "notes.txt").write_text("mine")
    checkpoint.write(tmp_path, config, params, {"tokenizer.json": b"{}", "vocab.txt": b"[PAD]\n"})
    changed = tree.map(lambda value: value + 1, params)
    checkpoint.write(tmp_path, config, changed)
    assert_same(checkpoint.read(tmp_path)[1], dict(tree.items(changed)))
    names = {"notes.txt", "config.json", "model.safetensors", "tokenizer.json", "vocab.txt"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert checkpoint.read_tokenizer_files(tmp_path) == {"tokenizer.json": b"{}", "vocab.txt": b"[PAD]\n"}


def test_arrays_that_are_not_contiguous_are_written_right(tmp_path):
    config, params = small()
    turned = tree.map(lambda value: np.asfortranarray(value)[::1], params)
    checkpoint.write(tmp_path, config, turned)
    assert_same(checkpoint.read(tmp_path)[1], dict(tree.items(params)))


def test_what_is_not_the_model_of_the_config_is_not_written(tmp_path):
    config, params = small()
    flat = dict(tree.items(params))
    name = "bert.pooler.dense.bias"
    for bad, part in (
        ({key: value for key, value in flat.items() if key != name}, f"missing '{name}'"),
        (flat | {"adapter": flat[name]}, "unexpected 'adapter'"),
        (flat | {name: flat[name][:-1]}, "got the shape (5,), expected (6,)"),
        (flat | {name: flat[name].astype(np.int32)}, "got int32, expected float32"),
        (flat | {name: flat[name] * np.nan}, "got NaN or infinity"),
    ):
        with pytest.raises(InputError) as caught:
            checkpoint.write(tmp_path / "new", config, tree.nest(bad))
        assert part in str(caught.value)
    with pytest.raises(InputError, match="tokenizer_files: got '../x'"):
        checkpoint.write(tmp_path / "new", config, params, {"../x": b""})
    with pytest.raises(InputError, match=r"config\.extra"):
        checkpoint.write(tmp_path / "new", replace(config, extra={"x": {1j}}), params)
    with pytest.raises(InputError, match="config: got .* bytes of JSON, expected at most 8,388,608"):
        checkpoint.write(tmp_path / "new", replace(config, extra={"x": [0] * 2_000_000}), params)
    assert not (tmp_path / "new").exists()


WRITER = """
import sys
from pathlib import Path
import numpy as np
from bertcraft.bert import checkpoint
from bertcraft.tensor import tree
folder = Path(sys.argv[1])
config, params = checkpoint.read(folder)
"""


def test_a_config_of_the_largest_size_can_be_read_again(tmp_path):
    config, params = small(num_labels=100_000)
    checkpoint.write(tmp_path, config, params)
    assert (tmp_path / "config.json").stat().st_size > 5_000_000 and checkpoint.read(tmp_path)[0] == config


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    """The system refuses to let a file grow beyond the limit, as a full disk would."""
    config, params = small(vocab_size=500)
    checkpoint.write(tmp_path, config, params, {"vocab.txt": b"[PAD]\n"})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    program = WRITER + (
        "changed = tree.map(lambda value: value + 1, params)\n"
        "try:\n    checkpoint.write(folder, config, changed, {'vocab.txt': b'x'})\n"
        "except checkpoint.CheckpointError as error:\n    print(error)\n"
    )
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))  # noqa: E731
    run = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=60,
    )
    assert run.returncode == 0 and not run.stderr
    assert "could not be written" in run.stdout and "free space" in run.stdout and run.stdout.count("\n") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_writer_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    config, params = small(vocab_size=3000)
    checkpoint.write(tmp_path, config, tree.map(np.zeros_like, params))
    program = WRITER + (
        "print('ready', flush=True)\n"
        "for step in range(100_000):\n"
        "    checkpoint.write(folder, config, tree.map(lambda value: np.full_like(value, step), params))\n"
    )
    rng = np.random.default_rng(0)
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.02, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        values = {value.item(index) for value in tree.leaves(checkpoint.read(tmp_path)[1]) for index in (0, -1)}
        assert len(values) == 1


def test_the_class_of_each_head_is_written(tmp_path):
    for family, head in PAIRS:
        saved(tmp_path, family, head)
        content = json.loads((tmp_path / "config.json").read_text())
        assert content["architectures"] == [class_name(family, head)] and content["dtype"] == "float32"
