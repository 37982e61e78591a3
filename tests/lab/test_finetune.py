"""Fine-tuning of the real encoder by every method: what moves, what stays, that it repeats, and what transformers makes of it."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import bertcraft as bc
from bertcraft import data
from bertcraft.bert import encoder, heads, sentences
from bertcraft.errors import InputError
from bertcraft.lab import finetune as tuning
from bertcraft.techniques import adapter_modules as technique
from bertcraft.tensor import tree
from bertcraft.tensor.workspace import release

METHODS = list(technique.METHODS)
CLASSES = 3
SHORT = tuning.Settings(steps=2, batch_size=8, shard_size=4, max_length=16)


@pytest.fixture(scope="module")
def model():
    return bc.load(data.weights("minilm"))


@pytest.fixture(scope="module")
def texts():
    """Questions about cards, transfers and money, 24 of each."""
    source = data.task("banking77").train
    chosen = [i for label in (10, 40, 70) for i in np.flatnonzero(source.labels == label)[:24]]
    chosen = np.random.default_rng(0).permutation(chosen)
    return tuning.Texts([source.texts[i] for i in chosen], np.searchsorted((10, 40, 70), source.labels[chosen]))


def part(texts, start, stop):
    return tuning.Texts(texts.texts[start:stop], texts.labels[start:stop])


def fitted(model, texts, method, settings=SHORT, **options):
    return tuning.finetune(model, texts, None, method, settings, **{"classes": CLASSES, "seed": 0, **options})


def same(one, two):
    one, two = dict(tree.items(one)), dict(tree.items(two))
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


# --------------------------------------------------------------------------------------------- what moves and what stays


@pytest.mark.parametrize("method", METHODS)
def test_the_trained_moves_and_every_frozen_bit_stays(model, texts, method):
    before = tree.map(np.copy, model.params)
    tuned = fitted(model, texts, method)
    assert same(model.params, before)
    config, frozen = tuning.classifier(model, CLASSES, 0, SHORT.dropout)
    assert config == tuned.config
    began = dict(tree.items(technique.start(technique.METHODS[method], frozen, config, np.random.default_rng((0, 2)))))
    trained, whole = dict(tree.items(tuned.trained)), dict(tree.items(tuned.params))
    assert trained.keys() == began.keys()
    assert all(not np.array_equal(trained[name], began[name]) for name in trained), "each trained array moved"
    for name, leaf in tree.items(model.params):
        assert whole[name] is (trained[name] if name in trained else leaf), name
    assert {leaf.dtype for leaf in trained.values()} == {np.dtype(np.float32)}
    assert tuned.trained_share == sum(leaf.size for leaf in trained.values()) / technique.count(frozen)


def test_only_the_trained_has_gradients_and_a_state_of_the_optimiser(model, texts):
    """Full fine-tuning holds copies, gradients and two moments of 22.7 million numbers, 360 MB: adapters a share of that."""

    def peak(method):
        release()
        tracemalloc.start()
        fitted(model, texts, method)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    small, large = peak("lora"), peak("full")
    assert large - small > 0.9 * 4 * 4 * 22_000_000 and small < large / 6


# -------------------------------------------------------------------------------------------------------- what repeats


@pytest.mark.parametrize("method", METHODS)
def test_a_run_repeats_to_the_bit_on_any_number_of_threads(model, texts, method):
    first, again = (fitted(model, texts, method, threads=threads) for threads in (1, 2))
    assert same(first.trained, again.trained) and first.history == again.history
    one, two = (tuning.predict(tuned, texts.texts, threads) for tuned, threads in ((first, 1), (again, 2)))
    assert np.array_equal(one, two)
    other = fitted(model, texts, method, seed=1)
    assert other.history["losses"] != first.history["losses"]


def test_every_method_starts_from_the_same_head_on_the_same_texts(model, texts):
    settings = replace(SHORT, steps=1, dropout=0.0)
    losses = {method: fitted(model, texts, method, settings).history["losses"][0] for method in METHODS}
    for method in METHODS:
        tolerance = {"prefix": 0.05, "houlsby-8": 1e-3, "houlsby-64": 1e-3}.get(method, 1e-6)  # those three start beside it
        assert losses[method] == pytest.approx(losses["full"], rel=tolerance), method


# -------------------------------------------------------------------------------------------------- what comes of it


def test_it_learns(model, texts):
    train, test = part(texts, 0, 48), part(texts, 48, 72)
    tuned = fitted(model, train, "lora", replace(SHORT, steps=30))
    assert tuning.accuracy(tuned, test) > 0.9
    assert np.mean(tuned.history["losses"][-3:]) < 0.7 * tuned.history["losses"][0]


def test_a_probe_is_a_head_for_the_frozen_encoder_that_fine_tuning_starts_from(model, texts):
    train, before = part(texts, 0, 48), tree.map(np.copy, model.params)
    settings = replace(SHORT, steps=60, batch_size=16, rate=3e-3, dropout=0.0)
    head, again = (tuning.probe(model, train, settings, classes=CLASSES, seed=0, threads=threads) for threads in (1, 2))
    assert same(head, again) and same(model.params, before)
    assert {name for name, _ in tree.items(head)} == {
        "bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias",
    }  # fmt: skip
    started = fitted(model, train, "lora", replace(settings, steps=1, batch_size=48), head=head)
    anew = fitted(model, train, "lora", replace(settings, steps=1, batch_size=48))
    assert started.history["losses"][0] < 0.3 < 1 < anew.history["losses"][0]
    config, frozen = tuning.classifier(model, CLASSES, 0)
    probed = tuning.Finetuned(model, "head", config, frozen, head, settings, {}, 0.0)
    own = tuning.predict(probed, train.texts)[np.arange(48), train.labels]
    assert started.history["losses"][0] == pytest.approx(-np.log(own).mean(), rel=1e-4)
    with pytest.raises(InputError, match="labels from 0 to 1"):
        tuning.probe(model, train, settings, classes=2, seed=0)


def test_predictions_do_not_depend_on_company_or_order(model, texts):
    tuned = fitted(model, texts, "houlsby-8")
    together = tuning.predict(tuned, texts.texts)
    assert together.shape == (72, CLASSES) and together.dtype == np.float32
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-6)
    backwards = tuning.predict(tuned, texts.texts[::-1])[::-1]
    alone = np.concatenate([tuning.predict(tuned, [text]) for text in texts.texts[:10]])
    np.testing.assert_allclose(backwards, together, atol=1e-6)
    np.testing.assert_allclose(alone, together[:10], atol=1e-6)


def test_the_best_of_several_steps_is_kept_and_dev_is_read_for_nothing_else(model, texts):
    train, dev = part(texts, 0, 48), part(texts, 48, 72)
    settings = replace(SHORT, steps=6, evaluate_every=2, rate=1e-2)
    tuned = tuning.finetune(model, train, dev, "head", settings, classes=CLASSES, seed=0)
    evaluations = tuned.history["evaluations"]
    assert [step for step, _ in evaluations] == [2, 4, 6]
    assert tuning.accuracy(tuned, dev) == max(accuracy for _, accuracy in evaluations)
    plain = fitted(model, train, "head", replace(settings, evaluate_every=None))
    assert plain.history["losses"] == tuned.history["losses"]


def test_settings_change_what_they_say(model, texts):
    base = replace(SHORT, steps=5, warmup=0.2)
    losses = {
        name: fitted(model, texts, "head", replace(base, **changes)).history["losses"]
        for name, changes in {
            "plain": {}, "rate": {"rate": 1e-2}, "cosine": {"schedule": "cosine"}, "smoothed": {"label_smoothing": 0.2},
            "no dropout": {"dropout": 0.0}, "cut": {"max_length": 8}, "batch": {"batch_size": 12},
        }.items()
    }  # fmt: skip
    assert len({tuple(own) for own in losses.values()}) == len(losses)
    assert losses["rate"][0] == losses["plain"][0]  # the first step sees the parameters as they start


def test_the_classifier_reads_the_first_token_as_the_whole_encoder_gives_it(model, texts):
    """Computing the last layer at one position changes nothing."""
    tuned = fitted(model, texts, "lora")
    ids = np.array(sentences.tokenize(model, texts.texts[:1], SHORT.max_length))
    hidden = encoder.encode(tuned.params, tuned.config, ids, sockets=technique.METHODS["lora"].sockets)
    scores = heads.classification_logits(tuned.params, tuned.config, hidden)[0]
    expected = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(tuning.predict(tuned, texts.texts[:1])[0], expected, atol=1e-6)


@pytest.mark.parametrize("method", ["lora", "ia3", "bitfit"])
def test_transformers_opens_what_is_written_and_predicts_the_same(model, texts, method, tmp_path):
    transformers = pytest.importorskip("transformers")
    tuned = fitted(model, texts, method, replace(SHORT, steps=4, rate=1e-2))
    names = ["card", "transfer", "money"]
    tuning.export(tuned, tmp_path / "saved", names)
    classify = transformers.pipeline("text-classification", str(tmp_path / "saved"), top_k=None)
    found = [{each["label"]: each["score"] for each in own} for own in classify(texts.texts[:20], truncation=True)]
    expected = tuning.predict(tuned, texts.texts[:20])
    np.testing.assert_allclose([[own[name] for name in names] for own in found], expected, atol=1e-5)
    assert transformers.AutoConfig.from_pretrained(tmp_path / "saved").hidden_dropout_prob == 0.1


def test_what_transformers_cannot_run_is_not_written(model, texts, tmp_path):
    tuned = fitted(model, texts, "houlsby-8")
    with pytest.raises(InputError, match="expected full, head, bitfit, lora or ia3"):
        tuning.export(tuned, tmp_path / "saved", ["a", "b", "c"])
    with pytest.raises(InputError, match="label_names: expected 3 different names"):
        tuning.export(tuned, tmp_path / "saved", ["a", "a", "c"])
    assert not (tmp_path / "saved").exists()


def test_what_cannot_be_meant_is_refused(model, texts):
    with pytest.raises(InputError, match=r"method: got 'lorra', expected one of full, head, .*"):
        fitted(model, texts, "lorra")
    with pytest.raises(InputError, match="labels from 0 to 1"):
        fitted(model, texts, "head", classes=2)
    with pytest.raises(InputError, match="expected texts with as many labels"):
        fitted(model, part(texts, 0, 0), "head")
    with pytest.raises(InputError, match="none were given"):
        fitted(model, texts, "head", replace(SHORT, evaluate_every=1))
    for wrong in ({"steps": 0}, {"warmup": 2}, {"dropout": 1}, {"schedule": "exponential"}, {"label_smoothing": 1}):
        with pytest.raises(InputError, match="expected"):
            tuning.Settings(**wrong)
