"""Which technique is worth it on a user's own texts: fine-tuning with and without each, on paired splits at equal budget.

Equal budget means that every arm reads the same texts in the same order, ``steps`` batches of 32, from the same start; only
what its entry in :data:`TECHNIQUES` says is different. Two baselines that train in seconds stand in every table: TF-IDF with
logistic regression, and the most frequent class. How many steps a wall-time budget allows is measured once, before the
first run, and printed: with the same number of steps and the same seed all results are the same to the last digit.
"""

import difflib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertcraft.bert import sentences
from bertcraft.data.labelled import Labelled, Split, split
from bertcraft.errors import InputError
from bertcraft.lab import finetune as tuning
from bertcraft.techniques import adapter_modules
from bertcraft.tensor.parallel import one_blas_thread

PLAIN = tuning.Settings(clip=math.inf)  # AdamW, a linear schedule with warm-up, no clipping
MOST_TEST, MOST_DEV = 1000, 500  # texts: beyond them evaluation would eat the time for training
FEWEST_STEPS, MOST_EPOCHS = 10, 20
_TIMED = 4  # steps that are timed for each method, the first of them to warm up


@dataclass(frozen=True)
class Technique:
    """An arm of the comparison: what it changes in plain full fine-tuning."""

    title: str  # as tables name it, at most 24 characters
    what: str
    method: str = "full"  # of bertcraft.techniques.adapter_modules
    changes: dict[str, Any] = field(default_factory=dict)  # of finetune.Settings
    accumulate: int = 1  # batches to an update

    @property
    def kept_by_transformers(self) -> bool:
        """Whether the result can be written as a plain BERT classifier."""
        return adapter_modules.METHODS[self.method].merged is not None

    def settings(self, steps: int) -> tuning.Settings:
        """Those of a run that reads ``steps`` batches, a multiple of ``accumulate``."""
        batch = PLAIN.batch_size * self.accumulate
        return replace(PLAIN, steps=max(1, steps // self.accumulate), batch_size=batch, **self.changes)


FULL = "full"
TECHNIQUES = {
    FULL: Technique("full fine-tuning", "all weights are trained: AdamW, linear schedule with warm-up"),
    "head": Technique("head only", "the encoder stays as it is", "head"),
    "adapters": Technique("adapters (64)", "two bottlenecks a layer, 64 wide (Houlsby et al. 2019)", "houlsby-64"),
    "adapters-8": Technique("adapters (8)", "two bottlenecks a layer, 8 wide", "houlsby-8"),
    "lora": Technique("LoRA (8)", "matrices of rank 8 beside queries and values (Hu et al. 2021)", "lora"),
    "bitfit": Technique("BitFit", "biases alone are trained (Zaken et al. 2022)", "bitfit"),
    "ia3": Technique("IA3", "keys, values and activations are rescaled (Liu et al. 2022)", "ia3"),
    "prefix": Technique("prefix (16)", "16 trained keys and values before the text (Li & Liang 2021)", "prefix"),
    "clipping": Technique("gradient clipping", "full, gradients clipped to norm 1", changes={"clip": 1.0}),
    "cosine": Technique("cosine schedule", "full, the rate falls along a cosine", changes={"schedule": "cosine"}),
    "constant": Technique("constant rate", "full, the rate neither rises nor falls", changes={"schedule": "constant"}),
    "adam": Technique("no weight decay", "full, Adam instead of AdamW", changes={"weight_decay": 0.0}),
    "accumulation": Technique("accumulation (4)", "full, an update every 4 batches", accumulate=4),
    "label-smoothing": Technique("label smoothing", "full, a tenth of the target spread over all classes",
                                 changes={"label_smoothing": 0.1}),
}  # fmt: skip
DEFAULT = ("head", "adapters", "lora")
TFIDF, MAJORITY = "tfidf", "majority"
BASELINES = {TFIDF: "TF-IDF", MAJORITY: "most frequent class"}


def chosen(names: str | None) -> list[str]:
    """The arms for a list like "lora,adapters" ("all": every technique): full fine-tuning first, each once.

    Raises InputError for an unknown name: all names, and the nearest.
    """
    wanted = [name.strip().casefold() for name in names.split(",") if name.strip()] if names else list(DEFAULT)
    if wanted == ["all"]:
        wanted = list(TECHNIQUES)
    for name in wanted:
        if name not in TECHNIQUES:
            near = difflib.get_close_matches(name, TECHNIQUES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"--techniques: got {name!r}, expected names among {', '.join(TECHNIQUES)} or all{hint}")
    return list(dict.fromkeys([FULL, *wanted]))


@dataclass(frozen=True)
class Score:
    """Of one run: on test texts, but ``dev``, the accuracy by which models are chosen."""

    accuracy: float
    macro_f1: float
    dev: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What every arm of every seed does. ``test`` and ``dev``: how many texts are classified at most."""

    steps: int
    epochs: float  # how often a training text is read
    test: int
    dev: int
    cut: float  # share of the texts that are longer than max_length tokens
    enough: bool = False  # whether the budget would allow more steps than make sense


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


class Clock:
    """Wall time since the command began, and how much of it there is."""

    def __init__(self, budget: float | None, began: float | None = None):
        self.budget, self.began = budget, time.monotonic() if began is None else began

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def has(self, seconds: float) -> bool:
        """Whether that much more may be begun: to 5 % more than the budget, within the 10 % that are promised."""
        return self.budget is None or self.elapsed + seconds <= 1.05 * self.budget


def splits(data: Labelled, seed: int, seeds: int) -> list[Split]:
    """One for each seed; at most MOST_TEST and MOST_DEV texts are taken from training, but of every class at least one."""
    test, dev = min(0.2, MOST_TEST / len(data)), min(0.1, MOST_DEV / len(data))
    return [split(data, s, test, dev) for s in range(seed, seed + seeds)]


def some(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many rows, at random; a larger choice holds the smaller ones."""
    return np.random.default_rng((seed, 3)).permutation(rows)[:most]


# ----------------------------------------------------------------------------------------------------------- baselines


def tfidf(data: Labelled, parts: Split) -> Callable[[np.ndarray], np.ndarray]:
    """TF-IDF of words and pairs of words with logistic regression, trained on all training texts: rows -> classes."""
    import warnings

    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts = [data.texts[i] for i in parts.train]
    features = min(50_000, 1_000_000 // len(data.labels))  # as many coefficients as are fitted in seconds
    options = {"sublinear_tf": True, "max_features": features, "dtype": np.float32}
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **options)
    try:
        inputs = vectorizer.fit_transform(texts)
    except ValueError:  # no text has a word, only signs
        vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), **options)
        inputs = vectorizer.fit_transform(texts)
    model = LogisticRegression(C=10, max_iter=200)
    with warnings.catch_warnings(), one_blas_thread():
        warnings.simplefilter("ignore")  # 200 iterations are enough, converged to the last digit or not
        model.fit(inputs, data.numbers[parts.train])
    return lambda rows: model.predict(vectorizer.transform([data.texts[i] for i in rows]))


