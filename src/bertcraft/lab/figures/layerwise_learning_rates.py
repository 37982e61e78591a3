"""08: how it is drawn."""

from pathlib import Path

import numpy as np

from bertcraft.lab import style
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.experiments.layerwise_learning_rates import TASKS, WINDOW
from bertcraft.lab.verdicts import difference, shared


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """Losses on the way; what each arm gains on one rate, where there are seeds, each seed by its task."""
    paths = [show_losses(folder / "losses.png", runs, experiment)]
    if experiment.primary_seeds > 1:
        paths.append(show_gains(folder / "against_one_rate.png", runs, experiment))
    return paths


def _trained(experiment: Experiment) -> list[str]:
    """The arms of as many labels as the claim is about."""
    return [arm.name for arm in experiment.arms if not arm.trivial and not arm.name.startswith("few_")]


def show_losses(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Training losses, means over windows of steps and over the seeds that all arms have."""
    runs = shared(runs, _trained(experiment))
    with style.figure(path, width=7.6, height=3.6) as ax:
        for place, name in enumerate(_trained(experiment)):
            own = [run["figures"]["losses"] for run in runs if run["arm"] == name]
            if own:
                steps = WINDOW * (np.arange(len(own[0])) + 0.5)
                ax.plot(steps, np.mean(own, axis=0), **style.line(place), label=experiment.arm(name).title)
        ax.set(xlabel="steps", ylabel="training loss (nats)", xlim=(0, None), ylim=(0, None))
        ax.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5))
    return path


def show_gains(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Points above one rate of as many labels, paired over seeds, with 95 % intervals; small marks are seeds, by task."""
    accuracy = {(run["arm"], run["seed"]): run["figures"]["accuracy"] for run in runs}
    against = dict.fromkeys(_trained(experiment)[1:], "one") | {"few_decay_90": "few_one"}
    found = {
        name: each for name, one in against.items() if (each := difference(experiment, runs, name, one, "accuracy"))
    }  # fmt: skip
    with style.figure(path, width=6.8, height=1.3 + 0.38 * max(len(found), 1)) as ax:
        for row, (name, each) in enumerate(found.items()):
            for mark, task in zip("x+1", TASKS, strict=True):
                own = {run["seed"] for run in runs if run["arm"] == name and task in run["figures"]}
                own &= {seed for arm, seed in accuracy if arm == against[name]}
                gains = [accuracy[name, seed] - accuracy[against[name], seed] for seed in sorted(own)]
                ax.plot(gains, [row + 0.25] * len(gains), mark, color="0.5", ms=5, label=task.upper() if row == 0 else None)
            reach = None if each.low is None else [[each.mean - each.low], [each.high - each.mean]]
            look = {**style.line(list(against).index(name) + 1), "linestyle": "none"}
            ax.errorbar(each.mean, row, xerr=reach, capsize=3, **look)
        ax.axvline(0, color="0.3", lw=0.9, ls=":")
        ax.set_yticks(range(len(found)), [experiment.arm(name).title for name in found])
        ax.set(ylim=(len(found) - 0.4, -0.5), xlabel="accuracy above one rate (points)")
        ax.grid(axis="y", visible=False)
        ax.legend(fontsize=7.5)
    return path
