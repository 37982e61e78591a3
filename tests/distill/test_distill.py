"""The command in processes of its own: what it saves opens elsewhere with the same answers; killed; on bad input."""

import gzip
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import polars as pl
import pytest
import torch

import bertcraft as bc
from bertcraft.bert import Config, Model, initial_params
from bertcraft.bert.sentence_modules import Normalize, Pipeline, Pooling
from bertcraft.cli.distill import _texts
from bertcraft.data import cache
from bertcraft.data.tokenizer import load_tokenizer
from bertcraft.tensor import tree

warnings.filterwarnings("ignore", module="sentence_transformers")
logging.getLogger("sentence_transformers").setLevel(logging.ERROR)

WORDS = [a + b for a in "bdgkmt" for b in ("ank", "oll", "est", "in", "upe")]
LABELS = ("money", "travel", "weather")
FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "distillation.json"}
SENTENCE_FILES = {"modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling", "2_Normalize"}


def teacher(folder, head="base", layers=4, **changes):
    """Random weights, large enough that each layer matters."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    config = Config(
        family="bert", head=head, vocab_size=len(vocabulary), hidden_size=24, num_hidden_layers=layers, num_attention_heads=3,
        intermediate_size=40, max_position_embeddings=20, **changes,
    )  # fmt: skip
    model = Model(config, initial_params(config, 1, deviation=0.3))
    model.tokenizer = load_tokenizer(folder)
    model.save(folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill")
    teacher(folder / "encoder")
    teacher(folder / "classifier", "sequence_classification", num_labels=3, id2label=dict(enumerate(LABELS)))
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(4, 12), replace=False)) for _ in range(400)]
    (folder / "texts.txt").write_text("\n".join(texts) + "\n")
    (folder / "held.txt").write_text("\n".join(" ".join(rng.choice(WORDS, 7)) for _ in range(60)) + "\n")
    rows = [json.dumps({"body": text, "topic": LABELS[i % 3] if i % 5 else ""}) for i, text in enumerate(texts)]
    (folder / "table.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def start(*arguments):
    environment = os.environ | {"COLUMNS": "80", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "bertcraft.cli", "distill", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    return subprocess.Popen(command, env=environment, **pipes)


def finish(process):
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def refused(*arguments) -> str:
    status, output, errors = finish(start(*arguments))
    assert (status, output) == (2, ""), (status, output, errors)
    assert errors.startswith("error: ") and errors.count("\n") == 1, errors
    return errors


def rows_of(output) -> dict:
    """The table: a row's three numbers, an empty place as None."""
    found = {}
    for line in output.splitlines():
        if match := re.match(r"(\S.*?)\s{2,}([\d.,]+)(?:\s+([\d.,]+))??\s+([\d.,]+)\s*$", line):
            numbers = [None if each is None else float(each.replace(",", "")) for each in match.groups()[1:]]
            found[match[1]] = numbers
    return found


def longest_line(output) -> int:
    """Of all lines but the one to copy, which holds a path."""
    return max(len(line) for line in output.splitlines() if "/" not in line)


@pytest.fixture(scope="module")
def student(place):
    """A student of vectors, and what was printed."""
    status, output, errors = finish(
        start(place / "encoder", place / "texts.txt", "--layers", 2, "--steps", 150, "--rate", "3e-3", "--out", place / "small")
    )
    assert status == 0, errors
    return place / "small", output, errors


def test_the_table_is_measured_and_the_student_has_learnt(place, student):
    folder, output, errors = student
    assert longest_line(output) <= 80
    assert "150 steps of 32 texts: each of 360 is read 13.3 times" in errors and "40 held-out texts" in output
    rows, facts = rows_of(output), json.loads((folder / "distillation.json").read_text())
    assert rows["layers"] == [4, 2, 2]
    large, small = (sum(leaf.size for leaf in tree.leaves(bc.load(each).params)) for each in (place / "encoder", folder))
    assert [facts["table"][name]["parameters"] for name in ("teacher", "student")] == [large, small]
    size = (folder / "model.safetensors").stat().st_size
    assert facts["table"]["student"]["bytes"] == size < facts["table"]["teacher"]["bytes"]
    one, untaught, taught = rows["cosine with the teacher's vector"]
    assert one == 1 and taught > untaught + 0.05
    _, untaught, taught = rows["same nearest neighbour, %"]
    assert taught > untaught
    assert all(facts["table"][name]["speed"] > 0 for name in ("teacher", "student"))


