"""How much a wall-time budget buys: the cost of a step is measured once, and a plan of equal steps for every arm is made.

All else follows from the number of steps: whoever repeats it repeats the figures, on however slow a machine.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bertcraft.data.labelled import Split
from bertcraft.errors import InputError
from bertcraft.lab import finetune as tuning
from bertcraft.lab.arms import PLAIN, TECHNIQUES

MOST_TEST, MOST_DEV = 1000, 500  # texts: beyond them evaluation would eat the time for training
FEWEST_STEPS, MOST_EPOCHS = 10, 20
TIMED, WARMING = 16, 4  # steps that are taken to time a method, and how many of them only warm up


class Clock:
    """Wall time since the command began, and how much of it there is."""

    def __init__(self, budget: float | None, began: float | None = None):
        self.budget, self.began = budget, time.monotonic() if began is None else began

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def has(self, seconds: float) -> bool:
        """Whether that much more may be begun: to 7 % more than the budget, within the 10 % that are promised."""
        return self.budget is None or self.elapsed + seconds <= 1.07 * self.budget


def check(clock: Clock, done: int, splits: int) -> None:
    """Raises InputError where the baselines of some splits have used up a budget that has to last for all of them and more."""
    if done and clock.budget is not None and clock.elapsed > 0.95 * clock.budget:
        needed = 2 * clock.elapsed * splits / done  # half of it for fine-tuning
        raise InputError(
            f"--budget: {clock.budget:,.0f} s were used up by the baselines of {done} of {splits} splits, before any "
            f"fine-tuning; give about {math.ceil(needed / 60)}m, or fewer --seeds"
        )


@dataclass(frozen=True)
class Plan:
    """What every arm of every seed does. ``test`` and ``dev``: how many texts are classified at most."""

    steps: int
    epochs: float  # how often a training text is read
    test: int
    dev: int
    cut: float  # share of the texts that are longer than max_length tokens
    enough: bool = False  # whether the budget would allow more steps than make sense
    probed: float = 1.0  # share of the training texts that the linear probe learns from


def evaluated(steps: int) -> tuple[int, int]:
    """How many test and development texts to classify: about as many as are read in training, which costs a third of it."""
    texts = steps * PLAIN.batch_size
    return min(max(texts * 2 // 3, 200), MOST_TEST), min(max(texts // 3, 100), MOST_DEV)


def fixed(steps: int, parts: Split, cut: float, enough: bool = False) -> Plan:
    """The plan of a number of steps: all else follows from it."""
    test, dev = evaluated(steps)
    epochs = steps * PLAIN.batch_size / len(parts.train)
    return Plan(steps, epochs, min(test, len(parts.test)), min(dev, len(parts.dev)), cut, enough)


class Cost(NamedTuple):
    """Seconds of a fine-tuning method on this machine: to begin a run, for a training step, to classify a text."""

    begin: float
    step: float
    text: float


def timed(
    model, sample: tuning.Texts, names: Sequence[str], *, classes: int, threads: int, tell: Callable[..., None]
) -> dict[str, Cost]:
    """The cost of the arms, by :func:`timed_as`, from TIMED steps that read the sample once."""
    costs = {}
    for name in dict.fromkeys(map(timed_as, names)):
        technique = TECHNIQUES[name]
        tell(f"timing {technique.title}")
        marks = [time.monotonic()]
        tuned = technique.train(
            model, sample, technique.settings(TIMED), classes=classes, seed=0, threads=threads,
            report=lambda progress, marks=marks: marks.append(time.monotonic()),
        )  # fmt: skip
        now, step = time.monotonic(), (marks[-1] - marks[WARMING]) / (TIMED - WARMING)
        tuning.predict(tuned, sample.texts, threads)
        costs[name] = Cost(max(0.0, marks[1] - marks[0] - step), step, (time.monotonic() - now) / len(sample))
    return costs


def timed_as(name: str) -> str:
    """The arm whose cost is taken for that of ``name``: the first that does as much in a step."""
    own = TECHNIQUES[name]
    return next(other for other, each in TECHNIQUES.items() if (each.method, each.rule) == (own.method, own.rule))


def fitting(costs: dict[str, Cost], names: Sequence[str], parts: Split, cut: float, seeds: int, clock: Clock) -> Plan:
    """The plan of most steps that fits into what is left of the budget.

    Raises InputError when fewer than FEWEST_STEPS fit: what budget would do.
    """
    alike = [costs[timed_as(name)] for name in names]
    unit = math.lcm(*(TECHNIQUES[name].accumulate for name in names))
    most = max(100, round(MOST_EPOCHS * len(parts.train) / PLAIN.batch_size))

    def seconds(steps: int) -> float:
        plan = fixed(steps, parts, cut)
        one = (each.begin + steps * each.step + (plan.test + plan.dev) * each.text for each in alike)
        return seeds * sum(one)

    left = 0.97 * clock.budget - clock.elapsed
    steps = max((n for n in range(unit, most + 1, unit) if seconds(n) <= left), default=0)
    if steps < FEWEST_STEPS:
        needed = (clock.elapsed + seconds(-(-FEWEST_STEPS // unit) * unit)) / 0.95
        raise InputError(
            f"--budget: {clock.budget:,.0f} s leave {len(names)} arms x {seeds} splits {steps} steps each, too few to learn "
            f"from; give about {math.ceil(needed / 60)}m, or fewer --techniques or --seeds"
        )
    return fixed(steps, parts, cut, enough=steps + unit > most)
