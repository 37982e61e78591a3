"""Folders of sentence-transformers: each pooling and module gives its vectors, and what save writes it opens with the same."""

import json
import logging
import shutil
import sys
import warnings
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

import bertcraft as bc
from bertcraft.bert.sentence_modules import POOLINGS
from bertcraft.bert.sentences import tokenize
from bertcraft.errors import CheckpointError, DataError, InputError

sys.path.insert(0, str(Path(__file__).parent))
from transformers_models import make

warnings.filterwarnings("ignore", module="sentence_transformers")
logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
from sentence_transformers import SentenceTransformer  # noqa: E402
from sentence_transformers.sentence_transformer import modules as M  # noqa: E402

WORDS = "the a cat dog sat ran on mat to home big small query passage : , . card ca ##r ##s".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
TEXTS = ["the cat sat", "the big dog ran home on a mat. " * 9, "", "   ", "cat \U0001f642\U0001f642 dog", "CATS", "cat"]
LONGEST = 12


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random BERT with a tokenizer, as transformers saves it."""
    folder = tmp_path_factory.mktemp("base")
    network = make("bert", "base", 3, torch.float32, vocab_size=len(VOCABULARY), max_position_embeddings=40, pad_token_id=0)
    network.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    from transformers import BertTokenizer

    BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False).save_pretrained(folder)
    return folder


def theirs(base, *modules, longest=LONGEST, **options) -> SentenceTransformer:
    body = M.Transformer(str(base))
    body.max_seq_length = longest
    return SentenceTransformer(modules=[body, *modules], device="cpu", **options)


def width(base) -> int:
    return json.loads((base / "config.json").read_text())["hidden_size"]


def dense(into: int, out: int, seed: int = 0, **options) -> M.Dense:
    torch.manual_seed(seed)
    return M.Dense(into, out, **options)


def saved(their: SentenceTransformer, folder: Path) -> Path:
    their.save(str(folder), create_model_card=False)
    return folder


def assert_equal(folder: Path, texts=TEXTS, tolerance=1e-5, **options) -> None:
    """Our vectors of a folder are theirs; and theirs of what we save."""
    theirs = {name.replace("normalize", "normalize_embeddings"): value for name, value in options.items()}
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts, **theirs)
    model = bc.load(folder)
    got = model.encode(texts, **options)
    assert got.dtype == np.float32 and got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=tolerance * max(1, np.abs(expected).max()))
    model.save(folder.parent / "again")
    again = SentenceTransformer(str(folder.parent / "again"), device="cpu").encode(texts, **theirs)
    np.testing.assert_allclose(again, expected, atol=tolerance * max(1, np.abs(expected).max()))
    np.testing.assert_array_equal(bc.load(folder.parent / "again").encode(texts, **options), got)


MODES = [*POOLINGS, ("cls", "mean"), ("mean", "max", "lasttoken")]


@pytest.mark.parametrize(("mode", "maps", "scaled"), list(product(MODES, [False, True], [False, True])), ids=str)
def test_each_pooling_with_and_without_dense_and_normalize(base, tmp_path, mode, maps, scaled):
    pooling = M.Pooling(width(base), pooling_mode=mode)
    modules = [pooling] + [dense(pooling.pooling_output_dimension, 7)] * maps + [M.Normalize()] * scaled
    assert_equal(saved(theirs(base, *modules), tmp_path / "theirs"))


ACTIVATIONS = [torch.nn.Identity(), torch.nn.ReLU(), torch.nn.GELU(), torch.nn.SiLU(), torch.nn.Sigmoid(), torch.nn.Tanh()]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_each_activation_and_both_residuals(base, tmp_path, activation):
    hidden = width(base)
    modules = [
        M.Pooling(hidden, pooling_mode="cls"),
        dense(hidden, 9, 1, activation_function=activation, use_residual=True),
        dense(9, 9, 2, activation_function=activation, use_residual=True, bias=False),
        M.Dropout(0.5),
        M.LayerNorm(9),
    ]
    with torch.no_grad():
        modules[-1].norm.weight += torch.randn(9)
        modules[-1].norm.bias += torch.randn(9)
    assert_equal(saved(theirs(base, *modules), tmp_path / "theirs"))


@pytest.mark.parametrize("mode", POOLINGS)
@pytest.mark.parametrize("included", [True, False])
def test_prompts_by_text_by_name_and_by_default_with_and_without_their_tokens(base, tmp_path, mode, included):
    pooling = M.Pooling(width(base), pooling_mode=mode, include_prompt=included)
    prompts = {"query": "query: ", "passage": "the passage : "}
    folder = saved(theirs(base, pooling, prompts=prompts, default_prompt_name="passage"), tmp_path / "theirs")
    assert_equal(folder)
    assert_equal(folder, prompt_name="query")
    assert_equal(folder, prompt="a big dog, ")
    assert_equal(folder, prompt="")
    assert not np.allclose(bc.load(folder).encode(["cat"]), bc.load(folder).encode(["cat"], prompt_name="query"), atol=1e-3)


@pytest.mark.parametrize("normalize", [None, False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_normalize_is_what_normalize_embeddings_is(base, tmp_path, normalize, scaled):
    modules = [M.Pooling(width(base))] + [M.Normalize()] * scaled
    assert_equal(saved(theirs(base, *modules, truncate_dim=4), tmp_path / "theirs"), normalize=normalize)


def test_a_plain_folder_without_scaling_is_what_sentence_transformers_makes_of_it(base):
    expected = SentenceTransformer(str(base), device="cpu").encode(TEXTS[:2])
    np.testing.assert_allclose(bc.load(base).encode(TEXTS[:2], normalize=False), expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(bc.load(base).encode(TEXTS[:2]), axis=1), 1, atol=1e-6)
    with pytest.raises(InputError, match="'query'.*none"):
        bc.load(base).encode(["cat"], prompt_name="query")


OLD = [("cls_token", "max_tokens"), ("mean_tokens",), ("mean_sqrt_len_tokens",), ("weightedmean_tokens", "lasttoken"), ()]


@pytest.mark.parametrize("switches", OLD, ids=str)
@pytest.mark.parametrize("place", ["", "0_Transformer"])
def test_folders_of_older_versions(base, tmp_path, switches, place):
    """Switches for the poolings, module names as they were, the encoder in a folder, max_seq_length and do_lower_case."""
    folder = tmp_path / "old"
    shutil.copytree(base, folder / place)
    (folder / place / "sentence_bert_config.json").write_text('{"max_seq_length": 7, "do_lower_case": true}')
    (folder / "1_Pooling").mkdir()
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    config = {"word_embedding_dimension": width(base)} | {f"pooling_mode_{name}": name in switches for name in names}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    modules = [(place, "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    entries = [
        {"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{t}"} for i, (p, t) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "config_sentence_transformers.json").write_text('{"__version__": {"sentence_transformers": "2.0.0"}}')
    assert_equal(folder)
    assert bc.load(folder).pipeline.max_length == 7
    np.testing.assert_array_equal(*bc.load(folder).encode(["CAT", "cat"]))


@pytest.mark.parametrize("family", ["roberta", "roberta-prelayernorm", "distilbert", "albert", "electra"])
def test_other_families(base, tmp_path, family):
    shutil.copytree(base, tmp_path / "base")
    network = make(family, "base", 4, torch.float32, vocab_size=len(VOCABULARY), max_position_embeddings=40, pad_token_id=0)
    network.save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    pooling = M.Pooling(config.get("dim") or config["hidden_size"], pooling_mode=("cls", "mean"))
    assert_equal(saved(theirs(tmp_path / "base", pooling), tmp_path / "theirs"))


@pytest.fixture
def folder(base, tmp_path):
    modules = [M.Pooling(width(base), pooling_mode="cls"), dense(width(base), 5), M.Normalize()]
    return saved(theirs(base, *modules), tmp_path / "theirs")


def test_one_text_many_texts_and_none(folder):
    model = bc.load(folder)
    texts = TEXTS * 3
    all_ = model.encode(texts)
    assert model.encode("the cat sat").shape == (5,) and model.encode([]).shape == (0, 5)
    np.testing.assert_allclose(model.encode("the cat sat"), all_[0], atol=1e-6)
    for options in ({"batch_size": 1}, {"batch_size": 4, "progress": False}, {"batch_tokens": 1}):
        np.testing.assert_allclose(model.encode(texts, **options), all_, atol=1e-6)
    np.testing.assert_allclose(model.encode(iter(texts)), all_, atol=1e-6)
    np.testing.assert_allclose(model.encode(["dog " * 30], max_length=5), model.encode(["dog dog dog"]), atol=1e-6)


def test_the_longest_input_is_that_of_the_folder(folder):
    model = bc.load(folder)
    np.testing.assert_allclose(*model.encode(["dog " * 10, "dog " * 30]), atol=1e-6)
    assert np.abs(np.subtract(*model.encode(["dog " * 10, "dog " * 30], max_length=40))).max() > 1e-3


def test_saving_a_plain_model_takes_the_modules_of_an_older_one_away(folder):
    model = bc.load(folder)
    plain = bc.Model(model.config, model.params, folder)
    plain.save(folder)
    assert bc.load(folder).pipeline is None
    np.testing.assert_array_equal(bc.load(folder).encode(["cat"]), plain.encode(["cat"]))


def change(path: Path, **changes) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


def change_module(folder: Path, number: int, **changes) -> None:
    content = json.loads((folder / "modules.json").read_text())
    content[number] |= changes
    (folder / "modules.json").write_text(json.dumps(content))


def test_a_normalize_without_a_folder_of_its_own(folder):
    change_module(folder, 3, path="")
    assert_equal(folder)


REFUSALS = [
    (lambda f: change_module(f, 2, type="sentence_transformers.models.LSTM"), "module 2 is 'sentence_transformers.models.LSTM'"),
    (lambda f: change_module(f, 0, type="custom_st.Transformer"), "module 0 is 'custom_st.Transformer'"),
    (lambda f: change_module(f, 1, type="sentence_transformers.models.SpladePooling"), "SpladePooling"),
    (lambda f: change_module(f, 1, path="../1_Pooling"), "the path '../1_Pooling'"),
    (lambda f: change_module(f, 1, path=3), "a type and a path"),
    (lambda f: (f / "modules.json").write_text("{}"), "expected an array"),
    (lambda f: (f / "modules.json").write_text("[]"), "got 0 modules"),
    (lambda f: change(f / "1_Pooling/config.json", pooling_mode="median"), "pooling_mode: got 'median'"),
    (lambda f: change(f / "1_Pooling/config.json", pooling_mode=[]), "pooling_mode"),
    (lambda f: change(f / "1_Pooling/config.json", embedding_dimension=999), "999, expected"),
    (lambda f: change(f / "1_Pooling/config.json", pooling_mode_median=True), "the setting 'pooling_mode_median'"),
    (lambda f: change(f / "1_Pooling/config.json", include_prompt="no"), "include_prompt"),
    (lambda f: change(f / "2_Dense/config.json", activation_function="torch.nn.modules.activation.Mish"), "Mish"),
    (lambda f: change(f / "2_Dense/config.json", activation_function="my_code.Tanh"), "my_code.Tanh"),
    (lambda f: change(f / "2_Dense/config.json", module_input_name="token_embeddings"), "module_input_name 'token_embeddings'"),
    (lambda f: change(f / "2_Dense/config.json", in_features=999), "in_features: got 999"),
    (lambda f: change(f / "2_Dense/config.json", out_features=6), "linear.bias|linear.weight"),
    (lambda f: change(f / "2_Dense/config.json", out_features=True), "out_features"),
    (lambda f: change(f / "2_Dense/config.json", bias=False), "linear.bias"),
    (lambda f: change(f / "2_Dense/config.json", bias=1), "true or false"),
    (lambda f: (f / "2_Dense/model.safetensors").unlink(), "got none"),
    (lambda f: (f / "2_Dense/model.safetensors").rename(f / "2_Dense/pytorch_model.bin"), "never opened.*save_pretrained"),
    (lambda f: change(f / "3_Normalize/config.json", module_input_name="token_embeddings"), "token_embeddings"),
    (lambda f: change(f / "sentence_bert_config.json", transformer_task="fill-mask"), "transformer_task: got 'fill-mask'"),
    (lambda f: change(f / "sentence_bert_config.json", modality_config={"text": {"method": "forward"}}), "modality_config"),
    (lambda f: change(f / "sentence_bert_config.json", max_seq_length=True), "max_seq_length"),
    (lambda f: change(f / "sentence_bert_config.json", max_seq_length=2), "max_seq_length"),
    (lambda f: change(f / "sentence_bert_config.json", do_lower_case=1), "do_lower_case"),
    (lambda f: change(f / "sentence_bert_config.json", window=3), "the setting 'window'"),
    (lambda f: change(f / "sentence_bert_config.json", config_args={"position_embedding_type": "x"}), "position_embedding_type"),
    (lambda f: change(f / "config_sentence_transformers.json", default_prompt_name="x"), "default_prompt_name: got 'x'"),
    (lambda f: change(f / "config_sentence_transformers.json", prompts={"a": 3}), "prompts"),
    (lambda f: change(f / "config_sentence_transformers.json", model_type="SparseEncoder"), "SparseEncoder"),
    (lambda f: change(f / "config_sentence_transformers.json", truncate_dim=0), "truncate_dim"),
    (lambda f: change(f / "tokenizer_config.json", truncation_side="both"), "truncation_side"),
    (lambda f: change(f / "tokenizer_config.json", padding_side="left"), "padding_side: got 'left'.*depends on which"),
]


@pytest.mark.parametrize(("damage", "told"), REFUSALS, ids=[told for _, told in REFUSALS])
def test_what_cannot_be_computed_is_refused_by_its_name(folder, damage, told):
    damage(folder)
    with pytest.raises(CheckpointError, match=told) as caught:
        bc.load(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"prompt": "a", "prompt_name": "query"}, "both"),
        ({"prompt": 3}, "prompt: got int"),
        ({"prompt_name": "nothing"}, "got 'nothing', expected one that the model's folder has: 'query', 'document'"),
        ({"max_length": 2}, "at least 3"),
        ({"max_length": 4.5}, "max_length: got 4.5, no whole number"),
        ({"max_length": "9"}, "max_length: got '9', no whole number, expected at least 3"),
        ({"batch_size": "8"}, "batch_size: got '8', no whole number"),
        ({"batch_size": True}, "batch_size: got True, no whole number"),
        ({"batch_tokens": 0}, "batch_tokens: got 0, expected at least 1"),
    ],
)
def test_wrong_options_get_one_clear_message(folder, options, told):
    with pytest.raises(InputError, match=told):
        bc.load(folder).encode(["cat"], **options)


@pytest.mark.parametrize("texts, told", [
    (None, "got NoneType, expected a text or a list of texts"), (3, "got int, expected"), (b"cat", "got bytes, expected"),
    ({"cat": 1}, "got dict"), ({"cat"}, "got set"), (np.array("cat"), "got ndarray"),
    (["cat", None], "text number 2: got NoneType"), (["cat", "do\ud800g"], "text number 2 holds half a character"),
], ids=str)  # fmt: skip
def test_what_is_no_list_of_texts_gets_one_clear_message(folder, texts, told):
    model = bc.load(folder)
    for read in (model.encode, lambda texts: tokenize(model, texts)):
        with pytest.raises(InputError, match=told):
            read(texts)


def test_texts_come_as_people_have_them(folder):
    model, texts = bc.load(folder), ["cat", "the dog sat"]
    expected = model.encode(texts)
    arrays = np.array(texts), np.array(texts, object)
    for given in (tuple(texts), iter(texts), (text for text in texts), {}.fromkeys(texts).keys(), *arrays):
        np.testing.assert_array_equal(model.encode(given), expected)
    np.testing.assert_allclose(model.encode(np.str_("cat")), expected[0], atol=1e-5)
    np.testing.assert_allclose(model.encode(texts, batch_size=np.int64(1), max_length=np.int32(9)), expected, atol=1e-5)


def test_a_prompt_that_leaves_nothing_to_pool_is_refused(base, tmp_path):
    """ "car" is two tokens, "card" is one: sentence-transformers gives zeros for it."""
    pooling = M.Pooling(width(base), include_prompt=False)
    folder = saved(theirs(base, pooling), tmp_path / "theirs")
    with pytest.raises(InputError, match="text number 2: the prompt leaves no token"):
        bc.load(folder).encode([" the cat", "d"], prompt="car")


def test_the_command_line_encodes_what_the_folder_says(folder, tmp_path):
    import subprocess

    (tmp_path / "texts.txt").write_text("the cat sat\nthe big dog\n")
    command = [sys.executable, "-m", "bertcraft.cli", "encode", folder, tmp_path / "texts.txt", "-o", tmp_path / "v.npy"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    expected = SentenceTransformer(str(folder), device="cpu").encode(["the cat sat", "the big dog"])
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-5)


# ------------------------------------------------------------------------------------- what tokenizers' files say and do not say


def copied(base: Path, folder: Path, **encoder) -> Path:
    """The base with a pooling beside it."""
    shutil.copytree(base, folder)
    (folder / "1_Pooling").mkdir()
    change(folder / "1_Pooling/config.json", word_embedding_dimension=width(base), pooling_mode_mean_tokens=True)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    change(folder / "sentence_bert_config.json", **{"max_seq_length": LONGEST, "do_lower_case": False, **encoder})
    return folder


SILENT = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")


@pytest.mark.parametrize("missing", [True, False])
def test_a_tokenizer_config_that_is_silent_has_the_defaults_of_transformers(base, tmp_path, missing):
    """tokenizer.json is cased; a BERT's class lowers all the same."""
    folder = copied(base, tmp_path / "folder")
    content = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").unlink()
    if not missing:
        change(folder / "tokenizer_config.json", **{name: value for name, value in content.items() if name not in SILENT})
    assert_equal(folder, ["THE CAT", "Cat s\u00e0t"])
    np.testing.assert_array_equal(bc.load(folder).encode("THE CAT"), bc.load(folder).encode("the cat"))


