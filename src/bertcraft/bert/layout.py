"""The name and shape of every parameter: those of a Hugging Face checkpoint, for each family and head.

Names carry the family's prefix (``bert.encoder.layer.0.attention.self.query.weight``), base models too. A
tied decoder is no parameter: it *is* the word embedding, and its bias is the head's bias. With
`tie_word_embeddings` False, decoder weight and bias are parameters of their own; transformers then computes
with ``decoder.bias`` and keeps the head's other ``bias`` (BERT, RoBERTa, ALBERT, MPNet) without using it.

Dimensions are written as fields of Config, so that an error can say which setting a shape contradicts.
"""

from collections.abc import Iterator
from dataclasses import replace

from bertcraft.bert.config import Config
from bertcraft.bert.config_tables import ARCHITECTURES, POOLED, TASK_HEADS

Dims = tuple[str | int, ...]

VOCABULARY, EMBEDDING, HIDDEN, INNER = "vocab_size", "embedding_size", "hidden_size", "intermediate_size"


def parameter_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Shapes by full name, in the order of the computation; linear weights are (out, in) as in PyTorch."""
    return {
        name: tuple(getattr(config, dim) if isinstance(dim, str) else dim for dim in dims)
        for name, dims in parameter_dims(config).items()
    }


def parameter_dims(config: Config) -> dict[str, Dims]:
    """The same with each dimension as the Config field that sets it, or a number where none does."""
    return {f"{config.family}.{name}": dims for name, dims in _backbone(config)} | dict(_head(config))


def tied_parameters(config: Config) -> dict[str, str]:
    """Names that a checkpoint may hold besides a parameter that they equal: tied name -> parameter's name."""
    if not config.tie_word_embeddings or config.head not in ("masked_lm", "pretraining") or config.legacy is False:
        return {}
    decoder, bias = _DECODERS[config.family]
    tied = {f"{decoder}.weight": f"{config.family}.embeddings.word_embeddings.weight"}
    return tied if bias == f"{decoder}.bias" else tied | {f"{decoder}.bias": bias}


