"""DeBERTa's folders: tokenizers, sentence vectors, the authors' own files, what is left over from pretraining."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

import bertcraft as bc
from bertcraft.bert import checkpoint, encoder, heads
from bertcraft.errors import InputError
from bertcraft.tensor import tree

sys.path.insert(0, str(Path(__file__).parent))
from small_checkpoints import refused
from transformers_models import inputs, make, named, ours

transformers.logging.set_verbosity_error()
TEXTS = ["the cat sat", "a cat, the [MASK] sat here", "Cats  sit", "the cat " * 12]
PIECES = "the cat sat here a s sit it cats , . c".split()
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False, "type_vocab_size": 0}
LATER = {"position_buckets": 6, "share_att_key": True, "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3}
VERSIONS = {"deberta": RELATIVE, "deberta-v2": RELATIVE | LATER | {"max_relative_positions": 9, "num_hidden_layers": 2}}
RELEASED = {  # the largest of version 2 has a convolution, version 3 has none
    "v1": ("deberta", RELATIVE), "v2": ("deberta-v2", VERSIONS["deberta-v2"]),
    "v3": ("deberta-v2", VERSIONS["deberta-v2"] | {"conv_kernel_size": 0}),
}  # fmt: skip


def tokenizer_of(version: str):
    """A small one of the kind that the version has: byte-level pairs in the first, SentencePiece's Unigram in the others."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    if version == "deberta":
        letters = sorted({*"abcdefghijklmnopqrstuvwxyz,.CĠ"})
        merges = ["t h", "th e", "c a", "ca t", "Ġ c", "Ġ t", "s a", "sa t"]
        words = [*special, *letters, *(merge.replace(" ", "") for merge in merges), "[MASK]"]
        vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
        return transformers.DebertaTokenizer(vocab=vocabulary, merges=[tuple(merge.split()) for merge in merges])
    letters = sorted({letter for piece in PIECES for letter in piece} | set("▁bdfgjklmnopqruvwxyzC"))
    words = [(f"▁{piece}", -2.0 - 0.1 * i) for i, piece in enumerate(PIECES)]
    pieces = [*((word, 0.0) for word in special), *words, *((letter, -8.0) for letter in letters), ("[MASK]", 0.0)]
    return transformers.DebertaV2Tokenizer(vocab=pieces)


@pytest.fixture(scope="module", params=VERSIONS)
def folder(request, tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp(request.param), tokenizer_of(request.param)
    tokenizer.save_pretrained(folder)
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 40}
    make(request.param, "masked_lm", 4, torch.float32, **VERSIONS[request.param], **sizes).save_pretrained(folder)
    return folder


def test_texts_go_through_as_in_transformers(folder):
    network = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = bc.load(folder)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    out = model(batch["input_ids"].numpy(), batch["attention_mask"].numpy())
    real = batch["attention_mask"].numpy() == 1
    np.testing.assert_allclose(out.logits[real], expected.logits.numpy()[real], atol=2e-5)
    for text in TEXTS:
        assert model.tokenizer.encode(text).ids == tokenizer(text)["input_ids"]
    filled = model.fill("the [MASK] sat")
    assert len(filled) == 1 and len(filled[0]) == 5


