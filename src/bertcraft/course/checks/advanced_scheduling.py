"""Checks of lesson 09: a line with its ends, a fall that comes late, a run prolonged, the length of an average, a choice."""

import numpy as np

from bertcraft.course.exercises import Exercise, Wrong, decision, same


def _near(got, expected) -> bool:
    try:
        with np.errstate(invalid="ignore"):
            return np.shape(got) == np.shape(expected) and bool(np.allclose(got, expected, rtol=1e-6, atol=1e-12))
    except TypeError:
        return False


def _check_line(line) -> None:
    peak, warmup, total = 0.4, 4, 12
    steps = np.arange(total + 1)
    rates = [line(step, peak, warmup, total) for step in range(total + 1)]
    if silent := [step for step, rate in enumerate(rates) if rate is None]:
        raise Wrong(f"at step {silent[0]} of {total} nothing is returned: every step has a rate, if only 0")
    got = np.array(rates, float)
    rise, fall = np.minimum(1, steps / warmup), (total - steps) / (total - warmup)
    expected = peak * np.minimum(rise, fall)
    if _near(got, peak * np.where(steps < warmup, (steps + 1) / warmup, fall)):
        raise Wrong("your first update has the rate peak / warmup: step 0 has the rate 0, step `warmup` is the first at the peak")
    if _near(got, peak * np.where(steps < warmup, rise, (total - 1 - steps) / (total - 1 - warmup))) or _near(
        got, np.maximum(0, peak * np.where(steps < warmup, rise, (total - 1 - steps) / (total - 1 - warmup)))
    ):
        raise Wrong("your last update, step total - 1, has the rate 0 and changes nothing: 0 is reached at step `total`")
    if _near(got, peak * np.where(steps < warmup, rise, 1 - steps / total)):
        raise Wrong("the fall counts from step 0: it jumps down where warm-up ends, as BERT's first code does; begin at `warmup`")
    if _near(got, peak * np.where(steps < warmup, rise, 1 - (steps - warmup) / total)):
        raise Wrong("the fall is as long as the whole run and does not reach 0: it has total - warmup steps")
    if _near(got * peak, expected):
        raise Wrong("these are shares of the peak, up to 1: multiply by `peak`")
    same(got, expected, "the rates of a line of 12 steps, 4 of them warm-up,", rtol=1e-6)
    try:
        cold = line(0, peak, 0, total), line(6, peak, 0, total)
    except Wrong as error:
        if "ZeroDivisionError" in str(error):
            raise Wrong("without warm-up you divide by 0: where it has no steps the first update has the peak") from None
        raise
    if cold[0] == 0:
        raise Wrong("without warm-up your first update has the rate 0: it has the peak, as `warmup` is step 0 then")
    same(np.array(cold, float), np.array([peak, peak / 2]), "the rates at steps 0 and 6 of 12 without warm-up", rtol=1e-6)
    if float(line(total + 3, peak, warmup, total)) < 0:
        raise Wrong("behind `total` your rate is negative: training would climb the loss; it stays 0")
    same(float(line(total + 3, peak, warmup, total)), 0.0, "the rate after the end")


def _check_last_update(last_update) -> None:
    peak, lowest, updates = 0.3, 0.03, 7
    got = np.array([last_update(step, peak, lowest, updates) for step in range(updates)], float)

    def cosine(progress):
        return lowest + (peak - lowest) * (0.5 + 0.5 * np.cos(np.pi * progress))

    steps = np.arange(updates)
    if _near(got, cosine(steps / updates)):
        raise Wrong(f"the last update, step {updates - 1}, has {got[-1]:.4f}, not {lowest}: it is updates - 1 steps from step 0")
    if _near(got, cosine((steps + 1) / updates)):
        raise Wrong("now the last update has `lowest`, but the first has lost the peak: do not add a step, divide by one less")
    if _near(got, cosine(np.minimum(1, steps / (updates - 2)))):
        raise Wrong("two updates have `lowest` now: one step less was enough")
    if _near(got, cosine(steps / (updates + 1))):
        raise Wrong("the last update is updates - 1 steps from step 0: one less than `updates`, not one more")
    if _near(got, cosine(steps / updates - 1)):
        raise Wrong("`step / updates - 1` divides first: put the divisor in brackets")
    if _near(got, np.append(cosine(steps / updates)[:-1], lowest)):
        raise Wrong("only the last update is mended, by force: those before it still fall as if there were one more")
    same(got, cosine(steps / (updates - 1)), "the rates of 7 updates", rtol=1e-6)
    few = np.array([last_update(step, 1.0, 0.0, 3) for step in range(3)], float)
    same(few, np.array([1, 0.5, 0]), "the rates of 3 updates", atol=1e-9)


