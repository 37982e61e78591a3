"""25: how it is drawn."""

from pathlib import Path

import numpy as np

from bertcraft.lab import style
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.experiments.meta_learning import INNER_STEPS, MOST_STEPS, SHOTS
from bertcraft.lab.statistics import mean

_TITLES = {"clinc": "CLINC150, unseen classes", "hwu": "HWU64", "banking": "BANKING77"}


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """Accuracy by method, data set and examples; error by number of steps of adaptation."""
    own = {arm.name: [run["figures"] for run in runs if run["arm"] == arm.name] for arm in experiment.arms}
    own = {name: figures for name, figures in own.items() if figures}
    paths = [folder / "accuracy.png"]
    _show_accuracy(paths[0], own, experiment)
    curves = {name: own[name] for name in ("fine_tune", "maml", "fine_tune_3", "maml_3") if name in own}
    if curves:
        paths.append(folder / "steps.png")
        _show_steps(paths[1], curves, experiment)
    return paths


def _show_interval(figures: list[dict], metric: str) -> tuple[float, float]:
    """A mean and half its 95 % interval: over seeds, or over the episodes of the only seed."""
    interval = mean([each[metric] for each in figures])
    return interval.mean, figures[0][f"half_{metric}"] if interval.high is None else interval.high - interval.mean


def _show_accuracy(path: Path, own: dict[str, list[dict]], experiment: Experiment) -> None:
    sets = {name: title for name, title in _TITLES.items() if any(f"{name}_1" in figures[0] for figures in own.values())}
    depths = {name: experiment.arm(name).settings["depth"] for name in own}
    places = {name: -i - 0.8 * (depths[name] < max(depths.values())) for i, name in enumerate(own)}
    height = 1.3 + 0.27 * len(own)
    with style.figure(path, columns=len(sets), width=3.2 + 2.4 * len(sets), height=height) as axes:
        for ax, (data_set, title) in zip(np.atleast_1d(axes), sets.items(), strict=True):
            for i, shots in enumerate(SHOTS):
                look = {**style.line(1 + i), "linestyle": "none"}
                for name, figures in own.items():
                    centre, half = _show_interval(figures, f"{data_set}_{shots}")
                    label = f"{shots} example{'s' * (shots > 1)} a class" if name == next(iter(own)) else None
                    ax.errorbar(centre, places[name], xerr=half, capsize=2, label=label, **look)
                for depth in set(depths.values()):
                    group = [name for name in own if depths[name] == depth]
                    base = mean([each[f"{data_set}_{shots}"] for each in own[group[0]]]).mean
                    ends = places[group[0]] + 0.4, places[group[-1]] - 0.4
                    ax.plot([base, base], ends, color=style.COLOURS[style.BASELINE], linewidth=0.9, linestyle=":", zorder=0)
            ax.set(title=title, xlabel="accuracy, % (95 % intervals)", yticks=list(places.values()))
            ax.set_yticklabels([experiment.arm(name).title for name in own] if ax is np.atleast_1d(axes)[0] else [])
            ax.grid(axis="y", visible=False)
            ax.set_ylim(min(places.values()) - 0.7, max(places.values()) + 0.7)
        handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
        ax.figure.legend(handles, labels, loc="outside lower center", ncols=2)


def _show_steps(path: Path, own: dict[str, list[dict]], experiment: Experiment) -> None:
    """From the first step on; what was wrong before it (chance, four in five) stands in the legend."""
    with style.figure(path, columns=len(SHOTS), width=7.6, height=3.9) as axes:
        for ax, shots in zip(axes, SHOTS, strict=True):
            for i, (name, figures) in enumerate(own.items()):
                before, *after = [mean(column) for column in (100 - np.array([each[f"curve_{shots}"] for each in figures])).T]
                x, label = np.arange(1, len(after) + 1), f"{experiment.arm(name).title} ({before.mean:.0f} % before)"
                ax.plot(x, [each.mean for each in after], label=label, **style.line(i))
                if len(figures) > 1:
                    ends = [each.low for each in after], [each.high for each in after]
                    ax.fill_between(x, *ends, color=style.COLOURS[i], alpha=0.15, linewidth=0)
            ax.axvline(INNER_STEPS, color=style.COLOURS[style.BASELINE], linewidth=0.9, linestyle=":", zorder=0)
            title = f"{shots} example{'s' * (shots > 1)} a class"
            ax.set(xlabel="steps of adaptation", title=title, xticks=range(1, MOST_STEPS + 1), ylim=(0, 1.3 * ax.get_ylim()[1]))
            ax.legend(fontsize=7.5)
        axes[0].set_ylabel("wrong on unseen CLINC150 classes, %")
