"""Fine-tuning a pretrained encoder to classify texts, by any method of technique 12.

The classifier is that of transformers' ``BertForSequenceClassification``: dropout and a linear map of the pooler's output,
the tanh of a linear map of the first token. MiniLM was trained as a sentence encoder, whose vector is the mean over the
tokens, and its pooler was not trained at all; a mean would serve a frozen encoder better. But no plain BERT classifier has
one, and a model that only this library can run is worth little. So the first token it is, and the pooler is trained with
the head by every method.

A batch is sorted by length and cut into shards, each as long as its longest text: little padding, and the batches are those
of a plain random order. The last layer is computed at the first token alone. Every run takes a fixed number of steps of
AdamW on a linear schedule with warm-up, gradients clipped; the parameters after the last step are the result, unless
``evaluate_every`` asks for the best of several on development texts.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bertcraft.bert import encoder, heads, sentences
from bertcraft.bert.config import Config
from bertcraft.bert.layout import parameter_shapes
from bertcraft.bert.model import Model
from bertcraft.data.batches import batch_indices, pad
from bertcraft.errors import InputError
from bertcraft.techniques import adapter_modules as technique
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree, value_and_grad
from bertcraft.tensor.parallel import one_blas_thread, pool, sharded_value_and_grad
from bertcraft.train import Progress, adamw, chain, clip_by_global_norm, constant, fit, warmup_cosine, warmup_linear

SCHEDULES = {"linear": warmup_linear, "cosine": warmup_cosine, "constant": lambda rate, warmup, steps: constant(rate)}
HEAD_DEVIATION = 0.02  # of a new head's weights, as in transformers
PREDICTED_TOGETHER = 2048  # tokens, padding included


@dataclass(frozen=True)
class Texts:
    """Texts with class numbers, int (n,). Whatever has these two fields will do (``bertcraft.data.Split`` has)."""

    texts: Sequence[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Settings:
    """How to train. ``rate``: the highest learning rate, None for the method's own (:data:`RATES`).

    ``schedule``: "linear" or "cosine", with ``warmup``, the share of the steps in which the rate rises; or "constant".
    ``label_smoothing``: the share of a target that is spread over all classes (Szegedy et al. 2016). ``max_length``: tokens a
    text is cut to, in training and after. ``evaluate_every``: so many steps apart the accuracy on the development texts is
    taken, and the parameters of the best (the earliest of equals) are the result; None takes those after the last step.
    """

    steps: int = 200
    rate: float | None = None
    batch_size: int = 32
    shard_size: int = 16
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    schedule: str = "linear"
    label_smoothing: float = 0.0
    dropout: float = 0.1
    max_length: int = 128
    evaluate_every: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.shard_size < 1:
            raise InputError(f"steps, batch_size and shard_size: expected 1 or more each, got {self}")
        if not 0 <= self.warmup <= 1 or not 0 <= self.dropout < 1:
            raise InputError(f"warmup: expected 0 to 1, dropout: 0 to less than 1, got {self.warmup} and {self.dropout}")
        if self.schedule not in SCHEDULES or not 0 <= self.label_smoothing < 1:
            raise InputError(
                f"schedule: expected one of {', '.join(SCHEDULES)}, label_smoothing: 0 to less than 1, "
                f"got {self.schedule!r} and {self.label_smoothing}"
            )


@dataclass(frozen=True)
class Finetuned:
    """A classifier. ``trained``: the small tree (``bertcraft.techniques.adapter_modules``); ``model``: what it was laid over."""

    model: Model
    method: str
    config: Config  # of the classifier
    frozen: dict
    trained: dict
    settings: Settings
    history: dict[str, Any]  # losses, gradient_norms: lists, a number a step; evaluations: (step, accuracy) pairs
    seconds: float

    @property
    def params(self) -> dict:
        """The whole tree that the encoder runs with."""
        return technique.overlay(self.frozen, self.trained)

    @property
    def trained_share(self) -> float:
        """Trained numbers, head included, by those of the whole classifier without what the method adds."""
        return technique.count(self.trained) / technique.count(self.frozen)


def classifier(model: Model, classes: int, seed: int, dropout: float | None = None) -> tuple[Config, dict]:
    """The model with a new head for so many classes: its configuration and whole tree, the encoder's arrays not copied."""
    changes = {} if dropout is None else {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = replace(
        model.config, head="sequence_classification", num_labels=classes, id2label=None, label2id=None, problem_type=None,
        add_pooling_layer=True, **changes,
    )  # fmt: skip
    known, rng, params = dict(tree.items(model.params)), np.random.default_rng((seed, 1)), {}
    for name, shape in parameter_shapes(config).items():
        if name in known and name.startswith(f"{config.family}."):
            params[name] = known[name]
        elif name.endswith("bias"):
            params[name] = np.zeros(shape, np.float32)
        else:
            params[name] = (HEAD_DEVIATION * rng.standard_normal(shape)).astype(np.float32)
    return config, tree.nest(params)


def _batch(token_ids: list[np.ndarray], numbers: np.ndarray, pad_id: int) -> dict:
    """Some texts as arrays, the longest first."""
    lengths = np.array([len(token_ids[i]) for i in numbers])
    numbers = numbers[np.argsort(-lengths, kind="stable")]
    ids, mask = pad([token_ids[i] for i in numbers], pad_id)
    return {"input_ids": ids, "attention_mask": mask, "numbers": numbers}


def _trimmed(batch: dict) -> dict:
    """A shard without the padding that no text of it needs, and without a mask where nothing is padding."""
    length = int(batch["attention_mask"].sum(axis=1).max())
    ids, mask = batch["input_ids"][:, :length], batch["attention_mask"][:, :length]
    return {**batch, "input_ids": ids, "attention_mask": None if mask.all() else mask}


def first_tokens(params: dict, config: Config, sockets: encoder.Sockets, batch: dict, rng=None):
    """(B, 1, H) for input_ids and attention_mask (B, L); the last layer is computed where it is read."""
    first = np.zeros((len(batch["input_ids"]), 1), np.int64)
    return encoder.encode(params, config, batch["input_ids"], batch["attention_mask"], rng=rng, at=first, sockets=sockets)


def logits(params: dict, config: Config, sockets: encoder.Sockets, batch: dict, rng=None):
    """(B, classes) for input_ids and attention_mask (B, L)."""
    return heads.classification_logits(params, config, first_tokens(params, config, sockets, batch, rng), rng)


def smoothed_cross_entropy(logits, labels, share: float):
    """Cross-entropy with a share of each target spread over all classes (Szegedy et al. 2016, section 7), as torch has it."""
    loss = F.cross_entropy(logits, labels)
    return loss if share == 0 else (1 - share) * loss - share * np.mean(F.log_softmax(logits))


def _tokenized(model: Model, texts: Sequence[str], settings: Settings) -> list[np.ndarray]:
    return [np.array(ids, np.int32) for ids in sentences.tokenize(model, texts, settings.max_length)]


def finetune(
    model: Model,
    train: Texts,
    dev: Texts | None,
    method: str = "full",
    settings: Settings = Settings(),
    *,
    classes: int,
    seed: int,
    threads: int = 1,
    head: dict | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Finetuned:
    """Train a classifier of texts on the model; ``method`` is a name in ``adapter_modules.METHODS``.

    The same seed gives the same head and the same batches to every method. ``head``: one to start from, of :func:`probe`, in
    place of a new one. ``dev`` is read only where ``evaluate_every`` is set. Raises InputError for an unknown method, labels
    outside 0 ... classes - 1, empty texts.
    """
    chosen, labels = technique.METHODS.get(method), _labels(train, classes)
    if chosen is None:
        raise InputError(f"method: got {method!r}, expected one of {', '.join(technique.METHODS)}")
    if settings.evaluate_every and not dev:
        raise InputError("evaluate_every: the best step is chosen on development texts, but none were given")
    started = time.perf_counter()
    token_ids = _tokenized(model, train.texts, settings)
    config, frozen = classifier(model, classes, seed, settings.dropout)
    frozen = technique.overlay(frozen, head or {})
    trained = technique.start(chosen, frozen, config, np.random.default_rng((seed, 2)))
    pad_id = config.pad_token_id or 0

    def make_batch(step: int) -> dict:
        batch = _batch(token_ids, batch_indices(len(train), settings.batch_size, seed, step), pad_id)
        return {**batch, "labels": labels[batch.pop("numbers")]}

    def loss(trained, batch, rng):
        found = logits(technique.overlay(frozen, trained), config, chosen.sockets, batch, rng)
        return smoothed_cross_entropy(found, batch["labels"], settings.label_smoothing)

    step_function = sharded_value_and_grad(
        loss, shard_size=settings.shard_size, weight=lambda batch: len(batch["labels"]), prepare=_trimmed, threads=threads,
        seed=seed,
    )  # fmt: skip
    best: dict[str, Any] = {"accuracy": -1.0, "trained": None}
    dev_ids = _tokenized(model, dev.texts, settings) if settings.evaluate_every else []

    def evaluate(trained) -> float:
        found = _probabilities(technique.overlay(frozen, trained), config, chosen.sockets, dev_ids, threads)
        accuracy = float(np.mean(found.argmax(axis=1) == dev.labels))
        if accuracy > best["accuracy"]:
            best.update(accuracy=accuracy, trained=tree.map(np.copy, trained))
        return accuracy

    result = fit(
        step_function, trained, _rule(settings, method), make_batch, settings.steps, seed=seed, report=report,
        evaluate=evaluate if settings.evaluate_every else None, evaluate_every=settings.evaluate_every,
        pool=pool(threads) if threads > 1 else None,
    )  # fmt: skip
    history = {
        "losses": result.losses.tolist(), "gradient_norms": result.gradient_norms.tolist(), "evaluations": result.evaluations,
    }  # fmt: skip
    kept = result.params if best["trained"] is None else best["trained"]
    return Finetuned(model, method, config, frozen, kept, settings, history, time.perf_counter() - started)


def probe(model: Model, train: Texts, settings: Settings, *, classes: int, seed: int, threads: int = 1) -> dict:
    """A head trained on the vectors of the frozen encoder, which are computed once: the tree that ``finetune(head=...)`` takes.

    Fine-tuning that starts from it does not send the gradients of a random head through the encoder (Kumar et al. 2022,
    arXiv:2202.10054). No dropout. Raises InputError as :func:`finetune` does.
    """
    labels = _labels(train, classes)
    config, frozen = classifier(model, classes, seed, 0.0)
    new = technique.start(technique.METHODS["head"], frozen, config, np.random.default_rng(seed))

    def vector(batch):
        return first_tokens(frozen, config, encoder.BERT, batch)[:, 0]

    vectors = _in_packs(_tokenized(model, train.texts, settings), config.hidden_size, config, vector, threads)

    def make_batch(step: int) -> dict:
        rows = batch_indices(len(train), settings.batch_size, seed, step)
        return {"vectors": vectors[rows, None], "labels": labels[rows]}

    def loss(head, batch, step):
        found = heads.classification_logits(technique.overlay(frozen, head), config, batch["vectors"])
        return smoothed_cross_entropy(found, batch["labels"], settings.label_smoothing)

    with one_blas_thread():
        return fit(value_and_grad(loss), new, _rule(settings, "head"), make_batch, settings.steps, seed=seed).params


def _labels(train: Texts, classes: int) -> np.ndarray:
    labels = np.asarray(train.labels, np.int64)
    if not len(train) or len(labels) != len(train) or labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"train: expected texts with as many labels from 0 to {classes - 1}, got {len(train)} texts")
    return labels


def _rule(settings: Settings, method: str):
    rate = RATES[method] if settings.rate is None else settings.rate
    warmup = min(round(settings.warmup * settings.steps), settings.steps)
    schedule = SCHEDULES[settings.schedule](rate, warmup, settings.steps)
    return chain(clip_by_global_norm(settings.clip), adamw(schedule, weight_decay=settings.weight_decay))


def predict(finetuned: Finetuned, texts: Sequence[str], threads: int = 1) -> np.ndarray:
    """Probabilities of the classes, float32 (n, classes). Raises InputError for empty texts."""
    token_ids = _tokenized(finetuned.model, texts, finetuned.settings)
    sockets = technique.METHODS[finetuned.method].sockets
    return _probabilities(finetuned.params, finetuned.config, sockets, token_ids, threads)


def accuracy(finetuned: Finetuned, texts: Texts, threads: int = 1) -> float:
    """The share of the texts whose most probable class is theirs."""
    return float(np.mean(predict(finetuned, texts.texts, threads).argmax(axis=1) == texts.labels))


def _probabilities(params: dict, config: Config, sockets, token_ids: list[np.ndarray], threads: int) -> np.ndarray:
    def probabilities(batch):
        return F.softmax(logits(params, config, sockets, batch))

    return _in_packs(token_ids, config.num_labels, config, probabilities, threads)


def _in_packs(token_ids: list[np.ndarray], width: int, config: Config, compute: Callable, threads: int) -> np.ndarray:
    """``compute(batch) -> (rows, width)`` over all texts, some of like length at a time: float32 (n, width)."""
    found = np.empty((len(token_ids), width), np.float32)
    together = sentences.packs(np.array([len(ids) for ids in token_ids]), PREDICTED_TOGETHER)

    def work(numbers: np.ndarray) -> None:
        batch = _trimmed(_batch(token_ids, numbers, config.pad_token_id or 0))
        found[batch["numbers"]] = compute(batch)

    with one_blas_thread():
        if threads == 1:
            for numbers in together:
                work(numbers)
        else:
            list(pool(threads).map(work, together))
    return found


def export(finetuned: Finetuned, folder: str | Path, label_names: Sequence[str]) -> None:
    """Write a folder that ``transformers.pipeline("text-classification", folder)`` opens, with the same predictions.

    Texts longer than ``max_length`` are cut there as here with ``truncation=True``. Raises InputError for a method that a
    plain BERT classifier cannot express (Houlsby's adapters, prefix) and for names that are not one a class, all different;
    CheckpointError when the folder cannot be written.
    """
    config = finetuned.config
    if len(label_names) != config.num_labels or len(set(label_names)) != len(label_names):
        raise InputError(f"label_names: expected {config.num_labels} different names, got {label_names!r:.100}")
    params = technique.merge(technique.METHODS[finetuned.method], finetuned.params, config)
    config = replace(
        config, id2label=dict(enumerate(label_names)), hidden_dropout_prob=finetuned.model.config.hidden_dropout_prob,
        attention_probs_dropout_prob=finetuned.model.config.attention_probs_dropout_prob,
    )  # fmt: skip
    source = finetuned.model
    Model(config, params, source.folder, source._tokenizer, source._own_tokenizer).save(folder)
    path = Path(folder) / "tokenizer_config.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content["model_max_length"] = finetuned.settings.max_length
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# The highest learning rate of each method where none is given: for hundreds of steps from a new head. Experiment 12 chooses its
# own, for a trained one.
RATES = {
    "full": 2e-4, "head": 3e-3, "bitfit": 1e-3, "houlsby-8": 1e-3, "houlsby-64": 1e-3, "lora": 1e-3, "ia3": 3e-3, "prefix": 3e-3,
    "gated-prefix": 3e-3,
}  # fmt: skip
