"""Meta-learning: find parameters from which a few gradient steps on a few examples make a good model of a new task.

- MAML: Finn, Abbeel & Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017,
  arXiv:1703.03400. It descends the loss *after* adaptation, through the steps of adaptation: a gradient of a gradient.
- First-order MAML (section 5.2 there) leaves the second derivatives out.
- ANIL: Raghu et al., "Rapid Learning or Feature Reuse?", ICLR 2020, arXiv:1909.09157: only the head adapts.
- Reptile: Nichol, Achiam & Schulman, 2018, arXiv:1803.02999: move towards the adapted parameters.
- Prototypical networks: Snell, Swersky & Zemel, NIPS 2017, arXiv:1703.05175: no adaptation, the nearest mean of a class.

A model comes in as ``loss(params, batch) -> scalar``: ``params`` nested dicts of arrays, ``batch`` whatever the loss reads.
The meta-gradients come out as ``(loss, gradient)`` for any update rule of :mod:`bertcraft.train.rules`.

Shapes: n examples, N classes ("ways"), D features.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bertcraft.errors import InputError
from bertcraft.tensor import functions as F
from bertcraft.tensor import grad, tree, value_and_grad

Loss = Callable[[dict, Any], Any]


class Task(NamedTuple):
    """A small task: a batch to learn from and another one, of the same classes, on which the result is judged."""

    support: Any
    query: Any


def adapt(
    loss: Loss, params: dict, support: Any, steps: int, rate: float, moves: Callable[[str], bool] = lambda name: True
) -> dict:
    """Parameters after some steps of gradient descent on a support batch (Finn et al. 2017, equation 1).

    ``moves(name)`` says which parameters adapt ("head.weight" ...); the others stay. Called within an outer ``grad``, the
    steps themselves are differentiated. Raises InputError for a negative number of steps or when nothing moves.
    """
    if steps < 0:
        raise InputError(f"the number of inner steps is 0 or more, got {steps}")
    everything = dict(tree.items(params))
    moving = {name: leaf for name, leaf in everything.items() if moves(name)}
    if not moving:
        raise InputError(f"no parameter adapts: moves() is false for each of {', '.join(everything)}")
    gradient = grad(lambda some: loss(tree.nest({**everything, **some}), support))
    for _ in range(steps):
        moving = tree.map(lambda p, g: p - rate * g, moving, gradient(moving))
    return tree.nest({**everything, **moving})


def maml(
    loss: Loss, params: dict, task: Task, steps: int, rate: float, moves: Callable[[str], bool] = lambda name: True
) -> tuple[Any, dict]:
    """The loss on the query after adaptation to the support, and its gradient by the parameters before adaptation.

    Algorithm 1 of Finn et al. 2017, line 8, for one task. After one step from theta to theta', with H the second
    derivative of the support loss at theta and g' the gradient of the query loss at theta', it is (I - rate H) g'. Time
    and memory grow with the number of steps. Raises InputError as :func:`adapt` does.
    """
    return value_and_grad(lambda p: loss(adapt(loss, p, task.support, steps, rate, moves), task.query))(params)


def first_order_maml(loss: Loss, params: dict, task: Task, steps: int, rate: float) -> tuple[Any, dict]:
    """MAML without second derivatives (Finn et al. 2017, section 5.2): g', the gradient at the adapted parameters."""
    return value_and_grad(loss)(adapt(loss, params, task.support, steps, rate), task.query)


def anil(loss: Loss, params: dict, task: Task, steps: int, rate: float, head: str = "head") -> tuple[Any, dict]:
    """MAML whose inner steps adapt ``params[head]`` alone (Raghu et al. 2020, section 4.1); all parameters get a gradient."""
    return maml(loss, params, task, steps, rate, moves=in_branch(head))


def in_branch(branch: str) -> Callable[[str], bool]:
    """A test for :func:`adapt`: does a parameter lie in that branch of the tree?"""
    return lambda name: name == branch or name.startswith(branch + ".")


def reptile(loss: Loss, params: dict, batches: Sequence[Any], rate: float) -> tuple[Any, dict]:
    """The way back from adapted parameters, to be descended like a gradient (Nichol et al. 2018, algorithm 1).

    One inner step for each batch of one task (there is no query: all examples are learnt from). Returns the mean of the
    batches' losses, each before its step, and params - adapted; the paper's epsilon is the rate of the outer rule.
    Raises InputError without a batch.
    """
    if not batches:
        raise InputError("Reptile needs at least one batch of a task, got none")
    adapted, losses = params, []
    for batch in batches:
        value, gradient = value_and_grad(loss)(adapted, batch)
        adapted = tree.map(lambda p, g: p - rate * g, adapted, gradient)
        losses.append(value)
    return sum(losses) / len(losses), tree.map(lambda p, q: p - q, params, adapted)


def over_tasks(gradient: Callable[[dict, Any], tuple[Any, dict]], params: dict, tasks: Sequence[Any]) -> tuple[Any, dict]:
    """The mean of ``gradient(params, task)``, loss and gradient, over the tasks of one meta-batch.

    Algorithm 1 of Finn et al. 2017 has the sum; the mean keeps the outer rate the same for any number of tasks.
    """
    if not tasks:
        raise InputError("a meta-batch needs at least one task, got none")
    total, mean = None, None
    for task in tasks:
        value, part = gradient(params, task)
        part = tree.map(lambda g: g * (1 / len(tasks)), part)
        total = value if total is None else total + value
        mean = part if mean is None else tree.map(np.add, mean, part)
    return total / len(tasks), mean


# ------------------------------------------------------------------------------------------- prototypical networks


def prototypes(features, labels, ways: int):
    """The mean of each class (Snell et al. 2017, equation 1): features (n, D), labels integers (n,) -> (ways, D).

    Raises InputError for a class without an example (under JAX labels are not checked).
    """
    if type(labels) is np.ndarray and (absent := set(range(ways)) - set(labels.tolist())):
        raise InputError(f"no example of class {min(absent)}: each of the {ways} classes needs one in the support set")
    member = (labels[:, None] == np.arange(ways)).astype(features.dtype)
    return np.swapaxes(member, 0, 1) @ features / np.sum(member, axis=0)[:, None]


def prototypical_logits(features, centres):
    """Minus the squared distances to the prototypes (Snell et al. 2017, equation 2): (n, D), (N, D) -> (n, N)."""
    apart = features[:, None, :] - centres
    return -np.sum(apart * apart, axis=-1)


def prototypical_loss(features: Callable[[dict, Any], Any], params: dict, task: Task, ways: int):
    """Mean cross-entropy of the query under the prototypes of the support (Snell et al. 2017, algorithm 1).

    ``features(params, batch) -> (n, D)``; both batches of the task are dicts with "labels", integers (n,) from 0.
    """
    centres = prototypes(features(params, task.support), task.support["labels"], ways)
    return F.cross_entropy(prototypical_logits(features(params, task.query), centres), task.query["labels"])
