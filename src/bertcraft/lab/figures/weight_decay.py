"""14: how it is drawn."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bertcraft.lab import style
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.verdicts import difference, shared

TUNED = ("l2", "adamw", "none", "dropout", "everything")
CROSSED = ("warm", "cold", "uncorrected", "uncorrected_cold")
FEW = ("few", "few_cold", "few_uncorrected", "few_uncorrected_cold")


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """Learning curves; what AdamW gains on each other arm, where there are seeds; runs without bias correction, one by one."""
    paths = [show_curves(folder / "loss.png", runs, experiment)]
    if experiment.primary_seeds > 1:
        paths.append(show_gains(folder / "against_adamw.png", runs, experiment))
        paths.append(show_seeds(folder / "bias_correction.png", runs, experiment))
    return paths


def show_curves(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Loss at [MASK] of unread text against steps, the mean over the seeds that all have; open: the training loss at the end."""
    runs = shared(runs, TUNED)
    with style.figure(path, width=7.6, height=3.6) as ax:
        for place, name in enumerate(TUNED):
            own = [run["figures"] for run in runs if run["arm"] == name and "curve" in run["figures"]]
            if own:
                look = style.line(place)
                mean = np.mean([each["curve"] for each in own], axis=0)
                ax.plot(own[0]["steps"], mean, **look, label=experiment.arm(name).title)
                end = np.mean([each["training"] for each in own])
                ax.plot(own[0]["steps"][-1], end, look["marker"], color=look["color"], mfc="white")
        unigram = [run["figures"]["loss"] for run in runs if run["arm"] == "unigram"]
        if unigram:
            ax.axhline(np.mean(unigram), color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
        ax.plot([], [], "o", color="0.3", mfc="white", label="hollow: training loss")
        ax.set(xlabel="steps", ylabel="loss at [MASK] of unread text (nats)", xlim=(0, None))
        ax.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5))
    return path


def show_gains(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Loss less that of AdamW, paired over seeds, with 95 % intervals."""
    found = {
        name: each for name in TUNED if name != "adamw" and (each := difference(experiment, runs, name, "adamw", "loss"))
    }  # fmt: skip
    with style.figure(path, width=6.2, height=1.2 + 0.36 * max(len(found), 1)) as ax:
        for row, (name, each) in enumerate(found.items()):
            reach = None if each.low is None else [[each.mean - each.low], [each.high - each.mean]]
            ax.errorbar(each.mean, row, xerr=reach, capsize=3, **{**style.line(TUNED.index(name)), "linestyle": "none"})
        ax.axvline(0, color="0.3", lw=0.9, ls=":")
        ax.set_yticks(range(len(found)), [experiment.arm(name).title for name in found])
        ax.set(ylim=(len(found) - 0.5, -0.5), xlabel="loss at [MASK] less that of AdamW (nats)")
        ax.grid(axis="y", visible=False)
    return path


def show_seeds(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Every run with and without bias correction: one that failed stands apart."""
    with style.figure(path, columns=2, width=8.6, height=3.4) as axes:
        for ax, names, metric in ((axes[0], CROSSED, "loss"), (axes[1], FEW, "right")):
            for row, name in enumerate(names):
                values = [run["figures"][metric] for run in runs if run["arm"] == name]
                look = style.line(row)
                ax.plot(values, [row] * len(values), look["marker"], color=look["color"], alpha=0.7)
            ax.set_yticks(range(len(names)), [experiment.arm(name).title for name in names], fontsize=7.5)
            ax.set_ylim(len(names) - 0.5, -0.5)
        axes[0].set(xlabel="loss at [MASK], unread (nats); a point a seed")
        axes[1].set(xlabel="right on TREC (%); a point a seed")
    return path


def show_grids(axes, trials: Sequence[dict], experiment: Experiment) -> None:
    """Development loss over rate and decay, of L2 and of AdamW: the dark cells lie on a slant, or upright. Two axes."""
    losses = [trial["figures"]["dev_loss"] for trial in trials if trial["arm"] in ("l2", "adamw")]
    for ax, name in zip(axes, ("l2", "adamw"), strict=True):
        grid = experiment.tuning.grids[name]
        cells = np.full((len(grid["weight_decay"]), len(grid["rate"])), np.nan)
        for trial in trials:
            if trial["arm"] == name:
                place = (grid["weight_decay"].index(trial["values"]["weight_decay"]), grid["rate"].index(trial["values"]["rate"]))
                cells[place] = trial["figures"]["dev_loss"]
        ax.imshow(cells, cmap="gray", vmin=min(losses), vmax=max(losses), origin="lower", aspect="auto")
        for (row, column), loss in np.ndenumerate(cells):
            ink = "white" if loss < (min(losses) + max(losses)) / 2 else "black"
            ax.text(column, row, f"{loss:.2f}", ha="center", va="center", color=ink, fontsize=8)
        ax.set_xticks(range(len(grid["rate"])), [f"{rate:g}" for rate in grid["rate"]])
        ax.set_yticks(range(len(grid["weight_decay"])), [f"{decay:g}" for decay in grid["weight_decay"]])
        ax.set(xlabel="learning rate", ylabel="decay", title=experiment.arm(name).title)
        ax.grid(visible=False)
