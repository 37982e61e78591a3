"""10: what does attention to a window save in a whole layer of BERT-base, and which patterns can bring two far words together?

*Time.* A layer of BERT-base reads one text of 512 to 8,192 tokens, forward and backward, as in training: with dense attention,
with Longformer's window of 256 to either side, and with PyTorch's fused dense attention. See :mod:`bertcraft.lab.layers`. A seed
is a round: all contenders are measured once, in turn. It takes a quiet machine and 8 GB of memory.

*Quality.* Two words of rock, paper, scissors are planted in a passage of real text: one at its beginning, after [CLS], the other
anywhere. Does the second beat the first? Both words of every pair stand for "yes" as often as for "no", each word alone says
nothing, and so does the bag of all words: only who knows both, and which is the first, can answer. The answer is read at the
first of the two, so the other must be heard from afar. 256 tokens and a window of 8 to either side are the layer's 8,192 and 256,
each divided by 32.

Tried beforehand on development passages, seed 1000, rate 3e-3, batches of 32. Whole passages (128 tokens) from the first step:
dense attention still guessed after 124 steps. Beginning with 16 tokens, passages of 256 in the end: dense attention was right at
97 % after 133 steps, [CLS] and question global at 96 and, after 267, 99 %, [CLS] alone global at 69 and then 100 %.

A first measurement timed each length at its first reading, the longest before the others: dense attention took 4.61 times as long
as the window, but part of that was taking memory from the system. It is withdrawn; now each is read once before it is timed.
"""

import json
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np

from bertcraft.bert import encoder, heads, initial_params
from bertcraft.lab import fingerprint, layers, pretraining
from bertcraft.lab.experiment import Arm, Check, Claim, Comparison, Context, Experiment, Metric, Tuning, shorter
from bertcraft.lab.pretraining import Setting
from bertcraft.lab.statistics import EQUAL, EXACT, NOT_WORSE
from bertcraft.techniques import sparse_attention as technique
from bertcraft.tensor import functions as F

REPLAYED = 8  # first losses that are stored and can be replayed
WORDS = ("rock", "paper", "scissors")  # each beats the one before it; their ids follow the vocabulary's
ASKED = 1  # the place of the first of the two, after [CLS]
CURVED = 5  # rounds that measure all lengths and contenders, the others the first two at the longest alone
DISTANCES = (0, 8, 16, 32, 64, 128, 253)  # bins of the curve
_TRAIN, _TEST = 0, 1  # streams of random numbers
STRENGTH = 10.0  # C of logistic regression

# --------------------------------------------------------------------------------------------------------------- time


def timed(settings: dict, seed: int, context: Context) -> dict:
    """Time of a layer at each length, memory at the longest; the round is measured when its first arm is run."""
    lengths, contenders = settings["lengths"], settings["contenders"]
    if seed >= CURVED:
        lengths, contenders = lengths[-1:], contenders[:2]
    found = _round(contenders, lengths, seed, context)[settings["layer"]]
    return {"lengths": lengths, "times": found["ms"], "ms": found["ms"][-1], "mb": found["mb"], **counted(settings)}


def counted(settings: dict) -> dict:
    return {"scores_mb": layers.scores_mb(settings["layer"], max(settings["lengths"]))}


