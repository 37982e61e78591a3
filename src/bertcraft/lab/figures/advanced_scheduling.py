"""09: how it is drawn."""

from pathlib import Path

import numpy as np

from bertcraft.lab import style
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.verdicts import difference, shared

MARGIN = 0.02
FIRST = ("linear", "cold", "radam")


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """Rates and learning curves; what each schedule costs against a line, where there are seeds; how long first updates are."""
    paths = [show_curves(folder / "schedules.png", runs, experiment)]
    if experiment.primary_seeds > 1:
        paths.append(show_costs(folder / "against_a_line.png", runs, experiment))
    shown = {*FIRST} & {*_trained(experiment)}
    measured = {run["arm"]: run["figures"]["updates"] for run in runs if "updates" in run["figures"] and run["arm"] in shown}
    if len(measured) > 1:
        paths.append(show_updates(folder / "first_updates.png", measured, experiment))
    return paths


def _trained(experiment: Experiment) -> list[str]:
    """The arms at their own best peaks; in a short form, which has one peak for all, every arm that trains."""
    tuned = experiment.tuning.grids if experiment.tuning else [arm.name for arm in experiment.arms if not arm.trivial]
    return [arm.name for arm in experiment.arms if arm.name in tuned]


def show_curves(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """The rate of each step, and the loss at [MASK] of unread text, the mean over the seeds that all schedules have."""
    runs = shared(runs, _trained(experiment))
    with style.figure(path, columns=2, width=9.6, height=3.6) as axes:
        for place, name in enumerate(_trained(experiment)):
            own = [run["figures"] for run in runs if run["arm"] == name and "curve" in run["figures"]]
            if not own:
                continue
            look = style.line(place)
            steps = np.linspace(0, own[0]["steps"][-1], len(own[0]["rates"]), endpoint=False)
            axes[0].plot(steps, own[0]["rates"], **{**look, "marker": "none"})
            mean = np.mean([each["curve"] for each in own], axis=0)
            axes[1].plot(own[0]["steps"], mean, **look, label=experiment.arm(name).title)
        unigram = [run["figures"]["loss"] for run in runs if run["arm"] == "unigram"]
        if unigram:
            axes[1].axhline(np.mean(unigram), color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
        peak = ", its own best peak" if experiment.tuning else ""  # a short form has one for all
        axes[0].set(xlabel="steps", ylabel=f"learning rate{peak}", xlim=(0, None), ylim=(0, None))
        axes[1].set(xlabel="steps", ylabel="loss at [MASK] of unread text (nats)", xlim=(0, None))
        axes[1].legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5))
    return path


def show_costs(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Loss less that of a line to zero, paired over seeds, with 95 % intervals; the band is what counts as the same."""
    arms = [name for name in _trained(experiment) if name != "linear"]
    found = {name: each for name in arms if (each := difference(experiment, runs, name, "linear", "loss"))}
    with style.figure(path, width=6.6, height=1.2 + 0.36 * max(len(found), 1)) as ax:
        ax.axvspan(-MARGIN, MARGIN, color="0.92", label=f"within {MARGIN} nats: the same")
        for row, (name, each) in enumerate(found.items()):
            reach = None if each.low is None else [[each.mean - each.low], [each.high - each.mean]]
            look = {**style.line(_trained(experiment).index(name)), "linestyle": "none"}
            ax.errorbar(each.mean, row, xerr=reach, capsize=3, **look)
        ax.axvline(0, color="0.3", lw=0.9, ls=":")
        ax.set_yticks(range(len(found)), [experiment.arm(name).title for name in found])
        ax.set(ylim=(len(found) - 0.5, -0.5), xlabel="loss at [MASK] less that of a line to zero (nats)")
        ax.grid(axis="y", visible=False)
        ax.legend(fontsize=7.5)
    return path


def show_updates(path: Path, measured: dict[str, list[float]], experiment: Experiment) -> Path:
    """The length of the first updates over the highest rate: what warm-up makes of them."""
    with style.figure(path, width=6.2, height=3.4) as ax:
        for name, lengths in measured.items():
            look = style.line(_trained(experiment).index(name)) | {"markevery": 10}
            ax.plot(range(1, len(lengths) + 1), lengths, **look, label=experiment.arm(name).title)
        ax.set(xlabel="update", ylabel="its length over the highest rate", xlim=(1, None), ylim=(0, None))
        ax.legend(fontsize=8)
    return path
