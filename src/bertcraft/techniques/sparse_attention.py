"""Sparse attention: each token looks at few others, so that time and memory grow with the length, not with its square.

Beltagy, Peters & Cohan, "Longformer: The Long-Document Transformer", 2020, arXiv:2004.05150 (sliding window, dilated window,
global tokens) and Zaheer et al., "Big Bird: Transformers for Longer Sequences", 2020, arXiv:2007.14062 (random blocks).

One idea carries all four patterns: the text is cut into blocks, each block of queries is handed the few blocks of keys that it
may look at, and ordinary attention runs on these small pieces, many at a time. No array of L x L elements is ever made.

:func:`longformer` and :func:`bigbird` fit the encoder's ``attention`` socket; what they call takes queries, keys and values.

Shapes: B texts, L length, H hidden size, G global tokens of a text.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np

from bertcraft.bert.config import Config
from bertcraft.bert.encoder import dense, take_positions
from bertcraft.errors import InputError
from bertcraft.tensor import functions as F

_SMALLEST_BLOCK = 32  # of a window: smaller products are not fast


def attend_blocks(query, key, value, mask, near, *, band=None, everywhere=None, heads=1, rate=0.0, rng=None):
    """Each block of queries attends to its own blocks of keys.

    query (N, Lq, H); key and value (N, L, H); mask (N, L), true for keys that may be seen. near: integers (blocks, m), or
    (N, blocks, m): the numbers of the m blocks of keys that each block of queries sees, -1 for none; the size of a block is
    Lq / blocks. band: booleans (block, m * block), which of these keys each query of a block sees (default: all).
    everywhere: keys and values (N, G, H) that all queries see besides, and their mask (N, G).

    Returns (N, Lq, H). A query that may see nothing sees all that its block was handed.
    """
    (rows, length, hidden), number = query.shape, near.shape[-2]
    block, pieces = length // number, rows * number
    blocks = key.shape[1] // block
    at = np.maximum(near, 0) + blocks * np.arange(rows)[:, None, None]  # (N, number, m)
    there = np.broadcast_to(near >= 0, at.shape)[..., None]
    allowed = np.reshape(np.take(np.reshape(mask != 0, (rows * blocks, block)), at, axis=0) & there, (pieces, 1, -1))
    if band is not None:
        allowed = allowed & band

    def gathered(x):  # (N, L, H) -> (pieces, m * block, H)
        return np.reshape(F.embedding(np.reshape(x, (rows * blocks, block * hidden)), at), (pieces, -1, hidden))

    key, value = gathered(key), gathered(value)
    if everywhere is not None:
        more = [_repeat_rows(x, pieces) for x in everywhere]
        key, value = np.concatenate([more[0], key], axis=1), np.concatenate([more[1], value], axis=1)
        seen = np.broadcast_to(more[2][:, None], (pieces, *allowed.shape[1:2], more[2].shape[1]))
        allowed = np.concatenate([seen, allowed], axis=2)
    allowed = allowed | ~np.any(allowed, axis=2, keepdims=True)
    query = np.reshape(query, (pieces, block, hidden))
    context = F.attention(query, key, value, _bias(allowed[:, None], query.dtype), heads=heads, rate=rate, rng=rng)
    return np.reshape(context, (rows, length, hidden))


def _bias(allowed, dtype):
    """What is added to a score: 0 where a key may be seen, the most negative number where not."""
    return ~allowed * np.finfo(dtype).min


def _repeat_rows(x, rows: int):
    """(N, ...) -> (rows, ...), each row rows / N times in succession."""
    repeated = np.broadcast_to(x[:, None], (x.shape[0], rows // x.shape[0], *x.shape[1:]))
    return np.reshape(repeated, (rows, *x.shape[1:]))


def _pad(x, length: int):
    """Zeros (or false) after the end of axis 1."""
    missing = length - x.shape[1]
    return np.pad(x, [(0, missing if axis == 1 else 0) for axis in range(x.ndim)]) if missing else x


# ----------------------------------------------------------------------------------------------- sliding window


def window_attention(query, key, value, mask, window: int, *, dilation=1, everywhere=None, heads=1, rate=0.0, rng=None):
    """Attention to the tokens up to ``window`` places before and after (Longformer, section 3.1).

    With a dilation d the places are d tokens apart: a token sees those at distances 0, d, 2d ... window * d, as if the text
    were d texts of every d-th token. query, key and value (B, L, H); mask (B, L), true for keys that may be seen.
    ``everywhere`` as for :func:`attend_blocks`. Returns (B, L, H).
    """
    batch, length, hidden = query.shape
    each = -(-length // dilation)
    block = min(max(window, _SMALLEST_BLOCK), each)
    each = -(-each // block) * block

    def comb(x):  # (B, L, ...) -> (B * d, each, ...)
        x = np.reshape(_pad(x, each * dilation), (batch, each, dilation, *x.shape[2:]))
        return np.reshape(np.swapaxes(x, 1, 2), (batch * dilation, each, *x.shape[3:]))

    near, band = _window_blocks(each // block, block, window)
    parts = [comb(x) for x in (query, key, value, mask)]
    context = attend_blocks(*parts, near, band=band, everywhere=everywhere, heads=heads, rate=rate, rng=rng)
    context = np.swapaxes(np.reshape(context, (batch, dilation, each, hidden)), 1, 2)
    return np.reshape(context, (batch, each * dilation, hidden))[:, :length]


@functools.lru_cache(maxsize=64)
def _window_blocks(blocks: int, block: int, window: int):
    """``near`` and ``band`` of a sliding window."""
    reach = min(-(-window // block), blocks - 1)
    offsets = np.arange(-reach, reach + 1)
    near = np.arange(blocks)[:, None] + offsets
    near = np.where(near < blocks, np.maximum(near, -1), -1)
    key = (offsets[:, None] * block + np.arange(block)).ravel()
    return near, np.abs(key - np.arange(block)[:, None]) <= window


def longformer_attention(p: dict, x, mask, window, *, global_at=None, dilations=1, heads=1, rate=0.0, rng=None):
    """A window for every token; global tokens see all and are seen by all (Longformer, sections 3.1 and 3.2).

    p holds the maps "query", "key" and "value", and for the global tokens' own view "query_global", "key_global" and
    "value_global" (without these they use the former). x (B, L, H); mask (B, L), booleans or integers, true for real tokens, or
    None. window: places to either side, half of what transformers calls ``attention_window``. global_at: integers (B, G) or (G,),
    the places of global tokens; -1, a place behind the end and one on padding are none. dilations: one number, or one a head.

    Returns (B, L, H), zero at padding: what ``LongformerSelfAttention`` of transformers returns.
    Raises InputError for a window or a dilation below 1, and for more or fewer dilations than heads.
    """
    batch, length, hidden = x.shape
    dilations = (dilations,) * heads if isinstance(dilations, int) else tuple(dilations)
    if window < 1 or min(dilations) < 1 or len(dilations) != heads:
        raise InputError(f"expected a window of 1 or more and {heads} dilations of 1 or more, got {window} and {dilations}")
    mask = np.ones((batch, length), bool) if mask is None else mask != 0
    query, key, value = dense(p["query"], x), dense(p["key"], x), dense(p["value"], x)
    local, everywhere = mask, None
    if global_at is not None:
        global_at = np.broadcast_to(global_at, (batch, np.shape(global_at)[-1]))
        global_at = np.where(global_at < length, global_at, -1)
        slot = _slots(global_at, length)
        local = mask & (slot < 0)  # a window leaves global tokens out: each key counts once
        at = np.maximum(global_at, 0)
        is_real = np.take_along_axis(mask, at, axis=1)
        everywhere = take_positions(key, at), take_positions(value, at), (global_at >= 0) & is_real

    parts, size = [], hidden // heads
    for dilation, group in itertools.groupby(range(heads), dilations.__getitem__):
        group = list(group)
        these = np.s_[..., group[0] * size : (group[-1] + 1) * size]
        mine = everywhere and (everywhere[0][these], everywhere[1][these], everywhere[2])
        parts.append(
            window_attention(
                query[these], key[these], value[these], local, window, dilation=dilation, everywhere=mine, heads=len(group),
                rate=rate, rng=rng,
            )
        )  # fmt: skip
    context = np.where(mask[..., None], np.concatenate(parts, axis=-1), 0)
    if global_at is None:
        return context

    query = dense(p.get("query_global", p["query"]), take_positions(x, at))
    key = dense(p["key_global"], x) if "key_global" in p else key
    value = dense(p["value_global"], x) if "value_global" in p else value
    view = F.attention(query, key, value, _bias(mask, x.dtype)[:, None, None], heads=heads, rate=rate, rng=rng)
    return np.where(((slot >= 0) & mask)[..., None], take_positions(view, np.maximum(slot, 0)), context)


def _slots(global_at, length: int):
    """For each place which of the global tokens stands there, -1 for none: (B, G) -> (B, L)."""
    slots = np.full((len(global_at), length + 1), -1)  # the last column is where -1 points
    np.put_along_axis(slots, global_at, np.arange(global_at.shape[1])[None], axis=1)
    return slots[:, :length]


# ------------------------------------------------------------------------------------------------ random blocks


def random_blocks(blocks: int, number: int, heads: int, seed: int) -> np.ndarray:
    """The blocks that each inner block sees at random, for each head: (heads, blocks - 2, number), -1 where there are too few.

    Drawn without repeats from those that it does not see anyway: first, last, its neighbours and itself (BigBird, section 2).
    """
    rng = np.random.default_rng(seed)
    inner = np.arange(1, blocks - 1)
    before, after = np.where(inner > 1, inner - 1, blocks), np.where(inner < blocks - 2, inner + 1, blocks)
    known = np.stack([np.zeros_like(inner), before, inner, after, np.full_like(inner, blocks - 1)], axis=1)
    taken = np.sort(np.broadcast_to(known, (heads, *known.shape)))  # ascending; "blocks" stands for none
    drawn = [taken[..., :0]]
    for _ in range(number):
        free = blocks - np.sum(taken < blocks, axis=2, keepdims=True)
        pick = (rng.random(free.shape) * free).astype(np.int64)  # the pick-th of those that are not taken:
        for place in range(taken.shape[2]):
            pick = pick + (pick >= taken[..., place : place + 1])
        pick = np.where(free > 0, pick, blocks)
        taken = np.sort(np.concatenate([taken, pick], axis=2))
        drawn.append(np.where(free > 0, pick, -1))
    return np.concatenate(drawn, axis=2)


def bigbird_attention(query, key, value, mask, block: int, random, *, heads=1, rate=0.0, rng=None):
    """Blocks see their neighbours, the first and the last block and random ones; those two see all (BigBird, section 2).

    query, key and value (B, L, H); mask (B, L), booleans or integers, true for real tokens, or None; random
    (heads, blocks - 2, r) as from :func:`random_blocks`, for the inner blocks of the text once it is padded to a multiple of
    ``block``.

    Returns (B, L, H), zero at padding: what ``BigBirdBlockSparseAttention`` of transformers returns.
    """
    batch, length, hidden = query.shape
    blocks = -(-length // block)
    whole = blocks * block
    mask = np.ones((batch, length), bool) if mask is None else mask != 0
    real, mask = mask, _pad(mask, whole)
    query, key, value = (_pad(x, whole) for x in (query, key, value))
    edges = np.concatenate([query[:, :block], query[:, max(whole - block, block) :]], axis=1)
    edges = F.attention(edges, key, value, _bias(mask, query.dtype)[:, None, None], heads=heads, rate=rate, rng=rng)
    parts = [edges[:, :block], edges[:, block:]]
    if blocks > 2:
        window = np.arange(1, blocks - 1)[:, None] + [-1, 0, 1]
        window = np.where((window > 0) & (window < blocks - 1), window, -1)
        known = np.concatenate([window, np.broadcast_to([0, blocks - 1], (blocks - 2, 2))], axis=1)
        near = np.concatenate([np.broadcast_to(known, (heads, *known.shape)), random], axis=2)
        near = np.tile(near, (batch, 1, 1))
        alone = [np.reshape(F.split_heads(x, heads), (batch * heads, -1, hidden // heads)) for x in (query, key, value)]
        alone[0] = alone[0][:, block:-block]
        context = attend_blocks(*alone, _repeat_rows(mask, batch * heads), near, rate=rate, rng=rng)
        context = F.merge_heads(np.reshape(context, (batch, heads, -1, hidden // heads)))
        parts.insert(1, context)
    return np.where(real[..., None], np.concatenate(parts, axis=1)[:, :length], 0)


# -------------------------------------------------------------------------------------------------- the sockets


def longformer(window: int, global_tokens: int = 0, dilations: int | Sequence[int] = 1) -> Callable:
    """Longformer's attention for ``Sockets(attention=...)``; the first ``global_tokens`` of a text, [CLS] say, are global.

    The layer's "query_global" and so on are used where it has them.
    """
    at = np.arange(global_tokens) if global_tokens else None

    def attention(layer: dict, x, source, bias, config: Config, rng=None):
        heads, rate = _checked(x, source, config), config.attention_probs_dropout_prob
        p, mask = layer["attention"]["self"], _mask(bias)
        context = longformer_attention(p, x, mask, window, global_at=at, dilations=dilations, heads=heads, rate=rate, rng=rng)
        return dense(layer["attention"]["output"]["dense"], context)

    return attention


def bigbird(block: int, random: int = 3, seed: int = 0) -> Callable:
    """BigBird's attention for ``Sockets(attention=...)``: ``random`` random blocks, the same for a length in all layers.

    Raises InputError for blocks of less than one token, or a negative number of random blocks.
    """
    if block < 1 or random < 0:
        raise InputError(f"expected blocks of 1 token or more and 0 random blocks or more, got {block} and {random}")

    @functools.lru_cache(maxsize=64)
    def drawn(blocks: int, heads: int) -> np.ndarray:
        return random_blocks(blocks, random, heads, seed)

    def attention(layer: dict, x, source, bias, config: Config, rng=None):
        heads, rate = _checked(x, source, config), config.attention_probs_dropout_prob
        p, blocks = layer["attention"]["self"], max(-(-x.shape[1] // block), 2)
        query, key, value = dense(p["query"], x), dense(p["key"], x), dense(p["value"], x)
        drew = drawn(blocks, heads)
        context = bigbird_attention(query, key, value, _mask(bias), block, drew, heads=heads, rate=rate, rng=rng)
        return dense(layer["attention"]["output"]["dense"], context)

    return attention


def _mask(bias):
    """True for real tokens, from :func:`F.padding_bias`. Raises InputError for a bias that says more than what is padding."""
    if bias is not None and bias.shape[1:3] != (1, 1):
        raise InputError(
            f"sparse attention got a bias of shape {bias.shape}, a number for each head or pair of tokens: models with relative "
            "positions, such as MPNet's, add one, and sparse attention has none. Use it with absolute positions"
        )
    return None if bias is None else bias[:, 0, 0] == 0


def _checked(x, source, config: Config) -> int:
    if x.shape != source.shape:
        raise InputError(
            f"sparse attention got {x.shape[1]} queries for a text of {source.shape[1]} tokens: it needs one for each token, to "
            "know where it stands. Call encode without at=, and take_positions on what it returns"
        )
    if config.relative_attention:
        raise InputError("sparse attention has no terms for relative positions, which this DeBERTa needs: use absolute positions")
    return config.num_attention_heads
