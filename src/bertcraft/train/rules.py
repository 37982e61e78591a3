"""Update rules: from gradients to the change of the parameters.

A rule is a pair of functions, as in Optax: ``state = init(params)`` and ``updates, state = update(gradients,
state, params)``, where ``updates`` is what is *added* to the parameters. Rules chain: the updates of one are
the gradients of the next, ``chain(clip_by_global_norm(1.0), adamw(warmup_linear(1e-4, 100, 1000)))``.

Everything is a tree (:mod:`bertcraft.tensor.tree`) and written in plain NumPy, so the same code runs under
``jax.jit`` on JAX arrays wrapped as Tensors. Numbers that depend on the step are cast to the dtype of the
leaf they meet: NumPy would otherwise promote a float32 model to float64. :mod:`bertcraft.train.inplace`
computes the same without allocating.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bertcraft.errors import InputError
from bertcraft.tensor import tree
from bertcraft.train import inplace as fast

Decay = Callable[[str, Any], bool]


class Rule(NamedTuple):
    """How parameters change. ``scale`` and ``inplace`` are the fast path for NumPy arrays; a rule may do without.

    - ``init(params) -> state``
    - ``update(gradients, state, params) -> (updates, state)``
    - ``scale(gradients, factor, state, pool) -> (factor, state)``: a rule that only multiplies all gradients
      by one number says by which, given that of the rules before it, and touches nothing.
    - ``inplace(gradients, factor, state, params, pool) -> state``: update for ``factor * gradients`` and add
      the updates to the parameters, reusing the memory of state and parameters. Gradients are only read.
    - ``loss_scale(state) -> number``: a rule that has it takes gradients of the loss times that number, and where one is not
      finite it skips the step (technique 07).
    """

    init: Callable
    update: Callable
    scale: Callable | None = None
    inplace: Callable | None = None
    loss_scale: Callable | None = None


def chain(*rules: Rule) -> Rule:
    """Apply rules in order, each to the updates of the one before. The state is a tuple, one entry a rule.

    Raises InputError without a rule, and for one that scales the loss.
    """
    if not rules:
        raise InputError("chain needs at least one rule")
    refuse_loss_scale(*rules)

    def init(params):
        return tuple(rule.init(params) for rule in rules)

    def update(gradients, state, params):
        after = []
        for rule, own in zip(rules, state, strict=True):
            gradients, own = rule.update(gradients, own, params)
            after.append(own)
        return gradients, tuple(after)

    def inplace(gradients, factor, state, params, pool):
        after = []
        for rule, own in zip(rules[:-1], state[:-1], strict=True):
            factor, own = rule.scale(gradients, factor, own, pool)
            after.append(own)
        return (*after, rules[-1].inplace(gradients, factor, state[-1], params, pool))

    possible = rules[-1].inplace and all(rule.scale for rule in rules[:-1])
    return Rule(init, update, inplace=inplace if possible else None)


def refuse_loss_scale(*rules: Rule) -> None:
    """InputError for a rule that scales the loss, given to one that would not hand its scale on."""
    if any(rule.loss_scale for rule in rules):
        raise InputError("a rule that scales the loss goes around all other rules, not into one: the others take true gradients")


def global_norm(gradients: Any) -> Any:
    """The Euclidean norm of all leaves taken as one vector, a scalar."""
    return np.sqrt(sum(np.sum(g * g) for g in tree.leaves(gradients)))


def clip_by_global_norm(max_norm: float, eps: float = 1e-6) -> Rule:
    """Scale all gradients by ``min(1, max_norm / (norm + eps))``, with the norm of all of them together.

    Pascanu et al. 2013, algorithm 1, has no eps; 1e-6 is that of torch's ``clip_grad_norm_``. State: ``norm``, the
    last norm before clipping. Raises InputError for a max_norm of 0 or less, or an eps below 0.
    """
    check(max_norm > 0, f"max_norm must be more than 0, got {max_norm}")
    check(eps >= 0, f"eps must be 0 or more, got {eps}")

    def shrink(norm):
        return np.minimum(1.0, max_norm / np.maximum(norm + eps, 1e-30))  # 0 / 0 without eps

    def init(params):
        return {"norm": np.zeros((), tree.leaves(params)[0].dtype)}

    def update(gradients, state, params):
        norm = global_norm(gradients)
        factor = shrink(norm)
        return tree.map(lambda g: g * like(factor, g), gradients), {"norm": norm}

    def scale(gradients, factor, state, pool):
        norm = factor * fast.global_norm(gradients, pool)
        state = {"norm": np.asarray(norm, state["norm"].dtype)}
        return factor * float(shrink(norm)), state

    return Rule(init, update, scale=scale)


def sgd(rate: float | Callable, momentum: float = 0.0, nesterov: bool = False) -> Rule:
    """Stochastic gradient descent with momentum (Sutskever et al. 2013), as torch.optim.SGD has it.

    ``rate`` is a number or a schedule. State: ``step``, and with momentum ``velocity``, a tree like the
    parameters. Raises InputError for a momentum outside [0, 1), and for Nesterov's without one.
    """
    check(0 <= momentum < 1, f"momentum must be in [0, 1), got {momentum}")
    check(momentum > 0 or not nesterov, "nesterov needs a momentum above 0")
    momentum = float(momentum)  # NumPy's own float64 would promote a float32 model

    def init(params):
        return {"step": _first_step()} | ({"velocity": tree.map(np.zeros_like, params)} if momentum else {})

    def update(gradients, state, params):
        now = rate_at(rate, state["step"])
        after = {"step": state["step"] + 1}
        if momentum:
            velocity = tree.map(lambda u, g: momentum * u + g, state["velocity"], gradients)
            after["velocity"] = velocity
            gradients = tree.map(lambda u, g: g + momentum * u, velocity, gradients) if nesterov else velocity
        return tree.map(lambda g: like(-now, g) * g, gradients), after

    return Rule(init, update)


def default_decay(name: str, leaf: Any) -> bool:
    """Whether a parameter decays: matrices do; biases and layer norm, the 1-D leaves, do not (BERT)."""
    return leaf.ndim > 1


def adamw(
    rate: float | Callable,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    decay: Decay = default_decay,
) -> Rule:
    """Adam with decoupled weight decay, as torch.optim.AdamW has it: the decay is multiplied by the whole rate.

    Algorithm 2 of Loshchilov & Hutter 2019 multiplies it by the schedule's factor alone (technique 14).

    With t the number of the update, from 1::

        m = b1 m + (1 - b1) g          v = b2 v + (1 - b2) g^2
        p = p - rate * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) - rate * weight_decay * p

    computed in the order of Kingma & Ba 2015, end of section 2: the corrections go into one number for all
    elements.

    ``rate`` is a number or a schedule; ``decay(name, leaf)`` says which parameters decay. State: ``step``,
    ``m``, ``v``. Raises InputError for numbers that Adam cannot have.
    """
    check_adam(b1, b2, eps, weight_decay)
    b1, b2, eps = float(b1), float(b2), float(eps)  # NumPy's own float64 would promote a float32 model

    def numbers(step):
        """Rate, corrected rate and corrected eps of the update that follows ``step`` updates."""
        root = np.sqrt(correction(b2, step + 1))
        now = rate_at(rate, step)
        return now, now * root / correction(b1, step + 1), eps * root

    def update(gradients, state, params):
        now, corrected, epsilon = numbers(state["step"])
        m, v = moments(gradients, state, b1, b2)

        def change(decays, p, m, v):
            moved = like(-corrected, p) * (m / (np.sqrt(v) + like(epsilon, p)))
            return moved + like(-now * weight_decay, p) * p if decays else moved

        updates = tree.map(change, _decaying(decay, weight_decay, params), params, m, v)
        return updates, {"step": state["step"] + 1, "m": m, "v": v}

    def inplace(gradients, factor, state, params, pool):
        now, corrected, epsilon = map(float, numbers(state["step"]))
        shrink = [-now * weight_decay if d else 0.0 for d in tree.leaves(_decaying(decay, weight_decay, params))]
        fast.adamw(gradients, factor, state["m"], state["v"], params, b1, b2, -corrected, epsilon, shrink, pool)
        return {"step": state["step"] + 1, "m": state["m"], "v": state["v"]}

    return Rule(init_moments, update, inplace=inplace)


# ----------------------------------------------------------------------------------------------- shared parts


def _first_step() -> np.ndarray:
    return np.zeros((), np.int64)


def init_moments(params: Any) -> dict:
    """Adam's state before its first update."""
    return {"step": _first_step(), "m": tree.map(np.zeros_like, params), "v": tree.map(np.zeros_like, params)}


