"""The real MiniLM on real sentences: equal to transformers, and sentence vectors that mean something."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import bertcraft as bc
from bertcraft import data
from bertcraft.bert.model import Model
from bertcraft.errors import CheckpointError, InputError


@pytest.fixture(scope="module")
def folder():
    return data.weights("minilm")


@pytest.fixture(scope="module")
def model(folder):
    return bc.load(folder)


@pytest.fixture(scope="module")
def sentences():
    return data.task("banking77").test.texts[:1000]


@pytest.fixture(scope="module")
def theirs(folder):
    from transformers import AutoModel, AutoTokenizer

    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def test_hidden_states_equal_transformers_on_1000_sentences(model, theirs, sentences):
    network, tokenizer = theirs
    worst = 0.0
    for start in range(0, 1000, 50):
        batch = tokenizer(sentences[start : start + 50], padding=True, return_tensors="pt")
        with torch.no_grad():
            expected = network(**batch)
        out = model(**{name: tensor.numpy() for name, tensor in batch.items()})
        real = batch["attention_mask"].numpy() == 1
        worst = max(worst, float(np.abs(out.last_hidden_state - expected.last_hidden_state.numpy())[real].max()))
        worst = max(worst, float(np.abs(out.pooler_output - expected.pooler_output.numpy()).max()))
        assert out.last_hidden_state.dtype == np.float32 and out.logits is None
    assert worst < 1e-5


def test_encode_is_the_mean_over_tokens_scaled_to_unit_length(model, theirs, sentences):
    network, tokenizer = theirs
    vectors = model.encode(sentences)
    assert vectors.shape == (1000, 384) and vectors.dtype == np.float32
    batch = tokenizer(sentences[:200], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = network(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    expected = torch.nn.functional.normalize(mean).numpy()
    np.testing.assert_allclose(vectors[:200], expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_encode_does_not_depend_on_order_or_packing(model, sentences):
    some = sentences[:60]
    whole = model.encode(some)
    np.testing.assert_allclose(model.encode(some[::-1])[::-1], whole, atol=2e-6)
    np.testing.assert_allclose(model.encode(some, batch_tokens=1), whole, atol=2e-6)
    assert model.encode([]).shape == (0, 384)
    assert np.array_equal(model.encode(some), whole), "same input, same bits"


def test_long_texts_are_cut_to_what_the_model_takes(model):
    long = "word " * 2000
    assert np.isfinite(model.encode([long])).all()
    np.testing.assert_allclose(model.encode([long], max_length=10), model.encode(["word " * 8]), atol=1e-6)


def test_related_sentences_are_nearer(model):
    a, b, c = model.encode(["How do I get a new card?", "I need a replacement card.", "The cat sleeps in the sun."])
    assert a @ b > 0.6 > 0.3 > a @ c


def test_what_save_writes_transformers_opens_with_the_same_outputs(model, tmp_path, theirs, sentences):
    from transformers import AutoModel, AutoTokenizer

    model.save(tmp_path / "copy")
    network = AutoModel.from_pretrained(tmp_path / "copy").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "copy")
    batch = tokenizer(sentences[:20], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(network(**batch).last_hidden_state, theirs[0](**batch).last_hidden_state)
    again = bc.load(tmp_path / "copy")
    assert np.array_equal(again.encode(sentences[:5]), model.encode(sentences[:5]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"input_ids": [[1, 30522]]}, "30522"),
        ({"input_ids": [[1, -1]]}, "-1"),
        ({"input_ids": [[]]}, "at least one token"),
        ({"input_ids": np.zeros((0, 4), int)}, "at least one token"),
        ({"input_ids": [1, 2]}, "shape"),
        ({"input_ids": [[1.0, 2.0]]}, "integers"),
        ({"input_ids": [[1, 2], [3]]}, "differ in length"),
        ({"input_ids": np.ones((1, 513), int)}, "at most 512"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1, 1, 1]]}, "expected that of input_ids"),
        ({"input_ids": [[1, 2]], "attention_mask": [[0, 0]]}, "all padding"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1, 2]]}, "expected 0 or 1"),
        ({"input_ids": [[1, 2]], "token_type_ids": [[0, 2]]}, "ids 0 to 1"),
    ],
)
def test_wrong_inputs_get_one_clear_message(model, wrong, message):
    with pytest.raises(InputError, match=message):
        model(**wrong)


@pytest.mark.parametrize(
    ("texts", "message"),
    [(" ", "number 1 is empty"), (["fine", "  "], "number 2 is empty"), ([3], "expected a string")],
)
def test_wrong_texts_get_one_clear_message(model, texts, message):
    with pytest.raises(InputError, match=message):
        model.encode(texts)


def test_filling_masks_needs_a_head(model):
    with pytest.raises(InputError, match="no masked-LM head"):
        model.fill("Paris is the [MASK] of France.")


def test_filling_is_asked_for_one_text_and_some_words(model):
    config = replace(model.config, head="masked_lm")
    asked = Model(config, model.params, model.folder)
    with pytest.raises(InputError, match="expected one text with a mask, got list"):
        asked.fill(["Paris is the [MASK] of France."])
    with pytest.raises(InputError, match="top: got -1, expected at least 1"):
        asked.fill("Paris is the [MASK] of France.", top=-1)


def test_a_model_without_a_tokenizer_says_so(model):
    with pytest.raises(CheckpointError, match="no tokenizer"):
        bc.Model(model.config, model.params).encode(["a"])
