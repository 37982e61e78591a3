"""XLM-RoBERTa and CamemBERT: texts of many scripts through a Unigram tokenizer, as transformers and sentence-transformers do."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import bertcraft as bc

sys.path.insert(0, str(Path(__file__).parent))
from transformers_models import equal_masked_lm, make

transformers.logging.set_verbosity_error()
TEXTS = ["le chat est là", "Чёрный кот  сидит", "the cat, <mask> sat", "", "   ", "\U0001f642 猫が座る", "chat " * 60]
PIECES = "le chat est la là the cat sat кот сидит , . 猫 が".split()
TOKENIZERS = {"xlm-roberta": "XLMRobertaTokenizer", "camembert": "CamembertTokenizer"}


@pytest.fixture(scope="module", params=TOKENIZERS)
def folder(request, tmp_path_factory):
    """A random masked language model with its tokenizer, as transformers saves them."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    single = sorted({character for piece in PIECES for character in piece} - {*PIECES} | set("▁bdfgijklmnopqruvwxyz"))
    words = [(f"▁{piece}", -2.0 - 0.1 * i) for i, piece in enumerate(PIECES)] + [(piece, -5.0) for piece in PIECES]
    vocabulary = [
        ("<s>", 0.0),
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *words,
        *((c, -8.0) for c in single),
        ("<mask>", 0.0),
    ]
    tokenizer = getattr(transformers, TOKENIZERS[name])(vocab=vocabulary, model_max_length=30)
    tokenizer.save_pretrained(folder)
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 40}
    make(name, "masked_lm", 6, torch.float32, **sizes).save_pretrained(folder)
    return folder


def test_hidden_states_and_logits_of_texts_equal_transformers(folder):
    model, tokenizer = equal_masked_lm(folder, TEXTS)
    for text in TEXTS[:-1]:
        assert model.tokenizer.encode(text).ids == tokenizer(text)["input_ids"]
    assert len(model.fill("the cat <mask> sat")[0]) == 5


@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_sentence_vectors_equal_sentence_transformers(folder, tmp_path, mode):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    body = modules.Transformer(str(folder))
    pooling = modules.Pooling(body.get_embedding_dimension(), pooling_mode=mode)
    SentenceTransformer(modules=[body, pooling, modules.Normalize()]).save(str(tmp_path / "theirs"))
    expected = SentenceTransformer(str(tmp_path / "theirs"), device="cpu").encode(TEXTS)
    model = bc.load(tmp_path / "theirs")
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-5)
    model.save(tmp_path / "again")
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(again, expected, atol=1e-5)


def test_saved_under_its_own_name(folder, tmp_path):
    bc.load(folder).save(tmp_path)
    assert type(transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)) is type(
        transformers.AutoModelForMaskedLM.from_pretrained(folder)
    )
