"""ALBERT: one layer's parameters used by all layers, a thin table of words, and sentence order in place of next sentences.

Lan, Chen, Goodman, Gimpel, Sharma & Soricut, "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations",
ICLR 2020, arXiv:1909.11942. Section 3.1 has the three changes:

    factorised embeddings      a table (V, E) and one map E -> H in place of a table (V, H):  V E + E H  numbers for  V H
    cross-layer sharing        layer l is f(x; theta) in place of f(x; theta_l): all of it, attention only, or feed-forward only
    sentence-order prediction  two segments that follow each other, or the same two exchanged: which?

Parameters are counted once, products as often as they are computed: sharing makes a model small, not fast. The gradient of a
shared parameter is the sum over its uses (the chain rule for a variable that stands in several places).

The encoder (:mod:`bertcraft.bert`) computes the ALBERT family: its configuration has E, and ``num_hidden_groups``, how many
groups of layers have parameters of their own. Sharing a *part* of a layer needs no more than a tree in which that part stands
once and is filled in where it lacks: :func:`complete`.

Shapes: N texts, L length, H hidden size, E embedding size, F inner size, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from bertcraft.bert import encoder
from bertcraft.bert.config import Config
from bertcraft.bert.initialise import initial_params as initial_model
from bertcraft.data.batches import pad
from bertcraft.errors import InputError
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.techniques.roberta_optimizations import SentencePairs

# ---------------------------------------------------------------------------------------------------------- the four sizes

# Table 1, F = 4 H (section 3.1), as fields of a Config, whose defaults are E = 128 and V = 30,000. The paper has H / 64 heads;
# the released xlarge has 16, which changes neither parameters nor operations.
SIZES = {
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    "xlarge": {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 8192},
    "xxlarge": {"hidden_size": 4096, "num_hidden_layers": 12, "num_attention_heads": 64, "intermediate_size": 16384},
}

# ------------------------------------------------------------------------------------------------------ cross-layer sharing

# What all groups of layers have in common: parts of a layer, by their names in the checkpoint.
ATTENTION, FEED_FORWARD = ("attention",), ("ffn", "ffn_output", "full_layer_layer_norm")
SHARING = {"all": ATTENTION + FEED_FORWARD, "attention": ATTENTION, "feed_forward": FEED_FORWARD, "none": ()}


def shared(params: dict, sharing: str) -> dict:
    """Parameters of an ALBERT without the parts that, under ``sharing``, its later groups take from the first.

    sharing: "all" (ALBERT), "attention", "feed_forward" or "none" (section 3.1); a norm belongs to what stands before it. Raises
    InputError for another.
    """
    if sharing not in SHARING:
        raise InputError(f"sharing: got {sharing!r}, expected one of {', '.join(SHARING)}")
    first, *others = _groups(params).items()
    kept = dict([first])
    for name, group in others:
        own = {j: {part: tree for part, tree in layer.items() if part not in SHARING[sharing]} for j, layer in group.items()}
        if any(own.values()):
            kept[name] = own
    return _with_groups(params, kept)


def complete(params: dict, config: Config) -> dict:
    """All parameters of every group: what a group does not have is the first group's, the same arrays (or Tensors).

    So they are differentiated as one variable. config: of the ALBERT family, ``num_hidden_groups`` as many as there would be
    without sharing (all layers: ``num_hidden_layers``).
    """
    groups = _groups(params)
    first = groups["0"]
    filled = {
        str(i): {j: layer | groups.get(str(i), {}).get(j, {}) for j, layer in first.items()}
        for i in range(config.num_hidden_groups)
    }
    return _with_groups(params, filled)


def initial_params(config: Config, seed: int, sharing: str = "all", dtype: type = np.float32) -> dict:
    """Parameters to start from; those that two ways of sharing have in common begin alike."""
    return shared(initial_model(config, seed, dtype), sharing)


def _groups(params: dict) -> dict:
    """Group -> layer of the group -> its parts."""
    return {i: group["albert_layers"] for i, group in params["albert"]["encoder"]["albert_layer_groups"].items()}


def _with_groups(params: dict, groups: dict) -> dict:
    body = params["albert"]
    named = {"albert_layer_groups": {i: {"albert_layers": group} for i, group in groups.items()}}
    return {**params, "albert": {**body, "encoder": {**body["encoder"], **named}}}


# --------------------------------------------------------------------------------------------------------- what it costs


def parameter_counts(config: Config, sharing: str = "all") -> dict[str, int]:
    """The numbers of an ALBERT without head, by part: embeddings, projection, attention, feed_forward, pooler.

    Norms and biases are counted in. For "all", attention and feed-forward count once whatever the number of layers. Raises
    InputError for a sharing that is not known.
    """
    if sharing not in SHARING:
        raise InputError(f"sharing: got {sharing!r}, expected one of {', '.join(SHARING)}")
    e, h, inner = config.embedding_size, config.hidden_size, config.intermediate_size
    groups = config.num_hidden_groups * config.inner_group_num
    once = {part: config.inner_group_num if set(names) <= set(SHARING[sharing]) else groups
            for part, names in (("attention", ATTENTION), ("feed_forward", FEED_FORWARD))}  # fmt: skip
    rows = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
    return {
        "embeddings": rows * e + 2 * e,
        "projection": e * h + h,
        "attention": once["attention"] * (4 * (h * h + h) + 2 * h),
        "feed_forward": once["feed_forward"] * (2 * h * inner + inner + h + 2 * h),
        "pooler": (h * h + h) if config.add_pooling_layer else 0,
    }


def flops_per_token(config: Config, length: int) -> int:
    """Operations of the encoder's products a token, forward: 2 (E H + layers (4 H^2 + 2 H F + 2 L H)), L tokens to a text.

    Two for a number times a number; looking up embeddings costs none, and a BERT has no E H. No term asks whether parameters are
    shared.
    """
    h, layers, projection = config.hidden_size, config.num_hidden_layers, 0
    if config.family == "albert":
        layers, projection = layers * config.inner_group_num, config.embedding_size * h
    return 2 * (projection + layers * (4 * h * h + 2 * h * config.intermediate_size + 2 * length * h))


# ------------------------------------------------------------------------------------------------ sentence-order prediction


def consecutive(documents: list[list[np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each segment that has a next one in its document, with that: never across documents."""
    for document in documents:
        yield from zip(document, document[1:], strict=False)


