"""Adapter modules and their kin: fine-tuning that trains a small part of a large model.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, arXiv:1902.00751, put two small bottlenecks into
each layer and freeze the rest. What came after it does the same in other places: LoRA (Hu et al. 2021, arXiv:2106.09685)
adds a matrix of low rank to a weight, IA3 (Liu et al. 2022, arXiv:2205.05638) rescales activations, prefix-tuning (Li &
Liang 2021, arXiv:2101.00190; behind a gate that starts at 0: Zhang et al. 2023, arXiv:2303.16199) puts trained keys and
values before those of the text, and BitFit (Zaken et al. 2022, arXiv:2106.10199) adds nothing: it trains the biases.

A :class:`Method` says what is trained. The trained parameters are a small tree of their own, under the names of the
checkpoint; :func:`overlay` lays it over the frozen tree, and the encoder runs on the two with the method's sockets. A
gradient is taken with respect to the small tree alone: the frozen arrays are constants to the tape, which does no work for
them. Whatever the method, the head is trained: all that stands on the encoder, its pooler included.

Shapes: B batch, L length, H hidden size, P prefix, r rank, m bottleneck.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from bertcraft.bert import encoder
from bertcraft.bert.config import Config
from bertcraft.bert.encoder import Sockets, dense
from bertcraft.errors import InputError
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree

# ----------------------------------------------------------------------------------------------------- what they compute


def bottleneck(p: dict, x):
    """x + W_up gelu(W_down x + b_down) + b_up (Houlsby et al. 2019, figure 2): (..., H) -> (..., H), by way of (..., m)."""
    return x + dense(p["up"], F.gelu(dense(p["down"], x)))


def houlsby_wiring(layer: dict, x, source, bias, config: Config, sockets: Sockets, rng=None):
    """A layer in BERT's order with a bottleneck behind either half, before the residual is added (Houlsby et al., figure 2).

    Dropout comes before the bottleneck, as in the authors' code.
    """
    output, rate = layer["attention"]["output"], config.hidden_dropout_prob
    attended = F.dropout(sockets.attention(layer, x, source, bias, config, rng), rate, rng)
    x = sockets.norm(output["LayerNorm"], x, bottleneck(output["adapter"], attended), config)
    fed = F.dropout(sockets.feed_forward(layer, x, config), rate, rng)
    return sockets.norm(layer["output"]["LayerNorm"], x, bottleneck(layer["output"]["adapter"], fed), config)


def _attend(layer: dict, query, key, value, bias, config: Config, rng):
    heads, rate = config.num_attention_heads, config.attention_probs_dropout_prob
    context = F.attention(query, key, value, bias, heads=heads, rate=rate, rng=rng)
    return dense(layer["attention"]["output"]["dense"], context)


def low_rank(p: dict, x, scale: float):
    """W x + b + scale B A x, scale = alpha / r (Hu et al. 2021, eq. 3): A (r, in), B (out, r). x (..., in) -> (..., out)."""
    return dense(p, x) + F.linear(F.linear(x, p["lora_A"]) * scale, p["lora_B"])


def lora_attention(layer: dict, x, source, bias, config: Config, rng=None, *, scale: float):
    """Self-attention with a matrix of low rank added to the weights of queries and values (Hu et al. 2021, section 4.2)."""
    inner = layer["attention"]["self"]
    query, value = low_rank(inner["query"], x, scale), low_rank(inner["value"], source, scale)
    return _attend(layer, query, dense(inner["key"], source), value, bias, config, rng)


def ia3_attention(layer: dict, x, source, bias, config: Config, rng=None):
    """Self-attention with keys and values rescaled, number by number (Liu et al. 2022, section 3.3)."""
    inner = layer["attention"]["self"]
    key, value = (dense(inner[part], source) * inner[part]["ia3"] for part in ("key", "value"))
    return _attend(layer, dense(inner["query"], x), key, value, bias, config, rng)


def ia3_feed_forward(layer: dict, x, config: Config):
    """The feed-forward half with its inner activations rescaled (Liu et al. 2022, section 3.3)."""
    inner = F.ACTIVATIONS[config.hidden_act](dense(layer["intermediate"]["dense"], x))
    return dense(layer["output"]["dense"], inner * layer["output"]["dense"]["ia3"])


def prefix_attention(layer: dict, x, source, bias, config: Config, rng=None):
    """Self-attention that also sees P trained keys and values (Li & Liang 2021, section 4.2).

    The text keeps its positions. (transformers, whose prefixes are those of a text generator, counts on from P.)
    """
    inner = layer["attention"]["self"]
    batch = source.shape[0]

    def prefixed(part):
        prefix = inner["prefix"][part]
        return np.concatenate([np.broadcast_to(prefix, (batch, *prefix.shape)), dense(inner[part], source)], axis=1)

    if bias is not None:  # all may look at the prefix
        bias = np.concatenate([np.zeros((batch, 1, 1, inner["prefix"]["key"].shape[0]), bias.dtype), bias], axis=-1)
    return _attend(layer, dense(inner["query"], x), prefixed("key"), prefixed("value"), bias, config, rng)


def gated_prefix_attention(layer: dict, x, source, bias, config: Config, rng=None):
    """Self-attention, plus a gate times attention to P trained keys and values (Zhang et al. 2023, section 3.2).

    Each has a softmax of its own, so that a gate of 0 changes nothing: the text keeps the weight that it had.
    """
    inner, heads, rate = layer["attention"]["self"], config.num_attention_heads, config.attention_probs_dropout_prob
    query, key, value = dense(inner["query"], x), dense(inner["key"], source), dense(inner["value"], source)
    prefix = inner["prefix"]
    before = (np.broadcast_to(prefix[part], (source.shape[0], *prefix[part].shape)) for part in ("key", "value"))
    context = F.attention(query, key, value, bias, heads=heads, rate=rate, rng=rng)
    context = context + prefix["gate"] * F.attention(query, *before, heads=heads)
    return dense(layer["attention"]["output"]["dense"], context)


# -------------------------------------------------------------------------------------------------------- how they start


def _two_sigma(rng: np.random.Generator, shape: tuple[int, ...], deviation: float, dtype) -> np.ndarray:
    """Normal numbers without those beyond two deviations."""
    values = rng.standard_normal(shape)
    while (far := np.abs(values) > 2).any():
        values[far] = rng.standard_normal(int(far.sum()))
    return (deviation * values).astype(dtype)


def _bottlenecks(params: dict, config: Config, rng: np.random.Generator, size: int) -> dict:
    """Two a layer, close to the identity: deviation 1e-3 as in the authors' code (section 3.6 finds that 1e-2 still works)."""
    hidden, found = config.hidden_size, {}
    for name, layer in _layers(params, config):
        dtype = layer["output"]["dense"]["bias"].dtype
        for place in ("attention.output", "output"):
            found |= {
                f"{name}.{place}.adapter.down.weight": _two_sigma(rng, (size, hidden), 1e-3, dtype),
                f"{name}.{place}.adapter.down.bias": np.zeros(size, dtype),
                f"{name}.{place}.adapter.up.weight": _two_sigma(rng, (hidden, size), 1e-3, dtype),
                f"{name}.{place}.adapter.up.bias": np.zeros(hidden, dtype),
            }
    return found