def _check_prolonged(prolonged) -> None:
    peak, planned, at, total = 1.0, 10, 6, 14
    left = peak * (planned - at) / planned
    got = prolonged(peak, planned, at, total)
    steps = np.arange(at, total)
    expected = left * (total - steps) / (total - at)
    if _near(got, peak * (total - steps) / total):
        raise Wrong(f"the rate jumps up, from {left:g} to {peak * (total - at) / total:.2f}: begin at what is reached")
    if _near(got, peak * np.maximum(0, planned - steps) / planned):
        raise Wrong("this is the old line, 0 from step 10 on: the steps that were added change nothing")
    if _near(got, peak * (total - steps) / (total - at)):
        raise Wrong("you begin again at the peak: the run had come down to 0.4 of it")
    if _near(got, np.full(total - at, left)):
        raise Wrong("the rate stays where it is: it has to fall to 0 at step `total`")
    if _near(got, np.linspace(left, 0, total - at)):
        raise Wrong("your last update has the rate 0 and does nothing: linspace reaches its end; `total` is past it")
    if _near(got, left * (total - steps - 1) / (total - at)):
        raise Wrong("the first rate is that of step at + 1: step `at` has not been made yet")
    if _near(got, expected * (left + peak / planned) / left):
        raise Wrong("you begin at the rate of step at - 1, the last one made: step `at` is one further down the old line")
    if _near(got, left * (total - steps) / total):
        raise Wrong(f"you begin at {got[0]:.2f}, not at {left:g}: the new line is total - at steps long, not total")
    if np.size(got) == total - at + 1:
        raise Wrong(f"one rate too many: {total - at} updates are left, the last of them step total - 1")
    same(got, expected, "the rates of steps 6 to 13 of a line of 10, prolonged to 14", rtol=1e-6)
    same(prolonged(0.5, 100, 0, 4), 0.5 * np.array([1, 0.75, 0.5, 0.25]), "the rates of a line prolonged at once", rtol=1e-6)


def _check_length(length) -> None:
    weights = 0.5 ** np.arange(4)
    ages = np.arange(4)
    got = length(weights)
    if _near(got, weights.sum() ** 2 / (weights**2).sum()):
        raise Wrong("that is the length of a plain mean of equal *variance*; asked for is one of equal mean age, as in (7)")
    if _near(got, 1 + 2 * (weights * ages).sum()):
        raise Wrong("the weights do not sum to 1: divide by their sum")
    if _near(got, 1 + 2 * (weights * ages).mean()):
        raise Wrong("divide by the sum of the weights, not by how many they are")
    if _near(got, 1 + 2 * (weights * ages[::-1]).sum() / weights.sum()):
        raise Wrong("the youngest number comes first: the first weight has the age 0, the last the age t - 1")
    if any(_near(got, extra + 2 * (weights * (ages + 1)).sum() / weights.sum()) for extra in (0, 1)):
        raise Wrong("the youngest number has the age 0: with the age 1 one number alone would have the length 2")
    if _near(got, (weights * ages).sum() / weights.sum()):
        raise Wrong("that is the mean age itself; n numbers that weigh alike have the mean age (n - 1) / 2: solve for n")
    if _near(got, 2 * (weights * ages).sum() / weights.sum()):
        raise Wrong("one short: n numbers that weigh alike have the mean age (n - 1) / 2, and not n / 2")
    same(got, 1 + 2 * (weights * ages).sum() / weights.sum(), "the length for weights 1, 1/2, 1/4, 1/8", rtol=1e-6)
    same(length(np.array([0.0, 0.0, 2.0, 1.0])), 1 + 2 * 7 / 3, "the length for weights 0, 0, 2, 1", rtol=1e-6)
    same(length(np.full(9, 3.0)), 9.0, "the length of nine equal weights", rtol=1e-6)
    same(length(np.array([0.2])), 1.0, "the length of one number", rtol=1e-6)


EXERCISES = (
    Exercise(
        "line", "A line and its ends", 1, _check_line,
        ("Up to `warmup` the share of the peak is step / warmup; from there it is (total - step) / (total - warmup).",
         "Two ends are left: `warmup` may be 0, and the step may lie behind `total`: max(0, ...)."),
    ),
    Exercise(
        "last_update", "The end that never comes", 2, _check_last_update,
        ("Print the rate of the last update. Which `step` has it, and what is its progress?",
         "Seven updates are steps 0 to 6: six steps apart."),
    ),
    Exercise(
        "prolonged", "A run that gets more steps", 2, _check_prolonged,
        ("What rate has the run at step `at`, by its old plan? That is where the new line begins.",
         "The new line is 0 at step `total`, which is no update any more."),
    ),
    Exercise(
        "length", "How many numbers is an average?", 3, _check_length,
        ("`np.arange(len(weights))` are the ages. The mean age is the sum of weight times age over the sum of weights.",
         "Ages 0 to n - 1, all with the same weight, have the mean (n - 1) / 2."),
    ),
    Exercise(
        "which_schedule", "Which schedule?", 2,
        decision({
            "schedule": {
                "flat": "",
                "line": "stopped at 20,000 it is worse by 0.081 nats or more, and 0.02 were agreed: cut short it has not settled",
                "prolonged": "stopped at 60,000 it is worse by at least 0.028 nats, and 0.02 were agreed",
            },
            "because": {
                "b": "",
                "a": "it is not: in each column one row is the yardstick itself, with a difference of 0",
                "c": "holding 0 shows nothing: with few seeds any interval does. What was agreed is a band, from -0.02 to +0.02",
            },
            "flat_is": {
                "c": "",
                "a": "its interval holds 0 and both signs: that it is worse was not shown",
                "b": "its interval reaches to +0.017: a difference of 0.01 would look just like this",
            },
            "unless": {
                "a": "",
                "b": "+0.012 lies within what five such seeds scatter: no surprise",
                "c": "each schedule has its own best peak, and each was tuned: how high it is, is no reason",
            },
        }),
        ("Nobody knows beforehand which column will count: a schedule has to be good enough in both.",
         "Which row needs to know two thousand steps ahead that the end is near?"),
    ),
)  # fmt: skip
