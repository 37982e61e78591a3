"""12: is a model whose encoder stays frozen but for small adapters as good as one that was fine-tuned in full?

MiniLM (6 layers, 384 wide, 22.6 million parameters) learns to sort TREC's questions of at most 16 tokens into 47 classes, by
seven methods that differ in what they train. The texts of a seed are 2,720 of the 3,828 short training questions, some of every
class; each is read twice, in 340 steps of 16, with dropout 0.1 and a rate that rises for a tenth of the steps and then falls to
zero. All methods of a seed read the same texts in the same batches.

On top stands the classifier of transformers' BERT, pooler included, which every method trains. All start from one head that was
trained on the frozen encoder's first token (Kumar et al. 2022): the row "start" is that model, untouched. A prefix of words as Li
and Liang have it takes attention from the text and so spoils that start; here it stands behind a gate that is zero at first.

**Tests.** All 470 short questions of TREC's own test part, the same for every seed: a part of them drawn anew by each seed would
only be a noisier look at the same questions. Seeds differ in the texts they learn from, in order, dropout and starting values.
Their training texts are drawn from one pool, which is too small for disjoint draws, so intervals are widened (Nadeau & Bengio).

**Rates.** One rule for all methods: four rates, each 2 to 2.5 times the one before, tried with one seed that is not reported; the
best on the development part is taken, and may not lie at an end. Beforehand only this was known: full fine-tuning's best was
near 2e-4, that of adapters and LoRA near 3e-3, in trials of 340 steps with two seeds, looked at before this was declared.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bertcraft.bert import sentences
from bertcraft.bert.model import Model, load
from bertcraft.data import task, weights
from bertcraft.data.labelled import Labelled, Split
from bertcraft.lab import baselines, frozen, statistics
from bertcraft.lab import finetune as tuning
from bertcraft.lab.experiment import Arm, Check, Claim, Comparison, Context, Experiment, Metric, Tuning, shorter
from bertcraft.tensor import tree

LONGEST = 16  # tokens: longer questions are left out, of training and test alike
TEXTS, BATCH, STEPS = 2720, 16, 340  # two readings
TESTED = 470
WINDOW = 20  # steps whose losses are stored as one mean
_PARTS = ("train", "dev", "test")

# ------------------------------------------------------------------------------------------------------------------ texts


@functools.cache
def model() -> Model:
    return load(weights("minilm"))


@functools.cache
def questions() -> tuple[Labelled, Split]:
    """All questions of at most LONGEST tokens, and which belong to TREC's three parts."""
    trec = task("trec")
    parts = [getattr(trec, part) for part in _PARTS]
    texts = [text for part in parts for text in part.texts]
    numbers = np.concatenate([part.labels for part in parts]).astype(np.int64)
    origin = np.repeat(np.arange(3), [len(part) for part in parts])
    kept = np.array([len(ids) <= LONGEST for ids in sentences.tokenize(model(), texts, LONGEST + 1)])
    rows = np.flatnonzero(kept)
    data = Labelled([texts[i] for i in rows], list(trec.labels), numbers[rows], np.arange(len(rows)), [])
    return data, Split(*(np.flatnonzero(origin[rows] == part) for part in range(3)))


def split(texts: int, seed: int) -> Split:
    """A seed's training texts, some of every class; all development and test questions."""
    data, known = questions()
    shuffled = np.random.default_rng((seed, 0)).permutation(known.train)
    return known._replace(train=np.sort(baselines.stratified(data, shuffled)[:texts]))


def some(rows: np.ndarray) -> tuning.Texts:
    data, _ = questions()
    return tuning.Texts([data.texts[i] for i in rows], data.numbers[rows])


# ----------------------------------------------------------------------------------------------------------- trivial rows


