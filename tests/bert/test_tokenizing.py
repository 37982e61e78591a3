"""Texts become ids with settings of the call's own: the model's tokenizer is neither changed nor written down and read again."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, NormalizedString, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from bertcraft.bert import sentences
from bertcraft.bert.model import Model
from bertcraft.errors import InputError

sys.path.insert(0, str(Path(__file__).parent))
from small_checkpoints import small

WORDS = "the a cat dog sat ran on mat".split()
TEXT = "the cat sat on the mat <new> DOG <end> [MASK]the"


def wordpiece() -> Tokenizer:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(special + WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(special)
    return tokenizer


def unigram() -> Tokenizer:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *("▁" + word for word in WORDS), *"acdehmnorst▁"]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0 - i) for i, piece in enumerate(pieces)], unk_id=3))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True), "</s>", "<s>"])
    return tokenizer


def bytes_() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate(["<s>", "</s>", *alphabet, "th", "the"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("t", "h"), ("th", "e")]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


@pytest.mark.parametrize("make", [wordpiece, unigram, bytes_])
def test_a_copy_is_the_tokenizer_in_every_part(make):
    tokenizer = make()
    tokenizer.add_tokens([AddedToken("<new>", single_word=True), "dog", AddedToken("<end>", rstrip=True, normalized=False)])
    tokenizer.add_special_tokens([AddedToken("<last>", lstrip=True)])
    copy = sentences._copy(tokenizer)
    assert copy.to_str() == tokenizer.to_str()
    for text in (TEXT, "", " <last>", "dogdog <new><new>"):
        assert copy.encode(text).ids == tokenizer.encode(text).ids
        assert copy.decode(copy.encode(text).ids) == tokenizer.decode(tokenizer.encode(text).ids)


def model_with(tokenizer: Tokenizer) -> Model:
    config, params = small(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=40)
    model = Model(config, params)
    model.tokenizer = tokenizer
    return model


class Lower:
    """Made in Python: such a part cannot be written down."""

    def normalize(self, text: NormalizedString) -> None:
        text.lowercase()


def test_the_tokenizer_is_not_written_down_and_read_again():
    tokenizer = wordpiece()
    tokenizer.normalizer = normalizers.Normalizer.custom(Lower())
    with pytest.raises(Exception, match="Custom"):
        tokenizer.to_str()
    upper, lower = model_with(tokenizer).encode(["The CAT", "the cat"])
    np.testing.assert_array_equal(upper, lower)


def test_a_calls_settings_are_not_the_tokenizers_and_its_own_do_not_count():
    tokenizer = wordpiece()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=17)
    model, before = model_with(tokenizer), tokenizer.to_str()
    assert [len(ids) for ids in sentences.tokenize(model, [TEXT, "cat"], 6)] == [6, 3]
    assert len(sentences.tokenize(model, [TEXT])[0]) > 6
    sentences._cutting(model, 5, "left", lower_case=True)
    assert tokenizer.to_str() == before
    tokenizer.add_tokens(["catdog"])  # what is changed between two calls is seen by the second
    with pytest.raises(InputError, match=f"gave the id {model.config.vocab_size}"):
        sentences.tokenize(model, ["catdog"])


def test_calls_on_many_threads_each_keep_their_own_longest_text():
    model = model_with(wordpiece())
    text = " ".join(WORDS * 4)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: (n, [len(i) for i in sentences.tokenize(model, [text] * 20, n)]), [3, 7, 11, 30] * 40))
    assert all(lengths == [longest] * 20 for longest, lengths in found)


def filler(rows: int = 0, **changes) -> Model:
    tokenizer = wordpiece()
    config, params = small(head="masked_lm", vocab_size=tokenizer.get_vocab_size() + rows, **changes)
    model = Model(config, params)
    model.tokenizer = tokenizer
    return model


def test_no_mask_is_lost_where_a_text_is_cut():
    model = filler(max_position_embeddings=8)
    assert len(model.fill("the [MASK] sat [MASK]")) == 2
    with pytest.raises(InputError, match="^1 of 2 masks lie beyond what the model can take: shorten the text"):
        model.fill("the [MASK] sat on the mat the dog ran [MASK]")
    with pytest.raises(InputError, match="^the mask lies beyond"):
        model.fill("the cat sat on the mat the dog ran [MASK]")


def test_rows_of_the_vocabulary_that_the_tokenizer_lacks_have_a_name():
    """Vocabularies are padded to a round number."""
    model = filler(rows=4)
    found = model.fill("the [MASK] sat", top=17)[0]
    assert len(found) == 17 and {"[13]", "[16]"} <= {word for word, _ in found}


def test_a_deberta_that_knows_distances_alone_reads_a_text_of_any_length():
    tokenizer = wordpiece()
    more = {"relative_attention": True, "pos_att_type": ("c2p",), "position_biased_input": False}
    config, params = small("deberta", "masked_lm", vocab_size=tokenizer.get_vocab_size(), **more)
    model = Model(config, params)
    model.tokenizer = tokenizer
    text = "the cat sat on the mat " * 3 + "[MASK]"
    assert [len(ids) for ids in sentences.tokenize(model, [text])] == [21] and len(model.fill(text)) == 1
