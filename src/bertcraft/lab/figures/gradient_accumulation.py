"""06: how it is drawn."""

from pathlib import Path

import numpy as np

from bertcraft.lab import style
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.statistics import mean
from bertcraft.lab.verdicts import difference

_LOSSES = {"short_loss": "short texts", "long_loss": "long texts", "loss": "all, by token", "text_loss": "all, by text"}
_PAIRS = {  # an arm, and the arm of the same rule that weighs by tokens
    "mean_of_means": "weighted", "grouped": "weighted", "sum_of_means": "weighted", "sgd_mean_of_means": "sgd_weighted",
}  # fmt: skip
_ERRORS = ("weighted", "mean_of_means", "grouped")  # a sum of means is K times too long: no axis for both


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """What a step costs, what the bug does to held-out loss, and how far its gradients are off; what has no runs is left out."""
    paths = [show_cost(folder / "memory_and_time.png", runs, experiment)]
    differences = {
        (arm, metric): between
        for arm, other in _PAIRS.items()
        for metric in _LOSSES
        if (between := difference(experiment, runs, arm, other, metric))
    }
    if differences:
        paths.append(show_differences(folder / "losses.png", differences, experiment))
    errors = {arm: found for arm in _ERRORS if (found := _figures(runs, arm, "gradient_errors"))}
    if errors:
        paths.append(show_gradients(folder / "gradients.png", errors, experiment))
    return paths


def _figures(runs: list[dict], arm: str, figure: str) -> list:
    return [run["figures"][figure] for run in runs if run["arm"] == arm and figure in run["figures"]]


def _ends(interval) -> tuple[float, float]:
    """How far an interval reaches below and above its mean; nowhere with one seed."""
    return (0.0, 0.0) if interval.low is None else (interval.mean - interval.low, interval.high - interval.mean)


def show_cost(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Peak memory against time of a step: each way a point, and a curve over the number of micro-batches (one seed)."""
    with style.figure(path, width=7.2, height=3.2) as ax:
        curve = next(filter(None, _figures(runs, "accumulated", "cost")), None)  # short forms measure none
        if curve:
            cuts, memory, seconds = np.array(curve).T
            ax.plot(seconds, memory, color=style.COLOURS[style.TECHNIQUE], lw=0.9, marker=".", label="other cuts (one seed)")
            for cut, x, y in zip(cuts, seconds, memory, strict=True):
                ax.annotate(f"{cut:.0f}", (x, y), xytext=(-4, -10), textcoords="offset points", fontsize=7, ha="right")
        for place, arm in enumerate(("whole", "accumulated", "recomputed")):
            peaks, times = (_figures(runs, arm, figure) for figure in ("peak_mb", "step_seconds"))
            if peaks:
                time, peak = mean(times), mean(peaks)
                look = {**style.line(place), "linestyle": "none", "markersize": 7}
                errors = {"xerr": np.transpose([_ends(time)]), "yerr": np.transpose([_ends(peak)])}
                ax.errorbar(time.mean, peak.mean, **errors, **look, capsize=2, label=experiment.arm(arm).title)
        before = [value for arm in ("whole", "accumulated", "recomputed") for value in _figures(runs, arm, "before_mb")]
        if before:
            ax.axhline(np.mean(before), color=style.COLOURS[style.BASELINE], ls=":", lw=0.9, label="before the first step")
        ax.set(xlabel="processor time of a step (s)", ylabel="peak memory of the process (MB)")
        ax.set(xlim=(0, None), ylim=(0, 1.05 * ax.get_ylim()[1]))
        ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return path


def show_differences(path: Path, differences: dict, experiment: Experiment) -> Path:
    """Held-out losses less those of the arm weighted by tokens: the intervals of {(arm, metric): interval}, paired over seeds."""
    arms = list(dict.fromkeys(arm for arm, _ in differences))
    with style.figure(path, width=6.8, height=1.3 + 0.62 * len(arms)) as ax:
        for place, (metric, label) in enumerate(_LOSSES.items(), 1):
            own = [differences[arm, metric] for arm in arms]
            rows = np.arange(len(arms)) + 0.17 * (place - 2.5)
            ends = np.transpose([_ends(interval) for interval in own])
            look = style.line(place) | {"linestyle": "none"}
            ax.errorbar([interval.mean for interval in own], rows, xerr=ends, **look, capsize=2, label=label)
        ax.axvline(0, color="0.3", lw=1)
        ax.set_yticks(range(len(arms)), [experiment.arm(arm).title for arm in arms])
        ax.set(ylim=(len(arms) - 0.5, -0.5), xlabel="loss at [MASK] less that of the arm weighted by tokens (nats)")
        ax.grid(axis="y", visible=False)
        ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return path


def show_gradients(path: Path, errors: dict, experiment: Experiment) -> Path:
    """Distances from the whole batch's gradient by number of micro-batches: the wrong ways, and rounding."""
    from matplotlib.ticker import PercentFormatter

    rounding = {"weighted"} & set(errors)
    wrong = [arm for arm in errors if arm not in rounding]
    with style.figure(path, columns=2, width=8.2, height=3.2) as axes:
        for ax, arms, title in zip(axes, (wrong, rounding), ("the wrong divisors", "by tokens: rounding"), strict=True):
            for arm in arms:
                points = np.array(errors[arm])
                cuts, columns = points[0, :, 0], points[:, :, 1].T
                intervals = [mean(column) for column in columns]
                ends = np.transpose([_ends(interval) for interval in intervals])
                look = style.line(_ERRORS.index(arm) + 1)
                ax.errorbar(cuts, [each.mean for each in intervals], ends, **look, capsize=2, label=experiment.arm(arm).title)
                ax.set_xscale("log", base=2)
                ax.set_xticks(cuts, [f"{cut:.0f}" for cut in cuts])
                ax.minorticks_off()
            ax.set(title=title, xlabel="micro-batches into which 32 texts are cut", ylim=(0, None))
            if arms:
                ax.legend(fontsize=8)
        axes[0].set_ylabel("distance from the batch's gradient\n(share of its norm)")
        axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return path