def test_what_is_printed_is_what_the_folder_gives(place, student):
    folder, output, _ = student
    texts = (place / "texts.txt").read_text().splitlines()
    order = np.random.default_rng(0).permutation(400)
    held_out, read = [texts[i] for i in order[:40]], [texts[i] for i in order[40:]]
    large, small = bc.load(place / "encoder"), bc.load(folder)
    theirs, own = large.encode(held_out), small.encode(held_out)
    facts = json.loads((folder / "distillation.json").read_text())["table"]["student"]
    assert facts["cosine"] == pytest.approx(np.sum(theirs * own, axis=1).mean(), abs=1e-5)
    nearest = (theirs @ large.encode(read).T).argmax(axis=1) == (own @ small.encode(read).T).argmax(axis=1)
    assert facts["neighbour"] == pytest.approx(nearest.mean())


def test_it_opens_in_sentence_transformers_and_transformers_with_the_same_vectors(place, student):
    import transformers
    from sentence_transformers import SentenceTransformer

    folder, _, _ = student
    assert {path.name for path in folder.iterdir()} - {"vocab.txt", "special_tokens_map.json"} == FILES | SENTENCE_FILES
    texts = (place / "held.txt").read_text().splitlines()
    vectors = bc.load(folder).encode(texts)
    np.testing.assert_allclose(SentenceTransformer(str(folder), device="cpu").encode(texts), vectors, atol=1e-5)
    model, found = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    batch = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(torch.nn.functional.normalize(mean).numpy(), vectors, atol=1e-5)


def test_words_that_were_not_shown_are_the_teachers(place, student):
    folder, _, _ = student
    tables = [bc.load(each).params["bert"]["embeddings"] for each in (place / "encoder", folder)]
    tree.map(np.testing.assert_array_equal, *tables)


def test_the_same_command_again_prints_the_table_and_trains_nothing(place, student):
    folder, output, _ = student
    before = (folder / "model.safetensors").stat().st_mtime_ns
    again = (place / "encoder", place / "texts.txt", "--layers", 2, "--steps", 150, "--rate", "3e-3", "--out", folder)
    status, told, errors = finish(start(*again))
    assert status == 0 and told == output and "already" in errors
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    message = refused(place / "encoder", place / "texts.txt", "--layers", 3, "--steps", 150, "--out", folder)
    assert "holds another student (layers 2 there, 3 here; rate 0.003 there, 0.0005 here)" in message


def test_a_pipeline_of_sentence_transformers_is_kept(place, tmp_path):
    from sentence_transformers import SentenceTransformer

    model = bc.load(place / "encoder")
    model.pipeline = Pipeline(
        Pooling(("cls", "mean")), (Normalize(),), max_length=9, prompts={"query": "bank : ", "document": ""},
        default_prompt_name="query",
    )  # fmt: skip
    model.save(tmp_path / "teacher")
    arguments = (tmp_path / "teacher", place / "texts.txt", "--layers", 1, "--steps", 20, "--out", tmp_path / "small")
    assert finish(start(*arguments))[0] == 0
    texts = (place / "held.txt").read_text().splitlines()
    found = bc.load(tmp_path / "small")
    assert (found.pipeline.pooling.modes, found.pipeline.max_length) == (("cls", "mean"), 9)
    expected = SentenceTransformer(str(tmp_path / "small"), device="cpu").encode(texts)
    np.testing.assert_allclose(found.encode(texts), expected, atol=1e-5)


def test_a_classifiers_student_names_its_classes(place, tmp_path):
    import transformers

    out = tmp_path / "small"
    table = ("--text", "body", "--label", "topic")
    arguments = (
        place / "classifier",
        place / "table.jsonl",
        *table,
        "--layers",
        2,
        "--steps",
        150,
        "--rate",
        "3e-3",
        "--out",
        out,
    )
    status, output, errors = finish(start(*arguments))
    assert status == 0, errors
    assert longest_line(output) <= 80
    rows, facts = rows_of(output), json.loads((out / "distillation.json").read_text())
    hundred, untaught, taught = rows["same class as the teacher, %"]
    assert hundred == 100 and taught > untaught
    assert "accuracy, %" in rows and f"{facts['labelled']} held-out texts with a class of" in output
    texts = (place / "held.txt").read_text().splitlines()
    answers = transformers.pipeline("text-classification", str(out))(texts)
    model = bc.load(out)
    for text, answer in zip(texts, answers, strict=True):
        logits = model(np.array([model.tokenizer.encode(text).ids])).logits[0]
        chosen = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert answer["label"] == LABELS[chosen.argmax()] and answer["score"] == pytest.approx(chosen.max(), abs=1e-5)
    assert not (out / "modules.json").exists()


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_run_that_was_killed_or_interrupted_ends_with_the_same_student(place, tmp_path):
    own = (place / "encoder", place / "texts.txt", "--layers", 2, "--steps", 600)
    assert finish(start(*own, "--out", tmp_path / "whole"))[0] == 0
    out = tmp_path / "stopped"
    state = out / ".distilling" / "state" / "state.safetensors"
    for stop in (signal.SIGKILL, signal.SIGINT):
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = start(*own, "--out", out)
        limit = time.monotonic() + 120
        while not state.exists() or state.stat().st_mtime_ns == before:
            assert time.monotonic() < limit and process.poll() is None, "no state was saved"
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(stop)
        status, _, errors = finish(process)
        assert status == (-signal.SIGKILL if stop == signal.SIGKILL else 130), errors
        assert not (out / "distillation.json").exists()
    assert "saved in" in errors
    assert finish(start(*own, "--out", out))[0] == 0
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert not (out / ".distilling").exists()


