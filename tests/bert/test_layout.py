"""Names, shapes and first values of all parameters: those of transformers, for every family and head."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcraft.bert.config import Config
from bertcraft.bert.config_tables import TASK_HEADS
from bertcraft.bert.initialise import initial_params
from bertcraft.bert.layout import parameter_dims, parameter_shapes, pretraining_names, tied_parameters
from bertcraft.errors import InputError
from bertcraft.tensor import tree

sys.path.insert(0, str(Path(__file__).parent))
from test_config import odd_settings, theirs
from transformers_models import HEADS, OTHER_NAMES, PAIRS, class_name

DISTINCT = PAIRS + [(name, head) for name in ("deberta-v2", "roberta-prelayernorm") for head in HEADS[name]]


def family_of(model_type: str) -> dict:
    return {"family": OTHER_NAMES.get(model_type, model_type), "model_type": model_type}


def their_model(config: Config, wanted: dict, device: str = "meta"):
    with torch.device(device):
        return getattr(transformers, config.architecture)(theirs(config.model_type, wanted))


def full(name: str, config: Config) -> str:
    return f"{config.family}.{name}" if config.head == "base" else name


@pytest.mark.parametrize(("family", "head"), DISTINCT)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_names_and_shapes_are_those_of_transformers(family, head, data):
    wanted = data.draw(odd_settings(family, head))
    config = Config(**family_of(family), head=head, **wanted)
    state = {full(name, config): tuple(value.shape) for name, value in their_model(config, wanted).state_dict().items()}
    shapes, tied = parameter_shapes(config), tied_parameters(config)
    assert shapes | {name: shapes[parameter] for name, parameter in tied.items()} == state
    assert not shapes.keys() & tied.keys()
    tie = config.tie_word_embeddings and config.legacy is not False  # DeBERTa's other head has no matrix of its own
    assert bool(tied) == (tie and head in ("masked_lm", "pretraining"))
    tree.nest(shapes)  # no name is both a leaf and a branch


@pytest.mark.parametrize(("family", "head"), PAIRS)
def test_tied_parameters_are_one_tensor_in_transformers(family, head):
    wanted = {"vocab_size": 11, "hidden_size": 6, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = Config(family=family, head=head, **wanted)
    model = their_model(config, wanted, "cpu")
    for name, parameter in tied_parameters(config).items():
        assert model.get_parameter(name) is model.get_parameter(parameter)
    theirs = {full(name, config) for name, _ in model.named_parameters()}  # each tensor once
    assert theirs == parameter_shapes(config).keys()


@pytest.mark.parametrize(("family", "head"), PAIRS)
def test_dimensions_name_the_settings_they_come_from(family, head):
    sizes = {
        "vocab_size": 11,
        "hidden_size": 6,
        "intermediate_size": 7,
        "max_position_embeddings": 13,
        "num_labels": 2 if head == "question_answering" else 5,
    }
    config = Config(family=family, head=head, num_attention_heads=2, num_hidden_layers=1, **sizes)
    shapes = parameter_shapes(config)
    for name, dims in parameter_dims(config).items():
        for dim, size in zip(dims, shapes[name], strict=True):
            assert size == (getattr(config, dim) if isinstance(dim, str) else dim)
            assert isinstance(dim, str) or dim in (1, 2)


def test_dimensions_that_follow_from_two_settings_are_said_in_words():
    config = Config(family="deberta", model_type="deberta-v2", position_buckets=256, conv_kernel_size=3)
    assert config.key("relative_rows").startswith("2 * position_buckets") and config.relative_rows == 512


def test_a_base_model_can_lack_its_pooler():
    config = Config(family="bert", num_hidden_layers=1)
    without = parameter_shapes(replace(config, add_pooling_layer=False))
    pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert without.keys() == parameter_shapes(config).keys() - pooler


@pytest.mark.parametrize(("family", "head"), PAIRS)
def test_what_pretraining_may_leave_behind_is_no_classifier(family, head):
    config = Config(family=family, head=head, num_hidden_layers=1)
    names = pretraining_names(config)
    assert not any(name.startswith(("classifier.", "pre_classifier.", "qa_outputs.")) for name in names)
    assert {name for name in names if name.startswith(f"{family}.")} >= {
        name for name in parameter_shapes(config) if name.startswith(f"{family}.")
    }
    if head not in TASK_HEADS:
        assert names >= parameter_shapes(config).keys() | tied_parameters(config).keys()


LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
ROBERTA = {"family": "roberta", "max_position_embeddings": 514, "type_vocab_size": 1}
QUARTER = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}
BASE = {"embedding_size": 768, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
RTD = "replaced_token_detection"
DISENTANGLED = {"relative_attention": True, "pos_att_type": ("c2p", "p2c"), "position_biased_input": False}
V3 = {
    "family": "deberta", "model_type": "deberta-v2", **DISENTANGLED, "position_buckets": 256, "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
}  # fmt: skip
PUBLISHED = [
    ("BERT-base uncased", 109_482_240, {"family": "bert"}),
    ("BERT-base, both heads", 110_106_428, {"family": "bert", "head": "pretraining"}),
    ("BERT-base cased", 108_310_272, {"family": "bert", "vocab_size": 28996}),
    ("BERT-large", 335_141_888, {"family": "bert", **LARGE}),
    ("BERT-large, both heads", 336_226_108, {"family": "bert", "head": "pretraining", **LARGE}),
    ("RoBERTa-base", 124_645_632, ROBERTA),
    ("RoBERTa-base, MLM", 124_697_433, {**ROBERTA, "head": "masked_lm"}),
    ("RoBERTa-large", 355_359_744, {**ROBERTA, **LARGE}),
    ("RoBERTa-large, MLM", 355_412_057, {**ROBERTA, **LARGE, "head": "masked_lm"}),
    ("DistilBERT", 66_362_880, {"family": "distilbert"}),
    ("DistilBERT, MLM", 66_985_530, {"family": "distilbert", "head": "masked_lm"}),
    ("ELECTRA-small discriminator", 13_549_057, {"family": "electra", "head": RTD}),
    (
        "ELECTRA-small generator, quarter width",
        4_620_026,
        {
            "family": "electra",
            "head": "masked_lm",
            "hidden_size": 64,
            "num_attention_heads": 1,
            "intermediate_size": 256,
        },
    ),
    ("ELECTRA-small generator, released", 13_546_682, {"family": "electra", "head": "masked_lm"}),
    ("ELECTRA-base discriminator", 109_483_009, {"family": "electra", "head": RTD, **BASE}),
    (
        "ELECTRA-base generator", 33_740_602,
        {"family": "electra", "head": "masked_lm", "embedding_size": 768, **QUARTER},
    ),
    (
        "ELECTRA-large discriminator", 335_142_913,
        {"family": "electra", "head": RTD, "embedding_size": 1024, **LARGE},
    ),
    (
        "ELECTRA-large generator",
        51_295_290,
        {
            "family": "electra",
            "head": "masked_lm",
            "embedding_size": 1024,
            **QUARTER,
            "num_hidden_layers": 24,
        },
    ),
    (
        "ALBERT-base", 11_683_584,
        {"family": "albert", "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    ),
    ("ALBERT-large", 17_683_968, {"family": "albert", **LARGE}),
    (
        "ALBERT-xlarge", 58_724_864,
        {"family": "albert", **LARGE, "hidden_size": 2048, "intermediate_size": 8192},
    ),
    ("ALBERT-xxlarge", 222_595_584, {"family": "albert"}),
    ("MPNet-base, all-mpnet-base-v2", 109_486_464, {"family": "mpnet", "max_position_embeddings": 514}),
    ("DeBERTa-base", 138_601_728, {"family": "deberta", **DISENTANGLED}),
    ("DeBERTa-large", 405_163_008, {"family": "deberta", **DISENTANGLED, **LARGE}),
    ("DeBERTa-v3-base", 183_831_552, {**V3, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
                                      "intermediate_size": 3072}),
    ("DeBERTa-v2-xxlarge", 1_564_549_632, {**V3, "num_hidden_layers": 48, "conv_kernel_size": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("count", "arguments"), [row[1:] for row in PUBLISHED], ids=[row[0] for row in PUBLISHED])
def test_the_published_models_have_their_number_of_parameters(count, arguments):
    assert sum(math.prod(shape) for shape in parameter_shapes(Config(**arguments)).values()) == count


@pytest.mark.parametrize(("family", "head"), PAIRS)
def test_initial_values_are_those_of_transformers_or_drawn_with_the_deviation(family, head):
    wanted = {
        "vocab_size": 211,
        "hidden_size": 60,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 70,
        "max_position_embeddings": 50,
        "pad_token_id": 1 if family == "mpnet" else 3,
        "initializer_range": 0.3,
    }
    config = Config(family=family, head=head, **wanted)
    params = dict(tree.items(initial_params(config, seed=5, deviation=config.initializer_range)))
    assert {name: value.shape for name, value in params.items()} == parameter_shapes(config)
    state = {full(name, config): value.numpy() for name, value in their_model(config, wanted, "cpu").state_dict().items()}
    for name, values in params.items():
        assert values.dtype == np.float32
        if values.ndim == 1:
            np.testing.assert_array_equal(values, state[name], err_msg=name)
        else:
            padding = (values == 0).all(axis=1)
            np.testing.assert_array_equal(padding, (state[name] == 0).all(axis=1), err_msg=name)
            drawn = values[~padding]
            assert abs(drawn.std() / 0.3 - 1) < 5 / math.sqrt(2 * drawn.size), name
            assert abs(drawn.mean() / 0.3) < 5 / math.sqrt(drawn.size), name


def test_fixed_position_embeddings_are_those_of_transformers():
    wanted = {
        "sinusoidal_pos_embds": True,
        "hidden_size": 10,
        "num_attention_heads": 2,
        "max_position_embeddings": 23,
        "vocab_size": 11,
        "num_hidden_layers": 1,
    }
    config = Config(family="distilbert", **wanted)
    expected = their_model(config, wanted, "cpu").embeddings.position_embeddings.weight.detach().numpy()
    params = initial_params(config, seed=0)
    got = params["distilbert"]["embeddings"]["position_embeddings"]["weight"]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_parameter_depends_on_the_seed_and_its_name_alone():
    small = {"hidden_size": 12, "num_attention_heads": 3, "vocab_size": 40, "num_hidden_layers": 2}
    config = Config(family="bert", head="masked_lm", **small)
    first, again, other = (dict(tree.items(initial_params(config, seed))) for seed in (7, np.int64(7), 8))
    classifier = dict(tree.items(initial_params(replace(config, head="sequence_classification"), 7)))
    wide = dict(tree.items(initial_params(config, 7, np.float64)))
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])
        np.testing.assert_array_equal(values, wide[name].astype(np.float32))
        assert wide[name].dtype == np.float64
        if values.ndim == 2:
            assert not np.array_equal(values, other[name])
        if name in classifier:
            np.testing.assert_array_equal(values, classifier[name])
    layers = [first[f"bert.encoder.layer.{index}.attention.self.query.weight"] for index in (0, 1)]
    assert not np.array_equal(*layers)
    # these very numbers: a change would silently change every stored result
    np.testing.assert_array_equal(layers[0][0, :2], np.array(PINNED, np.float32))


PINNED = [-0.14994703, 0.36261865]


def test_the_deviation_is_one_over_the_root_of_the_hidden_size():
    config = Config(family="bert", hidden_size=64, num_attention_heads=4, num_hidden_layers=1, vocab_size=50)
    weight = initial_params(config, 0)["bert"]["encoder"]["layer"]["0"]["intermediate"]["dense"]["weight"]
    assert abs(weight.std() * 8 - 1) < 0.01


@pytest.mark.parametrize(("seed", "deviation"), [(-1, None), (1.5, None), (True, None), (None, None), (0, 0), (0, np.nan)])
def test_a_bad_seed_or_deviation_is_refused(seed, deviation):
    with pytest.raises(InputError):
        initial_params(Config(family="bert", vocab_size=5), seed, deviation=deviation)


def test_class_names_agree_with_those_of_the_other_tests():
    for family, head in PAIRS:
        assert Config(family=family, head=head).architecture == class_name(family, head)