def majority(data: Labelled, parts: Split) -> Callable[[np.ndarray], np.ndarray]:
    """The most frequent class of the training texts, whatever the text."""
    most = np.bincount(data.numbers[parts.train]).argmax()
    return lambda rows: np.full(len(rows), most)


def score(data: Labelled, test: np.ndarray, dev: np.ndarray, classify: Callable, began: float) -> Score:
    """Of a classifier of rows; the seconds are those since it was begun."""
    from sklearn.metrics import f1_score

    found, right = classify(test), data.numbers[test]
    f1 = f1_score(right, found, average="macro", zero_division=0)
    on_dev = float(np.mean(classify(dev) == data.numbers[dev]))
    return Score(float(np.mean(found == right)), float(f1), on_dev, time.monotonic() - began)


# -------------------------------------------------------------------------------------------------------------- the plan


def evaluated(steps: int) -> tuple[int, int]:
    """How many test and development texts to classify: about as many as are read in training, which costs a third of it."""
    texts = steps * PLAIN.batch_size
    return min(max(texts * 2 // 3, 200), MOST_TEST), min(max(texts // 3, 100), MOST_DEV)


def fixed(steps: int, parts: Split, cut: float, enough: bool = False) -> Plan:
    """The plan of a number of steps: all else follows from it."""
    test, dev = evaluated(steps)
    epochs = steps * PLAIN.batch_size / len(parts.train)
    return Plan(steps, epochs, min(test, len(parts.test)), min(dev, len(parts.dev)), cut, enough)


class Cost(NamedTuple):
    """Seconds of a fine-tuning method on this machine: to begin a run, for a training step, to classify a text."""

    begin: float
    step: float
    text: float


def timed(model, data: Labelled, names: Sequence[str], parts: Split, threads: int, tell: Callable) -> dict[str, Cost]:
    """The cost of every method among the arms, from a few steps of each."""
    sample, costs = _texts(data, some(parts.train, _TIMED * PLAIN.batch_size, 0)), {}
    for method in dict.fromkeys(TECHNIQUES[name].method for name in names):
        tell(f"timing {adapter_modules.METHODS[method].title}")
        marks = [time.monotonic()]
        tuned = tuning.finetune(
            model, sample, None, method, replace(PLAIN, steps=_TIMED), classes=len(data.labels), seed=0, threads=threads,
            report=lambda progress, marks=marks: marks.append(time.monotonic()),
        )  # fmt: skip
        now, step = time.monotonic(), (marks[-1] - marks[1]) / (_TIMED - 1)
        tuning.predict(tuned, sample.texts, threads)
        costs[method] = Cost(max(0.0, marks[1] - marks[0] - step), step, (time.monotonic() - now) / len(sample))
    return costs


def fitting(costs: dict[str, Cost], names: Sequence[str], parts: Split, cut: float, seeds: int, clock: Clock) -> Plan:
    """The plan of most steps that fits into what is left of the budget.

    Raises InputError when fewer than FEWEST_STEPS fit: what budget would do.
    """
    methods = [TECHNIQUES[name].method for name in names]
    unit = math.lcm(*(TECHNIQUES[name].accumulate for name in names))
    most = max(100, round(MOST_EPOCHS * len(parts.train) / PLAIN.batch_size))

    def seconds(steps: int) -> float:
        plan = fixed(steps, parts, cut)
        one = (costs[m].begin + steps * costs[m].step + (plan.test + plan.dev) * costs[m].text for m in methods)
        return seeds * sum(one)

    left = 0.97 * clock.budget - clock.elapsed
    steps = max((n for n in range(unit, most + 1, unit) if seconds(n) <= left), default=0)
    if steps < FEWEST_STEPS:
        needed = (clock.elapsed + seconds(-(-FEWEST_STEPS // unit) * unit)) / 0.95
        raise InputError(
            f"--budget: {clock.budget:,.0f} s leave {len(names)} arms x {seeds} splits {steps} steps each, too few to learn "
            f"from; give about {math.ceil(needed / 60)}m, or fewer --techniques or --seeds"
        )
    return fixed(steps, parts, cut, enough=steps + unit > most)


# ------------------------------------------------------------------------------------------------------------- the runs


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
    model = load(weights("minilm"))
    sample = sentences.tokenize(model, [data.texts[i] for i in some(parts[0].train, 1000, 0)], PLAIN.max_length + 1)
    cut = float(np.mean([len(ids) > PLAIN.max_length for ids in sample]))
    light = {TFIDF: [], MAJORITY: []}
    for number, own in enumerate(parts, 1):
        tell(f"TF-IDF + logistic regression, split {number} of {seeds}")
        began = time.monotonic()
        light[TFIDF].append((tfidf(data, own), time.monotonic() - began))
        light[MAJORITY].append((majority(data, own), 0.0))
    if steps is None:
        costs = timed(model, data, names, parts[0], threads, tell)
        plan = fitting(costs, names, parts[0], cut, seeds, clock)
    else:
        unit = math.lcm(*(TECHNIQUES[name].accumulate for name in names))
        plan = fixed(max(unit, steps // unit * unit), parts[0], cut)
    planned(plan)
    outcome = Outcome(list(names), plan, {name: [] for name in (*names, *BASELINES)}, {}, plan.test / len(parts[0].train), seeds)
    best: dict[str, tuple[float, int, tuning.Finetuned]] = {}
    spent: list[float] = []  # seconds of whole seeds
    for number, own in enumerate(parts):
        if spent and not clock.has(float(np.mean(spent))):
            break
        began = time.monotonic()
        found = _seed(model, data, own, seed + number, number, outcome, light, best if keep else None, clock, threads, tell)
        if found is None:
            break
        spent.append(time.monotonic() - began)
        for name, one in found.items():
            outcome.scores[name].append(one)
    if keep:
        kept = [name for name in names if TECHNIQUES[name].kept_by_transformers]
        name = max(kept, key=outcome.dev)
        outcome.best = (name, *best[name][1:])
    return outcome


def _seed(model, data, parts, seed, number, outcome, light, best, clock, threads, tell) -> dict[str, Score] | None:
    """The scores of all arms on a split; None when the budget ran out before the last (and it is not the first split)."""
    plan, found = outcome.plan, {}
    test, dev = some(parts.test, plan.test, seed), some(parts.dev, plan.dev, seed)
    train = _texts(data, some(parts.train, plan.steps * PLAIN.batch_size, seed))
    for place, name in enumerate(outcome.names):
        if number and not clock.has(0):
            return None
        began, technique = time.monotonic(), TECHNIQUES[name]
        done, total = number * len(outcome.names) + place, outcome.asked * len(outcome.names)

        def report(progress, name=name, done=done, total=total):
            tell(f"{TECHNIQUES[name].title}, split {number + 1}", (done + progress.step / progress.steps) / total)

        tuned = tuning.finetune(
            model, train, None, technique.method, technique.settings(plan.steps), classes=len(data.labels), seed=seed,
            threads=threads, report=report,
        )  # fmt: skip
        outcome.shares[name] = tuned.trained_share

        def classify(rows, tuned=tuned):
            return tuning.predict(tuned, [data.texts[i] for i in rows], threads).argmax(axis=1)

        found[name] = score(data, test, dev, classify, began)
        if best is not None and technique.kept_by_transformers and found[name].dev > best.get(name, (-1.0,))[0]:
            best[name] = (found[name].dev, number, tuned)
    for name, classifiers in light.items():
        classify, seconds = classifiers[number]
        found[name] = score(data, test, dev, classify, time.monotonic() - seconds)
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


def _texts(data: Labelled, rows: np.ndarray) -> tuning.Texts:
    return tuning.Texts([data.texts[i] for i in rows], data.numbers[rows])