@functools.cache
def start(texts: int, seed: int) -> dict:
    """The head that all methods of a seed start from, trained on the frozen encoder's first token."""
    data, _ = questions()
    settings = tuning.Settings(steps=100, batch_size=64, rate=3e-3, max_length=LONGEST)
    return tuning.probe(model(), some(split(texts, seed).train), settings, classes=len(data.labels), seed=seed)


@functools.cache
def vectors() -> frozen.Vectors:
    """MiniLM's sentence vectors."""
    return frozen.Vectors(frozen.with_mean(model()), questions()[0].texts, LONGEST)


def _by_start(parts: Split, texts: int, seed: int) -> Callable:
    settings = tuning.Settings(max_length=LONGEST)
    untouched = frozen.as_classifier(model(), start(texts, seed), settings)
    return lambda rows: tuning.predict(untouched, some(rows).texts).argmax(axis=1)


def _by_probe(parts: Split, texts: int, seed: int) -> Callable:
    """Logistic regression, its strength chosen on the development part."""
    numbers, known = questions()[0].numbers, vectors()
    right = lambda labels, found: float(np.mean(labels == found))  # noqa: E731
    head, _ = frozen.chosen(known(parts.train), numbers[parts.train], known(parts.dev), numbers[parts.dev], right)
    return lambda rows: frozen.classify(head, known(rows))


TRIVIAL = {
    "start": _by_start,
    "probe": _by_probe,
    "tfidf": lambda parts, texts, seed: baselines.tfidf(questions()[0], parts).classify,
    "majority": lambda parts, texts, seed: baselines.majority(questions()[0], parts).classify,
}

# ---------------------------------------------------------------------------------------------------------------- one run


def fitted(settings: dict, seed: int, threads: int, steps: int, report=None) -> tuning.Finetuned:
    chosen = tuning.Settings(steps=steps, rate=settings["rate"], batch_size=BATCH, dropout=0.1, max_length=LONGEST)
    return tuning.finetune(
        model(), some(split(settings["texts"], seed).train), None, settings["method"], chosen, classes=len(questions()[0].labels),
        seed=seed, threads=threads, head=start(settings["texts"], seed), report=report,
    )  # fmt: skip


def sizes(tuned: tuning.Finetuned) -> dict:
    """own: numbers of the encoder that are trained or added, in % of the encoder's; megabytes stored a task, head included."""
    family = f"{tuned.config.family}."
    head = (f"{family}pooler.", "classifier.")
    numbers = lambda params: sum(leaf.size for name, leaf in tree.items(params) if not name.startswith(head))  # noqa: E731
    stored = sum(leaf.nbytes for leaf in tree.leaves(tuned.trained))
    return {"own": 100 * numbers(tuned.trained) / numbers(tuned.frozen), "stored_mb": stored / 1e6}


def learnt(settings: dict, seed: int, context: Context) -> tuple[Callable, dict]:
    """A fine-tuned classifier of rows, and figures on the way."""
    marks: list[float] = []

    def report(progress) -> None:
        marks.append(time.process_time())
        context.report(progress.step, progress.steps, f"step {progress.step} loss {progress.loss:.2f}")

    tuned = fitted(settings, seed, context.threads, settings["steps"], report)
    losses = np.array(tuned.history["losses"])
    windows = np.split(losses, range(WINDOW, len(losses), WINDOW))
    figures = sizes(tuned) | first_step(tuned) | {"losses": [round(float(window.mean()), 4) for window in windows]}
    figures["step_ms"] = 1000 * float(np.median(np.diff(marks)))
    return lambda rows: tuning.predict(tuned, some(rows).texts, context.threads).argmax(axis=1), figures


def first_step(tuned: tuning.Finetuned) -> dict:
    return {"first_loss": tuned.history["losses"][0], "first_gradient": tuned.history["gradient_norms"][0]}


