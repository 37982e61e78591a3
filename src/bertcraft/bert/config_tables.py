"""How the eight families differ in ``config.json``: heads, keys and defaults, as transformers has them."""

from typing import Any

# The class of transformers that saves a family with a head, as `architectures` in config.json names it.
ARCHITECTURES = {
    "bert": {
        "base": "BertModel",
        "masked_lm": "BertForMaskedLM",
        "sequence_classification": "BertForSequenceClassification",
        "token_classification": "BertForTokenClassification",
        "question_answering": "BertForQuestionAnswering",
        "pretraining": "BertForPreTraining",
    },
    "roberta": {
        "base": "RobertaModel",
        "masked_lm": "RobertaForMaskedLM",
        "sequence_classification": "RobertaForSequenceClassification",
        "token_classification": "RobertaForTokenClassification",
        "question_answering": "RobertaForQuestionAnswering",
    },
    "roberta_prelayernorm": {
        "base": "RobertaPreLayerNormModel",
        "masked_lm": "RobertaPreLayerNormForMaskedLM",
        "sequence_classification": "RobertaPreLayerNormForSequenceClassification",
        "token_classification": "RobertaPreLayerNormForTokenClassification",
        "question_answering": "RobertaPreLayerNormForQuestionAnswering",
    },
    "electra": {
        "base": "ElectraModel",
        "masked_lm": "ElectraForMaskedLM",
        "sequence_classification": "ElectraForSequenceClassification",
        "token_classification": "ElectraForTokenClassification",
        "question_answering": "ElectraForQuestionAnswering",
        "replaced_token_detection": "ElectraForPreTraining",
    },
    "distilbert": {
        "base": "DistilBertModel",
        "masked_lm": "DistilBertForMaskedLM",
        "sequence_classification": "DistilBertForSequenceClassification",
        "token_classification": "DistilBertForTokenClassification",
        "question_answering": "DistilBertForQuestionAnswering",
    },
    "albert": {
        "base": "AlbertModel",
        "masked_lm": "AlbertForMaskedLM",
        "sequence_classification": "AlbertForSequenceClassification",
        "token_classification": "AlbertForTokenClassification",
        "question_answering": "AlbertForQuestionAnswering",
        "pretraining": "AlbertForPreTraining",
    },
    "mpnet": {
        "base": "MPNetModel",
        "masked_lm": "MPNetForMaskedLM",
        "sequence_classification": "MPNetForSequenceClassification",
        "token_classification": "MPNetForTokenClassification",
        "question_answering": "MPNetForQuestionAnswering",
    },
    "deberta": {
        "base": "DebertaModel",
        "masked_lm": "DebertaForMaskedLM",
        "sequence_classification": "DebertaForSequenceClassification",
        "token_classification": "DebertaForTokenClassification",
        "question_answering": "DebertaForQuestionAnswering",
    },
}
FAMILIES = tuple(ARCHITECTURES)

# A known family under another name, with another tokenizer (and, of DeBERTa, a later version): the `model_type` of its
# config.json -> the family, what its classes begin with instead of what the family's do, and that.
OTHER_NAMES = {
    "xlm-roberta": ("roberta", "Roberta", "XLMRoberta"),
    "camembert": ("roberta", "Roberta", "Camembert"),
    "deberta-v2": ("deberta", "Deberta", "DebertaV2"),
}

# A family's own `model_type`, where it is not the family's name, with which the names of its parameters begin.
OWN_TYPES = {"roberta_prelayernorm": "roberta-prelayernorm"}
MODEL_TYPES = {OWN_TYPES.get(family, family): (family, "", "") for family in FAMILIES} | OTHER_NAMES

# Heads with labels of a task of their own; the others are for pre-training, and may be left in a model that goes on from them.
TASK_HEADS = ("sequence_classification", "token_classification", "question_answering")

