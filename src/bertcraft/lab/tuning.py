"""Choosing settings: which trials there are, and what they choose."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from bertcraft.errors import InputError
from bertcraft.lab import statistics
from bertcraft.lab.experiment import Arm, Experiment


class Trial(NamedTuple):
    """An arm with settings to be tried, and a seed of tuning."""

    arm: Arm  # with the settings of the trial
    seed: int
    values: dict[str, float]  # those that are tried, of the settings


def trials(experiment: Experiment) -> list[Trial]:
    """Every trial of an experiment; none where nothing is tuned."""
    tuning = experiment.tuning
    if not tuning:
        return []
    return [
        Trial(with_settings(experiment.arm(name), {**tuning.settings, **values}), seed, values)
        for seed in tuning.seeds
        for name in tuning.grids
        for values in combinations(experiment, name)
    ]


def combinations(experiment: Experiment, arm: str) -> list[dict[str, float]]:
    """The values that are tried of an arm's settings, all combinations."""
    grid = experiment.tuning.grids[arm]
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def with_settings(arm: Arm, settings: dict) -> Arm:
    """An arm with some settings set."""
    from dataclasses import replace

    return replace(arm, settings=arm.settings | settings)


def tried(experiment: Experiment, arm: str, stored: Sequence[dict]) -> list[tuple[dict[str, float], float]]:
    """The values tried of an arm, with the mean figure over the seeds of tuning; only those that all seeds have."""
    found = []
    for values in combinations(experiment, arm):
        own = [each["figures"][experiment.tuning.figure] for each in stored if (each["arm"], each["values"]) == (arm, values)]
        if len(own) == len(experiment.tuning.seeds):
            found.append((values, statistics.mean(own).mean))
    return found


def chosen(experiment: Experiment, arm: str, stored: Sequence[dict]) -> dict[str, float] | None:
    """The settings that an arm takes; {} where it is not tuned, None where trials are missing.

    Raises InputError where the best value lies at an end of its grid: the true best may lie beyond.
    """
    tuning = experiment.tuning
    if not tuning or arm not in {*tuning.grids, *tuning.like}:
        return {}
    arm = tuning.like.get(arm, arm)
    found = tried(experiment, arm, stored)
    if len(found) < len(combinations(experiment, arm)):
        return None
    best, _ = max(found, key=lambda each: tuning.better * each[1])
    for setting, values in tuning.grids[arm].items():
        if best[setting] in (values[0], values[-1]):
            shown = ", ".join(f"{each[setting]:g}: {figure:.4g}" for each, figure in found)
            raise InputError(
                f"the best {setting} of {arm} is {best[setting]:g}, an end of its grid ({tuning.figure} by {setting}: {shown}); "
                f"widen it in the declaration of {experiment.slug} and run it again, what is stored stays"
            )
    return best