def test_sides_that_only_tokenizer_json_has_count(base, tmp_path):
    folder = saved(theirs(base, M.Pooling(width(base))), tmp_path / "right")
    for side, told in (("truncation_side", None), ("padding_side", "padding_side: got 'left'")):
        their = SentenceTransformer(str(folder), device="cpu")
        setattr(their.tokenizer, side, "left")
        their.encode([TEXTS[1] + "query"])  # writes the side into the tokenizer that is saved
        other = saved(their, tmp_path / side)
        assert side not in json.loads((other / "tokenizer_config.json").read_text())
        if told:
            with pytest.raises(CheckpointError, match=told):
                bc.load(other)
        else:
            assert_equal(other, [TEXTS[1] + "query", "cat"])


@pytest.mark.parametrize("place", ["added_tokens.json", "added_tokens_decoder"])
def test_added_tokens_beside_a_vocabulary_count(base, tmp_path, place):
    folder, number = copied(base, tmp_path / "folder"), len(VOCABULARY)
    network = make("bert", "base", 3, torch.float32, vocab_size=number + 1, max_position_embeddings=40, pad_token_id=0)
    network.save_pretrained(folder)
    (folder / "tokenizer.json").unlink()
    if place == "added_tokens.json":
        change(folder / place, xyzzy=number)
    else:
        names = ("lstrip", "rstrip", "single_word", "normalized", "special")
        token = {"content": "xyzzy"} | dict.fromkeys(names, False)
        change(folder / "tokenizer_config.json", added_tokens_decoder={number: token})
    assert bc.load(folder).tokenizer.encode("the xyzzy").ids[2] == number
    assert_equal(folder, ["the xyzzy cat"])
    change(folder / "added_tokens.json", plugh=number + 7)
    change(folder / "tokenizer_config.json", added_tokens_decoder={})
    with pytest.raises(DataError, match=f"'plugh' has the id {number + 7}, but the next free one is"):
        _ = bc.load(folder).tokenizer