def test_a_tokenizer_file_as_version_3_has_it_is_respected(tmp_path):
    """Its form is that of the file released with a fine-tuned v3: runs of spaces, a cut at a length, [MASK] behind all pieces."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    letters = sorted({letter for piece in PIECES for letter in piece} | set("▁."))
    pieces = [*((word, 0.0) for word in special), *((f"<0x{byte:02X}>", 0.0) for byte in range(256))]
    pieces += [*((f"▁{piece}", -2.0 - 0.1 * i) for i, piece in enumerate(PIECES)), *((letter, -8.0) for letter in letters)]
    added = {"single_word": False, "lstrip": False, "rstrip": False, "special": True}
    numbers = {**{word: i for i, word in enumerate(special)}, "[MASK]": len(pieces)}
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}

    def part(kind: str, name: str, type_id: int) -> dict:
        return {kind: {"id": name, "type_id": type_id}}

    first = [part("SpecialToken", "[CLS]", 0), part("Sequence", "A", 0), part("SpecialToken", "[SEP]", 0)]
    file = {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": [
            {"id": number, "content": word, "normalized": word == "[UNK]", **added} for word, number in numbers.items()
        ],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "NFKC"},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [spaces]},
        "post_processor": {
            "type": "TemplateProcessing", "single": first,
            "pair": [*first, part("Sequence", "B", 1), part("SpecialToken", "[SEP]", 1)],
            "special_tokens": {
                word: {"id": word, "ids": [numbers[word]], "tokens": [word]} for word in ("[CLS]", "[SEP]")
            },
        },
        "decoder": spaces,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": pieces, "byte_fallback": False},
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    sizes = {"vocab_size": len(pieces) + 100, "pad_token_id": 0, "max_position_embeddings": 40}  # released: 128,100 for 128,001
    kind, more = RELEASED["v3"]
    make(kind, "masked_lm", 4, torch.float32, **more, **sizes).save_pretrained(tmp_path)
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "cls", "sep", "unk", "mask")}
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), **names)
    model = bc.load(tmp_path)
    for text in (*TEXTS, "  the   cat  ", "the [MASK] sat", "ｔｈｅ cat", "the \u2603 sat", "the cat sat . the cat sat ."):
        assert model.tokenizer.encode(text).ids == theirs(text)["input_ids"], text  # none is cut, whatever the file says
    assert model.tokenizer.token_to_id("[MASK]") == len(pieces)
    assert len(model.fill("the [MASK] sat")[0]) == 5


def outcome(network, arrays, labels):
    """States, logits (None of a base model), the loss and each parameter's gradient, of a model of transformers."""
    tensors = {name: torch.tensor(array) for name, array in (arrays | labels).items()}
    out = network(**tensors, output_hidden_states=True)
    states = out.hidden_states[-1]
    loss = out.loss if labels else states[tensors["attention_mask"] == 1].square().mean()
    network.zero_grad()
    loss.backward()
    logits = out.logits.detach().numpy() if labels else None
    return states.detach().numpy(), logits, loss.item(), {name: p.grad.numpy() for name, p in network.named_parameters()}


def close(got, expected, name=""):
    np.testing.assert_allclose(got, expected, atol=1e-8 * max(1.0, np.abs(expected).max(initial=0)), err_msg=name)


@pytest.mark.parametrize("head", ["base", "masked_lm", "sequence_classification", "token_classification"])
@pytest.mark.parametrize("version", RELEASED)
def test_a_folder_has_the_same_states_logits_and_gradients_on_both_sides_and_back_again(version, head, tmp_path):
    family, settings = RELEASED[version]
    network = make(family, head, 4, **settings)
    network.save_pretrained(tmp_path / "theirs")
    model = bc.load(tmp_path / "theirs")
    model.save(tmp_path / "ours")
    again = type(network).from_pretrained(tmp_path / "ours", dtype=torch.float64).eval()
    arrays, rng = inputs(network, 4), np.random.default_rng(0)
    real = arrays["attention_mask"] == 1
    size = network.config.vocab_size if head == "masked_lm" else network.config.num_labels
    of_tokens = np.where(real, rng.integers(0, size, real.shape), -100)
    labels = {} if head == "base" else {"labels": rng.integers(0, size, 3) if head.startswith("sequence") else of_tokens}

    def loss(params):
        if labels:
            return heads.loss(params, model.config, {**arrays, **labels})
        given = (arrays.get(name) for name in ("input_ids", "attention_mask", "token_type_ids"))
        return np.mean(np.square(encoder.encode(params, model.config, *given)[real]))

    value, gradients = bc.value_and_grad(loss)(model.params)
    out = model(**arrays)
    for opened in (network, again):
        states, logits, their_value, their_gradients = outcome(opened, arrays, labels)
        close(out.last_hidden_state[real], states[real])
        if labels:
            read = ... if head.startswith("sequence") else real
            close(out.logits[read], logits[read])
        assert float(value) == pytest.approx(their_value, abs=1e-8)
        their_gradients = named(opened, their_gradients, family, head)
        for name, gradient in tree.items(gradients):
            close(gradient, their_gradients[name], name)


