"""Layer norm: where it stands in a layer, and what it divides by.

A layer adds what its two halves F compute (attention, feed-forward) to its input. Where the norm stands decides how large a
gradient is at the start, and with that whether a run needs a warm-up:

    post-LN     x = LN(x + F(x))             Vaswani et al. 2017; BERT, RoBERTa, ELECTRA ...
    pre-LN      x = x + F(LN(x))             Xiong et al., "On Layer Normalization in the Transformer Architecture", ICML 2020,
                and LN behind the last       arXiv:2002.04745, table 1; RoBERTa-PreLayerNorm in transformers
    sandwich    x = x + LN(F(LN(x)))         Ding et al. 2021 (CogView), arXiv:2105.13290
    DeepNorm    x = LN(alpha x + F(x))       Wang et al. 2022 (DeepNet), arXiv:2203.00555; some weights start beta times as large

At the start a post-LN model's gradient with respect to the last feed-forward matrix is O(H sqrt(ln H)), whatever the number of
layers; a pre-LN model's is O(H sqrt(ln H / layers)) (Xiong et al., theorem 1): states that are not normalised grow with depth
(lemma 2), and a norm's derivative falls with the length of what it reads (lemma 3). :func:`gradient_norms` measures a model's.

RMSNorm (Zhang & Sennrich, NeurIPS 2019, arXiv:1910.07467) leaves out the mean and the bias: x / sqrt(mean(x^2) + eps) * g, which
is :func:`bertcraft.tensor.functions.rms_norm`.

**A norm stands in the tree of parameters where it stands in the computation**: before attention it is ``attention.LayerNorm``,
behind it ``attention.output.LayerNorm``; before the feed-forward network ``intermediate.LayerNorm``, behind it
``output.LayerNorm``; behind all layers ``LayerNorm`` of the whole. These are the names of BERT and of RoBERTa-PreLayerNorm. One
without a bias is an RMSNorm. The wirings fit the encoder's socket of that name.

Shapes: B texts, L length, H hidden size.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from bertcraft.bert import encoder, families
from bertcraft.bert.config import Config
from bertcraft.bert.encoder import Sockets
from bertcraft.bert.initialise import initial_params as initial_model
from bertcraft.errors import InputError
from bertcraft.tensor import functions as F
from bertcraft.tensor import grad, tree

# ---------------------------------------------------------------------------------------------------------- the norms


def normed(p: dict, x, config: Config):
    """x (..., H) normalised with the weight and bias in p; without a bias by the root of its mean square (RMSNorm)."""
    if "bias" in p:
        return F.layer_norm(x, p["weight"], p["bias"], eps=config.layer_norm_eps)
    return F.rms_norm(x, p["weight"], config.layer_norm_eps)


def norm(p: dict, x, added, config: Config, rng=None):
    """The encoder's norm socket for either norm: ``normed(x + dropout(added))``."""
    return normed(p, x + F.dropout(added, config.hidden_dropout_prob, rng), config)


# -------------------------------------------------------------------------------------------------------- the wirings


def pre_layer_norm(layer: dict, x, source, bias, config: Config, sockets: Sockets, rng=None):
    """x + F(LN(x)) for attention, then for the feed-forward network; x (B, L, H) itself is never normalised."""
    return _within(layer, x, source, bias, config, sockets, rng, lambda half, found: found)


def sandwich_layer_norm(layer: dict, x, source, bias, config: Config, sockets: Sockets, rng=None):
    """x + LN(F(LN(x))): what a half adds has the size that the second norm's weight gives it."""
    return _within(layer, x, source, bias, config, sockets, rng, lambda half, found: normed(half["LayerNorm"], found, config))


def _within(layer, x, source, bias, config, sockets, rng, behind):
    """Norms inside of the residual branch; ``behind(half, found)`` is done with what a half of the layer found."""
    rate, before = config.hidden_dropout_prob, layer["attention"]["LayerNorm"]
    read = normed(before, x, config)
    around = read if source is x else normed(before, source, config)
    found = F.dropout(sockets.attention(layer, read, around, bias, config, rng), rate, rng)
    x = x + behind(layer["attention"]["output"], found)
    found = sockets.feed_forward(layer, normed(layer["intermediate"]["LayerNorm"], x, config), config)
    return x + behind(layer["output"], F.dropout(found, rate, rng))


class DeepNorm(NamedTuple):
    """DeepNorm's constants: of the residual, and of weights at the start."""

    alpha: float
    beta: float


def deep_norm_constants(layers: int) -> DeepNorm:
    """(2 N)^(1/4) and (8 N)^(-1/4) for an encoder of N layers without a decoder (Wang et al. 2022, figure 2)."""
    return DeepNorm((2 * layers) ** 0.25, (8 * layers) ** -0.25)


def deep_norm(layer: dict, x, source, bias, config: Config, sockets: Sockets, rng=None):
    """LN(alpha x + F(x)): BERT's order, with more of what was there before."""
    alpha = deep_norm_constants(config.num_hidden_layers).alpha
    attended = sockets.attention(layer, x, source, bias, config, rng)
    x = sockets.norm(layer["attention"]["output"]["LayerNorm"], alpha * x, attended, config, rng)
    return sockets.norm(layer["output"]["LayerNorm"], alpha * x, sockets.feed_forward(layer, x, config), config, rng)


