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
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bertcraft.bert import sentences
from bertcraft.data.labelled import Labelled, Split, split
from bertcraft.errors import InputError
from bertcraft.lab import arms, budget, frozen
from bertcraft.lab import finetune as tuning
from bertcraft.lab.arms import BASELINES, FULL, MAJORITY, PLAIN, PROBE, TECHNIQUES, TFIDF, some, texts
from bertcraft.lab.budget import MOST_DEV, MOST_TEST, TIMED, Clock, Plan

PROBE_TOKENS = 500_000  # that the linear probe learns from at most: about a minute on two cores


@dataclass(frozen=True)
class Score:
    """Of one run: on test texts, but ``dev``, the accuracy by which models are chosen."""

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
    overlap: float  # test texts by those to train on, for the intervals
    asked: int  # seeds asked for
    best: tuple[str, int, tuning.Finetuned] | None = None

    @property
    def seeds(self) -> int:
        return len(self.scores[FULL])

    def dev(self, name: str) -> float:
        """Mean accuracy on development texts."""
        return float(np.mean([score.dev for score in self.scores[name]]))

    def seconds(self, name: str) -> float:
        """Mean wall time of a run."""
        return float(np.mean([score.seconds for score in self.scores[name]]))


def splits(data: Labelled, seed: int, seeds: int) -> list[Split]:
    """One for each seed; at most MOST_TEST and MOST_DEV texts are taken from training, but of every class at least one."""
    test, dev = min(0.2, MOST_TEST / len(data)), min(0.1, MOST_DEV / len(data))
    return [split(data, s, test, dev) for s in range(seed, seed + seeds)]


@dataclass(frozen=True)
class Light:
    """A classifier of rows that was trained in seconds, and how many."""

    classify: Callable[[np.ndarray], np.ndarray]
    seconds: float



