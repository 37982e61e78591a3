"""The rows of every comparison that train in seconds: a linear probe of the frozen encoder, TF-IDF, the most frequent class.

All are trained on a split's training texts, and give a class to each row number of the data. The probe is more than a rival:
fine-tuning starts from it, and it is cheap enough to be trained on parts of the texts, which shows what more labels would bring.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from bertcraft.data.labelled import Labelled, Split
from bertcraft.lab import frozen
from bertcraft.lab.arms import some
from bertcraft.lab.budget import MOST_DEV
from bertcraft.tensor.parallel import one_blas_thread

PROBE, TFIDF, MAJORITY = "probe", "tfidf", "majority"
BASELINES = {PROBE: "linear probe", TFIDF: "TF-IDF", MAJORITY: "most frequent class"}
PARTS = (1 / 8, 1 / 4, 1 / 2)  # of the texts, for the learning curve


@dataclass(frozen=True)
class Baseline:
    """A classifier of rows that was trained in seconds, and how many."""

    classify: Callable[[np.ndarray], np.ndarray]
    seconds: float


@dataclass(frozen=True)
class Probe(Baseline):
    """``head``: what fine-tuning starts from. ``parts``: the heads that each of the PARTS of its texts teach."""

    head: dict
    parts: list[dict]


def stratified(data: Labelled, rows: np.ndarray) -> np.ndarray:
    """Rows that are in a random order, in one whose beginnings hold every class, and its share of each, however long they are."""
    order = np.argsort(data.numbers[rows], kind="stable")
    numbers = data.numbers[rows][order]
    place = np.arange(len(rows)) - np.searchsorted(numbers, numbers)  # of a row in its class
    return rows[order[np.argsort(place / np.bincount(numbers)[numbers], kind="stable")]]


def probe(data: Labelled, parts: Split, vectors: frozen.Vectors, most: int, judge: Callable, threads: int) -> Probe:
    """Logistic regression on the frozen encoder's vectors, from at most ``most`` texts, taken at random, some of every class.

    ``judge(right, found)`` chooses its strength on development texts. Its seconds are those for the vectors of its texts,
    known from another split or not, and for the regression.
    """
    rows = some(parts.train, len(parts.train), 0)
    if len(rows) > most:  # as far as can be the same ones in every split: their vectors are computed once
        rows = some(np.arange(len(data)), len(data), 0)
        rows = rows[np.isin(rows, parts.train)]
    rows = stratified(data, rows)[: max(most, len(data.labels))]
    dev = some(parts.dev, MOST_DEV, 0)
    inputs, on_dev = vectors(rows), vectors(dev)
    share = (len(rows) + len(dev)) / vectors.known.sum()
    began = time.monotonic()
    head, strength = frozen.chosen(inputs, data.numbers[rows], on_dev, data.numbers[dev], judge, threads)
    took = time.monotonic() - began + share * vectors.seconds
    fewer = [max(round(part * len(rows)), len(data.labels)) for part in PARTS]
    heads = [frozen.fitted(inputs[:n], data.numbers[rows[:n]], strength) for n in fewer]
    return Probe(lambda rows: frozen.classify(head, vectors(rows)), took, head, heads)


def learning_curve(data: Labelled, whole: Probe, vectors: frozen.Vectors, test: np.ndarray, judge: Callable) -> list[float]:
    """``judge`` on test texts of the heads that a part of the probe's texts taught, at the strength that was best for all."""
    return [judge(data.numbers[test], frozen.classify(head, vectors(test))) for head in whole.parts]


def tfidf(data: Labelled, parts: Split) -> Baseline:
    """TF-IDF of words and pairs of words with logistic regression, trained on all training texts."""
    began = time.monotonic()
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

    def classify(rows: Sequence[int]) -> np.ndarray:
        return model.predict(vectorizer.transform([data.texts[i] for i in rows]))

    return Baseline(classify, time.monotonic() - began)


def majority(data: Labelled, parts: Split) -> Baseline:
    """The most frequent class of the training texts, whatever the text."""
    most = np.bincount(data.numbers[parts.train]).argmax()
    return Baseline(lambda rows: np.full(len(rows), most), 0.0)
