"""06: how it is drawn."""

from pathlib import Path

import numpy as np

from bertcraft.lab import style
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.statistics import mean
from bertcraft.lab.verdicts import difference


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """How far the gradients are off, what that does to held-out loss, and what micro-batches cost."""
    paths = [show_gradients(folder / "gradients.png", runs, experiment), show_cost(folder / "memory_and_time.png", runs)]
    differences = {
        (name, metric): found
        for name in ("weighted", "mean_of_means", "grouped", "sum_of_means")
        for metric in _SHOWN_LOSSES
        if (found := difference(experiment, runs, name, "full", metric))
    }
    return [*paths, show_differences(folder / "held_out_loss.png", differences, experiment)] if differences else paths


_SHOWN_LOSSES = {"loss": "all", "short_loss": "short texts", "long_loss": "long texts"}


def _show_figures(runs: list[dict], name: str, figure: str) -> list:
    return [run["figures"][figure] for run in runs if run["arm"] == name and figure in run["figures"]]


def _show_ends(interval) -> tuple[float, float]:
    """How far an interval reaches below and above its mean; nowhere with one seed."""
    return (0.0, 0.0) if interval.low is None else (interval.mean - interval.low, interval.high - interval.mean)


def _show_line(ax, points: list, place: int, label: str, logarithmic: bool = False) -> None:
    """Means over seeds with their 95 % intervals against the number of micro-batches. points: (seeds, cuts, 2).

    ``logarithmic``: mean and interval are those of the logarithms, as an axis of logarithms needs.
    """
    cuts, columns = np.array(points)[0, :, 0], np.array(points)[:, :, 1].T
    intervals = [mean(np.log(column) if logarithmic else column) for column in columns]
    centres = np.array([interval.mean for interval in intervals])
    low, high = np.transpose([_show_ends(interval) for interval in intervals])
    if logarithmic:
        centres, low, high = np.exp(centres), np.exp(centres) * (1 - np.exp(-low)), np.exp(centres) * (np.exp(high) - 1)
    ax.errorbar(cuts, centres, (low, high), **style.line(place), label=label, capsize=2)
    ax.set_xscale("log", base=2)
    ax.set_xticks(cuts, [f"{cut:.0f}" for cut in cuts])
    ax.minorticks_off()


def show_gradients(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Distances from the full batch's gradient (masked language model) and cosines with it (contrastive loss)."""
    panels = {
        "gradient_errors": ("weighted", "mean_of_means", "grouped", "sum_of_means"),
        "cosines": ("pairs_cached", "pairs_accumulated"),
    }
    titles = {"gradient_errors": "masked language model, 32 texts", "cosines": "contrastive loss, 64 pairs"}
    labels = {
        "gradient_errors": "distance from the full batch's gradient (% of its norm)",
        "cosines": "cosine with the full batch's gradient",
    }
    panels = {figure: arms for figure, arms in panels.items() if any(_show_figures(runs, arm, figure) for arm in arms)}
    with style.figure(path, columns=max(1, len(panels)), width=1 + 4 * max(1, len(panels)), height=3.8) as axes:
        for ax, (figure, arms) in zip(np.atleast_1d(axes), panels.items(), strict=False):
            for place, arm in enumerate(arms, 1):
                errors = figure == "gradient_errors"
                if found := _show_figures(runs, arm, figure):  # one micro-batch is the full batch: no error has no logarithm
                    points = [[point for point in own if not errors or point[0] > 1] for own in found]
                    _show_line(ax, points, place, experiment.arm(arm).title, logarithmic=errors)
            if errors:
                ax.set_yscale("log")
            else:  # an interval of few seeds may reach further than a cosine can
                ax.set_ylim(max(ax.get_ylim()[0], -1.05), min(ax.get_ylim()[1], 1.05))
            ax.set(title=titles[figure], xlabel="micro-batches", ylabel=labels[figure])
            ax.legend(fontsize=8)
    return path


def show_differences(path: Path, differences: dict, experiment: Experiment) -> Path:
    """Held-out losses less those of the full batch: the intervals of {(arm, metric): interval}, paired over seeds."""
    arms = list(dict.fromkeys(name for name, _ in differences))
    with style.figure(path, width=6.8, height=1.2 + 0.62 * len(arms)) as ax:
        for place, (metric, label) in enumerate(_SHOWN_LOSSES.items()):
            own = [differences[name, metric] for name in arms]
            rows = np.arange(len(arms)) + 0.2 * (place - 1)
            ends = np.transpose([_show_ends(interval) for interval in own])
            look = style.line(place) | {"linestyle": "none"}
            ax.errorbar([interval.mean for interval in own], rows, xerr=ends, **look, capsize=2, label=label)
        ax.axvline(0, color="0.3", lw=1)
        ax.set_yticks(range(len(arms)), [experiment.arm(name).title for name in arms])
        ax.set(ylim=(len(arms) - 0.5, -0.5), xlabel="held-out loss less that of the full batch (nats a masked token)")
        ax.locator_params(axis="x", nbins=6)
        ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return path


def show_cost(path: Path, runs: list[dict]) -> Path:
    with style.figure(path, columns=2, width=8, height=3.4) as axes:
        points = [run["figures"]["cost"] for run in runs if run["arm"] == "weighted" and "cost" in run["figures"]]
        units = (("peak_mb", "peak memory of the process (MB)"), ("step_seconds", "time of a step (s)"))
        for ax, (figure, label) in zip(axes, units, strict=True):
            if points:
                curves = [[(point["micro_batches"], point[figure]) for point in own] for own in points]
                _show_line(ax, curves, style.TECHNIQUE, "a training step")
            ax.set(xlabel="micro-batches into which 32 texts are cut", ylabel=label, ylim=(0, None))
        if points:
            before = float(np.mean([point["before_mb"] for own in points for point in own]))
            axes[0].axhline(before, color=style.COLOURS[style.BASELINE], ls="--", label="before the first step")
            axes[0].legend(fontsize=8)
    return path