def test_sentence_vectors_equal_sentence_transformers_and_are_saved(folder, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    body = modules.Transformer(str(folder), max_seq_length=20)
    pooling = modules.Pooling(body.get_embedding_dimension(), pooling_mode="mean")
    SentenceTransformer(modules=[body, pooling]).save(str(tmp_path / "theirs"))
    expected = SentenceTransformer(str(tmp_path / "theirs"), device="cpu").encode(TEXTS)
    model = bc.load(tmp_path / "theirs")
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-5)
    model.save(tmp_path / "again")
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(again, expected, atol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_authors_own_files_are_read(version, tmp_path):
    """No `architectures`, no `legacy`; their masked-LM head; positions and a head of replaced tokens that nothing here reads."""
    network = make(version, "masked_lm", 4, torch.float32, **VERSIONS[version], legacy=False)
    network.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content = {key: value for key, value in content.items() if key not in ("architectures", "legacy")}
    (tmp_path / "config.json").write_text(json.dumps(content | {"pos_att_type": "c2p|p2c"}))
    tensors, hidden = load_file(tmp_path / "model.safetensors"), network.config.hidden_size
    left = {f"mask_predictions.{part}.bias": np.ones(hidden, np.float32) for part in ("dense", "LayerNorm", "classifier")}
    left["deberta.embeddings.position_embeddings.weight"] = np.ones((23, hidden), np.float32)
    save_file(tensors | left, tmp_path / "model.safetensors")
    model = bc.load(tmp_path)
    assert (model.config.head, model.config.legacy, model.config.pos_att_type) == ("masked_lm", False, ("c2p", "p2c"))
    arrays = inputs(network, 0)
    with torch.no_grad():
        expected = network(**{name: torch.tensor(array) for name, array in arrays.items()}).logits.numpy()
    real = arrays["attention_mask"] == 1
    np.testing.assert_allclose(model(**arrays).logits[real], expected[real], atol=2e-5)
    save_file(tensors | {"talking.weight": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    refused(tmp_path, "unexpected 'talking.weight'")
    del tensors["deberta.encoder.rel_embeddings.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    refused(tmp_path, "missing 'deberta.encoder.rel_embeddings.weight'")


def test_a_table_of_another_length_is_refused_with_the_setting(tmp_path):
    make("deberta-v2", "base", 0, torch.float32, **VERSIONS["deberta-v2"]).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"position_buckets": 8}))
    refused(tmp_path, "deberta.encoder.rel_embeddings.weight: got the shape (12,", "2 * position_buckets", "16")


@pytest.mark.parametrize("version", VERSIONS)
def test_texts_packed_end_to_end_do_not_see_each_other(version):
    config, params = ours(make(version, "base", 4, **VERSIONS[version]), version, "base")
    from bertcraft.bert.sentence_modules import Pipeline
    from bertcraft.bert.sentences import _encode_pack

    rng = np.random.default_rng(0)
    texts = [rng.integers(3, config.vocab_size, length).tolist() for length in (9, 5, 5, 1)]
    together = _encode_pack(bc.Model(config, params), Pipeline(), texts, 0, None, None)
    alone = [_encode_pack(bc.Model(config, params), Pipeline(), [text], 0, None, None)[0] for text in texts]
    np.testing.assert_allclose(together, alone, atol=1e-12)


def test_shares_of_several_classes_are_learnt_as_in_transformers():
    """Labels of a row of shares: cross-entropy with them, in this family, where BERT takes each class for itself."""
    model = make("deberta", "sequence_classification", 3, problem_type=None, num_labels=3)
    arrays = inputs(model, 3)
    labels = np.random.default_rng(0).dirichlet(np.ones(3), 3)
    expected = model(**{k: torch.tensor(v) for k, v in arrays.items()}, labels=torch.tensor(labels)).loss.item()
    config, params = ours(model, "deberta", "sequence_classification")
    assert float(heads.loss(params, config, {**arrays, "labels": labels})) == pytest.approx(expected, abs=1e-10)


def test_what_is_written_is_read_again_with_every_setting(tmp_path):
    config, params = ours(make("deberta-v2", "base", 0, **VERSIONS["deberta-v2"]), "deberta-v2", "base")
    checkpoint.write(tmp_path, config, params)
    again, read = checkpoint.read(tmp_path)
    assert again == config
    for (name, a), b in zip(tree.items(params), tree.leaves(read), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_other_fine_tuning_says_that_it_does_not_know_these_layers():
    from bertcraft.techniques import adapter_modules

    config, params = ours(make("deberta", "sequence_classification", 0), "deberta", "sequence_classification")
    with pytest.raises(InputError, match="family deberta"):
        adapter_modules.start(adapter_modules.METHODS["lora"], params, config, np.random.default_rng(0))
