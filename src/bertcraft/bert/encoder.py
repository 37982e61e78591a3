"""The encoder: token ids in, hidden states out (Devlin et al. 2019; Vaswani et al. 2017).

Four *sockets* take the techniques that change the architecture: ``attention``, ``feed_forward``, ``norm`` and ``wiring``
(the order of the parts). Each is a plain function with BERT's own as its default.

Shapes: B batch, L length, M positions of interest, H hidden size, E embedding size.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from bertcraft.bert import families
from bertcraft.bert.config import Config
from bertcraft.bert.config_tables import COUNTED_POSITIONS
from bertcraft.bert.relative_positions import attention_bias
from bertcraft.tensor import functions as F
from bertcraft.tensor.functions import take_positions


def dense(p: dict, x):
    """The linear map with the weight and bias in p: (..., in) -> (..., out)."""
    return F.linear(x, p["weight"], p.get("bias"))


def projected(layer: dict, x, source, bias, config: Config, rng=None, at=None):
    """Queries of x (B, Lq, H), keys and values of source (B, L, H), and what is added to their scores, for ``F.attention``.

    x stands at the positions ``at`` (B, Lq) of source, or is as long: only DeBERTa looks at distances and must know.
    """
    if config.family == "deberta":  # the one family whose attention is a technique: it lies with the techniques
        from bertcraft.techniques import deberta_disentangled_attention as technique

        return technique.projected(layer, x, source, bias, config, rng, at)
    inner = layer["attention"]["self"]
    return dense(inner["query"], x), dense(inner["key"], source), dense(inner["value"], source), bias


def self_attention(layer: dict, x, source, bias, config: Config, rng=None, at=None):
    """Queries from x (B, Lq, H) attend to source (B, L, H); returns (B, Lq, H), before dropout and residual."""
    heads, rate = config.num_attention_heads, config.attention_probs_dropout_prob
    query, key, value, bias = projected(layer, x, source, bias, config, rng, at)
    context = F.attention(query, key, value, bias, heads=heads, rate=rate, rng=rng)
    return dense(layer["attention"]["output"]["dense"], context)


def feed_forward(layer: dict, x, config: Config):
    """Two linear maps with an activation between them, at every position alike (Vaswani et al. 2017, eq. 2)."""
    inner = dense(layer["intermediate"]["dense"], x)
    return dense(layer["output"]["dense"], F.ACTIVATIONS[config.hidden_act](inner))


def norm(p: dict, x, added, config: Config, rng=None):
    """layer_norm(x + dropout(added)) with the weight and bias in p."""
    return F.add_layer_norm(x, added, p["weight"], p["bias"], eps=config.layer_norm_eps, rate=config.hidden_dropout_prob, rng=rng)


def post_layer_norm(layer: dict, x, source, bias, config: Config, sockets: "Sockets", rng=None):
    """One layer in BERT's order: attention, add, normalise; feed-forward, add, normalise."""
    attended = sockets.attention(layer, x, source, bias, config, rng)
    x = sockets.norm(layer["attention"]["output"]["LayerNorm"], x, attended, config, rng)
    return sockets.norm(layer["output"]["LayerNorm"], x, sockets.feed_forward(layer, x, config), config, rng)


@dataclass(frozen=True)
class Sockets:
    """The exchangeable parts of an encoder; the defaults are BERT's."""

    attention: Callable = self_attention
    feed_forward: Callable = feed_forward
    norm: Callable = norm
    wiring: Callable = post_layer_norm


BERT = Sockets()


def own_wiring(config: Config) -> Callable:
    """The order of a family's layers: BERT's, or where the norms stand before what reads them, technique 15's."""
    if config.family == "roberta_prelayernorm":
        from bertcraft.techniques import layer_norm_variants as technique

        return technique.pre_layer_norm
    return post_layer_norm


def of_family(sockets: Sockets, config: Config) -> Sockets:
    """The sockets; where their wiring is BERT's, with the family's own."""
    return replace(sockets, wiring=own_wiring(config)) if sockets.wiring is post_layer_norm else sockets


def finished(params: dict, config: Config, x):
    """What the last layer gave (..., H), normalised where the model has a norm behind its layers (pre-layer norm has)."""
    final = families.backbone(params, config).get("LayerNorm")
    if final is None:
        return x
    from bertcraft.techniques import layer_norm_variants as technique

    return technique.normed(final, x, config)


def watched() -> tuple[Sockets, list, list]:
    """BERT's sockets, and two lists that they fill: the input (B, L, H) and the attention (B, heads, L, L) of each layer."""
    inputs, attentions = [], []

    def attention(layer: dict, x, source, bias, config: Config, rng=None):
        query, key, value, bias = projected(layer, x, source, bias, config, rng)
        attentions.append(F.attention_probabilities(query, key, bias, config.num_attention_heads))
        context = F.merge_heads(attentions[-1] @ F.split_heads(value, config.num_attention_heads))
        return dense(layer["attention"]["output"]["dense"], context)

    def wiring(layer: dict, x, source, bias, config: Config, *rest):
        inputs.append(x)
        return own_wiring(config)(layer, x, source, bias, config, *rest)

    return Sockets(attention=attention, wiring=wiring), inputs, attentions


def counted_positions(input_ids, config: Config):
    """RoBERTa's and MPNet's position ids (B, L), counted from pad_token_id + 1 and skipping padding."""
    real = (input_ids != config.pad_token_id).astype(input_ids.dtype)
    return np.cumsum(real, axis=1) * real + config.pad_token_id


