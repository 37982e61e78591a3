"""Checks of lesson 14: a decay for a new rate, where epsilon stands, where decay stands, LAMB's ratio, which decay."""

import numpy as np

from bertcraft.course.exercises import Exercise, Wrong, decision, same


def _near(got, expected) -> bool:
    try:
        return np.shape(got) == np.shape(expected) and bool(np.allclose(got, expected, rtol=1e-6, atol=0))
    except TypeError:
        return False


def _check_new_decay(new_decay) -> None:
    rate, decay, new_rate = 1e-3, 0.1, 2.5e-4
    got = new_decay(rate, decay, new_rate)
    got = got.tolist() if isinstance(got, np.ndarray) else got
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        raise Wrong("return two decays: one that keeps the shrinkage of an update, one that keeps the ceiling")
    if _near(got, (0.1, 0.4)):
        raise Wrong("both are right, in the wrong order: the shrinkage of an update comes first, then the ceiling")
    if _near(got[0], 0.025):
        raise Wrong("the first goes the wrong way: an update shrinks by rate * decay, so a lower rate needs a higher decay")
    if _near(got[0], 0.1):
        raise Wrong("the first: with the old decay an update at a quarter of the rate shrinks a quarter as much")
    if _near(got[0], 1e-4):
        raise Wrong("the first is the shrinkage itself, rate * decay; asked for is the decay that gives it at the new rate")
    same(got[0], 0.4, "the decay that keeps the shrinkage, from a rate of 1e-3 and a decay of 0.1 to 2.5e-4,", rtol=1e-6)
    if _near(got[1], 0.4):
        raise Wrong("the second: the ceiling of (8) is c / decay, and the rate is not in it")
    if _near(got[1], 10):
        raise Wrong("the second is 1 / decay, the ceiling itself for c = 1; asked for is the decay that leaves it where it was")
    if _near(got[1], 0.025):
        raise Wrong("the second: that keeps decay / rate, the ceiling of the published rule (4); torch's is c / decay")
    same(got[1], 0.1, "the decay that keeps the ceiling", rtol=1e-6)


def _direction(m, u, t, b1, b2, eps, *, inside=False, hat=False, corrected=True):
    """Adam's direction, right or with a mistake."""
    of_m, of_u = (1 - b1**t, 1 - b2**t) if corrected else (1.0, 1.0)
    if hat:
        return m / of_m / ((np.sqrt(u) + eps) / np.sqrt(of_u))
    return m / of_m / (np.sqrt(u / of_u + eps) if inside else np.sqrt(u / of_u) + eps)


def _check_direction(direction) -> None:
    m, u, b1, b2 = np.array([0.03, -2e-6, 4e-5]), np.array([2e-3, 9e-13, 5e-9]), 0.9, 0.99
    given = (m, u, 4, b1, b2, 1e-6)
    got = direction(*given)
    if _near(got, _direction(*given, inside=True)):
        raise Wrong("epsilon is inside the root, where 1e-6 counts as 1e-3: small gradients hardly move a weight")
    if _near(got, _direction(*given, hat=True)):
        raise Wrong("epsilon is added before the correction: that is Kingma and Ba's epsilon hat, worth more at first")
    if _near(got, _direction(*given, corrected=False)):
        raise Wrong("without bias correction, as in BERT's first code: the running means are too small at first")
    if _near(got, _direction(m, u, 3, b1, b2, 1e-6)) or _near(got, _direction(m, u, 5, b1, b2, 1e-6)):
        raise Wrong("t is off by one: it counts updates from 1, and is used as it is")
    if _near(got, _direction(m, u, 4, b1, b2, 0.0)):
        with np.errstate(invalid="ignore"):
            never = direction(np.zeros(2), np.zeros(2), 1, b1, b2, 1e-8)
        if np.isfinite(never).all():
            raise Wrong("epsilon counts only where the root is next to nothing: 0 / 0 is avoided, but (1) adds it everywhere")
        raise Wrong("epsilon is missing: a weight that never had a gradient is then 0 / 0")
    if _near(got, _direction(m, u, 4, b1, b2, 1e-3)):
        raise Wrong("the root of epsilon is added, so 1e-6 counts as 1e-3 again: (1) adds epsilon as it is")
    if _near(got, m / (1 - b1**4) / np.sqrt(u / (1 - b2**4) + 1e-12)):
        raise Wrong("epsilon squared inside the root is as small as it should be, but not (1): add epsilon behind the root")
    if _near(got, m / (1 - b1**4) / (u / (1 - b2**4) + 1e-6)):
        raise Wrong("the root is missing: u holds squares")
    same(got, _direction(*given), "the direction at the fourth update", rtol=1e-6)
    got = direction(np.zeros(2), np.zeros(2), 1, b1, b2, 1e-8)
    same(got, np.zeros(2), "the direction of a weight that never had a gradient", rtol=1e-6)