def test_a_vocabulary_of_mpnet_has_its_special_tokens(tmp_path):
    words = ["<s>", "<pad>", "</s>", "<unk>", *VOCABULARY, "<mask>"]
    network = make("mpnet", "base", 3, torch.float32, vocab_size=len(words), max_position_embeddings=40)
    base = tmp_path / "base"
    network.save_pretrained(base)
    (base / "vocab.txt").write_text("\n".join(words) + "\n")
    folder = copied(base, tmp_path / "folder")
    around = bc.load(folder).tokenizer.encode("the cat").tokens
    assert around == ["<s>", "the", "cat", "</s>"]
    assert_equal(folder, ["the cat", "a big dog ran"])


def test_a_deberta_without_positions_is_cut_where_the_folder_says(base, tmp_path):
    options = {"max_position_embeddings": 16, "position_biased_input": False, "relative_attention": True, "pad_token_id": 0}
    make("deberta-v2", "base", 3, torch.float32, vocab_size=len(VOCABULARY), **options).save_pretrained(tmp_path / "base")
    for name in ("tokenizer.json", "vocab.txt"):
        shutil.copy(base / name, tmp_path / "base" / name)
    change(tmp_path / "base/tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", pad_token="[PAD]")
    folder = copied(tmp_path / "base", tmp_path / "folder", max_seq_length=30)
    text, model = "the cat sat on a mat " * 4, bc.load(folder)
    assert_equal(folder, [text, "cat"])
    assert not np.allclose(model.encode(text), model.encode(text, max_length=16), atol=1e-3)


