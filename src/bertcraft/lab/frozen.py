"""A linear probe: logistic regression on what a frozen encoder says of a text, written as a plain BERT classifier.

The vector of a sentence encoder is the mean over the tokens. A plain BERT classifier reads the first token, through a pooler.
So :func:`with_mean` puts one more layer on the encoder, whose weights are set and not learnt: its attention looks at all tokens
alike, and its first token is their mean, standardised. Any library that opens a BERT computes it, and fine-tuning can start
from it, which spares the encoder the gradients of a random head (Kumar et al. 2022, arXiv:2202.10054).

Shapes: n texts, H hidden size.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from bertcraft.bert import encoder, heads, sentences
from bertcraft.bert.model import Model
from bertcraft.data.batches import pad
from bertcraft.lab import finetune as tuning
from bertcraft.tensor.parallel import one_blas_thread, pool

MEAN_WEIGHT = 16.0  # of the mean beside the first token itself, which a layer of BERT always adds
POOLER_SCALE = 0.5  # of the pooler's identity: tanh is nearly linear there, and its slope still lets fine-tuning through
STRENGTHS = (0.01, 0.1, 0.3, 1.0)  # C of scikit-learn, the inverse of the penalty's weight: the smoothest first
PACK = 2048  # tokens encoded together


def with_mean(model: Model) -> Model:
    """A BERT with one more layer: the mean over its tokens, standardised, stands at every token; nothing else is changed.

    Queries and keys are 0, so that attention is even; values are the hidden states. The feed-forward half adds 0.
    """
    config = replace(model.config, num_hidden_layers=model.config.num_hidden_layers + 1)
    hidden, inner = config.hidden_size, config.intermediate_size
    identity, nothing = np.eye(hidden, dtype=np.float32), np.zeros(hidden, np.float32)
    norm = {"weight": np.ones(hidden, np.float32), "bias": nothing}
    even = {"weight": np.zeros((hidden, hidden), np.float32), "bias": nothing}
    layer = {
        "attention": {
            "self": {"query": even, "key": even, "value": {"weight": identity, "bias": nothing}},
            "output": {"dense": {"weight": MEAN_WEIGHT * identity, "bias": nothing}, "LayerNorm": norm},
        },
        "intermediate": {"dense": {"weight": np.zeros((inner, hidden), np.float32), "bias": np.zeros(inner, np.float32)}},
        "output": {"dense": {"weight": np.zeros((hidden, inner), np.float32), "bias": nothing}, "LayerNorm": norm},
    }
    body = model.params["bert"]
    layers = {**body["encoder"]["layer"], str(config.num_hidden_layers - 1): layer}
    params = {**model.params, "bert": {**body, "encoder": {"layer": layers}}}
    return replace(model, config=config, params=params)


def pooler(hidden: int) -> dict:
    """The pooler of a probe, tanh(POOLER_SCALE x): as good as linear, and what a plain BERT has."""
    return {"dense": {"weight": POOLER_SCALE * np.eye(hidden, dtype=np.float32), "bias": np.zeros(hidden, np.float32)}}


class Vectors:
    """What the pooler of :func:`pooler` makes of texts, by their row numbers: each is computed when it is first asked for."""

    def __init__(self, model: Model, texts: Sequence[str], max_length: int, threads: int = 1):
        """``model``: one of :func:`with_mean`. Texts are cut to ``max_length`` tokens."""
        self.model, self.texts, self.max_length, self.threads = model, texts, max_length, threads
        self.params = {"bert": {**model.params["bert"], "pooler": pooler(model.config.hidden_size)}}
        self.known = np.zeros(len(texts), bool)
        self.values = np.empty((len(texts), model.config.hidden_size), np.float32)
        self.seconds = 0.0  # that it took, all together

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """float32 (len(rows), H)."""
        if len(new := np.unique(rows[~self.known[rows]])):
            began = time.perf_counter()
            self._compute(new)
            self.known[new] = True
            self.seconds += time.perf_counter() - began
        return self.values[rows]

    def _compute(self, rows: np.ndarray) -> None:
        token_ids = sentences.tokenize(self.model, [self.texts[i] for i in rows], self.max_length)
        config, params = self.model.config, self.params

        def work(numbers: np.ndarray) -> None:
            ids, mask = pad([token_ids[i] for i in numbers], config.pad_token_id or 0)
            batch = {"input_ids": ids, "attention_mask": None if mask.all() else mask}
            hidden = tuning.first_tokens(params, config, encoder.BERT, batch)
            self.values[rows[numbers]] = heads.pooled(params, config, hidden)

        packs = sentences.packs(np.array([len(ids) for ids in token_ids], int), PACK)
        with one_blas_thread():
            list(map(work, packs) if self.threads == 1 else pool(self.threads).map(work, packs))


def chosen(
    train: np.ndarray, labels: np.ndarray, dev: np.ndarray, dev_labels: np.ndarray, judge: Callable, threads: int = 1
) -> tuple[dict, float]:
    """The logistic regression whose strength is best on development texts (of equals the smoother one): its head, its strength.

    ``judge(right, found)``: how good the classes found are, more is better. The rest as in :func:`fitted`.
    """

    def fit(strength: float) -> tuple[float, dict]:
        head = fitted(train, labels, strength)
        return judge(dev_labels, classify(head, dev)), head

    with one_blas_thread():
        found = list(map(fit, STRENGTHS) if threads == 1 else pool(threads).map(fit, STRENGTHS))
    best = max(range(len(STRENGTHS)), key=lambda i: found[i][0])
    return found[best][1], STRENGTHS[best]


def fitted(train: np.ndarray, labels: np.ndarray, strength: float) -> dict:
    """The logistic regression of labels, int (n,), on vectors (n, H), every class among them.

    ``strength`` is scikit-learn's C. Returns a head, a tree that ``finetune(head=...)`` takes for a model of :func:`with_mean`.
    """
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings(), one_blas_thread():
        warnings.simplefilter("ignore")  # 100 iterations are enough, converged to the last digit or not
        model = LogisticRegression(C=strength, max_iter=100, tol=1e-3).fit(train, labels)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # of two classes the second has a row; a softmax needs two
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    classifier = {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}
    return {"bert": {"pooler": pooler(train.shape[1])}, "classifier": classifier}


def classify(head: dict, vectors: np.ndarray) -> np.ndarray:
    """The class of each vector, int (n,)."""
    return (vectors @ head["classifier"]["weight"].T + head["classifier"]["bias"]).argmax(axis=1)


def as_classifier(model: Model, head: dict, settings: tuning.Settings) -> tuning.Finetuned:
    """The probe as a classifier of texts, to predict with and to export; ``model`` is one of :func:`with_mean`."""
    config, params = tuning.classifier(model, len(head["classifier"]["bias"]), 0)
    return tuning.Finetuned(model, "head", config, params, head, settings, {}, 0.0)
