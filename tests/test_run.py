"""`bertcraft run 01` as a user runs it: interrupted, resumed, its table, its plot, its model in transformers."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import bertcraft as bc
from bertcraft.lab.experiments.roberta_optimizations import EXPERIMENT


def start(out, *more):
    command = [sys.executable, "-m", "bertcraft.cli", "run", "01", "--quick", "--out", str(out), *more]
    environment = os.environ | {"COLUMNS": "80"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def figures(out):
    return {run["arm"]: run["figures"] for run in json.loads((out / "result.json").read_text())["runs"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "01"
    first = start(out)
    deadline = time.monotonic() + 240
    while not (out / "dynamic" / "state.safetensors").exists():
        assert first.poll() is None and time.monotonic() < deadline, first.communicate()
        time.sleep(0.05)
    time.sleep(0.5)
    first.send_signal(signal.SIGINT)
    interrupted = first.communicate(timeout=60)
    second = start(out)
    finished = second.communicate(timeout=240)
    return out, (first.returncode, *interrupted), (second.returncode, *finished)


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(run):
    out, (status, _, stderr), (again, stdout, _) = run
    assert status == 130 and "Traceback" not in stderr and len(stderr.strip().splitlines()) <= 3
    assert again == 0
    settings = EXPERIMENT.quick.quick.arm("dynamic").settings
    assert figures(out)["dynamic"]["readings"][-1] == settings["steps"] * settings["batch"] / settings["texts"]


def test_an_interrupted_run_ends_like_one_left_alone(run, tmp_path):
    out = run[0]
    alone = start(tmp_path / "alone")
    alone.communicate(timeout=240)
    a, b = (bc.load(folder / "dynamic" / "model").params["bert"]["encoder"] for folder in (out, tmp_path / "alone"))
    from bertcraft.tensor import tree

    assert all(np.array_equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))


def test_it_prints_a_table_filled_sentences_and_where_things_are(run):
    out, _, (_, stdout, _) = run
    words = "static", "dynamic", "word frequencies", "loss", "guessed", "nats", "[MASK]", "->"
    for expected in (*words, str(out / "dynamic" / "model"), "held_out_loss.png"):
        assert expected in stdout.replace("\n", ""), expected
    assert all(len(line) <= 80 for line in stdout.splitlines() if str(out) not in line)
    static, dynamic = (figures(out)[arm] for arm in ("static", "dynamic"))
    assert static["loss"] != dynamic["loss"] and dynamic["loss"] < dynamic["unigram"] == static["unigram"]
    assert (out / "held_out_loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_model_opens_in_transformers_with_the_same_logits(run):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder = run[0] / "dynamic" / "model"
    network, tokenizer = AutoModelForMaskedLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(["how do i activate my [MASK] card?", "set an alarm"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.numpy()
    model = bc.load(folder)
    got = model(batch["input_ids"].numpy(), batch["attention_mask"].numpy()).logits
    real = batch["attention_mask"].numpy() == 1
    np.testing.assert_allclose(got[real], expected[real], atol=1e-4)
    assert model.tokenizer.encode("how do i activate my [MASK] card?").ids == batch["input_ids"][0].tolist()
    assert len(model.fill("set an [MASK]", top=3)[0]) == 3