def test_a_plain_folder_is_cut_where_its_tokenizer_says(base, tmp_path):
    """Padding in front changes nothing: its vector is a mean that no padding enters."""
    shutil.copytree(base, tmp_path / "plain")
    for changes in ({"model_max_length": 8}, {"truncation_side": "left"}, {"padding_side": "left"}):
        change(tmp_path / "plain/tokenizer_config.json", **changes)
        expected = SentenceTransformer(str(tmp_path / "plain"), device="cpu").encode([TEXTS[1] + "query"])
        got = bc.load(tmp_path / "plain").encode([TEXTS[1] + "query"], normalize=False)
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_cross_encoder_is_the_classifier_that_it_holds(base, tmp_path):
    from sentence_transformers import CrossEncoder

    network = make("bert", "sequence_classification", 3, torch.float32, vocab_size=len(VOCABULARY), num_labels=3)
    network.save_pretrained(tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(base / name, tmp_path / "base" / name)
    CrossEncoder(str(tmp_path / "base"), device="cpu").save_pretrained(str(tmp_path / "crossed"))
    assert (tmp_path / "crossed/modules.json").exists(), "as versions from 6 on write it"
    ids = np.array([[2, 5, 6, 3]])
    model = bc.load(tmp_path / "crossed")
    with torch.no_grad():
        expected = network.eval()(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(model(ids).logits, expected, atol=1e-5)
    model.save(tmp_path / "again")
    assert not (tmp_path / "again/modules.json").exists()


@pytest.mark.parametrize("normalizer", ["sequence", "accents"])
def test_a_tokenizer_that_was_set_is_saved_so_that_transformers_gives_its_ids(base, tmp_path, normalizer):
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from transformers import AutoTokenizer

    model, folder = bc.load(copied(base, tmp_path / "folder")), tmp_path / "again"
    own = Tokenizer.from_file(str(base / "tokenizer.json"))
    own.no_truncation()
    own.no_padding()
    if normalizer == "sequence":
        own.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()])
        own.pre_tokenizer = pre_tokenizers.Whitespace()
    else:
        own.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    model.tokenizer, model.pipeline = own, replace(model.pipeline, truncation_side="left")
    model.save(folder)
    text = "The C\u00c0T, c\u00e0r " + "the cat sat " * 9
    assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"][1:4] == own.encode(text).ids[1:4]
    again = SentenceTransformer(str(folder), device="cpu").encode([text])
    np.testing.assert_allclose(model.encode([text]), again, atol=1e-5)
    np.testing.assert_array_equal(bc.load(folder).encode([text]), model.encode([text]))