def test_two_processes_do_not_write_one_folder(place, tmp_path):
    (tmp_path / "small" / ".distilling").mkdir(parents=True)
    with cache.lock(tmp_path / "small" / ".distilling" / "lock"):
        message = refused(place / "encoder", place / "texts.txt", "--layers", 2, "--steps", 5, "--out", tmp_path / "small")
    assert "another process distills into it" in message


@pytest.mark.parametrize("name", ["t.tab", "t.ndjson", "t.pq", "t.csv.gz"])
def test_whatever_a_table_may_be_called_is_read_as_one(tmp_path, name):
    table, path = pl.DataFrame({"id": [1, 2], "text": ["ank", "bank"]}), tmp_path / name
    match name:
        case "t.tab":
            table.write_csv(path, separator="\t")
        case "t.ndjson":
            table.write_ndjson(path)
        case "t.pq":
            table.write_parquet(path)
        case _:
            path.write_bytes(gzip.compress(table.write_csv().encode()))
    assert _texts(str(path), None, None)[0] == ["ank", "bank"]


def test_rows_are_left_out_for_the_reason_that_is_told(tmp_path):
    path = tmp_path / "t.jsonl"
    objects = [
        '{"text": "ank", "topic": "money"}', '{"text": ["bank"]}', '{"text": " "}',
        '{"text": "dank", "topic": ["money", "travel"]}', "nonsense", '{"text": "gank"}',
    ]  # fmt: skip
    path.write_text("\n".join(objects) + "\n")
    texts, labels, notes = _texts(str(path), "text", None)
    assert (texts, labels) == (["ank", "dank", "gank"], None)
    assert notes == [
        "left out: 2 rows cannot be used (the first: line 2, a list in 'text' where a text or a label is expected)",
        "left out: 1 row without a text",
    ]
    texts, labels, more = _texts(str(path), "text", "topic")
    assert (texts, labels, more[:2]) == (["ank", "dank", "gank"], ["money", "", ""], notes)
    assert more[2:] == [
        "1 text is taken without its label (the first: line 4, a list in 'topic' where a text or a label is expected)"
    ]


def test_bad_input_is_told_in_one_line(place, tmp_path):
    encoder, texts = place / "encoder", place / "texts.txt"
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "few.txt").write_text("ank\n" * 300 + "bank\n")
    used = tmp_path / "used"
    used.mkdir()
    (used / "thesis.doc").write_text("x")
    to = ("--layers", 2, "--out", tmp_path / "new")
    for arguments, message in (
        ((encoder, tmp_path / "none.txt", *to), "none.txt: there is no such file"),
        ((encoder, tmp_path / "empty.txt", *to), "is empty: expected a text on each line"),
        ((encoder, tmp_path / "few.txt", *to), "got 2 different texts, expected at least 100"),
        ((encoder, texts, "--layers", 4, "--out", tmp_path / "new"), "got 4, but the teacher has 4: a student has fewer"),
        ((encoder, texts, "--layers", 2, "--out", used), "it holds 'thesis.doc'; choose a folder that is new or empty"),
        ((encoder, texts, "--layers", 2, "--out", encoder), "is in use: it holds"),
        ((encoder, texts, "--layers", 2, "--out", texts), "is a file: --out names a folder"),
        ((tmp_path / "no_model", texts, *to), "no such folder"),
        ((encoder, texts, *to, "--rate", "-1"), "rate: got -1.0, expected a number above 0"),
        ((encoder, texts, *to, "--label", "topic"), "texts.txt is no table"),
        ((encoder, place / "table.jsonl", *to, "--text", "bodies"), "did you mean 'body'?"),
        ((encoder, place / "table.jsonl", *to, "--text", "body", "--label", "topic"), "gives vectors, no classes"),
        ((place / "classifier", place / "table.jsonl", *to, "--text", "body", "--label", "body"), "no label is a class of this"),
    ):  # fmt: skip
        assert message in refused(*arguments), message
    assert not (tmp_path / "new").exists(), "nothing is made before the input is known to be good"
