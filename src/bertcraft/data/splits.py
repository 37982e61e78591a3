"""Training, development and test sets that share no text.

Two texts count as one when their letters and digits agree (:func:`bertcraft.data.text.signature`): copies
that differ in case or punctuation are as good a leak as exact ones.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from bertcraft.data.text import signature


class Row(NamedTuple):
    """A text, its label, and the group that must stay on one side of a split (a movie; else the text
    itself).
    """

    text: str
    label: str
    group: str = ""


Parts = dict[str, list[Row]]  # "train", "dev", "test"


def separate(parts: Parts, notes: list[str]) -> Parts:
    """Published splits made disjoint: what stands in test is dropped from dev and train, what stands in dev
    from train, and what train says twice is said once (not at all if its labels differ). Test is never
    touched.
    """
    test = {signature(row.text) for row in parts["test"]}
    dev = _less(parts["dev"], test, "dev", "test", notes)
    train = _less(parts["train"], test, "train", "test", notes)
    train = _less(train, {signature(row.text) for row in dev}, "train", "dev", notes)
    return {"train": distinct(train, notes, where="train"), "dev": dev, "test": list(parts["test"])}


def _less(rows: list[Row], taken: set[str], here: str, there: str, notes: list[str]) -> list[Row]:
    kept = [row for row in rows if signature(row.text) not in taken]
    if len(kept) < len(rows):
        notes.append(f"dropped from {here}: {len(rows) - len(kept)} texts that also stand in {there}")
    return kept


def distinct(rows: list[Row], notes: list[str], key: Callable[[str], str] = signature, where: str = "all") -> list[Row]:
    """The rows with each text once; a text that stands there with two labels is dropped altogether."""
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(key(row.text), set()).add(row.label)
    seen: set[str] = set()
    kept, contradictory = [], 0
    for row in rows:
        mark = key(row.text)
        if len(labels[mark]) > 1:
            contradictory += 1
        elif mark not in seen:
            seen.add(mark)
            kept.append(row)
    repeats = len(rows) - len(kept) - contradictory
    if repeats:
        notes.append(f"dropped from {where}: {repeats} repeated texts")
    if contradictory:
        notes.append(f"dropped from {where}: {contradictory} texts that stand there with more than one label")
    return kept


def divide(rows: Iterable[Row]) -> Parts:
    """70 % train, 10 % dev, 20 % test by a hash of the group, where no split is published.

    A group lies in one part whole. The hash never changes, so neither does the split.
    """
    parts: Parts = {"train": [], "dev": [], "test": []}
    for row in rows:
        digest = hashlib.sha256((row.group or signature(row.text) or row.text).encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        parts["test" if place < 0.2 else "dev" if place < 0.3 else "train"].append(row)
    return parts


def merge_groups(rows: list[Row], notes: list[str]) -> list[Row]:
    """Groups that share a text are one group (two names of one movie), so that no split can cut between
    them.
    """
    leader = {row.group: row.group for row in rows}

    def find(group: str) -> str:
        while leader[group] != group:
            group = leader[group]
        return group

    owners: dict[str, set[str]] = {}
    for row in rows:
        owners.setdefault(signature(row.text), set()).add(row.group)
    for mark, groups in sorted(owners.items()):
        if len(mark) >= 40:  # "a must see" may be said of any movie
            first, *others = sorted(find(group) for group in groups)
            for other in others:
                leader[find(other)] = find(first)
    sizes = Counter(find(group) for group in leader)
    if len(sizes) < len(leader):
        notes.append(f"{len(leader)} groups became {len(sizes)}: some share their texts under two names")
    return [row._replace(group=find(row.group)) for row in rows]
