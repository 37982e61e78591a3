"""Config reads what transformers writes, writes what it reads, and refuses the rest in one sentence."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcraft.bert.config import Config
from bertcraft.bert.config_tables import (
    ACTIVATIONS,
    ARCHITECTURES,
    DEFAULTS,
    FAMILIES,
    FIELDS,
    FIXED,
    KEYS,
    MODEL_TYPES,
    UNWRITTEN,
)
from bertcraft.errors import CheckpointError, InputError

sys.path.insert(0, str(Path(__file__).parent))
from transformers_models import ALL_PAIRS, OTHER_NAMES, PAIRS, class_name

CONFIG_CLASSES = {name: transformers.CONFIG_MAPPING[name] for name in MODEL_TYPES}


@st.composite
def odd_settings(draw, model_type: str, head: str = "base") -> dict:
    """Valid settings of a small model under BERT's names, each different from the default where it can be."""
    rate = st.floats(0, 0.9)
    heads = draw(st.integers(1, 5))
    settings = {
        "vocab_size": draw(st.integers(4, 40)),
        "hidden_size": heads * draw(st.integers(1, 5)),
        "num_hidden_layers": draw(st.integers(1, 4)),
        "num_attention_heads": heads,
        "intermediate_size": draw(st.integers(1, 17)),
        "max_position_embeddings": draw(st.integers(6, 19)),
        "type_vocab_size": draw(st.integers(1, 3)),
        "embedding_size": draw(st.integers(1, 12)),
        "num_hidden_groups": draw(st.integers(1, 3)),
        "inner_group_num": draw(st.integers(1, 3)),
        "hidden_act": draw(st.sampled_from(ACTIVATIONS)),
        "hidden_dropout_prob": draw(rate),
        "attention_probs_dropout_prob": draw(rate),
        "classifier_dropout": draw(rate),
        "qa_dropout": draw(rate),
        "summary_type": draw(st.sampled_from(["first", "last", "mean"])),
        "summary_use_proj": draw(st.booleans()),
        "summary_activation": draw(st.sampled_from(["gelu", "tanh"])),
        "summary_last_dropout": draw(rate),
        "layer_norm_eps": draw(st.sampled_from([1e-12, 1e-5, 0.1])),
        "initializer_range": draw(st.floats(1e-3, 1)),
        "sinusoidal_pos_embds": draw(st.booleans()),
        "relative_attention": draw(st.booleans()),
        "pos_att_type": draw(st.sampled_from([None, (), ("c2p",), ("p2c", "c2p")])),
        "max_relative_positions": draw(st.integers(6, 9)),
        "position_biased_input": draw(st.booleans()),
        "pooler_dropout": draw(rate),
        "pooler_hidden_act": draw(st.sampled_from(ACTIVATIONS)),
        "legacy": draw(st.booleans()),
        "pad_token_id": draw(st.integers(0, 3)),
        "tie_word_embeddings": draw(st.booleans()),
        "problem_type": draw(st.sampled_from([None, "regression", "multi_label_classification"])),
        "num_labels": 2 if head == "question_answering" else draw(st.integers(1, 5)),
    }
    if model_type == "deberta-v2":
        settings |= {
            "position_buckets": draw(st.integers(2, 9)),
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "conv_kernel_size": draw(st.sampled_from([3, 5])),
            **({"conv_groups": heads} if heads > 1 else {}),  # what is as usual is not written
            "conv_act": draw(st.sampled_from([act for act in ACTIVATIONS if act != "tanh"])),
            "num_hidden_layers": draw(st.integers(2, 4)),
        }
    family = OTHER_NAMES.get(model_type, model_type)
    settings |= FIXED.get(family, {})
    return {name: value for name, value in settings.items() if name in (*FIELDS[family], "num_labels")}


def theirs(family: str, settings: dict) -> transformers.PreTrainedConfig:
    keys = KEYS.get(OTHER_NAMES.get(family, family), {})
    settings = {name: [*value] if isinstance(value, tuple) else value for name, value in settings.items()}
    return CONFIG_CLASSES[family](**{keys.get(name, name): value for name, value in settings.items()})


