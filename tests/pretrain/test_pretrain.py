"""The command itself, in processes of its own: stopped and killed, alone and together, on bad input."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bertcraft.bench.scaling import free_port
from bertcraft.data import cache
from bertcraft.errors import DataError
from bertcraft.pretrain.texts import divided
from bertcraft.train.state import load_state

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
BASE = ["--batch", "10", "--length", "16", "--vocabulary", "200", "--warmup", "5", "--workers", "0"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    rng = np.random.default_rng(0)
    words = [f"{a}{b}{c}" for a in "bdgkmt" for b in "aeiou" for c in "lnrst"]
    (folder / "texts").mkdir()
    lines = (" ".join(rng.choice(words, 8)) for _ in range(400))
    (folder / "texts" / "a.txt").write_text("\n".join(lines) + "\n")
    (folder / "small.json").write_text(json.dumps(SMALL))
    return folder


def command(place, out, objective="masked_lm", steps=12, *more):
    size, corpus = ["--size", place / "small.json"], ["--corpus", place / "texts"]
    given = [sys.executable, "-m", "bertcraft.cli", "pretrain", objective, *size, *corpus, *BASE, "--steps", steps, "--out", out]
    return [*map(str, given), *map(str, more)]


def start(*arguments):
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "1"}
    return subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=quiet)


def finish(process, seconds=240):
    output, errors = process.communicate(timeout=seconds)
    return process.returncode, output, errors


def steps_of(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def parameters(out) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


def wait_for(condition, seconds=120):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)


def taken(out) -> int:
    with contextlib.suppress(FileNotFoundError):
        return len((out / "metrics.jsonl").read_text().splitlines())
    return 0


def together(place, out, ranks, *more, steps=12):
    port = free_port()
    shared = ["--backend", "jax", "--coordinator", f"127.0.0.1:{port}", "--processes", ranks, *more]
    return [start(place, out, "masked_lm", steps, *shared, "--rank", rank) for rank in range(ranks)]


@pytest.mark.parametrize("objective", ["masked_lm", "electra"])
def test_the_model_opens_in_transformers_and_the_run_is_told(place, tmp_path, objective):
    import transformers

    status, output, errors = finish(start(place, tmp_path / "out", objective))
    assert status == 0, errors
    assert output.strip() == str(tmp_path / "out" / "model")
    assert [line["step"] for line in steps_of(tmp_path / "out")] == list(range(1, 13))
    kind = {"masked_lm": transformers.AutoModelForMaskedLM, "electra": transformers.AutoModelForPreTraining}[objective]
    model, found = kind.from_pretrained(tmp_path / "out" / "model", output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out" / "model").vocab_size == model.config.vocab_size
    if objective == "electra":
        transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out" / "generator")


@pytest.mark.parametrize(
    ("architecture", "backend", "name"),
    [
        ("deberta", "numpy", "Deberta"),
        ("deberta", "jax", "Deberta"),
        ("albert", "numpy", "Albert"),
        ("albert", "jax", "Albert"),
        ("roberta_prelayernorm", "numpy", "RobertaPreLayerNorm"),
        ("roberta_prelayernorm", "jax", "RobertaPreLayerNorm"),
    ],
)
def test_another_architecture_goes_on_where_it_was_stopped_and_opens_as_what_it_is(place, tmp_path, architecture, backend, name):
    import torch
    import transformers

    import bertcraft as bc

    options = ["masked_lm", 12, "--architecture", architecture, "--backend", backend]
    process = start(place, tmp_path / "out", *options, "--save-every", 0)
    wait_for(lambda: taken(tmp_path / "out") >= 3)
    process.kill()
    finish(process)
    status, output, errors = finish(start(place, tmp_path / "out", *options))
    assert status == 0, errors
    assert [line["step"] for line in steps_of(tmp_path / "out")] == list(range(1, 13))
    folder = output.strip()
    model, found = transformers.AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == f"{name}ForMaskedLM"
    assert not found["missing_keys"] and not found["unexpected_keys"] and not found["mismatched_keys"]
    ids = np.random.default_rng(0).integers(5, model.config.vocab_size, (2, 16))
    with torch.no_grad():
        theirs = model.eval()(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(bc.load(folder)(ids).logits, theirs, atol=1e-4)


@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_a_run_that_was_killed_ends_with_the_same_bits(place, tmp_path, backend):
    options = ["masked_lm", 300, "--backend", backend, "--save-every", 0]
    assert finish(start(place, tmp_path / "whole", *options))[0] == 0
    for stop in (signal.SIGKILL, signal.SIGINT):
        process = start(place, tmp_path / "killed", *options)
        before = taken(tmp_path / "killed")
        wait_for(lambda before=before: taken(tmp_path / "killed") > before + 5)
        process.send_signal(stop)
        status, _, errors = finish(process)
        assert status == (-9 if stop == signal.SIGKILL else 130), errors
    assert finish(start(place, tmp_path / "killed", *options))[0] == 0
    assert parameters(tmp_path / "killed") == parameters(tmp_path / "whole")
    strip = [{**line, "tokens_per_second": None} for line in steps_of(tmp_path / "killed")]
    assert strip == [{**line, "tokens_per_second": None} for line in steps_of(tmp_path / "whole")]
    events = EventAccumulator(str(tmp_path / "killed" / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    for name in ("loss", "gradient_norm"):  # TensorBoard, too, shows one run
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        assert shown == [(line["step"], np.float32(line[name])) for line in steps_of(tmp_path / "whole")]


@pytest.mark.parametrize(("backend", "schedule"), [("numpy", "one_cycle"), ("jax", "cosine_with_restarts")])
def test_a_schedule_goes_on_at_the_step_at_which_the_run_was_killed(place, tmp_path, backend, schedule):
    options = ["masked_lm", 60, "--backend", backend, "--schedule", schedule, "--save-every", 0, "--dropout", 0]
    assert finish(start(place, tmp_path / "whole", *options))[0] == 0
    process = start(place, tmp_path / "killed", *options)
    wait_for(lambda: taken(tmp_path / "killed") > 8)
    process.kill()
    assert finish(process)[0] == -9
    assert load_state(tmp_path / "killed" / "state")[0] < 60, "it was killed on its way"
    status, _, errors = finish(start(place, tmp_path / "killed", *options[:-2], "--dropout", 0, "--rate", 0.1))
    assert status == 2 and "rate: 0.0005 there, 0.1 here" in errors
    status, _, errors = finish(start(place, tmp_path / "killed", "masked_lm", 60, "--backend", backend, "--dropout", 0))
    assert status == 2 and f"schedule: '{schedule}' there, 'linear' here" in errors
    assert finish(start(place, tmp_path / "killed", *options))[0] == 0
    assert parameters(tmp_path / "killed") == parameters(tmp_path / "whole")


def test_a_runs_rates_are_the_techniques_at_every_step_the_last_included():
    """A parameter without gradient is left to its decay, which tells the rate."""
    from bertcraft.pretrain.run import Plan, _rule
    from bertcraft.techniques import advanced_scheduling as technique

    weights = {"w": np.ones((1, 1))}
    for name in technique.SCHEDULES:
        plan = Plan("masked_lm", "tiny", "nowhere", 30, rate=0.01, warmup=7, weight_decay=0.5, schedule=name)
        rule, expected = _rule(plan), technique.SCHEDULES[name](0.01, 7, 30)
        state = rule.init(weights)
        for step in range(30):
            updates, state = rule.update({"w": np.zeros((1, 1))}, state, weights)
            np.testing.assert_allclose(-updates["w"] / 0.5, expected(step), rtol=1e-12, atol=1e-18)


def test_a_dropout_that_is_asked_for_counts_against_that_of_a_config(tmp_path):
    from bertcraft.cli.pretrain import _size

    (tmp_path / "config.json").write_text('{"hidden_size": 32, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2}')
    given = str(tmp_path / "config.json")
    assert _size(given, None) == {"hidden_size": 32, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2}
    assert _size(given, 0.0) == {"hidden_size": 32} and _size("tiny", 0.0) == "tiny"


@pytest.mark.parametrize("ranks", [2, 4])
def test_processes_together_do_what_one_does(place, tmp_path, ranks):
    assert finish(start(place, tmp_path / "one", "masked_lm", 12, "--backend", "jax", "--dropout", 0))[0] == 0
    for status, _, errors in map(finish, together(place, tmp_path / "many", ranks, "--dropout", 0)):
        assert status == 0, errors
    alone, shared = steps_of(tmp_path / "one"), steps_of(tmp_path / "many")
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose([line[name] for line in shared], [line[name] for line in alone], rtol=1e-5)
    (_, one, _, _), (_, many, _, _) = load_state(tmp_path / "one" / "state"), load_state(tmp_path / "many" / "state")
    from bertcraft.tensor import tree

    for (name, a), (_, b) in zip(tree.items(one), tree.items(many), strict=True):
        if not name.endswith("key.bias"):  # its gradient is rounding alone, which Adam scales up
            np.testing.assert_allclose(b, a, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_stops_the_others_and_all_go_on_to_the_same_bits(place, tmp_path, victim):
    for status, _, errors in map(finish, together(place, tmp_path / "whole", 2, "--save-every", 0, steps=60)):
        assert status == 0, errors
    started = together(place, tmp_path / "killed", 2, "--save-every", 0, steps=60)
    wait_for(lambda: taken(tmp_path / "killed") >= 3)
    killed, other = started[victim], started[1 - victim]
    killed.kill()
    begin = time.monotonic()
    status, _, errors = finish(other, 70)
    assert status != 0 and time.monotonic() - begin < 60
    assert "is gone" in errors and "Start the same command on all ranks" in errors, errors
    finish(killed)
    for status, _, errors in map(finish, together(place, tmp_path / "killed", 2, "--save-every", 0, steps=60)):
        assert status == 0, errors
    assert parameters(tmp_path / "killed") == parameters(tmp_path / "whole")


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (["--processes", 2, "--rate", 0.001], ["--processes", 2, "--rate", 0.002], "rate: 0.001 on rank 0, 0.002 on rank 1"),
        (["--processes", 2], ["--processes", 3], "processes: 2 on rank 0, 3 on rank 1"),
    ],
)
def test_processes_that_were_not_started_alike_are_refused_with_both_values(place, tmp_path, first, second, said):
    port = free_port()
    shared = ["--backend", "jax", "--coordinator", f"127.0.0.1:{port}"]
    own = [["--rank", 0, *first], ["--rank", 1, *second]]
    for status, _, errors in map(finish, [start(place, tmp_path / "out", "masked_lm", 12, *shared, *each) for each in own]):
        assert status == 2, errors
        assert said in errors
    assert not (tmp_path / "out" / "state").exists()


def test_processes_whose_texts_differ_are_refused_with_both_values(place, tmp_path):
    """The same name of a folder, which on one machine holds one more text."""
    port = free_port()
    shared = ["--backend", "jax", "--coordinator", f"127.0.0.1:{port}", "--processes", 2, "--corpus", "texts"]
    started = []
    for rank, more in enumerate(("", "ban bal\n")):
        machine = tmp_path / str(rank)
        (machine / "texts").mkdir(parents=True)
        (machine / "texts" / "a.txt").write_text((place / "texts" / "a.txt").read_text() + more)
        given = command(place, machine / "out", "masked_lm", 12, *shared, "--rank", rank)
        started.append(subprocess.Popen(given, cwd=machine, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    for status, _, errors in map(finish, started):
        assert status == 2, errors
        assert "the processes were not started alike: corpus and vocabulary: '" in errors and "' on rank 1" in errors, errors


@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_in_float16_the_scale_goes_on_where_it_was_and_skipped_steps_are_told(place, tmp_path, backend):
    """The first scales are too large for a batch of eight words."""
    options = ["masked_lm", 14, "--precision", "float16", "--backend", backend, "--dropout", 0, "--batch", 2]
    status, _, errors = finish(start(place, tmp_path / "whole", *options))
    assert status == 0, errors
    lines = steps_of(tmp_path / "whole")
    skipped = [line["step"] for line in lines if line["skipped"]]
    assert [f"step {step} skipped: a gradient overflowed; the loss scale is now {2.0**16 / 2 ** (i + 1):g}" in errors
            for i, step in enumerate(skipped)] == [True] * len(skipped)  # fmt: skip
    assert [line["loss_scale"] for line in lines] == [
        2.0 ** (16 - sum(step <= line["step"] for step in skipped)) for line in lines
    ]
    assert all((line["gradient_norm"] is None) == line["skipped"] for line in lines)
    assert 0 < len(skipped) < 10

    process = start(place, tmp_path / "killed", *options, "--save-every", 0)
    wait_for(lambda: taken(tmp_path / "killed") >= skipped[-1])
    process.kill()
    finish(process)
    saved = load_state(tmp_path / "killed" / "state")
    state = saved[2]["rule"]
    assert int(state["skipped"]) == sum(step <= saved[0] for step in skipped)
    assert float(state["scale"]) == 2.0 ** (16 - int(state["skipped"])) and state["good_steps"].dtype == np.int64
    assert finish(start(place, tmp_path / "killed", *options))[0] == 0
    assert parameters(tmp_path / "killed") == parameters(tmp_path / "whole")
    state = load_state(tmp_path / "killed" / "state")[2]["rule"]
    assert int(state["good_steps"]) == 14 - skipped[-1] and int(state["skipped"]) == len(skipped)


def test_clipping_counts_on_both_backends_and_0_is_none(place, tmp_path):
    ends = {}
    for backend in ("numpy", "jax"):
        for clip in (0, 0.5):
            out = tmp_path / f"{backend}-{clip}"
            options = ["masked_lm", 6, "--backend", backend, "--clip", clip, "--dropout", 0, "--rate", 1e-2]
            status, _, errors = finish(start(place, out, *options))
            assert status == 0, errors
            ends[backend, clip] = np.array([(line["loss"], line["gradient_norm"]) for line in steps_of(out)])
        assert (ends[backend, 0][:, 1] > 0.5).all()  # all are clipped; what is told is the norm before
        np.testing.assert_array_equal(ends[backend, 0.5][0], ends[backend, 0][0])
        assert np.abs(ends[backend, 0.5][-1] - ends[backend, 0][-1]).max() > 1e-3
    for clip in (0, 0.5):
        np.testing.assert_allclose(ends["jax", clip], ends["numpy", clip], rtol=2e-3)


def test_a_folder_of_another_run_is_refused(place, tmp_path):
    assert finish(start(place, tmp_path / "out"))[0] == 0
    status, _, errors = finish(start(place, tmp_path / "out", "masked_lm", 12, "--rate", 0.1))
    assert status == 2 and "rate: 0.0005 there, 0.1 here" in errors


def test_two_runs_do_not_write_one_folder(place, tmp_path):
    (tmp_path / "out").mkdir()
    with cache.lock(tmp_path / "out" / "lock"):
        status, _, errors = finish(start(place, tmp_path / "out"))
    assert status == 2 and f"{tmp_path / 'out'} is in use: another run pretrains into it; wait for it or end it" in errors
    assert taken(tmp_path / "out") == 0


def test_a_refused_length_does_not_stand_in_the_way_of_the_next(place, tmp_path):
    (tmp_path / "sizes.json").write_text(json.dumps(SMALL | {"max_position_embeddings": 8192}))
    own = ["--size", tmp_path / "sizes.json"]
    status, _, errors = finish(start(place, tmp_path / "out", "masked_lm", 2, *own, "--length", 8192))
    assert status == 2 and "do not fill one row of 8192 tokens: give more text, or shorter rows (--length)" in errors
    status, _, errors = finish(start(place, tmp_path / "out", "masked_lm", 2, *own, "--length", 16))
    assert status == 0, errors


@pytest.mark.parametrize("content", ["", "\n \n\n"])
def test_a_corpus_without_a_text_is_named(tmp_path, content):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: its files hold no text")):
        divided(str(tmp_path), print)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--out", "small.json"], "small.json is a file: --out names a folder to make"),
        (["--corpus", "nowhere"], "corpus: got 'nowhere', expected a folder that is there, or one of "),
        (["--sharded"], "give --backend jax"),
        (["--precision", "half"], "precision: got 'half', expected one of float32, float16, bfloat16"),
        (["--schedule", "linaer"], "schedule: got 'linaer', expected one of linear, cosine, cosine_with_restarts, "),
        (["--schedule", "one_cycle", "--warmup", 0], "expected more than 0 and less than 11 warm-up steps, got 0"),
        (["--accumulate", 4], "a batch of 10 rows has no 4 equal parts"),
        (["--processes", 2], "several processes train together with --backend jax only"),
        (["--backend", "jax", "--processes", 2], "give --coordinator HOST:PORT and --processes together"),
        (["--backend", "jax", "--processes", 2, "--coordinator", "here"], "expected HOST:PORT of rank 0"),
        (["--rank", 1], "--rank: got 1 of 1 processes, expected 0 to 0"),
        (["--backend", "torch"], "expected one of numpy, jax"),
        (["--size", "sizes.json"], "length: got rows of 16 tokens, the model's sizes have 12 positions"),
        (["--size", "huge"], "size: got 'huge', expected one of tiny"),
        (["--architecture", "mpnet"], "architecture: got 'mpnet', expected bert or deberta or albert or roberta_pre"),
        (["--clip", "inf"], "clip: got inf, expected the longest gradient, or 0 for any"),
    ],
)
def test_what_cannot_be_meant_is_told_in_a_line(place, tmp_path, more, said):
    (place / "sizes.json").write_text('{"hidden_size": 32, "num_attention_heads": 2, "max_position_embeddings": 12}')
    more = [place / each if str(each).endswith(".json") else each for each in more]
    status, output, errors = finish(start(place, tmp_path / "out", "masked_lm", 12, *more))
    assert (status, output) == (2, "")
    assert said in errors and errors.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "out").exists(), "nothing is made before the input is known to be good"


def test_trainer_goes_on_with_the_model_in_two_processes(place, tmp_path):
    """What transformers' own Trainer makes of the folder, under accelerate's launcher."""
    assert finish(start(place, tmp_path / "out"))[0] == 0
    script = Path(__file__).parent / "continue_with_trainer.py"
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    done = subprocess.run(
        [sys.executable, *launch, script, tmp_path / "out" / "model", tmp_path / "more"],
        capture_output=True, text=True, timeout=300, env={**os.environ, "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((tmp_path / "more" / "told.json").read_text())
    assert told["processes"] == 2 and told["steps"] == 1 and np.isfinite(told["loss"])
    assert (tmp_path / "more" / "model.safetensors").exists()


def test_a_disk_that_fills_leaves_the_last_state_and_the_run_goes_on_from_it(place, tmp_path):
    """A real file system that another program fills in mid-run."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a file system: not root")
    try:
        assert finish(start(place, tmp_path / "whole", "masked_lm", 60))[0] == 0
        process = start(place, disk / "out", "masked_lm", 60, "--save-every", 0)
        wait_for(lambda: taken(disk / "out") >= 5)
        with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        status, _, errors = finish(process)
        assert status == 2 and "No space left on device" in errors and errors.splitlines()[-1].startswith("error: "), errors
        kept = load_state(disk / "out" / "state")
        assert kept is not None and 1 <= kept[0] < 60
        (disk / "filler").unlink()
        assert finish(start(place, disk / "out", "masked_lm", 60, "--save-every", 0))[0] == 0
        assert parameters(disk / "out") == parameters(tmp_path / "whole")
    finally:
        subprocess.run(["umount", disk], check=True)