def pretraining_names(config: Config) -> set[str]:
    """Names of the pooler and of all heads for pre-training: a model with another head may have kept them.

    bert-base-uncased, for one, is a masked LM that kept its pooler and its next-sentence head. A classifier
    is not among them: a file with one is not the base model that its config claims.
    """
    names: set[str] = set()
    for head in ARCHITECTURES[config.family].keys() - {*TASK_HEADS}:
        other = replace(config, head=head, tie_word_embeddings=False, add_pooling_layer=True)
        names |= parameter_dims(other).keys()
    if config.family == "deberta":  # positions for the enhanced mask decoder, either masked-LM head, v3's of replaced tokens
        positions = replace(config, head="base", position_biased_input=True)
        names |= parameter_dims(positions).keys()
        for legacy in (True, False):
            names |= parameter_dims(replace(config, head="masked_lm", tie_word_embeddings=False, legacy=legacy)).keys()
        parts = ("dense", "LayerNorm", "classifier")
        names |= {f"mask_predictions.{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    return names


# The output layer of each family's MLM head, and the name of its bias when it is tied.
_DECODERS = {
    "bert": ("cls.predictions.decoder", "cls.predictions.bias"),
    "roberta": ("lm_head.decoder", "lm_head.bias"),
    "roberta_prelayernorm": ("lm_head.decoder", "lm_head.bias"),
    "electra": ("generator_lm_head", "generator_lm_head.bias"),
    "distilbert": ("vocab_projector", "vocab_projector.bias"),
    "albert": ("predictions.decoder", "predictions.bias"),
    "mpnet": ("lm_head.decoder", "lm_head.bias"),
    "deberta": ("cls.predictions.decoder", "cls.predictions.bias"),
}

Parts = Iterator[tuple[str, Dims]]


def _linear(name: str, into: str, out: str | int) -> Parts:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def _norm(name: str, size: str) -> Parts:
    yield f"{name}.weight", (size,)
    yield f"{name}.bias", (size,)


def _backbone(config: Config) -> Parts:
    """Embeddings, layers and pooler, without the family's prefix."""
    family = config.family
    yield "embeddings.word_embeddings.weight", (VOCABULARY, EMBEDDING)
    if config.position_biased_input is not False:
        yield "embeddings.position_embeddings.weight", ("max_position_embeddings", EMBEDDING)
    if config.type_vocab_size:  # DistilBERT has none, DeBERTa mostly
        yield "embeddings.token_type_embeddings.weight", ("type_vocab_size", EMBEDDING)
    yield from _norm("embeddings.LayerNorm", EMBEDDING)
    if family == "electra" and config.embedding_size != config.hidden_size:
        yield from _linear("embeddings_project", EMBEDDING, HIDDEN)
    if family == "albert":
        yield from _linear("encoder.embedding_hidden_mapping_in", EMBEDDING, HIDDEN)
        for group in range(config.num_hidden_groups):
            for index in range(config.inner_group_num):
                yield from _albert_layer(f"encoder.albert_layer_groups.{group}.albert_layers.{index}")
    else:
        for index in range(config.num_hidden_layers):
            if family == "distilbert":
                yield from _distilbert_layer(f"transformer.layer.{index}")
            elif family == "mpnet":
                yield from _mpnet_layer(f"encoder.layer.{index}")
            elif family == "deberta":
                yield from _deberta_layer(f"encoder.layer.{index}", config)
            elif family == "roberta_prelayernorm":
                yield from _pre_norm_layer(f"encoder.layer.{index}")
            else:
                yield from _bert_layer(f"encoder.layer.{index}")
    if family == "mpnet":
        yield "encoder.relative_attention_bias.weight", ("relative_attention_num_buckets", "num_attention_heads")
    if family == "deberta":
        yield from _deberta_encoder(config)
    if family == "roberta_prelayernorm":
        yield from _norm("LayerNorm", HIDDEN)
    if has_pooler(config):
        yield from _linear("pooler" if family == "albert" else "pooler.dense", HIDDEN, HIDDEN)


def has_pooler(config: Config) -> bool:
    """Whether transformers gives this family and head a pooler (a base model may have been saved without)."""
    if config.head == "base":
        return config.family in POOLED and config.add_pooling_layer
    return config.family in ("bert", "albert") and config.head in ("pretraining", "sequence_classification")


def _bert_layer(layer: str) -> Parts:
    for part in ("query", "key", "value"):
        yield from _linear(f"{layer}.attention.self.{part}", HIDDEN, HIDDEN)
    yield from _behind_attention(layer)


def _behind_attention(layer: str) -> Parts:
    yield from _linear(f"{layer}.attention.output.dense", HIDDEN, HIDDEN)
    yield from _norm(f"{layer}.attention.output.LayerNorm", HIDDEN)
    yield from _bert_feed_forward(layer)


def _bert_feed_forward(layer: str) -> Parts:
    yield from _linear(f"{layer}.intermediate.dense", HIDDEN, INNER)
    yield from _linear(f"{layer}.output.dense", INNER, HIDDEN)
    yield from _norm(f"{layer}.output.LayerNorm", HIDDEN)


def _pre_norm_layer(layer: str) -> Parts:
    """Both norms stand before what reads them."""
    yield from _norm(f"{layer}.attention.LayerNorm", HIDDEN)
    for part in ("self.query", "self.key", "self.value", "output.dense"):
        yield from _linear(f"{layer}.attention.{part}", HIDDEN, HIDDEN)
    yield from _norm(f"{layer}.intermediate.LayerNorm", HIDDEN)
    yield from _linear(f"{layer}.intermediate.dense", HIDDEN, INNER)
    yield from _linear(f"{layer}.output.dense", INNER, HIDDEN)


def _mpnet_layer(layer: str) -> Parts:
    for part in ("q", "k", "v", "o"):
        yield from _linear(f"{layer}.attention.attn.{part}", HIDDEN, HIDDEN)
    yield from _norm(f"{layer}.attention.LayerNorm", HIDDEN)
    yield from _bert_feed_forward(layer)


def _distilbert_layer(layer: str) -> Parts:
    for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
        yield from _linear(f"{layer}.attention.{part}", HIDDEN, HIDDEN)
    yield from _norm(f"{layer}.sa_layer_norm", HIDDEN)
    yield from _linear(f"{layer}.ffn.lin1", HIDDEN, INNER)
    yield from _linear(f"{layer}.ffn.lin2", INNER, HIDDEN)
    yield from _norm(f"{layer}.output_layer_norm", HIDDEN)


def _albert_layer(layer: str) -> Parts:
    for part in ("query", "key", "value", "dense"):
        yield from _linear(f"{layer}.attention.{part}", HIDDEN, HIDDEN)
    yield from _norm(f"{layer}.attention.LayerNorm", HIDDEN)
    yield from _linear(f"{layer}.ffn", HIDDEN, INNER)
    yield from _linear(f"{layer}.ffn_output", INNER, HIDDEN)
    yield from _norm(f"{layer}.full_layer_layer_norm", HIDDEN)


def _deberta_layer(layer: str, config: Config) -> Parts:
    """The first version keeps queries, keys and values in one matrix; later ones may project positions as they project words."""
    own, kinds = f"{layer}.attention.self", config.pos_att_type or () if config.relative_attention else ()
    if config.model_type == "deberta":
        yield f"{own}.in_proj.weight", ("qkv_size", HIDDEN)
        yield f"{own}.q_bias", (HIDDEN,)
        yield f"{own}.v_bias", (HIDDEN,)
        if "c2p" in kinds:
            yield f"{own}.pos_proj.weight", (HIDDEN, HIDDEN)
        if "p2c" in kinds:
            yield from _linear(f"{own}.pos_q_proj", HIDDEN, HIDDEN)
    else:
        for part in ("query", "key", "value"):
            yield from _linear(f"{own}.{part}_proj", HIDDEN, HIDDEN)
        for part, kind in (("key", "c2p"), ("query", "p2c")):
            if kind in kinds and not config.share_att_key:
                yield from _linear(f"{own}.pos_{part}_proj", HIDDEN, HIDDEN)
    yield from _behind_attention(layer)


def _deberta_encoder(config: Config) -> Parts:
    """What the layers share: the table of relative positions and its norm; and the convolution behind the first layer."""
    if config.relative_attention:
        yield "encoder.rel_embeddings.weight", ("relative_rows", HIDDEN)
    if config.norm_rel_ebd == "layer_norm":
        yield from _norm("encoder.LayerNorm", HIDDEN)
    if config.conv_kernel_size:
        yield "encoder.conv.conv.weight", (HIDDEN, "conv_width", "conv_kernel_size")
        yield "encoder.conv.conv.bias", (HIDDEN,)
        yield from _norm("encoder.conv.LayerNorm", HIDDEN)


def _head(config: Config) -> Parts:
    if config.head in ("masked_lm", "pretraining"):
        yield from _masked_lm_head(config)
    if config.head == "pretraining":
        if config.family == "albert":  # sentence order, in transformers with one output for each label
            yield from _linear("sop_classifier.classifier", HIDDEN, "num_labels")
        else:
            yield from _linear("cls.seq_relationship", HIDDEN, 2)
    if config.head == "replaced_token_detection":
        yield from _linear("discriminator_predictions.dense", HIDDEN, HIDDEN)
        yield from _linear("discriminator_predictions.dense_prediction", HIDDEN, 1)
    if config.head == "token_classification":
        yield from _linear("classifier", HIDDEN, "num_labels")
    if config.head == "question_answering":
        yield from _linear("qa_outputs", HIDDEN, "num_labels")
    if config.head == "sequence_classification":
        if config.family in ("roberta", "roberta_prelayernorm", "electra", "mpnet"):
            yield from _linear("classifier.dense", HIDDEN, HIDDEN)
            yield from _linear("classifier.out_proj", HIDDEN, "num_labels")
            return
        if config.family == "distilbert":
            yield from _linear("pre_classifier", HIDDEN, HIDDEN)
        if config.family == "deberta":
            yield from _linear("pooler.dense", HIDDEN, HIDDEN)
        yield from _linear("classifier", HIDDEN, "num_labels")


def _masked_lm_head(config: Config) -> Parts:
    if config.legacy is False:
        yield from _linear("lm_predictions.lm_head.dense", HIDDEN, HIDDEN)
        yield from _norm("lm_predictions.lm_head.LayerNorm", HIDDEN)
        yield "lm_predictions.lm_head.bias", (VOCABULARY,)
        return
    decoder, bias = _DECODERS[config.family]
    dense, norm = {
        "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"),
        "roberta": ("lm_head.dense", "lm_head.layer_norm"),
        "roberta_prelayernorm": ("lm_head.dense", "lm_head.layer_norm"),
        "electra": ("generator_predictions.dense", "generator_predictions.LayerNorm"),
        "distilbert": ("vocab_transform", "vocab_layer_norm"),
        "albert": ("predictions.dense", "predictions.LayerNorm"),
        "mpnet": ("lm_head.dense", "lm_head.layer_norm"),
        "deberta": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"),
    }[config.family]
    yield from _linear(dense, HIDDEN, EMBEDDING)  # the same size in the families that do not factorise
    yield from _norm(norm, EMBEDDING)
    yield bias, (VOCABULARY,)
    if not config.tie_word_embeddings:
        yield f"{decoder}.weight", (VOCABULARY, EMBEDDING)
        if bias != f"{decoder}.bias":
            yield f"{decoder}.bias", (VOCABULARY,)
