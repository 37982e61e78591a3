"""The texts of a run: those that it reads, and a part that is held out to measure by."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from bertcraft.data import cache, files
from bertcraft.data.batches import pack, tokenize
from bertcraft.data.tokenizer import frame_ids
from bertcraft.errors import DataError

HELD_OUT_TOKENS = 2**15  # some 4,000 positions at [MASK]: an error of 0.05 nats
_ONE_IN = 20  # blocks of a folder
_MOST_HELD_OUT = 4  # blocks of about a megabyte


def divided(corpus: str, told: Callable[[str], None]) -> tuple[list[files.Block], list[str]]:
    """The blocks to read and the texts that are held out, of a folder or of a corpus of the data cards.

    A corpus is written once to the cache as a text file, and says itself what it holds out. Of a folder it is one block in
    twenty, at most four megabytes; where the folder has fewer blocks, they are cut smaller. Raises DataError for a corpus that
    is neither, and for a folder whose files hold no text.
    """
    from bertcraft import data

    if Path(corpus).is_dir():
        return _divided(corpus)
    names = [card.name for card in data.cards() if card.kind == "prose"]
    if corpus not in names:
        raise DataError(f"corpus: got {corpus!r}, expected a folder that is there, or one of {', '.join(names)}")
    folder = cache.folder("pretrain", corpus)
    path = folder / "train.txt"
    with cache.lock(folder / "lock"):
        if not path.exists():
            told(f"fetching {corpus}")
        found = data.corpus(corpus)
        texts = ("\n".join(line for line in each.text.split("\n") if line.strip()) for each in found.train)
        content = "\n\n".join(texts).encode() + b"\n"
        if not path.exists() or path.read_bytes() != content:
            cache.write(path, content)
    return files.blocks(folder), [each.text for each in found.held_out]


def _divided(folder: str) -> tuple[list[files.Block], list[str]]:
    blocks = files.blocks(folder)
    if len(blocks) < _ONE_IN:
        total = sum(Path(path).stat().st_size for path in {part.path for block in blocks for part in block})
        blocks = files.blocks(folder, max(1, total // _ONE_IN))
    kept_back = list(range(_ONE_IN // 2, len(blocks), _ONE_IN))
    chosen = {kept_back[i] for i in np.linspace(0, len(kept_back) - 1, min(len(kept_back), _MOST_HELD_OUT)).astype(int)}
    read = [block for i, block in enumerate(blocks) if i not in chosen]
    if not any(True for block in read for _ in files.texts(block)):  # it stops at the first
        raise DataError(f"{folder}: its files hold no text")
    return read, [text for i in sorted(chosen) for text in files.texts(blocks[i])]


def rows(texts: list[str], tokenizer, length: int) -> np.ndarray:
    """At most ``HELD_OUT_TOKENS`` as rows, int32 (n, length), spread over all texts; none where they do not fill one."""
    bare = type(tokenizer).from_str(tokenizer.to_str())
    bare.no_truncation()
    bare.no_padding()
    try:
        found = pack(tokenize(bare, texts), length, *frame_ids(bare))
    except DataError:  # not one row
        return np.empty((0, length), np.int32)
    return found[np.linspace(0, len(found) - 1, min(len(found), max(1, HELD_OUT_TOKENS // length))).astype(int)]
