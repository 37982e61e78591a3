"""Checks of lesson 02: what counts as a fake, what chance loses, drawing, the detector's loss, the best answer that there is."""

import math

import numpy as np

from bertcraft.course.exercises import Exercise, Wrong, decision, same


def _fake_labels(fake_labels) -> None:
    original = np.array([[2, 11, 12, 13, 3], [2, 21, 22, 23, 3]])
    masked = np.array([[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]], bool)
    corrupted = np.array([[2, 11, 40, 13, 3], [2, 21, 22, 41, 3]])  # two of the four draws are right
    expected = corrupted != original
    got = fake_labels(original, corrupted, masked)
    if isinstance(got, np.ndarray) and got.shape == expected.shape:
        as_bools = got.astype(bool)
        if np.array_equal(as_bools, masked):
            raise Wrong("2 of the 4 masked tokens got their own word back; they are original, and your labels call them fakes")
        if np.array_equal(as_bools, ~expected):
            raise Wrong("true and false have changed places: a fake is what differs from the original")
        if np.array_equal(as_bools, masked & ~expected):
            raise Wrong("you mark the masked tokens that were drawn right: they are the ones that are no fakes")
        if np.array_equal(as_bools, expected) and got.dtype != bool:
            raise Wrong(f"the labels are right, but {got.dtype}: booleans are wanted")
    same(got, expected, "the labels")


def _chance_loss(chance_loss) -> None:
    rate, right = 0.15, 0.65
    f = rate * (1 - right)
    got = chance_loss(rate, right)
    known = {
        _entropy(rate): "that is H(0.15): the draws that are right are no fakes, (5)",
        _entropy(rate * right): "you count the draws that are right; fakes are the others, 1 - right of the masked",
        _entropy(f) / math.log(2): "that is in bits: np.log2 gives bits, np.log nats",
        -f * math.log(f): "that is one half of (6): what is lost at the originals is missing",
        -(1 - f) * math.log(1 - f): "that is one half of (6): what is lost at the fakes is missing",
        -_entropy(f): "the sign is wrong: logarithms of probabilities are below 0",
        f: "that is the share f itself, (5); its entropy (6) is wanted",
    }
    for value, message in known.items():
        if _near(got, value):
            raise Wrong(message)
    same(got, _entropy(f), "the loss for rate=0.15, right=0.65", rtol=1e-6)
    got = chance_loss(0.15, 1.0)
    if isinstance(got, (int, float, np.number)) and not np.isfinite(got):
        raise Wrong("for right=1 it returns nan: 0 ln 0 has to be 0 here, a case by itself")
    same(got, 0.0, "the loss for right=1: no fakes", atol=1e-6)
    same(chance_loss(0.5, 0.0), math.log(2), "the loss for rate=0.5, right=0", rtol=1e-6)


def _entropy(f: float) -> float:
    return -f * math.log(f) - (1 - f) * math.log(1 - f)


def _near(got, value: float) -> bool:
    return isinstance(got, (int, float, np.number)) and math.isclose(got, value, rel_tol=1e-6, abs_tol=1e-12)


