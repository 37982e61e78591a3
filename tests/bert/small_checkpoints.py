"""Small checkpoint folders to read, edit and damage, and what is common to the tests that do so."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from bertcraft.bert import checkpoint
from bertcraft.bert.config import Config
from bertcraft.bert.initialise import initial_params
from bertcraft.errors import CheckpointError
from bertcraft.tensor import tree

SMALL = {
    "vocab_size": 11,
    "hidden_size": 6,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 5,
    "max_position_embeddings": 9,
}


def small(family: str = "bert", head: str = "base", **changes) -> tuple[Config, dict]:
    config = Config(family=family, head=head, **(SMALL | changes))
    params = {name: value + np.float32(0.25) for name, value in tree.items(initial_params(config, seed=3))}
    return config, tree.nest(params)


def saved(folder: Path, family: str = "bert", head: str = "base", **changes) -> tuple[Config, dict]:
    """Make a small checkpoint; returns its configuration and its tensors by their names in the file."""
    config, params = small(family, head, **changes)
    checkpoint.write(folder, config, params)
    return config, load_file(folder / "model.safetensors")


def edit_config(folder: Path, **changes) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | changes))


def assert_same(params: dict, expected: dict[str, np.ndarray]) -> None:
    flat = dict(tree.items(params))
    assert flat.keys() == expected.keys()
    for name, values in expected.items():
        assert flat[name].dtype == values.dtype, name
        np.testing.assert_array_equal(flat[name], values, err_msg=name)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the body when it takes longer."""

    def expired(*_):
        raise TimeoutError(f"not done after {seconds} s")

    signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def refused(folder: Path, *parts: str) -> str:
    with pytest.raises(CheckpointError) as caught, time_limit(20):
        checkpoint.read(folder)
    text = str(caught.value)
    assert "\n" not in text and "Traceback" not in text and str(folder) in text
    assert caught.value.__context__ is None or caught.value.__suppress_context__  # nothing from the depths
    for part in parts:
        assert part in text, text
    return text
