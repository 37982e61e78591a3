"""01: how it is drawn."""

from pathlib import Path

import numpy as np

from bertcraft.lab import style, verdicts
from bertcraft.lab.experiment import Experiment


def show_curves(path: Path, runs: list[dict], experiment: Experiment, panels: dict[str, tuple[str, ...]]) -> Path:
    """Held-out loss against rows read, a panel for each group of arms that can be compared; thin lines are seeds."""
    there = {run["arm"] for run in runs}
    panels = {title: arms for title, names in panels.items() if (arms := [name for name in names if name in there])}
    with style.figure(path, columns=len(panels), width=1 + 3.6 * len(panels), height=3.8) as axes:
        for ax, (title, arms) in zip(np.atleast_1d(axes), panels.items(), strict=True):
            for place, arm in enumerate(arms):
                own = [run["figures"] for run in runs if run["arm"] == arm]
                rows = np.array(own[0]["rows_read"]) / 1000
                look = style.line(place)
                if len(own) > 1:
                    for each in own:
                        ax.plot(rows, each["curve"], color=look["color"], lw=0.5, alpha=0.5)
                ax.plot(rows, np.mean([each["curve"] for each in own], axis=0), **look, label=experiment.arm(arm).title)
            ax.axhline(own[0]["unigram"], color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
            ax.set(title=title, xlabel="rows read (thousands)", ylabel=f"{experiment.metrics['loss'].title} (nats)")
            falling = all(run["figures"]["curve"][-1] < run["figures"]["curve"][0] for run in runs if run["arm"] in arms)
            ax.legend(fontsize=7.5, loc="lower left" if falling else "center right")  # where no curve is
    return path


def show_differences(path: Path, runs: list[dict], experiment: Experiment, metrics: tuple[str, ...]) -> Path:
    """Paired differences with their 95 % intervals, a panel a metric."""
    outcomes = verdicts.outcomes(experiment, runs)
    panels = {m: [each for each in outcomes if each.comparison.metric == m] for m in metrics}
    panels = {m: found for m, found in panels.items() if found}
    pairs = list(dict.fromkeys((c.treatment, c.baseline) for found in panels.values() for c, *_ in found))
    names = [f"{experiment.arm(treatment).title}\nagainst {experiment.arm(baseline).title}" for treatment, baseline in pairs]
    with style.figure(path, columns=len(panels), width=3.4 + 2.2 * len(panels), height=1.0 + 0.42 * len(names)) as axes:
        for number, (ax, (metric, found)) in enumerate(zip(np.atleast_1d(axes), panels.items(), strict=True)):
            reach = sorted(max(abs(end) for end in each.interval[:3] if end is not None) for each in found)
            far = 4 * reach[-2] if len(reach) > 1 else np.inf  # one that dwarfs the others is written at the edge
            edge = 1.15 * (reach[-1] if reach[-1] <= far else reach[-2])
            for comparison, interval, *_ in found:
                y = -pairs.index((comparison.treatment, comparison.baseline))
                ends = (interval.mean, interval.mean) if interval.low is None else (interval.low, interval.high)
                if abs(interval.mean) > far:
                    side = np.sign(interval.mean)
                    text = f"{interval.mean:+.1f}" + ("" if interval.low is None else f" [{ends[0]:+.1f}, {ends[1]:+.1f}]")
                    text = f"$\\leftarrow$ {text}" if side < 0 else f"{text} $\\rightarrow$"
                    align = "left" if side < 0 else "right"
                    ax.text(side * edge, y, text, ha=align, va="center", fontsize=8, backgroundcolor="w")
                    continue
                ax.plot(ends, (y, y), color=style.COLOURS[style.TECHNIQUE], lw=2)
                ax.plot(interval.mean, y, "o", color=style.COLOURS[style.TECHNIQUE])
            ax.set_xlim(-edge, edge)
            ax.axvline(0, color="0.3", lw=1)
            shown = experiment.metrics[metric]
            unit = "points" if shown.unit == "%" else shown.unit
            ax.set(xlabel=f"difference ({unit})", title=shown.title, ylim=(0.6 - len(names), 0.6))
            ax.set_yticks(-np.arange(len(names)), names if number == 0 else [""] * len(names))
            ax.tick_params(axis="y", length=0)
    return path


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """The learning curves and the paired differences; of the short form the curves."""
    if experiment.seeds == 1:
        title = "masked language model from scratch: one seed"
        return [show_curves(folder / "held_out_loss.png", runs, experiment, {title: tuple(arm.name for arm in experiment.arms)})]
    curves = show_curves(folder / "held_out_loss.png", runs, experiment, PANELS)
    metrics = ("loss", "bigram_shift", "intents")
    return [curves, show_differences(folder / "differences.png", runs, experiment, metrics)]


PANELS = {
    "requests, each read 40 times": ("static10", "dynamic", "static1"),
    "all requests, read 2.2 times": ("base", "batch256", "mask40"),
    "conversations": ("pairs_nsp", "full", "pairs"),
}