def _draw_words(draw_words) -> None:
    p = np.array([0.5, 0.25, 0.25])
    uniform = np.array([0.0, 0.3, 0.48, 0.52, 0.6, 0.74, 0.77, 0.99])
    expected = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    logits = np.repeat(np.log(p)[None] + 7.0, len(uniform), axis=0)  # so that exp of them does not add up to 1
    got = draw_words(logits, uniform)
    if isinstance(got, np.ndarray) and got.shape == expected.shape:
        raw = np.cumsum(logits, axis=1)
        if (got == 0).all():
            raise Wrong(
                "it returns word 0 for every uniform number: to take the most probable word is choosing, not drawing, and sums "
                "of exp(logits) must be compared with uniform times their total"
            )
        if np.array_equal(got, expected + 1):
            raise Wrong(
                "the words are one too high: with p = (0.5, ...) and uniform = 0.3 no sum is reached yet, so it is word 0"
            )
        if np.array_equal(got, (raw[:, :-1] <= uniform[:, None] * raw[:, -1:]).sum(axis=1)):
            raise Wrong("you add up the logits themselves: exp first, then add up")
    same(got, expected, "the words drawn for p = (0.5, 0.25, 0.25)")
    got = draw_words(np.zeros((1, 2)), np.array([0.5]))
    if isinstance(got, np.ndarray) and got.tolist() == [0]:
        raise Wrong("at uniform = 0.5 exactly p_0 = 0.5 has been used up, so word 1 is drawn: `<=` where you have `<`")
    rng = np.random.default_rng(0)
    logits, uniform = 2 * rng.standard_normal((40, 9)), rng.random(40)
    same(draw_words(logits, uniform), _drawn(logits, uniform), "the words drawn for 40 rows of 9 logits")
    big = np.array([[1000.0, 1000.0, 0.0], [-1000.0, -1000.0, -9000.0]])
    with np.errstate(all="ignore"):
        got = draw_words(big, np.array([0.7, 0.7]))
    if not np.array_equal(got, [1, 1]):
        raise Wrong("logits of 1,000 overflow in exp (and those of -1,000 vanish): take the row's largest away first")
    for words in (3, 7, 30_000):
        got = draw_words(np.full((1, words), 0.1, np.float32), np.array([np.nextafter(1.0, 0)]))
        if isinstance(got, np.ndarray) and (got >= words).any():
            raise Wrong(
                f"word {words} of {words}, which are numbered from 0: the sums may end below 1 by rounding, and the largest "
                "uniform number then lies beyond the last one"
            )
        same(got, np.array([words - 1]), f"the word drawn of {words} equally likely ones at the largest uniform number")


def _drawn(logits, uniform) -> np.ndarray:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return np.array([int(np.searchsorted(np.cumsum(row), u, side="right")) for row, u in zip(p, uniform, strict=True)])


def _detection_loss(detection_loss) -> None:
    rng = np.random.default_rng(1)
    logits, fake = 2 * rng.standard_normal((3, 8)), rng.random((3, 8)) < 0.3
    mask = (np.arange(8) < np.array([[8], [5], [2]])).astype(np.int64)
    fake &= mask == 1
    terms = np.logaddexp(0, logits) - fake * logits
    expected = terms[mask == 1].mean()
    got = detection_loss(logits, fake, mask)
    if isinstance(got, np.ndarray) and got.shape == logits.shape:
        raise Wrong("it returns a loss for each token; their mean is wanted")
    flipped = np.logaddexp(0, logits) - (~fake) * logits
    known = {
        terms.mean(): "the padding is judged, too: only tokens where attention_mask is 1 count",
        (
            terms * mask
        ).mean(): "the sum is right, but it is divided by all places; divide by the number of tokens, without padding",
        (terms * mask).sum(): "that is the sum; the mean over the tokens is wanted",
        np.mean([(row * m).sum() / m.sum() for row, m in zip(terms, mask, strict=True)]): (
            "you take the mean of the rows' means: a token of a short row then counts more than one of a long row"
        ),
        flipped[mask == 1].mean(): "true and false have changed places: sigmoid(logit) is the probability of a *fake*",
        terms[mask].mean(): (
            "attention_mask holds integers, and terms[attention_mask] takes rows 0 and 1: write terms[attention_mask == 1]"
        ),
        terms[fake].mean(): "only the fakes are judged: three quarters of the answers are at originals",
        -expected: "the sign is wrong: a loss is minus a logarithm",
    }
    for value, message in known.items():
        if _near(got, float(value)):
            raise Wrong(message)
    same(got, float(expected), "the loss of three rows of 8, 5 and 2 tokens", rtol=1e-6)
    with np.errstate(all="ignore"):
        got = detection_loss(np.array([[1000.0, -1000.0]]), np.array([[False, True]]), np.ones((1, 2), np.int64))
    if not _near(got, 1000.0):
        raise Wrong(
            "logits of 1000 at an original and -1000 at a fake cost 1000 nats each; "
            f"it returns {got:.4g}: exp overflows or a logarithm of 0 is taken, use np.logaddexp(0, logits)"
        )


