"""The benchmarks at tiny sizes: every contender runs, every figure is shown, the products are counted."""

import io
import json
import math
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

import bertcraft
from bertcraft import machine
from bertcraft.bench import contest, tables, train, train_rivals
from bertcraft.bench.step import Sizes, product_flops
from bertcraft.bert import Config, Model, initial_params
from bertcraft.data.tokenizer import load_tokenizer
from bertcraft.errors import BertcraftError, InputError

TINY = Sizes(layers=2, hidden=32, heads=4, vocabulary=100, batch=9, length=16)
SIZES = st.builds(
    lambda layers, heads, width, vocabulary, batch, length: Sizes(
        layers, heads * width, heads, vocabulary, batch, length
    ),
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 8), st.integers(2, 50), st.integers(1, 20),
    st.integers(2, 30),
)  # fmt: skip


def bench(*arguments) -> dict:
    """What ``bertcraft bench ... --json`` prints."""
    command = [sys.executable, "-m", "bertcraft.cli", "bench", *map(str, arguments), "--json"]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def printed(show, result: dict) -> str:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    show(result, console)
    return console.file.getvalue()


# ---- what is counted


class Counting:
    """NumPy, with the floating-point operations of np.matmul counted."""

    def __init__(self):
        self.flops = 0

    def __getattr__(self, name):
        return getattr(np, name)

    def matmul(self, a, b, out=None):
        result = np.matmul(a, b, out=out)
        self.flops += 2 * result.size * a.shape[-1]
        return result


@settings(max_examples=15, deadline=None)
@given(sizes=SIZES)
def test_flops_are_those_of_the_products_that_the_kernels_do(sizes):
    step, _ = train_rivals.bertcraft(sizes)
    step(0)
    counting = Counting()
    kernels = [module for name, module in sys.modules.items() if name.startswith("bertcraft.tensor.fused")]
    with pytest.MonkeyPatch.context() as patch:
        for module in kernels:
            patch.setattr(module, "np", counting)
        step(1)
    assert counting.flops == product_flops(sizes)