def _round(contenders: list, lengths: list, seed: int, context: Context) -> dict:
    """A round; in a full run it is kept beside the arms' own folders, and all arms of a seed read the same one."""
    shared = next((folder for folder in context.folder.parents if folder.name == WHOLE.name), None) if context.folder else None
    if shared is None:
        return layers.round_of(contenders, lengths, context.report)
    path = shared / f"round_{seed}_{fingerprint.of(WHOLE)}.json"
    if not path.exists():
        path.write_text(json.dumps(layers.round_of(contenders, lengths, context.report)), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------------------ quality


def attention_of(settings: dict) -> Callable:
    """The attention socket that an arm's settings describe."""
    if settings["pattern"] == "dense":
        return encoder.self_attention
    if settings["pattern"] == "bigbird":
        return technique.bigbird(settings["block"], settings["random"])
    return technique.longformer(settings["window"], settings.get("global_tokens", 0), settings.get("dilations", 1))


def setting_of(settings: dict) -> Setting:
    return Setting(**{field.name: settings[field.name] for field in fields(Setting) if field.name in settings})


def planted(rows: np.ndarray, vocab_size: int, rng: np.random.Generator, evenly: bool) -> tuple[np.ndarray, ...]:
    """Passages with two of the words: ids (n, length), labels (n,), 1 where the second beats the first, and distances (n,).

    Distances are drawn ``evenly``, or evenly on a logarithmic scale: near ones oftener.
    """
    ids, n, far = rows.copy(), len(rows), rows.shape[1] - 2 - ASKED
    first, labels = rng.integers(0, 3, n), rng.integers(0, 2, n)
    second = (first + np.where(labels == 1, 1, 2)) % 3
    distance = rng.integers(1, far + 1, n) if evenly else np.floor((far + 1) ** rng.random(n)).astype(int)
    ids[:, ASKED] = vocab_size + first
    ids[np.arange(n), ASKED + distance] = vocab_size + second
    return ids, labels, distance


def length_at(settings: dict, step: int) -> int:
    """Training begins with the beginnings of passages: two words are found sooner among few."""
    part = step / settings["steps"]
    return [min(length, settings["length"]) for begins, length in settings["grows"] if part >= begins][-1]


def task_of(settings: dict, seed: int) -> tuple:
    """The setting, the model's configuration, ``logits(params, ids)``, ``make_batch(step)`` and the test's passages, of a trial
    those of development."""
    setting = setting_of(settings)
    texts = pretraining.prepare(setting)
    size = texts.tokenizer.get_vocab_size()
    config = pretraining.config_of(
        setting, size + len(WORDS), head="sequence_classification", num_labels=2, num_attention_heads=2
    )
    sockets = encoder.Sockets(attention=attention_of(settings))

    def logits(params, ids):
        hidden = encoder.encode(params, config, ids, sockets=sockets)
        return heads.classification_logits(params, config, hidden[:, ASKED : ASKED + 1])

    def make_batch(step: int) -> dict:
        rng = np.random.default_rng((seed, _TRAIN, step))
        rows = texts.train[rng.integers(0, len(texts.train), setting.batch), : length_at(settings, step)]
        ids, labels, _ = planted(rows, size, rng, evenly=False)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": labels}

    rows = np.concatenate([getattr(texts, settings.get("judged_on", "held_out"))] * settings["draws"])
    test = planted(rows, size, np.random.default_rng((seed, _TEST)), evenly=True)
    return setting, config, logits, make_batch, test


def judged(scores: np.ndarray, labels: np.ndarray, distance: np.ndarray, reach: int) -> dict:
    """Accuracy in % within the plain window's reach, beyond it, and by distance."""
    right = 100.0 * (scores.argmax(axis=1) == labels)
    bins = [(a, b) for a, b in zip(DISTANCES, DISTANCES[1:], strict=False) if a < distance.max()]
    return {
        "near": right[distance <= reach].mean(), "far": right[distance > reach].mean(),
        "curve": [right[(distance > a) & (distance <= b)].mean() for a, b in bins],
    }  # fmt: skip


def fitted(settings: dict, seed: int, context: Context, steps: int | None = None):
    """Train an arm, wholly or for its first steps; a ``FitResult``, the logits and the test."""
    setting, config, logits, make_batch, test = task_of(settings, seed)
    loss = lambda params, batch, rng: F.cross_entropy(logits(params, batch["input_ids"]), batch["labels"])  # noqa: E731
    result = pretraining.train(
        setting, initial_params(config, seed), loss, make_batch, seed=seed, context=context, signature=settings,
        weight=lambda batch: len(batch["labels"]), steps=steps,
    )  # fmt: skip
    return result, logits, test


def trained(settings: dict, seed: int, context: Context) -> dict:
    result, logits, (ids, labels, distance) = fitted(settings, seed, context)
    scores = np.concatenate([logits(result.params, ids[i : i + 20]) for i in range(0, len(ids), 20)])
    figures = judged(scores, labels, distance, settings["reach"])
    if "judged_on" in settings:
        figures["dev"] = 100.0 * (scores.argmax(axis=1) == labels).mean()
    return figures | {"first_losses": result.losses[:REPLAYED].tolist(), "last_loss": float(result.losses[-50:].mean())}


def bag_of_words(settings: dict, seed: int) -> dict:
    """TF-IDF of words and pairs of words with logistic regression; or always the class that is commoner in training."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts = pretraining.prepare(setting_of(settings))
    size, rng = texts.tokenizer.get_vocab_size(), np.random.default_rng((seed, _TRAIN))
    rows = texts.train[rng.permutation(len(texts.train))[: settings["read"]]]
    ids, labels, _ = planted(rows, size, rng, evenly=True)
    test, wanted, distance = task_of({**settings, "pattern": "dense"}, seed)[-1]
    if settings["pattern"] == "majority":
        scores = np.tile(np.bincount(labels, minlength=2), (len(wanted), 1))
        return judged(scores, wanted, distance, settings["reach"])
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\d+", max_features=50_000)
    words = [" ".join(map(str, row)) for row in ids]
    model = LogisticRegression(C=STRENGTH, max_iter=200).fit(vectorizer.fit_transform(words), labels)
    beats = model.decision_function(vectorizer.transform(" ".join(map(str, row)) for row in test))
    return judged(np.stack([-beats, beats], axis=1), wanted, distance, settings["reach"])


# ---------------------------------------------------------------------------------------------------------------- run


def run(arm: Arm, seed: int, context: Context) -> dict:
    """One arm: a layer timed, or a model trained and asked."""
    if "layer" in arm.settings:
        return timed(arm.settings, seed, context)
    if arm.trivial:
        return bag_of_words(arm.settings, seed)
    return trained(arm.settings, seed, context)


def replay(arm: Arm, seed: int, context: Context) -> dict:
    """The training losses of a model's first steps; what is counted of a layer; a bag of words again."""
    if "layer" in arm.settings:
        return counted(arm.settings)
    if arm.trivial:
        return bag_of_words(arm.settings, seed)
    return {"first_losses": fitted(arm.settings, seed, context, REPLAYED)[0].losses.tolist()}


# -------------------------------------------------------------------------------------------------------- declaration

_LAYER = {"lengths": [512, 1024, 2048, 4096, 8192], "contenders": ["window", "dense", "fused"]}
_MODEL = {
    "corpus": "sotu", "packed": True, "vocab_size": 2048, "length": 256, "held_out": 1000, "draws": 2, "layers": 2, "hidden": 64,
    "batch": 32, "shard": 8, "steps": 300, "rate": 3e-3, "warmup": 40, "grows": [[0, 16], [0.4, 32], [0.6, 64], [0.8, 256]],
    "reach": 16,
}  # fmt: skip
_WINDOW = {"pattern": "window", "window": 8}
_BAG = {name: _MODEL[name] for name in ("corpus", "packed", "vocab_size", "length", "held_out", "draws", "reach")}


def _arms(layer: dict, model: dict) -> tuple[Arm, ...]:
    return (
        Arm("layer_dense", "layer, dense", layer | {"layer": "dense"}),
        Arm("layer_window", "layer, window", layer | {"layer": "window"}),
        Arm(
            "layer_fused", "layer, fused dense", layer | {"layer": "fused"},
            control="is it the window, or only our dense attention that is slow? The same layer by PyTorch, whose fused kernel "
            "attends to all pairs without ever storing their scores.",
        ),
        Arm("dense", "dense", model | {"pattern": "dense"}),
        Arm("question", "window + global [CLS], question", model | _WINDOW | {"global_tokens": 2}),
        Arm(
            "cls", "window + global [CLS]", model | _WINDOW | {"global_tokens": 1},
            control="does it matter which tokens are global? Here [CLS] alone: the other word is heard through it.",
        ),
        Arm("window", "window", model | _WINDOW),
        Arm("dilated", "dilated window", model | _WINDOW | {"dilations": [1, 4]}),
        Arm("bigbird", "BigBird", model | {"pattern": "bigbird", "block": 8, "random": 2}),
        Arm("tfidf", "TF-IDF", _BAG | {"pattern": "tfidf", "read": 6000}, trivial=True),
        Arm("majority", "commoner class", _BAG | {"pattern": "majority", "read": 6000}, trivial=True),
    )  # fmt: skip


ARMS = _arms(_LAYER, _MODEL)

METRICS = {
    "ms": Metric("time of a layer", "ms", 0),
    "scores_mb": Metric("scores of a layer", "MB", 0),
    "near": Metric("accuracy within reach", "%", 1),
    "far": Metric("accuracy beyond reach", "%", 1),
}

CHECKS = (
    Check("above the commoner class", ("dense", "question"), "far", least=20.0, against="majority", unit="points", digits=1),
    Check("above TF-IDF", ("dense", "question"), "far", least=20.0, against="tfidf", unit="points", digits=1),
)

COMPARISONS = (
    Comparison(
        "a layer of BERT-base on 8,192 tokens, attention to all over attention to a window", "layer_dense", "layer_window", "ms",
        ratio=True,
    ),
    Comparison("PyTorch's fused attention to all over our window", "layer_fused", "layer_window", "ms", ratio=True),
    Comparison(
        "scores of a layer, dense over window", "layer_dense", "layer_window", "scores_mb", EXACT, ratio=True, margin=1e-9,
        expected=8192 / (3 * layers.WINDOW),
    ),
    Comparison("global question against dense, beyond the window's reach", "question", "dense", "far", NOT_WORSE, margin=2.0),
    Comparison("[CLS] alone global against dense, beyond the window's reach", "cls", "dense", "far", NOT_WORSE, margin=2.0),
    Comparison("window beyond its reach, as good as guessing", "window", "majority", "far", EQUAL, margin=2.0),
    Comparison("dilated against plain window, beyond the plain one's reach", "dilated", "window", "far"),
    Comparison("BigBird against dense, beyond the window's reach", "bigbird", "dense", "far", NOT_WORSE, margin=2.0),
)  # fmt: skip

_RATES = {"rate": (1e-3, 3e-3, 9e-3)}
TUNING = Tuning(
    grids={"dense": _RATES, "question": _RATES},
    settings={"judged_on": "dev"},
    figure="dev",
    like={name: "question" for name in ("cls", "window", "dilated", "bigbird")},
)

CLAIM = Claim(
    collection="O(n) attention",
    paper='Longformer "scales linearly with sequence length"; WikiHop dev, base model: 75.0 at 4,096 tokens, where RoBERTa '
    "in pieces of 512 has a reported 72.4. BigBird: texts 8 times as long on the same hardware",
    source="Beltagy et al. 2020, arXiv:2004.05150; Zaheer et al. 2020, arXiv:2007.14062",
)

NOTES = (
    "Time: one layer, one text, one thread of a processor, float32, forward and backward; on a GPU fused kernels gain more. "
    "Memory is what a process grew by at the longest text.",
    "Each text is read once before it is timed: what is timed finds its memory taken from the system, as a training loop does.",
    "All models have the same parameters and read the same passages: global tokens use the projections of the others "
    "(Longformer gives them their own). Rates: the best of three for dense attention and for the window with a global question, "
    "on development passages, one seed not reported; the other patterns take the latter's.",
    "Training starts with the first 16 tokens of a passage and ends with all 256. BigBird's first block is global, and the "
    "question stands in it.",
)

WHOLE = Experiment(
    number=10,
    slug="sparse_attention",
    title="Sparse attention",
    question="What does attention to a window save in a layer of BERT-base, and which patterns bring two far words together?",
    scale="one BERT-base layer on one processor thread; models of 2 layers on 256 tokens",
    claim=CLAIM,
    arms=ARMS,
    metrics=METRICS,
    comparisons=COMPARISONS,
    checks=CHECKS,
    tuning=TUNING,
    run=run,
    replay=replay,
    minutes=40,
    code=(pretraining, layers),
    notes=NOTES,
    beside=("PyTorch's fused attention to all over our window",),
)

_SHORT_LAYER = {"lengths": [512, 1024, 2048], "contenders": ["window", "dense"]}
_SHORT_MODEL = _MODEL | {"length": 64, "steps": 300, "held_out": 300, "draws": 2}
EXPERIMENT = replace(
    WHOLE,
    quick=shorter(
        WHOLE,
        "The same in short: a layer at 512 to 2,048 tokens, models on 64 tokens, one seed.",
        tuple(arm for arm in _arms(_SHORT_LAYER, _SHORT_MODEL) if arm.name in ("layer_dense", "layer_window", "dense", "window")),
        ("Times are those at 2,048 tokens. Half a minute of training: what is beyond a window's reach shows, little else.",),
    ),
)
