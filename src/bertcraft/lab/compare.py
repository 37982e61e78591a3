"""Which technique is worth it on a user's own texts: fine-tuning with and without each, on paired splits at equal budget.

Equal budget means that every arm reads the same texts in the same order, ``steps`` batches of 32, from the same start: the
linear probe (:mod:`bertcraft.lab.frozen`). Only what its entry in :data:`TECHNIQUES` says is different. Three baselines that
train in seconds stand in every table: that probe, TF-IDF with logistic regression, and the most frequent class. How many steps
a wall-time budget allows is measured once, before the first run, and printed: with the same number of steps and the same seed
all results are the same to the last digit.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bertcraft.bert import sentence_folder, sentences
from bertcraft.bert.model import Model
from bertcraft.data.labelled import Labelled, Split, split
from bertcraft.errors import InputError
from bertcraft.lab import budget, frozen
from bertcraft.lab import finetune as tuning
from bertcraft.lab.arms import FULL, PLAIN, TECHNIQUES, some, texts
from bertcraft.lab.baselines import BASELINES, MAJORITY, PROBE, TFIDF, Baseline, learning_curve, majority, probe, tfidf
from bertcraft.lab.budget import MOST_DEV, MOST_TEST, TIMED, Clock, Plan

PROBE_TOKENS = 500_000  # that the linear probe learns from at most: about a minute on two cores
SKEWED = 5  # times as many texts in the largest class as in the smallest: then classes weigh alike, however large


def accuracy(right: np.ndarray, found: np.ndarray) -> float:
    """The share of the texts whose class was found."""
    return float(np.mean(right == found))


def macro_f1(right: np.ndarray, found: np.ndarray) -> float:
    """The mean over classes of F1, the harmonic mean of precision and recall."""
    from sklearn.metrics import f1_score

    return float(f1_score(right, found, average="macro", zero_division=0))


METRICS = {"accuracy": accuracy, "macro_f1": macro_f1}


def judged_by(data: Labelled) -> str:
    """The metric that decides: accuracy, but macro F1 where classes are so unequal that the large ones alone would decide."""
    sizes = np.bincount(data.numbers)
    return "macro_f1" if sizes.max() >= SKEWED * sizes.min() else "accuracy"


class Score(NamedTuple):
    """Of one run: on test texts, but ``dev``, the metric that decides on the development texts by which models are chosen."""

    accuracy: float
    macro_f1: float
    dev: float
    seconds: float


@dataclass
class Outcome:
    """Scores by arm, one a seed, in one order; ``best`` is kept for saving: (arm, split's number, the model)."""

    names: list[str]
    plan: Plan
    scores: dict[str, list[Score]]
    shares: dict[str, float]  # of all parameters that an arm trains
    train: int  # texts to train on
    asked: int  # seeds asked for
    metric: str  # that decides: a name in METRICS
    finest: float  # what one test text of a class, the smallest one where macro F1 decides, adds to the metric
    curve: list[list[float]] = field(default_factory=list)  # a row a seed: the probe on each of baselines.PARTS of its texts
    best: tuple[str, int, tuning.Finetuned] | None = None
    classes: int = 2  # of each of which there is a text at least, however small the part

    @property
    def seeds(self) -> int:
        return len(self.scores[FULL])

    @property
    def overlap(self) -> float:
        """Test texts by those to train on, for the intervals."""
        return self.plan.test / self.train

    def mean(self, name: str, part: str) -> float:
        """Of a field of the scores of an arm."""
        return float(np.mean([getattr(score, part) for score in self.scores[name]]))


def splits(data: Labelled, seed: int, seeds: int) -> list[Split]:
    """One for each seed; at most MOST_TEST and MOST_DEV texts are taken from training, but of every class at least one."""
    test, dev = min(0.2, MOST_TEST / len(data)), min(0.1, MOST_DEV / len(data))
    return [split(data, s, test, dev) for s in range(seed, seed + seeds)]


def compare(
    data: Labelled,
    names: Sequence[str],
    *,
    seeds: int = 5,
    seed: int = 0,
    steps: int | None = None,
    clock: Clock,
    threads: int = 1,
    keep: bool = False,
    tell: Callable[..., None] = lambda *_: None,
    planned: Callable[[Plan], None] = lambda plan: None,
) -> Outcome:
    """Run every arm on every split: seed after seed, so that a budget that ends too early costs whole seeds, not pairs.

    ``names``: as :func:`chosen` returns them. ``steps``: None measures how many fit into the clock's budget. ``keep``: the
    best model is kept, to be saved. ``tell(text, share)`` is called as the work goes on, ``planned`` once with the plan.
    Raises InputError when the budget is too small.
    """
    from bertcraft import load
    from bertcraft.data import weights

    parts, metric = splits(data, seed, seeds), judged_by(data)
    tell("reading the pretrained encoder")
    model = frozen.with_mean(load(weights("minilm")))
    sample = sentences.tokenize(model, [data.texts[i] for i in some(parts[0].train, 1000, 0)], PLAIN.max_length + 1)
    cut = float(np.mean([len(ids) > PLAIN.max_length for ids in sample]))
    probed = int(PROBE_TOKENS / np.mean([min(len(ids), PLAIN.max_length) for ids in sample]))
    vectors = frozen.Vectors(model, data.texts, PLAIN.max_length, threads)
    light: list[dict[str, Baseline]] = []
    for number, own in enumerate(parts, 1):
        if steps is None:
            budget.check(clock, number - 1, seeds)
        tell(f"TF-IDF + logistic regression, split {number} of {seeds}")
        words = tfidf(data, own)
        tell(f"logistic regression on the frozen encoder's vectors, split {number} of {seeds}")
        light.append({
            PROBE: probe(data, own, vectors, probed, METRICS[metric], threads), TFIDF: words, MAJORITY: majority(data, own)
        })  # fmt: skip
    if steps is None:
        sample = texts(data, some(parts[0].train, TIMED * PLAIN.batch_size, 0))
        costs = budget.timed(model, sample, names, classes=len(data.labels), threads=threads, tell=tell)
        plan = budget.fitting(costs, names, parts[0], cut, seeds, clock)
    else:
        unit = math.lcm(*(TECHNIQUES[name].accumulate for name in names))
        plan = budget.fixed(max(unit, steps // unit * unit), parts[0], cut)
    plan = replace(plan, probed=min(1.0, probed / len(parts[0].train)))
    planned(plan)
    outcome = Outcome(
        list(names), plan, {name: [] for name in (*names, *BASELINES)}, {}, len(parts[0].train), seeds, metric,
        _finest(data, metric, plan.test), classes=len(data.labels),
    )  # fmt: skip
    work = _Work(model, data, outcome, vectors, clock, threads, {} if keep else None, tell)
    for number, own in enumerate(parts):
        found = work.split(own, seed + number, number, light[number])
        if found is None:
            break
        for name, one in found.items():
            outcome.scores[name].append(one)
    if work.best:
        name = max(work.best, key=lambda name: outcome.mean(name, "dev"))
        outcome.best = (name, *work.best[name][1:])
    return outcome


def _finest(data: Labelled, metric: str, test: int) -> float:
    smallest = np.bincount(data.numbers).min() / len(data)
    return 1 / test if metric == "accuracy" else 1 / len(data.labels) / max(1.0, test * smallest)


@dataclass
class _Work:
    """What the runs of a comparison share. ``best``: of each arm that can be saved, its best (dev, split's number, model)."""

    model: Model
    data: Labelled
    outcome: Outcome
    vectors: frozen.Vectors
    clock: Clock
    threads: int
    best: dict[str, tuple[float, int, tuning.Finetuned]] | None
    tell: Callable[..., None]

    def split(self, parts: Split, seed: int, number: int, light: dict[str, Baseline]) -> dict[str, Score] | None:
        """The scores of all arms on a split; None when the budget does not last (but for the first split)."""
        data, outcome, plan, found = self.data, self.outcome, self.outcome.plan, {}
        test, dev = some(parts.test, plan.test, seed), some(parts.dev, plan.dev, seed)
        train = texts(data, some(parts.train, plan.steps * PLAIN.batch_size, seed))
        for place, name in enumerate(outcome.names):
            if number and not self.clock.has(sum(outcome.mean(own, "seconds") for own in outcome.names[place:])):
                return None
            began, technique = time.monotonic(), TECHNIQUES[name]
            tuned = technique.train(
                self.model, train, technique.settings(plan.steps), classes=len(data.labels), seed=seed, threads=self.threads,
                head=light[PROBE].head, report=self._report(name, number),
            )  # fmt: skip
            outcome.shares[name] = tuned.trained_share

            def classify(rows, tuned=tuned):
                return tuning.predict(tuned, [data.texts[i] for i in rows], self.threads).argmax(axis=1)

            found[name] = self.score(test, dev, classify, began)
            if technique.kept_by_transformers:
                self.keep(name, number, found[name].dev, lambda tuned=tuned: tuned)
        for name, one in light.items():
            found[name] = self.score(test, dev, one.classify, time.monotonic() - one.seconds)
        outcome.curve.append(learning_curve(data, light[PROBE], self.vectors, test, METRICS[outcome.metric]))
        self.keep(PROBE, number, found[PROBE].dev, lambda: frozen.as_classifier(self.model, light[PROBE].head, PLAIN))
        return found

    def score(self, test: np.ndarray, dev: np.ndarray, classify: Callable, began: float) -> Score:
        """Of a classifier of rows; the seconds are those since it was begun."""
        found, right = classify(test), self.data.numbers[test]
        on_dev = METRICS[self.outcome.metric](self.data.numbers[dev], classify(dev))
        return Score(accuracy(right, found), macro_f1(right, found), on_dev, time.monotonic() - began)

    def keep(self, name: str, number: int, dev: float, classifier: Callable[[], tuning.Finetuned]) -> None:
        """Keep the classifier where it is the arm's best on development texts so far."""
        if self.best is not None and dev > self.best.get(name, (-1.0,))[0]:
            self.best[name] = (dev, number, classifier())

    def _report(self, name: str, number: int) -> Callable:
        names = self.outcome.names
        done, total = number * len(names) + names.index(name), self.outcome.asked * len(names)

        def report(progress) -> None:
            self.tell(f"{TECHNIQUES[name].title}, split {number + 1}", (done + progress.step / progress.steps) / total)

        return report


def classifier(folder: str | Path) -> tuning.Finetuned:
    """A classifier that a folder holds, to predict with: one that was saved here, or by transformers.

    Texts are cut as transformers cuts them, where the tokenizer's files say. Raises CheckpointError when there is no model,
    InputError when it is no classifier of texts into one class each.
    """
    from bertcraft import load

    model = load(folder)
    config = model.config
    if config.head != "sequence_classification":
        raise InputError(f"{folder}: expected a classifier of texts, got a model whose head is {config.head!r}")
    if config.problem_type not in (None, "single_label_classification"):
        raise InputError(f"{folder}: expected a classifier of texts into one class each, got the problem {config.problem_type!r}")
    if config.num_labels < 2:
        raise InputError(f"{folder}: expected a classifier of texts, got a model with one output, which gives each text a number")
    settings = replace(PLAIN, max_length=sentence_folder.reading(model.folder, config)[0])
    return tuning.Finetuned(model, FULL, config, model.params, {}, settings, {}, 0.0)