# The start of the tensors by which a head is known (or several: one is enough), the first that fits; "pretraining" includes the
# MLM head and comes before it. In BERT and ALBERT the two classifiers have the same names.
HEAD_TENSORS = {
    "bert": {
        "sequence_classification": "classifier.",
        "token_classification": "classifier.",
        "question_answering": "qa_outputs.",
        "pretraining": "cls.seq_relationship.",
        "masked_lm": "cls.predictions.",
    },
    "roberta": {
        "sequence_classification": "classifier.dense.",
        "token_classification": "classifier.",
        "question_answering": "qa_outputs.",
        "masked_lm": "lm_head.",
    },
    "roberta_prelayernorm": {
        "sequence_classification": "classifier.dense.",
        "token_classification": "classifier.",
        "question_answering": "qa_outputs.",
        "masked_lm": "lm_head.",
    },
    "electra": {
        "sequence_classification": "classifier.dense.",
        "token_classification": "classifier.",
        "question_answering": "qa_outputs.",
        "replaced_token_detection": "discriminator_predictions.",
        "masked_lm": "generator_predictions.",
    },
    "distilbert": {
        "sequence_classification": "pre_classifier.",
        "token_classification": "classifier.",
        "question_answering": "qa_outputs.",
        "masked_lm": "vocab_transform.",
    },
    "albert": {
        "sequence_classification": "classifier.",
        "token_classification": "classifier.",
        "question_answering": "qa_outputs.",
        "pretraining": "sop_classifier.",
        "masked_lm": "predictions.",
    },
    "mpnet": {
        "sequence_classification": "classifier.dense.",
        "token_classification": "classifier.",
        "question_answering": "qa_outputs.",
        "masked_lm": "lm_head.",
    },
    "deberta": {
        "sequence_classification": "pooler.",
        "token_classification": "classifier.",
        "question_answering": "qa_outputs.",
        "masked_lm": ("cls.predictions.", "lm_predictions."),
    },
}

# Base models of these families have a pooler.
POOLED = ("bert", "roberta", "roberta_prelayernorm", "albert", "mpnet")

# Positions of these families are counted from pad_token_id + 1; padding has the one before.
COUNTED_POSITIONS = ("roberta", "roberta_prelayernorm", "mpnet")

# Settings that transformers' classes of a family do not read: they compute with this number, whatever config.json says.
FIXED = {"mpnet": {"pad_token_id": 1, "relative_attention_num_buckets": 32}}

# gelu and gelu_python are exact (erf); gelu_new, gelu_fast and gelu_pytorch_tanh are its tanh approximation; swish is silu.
ACTIVATIONS = ("gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh")

# Settings that change what a model computes, or how it is stored, and that bertcraft does not have.
UNSUPPORTED = {
    "is_decoder": "only encoders are supported, without causal masks",
    "is_encoder_decoder": "only encoders are supported",
    "add_cross_attention": "only encoders are supported, without cross attention",
    "pruned_heads": "pruned attention heads change the shapes of single layers",
    "per_layer_config": "all layers must have the same sizes",
    "quantization_config": "quantised weights cannot be read; save the model in float32 first",
}

# The same in one family. In DeBERTa, whose settings are many, some must have the one value that all published models have.
UNSUPPORTED_IN = {
    "deberta": {"talking_head": "no published model mixes its heads"},
}

SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_COMMON = (
    *SIZES,
    "max_position_embeddings",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "initializer_range",
    "pad_token_id",
    "tie_word_embeddings",
    "problem_type",
)
_BERT = (*_COMMON, "type_vocab_size", "layer_norm_eps", "position_embedding_type")
_DEBERTA = (
    *_COMMON,
    "type_vocab_size",
    "layer_norm_eps",
    "relative_attention",
    "max_relative_positions",
    "position_biased_input",
    "pos_att_type",
    "pooler_dropout",
    "pooler_hidden_act",
    "legacy",
)
V2_ONLY = ("position_buckets", "share_att_key", "norm_rel_ebd", "conv_kernel_size", "conv_groups", "conv_act")
# Keys that transformers has no default for: they are written where they differ from ours.
UNWRITTEN = {"deberta": ("classifier_dropout", *V2_ONLY)}
_SUMMARY = ("summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout")