def embed(params: dict, config: Config, input_ids, token_type_ids=None, position_ids=None, rng=None):
    """Word, position and segment embeddings, added and normalised: (B, L) -> (B, L, H)."""
    tables = families.backbone(params, config)["embeddings"]
    words = F.embedding(tables["word_embeddings"]["weight"], input_ids, config.pad_token_id)
    added = []
    if "position_embeddings" in tables:  # a DeBERTa mostly has none
        positions, counted = tables["position_embeddings"]["weight"], config.family in COUNTED_POSITIONS
        if position_ids is None and counted:
            position_ids = counted_positions(input_ids, config)
        unmoved = config.pad_token_id if counted else None  # padding has a position of its own
        length = input_ids.shape[1]
        added.append(positions[:length] if position_ids is None else F.embedding(positions, position_ids, unmoved))
    if "token_type_embeddings" in tables:
        segments = tables["token_type_embeddings"]["weight"]
        added.append(segments[0] if token_type_ids is None else F.embedding(segments, token_type_ids))
    ln = tables["LayerNorm"]
    if added:
        x = F.add_layer_norm(words, sum(added[1:], added[0]), ln["weight"], ln["bias"], eps=config.layer_norm_eps)
    else:
        x = F.layer_norm(words, ln["weight"], ln["bias"], eps=config.layer_norm_eps)
    x = F.dropout(x, config.hidden_dropout_prob, rng)
    project = families.projection(params, config)
    return x if project is None else dense(project, x)


def convolved(p: dict, embedded, x, attention_mask, config: Config, rng=None):
    """What DeBERTa v2's largest models do behind their first layer: layer_norm(x + act(convolution of the embeddings)).

    embedded and x (B, L, H); p["conv"] holds a weight (H, H / groups, taps) as in PyTorch. Padding counts as zero.
    """
    weight, groups = p["conv"]["weight"], config.conv_groups
    hidden, width, taps = weight.shape
    batch, length, _ = embedded.shape
    if attention_mask is not None:
        embedded = np.where((attention_mask == 1)[..., None], embedded, 0)
    before = np.pad(embedded, ((0, 0), (taps // 2, taps // 2), (0, 0)))
    grouped = np.swapaxes(np.reshape(before, (batch, -1, groups, width)), 1, 2)
    kernel = np.reshape(weight, (groups, hidden // groups, width, taps))
    found = sum(grouped[:, :, tap : tap + length] @ np.swapaxes(kernel[..., tap], -1, -2) for tap in range(taps))
    found = np.reshape(np.swapaxes(found, 1, 2), (batch, length, hidden)) + p["conv"]["bias"]
    found = F.ACTIVATIONS[config.conv_act](F.dropout(found, config.hidden_dropout_prob, rng))
    return F.add_layer_norm(x, found, p["LayerNorm"]["weight"], p["LayerNorm"]["bias"], eps=config.layer_norm_eps)


def standing_at(sockets: Sockets, config: Config, at) -> Sockets:
    """The sockets for a layer that is computed at the positions ``at`` (B, M) alone: relative attention is told where it is."""
    return replace(sockets, attention=partial(sockets.attention, at=at)) if config.relative_attention else sockets


def encode_below(
    params: dict, config: Config, input_ids, attention_mask=None, token_type_ids=None, *, position_ids=None, rng=None,
    sockets: Sockets = BERT,
):  # fmt: skip
    """The last layer's tree, the states (B, L, H) before it, and the bias of padding; arguments as :func:`encode`."""
    first = x = embed(params, config, input_ids, token_type_ids, position_ids, rng)
    padding = None if attention_mask is None else F.padding_bias(attention_mask, x.dtype)
    bias = attention_bias(params, config, x.shape[1], padding)
    *lower, last = families.layers(params, config)
    sockets = of_family(sockets, config)
    for layer in lower:
        x = sockets.wiring(layer, x, x, bias, config, sockets, rng)
        if "convolution" in layer:
            x = convolved(layer["convolution"], first, x, attention_mask, config, rng)
    return last, x, padding


def encode(
    params: dict,
    config: Config,
    input_ids,
    attention_mask=None,
    token_type_ids=None,
    *,
    position_ids=None,
    rng=None,
    at=None,
    sockets: Sockets = BERT,
):
    """Hidden states of the last layer, (B, L, H).

    input_ids integers (B, L); attention_mask (B, L), 1 for tokens and 0 for padding, None when nothing is padding;
    token_type_ids (B, L) or None for all 0; position_ids (B, L) or None for the family's own. ``rng`` turns dropout on.
    With ``at`` (B, M) only the hidden states at those positions are returned, (B, M, H): the last layer then computes
    keys and values everywhere, and all the rest only where it is read, which changes no result.
    An attention gets what it has to add to its scores from :func:`attention_bias`: MPNet's has heads and queries too.
    """
    last, x, padding = encode_below(
        params, config, input_ids, attention_mask, token_type_ids, position_ids=position_ids, rng=rng, sockets=sockets
    )
    bias, sockets = attention_bias(params, config, x.shape[1], padding, at), of_family(sockets, config)
    if at is None:
        return finished(params, config, sockets.wiring(last, x, x, bias, config, sockets, rng))
    x = sockets.wiring(last, take_positions(x, at), x, bias, config, standing_at(sockets, config, at), rng)
    return finished(params, config, x)