def test_files_of_another_tokenizer_do_not_stay_in_the_folder(base, tmp_path):
    folder = copied(base, tmp_path / "folder")
    (folder / "tokenizer.json").unlink()
    model = bc.load(folder)
    shutil.copytree(base, tmp_path / "again")
    change(tmp_path / "again/added_tokens.json", plugh=3)
    model.save(tmp_path / "again")
    assert {"tokenizer.json", "added_tokens.json"}.isdisjoint(path.name for path in (tmp_path / "again").iterdir())
    np.testing.assert_array_equal(bc.load(tmp_path / "again").encode(TEXTS), model.encode(TEXTS))


def test_a_text_that_names_the_padding_token_of_a_roberta(tmp_path):
    """transformers does not count it as a position."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word: number for number, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *WORDS, "<mask>"])}
    own = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    own.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    own.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    network = make("roberta", "base", 3, torch.float32, vocab_size=len(words), max_position_embeddings=40, pad_token_id=1)
    network.save_pretrained(tmp_path / "model")
    model = bc.load(tmp_path / "model")
    model.tokenizer = own
    ids = torch.tensor([own.encode("the <pad> cat").ids])
    with torch.no_grad():
        states = network(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    np.testing.assert_allclose(model.encode("the <pad> cat", normalize=False), states[0].mean(0).numpy(), atol=1e-5)


def test_a_prompt_of_half_a_character_gets_one_clear_message(folder):
    with pytest.raises(InputError, match="the prompt holds half a character"):
        bc.load(folder).encode("cat", prompt="\ud800 ")


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bert", {"truncation_side": "left", "model_max_length": 20}), ("bert", {"max_len": 20}),
        ("bert", {"padding_side": "left", "model_max_length": 20}), ("deberta-v2", {}),
    ],
)  # fmt: skip
def test_a_classifier_cuts_texts_as_transformers_does(base, tmp_path, family, changes):
    """A DeBERTa without positions has no longest text, where its tokenizer says none."""
    from transformers import pipeline

    from bertcraft.lab.compare import classifier
    from bertcraft.lab.finetune import predict

    own = {"position_biased_input": False, "relative_attention": True, "pad_token_id": 0} if family == "deberta-v2" else {}
    options = {"vocab_size": len(VOCABULARY), "num_labels": 3, "max_position_embeddings": 30, **own}
    make(family, "sequence_classification", 3, torch.float32, **options).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "vocab.txt"):
        shutil.copy(base / name, tmp_path / name)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    change(tmp_path / "tokenizer_config.json", **settings, **changes)
    texts = ["the cat sat on a mat while a big dog ran " * 4, "cat"]
    theirs = pipeline("text-classification", str(tmp_path), top_k=None)(texts, truncation=True)
    expected = [[score["score"] for score in sorted(each, key=lambda each: each["label"])] for each in theirs]
    np.testing.assert_allclose(predict(classifier(tmp_path), texts), expected, atol=1e-5)
