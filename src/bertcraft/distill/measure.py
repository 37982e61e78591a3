"""Teacher and student side by side, on texts that the training did not read: the table before and after."""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bertcraft.bert.model import Model
from bertcraft.distill.goals import Goal
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree

ROUNDS = 5  # of the clock; models take turns, and the median counts
INDEX = 5000  # texts, of those read in training, among which the nearest is looked for


def measured(
    goal: Goal, start: Model, student: Model, held_out: Sequence[str], read: Sequence[str], labels: np.ndarray | None
) -> dict[str, dict[str, Any]]:
    """Figures of the "teacher", its student at the "start" and the trained "student".

    Of all "layers", "parameters" and "bytes", those of the weights on disk; of teacher and student "speed", texts a second. On
    the held-out texts: of vectors "cosine", the mean with the teacher's, and "neighbour", the share of texts whose nearest among
    ``read`` is the teacher's; of classes "same", the share that get the teacher's, and "accuracy" where ``labels`` are given,
    class numbers or -1.
    """
    models = {"teacher": goal.teacher, "start": start, "student": student}
    table = {name: _size(model) for name, model in models.items()}
    found = {name: goal.complete(model, held_out) for name, model in models.items()}
    if goal.kind == "vectors":
        index = read[:INDEX]
        nearest = {name: _nearest(found[name], goal.complete(model, index)) for name, model in models.items()}
        for name, own in table.items():
            cosine = np.sum(F.normalize(found[name]) * F.normalize(found["teacher"]), axis=1)
            own |= {"cosine": float(cosine.mean()), "neighbour": float(np.mean(nearest[name] == nearest["teacher"]))}
    else:
        chosen = {name: own.argmax(axis=1) for name, own in found.items()}
        told = None if labels is None else labels >= 0
        for name, own in table.items():
            own["same"] = float(np.mean(chosen[name] == chosen["teacher"]))
            if told is not None and told.any():
                own["accuracy"] = float(np.mean(chosen[name][told] == labels[told]))
    pair = ("teacher", "student")
    for name, speed in zip(pair, speeds(goal, [models[name] for name in pair], held_out), strict=True):
        table[name] |= {"bytes": stored(models[name].folder), "speed": speed}
    return table


def _size(model: Model) -> dict[str, Any]:
    return {"layers": model.config.num_hidden_layers, "parameters": sum(leaf.size for leaf in tree.leaves(model.params))}


def _nearest(own: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The number of the known vector of the largest cosine to each."""
    return (F.normalize(own) @ F.normalize(known).T).argmax(axis=1)


def stored(folder: Path) -> int:
    """The bytes of a checkpoint's weights."""
    return sum(path.stat().st_size for path in folder.glob("model*.safetensors"))


def speeds(goal: Goal, models: Sequence[Model], texts: Sequence[str]) -> list[float]:
    """Texts a second of each model, all CPUs, tokenizing included: the median of rounds in which they take turns."""
    seconds: list[list[float]] = [[] for _ in models]
    for _ in range(ROUNDS):
        for own, model in zip(seconds, models, strict=True):
            began = time.perf_counter()
            goal.complete(model, texts)
            own.append(time.perf_counter() - began)
    return [len(texts) / median(own) for own in seconds]
