"""Probes: sentences altered as promised, nothing to be had from single words, equal figures for equal parameters."""

import numpy as np
import pytest

from bertcraft.lab import pretraining, probes

SETTING = pretraining.Setting(vocab_size=2048, length=24, texts=2000, held_out=500, hidden=64)


@pytest.fixture(scope="module")
def texts():
    return pretraining.prepare(SETTING)


@pytest.fixture(scope="module")
def made(texts):
    return probes.Probes(SETTING, texts, sentences=500)


def test_each_sentence_is_altered_in_one_place(texts, made):
    whole = probes.whole_words(texts.tokenizer)
    for part in made.sentences.values():
        plain, swapped, replaced = (part["rows"][name] for name in ("plain", "swapped", "replaced"))
        n, first, second = np.arange(len(plain)), part["at"][:, 0], part["at"][:, 1]
        assert len(plain) == 500 and (second == first + 1).all()
        assert whole[plain[n, first]].all() and whole[plain[n, second]].all()
        assert ((swapped != plain).sum(axis=1) == 2).all()
        assert (swapped[n, first] == plain[n, second]).all() and (swapped[n, second] == plain[n, first]).all()
        assert ((replaced != plain).sum(axis=1) == 1).all() and (replaced[n, first] != plain[n, first]).all()


def test_no_word_by_itself_tells_whether_it_was_replaced(texts, made):
    part = made.sentences["held_out"]
    n, first = np.arange(500), part["at"][:, 0]
    old, new = part["rows"]["plain"][n, first], part["rows"]["replaced"][n, first]
    assert np.array_equal(np.sort(old), np.sort(new))
    frequency = texts.log_frequency
    assert np.corrcoef(frequency[old], frequency[new])[0, 1] > 0.5, "about as frequent"


def test_a_pair_is_two_whole_words():
    #               [CLS] a  ##b  c   d  [SEP]
    whole = np.zeros(12, bool)
    whole[[6, 8, 9, 10]] = True  # 7 stands for ##b
    rows = np.array([[2, 6, 7, 8, 9, 3], [2, 6, 7, 8, 7, 3], [2, 8, 8, 3, 0, 0], [2, 8, 6, 3, 0, 0], [2, 9, 10, 3, 0, 0]])
    found = probes.altered(rows, whole, np.zeros(12), 10, np.random.default_rng(0))
    assert found["rows"]["plain"].tolist() == rows[[0, 3, 4]].tolist(), "not where a part of a word follows, or one word twice"
    assert found["at"].tolist() == [[3, 4], [1, 2], [1, 2]]


def test_probing_sentences_are_not_in_the_training_text(texts, made):
    from bertcraft.data.text import signature

    _, parts = pretraining.documents(SETTING.corpus, SETTING.vocab_size)
    known = {name: {signature(text) for text in parts[name]} for name in pretraining.PARTS}
    assert not (known["dev"] | known["held_out"]) & known["train"] and not known["dev"] & known["held_out"]


def test_equal_parameters_give_equal_figures_and_other_ones_other(texts, made):
    config = pretraining.config_of(SETTING, len(texts.log_frequency))
    params = pretraining.initial(config, texts, 0)
    one, two = made(params, config), probes.Probes(SETTING, texts, sentences=500)(params, config)
    assert one == two and one != made(pretraining.initial(config, texts, 1), config)
    assert set(one) == {"bigram_shift", "replaced_word", "intents"}
    assert 40 < one["replaced_word"] < 65 and one["intents"] > 5, "64 classes: chance is 1.6"


def test_features_are_the_hidden_states_that_the_encoder_gives_each_text_alone(texts, made):
    from bertcraft.bert import encoder

    config = pretraining.config_of(SETTING, len(texts.log_frequency))
    params = pretraining.initial(config, texts, 0)
    part = made.sentences["dev"]
    rows, at = part["rows"]["plain"][:40], part["at"][:40]
    places, means = probes._at(params, config, rows, at), probes._mean(params, config, rows)
    for i in (0, 17, 39):
        alone = encoder.encode(params, config, rows[i : i + 1, : (rows[i] != 0).sum()])[0]
        np.testing.assert_allclose(places[i], alone[at[i]], atol=1e-5)
        np.testing.assert_allclose(means[i], alone.mean(axis=0), atol=1e-5)


def test_the_strength_is_chosen_without_the_test_set():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((600, 40))
    labels = (features[:, 0] + 0.3 * rng.standard_normal(600) > 0).astype(int)
    parts = [(features[i : i + 200], labels[i : i + 200]) for i in (0, 200, 400)]
    score = probes.linear_probe(*parts[0], *parts[1], *parts[2])
    assert score > 80
    wrong = 1 - parts[2][1]
    assert probes.linear_probe(*parts[0], *parts[1], parts[2][0], wrong) == pytest.approx(100 - score)
