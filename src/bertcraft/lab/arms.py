"""What a comparison on a user's own texts compares: ways to fine-tune an encoder, and three baselines that train in seconds.

Every technique changes one thing in plain full fine-tuning. It reads the same texts in the same order; its learning rate is
that of its method in :data:`bertcraft.lab.finetune.RATES`, which other texts chose and the user's do not change.
"""

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bertcraft.data.labelled import FEWEST, Labelled, Split
from bertcraft.errors import InputError
from bertcraft.lab import finetune as tuning
from bertcraft.techniques import adapter_modules
from bertcraft.tensor.parallel import one_blas_thread

PLAIN = tuning.Settings(clip=math.inf)  # AdamW, a linear schedule with warm-up, no clipping


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
DEFAULT = ("adapters", "lora")
PROBE, TFIDF, MAJORITY = "probe", "tfidf", "majority"
BASELINES = {PROBE: "linear probe", TFIDF: "TF-IDF", MAJORITY: "most frequent class"}


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


def some(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many rows, at random; a larger choice holds the smaller ones."""
    return np.random.default_rng((seed, 3)).permutation(rows)[:most]


def of_every_class(data: Labelled, rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many rows, at random, but of every class among them at least its first ones (FEWEST)."""
    rows = some(rows, len(rows), 0)
    order = np.argsort(data.numbers[rows], kind="stable")
    numbers = data.numbers[rows][order]
    place = np.empty(len(rows), int)  # of a row in its class
    place[order] = np.arange(len(rows)) - np.searchsorted(numbers, numbers)
    return np.concatenate([rows[place < FEWEST], rows[place >= FEWEST]])[: max(most, int((place < FEWEST).sum()))]


def texts(data: Labelled, rows: np.ndarray) -> tuning.Texts:
    """Some rows, to train on."""
    return tuning.Texts([data.texts[i] for i in rows], data.numbers[rows])


def tfidf(data: Labelled, parts: Split) -> Callable[[np.ndarray], np.ndarray]:
    """TF-IDF of words and pairs of words with logistic regression, trained on all training texts: rows -> classes."""
    import warnings

    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    given = [data.texts[i] for i in parts.train]
    features = min(50_000, 1_000_000 // len(data.labels))  # as many coefficients as are fitted in seconds
    options = {"sublinear_tf": True, "max_features": features, "dtype": np.float32}
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **options)
    try:
        inputs = vectorizer.fit_transform(given)
    except ValueError:  # no text has a word, only signs
        vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), **options)
        inputs = vectorizer.fit_transform(given)
    model = LogisticRegression(C=10, max_iter=200)
    with warnings.catch_warnings(), one_blas_thread():
        warnings.simplefilter("ignore")  # 200 iterations are enough, converged to the last digit or not
        model.fit(inputs, data.numbers[parts.train])
    return lambda rows: model.predict(vectorizer.transform([data.texts[i] for i in rows]))


def majority(data: Labelled, parts: Split) -> Callable[[np.ndarray], np.ndarray]:
    """The most frequent class of the training texts, whatever the text."""
    most = np.bincount(data.numbers[parts.train]).argmax()
    return lambda rows: np.full(len(rows), most)
