"""Checks of lesson 06: the loss of a window, who is favoured, where to clip, the last window, several machines, which way to a
large batch."""

import numpy as np

from bertcraft.course.exercises import Exercise, Wrong, decision, same


def _near(got, expected) -> bool:
    with np.errstate(invalid="ignore"):
        try:
            return np.shape(got) == np.shape(expected) and bool(np.allclose(got, expected, rtol=1e-6, atol=1e-12))
        except TypeError:
            return False


def _check_window_loss(window_loss) -> None:
    means, counts = np.array([3.0, 1.0, 2.5]), np.array([2, 6, 4])
    got = window_loss(means, counts)
    if _near(got, means.mean()):
        raise Wrong("that is the mean of means, the bug itself: a micro-batch of 6 tokens must count three times one of 2")
    if _near(got, np.sum(means * counts)):
        raise Wrong("that is the sum over all tokens; the loss is a mean: divide by their number")
    if _near(got, np.sum(means * counts) / len(counts)):
        raise Wrong("you divide the sum over the tokens by the number of micro-batches; divide by the number of tokens")
    if _near(got, np.sum(means / counts) / np.sum(1 / counts)):
        raise Wrong("each mean is weighted by one over its count: the more tokens, the *more* it counts")
    same(got, 22 / 12, "the loss for means 3, 1, 2.5 of 2, 6, 4 tokens", rtol=1e-6)
    got = window_loss(np.array([3.0, np.nan, 1.0]), np.array([2, 0, 6]))
    if isinstance(got, (float, np.floating)) and np.isnan(got):
        raise Wrong("a micro-batch without a predicted token makes the whole loss nan: 0 * nan is nan, leave it out instead")
    same(got, 1.5, "the loss when one micro-batch predicts nothing", rtol=1e-6)


def _check_favour(favour) -> None:
    counts = np.array([2, 6, 4, 12])
    got = favour(counts)
    if _near(got, counts / counts.mean()):
        raise Wrong("the other way round: a micro-batch of few tokens divides its share among fewer, so each counts *more*")
    if _near(got, 1 / (len(counts) * counts)):
        raise Wrong("that is what a token counts under the mean of means; divide it by what it should count, 1 / n")
    if _near(got, counts.sum() / counts):
        raise Wrong("every value is K times too large: under the mean of means a token counts 1 / (K n_k), not 1 / n_k")
    if _near(got, counts / counts.sum()):
        raise Wrong("n_k / n is the right share of a *micro-batch*; asked for is what one token counts, relative to 1 / n")
    same(got, counts.mean() / counts, "what a token counts for counts 2, 6, 4, 12", rtol=1e-6)


def _check_clipped_gradient(clipped_gradient) -> None:
    opposite = np.array([[10.0, 0.0], [-10.0, 0.5]])
    got = clipped_gradient(opposite, np.array([1, 1]), 1.0)
    counts, gradients = np.array([1, 3, 4]), np.random.default_rng(0).standard_normal((3, 5)) * [[9.0], [1.0], [4.0]]
    shares = counts / counts.sum()

    def clip(gradient, limit):
        return gradient * min(1.0, limit / np.linalg.norm(gradient))

    answer = clipped_gradient(gradients, counts, 1.0)
    if _near(answer, sum(share * clip(g, 1.0) for share, g in zip(shares, gradients, strict=True))):
        raise Wrong(
            "each micro-batch is clipped before it is added, so a long gradient loses its say and the sum is not that of "
            "the batch: add first, clip once"
        )
    if _near(answer, clip(sum(share * clip(g, 1.0) for share, g in zip(shares, gradients, strict=True)), 1.0)):
        raise Wrong("you clip the sum, but each micro-batch as well: only the whole gradient is to be clipped")
    if _near(answer, shares @ gradients):
        raise Wrong("nothing is clipped: the norm of what you return is above the limit")
    if _near(answer, clip(gradients.mean(axis=0), 1.0)):
        raise Wrong("the micro-batches count equally: weigh each by its share of the tokens")
    if _near(answer, np.clip(shares @ gradients, -1.0, 1.0)):
        raise Wrong("you clip each entry by itself, which turns the gradient: scale the whole to the norm, keep its direction")
    same(answer, clip(shares @ gradients, 1.0), "the gradient of three micro-batches clipped at 1", rtol=1e-6)
    if np.shape(got) == (2,) and _near(np.linalg.norm(got), 1.0):
        raise Wrong("a gradient shorter than the limit was made longer: clipping only ever shortens")
    same(got, np.array([0.0, 0.25]), "two gradients that nearly cancel, clipped at 1,", rtol=1e-6)
    answer = clipped_gradient(gradients, counts, 2.0)
    if np.shape(answer) == (5,) and _near(np.linalg.norm(answer), 1.0):
        raise Wrong("with a limit of 2 the norm of what you return is 1: scale to `limit`, whatever it is")
    same(answer, clip(shares @ gradients, 2.0), "the gradient of three micro-batches clipped at 2", rtol=1e-6)


