"""Tokenizers are a function of their texts, agree with transformers, and refuse what is not a tokenizer."""

import hashlib
import json
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcraft.data import cache, corpus, weights
from bertcraft.data.batches import tokenize
from bertcraft.data.tokenizer import SPECIAL, load_tokenizer, save_tokenizer, train_wordpiece
from bertcraft.errors import DataError

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def utterances():
    return [document.text for document in corpus("utterances").train]


@pytest.fixture(scope="module")
def tokenizer(utterances):
    return train_wordpiece(utterances, 2048, "utterances")


@pytest.fixture(scope="module")
def sentences():
    """A thousand real sentences with rare characters among them."""
    lines = [line for document in corpus("prose").held_out for line in document.text.split("\n")]
    return random.Random(0).sample(lines, 990) + [
        "",
        " ",
        "naïve café",
        "東京 is Tokyo",
        "a\u0301b",
        "###",
        "[MASK]",
    ]


def test_the_same_texts_give_the_same_ids_in_every_process(tmp_path, tokenizer):
    code = (
        "from bertcraft.data import corpus; from bertcraft.data.tokenizer import _learn; import hashlib;"
        "v = _learn([d.text for d in corpus('utterances').train], 2048);"
        "print(hashlib.sha256(repr(sorted(v.items())).encode()).hexdigest())"
    )
    expected = hashlib.sha256(repr(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
    for parallel in ("true", "false"):
        environment = os.environ | {"TOKENIZERS_PARALLELISM": parallel}
        out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert out.stdout.strip() == expected, out.stderr


def test_special_tokens_come_first_and_the_vocabulary_is_full(tokenizer):
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == [0, 1, 2, 3, 4]
    assert tokenizer.get_vocab_size() == 2048
    assert sorted(tokenizer.get_vocab().values()) == list(range(2048))
    encoded = tokenizer.encode("Transfer MONEY", "please [MASK]")
    assert encoded.tokens == ["[CLS]", "transfer", "money", "[SEP]", "please", "[MASK]", "[SEP]"]
    assert encoded.type_ids == [0, 0, 0, 0, 1, 1, 1]
    assert tokenizer.decode(encoded.ids) == "transfer money please"


def test_hardly_any_word_of_held_out_text_is_unknown(tokenizer, sentences):
    held_out = [document.text for document in corpus("utterances").held_out]
    ids = [token for tokens in tokenize(tokenizer, held_out) for token in tokens]
    assert ids.count(1) / len(ids) < 1e-3
    assert len(ids) / sum(len(text.split()) for text in held_out) < 1.6


def test_a_tokenizer_is_trained_once(tmp_path, monkeypatch, utterances):
    monkeypatch.setenv("BERTCRAFT_CACHE", str(tmp_path))
    first = train_wordpiece(utterances[:500], 400, "few")
    (file,) = cache.folder("tokenizers").iterdir()
    changed = file.stat().st_mtime_ns
    assert train_wordpiece(utterances[:500], 400, "few").to_str() == first.to_str()
    assert file.stat().st_mtime_ns == changed
    train_wordpiece(utterances[:501], 400, "few")
    assert len(list(file.parent.iterdir())) == 2
    file.write_text("damaged")
    assert train_wordpiece(utterances[:500], 400, "few").to_str() == first.to_str()


@pytest.mark.parametrize(("texts", "size", "says"), [([], 500, "got none"), ([" "], 500, "got none"), (["a"], 9, "200")])
def test_texts_and_sizes_that_make_no_tokenizer_are_refused(texts, size, says):
    with pytest.raises(DataError, match=says):
        train_wordpiece(texts, size, "none")


def test_a_saved_tokenizer_opens_in_transformers_with_the_same_ids(tmp_path, tokenizer, sentences):
    from transformers import AutoTokenizer

    save_tokenizer(tokenizer, tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(sentences)["input_ids"] == [e.ids for e in tokenizer.encode_batch(sentences)]
    pairs = theirs(sentences[:9], sentences[1:10])
    ours = tokenizer.encode_batch(list(zip(sentences[:9], sentences[1:10], strict=True)))
    assert pairs["input_ids"] == [e.ids for e in ours]
    for role in ("pad", "unk", "cls", "sep", "mask"):
        assert getattr(theirs, f"{role}_token_id") == SPECIAL.index(f"[{role.upper()}]")


def test_a_saved_tokenizer_loads_from_either_file(tmp_path, tokenizer, sentences):
    save_tokenizer(tokenizer, tmp_path)
    expected = [e.ids for e in tokenizer.encode_batch(sentences)]
    assert [e.ids for e in load_tokenizer(tmp_path).encode_batch(sentences)] == expected
    (tmp_path / "tokenizer.json").unlink()
    assert [e.ids for e in load_tokenizer(str(tmp_path)).encode_batch(sentences)] == expected


@pytest.mark.parametrize("lower", [True, False])
def test_a_vocabulary_alone_gives_the_ids_of_transformers(tmp_path, tokenizer, sentences, lower):
    from transformers import BertTokenizer

    save_tokenizer(tokenizer, tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    theirs = BertTokenizer.from_pretrained(tmp_path, do_lower_case=lower)
    assert [e.ids for e in load_tokenizer(tmp_path).encode_batch(sentences)] == theirs(sentences)["input_ids"]


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.txt"])
@pytest.mark.parametrize("kind", ["BertTokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("settings", [
    {"do_lower_case": False}, {"strip_accents": False}, {"do_lower_case": False, "strip_accents": True}, {"strip_accents": None},
    {"tokenize_chinese_chars": False},
], ids=str)  # fmt: skip
def test_the_settings_of_a_bert_tokenizer_count_against_its_file(tmp_path, tokenizer, sentences, file, kind, settings):
    """People change tokenizer_config.json and leave tokenizer.json as it was: transformers goes by the former."""
    from transformers import AutoTokenizer

    if kind != "BertTokenizer" and file == "vocab.txt":
        pytest.skip("that class needs tokenizer.json")
    save_tokenizer(tokenizer, tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings | {"tokenizer_class": kind}))
    (tmp_path / {"tokenizer.json": "vocab.txt", "vocab.txt": "tokenizer.json"}[file]).unlink()
    texts = [*sentences[:50], "Ein CAF\u00c9, caf\u00e9 \u4e2d\u6587 Caf\u0065\u0301"]
    theirs = AutoTokenizer.from_pretrained(tmp_path)(texts)["input_ids"]
    assert [e.ids for e in load_tokenizer(tmp_path).encode_batch(texts)] == theirs


@pytest.mark.parametrize("kind", ["RobertaTokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("said", [None, False, True])
@pytest.mark.parametrize("stored", [False, True])
def test_the_space_before_a_robertas_first_word_is_that_of_its_settings(tmp_path, sentences, stored, said, kind):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import AutoTokenizer

    roberta = Tokenizer(models.BPE())
    roberta.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=stored)
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], show_progress=False)
    roberta.train_from_iterator(sentences, trainer)
    roberta.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    save_tokenizer(roberta, tmp_path)
    config = tmp_path / "tokenizer_config.json"
    settings = json.loads(config.read_text()) | {"tokenizer_class": kind} | ({} if said is None else {"add_prefix_space": said})
    config.write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    theirs = AutoTokenizer.from_pretrained(tmp_path)(sentences)["input_ids"]
    assert [e.ids for e in load_tokenizer(tmp_path).encode_batch(sentences)] == theirs


def test_minilm_does_not_pad_or_cut_and_agrees_with_transformers(sentences):
    from transformers import AutoTokenizer

    folder = weights("minilm")
    ours = load_tokenizer(folder)
    assert ours.truncation is None and ours.padding is None
    theirs = AutoTokenizer.from_pretrained(folder)(sentences, truncation=False, padding=False)["input_ids"]
    assert [e.ids for e in ours.encode_batch(sentences)] == theirs
    assert max(map(len, theirs)) > 128


def test_tokenizers_of_other_families_are_saved_and_loaded(tmp_path, sentences):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import AutoTokenizer

    roberta = Tokenizer(models.BPE())
    roberta.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], show_progress=False)
    roberta.train_from_iterator(sentences, trainer)
    save_tokenizer(roberta, tmp_path)
    assert not (tmp_path / "vocab.txt").exists()
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.pad_token, theirs.mask_token, theirs.cls_token) == ("<pad>", "<mask>", "<s>")
    assert theirs(sentences)["input_ids"] == [e.ids for e in load_tokenizer(tmp_path).encode_batch(sentences)]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "holds no tokenizer: expected tokenizer.json or vocab.txt"),
        ({"tokenizer.json": b"{}"}, "is not a tokenizer that can be read"),
        ({"tokenizer.json": b"\xff\xfe"}, "cannot be read as UTF-8"),
        ({"tokenizer.json": b'{"version": "1.0", "model": null}'}, "is not a tokenizer"),
        ({"vocab.txt": b""}, r"\[PAD\], \[UNK\].* missing"),
        ({"vocab.txt": b"\x80\x04\x95"}, "cannot be read as UTF-8"),
        ({"vocab.txt": "\n".join([*SPECIAL, "a", "a"]).encode()}, "stands there twice"),
        ({"vocab.txt": "\n".join(SPECIAL).encode(), "tokenizer_config.json": b"[]"}, "not the JSON object"),
        (
            {"vocab.txt": "\n".join(SPECIAL).encode(), "tokenizer_config.json": b"[" * 9999},
            "not the JSON object",
        ),
        (
            {"vocab.txt": "\n".join(SPECIAL).encode(), "tokenizer_config.json": b'{"do_lower_case": 3}'},
            "is 3",
        ),
    ],
)
def test_what_is_no_tokenizer_is_refused_in_one_sentence(tmp_path, files, says):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as refused:
        load_tokenizer(tmp_path)
    assert "\n" not in str(refused.value)


def test_windows_line_ends_are_not_part_of_a_token(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("\r\n".join([*SPECIAL, "a", "##b"]).encode() + b"\r\n")
    assert load_tokenizer(tmp_path).encode("ab").ids == [2, 5, 6, 3]


@pytest.fixture(scope="module")
def small(tmp_path_factory, utterances):
    folder = tmp_path_factory.mktemp("small")
    save_tokenizer(train_wordpiece(utterances[:200], 300, "small"), folder)
    return folder, (folder / "tokenizer.json").read_bytes()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_tokenizer_is_refused_or_works(small, data):
    folder, whole = small
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(("change", "cut", "drop")))
        if kind == "change":
            content[at] = data.draw(st.integers(0, 255))
        else:
            del content[at : None if kind == "cut" else at + data.draw(st.integers(1, 50))]
        if not content:
            break
    (folder / "tokenizer.json").write_bytes(content)
    try:
        loaded = load_tokenizer(folder)
    except DataError:
        return
    assert isinstance(loaded.get_vocab_size(), int)
