"""Disentangled attention: what a token is and where it stands are two vectors, and a score adds up how they meet.

He, Liu, Gao & Chen, "DeBERTa: Decoding-enhanced BERT with Disentangled Attention", ICLR 2021, arXiv:2006.03654. BERT adds a
vector of the position to that of the word and lets attention sort the two out. Here the position is the distance i - j of two
tokens, it has queries and keys of its own, and the score of query i and key j is a sum of three (equation 4):

    content to content   Qc_i . Kc_j
    content to position  Qc_i . Kr_d(i,j)     what does this word look for, so many places away?
    position to content  Kc_j . Qr_d(i,j)     which words matter to somebody so many places away?

divided by sqrt(3 D) in place of sqrt(D). The fourth, position to position, says nothing of the text and is left out. d(i,j) is a
row of a table of 2k vectors that all layers share (equation 3); DeBERTa v2 and v3 take far distances together in buckets, and
project the table with the maps that project the words (``share_att_key``).

Row i of the content-to-position scores needs the products of Qc_i with all distances, shifted by i: :func:`shifted` does this
with two reshapes, for all rows at once. No array of L x L vectors is ever made.

The encoder runs :func:`projected` for the models of the DeBERTa family, whose checkpoints keep the maps and the table;
:func:`enhanced_mask_decoder` is how they were pretrained.

Shapes: B texts, L length, M queries (L, or those at some positions), H hidden size, D size of a head, W = 2L - 1 distances.
"""

import math

import numpy as np

from bertcraft.bert import encoder
from bertcraft.bert.config import Config
from bertcraft.bert.encoder import Sockets, dense
from bertcraft.errors import InputError
from bertcraft.tensor import functions as F

# ------------------------------------------------------------------------------------------------ which row of the table


def table_row(distance, reach: int):
    """d(i, j), the row for the distance i - j: one for each from -k to k - 1, farther ones cut (He et al. 2021, equation 3)."""
    return np.clip(distance + reach, 0, 2 * reach - 1)


def log_bucket(distance, buckets: int, longest: int):
    """Distances of v2 and v3: as they are up to buckets / 2, behind it ever more of them in one, by their logarithm.

    Integers of any shape; distances of ``longest`` - 1 and more come to lie at the edge of the table, ``buckets`` - 1, or
    beyond it. In double precision, as in the authors' code.
    """
    middle = buckets // 2
    size = np.abs(distance)
    share = np.log(np.maximum(size, middle) / middle) / math.log((longest - 1) / middle)
    far = middle + np.ceil(share * (middle - 1)).astype(np.int64)
    return np.where(size <= middle, distance, np.sign(distance) * far)


def table_rows(length: int, reach: int, buckets: int = 0) -> np.ndarray:
    """The row for each distance from -(L - 1) to L - 1: integers (W,) below 2k, or below 2 * ``buckets`` where there are any."""
    distance = np.arange(1 - length, length)
    return table_row(log_bucket(distance, buckets, reach), buckets) if buckets > 0 else table_row(distance, reach)


# --------------------------------------------------------------------------------------------------- the scores of position


def shifted(x):
    """Row r moved to the left by L - 1 - r: (..., L, W) -> (..., L, L), out[r, s] = x[r, L - 1 + s - r].

    Laid out in one line, the elements of two successive rows that are wanted lie W - 1 apart: reading the line in rows of
    W - 1 puts them below each other (Dai et al. 2019, arXiv:1901.02860, appendix B).
    """
    *outer, length, width = x.shape
    if length == 1:
        return x
    line = np.reshape(x, (*outer, length * width))[..., length - 1 : length - 1 + length * (width - 1)]
    return np.reshape(line, (*outer, length, width - 1))[..., :length]


def content_to_position(query, pos_key, at=None):
    """Qc_i . Kr_d(i,j): query (B, heads, M, D), pos_key (heads, W, D), of distances in ascending order -> (B, heads, M, L).

    at: integers (B, M), where the queries stand; None for queries at every position.
    """
    products = query @ np.swapaxes(pos_key[:, ::-1], -1, -2)
    if at is None:
        return shifted(products)
    length = (pos_key.shape[1] + 1) // 2
    column = np.arange(length) - at[..., None] + length - 1
    return np.take_along_axis(products, column[:, None], axis=-1)


def position_to_content(key, pos_query, at=None):
    """Kc_j . Qr_d(i,j): key (B, heads, L, D), pos_query (heads, W, D), of distances in ascending order -> (B, heads, M, L).

    The index is that of the authors' code, of transformers and so of all released weights. Equation 4 of the paper has d(j,i):
    see :func:`position_to_content_as_printed`.
    """
    products = key @ np.swapaxes(pos_query, -1, -2)
    if at is None:
        return np.swapaxes(shifted(products), -1, -2)
    length = key.shape[2]
    column = at[:, None, :] - np.arange(length)[:, None] + length - 1
    return np.swapaxes(np.take_along_axis(products, column[:, None], axis=-1), -1, -2)