def moments(gradients: Any, state: dict, b1: float, b2: float) -> tuple[Any, Any]:
    """Moving averages of the gradients and of their squares (Kingma & Ba 2015, algorithm 1)."""
    m = tree.map(lambda m, g: b1 * m + (1 - b1) * g, state["m"], gradients)
    v = tree.map(lambda v, g: b2 * v + (1 - b2) * (g * g), state["v"], gradients)
    return m, v


def correction(beta: float, step: Any) -> Any:
    """``1 - beta**step``, in a form that keeps its digits in float32."""
    return -np.expm1(step * math.log(beta)) if beta else 1.0


def rate_at(rate: float | Callable, step: Any) -> Any:
    """A rate, which is a number or a schedule, at a step."""
    return rate(step) if callable(rate) else rate


def like(number: Any, leaf: Any) -> Any:
    """A number in the dtype of a leaf, as their product shall be. Python floats adapt by themselves."""
    return number.astype(leaf.dtype) if hasattr(number, "astype") else number


def named(function: Callable[[str, Any], Any], params: Any) -> Any:
    """``function(name, leaf)`` of every leaf, as a tree."""
    answers = iter([function(name, leaf) for name, leaf in tree.items(params)])
    return tree.map(lambda _: next(answers), params)


def _decaying(decay, weight_decay, params):
    return named(lambda name, leaf: bool(weight_decay and decay(name, leaf)), params)


def check(right: bool, message: str) -> None:
    """Raise InputError with the message unless ``right``."""
    if not right:
        raise InputError(message)


def check_adam(b1: float, b2: float, eps: float, weight_decay: float = 0.0) -> None:
    """Raise InputError for numbers that Adam cannot have."""
    check(0 <= b1 < 1 and 0 <= b2 < 1, f"b1 and b2 must be in [0, 1), got {b1} and {b2}")
    check(eps >= 0, f"eps must be 0 or more, got {eps}")
    check(weight_decay >= 0, f"weight_decay must be 0 or more, got {weight_decay}")
