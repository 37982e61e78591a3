"""The linear probe: a BERT whose first token is the mean, and logistic regression on it that transformers computes too."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import bertcraft
from bertcraft.bert import encoder
from bertcraft.data import task, weights
from bertcraft.lab import finetune as tuning
from bertcraft.lab import frozen
from bertcraft.lab.arms import PLAIN

TEXTS = ["my card", "How do I get a refund for a card that was stolen?", "top up " * 100, "?", "東京 où"]


@pytest.fixture(scope="module")
def plain():
    return bertcraft.load(weights("minilm"))


@pytest.fixture(scope="module")
def model(plain):
    return frozen.with_mean(plain)


def standardised(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)


def test_the_first_token_is_the_mean_over_the_tokens_alone(plain, model):
    ids = np.array([[101, 2026, 4003, 102, 0, 0], [101, 2129, 2079, 1045, 2131, 102]])
    mask = (ids > 0).astype(np.int64)
    before = encoder.encode(plain.params, plain.config, ids, mask)
    mean = (before * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    expected = standardised(frozen.MEAN_WEIGHT * mean + before[:, 0])
    found = encoder.encode(model.params, model.config, ids, mask)[:, 0]
    assert np.abs(found - expected).max() < 1e-4
    likeness = np.sum(standardised(mean) * found, axis=1) / model.config.hidden_size
    assert likeness.min() > 0.99


def test_vectors_do_not_depend_on_what_is_asked_first_nor_on_threads(model):
    one, two = frozen.Vectors(model, TEXTS, 32), frozen.Vectors(model, TEXTS, 32, threads=2)
    rows = np.array([3, 1, 1, 4])
    first = one(rows)
    assert first.shape == (4, model.config.hidden_size) and one.known.tolist() == [False, True, False, True, True]
    everything = two(np.arange(len(TEXTS)))
    assert np.abs(everything[rows] - first).max() < 1e-5 and np.array_equal(one(rows), first)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_is_scikit_learn_s_regression(classes):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 8)).astype(np.float32), np.arange(90) % classes
    x[:, 0] += y
    head = frozen.fitted(x, y, 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = LogisticRegression(C=0.3, max_iter=100, tol=1e-3).fit(x, y).predict_proba(x)
    logits = x @ head["classifier"]["weight"].T + head["classifier"]["bias"]
    found = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.abs(found - expected).max() < 1e-5


def test_the_strength_is_the_best_on_development_texts_and_of_equals_the_smoothest():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)).astype(np.float32), np.arange(60) % 2
    asked = []

    def judge(right, found):
        asked.append(len(right))
        return len(asked) in (2, 3)

    head, strength = frozen.chosen(x, y, x[:20], y[:20], judge)
    assert strength == frozen.STRENGTHS[1] and asked == [20] * len(frozen.STRENGTHS)
    again = frozen.fitted(x, y, strength)
    assert np.array_equal(head["classifier"]["weight"], again["classifier"]["weight"])


def test_transformers_opens_the_probe_and_predicts_the_same(model, tmp_path):
    from transformers import pipeline

    source = task("banking77").train
    rows = np.flatnonzero(source.labels < 4)[::8]
    texts = [source.texts[i] for i in rows]
    vectors = frozen.Vectors(model, [*texts, *TEXTS], 128)
    head = frozen.fitted(vectors(np.arange(len(texts))), source.labels[rows], 1.0)
    tuning.export(frozen.as_classifier(model, head, PLAIN), tmp_path, ["a", "b", "c", "d"])
    answers = pipeline("text-classification", str(tmp_path), top_k=None)([*texts, *TEXTS], truncation=True)
    theirs = np.array([[{a["label"]: a["score"] for a in answer}[name] for name in "abcd"] for answer in answers])
    found = vectors(np.arange(len(texts) + len(TEXTS)))
    assert np.array_equal(theirs.argmax(1), frozen.classify(head, found))
    ours = tuning.predict(frozen.as_classifier(model, head, PLAIN), [*texts, *TEXTS])
    assert np.abs(ours - theirs).max() < 1e-4 and np.mean(theirs.argmax(1)[: len(texts)] == source.labels[rows]) > 0.9
