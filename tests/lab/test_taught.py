"""What a student learns from: labels alone are fine-tuning's own, a teacher's answers and states have the losses they should."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.bert import Config, encoder, initial_params
from bertcraft.data.batches import batch_indices, pad
from bertcraft.lab import taught
from bertcraft.techniques import knowledge_distillation as technique
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree, value_and_grad
from bertcraft.train import adamw, chain, clip_by_global_norm, fit, warmup_linear

CONFIG = Config(
    family="bert", vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
    max_position_embeddings=12, add_pooling_layer=False, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
START = CONFIG, taught.with_head(CONFIG, initial_params(CONFIG, 0, deviation=0.3), 3)
START[1]["head"]["weight"] += 0.3 * np.random.default_rng(5).standard_normal((3, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, 30, rng.integers(3, 11)).astype(np.int32) for _ in range(40)]
    return ids, rng.integers(0, 3, 40)


def batch_of(token_ids, labels, **more):
    ids, mask = pad(token_ids, 0)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, **more}


def test_each_recipe_has_the_loss_that_it_says(texts):
    ids, labels = texts
    config, params = START
    rng = np.random.default_rng(1)
    batch = batch_of(ids[:6], labels[:6])
    states = rng.standard_normal((*batch["input_ids"].shape, 8)).astype(np.float32)
    batch |= {"logits": rng.standard_normal((6, 3)).astype(np.float32), "states": states}
    hidden = encoder.encode(params["encoder"], config, batch["input_ids"], batch["attention_mask"])
    mean = np.sum(hidden * batch["attention_mask"][:, :, None], axis=1) / batch["attention_mask"].sum(axis=1, keepdims=True)
    logits = mean @ params["head"]["weight"].T + params["head"]["bias"]
    cross, soft = F.cross_entropy(logits, labels[:6]), technique.soft_target_loss(logits, batch["logits"], 3.0)
    cosine = technique.cosine_loss(hidden, states, batch["attention_mask"])

    def loss(is_taught, **options):
        recipe = taught.Recipe(steps=1, rate=1e-3, temperature=3.0, **options)
        return float(taught.loss_of(config, recipe, is_taught)(params, batch, None))

    assert loss(False) == loss(False, cosine=2.0) == pytest.approx(cross, rel=1e-5)
    assert loss(False, smoothing=0.3) == pytest.approx(0.7 * cross - 0.3 * np.mean(F.log_softmax(logits)), rel=1e-5)
    assert loss(True, soft=0.6) == pytest.approx(0.6 * soft + 0.4 * cross, rel=1e-5)
    assert loss(True, soft=0.6, cosine=2.0) == pytest.approx(0.6 * soft + 0.4 * cross + 2 * cosine, rel=1e-5)
    hidden_labels = {**batch, "labels": np.full(6, -100)}
    recipe = taught.Recipe(steps=1, rate=1e-3, temperature=3.0, soft=1.0)
    assert float(taught.loss_of(config, recipe, True)(params, hidden_labels, None)) == pytest.approx(soft, rel=1e-5)


def test_a_student_comes_to_answer_as_its_teacher_without_a_label(texts):
    ids, labels = texts
    rng = np.random.default_rng(2)
    teacher = taught.Answers(4 * rng.standard_normal((40, 3)).astype(np.float32), [])
    recipe = taught.Recipe(steps=150, rate=1e-2, batch=10, soft=1.0)
    result = taught.train(START, ids, np.full(40, -100), recipe, seed=0, teacher=teacher)
    found = taught.read((CONFIG, result.params), ids).logits.argmax(axis=1)
    assert np.mean(found == teacher.logits.argmax(axis=1)) > 0.9
    assert result.losses[-1] < result.losses[0] / 4


def test_states_stand_beside_their_own_texts(texts):
    """A student whose teacher is itself has no loss of states: whatever the batch and its padding."""
    ids, labels = texts
    states = taught.read(START, ids, keep=True).states
    assert not taught.read(START, ids).states
    assert [len(own) for own in states] == [len(own) for own in ids] and states[0].dtype == np.float16
    own = taught.Answers(np.zeros((40, 3), np.float32), states)
    alone, both = (
        taught.train(START, ids, labels, taught.Recipe(1, 0.0, soft=0.0, cosine=cosine), seed=3, teacher=own).losses[0]
        for cosine in (0.0, 1.0)
    )
    assert both == pytest.approx(alone, abs=1e-5)
    turned = taught.Answers(own.logits, [each[::-1] for each in states])
    wrong = taught.train(START, ids, labels, taught.Recipe(1, 0.0, soft=0.0, cosine=1.0), seed=3, teacher=turned)
    assert wrong.losses[0] > alone + 0.05


def test_words_that_no_text_holds_keep_their_vectors_and_all_others_learn_as_in_a_whole_table(texts, monkeypatch):
    """Against the plain loop over whole tables, whose decay alone moves the rows that no text holds."""
    ids, labels = [np.where(each > 20, each - 10, each) for each in texts[0]], texts[1]
    recipe = taught.Recipe(steps=8, rate=1e-2)
    monkeypatch.setattr(taught, "HEAD_RATE", 1e-2)
    rule = chain(clip_by_global_norm(1.0), adamw(warmup_linear(1e-2, 1, 8), weight_decay=0.01))
    found = taught.train(START, ids, labels, recipe, seed=0)
    loss = taught.loss_of(CONFIG, recipe, False)

    def make_batch(step):
        rows = batch_indices(40, 16, 0, step)
        return batch_of([ids[i] for i in rows], labels[rows])

    whole = fit(value_and_grad(loss), START[1], rule, make_batch, 8, seed=0)
    np.testing.assert_allclose(found.losses, whole.losses, rtol=1e-5)
    name = "encoder.bert.embeddings.word_embeddings.weight"
    (own, other, start) = (dict(tree.items(each)) for each in (found.params, whole.params, START[1]))
    for key, leaf in own.items():
        if key != name:
            np.testing.assert_allclose(leaf, other[key], atol=1e-5)
    held = np.isin(np.arange(30), np.concatenate([*ids, [0]]))
    assert not held[21:].any() and held[5:21].all()
    np.testing.assert_allclose(own[name][held], other[name][held], atol=1e-5)
    np.testing.assert_array_equal(own[name][~held], start[name][~held])
    assert np.abs(own[name][5:21] - start[name][5:21]).max() > 1e-3


def test_the_first_step_is_that_of_labels_and_the_same_seed_gives_the_same_run(texts):
    ids, labels = texts
    config = replace(CONFIG, hidden_dropout_prob=0.2)
    start = config, START[1]
    recipe = taught.Recipe(steps=3, rate=1e-3)
    first, again, other = (taught.train(start, ids, labels, recipe, seed=seed) for seed in (0, 0, 1))
    assert taught.first_step(start, ids, labels, 0) == {
        "start_loss": first.losses[0], "start_gradient": first.gradient_norms[0]
    }  # fmt: skip
    tree.map(np.testing.assert_array_equal, first.params, again.params)
    assert first.losses[0] != other.losses[0]


def test_the_head_has_a_rate_of_its_own(texts):
    ids, labels = texts
    result = taught.train(START, ids, labels, taught.Recipe(steps=1, rate=0.0), seed=0)
    tree.map(np.testing.assert_array_equal, result.params["encoder"], START[1]["encoder"])
    assert np.abs(result.params["head"]["weight"] - START[1]["head"]["weight"]).max() > taught.HEAD_RATE / 2