@settings(max_examples=10, deadline=None)
@given(sizes=SIZES)
def test_flops_of_a_model_that_computes_everything_are_those_that_torch_counts(sizes):
    config = transformers.BertConfig(
        vocab_size=sizes.vocabulary, hidden_size=sizes.hidden, num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads, intermediate_size=4 * sizes.hidden, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.BertForMaskedLM(config)
    ids = torch.zeros((sizes.batch, sizes.length), dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    assert counter.get_total_flops() == product_flops(sizes, read=sizes.length)


def test_flops_at_the_predicted_positions_are_those_that_torch_counts_of_the_tuned_head():
    sizes = Sizes(layers=1, hidden=12, heads=3, vocabulary=50, batch=2, length=20)
    from bertcraft.bench.tuned_torch import MaskedLM

    def counted(positions):
        at = torch.arange(positions)
        with FlopCounterMode(display=False) as counter:
            ids = torch.zeros((sizes.batch, sizes.length), dtype=torch.long)
            MaskedLM(sizes, 0.1, 1e-12, 0.02)(ids, at, at % 5).backward()
        return counter.get_total_flops()

    head = 3 * 2 * sizes.hidden * (sizes.hidden + sizes.vocabulary)
    assert counted(6) - counted(4) == 2 * head


@pytest.mark.parametrize(("length", "predicted"), [(128, 20), (100, 15), (1, 1), (7, 2)])
def test_15_percent_of_the_positions_are_predicted(length, predicted):
    sizes = Sizes(length=length)
    assert sizes.predicted == predicted
    ids, at, labels = train_rivals.batch(sizes)
    assert at.shape == labels.shape == (32, predicted)
    assert (np.diff(at, axis=1) > 0).all() and at.max() < length
    flat = train_rivals.flat_positions(at, length)
    np.testing.assert_array_equal(ids.reshape(-1)[flat], labels.reshape(-1))


def test_sizes_that_make_no_model_are_refused():
    with pytest.raises(InputError, match="heads: got 3, expected a divisor of hidden, which is 256"):
        Sizes(heads=3)
    with pytest.raises(InputError, match="layers: got 0"):
        Sizes(layers=0)


# ---- the contenders


@pytest.fixture(scope="module")
def trained():
    sizes = [f"--{name}={value}" for name, value in vars(TINY).items()]
    return bench("train", *sizes, "--rounds", 1, "--steps", 3, "--backend", "jax")


def test_every_rival_is_measured(trained):
    assert [entry["name"] for entry in trained["contenders"]] == list(train_rivals.CONTENDERS)
    for entry in trained["contenders"]:
        assert entry["status"] == "ok", entry
        assert entry["rounds_milliseconds"] == [entry["milliseconds"]]
        assert entry["tokens_per_second"] == pytest.approx(9 * 16 / entry["milliseconds"] * 1e3)
        assert 20 < entry["peak_mb"] < 2000


def test_figures_are_medians_over_rounds_and_memory_is_the_highest():
    common = {"warm_up_seconds": 1.0, "first_loss": 4.6, "last_loss": 4.5, "parameters": 7}
    rounds = [
        {"seconds": [0.1, 0.3, 0.2], "peak_mb": 50, **common},
        {"seconds": [9.0, 0.4, 0.5], "peak_mb": 70, **common},
        {"seconds": [0.6, 0.1, 0.3], "peak_mb": 60, **common},
    ]
    entry = train._entry(contender("x", ""), contest.Outcome(rounds=rounds), TINY)
    assert entry["rounds_milliseconds"] == pytest.approx([200, 500, 300])
    assert entry["milliseconds"] == pytest.approx(300) and entry["peak_mb"] == 70
    assert entry["tokens_per_second"] == pytest.approx(TINY.tokens / 0.3)


def test_all_contenders_train_the_same_model(trained):
    segments = 2 * TINY.hidden  # the two that the tuned rivals do without
    expected = trained["contenders"][0]["parameters"]
    for entry in trained["contenders"]:
        assert entry["first_loss"] == pytest.approx(math.log(TINY.vocabulary), abs=0.1), entry["name"]
        assert entry["last_loss"] < entry["first_loss"] + 0.05, entry["name"]
        same = ("bertcraft", "bertcraft-jax", "transformers")
        assert entry["parameters"] == expected - (0 if entry["name"] in same else segments), entry["name"]


@pytest.mark.parametrize("name", ["bertcraft", "bertcraft-jax", "transformers", "torch", "jax"])
def test_a_contender_s_steps_reduce_the_loss(name):
    step, _ = train_rivals.CONTENDERS[name](TINY)
    losses = [step(number) for number in range(60)]
    torch.set_flush_denormal(False)  # which tuned PyTorch sets for the whole process
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.02, losses


def test_peak_share_versions_and_machine_are_reported(trained):
    products = trained["matrix_products"]
    assert products["gflops"] >= max(products["one_blas_thread_each"], products["all_blas_threads"]) * 0.5
    share = products["gflop_a_step"] / (trained["contenders"][0]["milliseconds"] / 1e3) / products["gflops"]
    assert products["share_of_peak"] == pytest.approx(share)
    assert products["gflop_a_step"] == product_flops(TINY) / 1e9
    assert trained["versions"]["torch"] == torch.__version__
    assert trained["versions"]["numpy"] == np.__version__
    assert trained["machine"]["cpu"] and trained["machine"]["threads"] >= 1
    assert trained["sizes"] == vars(TINY) | {"predicted_positions": 3}


def test_the_table_of_training_fits_80_columns_and_shows_every_figure(trained):
    text = printed(tables.show_train, trained)
    assert max(map(len, text.splitlines())) <= 80
    table = text.split("memory\n")[1].split("\n\n")[0].splitlines()
    for column in ("ms/step", "lowest-highest", "tokens/s", "peak MB", "time", "memory"):
        assert column in text
    for entry in trained["contenders"]:
        (line,) = (line for line in table if line.startswith(entry["title"] + " "))
        figures = line.removeprefix(entry["title"]).split()
        assert len(figures) == 6 and figures[2] == tables._number(entry["tokens_per_second"]), line
        assert figures[4] == f"{entry['time_ratio']:.2f}" and figures[5] == f"{entry['memory_ratio']:.2f}"
    assert "GFLOP/s" in text and "of the measured peak" in text and "only where it is read" in text


def test_missing_and_failed_rivals_are_told_and_the_rest_is_shown(trained):
    result = json.loads(json.dumps(trained))
    absent, broken = result["contenders"][2], result["contenders"][4]
    for entry, status, error in (
        (absent, "not installed", "pip install transformers torch"),
        (broken, "failed", "RuntimeError: no compiler"),
    ):
        title, name = entry["title"], entry["name"]
        entry.clear()
        entry.update(title=title, name=name, status=status, error=error)
    text = printed(tables.show_train, result)
    assert "transformers, eager is not installed: pip install transformers torch" in text
    assert "tuned PyTorch, compiled failed: RuntimeError: no compiler" in text
    assert re.search(r"^JAX, jit +[\d.,]+ ", text, re.M)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    words = "the a cat dog sat ran on mat to home big small red blue house bank money card".split()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    config = Config(
        family="bert", vocab_size=len(vocabulary), hidden_size=24, num_hidden_layers=2,
        num_attention_heads=3, intermediate_size=40, max_position_embeddings=512,
    )  # fmt: skip
    model = Model(config, initial_params(config, seed=0))
    model.tokenizer = load_tokenizer(folder)
    model.save(folder)
    rng = np.random.default_rng(0)
    lengths = [*rng.integers(1, 30, 40), 400]  # one that is cut
    lines = [" ".join(rng.choice(words, n)) for n in lengths]
    (folder / "texts.txt").write_text("\n".join(lines))
    return bench("encode", "--model", folder, "--texts", folder / "texts.txt", "--rounds", 1)


def test_every_encoder_is_measured_and_all_give_the_same_vectors(encoded):
    names = ["bertcraft", "sentence-transformers", "onnxruntime"]
    assert [entry["name"] for entry in encoded["contenders"]] == names
    for entry in encoded["contenders"]:
        assert entry["status"] == "ok", entry
        assert entry["sentences_per_second"] > 0 and 20 < entry["peak_mb"] < 2000
        assert entry["largest_difference"] < 2e-6
    assert encoded["contenders"][1]["largest_difference"] > 0  # they are not one and the same
    assert encoded["sentences"] == 41


def test_the_table_of_encoding_fits_80_columns_and_shows_every_figure(encoded):
    text = printed(tables.show_encode, encoded)
    assert max(len(line) for line in text.splitlines() if not line.startswith("Model: ")) <= 80
    table = text.split("difference\n")[1].split("\n\n")[0].splitlines()
    for column in ("sentences/s", "lowest-highest", "peak MB", "speed", "difference"):
        assert column in text
    for entry in encoded["contenders"]:
        (line,) = (line for line in table if line.startswith(entry["title"] + " "))
        assert f"{entry['speed_ratio']:.2f}" in line.split()


def test_the_default_texts_are_1024_questions():
    from bertcraft.bench.encode import default_texts

    texts = default_texts()
    assert len(texts) == len(set(texts)) == 1024 and all(texts)


# ---- processes


def contender(name, code, **options) -> contest.Contender:
    return contest.Contender(name, name, ("-c", code), **options)


def test_contenders_run_in_turn_and_a_failure_stops_only_its_own():
    order = []
    outcomes = contest.contest(
        [
            contender("a", "print('noise'); print('{\"x\": 1}')"),
            contender("b", "import sys; print('hint', file=sys.stderr); raise ValueError('no compiler')"),
            contender("c", "print('{\"x\": 2}')"),
            contender("d", "", packages={"no-such-package": "no_such_package", "numpy": "numpy"}),
        ],
        rounds=2,
        report=lambda number, each: order.append(f"{number}{each.name}"),
    )
    assert order == ["1a", "1b", "1c", "2a", "2c"]
    assert outcomes["a"].rounds == [{"x": 1}, {"x": 1}] and outcomes["c"].rounds == [{"x": 2}, {"x": 2}]
    assert (outcomes["b"].status, outcomes["b"].error) == ("failed", "ValueError: no compiler")
    assert (outcomes["d"].status, outcomes["d"].error) == ("not installed", "pip install no-such-package")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import time; time.sleep(60)", "took more than 1 s"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL (out of memory?)"),
        ("print('no json')", "printed no result but 'no json'"),
        ("import sys; sys.exit('all is lost')", "all is lost"),
        ("import sys; sys.exit(3)", "it said nothing"),
    ],
)
def test_a_process_without_a_result_says_why(code, told):
    with pytest.raises(contest.MeasurementFailed) as failure:
        contest.measure(("-c", code), timeout=1)
    assert str(failure.value) == told and isinstance(failure.value, BertcraftError)  # one message, no traceback


