"""Gradient accumulation: the gradient of a large batch, from micro-batches that fit in memory.

The technique has no founding paper; it is the chain rule and a sum. The loss of a batch with N predicted tokens is a mean
over tokens, so with micro-batches of n_1 ... n_K tokens and mean losses L_1 ... L_K

    L = (1/n) sum over tokens = sum_k (n_k / n) L_k,   n = n_1 + ... + n_K                                         (1)

and its gradient is the same sum of theirs. What each micro-batch kept for its backward pass is freed before the next one
starts: memory for activations falls to that of one micro-batch; parameters, gradients and optimiser state stay.

Until October 2024 the major libraries computed the mean of means instead, M = (1/K) sum_k L_k: a token then counts
1 / (K n_k), more in a micro-batch of short texts than in one of long texts. The two differ by a covariance,

    M - L = -cov_k(n_k, L_k) / mean_k(n_k)                                                                         (2)

so they agree when token counts are equal, or have nothing to do with the losses. See "Fixing Gradient Accumulation" in the
blog of Hugging Face (huggingface/blog, pull request 2414). :func:`accumulate` computes either: ``weight`` decides.

A loss that compares the examples of a batch with each other is no such sum, and accumulation gives the gradient of another
loss: :func:`in_batch_negatives`. The exact remedy is :func:`cached_value_and_grad`: Gao, Zhang, Han & Callan, "Scaling Deep
Contrastive Learning Batch Size under Memory Limited Setup" (GradCache), RepL4NLP 2021, arXiv:2101.06983.

Accumulation is what makes very large batches possible, and for those there is an update rule of their own,
:func:`bertcraft.techniques.weight_decay.lamb` (You et al. 2020, arXiv:1904.00962). This module is the plain loop. For speed take
:func:`bertcraft.tensor.parallel.sharded_value_and_grad`, the same sum with the micro-batches spread over threads.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bertcraft.errors import InputError
from bertcraft.techniques.roberta_optimizations import predicted
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree, value_and_grad
from bertcraft.train.rules import Rule, refuse_loss_scale

Rng = Callable[[int], Any]  # the random numbers of the k-th micro-batch: functools.partial(shard_rng, seed, step)


def no_dropout(k: int) -> None:
    """The random numbers of a loss that draws none."""


def micro_batches(batch: Any, size: int) -> list:
    """Cut a tree of arrays along the first axis, every ``size`` rows; the last micro-batch has what is left.

    Raises InputError for a size below 1, no rows, or rows that differ between the arrays.
    """
    rows = {len(leaf) for leaf in tree.leaves(batch)}
    if size < 1 or len(rows) != 1 or rows == {0}:
        got = f"arrays with {' and '.join(map(str, sorted(rows))) or 'no'} rows"
        raise InputError(f"expected a size of 1 or more and arrays with one number of rows, 1 or more; got {size} and {got}")
    return [tree.map(lambda leaf: leaf[start : start + size], batch) for start in range(0, rows.pop(), size)]


def equally(micro_batch: Any) -> int:
    """The weight that makes the bug: every micro-batch counts the same, however few tokens it predicts."""
    return 1


def accumulate(
    loss: Callable, params: Any, parts: Sequence, weight: Callable[[Any], float] = predicted, rng: Rng = no_dropout
) -> tuple[Any, Any]:
    """Loss and gradients of the batch that ``parts`` make up, equation (1): (scalar, a tree like ``params``).

    loss: ``loss(params, micro_batch, rng) -> scalar``, a mean over what ``weight`` counts. weight: a micro-batch's n_k; by
    default its labels other than -100. Raises InputError when nothing is predicted in any of them.
    """
    weights = [weight(part) for part in parts]
    whole = float(sum(weights))
    if not whole > 0:
        raise InputError(f"the weights of the micro-batches add up to {whole:g}: expected at least one predicted token")
    total = None
    for k, part in enumerate(parts):
        share = float(weights[k]) / whole  # n_k / n
        scaled = value_and_grad(lambda p: loss(p, part, rng(k)) * share)(params)
        total = scaled if total is None else tree.map(operator.add, total, scaled)
    return total


def update(
    rule: Rule,
    loss: Callable,
    params: Any,
    state: Any,
    parts: Sequence,
    weight: Callable[[Any], float] = predicted,
    rng: Rng = no_dropout,
) -> tuple[Any, Any, Any]:
    """One update from many micro-batches: (loss, parameters, state of the rule).

    The rule sees the accumulated gradient once. Clipping, Adam's moving averages and the learning-rate schedule all belong
    there: clipping each micro-batch, or counting each as a step, is another algorithm. Raises InputError for a rule that scales
    the loss, and where nothing is predicted.
    """
    refuse_loss_scale(rule)
    value, gradients = accumulate(loss, params, parts, weight, rng)
    updates, state = rule.update(gradients, state, params)
    return value, tree.map(operator.add, params, updates), state


# ------------------------------------------------------------------------------- losses that do not accumulate


def in_batch_negatives(first, second, temperature: float = 0.05):
    """InfoNCE: which row of ``second`` belongs to each row of ``first``? Mean cross-entropy in nats.

    first and second (N, H) floats, rows in pairs; scores are cosines over ``temperature`` (van den Oord et al. 2018, eq. 4;
    Gao, Yao & Chen 2021, SimCSE, eq. 1). The negatives are the other N - 1 rows, so a pair's loss depends on the batch: the
    loss of N / K pairs at a time, as accumulation sees it, is that of an easier task.
    """
    scores = F.normalize(first) @ np.swapaxes(F.normalize(second), 0, 1) * (1 / temperature)
    return F.cross_entropy(scores, np.arange(len(first)))


def cached_value_and_grad(
    encode: Callable, loss: Callable, params: Any, parts: Sequence, rng: Rng = no_dropout
) -> tuple[Any, Any]:
    """Loss and gradients of ``loss(*encode(params, batch))`` for a loss that looks at the whole batch at once (GradCache).

    encode: ``encode(params, micro_batch, rng) -> tuple of arrays``, a row an example. loss: ``loss(*arrays) -> scalar`` of
    the whole batch's rows. Representations are small, what was computed on the way to them is not, hence two passes
    (section 3.2): encode every micro-batch and forget how; take the loss's gradient with respect to all representations Z;
    then encode each again and go back from there, dL/dparams = sum_k (dZ_k/dparams)^T dL/dZ_k. One more forward pass is the
    price. ``rng(k)`` is asked twice and must return a generator in the same state, or dropout would differ between passes.
    """
    rows = [encode(params, part, rng(k)) for k, part in enumerate(parts)]
    together = tuple(np.concatenate(arrays) for arrays in zip(*rows, strict=True))
    value, cache = value_and_grad(lambda arrays: loss(*arrays))(together)
    total, start = None, 0
    for k, part in enumerate(parts):
        stop = start + len(rows[k][0])
        towards = [gradient[start:stop] for gradient in cache]

        def along(p):  # a scalar whose gradient is (dZ_k/dp)^T dL/dZ_k
            return sum(np.sum(z * g) for z, g in zip(encode(p, part, rng(k)), towards, strict=True))

        _, gradients = value_and_grad(along)(params)
        total = gradients if total is None else tree.map(operator.add, total, gradients)
        start = stop
    return value, total