def run(arm: Arm, seed: int, context: Context) -> dict:
    """Learn from a seed's texts, then answer TREC's test questions; a trial answers the development part's.

    "accuracy" (of a trial "dev") in %, "wrong": which questions, sizes, processor time of a step, losses.
    """
    settings, figures = arm.settings, {}
    parts, is_trial = split(settings["texts"], seed), settings.get("judged_on") == "dev"
    if arm.trivial:
        classify = TRIVIAL[settings["method"]](parts, settings["texts"], seed)
    else:
        classify, figures = learnt(settings, seed, context)
    rows = parts.dev if is_trial else parts.test
    right = classify(rows) == questions()[0].numbers[rows]
    return figures | {"dev" if is_trial else "accuracy": 100 * float(right.mean()), "wrong": np.flatnonzero(~right).tolist()}


def replay(arm: Arm, seed: int, context: Context) -> dict:
    """Loss and norm of the gradient of the first step; a trivial row is measured again."""
    if arm.trivial:
        return {"accuracy": run(arm, seed, context)["accuracy"]}
    return first_step(fitted(arm.settings, seed, context.threads, steps=1))


# ------------------------------------------------------------------------------------------------------------ declaration

_FULL = {"texts": TEXTS, "steps": STEPS}
_QUICK = {"texts": 800, "steps": 50}
_QUICK_RATES = {"full": 2e-4, "houlsby-64": 5e-3, "lora": 5e-3, "bitfit": 1e-2}


def _arms(shared: dict, rates: dict | None = None) -> tuple[Arm, ...]:
    def arm(name: str, title: str, control: str = "", method: str = "") -> Arm:
        rate = {"rate": rates[name]} if rates and name in rates else {}
        return Arm(name, title, {**shared, "method": method or name, **rate}, control)

    trained = (
        arm("full", "full"),
        arm("houlsby-64", "Houlsby 64"),
        arm("houlsby-8", "Houlsby 8"),
        arm("lora", "LoRA 8"),
        arm("bitfit", "BitFit", "must anything be added? Of the encoder its own biases alone are trained."),
        arm("ia3", "IA3"),
        arm("prefix", "gated prefix 16", method="gated-prefix"),
    )
    titles = {"start": "the start", "probe": "frozen probe", "tfidf": "TF-IDF", "majority": "most frequent"}
    texts = {"texts": shared["texts"]}
    return trained + tuple(Arm(name, title, {**texts, "method": name}, trivial=True) for name, title in titles.items())


ARMS = _arms(_FULL)

METRICS = {
    "accuracy": Metric("accuracy", "%", 2, overlap=TESTED / TEXTS),
    "own": Metric("own", "%", 2),
    "stored_mb": Metric("a task", "MB", 2),
    "step_ms": Metric("a step", "ms", 0),
}

CHECKS = tuple(
    Check(
        name, tuple(arm.name for arm in ARMS if not arm.trivial), "accuracy", least=0.0, against=against, unit="points",
        metrics=("accuracy",),
    )
    for name, against in (("above TF-IDF", "tfidf"), ("above the frozen probe", "probe"))
)  # fmt: skip


def _share(size: int, hidden: int = 384, layers: int = 6) -> float:
    """Numbers of adapters and layer norms over those of MiniLM's encoder, by equation 2 of the lesson."""
    layer = 4 * (hidden + 1) * hidden + (2 * 4 * hidden + 5) * hidden + 4 * hidden  # attention, feed-forward, norms
    encoder = (30522 + 512 + 2 + 2) * hidden + layers * layer
    return layers * (2 * (2 * size * hidden + size + hidden) + 4 * hidden) / encoder


def _kept(name: str, treatment: str, margin: float, ratio: bool = False) -> Comparison:
    return Comparison(name, treatment, "full", "accuracy", statistics.NOT_WORSE, margin=margin, ratio=ratio)