def _low_ranks(params: dict, config: Config, rng: np.random.Generator, rank: int) -> dict:
    """A normal, B zero: the start changes nothing (Hu et al. 2021, section 4.1). The deviation keeps the length of an input."""
    found = {}
    for name, layer in _layers(params, config):
        for part in ("query", "value"):
            weight = layer["attention"]["self"][part]["weight"]
            out, into = weight.shape
            a = rng.standard_normal((rank, into)) / np.sqrt(into)
            found[f"{name}.attention.self.{part}.lora_A"] = a.astype(weight.dtype)
            found[f"{name}.attention.self.{part}.lora_B"] = np.zeros((out, rank), weight.dtype)
    return found


def _scales(params: dict, config: Config, rng: np.random.Generator) -> dict:
    """Ones: the start changes nothing (Liu et al. 2022, section 3.3)."""
    found = {}
    for name, layer in _layers(params, config):
        inner, output = layer["attention"]["self"], layer["output"]["dense"]["weight"]
        found |= {f"{name}.attention.self.{part}.ia3": np.ones_like(inner[part]["bias"]) for part in ("key", "value")}
        found[f"{name}.output.dense.ia3"] = np.ones(output.shape[1], output.dtype)
    return found


def _prefixes(params: dict, config: Config, rng: np.random.Generator, length: int) -> dict:
    """The keys and values that each layer has for random words: better than random numbers (Li & Liang 2021, section 7.4)."""
    recorded: list[dict] = []

    def recording(layer, x, source, bias, config, rng=None):
        inner = layer["attention"]["self"]
        recorded.append({part: dense(inner[part], source)[0] for part in ("key", "value")})
        return encoder.self_attention(layer, x, source, bias, config)

    if length > config.max_position_embeddings:
        raise InputError(
            f"a prefix of {length}: it starts as a text, and this model has {config.max_position_embeddings} positions"
        )
    words = rng.integers(config.vocab_size, size=(1, length))
    encoder.encode(params, config, words, sockets=Sockets(attention=recording))
    return {
        f"{name}.attention.self.prefix.{part}": array
        for (name, _), arrays in zip(_layers(params, config), recorded, strict=True)
        for part, array in arrays.items()
    }


