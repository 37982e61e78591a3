"""25: how it is drawn."""

from pathlib import Path

import numpy as np

from bertcraft.lab import report, style, verdicts
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.experiments.meta_learning import INNER_STEPS, MOST_STEPS
from bertcraft.lab.statistics import mean


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """Gains over the nearest mean by method; error by number of steps of adaptation, where it was measured."""
    paths = [folder / "gains.png"]
    _show_gains(paths[0], runs, experiment)
    curves = {}
    for arm in report.in_order(experiment):
        found = [run["figures"]["curve"] for run in runs if run["arm"] == arm.name and "curve" in run["figures"]]
        if found:
            curves[arm.title] = found
    if curves:
        paths.append(folder / "steps.png")
        _show_steps(paths[1], curves)
    return paths


def _show_gains(path: Path, runs: list[dict], experiment: Experiment) -> None:
    """Differences in points to the nearest mean of the frozen vectors, paired over seeds."""
    arms = [
        (arm, found) for arm in report.in_order(experiment) if arm.name not in ("centroid", "tfidf")
        and (found := verdicts.difference(experiment, runs, arm.name, "centroid", "accuracy"))
    ]  # fmt: skip
    with style.figure(path, width=6.4, height=1.3 + 0.3 * max(len(arms), 3)) as ax:
        for place, (arm, found) in enumerate(arms):
            reach = None if found.low is None else [[found.mean - found.low], [found.high - found.mean]]
            colour = style.BASELINE if arm.trivial else style.TECHNIQUE if arm.settings["method"] == "maml" else 3
            ax.errorbar(found.mean, -place, xerr=reach, capsize=2, **{**style.line(colour), "linestyle": "none"})
        frozen = [run["figures"]["accuracy"] for run in runs if run["arm"] == "centroid"]
        title = f"nearest mean of frozen vectors: {mean(frozen).mean:.1f} %" if frozen else ""
        ax.axvline(0, color=style.COLOURS[style.BASELINE], linewidth=0.9, linestyle=":", zorder=0)
        ax.set(title=title, xlabel="points above the nearest mean of frozen vectors (95 % intervals)")
        ax.set_yticks([-i for i in range(len(arms))], [arm.title for arm, _ in arms])
        ax.set_ylim(-len(arms) + 0.4, 0.6)
        ax.grid(axis="y", visible=False)


def _show_steps(path: Path, curves: dict[str, list[list[float]]]) -> None:
    """From the first step on: before it the head is zero and all but one class in twenty are wrong."""
    with style.figure(path, width=6.4, height=3.4) as ax:
        for place, (title, found) in enumerate(curves.items()):
            each = [mean(column) for column in (100 - np.array(found)).T[1:]]
            x = np.arange(1, len(each) + 1)
            ax.plot(x, [point.mean for point in each], label=title, **style.line(place))
        ax.axvline(INNER_STEPS, color=style.COLOURS[style.BASELINE], linewidth=0.9, linestyle=":", zorder=0)
        ax.set(xlabel="steps of adaptation (dotted: as many as in training)", xticks=range(1, MOST_STEPS + 1))
        ax.set(ylabel="wrong on unseen classes, %", ylim=(0, 1.25 * ax.get_ylim()[1]))
        ax.legend(ncols=2, fontsize=8)
