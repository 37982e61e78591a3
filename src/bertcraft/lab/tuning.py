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
    return [(values, _mean(own, experiment.tuning.figure)) for values, own in _whole(experiment, arm, stored)]


def chosen(experiment: Experiment, arm: str, stored: Sequence[dict]) -> dict[str, float] | None:
    """The settings that an arm takes, by its trials and by others' that it uses; {} where none, None where trials are missing.

    Values with which the arm fails a check of its own are not taken while others pass: a model that has not learnt what the
    question is about would only be told so afterwards. Checks against another arm cannot be held by trials.

    Raises InputError where the best value lies at an end of its grid: the true best may lie beyond.
    """
    tuning = experiment.tuning
    if not tuning:
        return {}
    own = _best(experiment, tuning.like.get(arm, arm), stored)
    for setting, (other, its) in tuning.uses.get(arm, {}).items():
        others = _best(experiment, other, stored)
        own = None if own is None or others is None else own | {setting: others[its]}
    return own


def _best(experiment: Experiment, arm: str, stored: Sequence[dict]) -> dict[str, float] | None:
    tuning = experiment.tuning
    if arm not in tuning.grids:
        return {}
    whole = _whole(experiment, arm, stored)
    if len(whole) < len(combinations(experiment, arm)):
        return None
    learnt = [each for each in whole if _passes(experiment, arm, each[1])]
    best, _ = max(learnt or whole, key=lambda each: tuning.better * _mean(each[1], tuning.figure))
    for setting, values in tuning.grids[arm].items():
        if best[setting] in (values[0], values[-1]):
            shown = ", ".join(f"{each[setting]:g}: {figure:.4g}" for each, figure in tried(experiment, arm, stored))
            raise InputError(
                f"the best {setting} of {arm} is {best[setting]:g}, an end of its grid ({tuning.figure} by {setting}: {shown}); "
                f"widen it in the declaration of {experiment.slug} and run it again, what is stored stays"
            )
    return best


def _whole(experiment: Experiment, arm: str, stored: Sequence[dict]) -> list[tuple[dict[str, float], list[dict]]]:
    """The values tried of an arm that all seeds of tuning have, with the figures of each seed."""
    found = []
    for values in combinations(experiment, arm):
        own = [each["figures"] for each in stored if (each["arm"], each["values"]) == (arm, values)]
        if len(own) == len(experiment.tuning.seeds):
            found.append((values, own))
    return found


def _passes(experiment: Experiment, arm: str, figures: list[dict]) -> bool:
    """Whether an arm's trials pass those of its checks that they can be held to."""
    own = (check for check in experiment.checks if arm in check.arms and check.against is None)
    held = [(check, [check.of(each) for each in figures]) for check in own]
    return all(check.holds(statistics.mean(values).mean) for check, values in held if None not in values)


def _mean(figures: list[dict], name: str) -> float:
    return statistics.mean([each[name] for each in figures]).mean