def score(data: Labelled, test: np.ndarray, dev: np.ndarray, classify: Callable, began: float) -> Score:
    """Of a classifier of rows; the seconds are those since it was begun."""
    from sklearn.metrics import f1_score

    found, right = classify(test), data.numbers[test]
    f1 = f1_score(right, found, average="macro", zero_division=0)
    on_dev = float(np.mean(classify(dev) == data.numbers[dev]))
    return Score(float(np.mean(found == right)), float(f1), on_dev, time.monotonic() - began)


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

    parts = splits(data, seed, seeds)
    tell("reading the pretrained encoder")
    model = frozen.with_mean(load(weights("minilm")))
    sample = sentences.tokenize(model, [data.texts[i] for i in some(parts[0].train, 1000, 0)], PLAIN.max_length + 1)
    cut = float(np.mean([len(ids) > PLAIN.max_length for ids in sample]))
    probed = int(PROBE_TOKENS / np.mean([min(len(ids), PLAIN.max_length) for ids in sample]))
    vectors = frozen.Vectors(model, data.texts, PLAIN.max_length, threads)
    light: list[dict[str, Light]] = []
    heads = []
    for number, own in enumerate(parts, 1):
        tell(f"TF-IDF + logistic regression, split {number} of {seeds}")
        began = time.monotonic()
        found = {TFIDF: Light(arms.tfidf(data, own), time.monotonic() - began), MAJORITY: Light(arms.majority(data, own), 0.0)}
        tell(f"logistic regression on the frozen encoder's vectors, split {number} of {seeds}")
        head, found[PROBE] = probe(data, own, vectors, probed, threads)
        heads.append(head)
        light.append(found)
    if steps is None:
        sample = texts(data, some(parts[0].train, TIMED * PLAIN.batch_size, 0))
        costs = budget.timed(model, sample, names, classes=len(data.labels), threads=threads, tell=tell)
        plan = budget.fitting(costs, names, parts[0], cut, seeds, clock)
    else:
        unit = math.lcm(*(TECHNIQUES[name].accumulate for name in names))
        plan = budget.fixed(max(unit, steps // unit * unit), parts[0], cut)
    plan = replace(plan, probed=min(1.0, probed / len(parts[0].train)))
    planned(plan)
    outcome = Outcome(list(names), plan, {name: [] for name in (*names, *BASELINES)}, {}, plan.test / len(parts[0].train), seeds)
    best: dict[str, tuple[float, int, tuning.Finetuned]] = {}
    for number, own in enumerate(parts):
        found = _seed(
            model, data, own, seed + number, number, outcome, light[number], heads[number], best if keep else None, clock, threads,
            tell,
        )
        if found is None:
            break
        for name, one in found.items():
            outcome.scores[name].append(one)
    if keep:
        name = max((name for name in (PROBE, *names) if name == PROBE or TECHNIQUES[name].kept_by_transformers), key=outcome.dev)
        outcome.best = (name, *best[name][1:])
    return outcome


def probe(data: Labelled, parts: Split, vectors: frozen.Vectors, most: int, threads: int) -> tuple[dict, Light]:
    """The linear probe of a split: the head that all its arms start from, and the same as a classifier.

    It learns from at most ``most`` texts, taken at random, some of every class. Its seconds are those for the vectors of
    these texts, known from another split or not, and for the regression.
    """
    rows = arms.of_every_class(data, parts.train, most)
    dev = some(parts.dev, MOST_DEV, 0)
    inputs, on_dev = vectors(rows), vectors(dev)
    share = (len(rows) + len(dev)) / vectors.known.sum()
    began = time.monotonic()
    head = frozen.fitted(inputs, data.numbers[rows], on_dev, data.numbers[dev], threads)
    took = time.monotonic() - began + share * vectors.seconds
    return head, Light(lambda rows: frozen.classify(head, vectors(rows)), took)


def _seed(model, data, parts, seed, number, outcome, light, start, best, clock, threads, tell) -> dict[str, Score] | None:
    """The scores of all arms on a split; None when the budget does not last (but for the first split)."""
    plan, found = outcome.plan, {}
    test, dev = some(parts.test, plan.test, seed), some(parts.dev, plan.dev, seed)
    train = texts(data, some(parts.train, plan.steps * PLAIN.batch_size, seed))
    for place, name in enumerate(outcome.names):
        if number and not clock.has(sum(outcome.seconds(own) for own in outcome.names[place:])):
            return None
        began, technique = time.monotonic(), TECHNIQUES[name]
        done, total = number * len(outcome.names) + place, outcome.asked * len(outcome.names)

        def report(progress, name=name, done=done, total=total):
            tell(f"{TECHNIQUES[name].title}, split {number + 1}", (done + progress.step / progress.steps) / total)

        tuned = tuning.finetune(
            model, train, None, technique.method, technique.settings(plan.steps), classes=len(data.labels), seed=seed,
            threads=threads, head=start, report=report,
        )  # fmt: skip
        outcome.shares[name] = tuned.trained_share

        def classify(rows, tuned=tuned):
            return tuning.predict(tuned, [data.texts[i] for i in rows], threads).argmax(axis=1)

        found[name] = score(data, test, dev, classify, began)
        if best is not None and technique.kept_by_transformers and found[name].dev > best.get(name, (-1.0,))[0]:
            best[name] = (found[name].dev, number, tuned)
    for name, one in light.items():
        found[name] = score(data, test, dev, one.classify, time.monotonic() - one.seconds)
    if best is not None and found[PROBE].dev > best.get(PROBE, (-1.0,))[0]:
        best[PROBE] = (found[PROBE].dev, number, frozen.as_classifier(model, start, PLAIN))
    return found


def classifier(folder: str | Path) -> tuning.Finetuned:
    """A classifier that a folder holds, to predict with: one that was saved here, or by transformers.

    Texts are cut to the model_max_length of its tokenizer. Raises CheckpointError when there is no model, InputError when it
    is no classifier of texts into one class each.
    """
    from bertcraft import load
    from bertcraft.bert.checkpoint_files import read_object

    model, path = load(folder), Path(folder, "tokenizer_config.json")
    config = model.config
    if config.head != "sequence_classification" or config.problem_type not in (None, "single_label_classification"):
        raise InputError(f"{folder}: expected a classifier of texts, got a model whose head is {config.head!r}")
    length = read_object(path).get("model_max_length") if path.exists() else None
    most = config.max_position_embeddings
    settings = replace(PLAIN, max_length=min(int(length), most) if isinstance(length, int | float) else most)
    return tuning.Finetuned(model, FULL, config, model.params, {}, settings, {}, 0.0)
