"""Few-shot episodes: small classification tasks of N classes with K examples each, cut from a labelled task.

A pool holds the texts of some classes, each text once. An episode draws N classes ("ways") of it, and of each K texts to learn
from ("shots", the support) and others to be judged on (the query). It depends on nothing but seed, stream and number.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bertcraft.data.splits import Row, distinct
from bertcraft.data.tasks import Task
from bertcraft.errors import InputError

_VALIDATION_DRAW, _ORDER = 0, 1  # seeds of what is drawn once and for all: the validation classes, and a class's texts


class Pool(NamedTuple):
    """Texts by class. No two of them agree in their letters and digits."""

    classes: list[str]
    texts: list[list[str]]  # of each class


class ClassSplit(NamedTuple):
    """Numbers of classes: to meta-train on, to choose settings on, to test on. No class is in two of them."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class Episode(NamedTuple):
    """Which texts an episode consists of: in row i, texts number ... of class ``classes[i]``."""

    classes: np.ndarray  # (ways,) numbers of classes in the pool, all different
    support: np.ndarray  # (ways, shots)
    query: np.ndarray  # (ways, queries), none of them in the support


def pool(task: Task, most: int) -> Pool:
    """Up to ``most`` texts of each class, drawn from all three parts of the task.

    An episode's classes are new to whoever is tested on it, so it does not matter which part their texts come from.
    """
    parts = (task.train, task.dev, task.test)
    rows = [
        Row(text, task.labels[label]) for part in parts for text, label in zip(part.texts, part.labels.tolist(), strict=True)
    ]
    texts: dict[str, list[str]] = {name: [] for name in task.labels}
    for row in distinct(rows, []):
        texts[row.label].append(row.text)
    chosen = []
    for number, own in enumerate(texts.values()):
        order = np.random.default_rng((_ORDER, number)).permutation(len(own))[:most]
        chosen.append([own[i] for i in order])
    return Pool(list(texts), chosen)


def class_split(count: int, seed: int, train: int, validation: int) -> ClassSplit:
    """Split ``count`` classes. Those for validation are the same for every seed; the seed deals out the others.

    So settings chosen on the validation classes were chosen on no test class of any seed, and an interval over seeds takes in
    which classes are tested. Raises InputError when no class is left to test on.
    """
    if not (train > 0 and validation >= 0 and train + validation < count):
        raise InputError(f"cannot split {count} classes into {train} + {validation} and at least 1 to test on")
    order = np.random.default_rng(_VALIDATION_DRAW).permutation(count)
    kept = order[train : train + validation]
    others = np.random.default_rng((seed, 0)).permutation(np.setdiff1d(order, kept))
    return ClassSplit(others[:train], kept, others[train:])


def episode(
    sizes: Sequence[int], classes: Sequence[int], ways: int, shots: int, queries: int, seed: int, stream: int, number: int
) -> Episode:
    """Draw ``ways`` of the given classes and ``shots + queries`` different texts of each: episode ``number`` of a stream.

    ``sizes[c]`` is the number of texts of class c. Episodes that differ in ``shots`` alone have the same classes. Raises
    InputError when there are too few classes, or too few texts in one.
    """
    small = [int(c) for c in classes if sizes[c] < shots + queries]
    if len(classes) < ways or small:
        got = f"class {small[0]} with {sizes[small[0]]} texts" if small else f"{len(classes)} classes"
        raise InputError(f"an episode needs {ways} classes of at least {shots} + {queries} texts each, got {got}")
    rng = np.random.default_rng((seed, stream, number))
    chosen = rng.permutation(np.asarray(classes))[:ways]
    drawn = np.stack([rng.permutation(sizes[c])[: shots + queries] for c in chosen])
    return Episode(chosen, drawn[:, :shots], drawn[:, shots:])