# The fields that a family's config.json has; the others keep the default below, mostly None (it has none).
FIELDS = {
    "bert": _BERT,
    "roberta": _BERT,
    "roberta_prelayernorm": _BERT,
    "electra": (*_BERT, "embedding_size", *_SUMMARY),
    "distilbert": (*_COMMON, "qa_dropout", "sinusoidal_pos_embds"),
    "albert": (*_BERT, "embedding_size", "num_hidden_groups", "inner_group_num"),
    "mpnet": (
        *(name for name in _COMMON if name != "classifier_dropout"),
        "layer_norm_eps",
        "relative_attention_num_buckets",
    ),
    "deberta": (*_DEBERTA, *V2_ONLY),
}

# Where a family's config.json calls a field by another name.
KEYS = {
    "albert": {"classifier_dropout": "classifier_dropout_prob"},
    "deberta": {
        "classifier_dropout": "cls_dropout",
        "relative_rows": "2 * position_buckets (or max_relative_positions, or max_position_embeddings)",  # for messages
        "qkv_size": "3 * hidden_size",
        "conv_width": "hidden_size / conv_groups",
    },
    "distilbert": {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "classifier_dropout": "seq_classif_dropout",
    },
}

# Keys that transformers reads as well, BERT's names for the family's own, though it never writes them.
ALIASES = {"distilbert": ("hidden_size", "num_hidden_layers", "num_attention_heads")}

# By `model_type`.
_BERT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "tie_word_embeddings": True,
    "problem_type": None,
}
_DEBERTA_DEFAULTS = _BERT_DEFAULTS | {
    "vocab_size": 50265,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
    "relative_attention": False,  # so that a DeBERTa of these settings is none
    "max_relative_positions": -1,
    "position_biased_input": True,
    "pos_att_type": None,
    "pooler_dropout": 0.0,
    "pooler_hidden_act": "gelu",
    "legacy": True,
    "position_buckets": -1,
    "share_att_key": False,
    "norm_rel_ebd": "none",
    "conv_kernel_size": 0,
    "conv_groups": 1,
    "conv_act": "tanh",
}
DEFAULTS = {
    "bert": _BERT_DEFAULTS,
    "roberta": _BERT_DEFAULTS | {"vocab_size": 50265, "pad_token_id": 1},
    "roberta-prelayernorm": _BERT_DEFAULTS | {"vocab_size": 50265, "pad_token_id": 1},
    "xlm-roberta": _BERT_DEFAULTS | {"pad_token_id": 1},
    "camembert": _BERT_DEFAULTS | {"pad_token_id": 1},
    "electra": _BERT_DEFAULTS
    | {
        "embedding_size": 128,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "summary_type": "first",
        "summary_use_proj": True,
        "summary_activation": "gelu",
        "summary_last_dropout": 0.1,
    },
    "distilbert": _BERT_DEFAULTS
    | {
        "num_hidden_layers": 6,
        "type_vocab_size": None,
        "classifier_dropout": 0.2,
        "qa_dropout": 0.1,
        "sinusoidal_pos_embds": False,
    },
    "albert": _BERT_DEFAULTS
    | {
        "vocab_size": 30000,
        "embedding_size": 128,
        "hidden_size": 4096,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
        "num_hidden_groups": 1,
        "inner_group_num": 1,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout": 0.1,
    },
    "mpnet": _BERT_DEFAULTS
    | {"vocab_size": 30527, "pad_token_id": 1, "type_vocab_size": None, "relative_attention_num_buckets": 32},
    "deberta": _DEBERTA_DEFAULTS,
    "deberta-v2": _DEBERTA_DEFAULTS
    | {"vocab_size": 128100, "hidden_size": 1536, "num_hidden_layers": 24, "num_attention_heads": 24, "intermediate_size": 6144},
}