def _check_adamw_step(adamw_step) -> None:
    w, m, u = np.array([2.0, -1.0, 0.5]), np.array([0.3, 0.002, -4.0]), np.array([0.25, 1e-4, 9.0])
    given, root = (w, m, u, 0.1, 0.2, 1e-3), np.array([0.501, 0.011, 3.001])
    got, right = adamw_step(*given), w - 0.1 * (m / root + 0.2 * w)
    if _near(got, w - 0.1 * (m + 0.2 * w) / root):
        raise Wrong("the pull is divided by the root of u, as the gradient is: that is not decoupled, but weak where u is large")
    if _near(got, w - 0.1 * m / root - 0.2 * w):
        raise Wrong("the pull is not multiplied by the rate: that is the published rule (4); (3) shrinks by rate * decay")
    if _near(got, w - 0.1 * (m / root - 0.2 * w)):
        raise Wrong("the sign of the pull: it makes weights grow")
    if _near(got, w - 0.1 * m / root):
        raise Wrong("nothing decays")
    if _near(got, w - 0.1 * (m / (root - 1e-3) + 0.2 * w)):
        raise Wrong("epsilon is missing: the divisor is the root of u plus epsilon")
    if _near(got, w - 0.1 * (m / np.sqrt(u + 1e-3) + 0.2 * w)):
        raise Wrong("epsilon is inside the root: add it behind, as in (1)")
    if _near(got, w + 0.1 * (m / root + 0.2 * w)):
        raise Wrong("the step goes along the direction: it has to go against it")
    if _near(got, right - w) or _near(got, w - right):
        raise Wrong("that is the update alone; asked for are the weights after it")
    if _near(got, (w - 0.1 * m / root) * (1 - 0.1 * 0.2)):
        raise Wrong("the update itself is shrunk too: (3) shrinks the old weight, then goes against the direction")
    if any(_near(got, w - 0.1 * (m / root + 0.2 * pull)) for pull in (w**2, np.sign(w), 1.0)):
        raise Wrong("the pull is the decay times the weight itself, not its square or its sign, nor the decay alone")
    same(got, right, "the weights after a step", rtol=1e-6)