def _check_window_shares(window_shares) -> None:
    counts, K = np.array([4, 2, 6, 8, 1, 3, 5, 1, 9, 3]), 4
    expected = np.concatenate([w / w.sum() for w in (counts[:4], counts[4:8], counts[8:])])
    got = window_shares(counts, K)
    if _near(got, np.full(10, 0.25)):
        raise Wrong("1 / K for all is the mean of means, and in the last window, of two micro-batches, it adds up to 1/2")
    if _near(got, counts / counts.sum()):
        raise Wrong("your shares add up to 1 over the whole epoch; each *update* has a window of its own that must add up to 1")
    if _near(got, np.repeat([0.25, 0.25, 0.5], [4, 4, 2])):
        raise Wrong("every window adds up to 1, but its micro-batches count equally: weigh them by their tokens")
    if isinstance(got, np.ndarray) and got.shape == (8,):
        raise Wrong("the last window is missing: two micro-batches of the epoch are thrown away")
    if isinstance(got, np.ndarray) and got.shape == (10,) and _near(got[:8], expected[:8]):
        if _near(got[8:], counts[8:] / counts[4:8].sum()) or _near(got[8:], [0.0, 0.0]):
            raise Wrong("the first two windows are right; the last has only two micro-batches, so its n is that of these two")
        if _near(got[8:].sum(), 0.5):
            raise Wrong("the last window adds up to 1/2: it is scaled as if K micro-batches were in it")
    same(got, expected, "the shares of 10 micro-batches for K = 4", rtol=1e-6)
    same(window_shares(np.array([2, 6]), 8), np.array([0.25, 0.75]), "the shares of 2 micro-batches for K = 8", rtol=1e-6)
    got = window_shares(np.array([2, 6, 1, 4]), 2)
    same(got, np.array([0.25, 0.75, 0.2, 0.8]), "the shares of 4 micro-batches for K = 2, where no window is short", rtol=1e-6)


def _check_machine_factors(machine_factors) -> None:
    counts = np.array([[4, 2, 6], [10, 8, 12]])
    expected = counts * 2 / counts.sum()
    got = machine_factors(counts)
    if _near(got, counts / counts.sum()):
        raise Wrong("the averaging over the machines divides by their number once more: all factors are 2 times too small")
    if _near(got, counts / counts.sum(axis=1, keepdims=True)):
        raise Wrong(
            "each machine's factors add up to 1, so all machines count the same, however few tokens they hold: that is the "
            "mean of means again"
        )
    if _near(got, counts / counts.sum(axis=0)) or _near(got, 2 * counts / counts.sum(axis=0)):
        raise Wrong("divide by the number of all tokens, on all machines and in all micro-batches; you sum over one axis only")
    if _near(got, np.full((2, 3), 1 / 3)):
        raise Wrong("1 / K for all: that is right for equal counts alone")
    if _near(got, np.full((2, 3), 2 / counts.sum())) or _near(got, np.full((2, 3), 1 / counts.sum())):
        raise Wrong("that is the factor for a *sum* over tokens; the losses are means, so their n is missing")
    if _near(got, 3 * counts / counts.sum()):
        raise Wrong("you multiply by K; it is the number of machines by which the average divides")
    if _near(got, 6 * counts / counts.sum()):
        raise Wrong("that is n_k over the mean count, K times too large: only the average over the machines is to be undone")
    same(got, expected, "the factors of 2 machines with 3 micro-batches", rtol=1e-6)
    counts = np.array([[4, 2], [6, 3], [1, 8]])
    same(machine_factors(counts), counts * 3 / 24, "the factors of 3 machines with 2 micro-batches", rtol=1e-6)


EXERCISES = (
    Exercise(
        "window_loss", "Weigh the micro-batches", 1, _check_window_loss,
        (
            "A mean times its count is the sum it was made from.",
            "0 * nan is nan, so choose with a mask: `some = counts > 0`, then use `means[some]` and `counts[some]`.",
        ),
    ),
    Exercise(
        "favour", "Who is favoured by the mean of means", 1, _check_favour,
        ("A micro-batch has the share 1 / K, whatever it holds. How much of it falls to one of its n_k tokens?",
         "Divide 1 / (K n_k) by 1 / n and use n = K times the mean count."),
    ),
    Exercise(
        "clipped_gradient", "A clip too many", 2, _check_clipped_gradient,
        ("What does the large batch know at the moment in which it clips?",
         "Add up everything first: `total = shares @ gradients`. Then scale it if its norm is above the limit."),
    ),
    Exercise(
        "window_shares", "The last window", 2, _check_window_shares,
        ("`range(0, len(counts), K)` gives where each window starts, the short one included.",
         "`counts[start : start + K]` is never longer than what is left; divide it by its own sum."),
    ),
    Exercise(
        "machine_factors", "Several machines", 3, _check_machine_factors,
        ("Write down what comes out: the sum over machines and micro-batches of factor times gradient, over their number.",
         "It is to be the sum of n_k / n times the gradient of the mean, n over everything. Compare the two term by term."),
    ),
    Exercise(
        "which_way", "Which way to the large batch?", 2,
        decision({
            "arm": {
                "accumulation": "",
                "recomputation": "it fits and is exact, but takes longer, intervals apart; nothing here needs its lower peak",
                "small": "its interval goes from -0.06 to +0.16: nothing is shown for it, and updates of 64 texts were asked for",
            },
            "because": {
                "b": "",
                "a": "recomputation has the lowest peak, and 16 GB hold both: what fits, fits",
                "c": "an interval that holds 0 shows no equality; that two gradients are the batch's was proven",
            },
            "unless": {
                "b": "",
                "a": "one run of six is no surprise, and the interval knows of the spread between runs",
                "c": "accumulation's peak does not depend on the batch: twice as many micro-batches, and it fits as before",
            },
        }),
        ("Cross out what does not fit, then what has not the batch's gradient.",
         "Of what is left, one takes less time. For which losses is its gradient not the batch's?"),
    ),
)  # fmt: skip
