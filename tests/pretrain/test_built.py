"""Models that are built on first use: once, whole or not at all, by the command that the card states."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

import bertcraft as bc
from bertcraft import data
from bertcraft.data import pretrained
from bertcraft.errors import DataError
from bertcraft.pretrain import built, texts


@pytest.fixture
def quick(monkeypatch):
    """The real recipe from the real MiniLM, cut short: two steps of the head alone, measured on a few rows."""
    short = replace(built.RECIPES["minilm_mlm"], steps=2, batch=4, train="head")
    monkeypatch.setitem(built.RECIPES, "minilm_mlm", short)
    monkeypatch.setattr(texts, "HELD_OUT_TOKENS", 320)
    place = built._place("minilm_mlm")
    yield place
    for path in sorted(place.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    place.rmdir()
    place.with_name(f".{place.name}.lock").unlink()


def test_a_model_is_built_once_fills_masks_and_is_refused_when_it_was_changed(quick):
    told = []
    assert not built.ready("minilm_mlm")
    folder = built.built("minilm_mlm", told=told.append)
    assert built.ready("minilm_mlm") and any(text.startswith("before: ") for text in told)
    ((words),) = bc.load(folder).fill("paris is the capital of [MASK].", 3)
    assert len(words) == 3
    sealed = json.loads((quick / built.SEAL).read_text())
    assert sealed["held_out"]["steps"] == 2 and "model.safetensors" in sealed["sha256"]

    told.clear()
    assert built.built("minilm_mlm", told=told.append) == folder and not told  # it is not built again
    changed = bytearray((folder / "config.json").read_bytes())
    changed[-2] ^= 1
    (folder / "config.json").write_bytes(changed)
    with pytest.raises(DataError, match="config.json is not the file that was built: expected SHA-256 .*delete the folder"):
        built.built("minilm_mlm")


def test_another_recipe_has_another_place():
    mine = built._place("minilm_mlm")
    before = built.RECIPES["minilm_mlm"]
    try:
        built.RECIPES["minilm_mlm"] = replace(before, seed=1)
        assert built._place("minilm_mlm") != mine
    finally:
        built.RECIPES["minilm_mlm"] = before
    assert built._place("minilm_mlm") == mine


def test_names_that_are_not_built_and_models_that_are_not_fetched_are_told():
    with pytest.raises(DataError, match="no model of the name 'minilm' is built here; those that are: minilm_mlm"):
        built.built("minilm")
    with pytest.raises(DataError, match="minilm_mlm is in no package: it is built on this machine"):
        data.weights("minilm_mlm")


def test_the_command_on_the_card_is_the_recipe(monkeypatch, tmp_path):
    from bertcraft.cli import app
    from bertcraft.pretrain import run

    plans = []

    def kept(plan, out, **options):
        plans.append(plan)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "pretrain", kept)
    for name, recipe in built.RECIPES.items():
        _, *arguments = data.card(name).built.split()
        CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
        assert plans.pop() == replace(recipe, start=str(pretrained.weights(recipe.start)))


def test_the_model_that_was_built_is_as_good_as_its_card_says():
    """Where it has been built: twenty minutes are too long for a test."""
    if not built.ready("minilm_mlm"):
        pytest.skip("minilm_mlm has not been built on this machine")
    told = json.loads((built._place("minilm_mlm") / built.SEAL).read_text())["held_out"]
    assert told["after"]["loss"] <= 4.7 and told["after"]["accuracy"] >= 0.25
    description = data.card("minilm_mlm").description
    for figure in (f"{told['unigram']:.1f}", f"{told['after']['loss']:.1f} nats", f"{100 * told['after']['accuracy']:.0f} %"):
        assert figure in description


def test_fill_opens_it_by_its_name():
    if not built.ready("minilm_mlm"):
        pytest.skip("minilm_mlm has not been built on this machine")
    given = ["-m", "bertcraft.cli", "fill", "minilm_mlm", "how do i activate my new [MASK] ?"]
    done = subprocess.run([sys.executable, *given], capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[2] == "card"
