"""Few-shot episodes: small classification tasks of N classes with K examples each, cut from a labelled task.

A pool holds the texts of some classes, each text once. An episode draws N classes ("ways") of it, and of each K texts to learn
from ("shots", the support) and others to be judged on (the query). It depends on nothing but seed, stream and number.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from bertcraft.data import tasks
from bertcraft.data.splits import Row, distinct
from bertcraft.errors import InputError
from bertcraft.techniques.meta_learning import Task
from bertcraft.tensor import functions as F
from bertcraft.tensor.parallel import one_blas_thread

LENGTH = 64  # tokens; longer texts are cut
DEPTHS = (3, 6)  # numbers of MiniLM's layers after which vectors are taken

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


def pool(task: tasks.Task, most: int) -> Pool:
    """Up to ``most`` texts of each class, drawn from all three parts of the task.

    An episode's classes are new to whoever is tested on it, so it does not matter which part their texts come from.
    """
    parts = (task.train, task.dev, task.test)
    rows = [Row(text, task.labels[label]) for part in parts for text, label in zip(part.texts, part.labels.tolist(), strict=True)]
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


# ------------------------------------------------------------------------------------- episodes of frozen sentence vectors


@cache
def pool_of(data_set: str, most: int) -> Pool:
    return pool(tasks.task(data_set), most)


@cache
def _encoder():
    from bertcraft.bert.model import load
    from bertcraft.data import weights

    return load(weights("minilm"))


@cache
def vectors(data_set: str, most: int, number: int) -> dict[int, np.ndarray]:
    """MiniLM's vectors of a class's texts by number of layers: unit means over the tokens, float32 (texts, 384).

    A class is encoded by itself, so its vectors do not depend, to the last bit, on what else has been asked for.
    """
    from bertcraft.bert import encoder, families, sentences

    model = _encoder()
    token_ids = sentences.tokenize(model, pool_of(data_set, most).texts[number], LENGTH)
    order = np.argsort([-len(ids) for ids in token_ids], kind="stable")
    lengths = [len(token_ids[i]) for i in order]
    ids = np.concatenate([token_ids[i] for i in order])[None]
    positions = np.concatenate([np.arange(n) for n in lengths])[None]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    sockets = encoder.Sockets(attention=sentences.packed_attention(lengths))
    result = {}
    with one_blas_thread():
        x = encoder.embed(model.params, model.config, ids, position_ids=positions)
        for depth, layer in enumerate(families.layers(model.params, model.config), 1):
            x = sockets.wiring(layer, x, x, None, model.config, sockets)
            if depth in DEPTHS:
                means = np.add.reduceat(x[0], starts) / np.array(lengths, np.float32)[:, None]
                result[depth] = np.empty_like(means)
                result[depth][order] = F.normalize(means)
    return result


class Source:
    """Episodes of some classes of a data set (all, by default), as batches of the vectors after some layers."""

    def __init__(self, data_set: str, most: int, depth: int, classes: Sequence[int] | None = None):
        self.data_set, self.most, self.depth = data_set, most, depth
        self.sizes = [len(texts) for texts in pool_of(data_set, most).texts]
        self.classes = np.arange(len(self.sizes)) if classes is None else np.asarray(classes)

    def rows(self, number: int) -> np.ndarray:
        """One vector for each text of a class, (texts, size)."""
        return vectors(self.data_set, self.most, number)[self.depth]

    def task(self, ways: int, shots: int, queries: int, seed: int, stream: int, number: int) -> Task:
        """Batches {"x" (n, 384), "labels" (n,) from 0 to ways - 1, "classes" (n,) places in this source's classes}."""
        drawn = episode(self.sizes, self.classes, ways, shots, queries, seed, stream, number)
        rows = [self.rows(int(c)) for c in drawn.classes]
        places = np.array([int(np.flatnonzero(self.classes == c)[0]) for c in drawn.classes])

        def batch(numbers):
            labels = np.repeat(np.arange(ways), numbers.shape[1])
            x = np.concatenate([own[n] for own, n in zip(rows, numbers, strict=True)])
            return {"x": x, "labels": labels, "classes": places[labels]}

        return Task(batch(drawn.support), batch(drawn.query))


class Words(Source):
    """TF-IDF vectors in place of the encoder's, with the words and weights of the training classes' texts."""

    def __init__(self, data_set: str, most: int, classes: np.ndarray, training: np.ndarray):
        from sklearn.feature_extraction.text import TfidfVectorizer

        super().__init__(data_set, most, 0, classes)
        texts = pool_of(data_set, most).texts
        self.weigh = TfidfVectorizer(sublinear_tf=True, dtype=np.float32).fit([text for c in training for text in texts[c]])

    def rows(self, number: int) -> np.ndarray:
        return self.weigh.transform(pool_of(self.data_set, self.most).texts[number]).toarray()


def cut(task: Task, count: int) -> list[Task]:
    """One task of many classes as ``count`` tasks of a few classes each, labelled from 0."""

    def part(batch: dict, i: int) -> dict:
        own = {name: np.split(array, count)[i] for name, array in batch.items()}
        return {**own, "labels": own["labels"] - own["labels"][0]}

    return [Task(part(task.support, i), part(task.query, i)) for i in range(count)]