def order_pairs(
    documents: list[list[np.ndarray]], length: int, cls_id: int, sep_id: int, pad_id: int, rng: np.random.Generator
) -> SentencePairs:
    """SOP: [CLS] A [SEP] B [SEP]; B follows A (label 0), or half of the time the two are exchanged (label 1).

    documents: segments as token ids, arguments as those of :func:`~bertcraft.techniques.roberta_optimizations.sentence_pairs`.
    Both labels have the very same words, so a topic gives nothing away (section 3.1). The longer segment is cut until both fit.
    Raises InputError when no document has two segments, or ``length`` leaves no room for two tokens.
    """
    if length < 5:
        raise InputError(f"length: got {length}, expected at least 5: [CLS], two tokens and two [SEP]")
    pairs = list(consecutive(documents))
    if not pairs:
        raise InputError("sentence order needs a document of at least two segments")
    labels = (rng.random(len(pairs)) < 0.5).astype(np.int32)
    rows, firsts = [], []
    for (a, b), exchanged in zip(pairs, labels, strict=True):
        keep_a, keep_b = fitting(len(a), len(b), length - 3)
        a, b = a[:keep_a], b[:keep_b]
        first, second = (b, a) if exchanged else (a, b)
        rows.append(np.concatenate([[cls_id], first, [sep_id], second, [sep_id]]).astype(np.int32))
        firsts.append(len(first) + 2)
    ids, mask = pad(rows, pad_id, length)
    types = (np.arange(length) >= np.array(firsts)[:, None]) & (mask == 1)
    return SentencePairs(ids, types.astype(np.int32), labels)


def fitting(a: int, b: int, room: int) -> tuple[int, int]:
    """How many tokens two segments keep when the longer is cut until both have room, each to half of it if need be.

    The two are treated alike: lengths that told the first from the second would tell their order.
    """
    half = room // 2
    return min(a, max(room - b, half)), min(b, max(room - a, half))


def albert_loss(params: dict, batch: dict, rng, config: Config):
    """L_MLM + L_SOP in nats, of parameters that may lack what is shared; config with the head "pretraining".

    batch: input_ids, token_type_ids, attention_mask (N, L), at and labels (N, M) of the masked words, next_sentence (N,), the
    order. The sum is BERT's own (:func:`~bertcraft.techniques.roberta_optimizations.masked_lm_and_next_sentence_loss`); what
    the second classifier is asked has changed. There is no dropout before it, as in the authors' code; transformers has one.
    """
    return masking.masked_lm_and_next_sentence_loss(complete(params, config), batch, rng, config)


# --------------------------------------------------------------------------------------------------- what the layers do


class Change(NamedTuple):
    """From the input to the output of each layer, mean over the tokens: arrays (layers,)."""

    distance: Any  # Euclidean
    angle: Any  # degrees


def layer_changes(params: dict, config: Config, input_ids, attention_mask=None, token_type_ids=None) -> Change:
    """How far each layer moves the states, as in the paper's figure on the stability of shared parameters.

    Any model of the library; parameters complete. Padding does not count.
    """
    sockets, inputs, _ = encoder.watched()
    last = encoder.encode(params, config, input_ids, attention_mask, token_type_ids, sockets=sockets)
    before, after = np.stack(inputs), np.stack([*inputs[1:], last])
    distance, *sizes = (np.sqrt(np.sum(x * x, axis=-1)) for x in (after - before, before, after))
    cosine = np.sum(before * after, axis=-1) / (sizes[0] * sizes[1])
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    counted = np.ones(last.shape[:2], bool) if attention_mask is None else np.asarray(attention_mask) == 1
    return Change(distance[:, counted].mean(axis=1), angle[:, counted].mean(axis=1))
