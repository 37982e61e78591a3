"""How good a start an encoder is: fine-tuned on a labelled task, with a new head on the mean of its last hidden states.

The mean and not [CLS]: small encoders that were only just trained were never asked anything at [CLS], and a head that reads it
tells first of all how long it takes to make something of that one place.

Shapes: N texts, L length, H hidden size, C classes.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np

from bertcraft.bert import encoder
from bertcraft.bert.config import Config
from bertcraft.data import task
from bertcraft.data.batches import batch_indices, frame, pad, tokenize
from bertcraft.data.labelled import Labelled, Split
from bertcraft.lab import baselines
from bertcraft.tensor import functions as F
from bertcraft.tensor.parallel import sharded_value_and_grad
from bertcraft.train import adamw, chain, clip_by_global_norm, fit, warmup_linear

DEVIATION = 0.02  # of a new head's weights
TOGETHER = 250  # texts that are classified together
PAD = 0


@dataclass(frozen=True)
class Finetuning:
    """What is learnt from, and how: ``texts`` of the task's training part, drawn by the seed; ``length``: tokens of a text."""

    task: str
    texts: int
    steps: int
    rate: float
    batch: int = 32
    dropout: float = 0.1
    length: int = 24


@dataclass(frozen=True)
class Rows:
    """Texts as padded rows of token ids (n, length), and the numbers of their classes."""

    ids: np.ndarray
    labels: np.ndarray


@functools.lru_cache(maxsize=4)
def _rows(name: str, part: str, length: int, tokenizer) -> Rows:
    split = getattr(task(name), part)
    pad_id, cls_id, sep_id = (tokenizer.token_to_id(token) for token in ("[PAD]", "[CLS]", "[SEP]"))
    return Rows(pad(frame(tokenize(tokenizer, split.texts), cls_id, sep_id, length), pad_id, length)[0], split.labels)


def _batch(rows: Rows, numbers: np.ndarray) -> dict:
    ids = rows.ids[numbers]
    ids = ids[:, : int((ids != PAD).sum(axis=1).max())]
    return {"input_ids": ids, "attention_mask": (ids != PAD).astype(np.int32), "labels": rows.labels[numbers]}


def _logits(params: dict, config: Config, batch: dict, rng=None):
    """(N, C): a linear map of the mean over a text's tokens."""
    hidden = encoder.encode({config.family: params["encoder"]}, config, batch["input_ids"], batch["attention_mask"], rng=rng)
    counted = batch["attention_mask"][..., None].astype(hidden.dtype)
    mean = np.sum(hidden * counted, axis=1) / counted.sum(axis=1)
    return F.dropout(mean, config.hidden_dropout_prob, rng) @ params["weight"] + params["bias"]


def learnt_from(how: Finetuning, seed: int) -> np.ndarray:
    """Which of the task's training texts a seed learns from."""
    return np.random.default_rng((seed, 11)).permutation(len(task(how.task).train.labels))[: how.texts]


def accuracy(config: Config, params: dict, tokenizer, how: Finetuning, seed: int, judged_on: str) -> float:
    """Fine-tune all weights of an encoder, then the share in % that it classifies right of the part ``judged_on``.

    ``params``: a model's, heads and all; what is not the encoder's is left out. Equal arguments give equal figures.
    """
    train, judged = (_rows(how.task, part, how.length, tokenizer) for part in ("train", judged_on))
    classes = len(task(how.task).labels)
    config = replace(config, hidden_dropout_prob=how.dropout, attention_probs_dropout_prob=how.dropout)
    chosen = learnt_from(how, seed)
    head = np.random.default_rng((seed, 12)).standard_normal((config.hidden_size, classes))
    start = {
        "encoder": params[config.family], "weight": (DEVIATION * head).astype(np.float32), "bias": np.zeros(classes, np.float32),
    }  # fmt: skip

    def loss(params, batch, rng):
        return F.cross_entropy(_logits(params, config, batch, rng), batch["labels"])

    step = sharded_value_and_grad(loss, shard_size=how.batch, weight=lambda batch: len(batch["labels"]), threads=1, seed=seed)
    rule = chain(clip_by_global_norm(1.0), adamw(warmup_linear(how.rate, how.steps // 10, how.steps), weight_decay=0.01))
    make_batch = lambda step: _batch(train, chosen[batch_indices(len(chosen), how.batch, seed, step)])  # noqa: E731
    learnt = fit(step, start, rule, make_batch, how.steps, seed=seed).params
    parts = np.array_split(np.arange(len(judged.labels)), -(-len(judged.labels) // TOGETHER))
    told = [_logits(learnt, config, _batch(judged, numbers)).argmax(axis=1) for numbers in parts]
    return 100 * float(np.mean(np.concatenate(told) == judged.labels))


def of_baseline(method: str, how: Finetuning, seed: int, judged_on: str) -> float:
    """What "tfidf" (with logistic regression) or "majority" classifies right, in %, from the texts that a seed learns from."""
    known = task(how.task)
    parts = [getattr(known, part) for part in ("train", "dev", "test")]
    numbers = np.concatenate([part.labels for part in parts]).astype(np.int64)
    data = Labelled([text for part in parts for text in part.texts], list(known.labels), numbers, np.arange(len(numbers)), [])
    rows = Split(*np.split(np.arange(len(numbers)), np.cumsum([len(part.labels) for part in parts])[:2]))
    judged = getattr(rows, judged_on)
    found = getattr(baselines, method)(data, rows._replace(train=learnt_from(how, seed))).classify(judged)
    return 100 * float(np.mean(found == numbers[judged]))