def test_a_process_that_takes_too_long_is_killed_with_its_children(tmp_path):
    code = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid)); time.sleep(300)"
    )
    with pytest.raises(contest.MeasurementFailed, match="took more than 2 s"):
        contest.measure(("-c", code), timeout=2)
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10  # a killed process runs on until the kernel next looks at it
    while (alive := is_running(child)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_the_last_error_line_is_the_one_that_names_an_exception():
    named = "torch._inductor.exc.InductorError: no g++"
    assert contest.last_error(f"Traceback (most recent call last):\n  x\n{named}\n\nSet X=1 for more\n") == named


def test_children_have_no_settings_of_blas_and_no_module_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    code = "import json, os; print(json.dumps([n for n in os.environ if n.startswith(('OPENBLAS', 'OMP'))]))"
    assert contest.measure(("-c", code)) == []


def test_peak_memory_counts_what_this_process_has_used_and_not_its_parent():
    code = (
        "import json, numpy as np; from bertcraft.machine import peak_memory\n"
        "before = peak_memory(); x = np.ones(50_000_000); del x\n"
        "print(json.dumps([before, peak_memory()]))"
    )
    ballast = np.ones(100_000_000)
    before, after = contest.measure(("-c", code))
    assert before < 200 and 395 < after - before < 450
    assert ballast.nbytes / 1e6 > 700  # this process holds far more


def test_versions_of_packages_that_are_not_installed_are_none():
    assert machine.versions(["numpy", "no-such-package"]) == {
        "numpy": np.__version__,
        "no-such-package": None,
    }
    assert bertcraft.__version__ == machine.versions(["bertcraft"])["bertcraft"]


# ---- several processes


def test_a_step_on_several_processes_stands_beside_its_prediction():
    found = bench("scaling", "--size", "tiny", "--batch", 4, "--length", 16, "--steps", 1)
    assert [entry["processes"] for entry in found["entries"]] == [1, 2, 4]
    one, *others = found["entries"]
    assert one["predicted"] == pytest.approx(one["step"]) and one["all_reduce"] == 0  # by construction
    assert all(entry["step"] > 0 and entry["all_reduce"] > 0 for entry in others)
    for entry in others:
        crowd = math.ceil(entry["processes"] / found["machine"]["threads"])
        assert entry["predicted"] == pytest.approx(entry["alone"] * crowd + entry["all_reduce"])
