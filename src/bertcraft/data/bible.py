"""Paraphrase pairs: the verses of two translations of one book."""

import ast
import re
from dataclasses import dataclass

from bertcraft.data import wheels
from bertcraft.data.cards import CARDS, card
from bertcraft.data.text import plain, signature
from bertcraft.data.wheels import Progress
from bertcraft.errors import DataError

# Whole books are held out: neighbouring verses repeat each other. Numbers are those of the verse keys.
TEST_BOOKS = (17, 27, 43)  # Esther, Daniel, John
DEV_BOOKS = (8, 21, 32, 59)  # Ruth, Ecclesiastes, Jonah, James
MOST_UNEQUAL = 2.5  # one side has what the other lacks beyond this ratio of lengths


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of texts that mean the same, in three disjoint splits."""

    name: str
    train: list[tuple[str, str]]
    dev: list[tuple[str, str]]
    test: list[tuple[str, str]]


def pairs(name: str, progress: Progress | None = None) -> Pairs:
    """The pairs of a card of kind ``pairs``: (modern, literal) English.

    Raises DataError: an unknown name, or as :func:`bertcraft.data.wheels.path` does.
    """
    if card(name).kind != "pairs":
        known = ", ".join(n for n, c in CARDS.items() if c.kind == "pairs")
        raise DataError(f"{name!r} is of kind {card(name).kind}, not pairs; sets of pairs are: {known}")
    modern, literal = (
        _verses(wheels.read(wheel, f"{wheel.module}/plain_text_readers_bible.py", progress)) for wheel in card(name).wheels
    )
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "dev": [], "test": []}
    seen: set[str] = set()
    keys = sorted(modern.keys() & literal.keys(), key=lambda key: (_part(key) == "train", key))
    for key in keys:  # test and dev first: a verse that recurs is dropped from train
        pair = _clean(modern[key]), _clean(literal[key])
        marks = {signature(text) for text in pair}
        long, short = sorted(map(len, pair), reverse=True)
        same = len(marks) == 1  # word for word: no paraphrase
        if same or marks & seen or long > MOST_UNEQUAL * short or "dummy verses" in pair[0]:
            continue
        seen |= marks
        parts[_part(key)].append(pair)
    return Pairs(name, **parts)


def _part(key: int) -> str:
    book = key // 1_000_000
    return "test" if book in TEST_BOOKS else "dev" if book in DEV_BOOKS else "train"


def _verses(source: bytes) -> dict[int, str]:
    """Verse key to text, out of the source code of ``bible = Bible(version, text, starts, ends, ...)``."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            text, starts, ends = (ast.literal_eval(argument) for argument in node.value.args[1:4])
            return {key: text[start : ends[key]] for key, start in starts.items()}
    raise DataError("expected the source code of a bible: 'bible = Bible(version, text, starts, ends, ...)'")


def _clean(verse: str) -> str:
    verse = re.sub(r"\s(Psalm \d+|BOOK [IV]+)\s.*", "", verse, flags=re.S)  # the next psalm's title
    return plain(verse.replace("`", "'").replace("[", "").replace("]", ""))