def position_to_content_as_printed(key, pos_query, at=None):
    """Kc_j . Qr_d(j,i), as the paper has it: the distances the other way round. No released model computes this."""
    return position_to_content(key, pos_query[:, ::-1], at)


def position_scores(query, key, pos_key=None, pos_query=None, *, terms=3, heads=1, at=None, to_content=position_to_content):
    """What the positions add to the scores of attention, scaled: (B, heads, M, L), or None without either table.

    query (B, M, H) and key (B, L, H); pos_key and pos_query (W, H), the projected vectors of the distances from -(L - 1) to
    L - 1, or None. All is divided by sqrt(terms * D).
    """
    scale = 1 / math.sqrt(terms * (query.shape[-1] // heads))
    scores = []
    if pos_key is not None:
        scores.append(content_to_position(F.split_heads(query * scale, heads), F.split_heads(pos_key[None], heads)[0], at))
    if pos_query is not None:
        scores.append(to_content(F.split_heads(key, heads), F.split_heads(pos_query[None] * scale, heads)[0], at))
    return sum(scores[1:], scores[0]) if scores else None


# -------------------------------------------------------------------------------------------------------- in the encoder


def projected(layer: dict, x, source, bias, config: Config, rng=None, at=None, to_content=position_to_content):
    """A layer's queries (B, M, H), keys and values (B, L, H), and what is added to their scores: for ``F.attention``.

    layer is DeBERTa's as :func:`bertcraft.bert.families.layers` shows it. x (B, M, H) stands at the positions ``at`` (B, M) of
    source (B, L, H), or is as long. Dropout falls on the table as well, in each layer anew.
    """
    maps, heads, length = layer["attention"]["self"], config.num_attention_heads, source.shape[1]
    content, position = maps["content"], maps["position"]
    query, key, value = dense(content["query"], x), dense(content["key"], source), dense(content["value"], source)
    terms = 1 + len(config.pos_att_type or ())  # of a model without relative attention too, as in transformers
    more = None
    if config.relative_attention:
        if at is None and x.shape[1] != length:
            raise InputError(f"got {x.shape[1]} queries for a text of {length} tokens: pass at=, the places where they stand")
        rows = table_rows(length, config.relative_reach, config.position_buckets)
        lowest, highest = int(rows.min()), int(rows.max())
        table = F.dropout(position["table"][lowest : highest + 1], config.hidden_dropout_prob, rng)
        of_distance = {  # what the table has no map for is not looked at
            part: F.embedding(dense(position[part], table), rows - lowest)
            for part, kind in (("key", "c2p"), ("query", "p2c"))
            if kind in (config.pos_att_type or ())
        }
        pos_key, pos_query = of_distance.get("key"), of_distance.get("query")
        more = position_scores(query, key, pos_key, pos_query, terms=terms, heads=heads, at=at, to_content=to_content)
    bias = more if bias is None else bias if more is None else more + bias
    return query * terms**-0.5, key, value, bias


def attention(layer: dict, x, source, bias, config: Config, rng=None, at=None, to_content=position_to_content):
    """Disentangled attention for the encoder's ``attention`` socket; what the encoder does for a DeBERTa by itself.

    With ``to_content=position_to_content_as_printed``, by way of ``functools.partial``, it is the paper's equation instead.
    """
    query, key, value, bias = projected(layer, x, source, bias, config, rng, at, to_content)
    heads, rate = config.num_attention_heads, config.attention_probs_dropout_prob
    context = F.attention(query, key, value, bias, heads=heads, rate=rate, rng=rng)
    return dense(layer["attention"]["output"]["dense"], context)


def enhanced_mask_decoder(
    params: dict, config: Config, positions, input_ids, attention_mask=None, token_type_ids=None, *, at=None, rng=None,
    sockets: Sockets = encoder.BERT,
):  # fmt: skip
    """Hidden states to predict masked tokens from, which know where they stand in the text (He et al. 2021, section 3.2).

    A word's distances to others say what it may be; that it begins the sentence, say, only its absolute position can. It comes
    in late: the last layer runs twice, its queries begin with ``positions`` (longest length, H) added, and keys and values are
    both times the states before that layer. Returns (B, L, H), or (B, M, H) at the positions ``at`` (B, M).

    transformers has no such decoder: its masked language models read the last layer.
    """
    last, below, bias = encoder.encode_below(params, config, input_ids, attention_mask, token_type_ids, rng=rng, sockets=sockets)
    x = below + positions[: below.shape[1]]
    if at is not None:
        x, sockets = encoder.take_positions(x, at), encoder.standing_at(sockets, config, at)
    for _ in range(2):
        x = sockets.wiring(last, x, below, bias, config, sockets, rng)
    return x


def extra_parameters(hidden: int, layers: int, reach: int) -> int:
    """What disentangled attention adds to a model: two maps a layer, and the table (biases, and what EMD adds, not counted)."""
    return 2 * layers * hidden**2 + 2 * reach * hidden