COMPARISONS = (
    _kept("adapters (Houlsby 64) less full fine-tuning, at most 0.4 points worse", "houlsby-64", 0.4),
    _kept("Houlsby 64 keeps 99 % of full", "houlsby-64", 0.01, ratio=True),
    _kept("Houlsby 8 keeps 99 % of full", "houlsby-8", 0.01, ratio=True),
    Comparison("Houlsby 8 trains 0.4 % of full", "houlsby-8", "full", "own", statistics.EXACT, -1, 5e-4, True, 0.004),
    Comparison("Houlsby 64 trains equation 2's share", "houlsby-64", "full", "own", statistics.EXACT, -1, 1e-9, True, _share(64)),
    _kept("LoRA 8 within 1 point of full", "lora", 1.0),
    _kept("BitFit within 1 point of full", "bitfit", 1.0),
    _kept("IA3 within 1 point of full", "ia3", 1.0),
    _kept("gated prefix within 1 point of full", "prefix", 1.0),
    Comparison("Houlsby 64 above BitFit", "houlsby-64", "bitfit", "accuracy"),
    Comparison("Houlsby 64, time of a step over full's", "houlsby-64", "full", "step_ms", better=-1, ratio=True),
)

TUNING = Tuning(
    grids={
        "full": {"rate": (5e-5, 1e-4, 2e-4, 5e-4)},
        "houlsby-64": {"rate": (1e-3, 2e-3, 4e-3, 8e-3)},
        "houlsby-8": {"rate": (1e-3, 2.5e-3, 5e-3, 1e-2)},
        "lora": {"rate": (1e-3, 2e-3, 4e-3, 8e-3)},
        "bitfit": {"rate": (2e-3, 5e-3, 1e-2, 2e-2)},
        "ia3": {"rate": (1e-2, 2e-2, 5e-2, 1e-1)},
        "prefix": {"rate": (2.5e-3, 5e-3, 1e-2, 2e-2)},
    },
    settings={"judged_on": "dev"},
    figure="dev",
)

CLAIM = Claim(
    collection="0.4% params, 99% performance",
    paper="The figures are swapped: 3.6 % of the parameters for each task, and GLUE 80.0 against 80.4 for full fine-tuning of "
    "BERT-large, 0.4 points below. With bottlenecks of 64 in every task 2.1 % and 79.6.",
    source="Houlsby et al. 2019, table 1, arXiv:1902.00751",
)

NOTES = (
    "Own: what a method trains of the encoder or adds to it, in % of the encoder's numbers; all train pooler and head besides. "
    "MB: what is stored for a task, those included.",
    "One task, one model: TREC's questions of at most 16 tokens, 47 classes. Seeds differ in which 2,720 of 3,828 training "
    "questions are read (twice), in order, dropout and start; all are tested on the same 470 questions, and intervals are "
    "widened for that (Nadeau & Bengio).",
    "Primary, with ten seeds: Houlsby 64 against full. The other methods have five.",
    "Rates: the best of four for each method on development questions, one seed that is not reported.",
    "The start is the head that all methods begin with, on the untouched encoder's first token; the probe is logistic regression "
    "on MiniLM's mean over tokens.",
    "A step: processor time on one thread, forward, backward and update; other programs were running.",
)

WHOLE = Experiment(
    number=12,
    slug="adapter_modules",
    title="Adapter modules",
    question="Is an encoder that stays frozen but for small adapters as good as one that was fine-tuned in full?",
    scale="MiniLM on TREC's short questions, 47 classes, two readings of 2,720 texts",
    claim=CLAIM,
    arms=ARMS,
    metrics=METRICS,
    comparisons=COMPARISONS,
    checks=CHECKS,
    tuning=TUNING,
    run=run,
    replay=replay,
    minutes=80,
    code=(tuning, frozen, baselines),
    notes=NOTES,
)

_SHORT = (*_QUICK_RATES, "start", "tfidf")
EXPERIMENT = replace(
    WHOLE,
    quick=shorter(
        WHOLE,
        "The same with 800 texts, each read once, one seed.",
        tuple(arm for arm in _arms(_QUICK, _QUICK_RATES) if arm.name in _SHORT),
        ("The rates are not tuned; the full experiment's are.", NOTES[0]),
    ),
)