def _best_answer(best_answer) -> None:
    rate = 0.15
    p, g = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.25, 0.25, 0.4, 0.1])
    shown = (1 - rate) * p + rate * g
    expected = rate * g * (1 - p) / shown
    with np.errstate(all="ignore"):
        got = best_answer(p, g, rate)
    if isinstance(got, np.ndarray) and got.shape == p.shape:
        known = (
            (rate * g / shown, "every drawn word counts as a fake; one that happens to be the text's is none: 1 - p"),
            (g / (p + g), "that is the best answer of a GAN, with as many fakes as originals; here `rate` tells how many"),
            (rate * g * (1 - p) / ((1 - rate) * p + rate * g * (1 - p)), "below, a row of the table is missing: drawn and right"),
            (rate * g / ((1 - rate) * p + rate * g * p), "below, a row of the table is missing: drawn and wrong"),
            (rate * (1 - p), "that is (8), for a perfect forger; this one has probabilities of its own"),
            (1 - expected, "that is the probability that the word is original"),
            ((1 - rate) * g * (1 - p) / (rate * p + (1 - rate) * g), "rate and 1 - rate have changed places"),
        )  # fmt: skip
        for value, message in known:
            if np.allclose(got, value, rtol=1e-6, equal_nan=True):
                raise Wrong(message)
    same(got, expected, "D* for p = (0.5, 0.3, 0.15, 0.05), p_generator = (0.25, 0.25, 0.4, 0.1)", rtol=1e-6)
    with np.errstate(all="ignore"):
        got = best_answer(np.array([1.0, 0.0]), np.array([1.0, 0.0]), rate)
    if isinstance(got, np.ndarray) and np.isnan(got).any():
        raise Wrong("a word that never comes about is 0 / 0: nan; it gets 0")
    same(got, np.zeros(2), "D* for p = p_generator = (1, 0)", rtol=1e-6)


EXERCISES = (
    Exercise(
        "fake_labels", "An honest label", 1, _fake_labels,
        (
            "What does the discriminator read at a masked place where the generator drew the true word? Can anybody tell?",
            "Equation (2) does not mention S, the masked places, in the definition of y.",
        ),
    ),
    Exercise(
        "chance_loss", "The zero of the plot", 1, _chance_loss,
        (
            "First f, the share of fakes: of the masked tokens those that were not drawn right.",
            "Two terms: fakes, each of which loses -ln f, and originals, which lose -ln(1 - f). And 0 ln 0 is 0.",
        ),
    ),
    Exercise(
        "draw_words", "Draw a word", 2, _draw_words,
        (
            "np.cumsum of the probabilities along the last axis; then count the sums at or below the uniform number.",
            "You need not divide: compare the sums of exp(logit - largest) with uniform times their last one.",
            "The last sum is the whole; leave it out of the count, and no draw can lie beyond it.",
        ),
    ),
    Exercise(
        "detection_loss", "Judge all tokens, and no padding", 2, _detection_loss,
        (
            "terms = np.logaddexp(0, logits) - fake * logits is (3) for each token.",
            "Choose the tokens by attention_mask == 1 first and take one mean over all of them.",
        ),
    ),
    Exercise(
        "best_answer", "The best answer", 3, _best_answer,
        (
            "The three rows of the table: which of them are fakes? Divide that by all three.",
            "Below: (1 - rate) p + rate g p + rate g (1 - p), and the last two are rate g.",
            "np.divide(fakes, shown, out=np.zeros_like(shown), where=shown > 0) leaves 0 where nothing is shown.",
        ),
    ),
    Exercise(
        "goes_on", "Which run goes on?", 2,
        decision({
            "run": {
                "B": "",
                "A": "0.92 H(0.145) = 0.381: it stands at chance, and its generator at word frequencies",
                "C": "0.92 H(0.080) = 0.257: its loss is low because fakes are rare, not because it finds them",
            },
            "because": {
                "c": "",
                "a": "the share of fakes decides how low chance lies; compare each loss with its own (6)",
                "b": "every discriminator falls from ln 2 to chance within some hundred steps, and has learnt nothing by it",
            },
            "c_is": {
                "b": "",
                "a": "good fakes teach only a discriminator that finds some of them: how far is its loss below chance?",
                "c": "2.6 nats is the best generator of the three",
            },
            "unless": {
                "b": "",
                "a": "a lower loss of detection may be rarer fakes; what is it below chance?",
                "c": "a better generator makes rarer fakes; it says nothing of the model that is kept",
            },
        }),
        ("Equation (6) for each row: w = 0.92 times H(f). Which loss lies well below its own?",
         "What was the loss of each at the first step? ln 2. So what do those falls tell?"),
    ),
)  # fmt: skip
