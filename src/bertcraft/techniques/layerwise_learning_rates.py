"""Layer-wise learning rates: lower layers, which hold what is general, learn more slowly, or later, or not at all.

Howard & Ruder, "Universal Language Model Fine-tuning for Text Classification" (ULMFiT), ACL 2018, arXiv:1801.06146, fine-tuned a
three-layer LSTM with three ideas. *Discriminative fine-tuning*: the rate of a layer is that of the layer above it over 2.6,

    theta^l  <-  theta^l - eta^l grad_l,      eta^(l-1) = xi eta^l                                                  (1)

*Gradual unfreezing*: the head learns alone first, then the last layer joins it, then the one below. *Slanted triangular rates*:
a short rise, a long fall. Sun, Qiu, Xu & Huang, "How to Fine-Tune BERT for Text Classification?", CCL 2019, arXiv:1905.05583,
tried (1) on BERT-base: there xi is 0.95. Over twelve layers xi = 1/2.6 would leave the embeddings 1e-5 of the rate.

A rule here is one of :mod:`bertcraft.train.rules` and chains like any other: :func:`layerwise` gives each depth a rule of its
own, as parameter groups do in torch. Three things go wrong easily, and have their place below. Adam's bias correction counts the
updates of *its* parameters: a layer that joins late starts to count then (:func:`delayed`). A frozen layer still drops out,
unless it is told not to (:func:`below`). And a schedule that is advanced once an epoch is a staircase (:func:`by_epoch`).

Depths: 0 the embeddings, 1 to L the layers, L + 1 the head. Shapes: B batch, L length, H hidden size.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bertcraft.bert import encoder, families
from bertcraft.bert.config import Config
from bertcraft.errors import InputError
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree
from bertcraft.train.rules import Rule, adamw, named, refuse_loss_scale
from bertcraft.train.schedules import Schedule

ULMFIT, SUN = 1 / 2.6, 0.95  # xi: of a three-layer LSTM (ULMFiT, section 3.2), of BERT-base (Sun et al., section 5.3.4)

# ---------------------------------------------------------------------------------------------------------- rates by depth


def depths(params: dict, config: Config) -> dict[str, int]:
    """How deep each parameter lies, by its name. What all layers share, such as a table of distances, counts as embeddings.

    Raises InputError for a model whose layers share parameters (ALBERT's): they lie at no depth.
    """
    layers = families.own_parameters(params, config)
    where = {id(leaf): depth for depth, layer in enumerate(layers, 1) for leaf in tree.leaves(layer)}
    if any(where[id(leaf)] != depth for depth, layer in enumerate(layers, 1) for leaf in tree.leaves(layer)):
        raise InputError(
            "the layers of this model share their parameters: expected a model with rates by depth, layers of its own"
        )
    body, top = {id(leaf) for leaf in tree.leaves(families.backbone(params, config))}, len(layers) + 1
    # pre-LN's norm behind the top layer lies as deep as that
    where |= {id(leaf): top - 1 for leaf in tree.leaves(families.backbone(params, config).get("LayerNorm", {}))}

    def depth(name: str, leaf: Any) -> int:
        is_head = id(leaf) not in body or ".pooler." in name
        return top if is_head else where.get(id(leaf), 0)

    return {name: depth(name, leaf) for name, leaf in tree.items(params)}


def factors(decay: float, layers: int, head: float = 1.0) -> list[float]:
    """What the rate is multiplied by at each depth, equation (1): decay^L for the embeddings, ..., 1 for the top layer, ``head``.

    decay: xi, in (0, 1]. With ``head`` = 1 the head learns as fast as the top layer (Sun et al.); ULMFiT's is 1 / decay faster.
    """
    if not (0 < decay <= 1 and head > 0 and layers > 0):
        raise InputError(f"expected a decay in (0, 1], a head's factor above 0 and layers, got {decay}, {head} and {layers}")
    return [*(decay ** (layers - depth) for depth in range(layers + 1)), head]


def layerwise(
    schedule: Schedule,
    factors: Sequence[float],
    depth: Mapping[str, int],
    make: Callable[[Schedule], Rule] = adamw,
    starts: Sequence[int] | None = None,
) -> Rule:
    """A rule for each depth, with ``factors[depth]`` times the rate of ``schedule``: torch's parameter groups.

    depth: that of each parameter (:func:`depths`). make: from a schedule a rule, as :func:`bertcraft.train.adamw`; decay that is
    multiplied by the rate falls with it. starts: the step from which each depth learns (:func:`unfreezing`); all from the first.
    """
    starts = [0] * len(factors) if starts is None else starts

    def of(d: int) -> Rule:
        return delayed(make(lambda step: factors[d] * schedule(step + starts[d])), starts[d])

    return by_group(depth, {d: of(d) for d in sorted(set(depth.values()))})


def by_group(group: Mapping[str, int], rules: Mapping[int, Rule]) -> Rule:
    """Rules for groups of parameters: ``rules[group[name]]`` updates the parameter of that name. State: each one's, by group.

    Raises InputError for a group without a rule, a parameter without a group, and a rule that scales the loss.
    """
    refuse_loss_scale(*rules.values())
    if missing := set(group.values()) - set(rules):
        raise InputError(f"no rule for the groups {', '.join(map(str, sorted(missing)))}")

    def parts(whole: Any) -> dict[int, dict]:
        flat: dict[int, dict] = {key: {} for key in rules}
        for name, leaf in tree.items(whole):
            if name not in group:
                raise InputError(f"the parameter {name} belongs to no group")
            flat[group[name]][name] = leaf
        return {key: tree.nest(leaves) for key, leaves in flat.items()}

    def init(params):
        own = parts(params)
        return {str(key): rule.init(own[key]) for key, rule in rules.items()}

    def update(gradients, state, params):
        of_gradients, own, found, after = parts(gradients), parts(params), {}, {}
        for key, rule in rules.items():
            updates, after[str(key)] = rule.update(of_gradients[key], state[str(key)], own[key])
            found |= dict(tree.items(updates))
        return named(lambda name, leaf: found[name], params), after

    def inplace(gradients, factor, state, params, pool):
        of_gradients, own = parts(gradients), parts(params)
        return {str(key): rule.inplace(of_gradients[key], factor, state[str(key)], own[key], pool) for key, rule in rules.items()}

    return Rule(init, update, inplace=inplace if all(rule.inplace for rule in rules.values()) else None)


# -------------------------------------------------------------------------------------------------------------- freezing

# A rule that changes nothing and remembers nothing. A rate of 0 would do the first but keep Adam's moments; gradients of 0 would
# not even do the first: momentum goes on, and weights decay. Clip within the groups that learn: a norm over all gradients would
# count those of frozen layers, which torch does not even compute.
FROZEN = Rule(
    init=lambda params: {},
    update=lambda gradients, state, params: (tree.map(np.zeros_like, params), state),
    inplace=lambda gradients, factor, state, params, pool: state,
)


def unfreezing(layers: int, every: int) -> list[int]:
    """The step from which each depth learns: the head from the first, the top layer after ``every`` steps, and so on down.

    Howard & Ruder 2018, section 3.3, where ``every`` is an epoch.
    """
    return [every * (layers + 1 - depth) for depth in range(layers + 2)]


def delayed(rule: Rule, start: int) -> Rule:
    """A rule that is asleep for ``start`` updates: nothing changes, no moment is gathered, and its own step is still 0 then.

    So its first bias correction is that of a first step. An Adam that had counted along would divide by 1 instead of 1 - b1 and
    sqrt(1 - b2): with zeros gathered, its first update is (1 - b1) / sqrt(1 - b2) = 3.2 times too long. torch keeps a step for
    each parameter, from its first gradient on. The rule's schedule, too, counts from ``start``. Raises InputError for a rule
    that scales the loss.
    """
    refuse_loss_scale(rule)
    if start == 0:
        return rule

    def init(params):
        return {"slept": np.zeros((), np.int64), "rule": rule.init(params)}

    def update(gradients, state, params):
        awake = state["slept"] >= start
        updates, inner = rule.update(gradients, state["rule"], params)
        updates = tree.map(lambda u: np.where(awake, u, np.zeros_like(u)), updates)
        inner = tree.map(lambda new, old: np.where(awake, new, old), inner, state["rule"])
        return updates, {"slept": np.minimum(state["slept"] + 1, start), "rule": inner}

    def inplace(gradients, factor, state, params, pool):
        if state["slept"] < start:
            return {**state, "slept": state["slept"] + 1}
        return {**state, "rule": rule.inplace(gradients, factor, state["rule"], params, pool)}

    return Rule(init, update, inplace=inplace if rule.inplace else None)


def below(params: dict, config: Config, input_ids, attention_mask=None, *, frozen: int):
    """States (B, L, H) after the embeddings and the first ``frozen`` layers, which do not drop out; :func:`above` goes on.

    They never change: compute them once for a text that is read often. In torch ``module.eval()`` does as much for a layer;
    ``requires_grad = False`` alone leaves its dropout on.
    """
    if not 0 <= frozen <= config.num_hidden_layers or config.conv_kernel_size:
        raise InputError(
            f"frozen: expected 0 to {config.num_hidden_layers} layers of a model without convolution, got {frozen} layers"
        )
    x = encoder.embed(params, config, input_ids)
    return _through(families.layers(params, config)[:frozen], params, config, x, attention_mask, None)


def above(params: dict, config: Config, states, attention_mask=None, *, frozen: int, rng=None):
    """Hidden states of the last layer (B, L, H) from those of :func:`below`; ``rng`` turns dropout on, in these layers."""
    x = _through(families.layers(params, config)[frozen:], params, config, states, attention_mask, rng)
    return encoder.finished(params, config, x)


def _through(layers: list[dict], params: dict, config: Config, x, attention_mask, rng):
    padding = None if attention_mask is None else F.padding_bias(attention_mask, x.dtype)
    bias, wiring = encoder.attention_bias(params, config, x.shape[1], padding), encoder.own_wiring(config)
    for layer in layers:
        x = wiring(layer, x, x, bias, config, encoder.BERT, rng)
    return x


# ------------------------------------------------------------------------------------------------------------- schedules


def slanted_triangle(peak: float, total: int, cut_frac: float = 0.1, ratio: float = 32) -> Schedule:
    """ULMFiT's schedule: up from peak / ratio in ``cut_frac`` of the ``total`` steps, down to it again at ``total``, stay there.

    Howard & Ruder 2018, equation 3, with p = t / cut up to cut = floor(cut_frac total) and (total - t) / (total - cut) after it.
    The paper has the latter as 1 - (t - cut) / (cut (1 / cut_frac - 1)): the same where cut is not rounded. Where it is, that
    ends below peak / ratio, and for 77 steps below 0.
    """
    cut = int(total * cut_frac)
    if not (0 < cut < total and ratio >= 1):
        raise InputError(
            f"expected a rise and a fall of at least one step and a ratio of 1 or more, got {total}, {cut_frac}, {ratio}"
        )

    def schedule(step):
        p = np.where(step < cut, step / cut, np.maximum(0.0, (total - step) / (total - cut)))
        return peak * (1 + p * (ratio - 1)) / ratio

    return schedule


def by_epoch(schedule: Schedule, steps: int) -> Schedule:
    """The staircase of a schedule that is advanced once an epoch of ``steps`` updates; it counts epochs."""
    return lambda step: schedule(step // steps)
