"""From a folder's name or a hub id to a folder, without a network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bertcraft.bert import checkpoint
from bertcraft.errors import CheckpointError

sys.path.insert(0, str(Path(__file__).parent))
from small_checkpoints import saved

RESOLVE = """
import sys
from bertcraft.bert import checkpoint
try:
    print(checkpoint.resolve(sys.argv[1]))
except checkpoint.CheckpointError as error:
    print("refused:", error)
"""


def resolve(name: str, cache: Path, program: str = RESOLVE) -> str:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cache)}
    run = subprocess.run(
        [sys.executable, "-c", program, name],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cache,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("\n") == 1
    return run.stdout.strip()


def test_a_hub_id_is_found_in_the_local_cache_without_network(tmp_path):
    repository = tmp_path / "hub" / "models--some-one--tiny.bert"
    snapshot, blobs = repository / "snapshots" / ("a" * 40), repository / "blobs"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    config, _ = saved(tmp_path / "made")
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted((tmp_path / "made").iterdir())):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", str(number)))
    found = resolve("some-one/tiny.bert", tmp_path)
    assert Path(found).samefile(snapshot)
    assert checkpoint.read(found)[0] == config
    absent = resolve("some-one/other", tmp_path)
    assert absent.startswith("refused: some-one/other: no such folder, and the hub gave no model of that name (")
    (tmp_path / "some-one" / "tiny.bert").mkdir(parents=True)
    assert resolve("some-one/tiny.bert", tmp_path) == "some-one/tiny.bert"  # a folder comes first


def test_without_the_hub_library_the_command_to_install_it_is_given(tmp_path):
    program = "import sys\nsys.modules['huggingface_hub'] = None\n" + RESOLVE  # as if it were not installed
    text = resolve("bert-base-uncased", tmp_path, program)
    assert text.startswith("refused: bert-base-uncased: no such folder") and "pip install huggingface_hub" in text


def test_a_path_that_is_no_folder_is_not_asked_of_the_hub(tmp_path):
    (tmp_path / "file").write_text("")
    for name in (
        tmp_path / "nowhere",
        tmp_path / "file",
        "./nowhere",
        "a/b/c",
        "",
        "a/../b",
        "~/model",
        "-rf",
    ):
        with pytest.raises(CheckpointError, match="no such folder; expected one with config.json"):
            checkpoint.resolve(name)
    assert checkpoint.resolve(str(tmp_path)) == tmp_path