def _check_lamb_step(lamb_step) -> None:
    w, direction, rate, decay = np.array([[3.0, 0.0], [0.0, 4.0]]), np.array([[0.6, -0.5], [0.5, 1.2]]), 0.1, 0.2
    update = direction + decay * w
    long, moved = 5.0, np.linalg.norm(update)
    got, right = lamb_step(w, direction, rate, decay), w - rate * long / moved * update
    if _near(got, w - rate * moved / long * update):
        raise Wrong("the ratio is upside down: the update is to become as long as the parameter, whose length is on top")
    if _near(got, w - rate * (long / np.linalg.norm(direction) * direction + decay * w)):
        raise Wrong("decay is added behind the ratio: LAMB scales the whole update, decay included")
    if _near(got, w - rate * long / np.linalg.norm(direction) * update):
        raise Wrong("the ratio is that of the direction alone: take the length of the whole update, decay included")
    if _near(got, w - rate * update):
        raise Wrong("nothing is scaled: that is AdamW's step")
    if _near(got, w + rate * long / moved * update):
        raise Wrong("the step goes along the update: it has to go against it")
    if _near(got, right - w) or _near(got, w - right):
        raise Wrong("that is the change alone; asked for is the parameter after it")
    if _near(got, w - rate * long / np.linalg.norm(direction) * direction):
        raise Wrong("nothing decays: the update is direction + decay * w")
    if _near(got, w - rate * np.abs(w) / np.abs(update) * update):
        raise Wrong("a ratio an element: lengths are those of the whole parameter, np.linalg.norm")
    if _near(got, w - rate * update / moved):
        raise Wrong("the update has length 1, whatever the parameter's: multiply by the length of w")
    if _near(got, w - rate * np.linalg.norm(w, 2) / np.linalg.norm(update, 2) * update):
        raise Wrong("np.linalg.norm(w, 2) of a matrix is its largest singular value; np.linalg.norm(w) is the length")
    rows = np.linalg.norm(w, axis=1, keepdims=True) / np.linalg.norm(update, axis=1, keepdims=True)
    if _near(got, w - rate * rows * update):
        raise Wrong("a ratio a row; LAMB has one for the whole parameter")
    same(got, right, "a matrix after a step", rtol=1e-6)
    got = lamb_step(np.zeros(2), np.array([1.0, -2.0]), rate, decay)
    if _near(got, np.zeros(2)):
        raise Wrong("a parameter that is 0 never moves: where its length is 0 the ratio is 1")
    same(got, np.array([-0.1, 0.2]), "a parameter that is 0, after a step", rtol=1e-6)
    with np.errstate(divide="ignore", invalid="ignore"):
        got = lamb_step(np.array([1.0, -2.0]), np.zeros(2), rate, 0.0)
    if np.isnan(got).any():
        raise Wrong("an update of 0 is divided by its length, 0 / 0: where either length is 0 the ratio is 1")
    same(got, np.array([1.0, -2.0]), "a step without update", rtol=1e-6)


EXERCISES = (
    Exercise(
        "new_decay", "A new rate", 1, _check_new_decay,
        ("In (7) an update leaves 1 - rate * decay of a weight: which decay gives the same product?",
         "In (8) the rate has cancelled."),
    ),
    Exercise(
        "direction", "Where does epsilon stand?", 2, _check_direction,
        ("How large is u for a gradient of 1e-5? Compare it with epsilon, and then compare its root.",
         "In (1) epsilon is added to the root."),
    ),
    Exercise(
        "adamw_step", "Is it decoupled?", 2, _check_adamw_step,
        ("By what is decay * w divided? At which of the two places of the schematic does it stand then?",
         "Only m belongs over the root."),
    ),
    Exercise(
        "lamb_step", "LAMB's ratio", 2, _check_lamb_step,
        ("First the whole update, direction plus decay * w; then its length.",
         "np.linalg.norm(w) / np.linalg.norm(update), or 1 where either is 0."),
    ),
    Exercise(
        "which_decay", "Which decay?", 2,
        decision({
            "arm": {
                "adamw": "",
                "l2": "where it was tried it is worse by at least 0.012 nats; it may be better elsewhere, but nobody has seen it",
                "none": "it is worse by at least 0.041 nats, with as many trials and its best inside the grid",
                "all": "nothing is gained by it: its interval holds 0, and its mean is the worse one",
            },
            "l2_is": {
                "b": "",
                "a": "its best decay is the lowest of its grid: a lower one was not tried, so it has not been tuned",
                "c": "its interval lies wholly above 0: the arm as it was tried is not the same",
            },
            "norms": {
                "c": "",
                "a": "its interval holds 0: no cost was shown",
                "b": "an interval that holds 0 shows no equality: a cost of 0.017 is as possible as a gain of 0.009",
            },
            "unless": {
                "a": "",
                "b": "that says that 0.3 is a good decay for AdamW; the arm stays",
                "c": "0.05 lies within what its seeds scatter: no surprise",
            },
        }),
        ("Look at where each best lies in its grid before you look at the differences.",
         "An interval that holds 0 says neither 'worse' nor 'the same'."),
    ),
)  # fmt: skip