class Wiring(NamedTuple):
    """How a layer is put together, and whether norms stand before and behind its halves."""

    wiring: Callable
    before: bool
    behind: bool


WIRINGS = {
    "post": Wiring(encoder.post_layer_norm, before=False, behind=True),
    "pre": Wiring(pre_layer_norm, before=True, behind=False),
    "sandwich": Wiring(sandwich_layer_norm, before=True, behind=True),
    "deep": Wiring(deep_norm, before=False, behind=True),
}
NORMS = ("layer", "rms")


def sockets(wiring: str, norms: str = "layer") -> Sockets:
    """The encoder's sockets for a wiring of :data:`WIRINGS` and "layer" or "rms" norms. Raises InputError for other names."""
    _check(wiring, norms)
    return Sockets(norm=encoder.norm if norms == "layer" else norm, wiring=WIRINGS[wiring].wiring)


def initial_params(
    config: Config, seed: int, wiring: str = "post", norms: str = "layer", dtype: type = np.float32, *,
    deviation: float | None = None,
) -> dict:  # fmt: skip
    """Parameters to start from: those of a BERT, its norms where the wiring has them; weights alike whatever the norms.

    config: of the family bert; deviation: of the weights, as for :func:`bertcraft.bert.initial_params`. The norm of the
    embeddings is a layer norm in all; DeepNorm multiplies values, output of attention and feed-forward matrices by beta. Raises
    InputError for other families or names.
    """
    _check(wiring, norms)
    if config.family != "bert":
        raise InputError(f"config: got the family {config.family!r}, expected bert, whose norms are moved about")
    params, (_, before, behind) = initial_model(config, seed, dtype, deviation=deviation), WIRINGS[wiring]
    body = families.backbone(params, config)

    def fresh() -> dict:
        weight = {"weight": np.ones(config.hidden_size, dtype)}
        return weight if norms == "rms" else weight | {"bias": np.zeros(config.hidden_size, dtype)}

    for layer in body["encoder"]["layer"].values():
        attention = layer["attention"]
        for half in (attention["output"], layer["output"]):
            del half["LayerNorm"]
        for place in (attention, layer["intermediate"]) if before else ():
            place["LayerNorm"] = fresh()
        for place in (attention["output"], layer["output"]) if behind else ():
            place["LayerNorm"] = fresh()
        for part in (attention["self"]["value"], attention["output"]["dense"], layer["intermediate"]["dense"],
                     layer["output"]["dense"]) if wiring == "deep" else ():  # fmt: skip
            part["weight"] *= dtype(deep_norm_constants(config.num_hidden_layers).beta)
    if before:
        body["LayerNorm"] = fresh()
    return params


def norm_parameters(config: Config, wiring: str = "post", norms: str = "layer") -> int:
    """The numbers in an encoder's norms, that of the embeddings included: 2 H a layer norm, H an RMSNorm."""
    _check(wiring, norms)
    _, before, behind = WIRINGS[wiring]
    count = 2 * (before + behind) * config.num_hidden_layers + before
    return config.hidden_size * (2 + count * (1 if norms == "rms" else 2))


def _check(wiring: str, norms: str) -> None:
    if wiring not in WIRINGS or norms not in NORMS:
        expected = f"one of {', '.join(WIRINGS)} and one of {', '.join(NORMS)}"
        raise InputError(f"got the wiring {wiring!r} and the norms {norms!r}, expected {expected}")


# -------------------------------------------------------------------------------------------------- what they do at the start


def gradient_norms(loss: Callable, params: dict, batches: Iterable, config: Config) -> np.ndarray:
    """Frobenius norm of the expected gradient of each layer's two feed-forward matrices: (layers, 2).

    loss: ``loss(params, batch) -> scalar``. As in Xiong et al. 2020, section 3.4: the gradient is averaged, number by number,
    over the batches, then measured.
    """
    total, count = None, 0
    for batch in batches:
        found = [(layer["intermediate"]["dense"]["weight"], layer["output"]["dense"]["weight"])
                 for layer in families.layers(grad(loss)(params, batch), config)]  # fmt: skip
        total = found if total is None else tree.map(np.add, total, found)
        count += 1
    return np.array([[np.sqrt(np.sum(np.square(g))) / count for g in pair] for pair in total])


def state_sizes(params: dict, config: Config, input_ids, sockets: Sockets) -> np.ndarray:
    """Mean squared length of a token's state behind each layer, over H: (layers,); input_ids (B, L).

    Post-LN: the norm's weights decide it, 1 at the start. Pre-LN: between 1 + l/2 and 1 + 3l/2 behind layer l, for weights of
    variance 1/H, even attention and ReLU (Xiong et al., lemma 2).
    """
    sizes = []

    def wiring(*args):
        states = sockets.wiring(*args)
        sizes.append(float(np.mean(np.sum(np.square(states), axis=-1))) / config.hidden_size)
        return states

    encoder.encode(params, config, input_ids, sockets=replace(sockets, wiring=wiring))
    return np.array(sizes)
