"""Fine-tuning an encoder of one's own: it learns, it repeats, the head reads the mean, baselines learn from the same texts."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.bert import encode, initial_params
from bertcraft.data import task
from bertcraft.lab import downstream, pretraining
from bertcraft.lab.downstream import Finetuning

HOW = Finetuning("trec", texts=400, steps=200, rate=5e-3)


@pytest.fixture(scope="module")
def encoder():
    """Configuration and parameters of a small encoder before its first step, and its tokenizer."""
    setting = pretraining.Setting(hidden=64, texts=200, held_out=10, length=24)
    texts = pretraining.prepare(setting)
    config = pretraining.config_of(setting, len(texts.log_frequency))
    return config, initial_params(config, 0), texts.tokenizer


def test_it_learns_more_than_the_most_frequent_class_and_equal_arguments_give_equal_figures(encoder):
    found = downstream.accuracy(*encoder, HOW, 0, "dev")
    assert found > downstream.of_baseline("majority", HOW, 0, "dev") + 3
    assert found == downstream.accuracy(*encoder, HOW, 0, "dev") != downstream.accuracy(*encoder, HOW, 1, "dev")


def test_parameters_are_left_as_they_are_and_heads_are_not_needed(encoder):
    config, params, tokenizer = encoder
    before = {name: leaf.copy() for name, leaf in _leaves(params["bert"])}
    short = replace(HOW, steps=3)
    found = downstream.accuracy(config, params, tokenizer, short, 0, "dev")
    assert all(np.array_equal(before[name], leaf) for name, leaf in _leaves(params["bert"]))
    assert found == downstream.accuracy(config, {"bert": params["bert"]}, tokenizer, short, 0, "dev")


def test_the_head_reads_the_mean_over_a_texts_tokens(encoder):
    config, params, _ = encoder
    ids, mask = np.array([[2, 30, 31, 3], [2, 40, 3, 0]]), np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    rng = np.random.default_rng(0)
    head = {"weight": rng.standard_normal((64, 5)), "bias": rng.standard_normal(5)}
    quiet = replace(config, hidden_dropout_prob=0.0)
    found = downstream._logits(
        {"encoder": params["bert"], **head}, quiet, {"input_ids": ids, "attention_mask": mask.astype(np.int32)}
    )
    for row, length in enumerate((4, 3)):
        hidden = encode(params, config, ids[[row], :length])[0]
        np.testing.assert_allclose(found[row], hidden.mean(axis=0) @ head["weight"] + head["bias"], rtol=1e-4, atol=1e-5)


def test_a_seed_learns_from_texts_of_its_own_and_baselines_from_the_same():
    one, other = (downstream.learnt_from(HOW, seed) for seed in (0, 1))
    assert len(set(one)) == 400 and len(set(one) & set(other)) < 100
    trec = task("trec")
    most = np.bincount(trec.train.labels[one]).argmax()
    assert downstream.of_baseline("majority", HOW, 0, "test") == pytest.approx(100 * np.mean(trec.test.labels == most))
    assert downstream.of_baseline("tfidf", HOW, 0, "test") > downstream.of_baseline("majority", HOW, 0, "test") + 10


def _leaves(params):
    from bertcraft.tensor import tree

    return list(tree.items(params))
