"""MPNet beyond what every family is tested for: distances, long texts, its tokenizer, and folders of sentence-transformers."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

import bertcraft as bc
from bertcraft.bert import encoder
from bertcraft.bert.relative_positions import distance_buckets
from bertcraft.data.tokenizer import load_tokenizer, mask_id
from bertcraft.errors import CheckpointError
from bertcraft.tensor import tree, value_and_grad

sys.path.insert(0, str(Path(__file__).parent))
from transformers_models import equal_masked_lm, inputs, make, named, ours

transformers.logging.set_verbosity_error()
WORDS = "the a cat dog sat ran on mat to home big small query passage : , . card ca ##r ##s".split()
# As in the published model: RoBERTa's special tokens around all of BERT's words, whose own special tokens mean nothing.
VOCABULARY = ["<s>", "<pad>", "</s>", "<unk>", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "<mask>"]
LONG = "the big dog ran home on a mat. " * 40
TEXTS = ["the cat sat", LONG, LONG[:700], "", "   ", "cat \U0001f642 dog", "CATS, the <mask> [MASK]", "card " * 20, "cat"]


def test_every_distance_is_in_the_bucket_of_transformers():
    length = 1100
    offsets = torch.arange(-length, length + 1)
    expected = MPNetEncoder.relative_position_bucket(offsets).numpy()
    buckets = distance_buckets(length, 32)
    query, key = np.indices((length, length))
    np.testing.assert_array_equal(buckets, expected[key - query + length])
    assert {*np.unique(buckets)} == {*range(32)} - {16}  # the one of later keys at distance 0
    np.testing.assert_array_equal(distance_buckets(5, 32), buckets[:5, :5])


@pytest.mark.parametrize("padded", [False, True])
def test_long_texts_and_their_gradients_equal_transformers(padded):
    model = make("mpnet", "base", 2, max_position_embeddings=402)
    arrays = inputs(model, 2, length=400, padded=padded)
    real = arrays.get("attention_mask", np.ones_like(arrays["input_ids"])) == 1
    out = model(**{name: torch.tensor(array) for name, array in arrays.items()}).last_hidden_state
    (out[torch.tensor(real)] ** 3).mean().backward()
    config, params = ours(model, "mpnet", "base")

    def loss(p):
        hidden = encoder.encode(p, config, arrays["input_ids"], arrays.get("attention_mask"))[real]
        return np.mean(hidden * hidden * hidden)

    gradients = dict(tree.items(value_and_grad(loss)(params)[1]))
    expected = named(model, dict(model.named_parameters()), "mpnet", "base")
    table = "mpnet.encoder.relative_attention_bias.weight"
    assert (np.abs(gradients[table]).max(axis=1) > 0).sum() == 31
    for name, gradient in gradients.items():
        want = expected[name].grad
        np.testing.assert_allclose(gradient, 0 if want is None else want.numpy(), atol=1e-8, err_msg=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random masked language model with its tokenizer, as transformers saves them."""
    folder = tmp_path_factory.mktemp("mpnet")
    words = {token: number for number, token in enumerate(VOCABULARY)}
    transformers.MPNetTokenizer(vocab=words, model_max_length=300).save_pretrained(folder)
    sizes = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 302}
    make("mpnet", "masked_lm", 6, torch.float32, **sizes).save_pretrained(folder)
    return folder


def test_hidden_states_and_logits_of_texts_equal_transformers(folder):
    model, tokenizer = equal_masked_lm(folder, TEXTS)
    for text in TEXTS:
        assert model.tokenizer.encode(text).ids == tokenizer(text)["input_ids"]


def test_a_mask_is_the_models_own_and_not_berts(folder):
    model = bc.load(folder)
    assert mask_id(model.tokenizer) == VOCABULARY.index("<mask>")
    network = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    ids = [0, *(VOCABULARY.index(word) for word in ("the", "<mask>", "sat")), 2]
    with torch.no_grad():
        expected = torch.softmax(network(torch.tensor([ids])).logits[0, 2], -1).max().item()
    for text in ("the <mask> sat", "the [MASK] sat"):
        assert model.fill(text)[0][0][1] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_tokenizer_of_its_kind_is_saved_so_that_transformers_makes_the_same_ids(folder, tmp_path, lowercase):
    words = {token: number for number, token in enumerate(VOCABULARY)}
    transformers.MPNetTokenizer(vocab=words, do_lower_case=lowercase).save_pretrained(tmp_path / "tokenizer")
    model = bc.load(folder)
    model.tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer" / "tokenizer.json"))
    model.save(tmp_path / "saved")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert (theirs.mask_token, theirs.pad_token, theirs.cls_token, theirs.sep_token) == ("<mask>", "<pad>", "<s>", "</s>")
    again = load_tokenizer(tmp_path / "saved")
    for text in TEXTS:
        assert theirs(text)["input_ids"] == again.encode(text).ids == model.tokenizer.encode(text).ids
    assert theirs("cat", "dog")["input_ids"] == again.encode("cat", "dog").ids
    assert type(transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "saved")).__name__ == "MPNetForMaskedLM"


@pytest.fixture(scope="module")
def sentence_folder(folder, tmp_path_factory):
    """A random folder of sentence-transformers, of the shape of all-mpnet-base-v2."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    body = modules.Transformer(str(folder))
    body.max_seq_length = 250
    pooling = modules.Pooling(body.get_embedding_dimension(), pooling_mode="mean")
    theirs = tmp_path_factory.mktemp("sentences")
    SentenceTransformer(modules=[body, pooling, modules.Normalize()], device="cpu").save(str(theirs))
    return theirs


def test_sentence_vectors_equal_sentence_transformers(sentence_folder, tmp_path):
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(sentence_folder), device="cpu").encode(TEXTS)
    model = bc.load(sentence_folder)
    got = model.encode(TEXTS)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(model.encode(TEXTS, max_length=9)[0], expected[0], atol=1e-5)
    for i, text in enumerate(TEXTS):  # whatever it is packed with
        np.testing.assert_allclose(model.encode(text), got[i], atol=1e-6)
    model.save(tmp_path / "again")
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(again, expected, atol=1e-5)


def test_a_sentence_encoder_may_name_a_head_that_its_weights_have_lost(sentence_folder, tmp_path):
    """all-mpnet-base-v2 does: its config.json says MPNetForMaskedLM, its weights are those of an MPNetModel."""
    import shutil

    lost = tmp_path / "lost"
    shutil.copytree(sentence_folder, lost)
    content = json.loads((lost / "config.json").read_text())
    assert content["architectures"] == ["MPNetModel"]
    (lost / "config.json").write_text(json.dumps(content | {"architectures": ["MPNetForMaskedLM"]}))
    model = bc.load(lost)
    assert (model.config.head, model.config.add_pooling_layer) == ("base", True)
    np.testing.assert_array_equal(model.encode(TEXTS), bc.load(sentence_folder).encode(TEXTS))
    (lost / "modules.json").unlink()  # a plain folder with that name is no masked language model, and no other
    with pytest.raises(CheckpointError, match="architectures: got .*MPNetForMaskedLM.*they hold no tensor 'lm_head"):
        bc.load(lost)
