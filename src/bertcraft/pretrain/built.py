"""Models that are built on this machine on first use, by a run of :func:`bertcraft.pretrain.run.pretrain`, and then kept.

Weights with a card whose packages hold no such model: nobody publishes a small masked language model as a package. The same
recipe and seed give the same bits on one machine; a build that was stopped goes on where it was.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from bertcraft.data import cache, pretrained
from bertcraft.data.cards import card
from bertcraft.errors import DataError
from bertcraft.pretrain.run import Plan, pretrain
from bertcraft.train.loop import Progress

# The plan of each, which goes on from weights that are named here. Their cards state the command that does the same.
RECIPES = {
    "minilm_mlm": Plan(
        "masked_lm", None, "everyday", steps=2000, batch=32, length=32, rate=5e-4, warmup=100, dropout=0.0, start="minilm",
        train="top:2",
    ),
}  # fmt: skip
SEAL = "built.json"  # written last: what was measured, and the SHA-256 of each file of the model


def ready(name: str) -> bool:
    """Whether the model has been built."""
    return (_place(name) / SEAL).exists()


def built(
    name: str,
    *,
    told: Callable[[str], None] = lambda text: None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """The folder of a model of :data:`RECIPES` in the cache; built if it is not there, which takes minutes.

    ``told`` and ``report`` as for :func:`bertcraft.pretrain.run.pretrain`. Every file's SHA-256 is checked once in each process.
    Raises DataError for an unknown name or a file that is not what was built, with both hashes.
    """
    if name not in RECIPES:
        raise DataError(f"no model of the name {name!r} is built here; those that are: {', '.join(RECIPES)}")
    folder, plan = _place(name), RECIPES[name]
    with cache.lock(folder.with_name(f".{folder.name}.lock")):
        if not ready(name):
            done = pretrain(replace(plan, start=str(pretrained.weights(plan.start))), folder, told=told, report=report)
            sums = {path.name: cache.sha256(path) for path in sorted((folder / "model").iterdir())}
            cache.write(folder / SEAL, json.dumps({"held_out": done.held_out, "sha256": sums}, indent=2).encode() + b"\n")
            shutil.rmtree(folder / "state")
    for file, expected in json.loads((folder / SEAL).read_bytes())["sha256"].items():
        path = folder / "model" / file
        found = cache.sha256(path) if path.exists() else "no such file"
        if found != expected:
            raise DataError(
                f"{path} is not the file that was built: expected SHA-256 {expected}, found {found}; "
                f"delete the folder {folder} to have it built again"
            )
    return folder / "model"


def _place(name: str) -> Path:
    """A folder of its own for each recipe, the words of its corpus counted in."""
    recipe = [asdict(RECIPES[name]), card(RECIPES[name].corpus).holds]
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return cache.folder("built", f"{name}-{digest[:12]}")