def _gated_prefixes(params: dict, config: Config, rng: np.random.Generator, length: int) -> dict:
    """The same behind a gate of 0 (one a layer): the start changes nothing."""
    found = _prefixes(params, config, rng, length)
    gates = {name.removesuffix("key") + "gate": np.zeros(1, leaf.dtype) for name, leaf in found.items() if name.endswith("key")}
    return found | gates


# ----------------------------------------------------------------------------------------------------- back into the model


def _merge_lora(layer: dict, scale: float) -> dict:
    """W + scale B A in place of W (Hu et al. 2021, section 4.1)."""
    merged = {}
    for part in ("query", "value"):
        p = layer["attention"]["self"][part]
        weight = p["weight"] + (p["lora_B"] @ p["lora_A"]) * scale
        merged[part] = {"weight": weight, "bias": p["bias"]}
    return _replaced(layer, ("attention", "self"), merged)


def _merge_ia3(layer: dict) -> dict:
    """diag(l) W for keys and values, W diag(l) behind the inner activations."""
    inner, output = layer["attention"]["self"], layer["output"]["dense"]
    merged = {
        part: {name: (inner[part][name].T * inner[part]["ia3"]).T for name in ("weight", "bias")} for part in ("key", "value")
    }
    layer = _replaced(layer, ("attention", "self"), merged)
    return _replaced(layer, ("output",), {"dense": {"weight": output["weight"] * output["ia3"], "bias": output["bias"]}})


def _replaced(branch: dict, path: tuple[str, ...], values: dict) -> dict:
    """A copy of a tree in which the branch at a path has other values under some keys."""
    if not path:
        return {**branch, **values}
    return {**branch, path[0]: _replaced(branch[path[0]], path[1:], values)}


# -------------------------------------------------------------------------------------------------------------- methods


@dataclass(frozen=True)
class Method:
    """What a fine-tuning method trains, and how the encoder runs with it. The head is trained by all of them.

    ``own(name)``: whether it trains the encoder's own parameter of that name. ``added(params, config, rng)``: the parameters
    that it adds, by name. ``sockets``: those of the encoder. ``merged(layer)``: the plain layer that computes the same; None
    where there is none.
    """

    title: str
    own: Callable[[str], bool] = lambda name: False
    added: Callable[[dict, Config, np.random.Generator], dict] = lambda params, config, rng: {}
    sockets: Sockets = encoder.BERT
    merged: Callable[[dict], dict] | None = lambda layer: layer


def full() -> Method:
    """Everything is trained."""
    return Method("full fine-tuning", own=lambda name: True)


def head_only() -> Method:
    """The encoder is a fixed function of the text."""
    return Method("head only")


def bitfit() -> Method:
    """Every bias of the encoder, those of its layer norms included (Zaken et al. 2022, section 3)."""
    return Method("BitFit", own=lambda name: name.endswith("bias"))  # DeBERTa has a q_bias


def houlsby(size: int) -> Method:
    """Two bottlenecks of that size a layer, and the layer norms (Houlsby et al. 2019, section 2.1)."""
    _check(size, "the size of a bottleneck")
    return Method(
        f"Houlsby adapters ({size})",
        own=lambda name: ".LayerNorm." in name and ".layer." in name,
        added=partial(_bottlenecks, size=size),
        sockets=Sockets(wiring=houlsby_wiring),
        merged=None,
    )


