"""Thousands of damaged checkpoint folders: one clear error, or exactly the model that the files state."""

import sys
import time
from itertools import islice
from pathlib import Path

import pytest

import bertcraft as bc
from bertcraft.bert import checkpoint
from bertcraft.errors import CheckpointError

sys.path.insert(0, str(Path(__file__).parent))
from checkpoint_images import lay_out, originals
from checkpoint_judge import verify
from mutations import config_edits, mutated
from small_checkpoints import time_limit

SECONDS = 5  # for one folder


def opened(what: str, image: dict, folder: Path) -> bool:
    """Whether the folder was loaded (and rightly so) or refused with a message worth reading."""
    lay_out(image, folder)
    try:
        with time_limit(SECONDS):
            model = bc.load(folder)
    except CheckpointError as error:
        text = str(error)
        assert text.isprintable() and str(folder) in text and "Traceback" not in text and len(text) < 1200, (
            what,
            text,
        )
        assert error.__context__ is None or error.__suppress_context__, what
        return False
    except BaseException as error:
        raise AssertionError(f"{what}: {error!r}") from error
    try:
        verify(folder, model.config, model.params)
    except Exception as error:
        raise AssertionError(f"{what}: wrongly loaded: {error!r}") from error
    return True


def test_sound_folders_are_loaded_and_the_judge_agrees(tmp_path):
    for what, image in originals():
        assert opened(what, image, tmp_path / "model"), what


def test_randomly_mutated_folders(tmp_path):
    trap = tmp_path / "trap"
    results = [opened(what, image, tmp_path / "model") for what, image in mutated(seed=1, count=3000, trap=trap)]
    assert not trap.exists()  # no pickle was opened
    assert 300 < sum(results) < 1500  # the mutations are neither all fatal nor all harmless


def test_every_setting_of_every_config_set_to_bad_values(tmp_path):
    results = {what: opened(what, image, tmp_path / "model") for what, image in config_edits()}
    assert len(results) > 5000 and 0.1 < sum(results.values()) / len(results) < 0.7


def test_mutations_repeat_themselves(tmp_path):
    once, again = (list(islice(mutated(7, 50, tmp_path / "trap"), 50)) for _ in range(2))
    assert once == again
    assert once != list(mutated(8, 50, tmp_path / "trap"))


@pytest.mark.parametrize("error", ["value", "missing", "config"])
def test_the_judge_sees_a_wrong_model(tmp_path, error):
    lay_out(dict(originals())["bert masked_lm"], tmp_path / "model")
    config, params = checkpoint.read(tmp_path / "model")
    norm = params["bert"]["embeddings"]["LayerNorm"]
    if error == "value":
        norm["bias"] += 1
    elif error == "missing":
        del norm["bias"]
    else:
        config = type(config)(**{**vars(config), "layer_norm_eps": 0.5})
    with pytest.raises(AssertionError):
        verify(tmp_path / "model", config, params)


def test_the_time_limit_works():
    with pytest.raises(TimeoutError), time_limit(0.05):
        time.sleep(1)