@pytest.mark.parametrize(("family", "head"), ALL_PAIRS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_reads_and_writes_every_setting_of_transformers(family, head, data):
    wanted = data.draw(odd_settings(family, head))
    original = theirs(family, wanted)
    original.architectures = [class_name(family, head)]
    written = json.loads(original.to_json_string(use_diff=False))

    config = Config.from_dict(written)
    assert (config.model_type, config.head, config.architecture) == (family, head, class_name(family, head))
    assert config.family == OTHER_NAMES.get(family, family)
    for name, value in wanted.items():
        assert getattr(config, name) == value, name

    back = CONFIG_CLASSES[family].from_dict(json.loads(json.dumps(config.to_dict())))
    assert back.to_dict() == original.to_dict() | {"dtype": None} | extra_keys(back, original)
    assert Config.from_dict(config.to_dict()) == config


def extra_keys(back, original) -> dict:
    """position_embedding_type, which transformers 4 wrote and 5 keeps as an unknown key: "absolute"."""
    assert getattr(back, "position_embedding_type", "absolute") == "absolute"
    return {key: back.to_dict()[key] for key in back.to_dict().keys() - original.to_dict().keys()}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_setting_left_out_has_the_default_of_transformers(model_type):
    config, default = Config.from_dict({"model_type": model_type}), CONFIG_CLASSES[model_type]()
    family = OTHER_NAMES.get(model_type, model_type)
    for name in FIELDS[family]:
        if name != "position_embedding_type" and name not in UNWRITTEN.get(family, ()):
            assert getattr(config, name) == getattr(default, config.key(name)), name
    assert config == Config(family=family, model_type=model_type)


def test_another_name_belongs_to_its_family():
    assert Config(family="bert").model_type == "bert"
    with pytest.raises(InputError, match="model_type: got 'camembert', expected one of bert$"):
        Config(family="bert", model_type="camembert")
    with pytest.raises(InputError, match="model_type: got 'x', expected one of roberta, xlm-roberta, camembert"):
        Config(family="roberta", model_type="x")


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_unknown_keys_survive(model_type):
    unknown = {
        "gradient_checkpointing": False,
        "sentence_transformers": {"version": [1, None]},
        "é": "\ud800",
    }
    config = Config.from_dict({"model_type": model_type, "torch_dtype": "float16", **unknown})
    assert config.extra == unknown
    written = json.loads(json.dumps(config.to_dict()))
    assert unknown.items() <= written.items() and "torch_dtype" not in written


def test_distilberts_sizes_are_read_under_both_names_and_nothing_else_is():
    content = {
        "model_type": "distilbert",
        "hidden_size": 24,
        "num_attention_heads": 3,
        "dim": 24,
        "hidden_act": 1,
    }
    config = Config.from_dict(content)
    theirs = CONFIG_CLASSES["distilbert"].from_dict(content)
    assert (config.hidden_size, config.num_attention_heads) == (theirs.dim, theirs.n_heads) == (24, 3)
    assert config.hidden_act == theirs.activation == "gelu" and config.extra == {"hidden_act": 1}
    assert "hidden_size" not in config.to_dict()


def test_the_tensors_decide_the_head_that_architectures_leave_open():
    for family, head in PAIRS:
        names = {
            "base": ["encoder.layer.0.output.dense.weight"],
            "masked_lm": [
                "cls.predictions.bias", "lm_head.bias", "generator_predictions.dense.bias",
                "vocab_transform.bias", "predictions.bias",
            ],
            "sequence_classification": [
                "classifier.weight", "classifier.dense.weight", "pre_classifier.weight", "pooler.dense.weight",
            ],
            "token_classification": ["classifier.weight"],
            "question_answering": ["qa_outputs.weight"],
            "replaced_token_detection": ["discriminator_predictions.dense.bias"],
            "pretraining": [
                "cls.predictions.bias", "cls.seq_relationship.bias", "predictions.bias",
                "sop_classifier.classifier.bias",
            ],
        }[head]  # fmt: skip
        for content in ({"model_type": family}, {"model_type": family, "architectures": None}):
            if family in ("bert", "albert") and head == "sequence_classification":  # one of tokens may have a pooler, too
                with pytest.raises(CheckpointError, match="ForSequenceClassification or .*ForTokenClassification: the weights"):
                    Config.from_dict(content, names)
            else:
                assert Config.from_dict(content, names).head == head
        named = Config.from_dict({"model_type": family, "architectures": [class_name(family, head)]}, names)
        assert named.head == head
        if head != "base":
            with pytest.raises(CheckpointError, match=r"config\.json: architectures: .*they hold no tensor"):
                Config.from_dict({"model_type": family, "architectures": [class_name(family, head)]}, ["x"])


def test_a_base_model_saved_without_its_pooler_is_seen():
    content = {"model_type": "bert", "architectures": ["BertModel"]}
    assert Config.from_dict(content).add_pooling_layer
    assert Config.from_dict(content, ["embeddings.x", "pooler.dense.bias"]).add_pooling_layer
    assert Config.from_dict(content, ["bert.embeddings.x", "bert.pooler.dense.bias"]).add_pooling_layer
    assert not Config.from_dict(content, ["embeddings.x"]).add_pooling_layer


def test_labels_are_kept_and_default_ones_follow_their_number():
    labels = {"0": "no", "1": "maybe", "2": "yes"}
    config = Config.from_dict({"model_type": "bert", "id2label": labels, "label2id": {"no": 0, "maybe": 1, "yes": 2}})
    assert (config.num_labels, config.labels, config.label2id) == (3, ("no", "maybe", "yes"), None)
    assert config.to_dict()["id2label"] == labels and config.to_dict()["label2id"] == {
        "no": 0,
        "maybe": 1,
        "yes": 2,
    }
    plain = Config.from_dict({"model_type": "bert", "num_labels": 3})
    assert plain.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert dataclasses.replace(plain, num_labels=1).labels == ("LABEL_0",)
    assert "id2label" not in Config(family="bert").to_dict()
    with pytest.raises(InputError, match="id2label: .*from 0 to 3"):
        dataclasses.replace(config, num_labels=4)


def test_label_tables_that_transformers_opens_are_read():
    names = {"0": "no", "1": "yes"}
    for content, labels, ids in (
        ({"id2label": names, "label2id": {"no": "0", "yes": "1"}}, ("no", "yes"), None),
        ({"id2label": names, "label2id": {"no": 0, "yes": 1, "more": 2}}, ("no", "yes"), None),
        ({"id2label": names, "label2id": {"no": -1, "yes": 1}}, ("no", "yes"), None),
        ({"id2label": {"0": 5, "1": 7}}, ("5", "7"), None),
        ({"id2label": names, "label2id": {"no": 1, "yes": 0}}, ("no", "yes"), {"no": 1, "yes": 0}),
    ):
        config = Config.from_dict({"model_type": "bert", **content})
        assert (config.labels, config.label2id) == (labels, ids)


def test_a_masked_lm_of_deberta_with_both_heads_takes_the_one_that_transformers_takes():
    content = {"model_type": "deberta-v2", "architectures": ["DebertaV2ForMaskedLM"]}
    own, theirs = "lm_predictions.lm_head.bias", "cls.predictions.bias"
    for names, legacy in (([own], False), ([theirs], True), ([own, theirs], True)):
        assert Config.from_dict(content, names).legacy is legacy


def test_gelu_has_another_name():
    assert Config.from_dict({"model_type": "bert", "hidden_act": "gelu_python"}).hidden_act == "gelu_python"


def test_a_config_cannot_be_changed_and_a_copy_is_validated():
    config = Config(family="bert", hidden_size=12, num_attention_heads=3)
    assert (config.embedding_size, config.head_size) == (12, 4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.hidden_size = 24
    with pytest.raises(InputError, match=r"num_attention_heads: got 5, expected a divisor of hidden_size.* 12"):
        dataclasses.replace(config, num_attention_heads=5)
    with pytest.raises(InputError, match="embedding_size: got 12, expected 24: bert does not have this setting"):
        dataclasses.replace(config, hidden_size=24)


REFUSED = [
    (
        "bert", {"model_type": "gpt2"},
        r"model_type: got 'gpt2', expected one of bert, roberta, roberta-prelayernorm, electra, distilbert, alb",
    ),
    ("bert", {"model_type": None}, "model_type: got None"),
    ("bert", {"model_type": ["bert"]}, r"model_type: got \['bert'\]"),
    (
        "bert", {"architectures": ["BertForMultipleChoice"]},
        "architectures: .*expected one of BertModel, BertForM",
    ),
    ("bert", {"architectures": ["RobertaModel"]}, "architectures"),
    ("bert", {"architectures": "BertModel"}, "architectures"),
    ("bert", {"architectures": ["BertModel", "BertModel"]}, "architectures"),
    ("bert", {"architectures": [["BertModel"]]}, "architectures"),
    ("bert", {"vocab_size": -1}, "vocab_size: got -1, expected an integer from 1 to 2147483647"),
    ("bert", {"vocab_size": 0}, "vocab_size: got 0"),
    ("bert", {"vocab_size": 30522.0}, "vocab_size: got 30522.0, expected an integer"),
    ("bert", {"vocab_size": True}, "vocab_size: got True"),
    ("bert", {"vocab_size": "30522"}, "vocab_size: got '30522'"),
    ("bert", {"vocab_size": None}, "vocab_size: got None"),
    ("bert", {"vocab_size": [30522]}, "vocab_size: got "),
    ("bert", {"vocab_size": 10**400}, r"vocab_size: got 1000+\.\.\.0+, expected"),
    (
        "bert", {"hidden_size": 770},
        r"num_attention_heads: got 12, expected a divisor of hidden_size, which is 770",
    ),
    (
        "bert", {"hidden_size": 768 * 1024, "intermediate_size": 2**31 - 1},
        "GiB in float32; expected at most 64 GiB",
    ),
    ("bert", {"num_hidden_layers": 1001}, "num_hidden_layers: got 1001, expected at most 1000 layers"),
    (
        "albert", {"num_hidden_groups": 100, "inner_group_num": 100},
        "num_hidden_layers: got 10000, expected at most",
    ),
    ("albert", {"num_hidden_layers": 10**6}, "num_hidden_layers"),
    ("albert", {"num_hidden_groups": 0}, "num_hidden_groups: got 0"),
    ("bert", {"hidden_act": "mish"}, "hidden_act: got 'mish', expected one of 'gelu', 'gelu_python', 'gelu_new'"),
    ("bert", {"hidden_act": ["gelu"]}, "hidden_act"),
    ("distilbert", {"activation": "mish"}, r"activation \(hidden_act\): got 'mish'"),
    (
        "distilbert", {"n_heads": 5},
        r"n_heads \(num_attention_heads\): got 5, expected a divisor of dim \(hidden_size\)",
    ),
    ("distilbert", {"dim": 6, "hidden_size": 12}, r"dim and hidden_size: got \[6, 12\]"),
    ("distilbert", {"sinusoidal_pos_embds": 0}, "sinusoidal_pos_embds: got 0, expected true or false"),
    ("bert", {"hidden_dropout_prob": 1.0}, "hidden_dropout_prob: got 1.0, expected a probability"),
    ("bert", {"hidden_dropout_prob": -0.1}, "hidden_dropout_prob"),
    ("bert", {"hidden_dropout_prob": float("nan")}, "hidden_dropout_prob: got nan"),
    ("bert", {"hidden_dropout_prob": "0.1"}, "hidden_dropout_prob"),
    ("bert", {"hidden_dropout_prob": None}, "hidden_dropout_prob: got None"),
    (
        "albert", {"classifier_dropout_prob": None},
        r"classifier_dropout_prob \(classifier_dropout\): got None",
    ),
    ("bert", {"layer_norm_eps": 0}, "layer_norm_eps: got 0, expected a number above 0"),
    ("bert", {"layer_norm_eps": float("inf")}, "layer_norm_eps: got inf"),
    ("bert", {"initializer_range": -0.02}, "initializer_range"),
    (
        "bert", {"position_embedding_type": "relative_key"},
        "position_embedding_type: got 'relative_key', .*'absolute'",
    ),
    ("bert", {"pad_token_id": 30522}, r"pad_token_id: got 30522, expected less than vocab_size \(30522\)"),
    ("bert", {"pad_token_id": -1}, "pad_token_id"),
    ("roberta", {"pad_token_id": None}, "pad_token_id: got None, expected a token id"),
    ("roberta", {"max_position_embeddings": 2}, "max_position_embeddings: got 2, expected at least 3"),
    ("mpnet", {"max_position_embeddings": 2}, "max_position_embeddings: got 2, expected at least 3"),
    ("mpnet", {"pad_token_id": 0}, "pad_token_id: got 0, expected 1: mpnet computes with it, whatever config.json says"),
    ("mpnet", {"pad_token_id": None}, "pad_token_id: got None, expected 1"),
    ("mpnet", {"relative_attention_num_buckets": 16}, "relative_attention_num_buckets: got 16, expected 32"),
    ("mpnet", {"relative_attention_num_buckets": 32.0}, "relative_attention_num_buckets: got 32.0, expected 32"),
    ("bert", {"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    ("bert", {"is_decoder": True}, "is_decoder: got True, expected none: only encoders"),
    ("bert", {"add_cross_attention": True}, "add_cross_attention"),
    ("bert", {"is_encoder_decoder": True}, "is_encoder_decoder"),
    ("bert", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
    ("bert", {"quantization_config": {"bits": 4}}, "quantization_config: .*save the model in float32"),
    ("bert", {"problem_type": "guess"}, "problem_type: got 'guess'"),
    (
        "bert", {"problem_type": "single_label_classification", "num_labels": 1},
        "num_labels: got 1, expected at least 2",
    ),
    ("bert", {"num_labels": 0}, "num_labels: got 0"),
    ("bert", {"num_labels": 2**31 - 1}, "num_labels: got 2147483647, expected at most 100000"),
    (
        "bert", {"num_labels": 3, "id2label": {"0": "a"}},
        "num_labels: got 3, expected 1, the number of labels",
    ),
    ("bert", {"id2label": {}}, "num_labels: got 0"),
    ("bert", {"id2label": {"1": "a", "2": "b"}}, "id2label: .*expected one label for each id from 0 to 1"),
    ("bert", {"id2label": {"0": "a", "01": "b"}}, "id2label"),
    ("bert", {"id2label": {"0": "a", "1": 7.5}}, "id2label: .*expected labels that are strings"),
    ("bert", {"id2label": ["a", "b"]}, "id2label"),
    ("bert", {"label2id": {"a": 2}}, "label2id: .*expected ids from 0 to 1"),
    ("bert", {"label2id": {"a": "x"}}, "label2id"), ("bert", {"label2id": [0]}, "label2id"),
    ("deberta", {"pos_att_type": "c2p|p2p"}, "pos_att_type: got .*expected 'c2p'"),
    ("deberta", {"pos_att_type": ["c2p", "c2p"]}, "pos_att_type"), ("deberta", {"pos_att_type": [["c2p"]]}, "pos_att_type"),
    ("deberta", {"pos_att_type": ""}, "pos_att_type"), ("deberta", {"pos_att_type": 3}, "pos_att_type: got 3"),
    ("deberta", {"relative_attention": 1}, "relative_attention: got 1, expected true or false"),
    ("deberta", {"max_relative_positions": -2}, "max_relative_positions: got -2, expected an integer from -1"),
    ("deberta", {"type_vocab_size": -1}, "type_vocab_size: got -1, expected an integer from 0"),
    ("deberta", {"talking_head": True}, "talking_head: got True, expected none"),
    ("deberta", {"position_buckets": 256}, "position_buckets: got 256, expected -1: only deberta-v2 has this setting"),
    ("deberta", {"embedding_size": 128}, "embedding_size: got 128, expected 768, which follows from hidden_size"),
    ("deberta", {"pooler_hidden_size": 12}, "pooler_hidden_size: got 12, expected 768"),
    ("deberta", {"max_relative_positions": 2**31 - 1}, "GiB in float32; expected at most 64 GiB"),
    ("deberta", {"architectures": ["DebertaForMultipleChoice"]}, "architectures: .*expected one of DebertaModel"),
    ("deberta-v2", {"architectures": ["DebertaModel"]}, "architectures: .*expected one of DebertaV2Model"),
    ("deberta-v2", {"attention_head_size": 32}, "attention_head_size: got 32, expected 64"),
    ("deberta-v2", {"position_buckets": 1}, "position_buckets: got 1, expected -1 for none, or 2 to 1021"),
    ("deberta-v2", {"position_buckets": 1022}, "position_buckets: got 1022"),
    ("deberta-v2", {"norm_rel_ebd": "batch_norm"}, "norm_rel_ebd: got 'batch_norm', expected one of 'none', 'layer_norm'"),
    ("deberta-v2", {"conv_kernel_size": 4}, "conv_kernel_size: got 4, expected 0, or an odd number"),
    ("deberta-v2", {"conv_kernel_size": 3, "num_hidden_layers": 1}, "conv_kernel_size: got 3"),
    ("deberta-v2", {"conv_groups": 5}, "conv_groups: got 5, expected a divisor of hidden_size, which is 1536"),
    ("deberta-v2", {"conv_kernel_size": 2**31 - 1}, "GiB in float32"),
    ("electra", {"embedding_size": 0}, "embedding_size: got 0"),
    ("electra", {"summary_type": 3}, "summary_type: got 3, expected a string"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "change", "message"), REFUSED, ids=[str(change)[:60] for _, change, _ in REFUSED])
def test_a_bad_setting_is_refused_in_one_line(family, change, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        Config.from_dict({"model_type": family} | change)
    text = str(caught.value)
    assert text.startswith("config.json: ") and "\n" not in text and len(text) < 400
    assert caught.value.__suppress_context__  # nothing from the depths is printed with it


@pytest.mark.parametrize("content", [[], "bert", 7, None, [{"model_type": "bert"}]])
def test_what_is_no_object_is_refused(content):
    with pytest.raises(CheckpointError, match=r"config\.json: got .*, expected a JSON object"):
        Config.from_dict(content)


@pytest.mark.parametrize(
    "arguments",
    [
        {"family": "gpt2"},
        {"family": "bert", "head": "multiple_choice"},
        {"family": "roberta", "head": "replaced_token_detection"},
        {"family": "bert", "head": ["base"]},
        {"family": "bert", "num_hidden_groups": 1},
        {"family": "distilbert", "type_vocab_size": 2},
        {"family": "mpnet", "type_vocab_size": 1},
        {"family": "mpnet", "classifier_dropout": 0.3},
        {"family": "bert", "relative_attention_num_buckets": 32},
        {"family": "distilbert", "layer_norm_eps": 1e-5},
        {"family": "bert", "head": "masked_lm", "add_pooling_layer": False},
        {"family": "bert", "extra": {"vocab_size": 3}},
        {"family": "bert", "extra": {"architectures": ["BertModel"]}},
        {"family": "bert", "extra": {1: 2}},
        {"family": "bert", "num_labels": None},
        {"family": "bert", "relative_attention": False},
        {"family": "bert", "head": "question_answering", "num_labels": 3},
    ],
    ids=str,
)
def test_a_config_made_by_hand_is_validated_too(arguments):
    with pytest.raises(InputError):
        Config(**arguments)


def test_the_tables_are_whole():
    assert tuple(ARCHITECTURES) == tuple(FIELDS) == FAMILIES
    assert DEFAULTS.keys() == MODEL_TYPES.keys() and {family for family, *_ in MODEL_TYPES.values()} == {*FAMILIES}
    names = {field.name for field in dataclasses.fields(Config)}
    for family in FAMILIES:
        assert set(FIELDS[family]) <= names
        assert all(hasattr(transformers, architecture) for architecture in ARCHITECTURES[family].values())
    assert all(defaults.keys() <= names for defaults in DEFAULTS.values())