def lora(rank: int, alpha: float) -> Method:
    """Matrices of low rank beside the weights of queries and values (Hu et al. 2021)."""
    _check(rank, "the rank")
    scale = alpha / rank
    attention = partial(lora_attention, scale=scale)
    return Method(
        f"LoRA ({rank})", added=partial(_low_ranks, rank=rank), sockets=Sockets(attention=attention),
        merged=partial(_merge_lora, scale=scale),
    )  # fmt: skip


def ia3() -> Method:
    """Three scales a layer: of keys, values and inner activations (Liu et al. 2022)."""
    return Method("IA3", added=_scales, sockets=Sockets(ia3_attention, ia3_feed_forward), merged=_merge_ia3)


def prefix(length: int) -> Method:
    """That many keys and values a layer before those of the text, trained directly (Li & Liang 2021, without their MLP)."""
    _check(length, "the length of a prefix")
    return Method(
        f"prefix ({length})", added=partial(_prefixes, length=length), sockets=Sockets(attention=prefix_attention), merged=None
    )


def gated_prefix(length: int) -> Method:
    """A prefix behind a gate that starts at 0, as in LLaMA-Adapter (Zhang et al. 2023): the start is the pretrained model."""
    _check(length, "the length of a prefix")
    return Method(
        f"gated prefix ({length})", added=partial(_gated_prefixes, length=length),
        sockets=Sockets(attention=gated_prefix_attention), merged=None,
    )  # fmt: skip


def _check(number: int, what: str) -> None:
    if number < 1:
        raise InputError(f"{what}: got {number}, expected 1 or more")


METHODS = {
    "full": full(), "head": head_only(), "bitfit": bitfit(), "houlsby-8": houlsby(8), "houlsby-64": houlsby(64),
    "lora": lora(8, 16), "ia3": ia3(), "prefix": prefix(16), "gated-prefix": gated_prefix(16),
}  # fmt: skip


def start(method: Method, params: dict, config: Config, rng: np.random.Generator) -> dict:
    """The trained parameters at their start: a small tree, under the checkpoint's names, of fresh arrays.

    ``params``: the whole model, head included. Raises InputError for families whose layers are kept under other names.
    """
    pooler = f"{config.family}.pooler."
    own = {
        name: leaf.copy()
        for name, leaf in tree.items(params)
        if not name.startswith(f"{config.family}.") or name.startswith(pooler) or method.own(name)
    }
    return tree.nest(own | method.added(params, config, rng))


def overlay(frozen: dict, trained: dict) -> dict:
    """The parameters that the encoder runs with: the frozen tree with the trained leaves in their places. Copies nothing."""
    return {
        key: overlay(frozen.get(key, {}), trained[key]) if isinstance(trained.get(key), dict)
        else trained.get(key, frozen.get(key))
        for key in {**frozen, **trained}
    }  # fmt: skip


def merge(method: Method, params: dict, config: Config) -> dict:
    """An overlaid tree as a plain model of the same outputs, without anything added: what any library opens.

    Raises InputError for methods that compute what a plain layer cannot.
    """
    if method.merged is None:
        raise InputError(
            f"{method.title}: got a method that adds to the computation of a layer what no plain BERT layer has, so it cannot "
            "be written as one; expected full, head, bitfit, lora or ia3. Keep its trained tree beside the frozen model instead"
        )
    body = params[config.family]
    if "encoder" not in body or "layer" not in body["encoder"]:  # nothing was added to a family with other names
        return params
    layers = {number: method.merged(layer) for number, layer in body["encoder"]["layer"].items()}
    return _replaced(params, (config.family, "encoder"), {"layer": layers})


def count(params: dict) -> int:
    """How many numbers a tree holds."""
    return sum(leaf.size for leaf in tree.leaves(params))


def _layers(params: dict, config: Config) -> list[tuple[str, dict]]:
    """The encoder's layers by name."""
    if config.family not in ("bert", "roberta", "electra"):
        raise InputError(
            f"got a model of the family {config.family}; this method knows the layers of bert, roberta and electra: use one of "
            "them, or full, head or bitfit"
        )
    layers = params[config.family]["encoder"]["layer"]  # JAX sorts the keys of a tree: 0, 1, 10, 11, 2
    return [(f"{config.family}.encoder.layer.{i}", layers[str(i)]) for i in range(config.num_hidden_layers)]
