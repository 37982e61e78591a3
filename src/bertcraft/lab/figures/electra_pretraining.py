"""02: how it is drawn."""

from pathlib import Path

import numpy as np

from bertcraft.lab import probes, statistics, style
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.experiments.electra_pretraining import LEVELS, reached


def show_curves(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Each probe against the compute spent so far; thin lines are seeds."""
    with style.figure(path, columns=len(probes.TITLES), width=10.5, height=3.6) as axes:
        for ax, (name, title) in zip(axes, probes.TITLES.items(), strict=True):
            for place, arm in enumerate(experiment.arms):
                own = [run["figures"] for run in runs if run["arm"] == arm.name]
                if not own:
                    continue
                look = style.line(place)
                for each in own if len(own) > 1 else ():
                    ax.plot(each["compute"], each["curves"][name], color=look["color"], lw=0.5, alpha=0.4)
                compute = np.mean([each["compute"] for each in own], axis=0)
                ax.plot(compute, np.mean([each["curves"][name] for each in own], axis=0), **look, label=arm.title)
            if name in LEVELS:
                ax.axhline(LEVELS[name], color="0.3", lw=1, ls=(0, (1, 3)))
            ax.set(title=title, xlabel="compute (TFLOP)", ylabel="accuracy of the probe (%)")
        handles, labels = axes[0].get_legend_handles_labels()
        axes[0].figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return path


def show_ratios(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Masked LM's compute over ELECTRA's, to reach each score, where every seed of both did: above 1 ELECTRA is cheaper."""
    with style.figure(path, columns=len(probes.TITLES), width=10.5, height=3.4) as axes:
        for ax, (name, title) in zip(axes, probes.TITLES.items(), strict=True):
            for place, arm in enumerate(experiment.arms):
                levels, ratios = show_ratio_by_level(runs, arm.name, "mlm", name) if arm.name != "mlm" else ([], [])
                if not levels:
                    continue
                look = style.line(place)
                ax.plot(levels, [ratio.mean for ratio in ratios], **look, markevery=5, label=arm.title)
                if ratios[0].low is not None:
                    low, high = [ratio.low for ratio in ratios], [ratio.high for ratio in ratios]
                    ax.fill_between(levels, low, high, color=look["color"], alpha=0.15, lw=0)
            ax.axhline(1, color="0.3", lw=1)
            ax.set(title=title, xlabel="accuracy of the probe (%)", ylabel="masked LM's compute / own", yscale="log")
            ax.set_yticks([0.125, 0.25, 0.5, 1, 2, 4], ["1/8", "1/4", "1/2", "1", "2", "4"])
            ax.set_ylim(0.1, 5)
            ax.minorticks_off()
            if len(ax.lines) == 1:  # the one at 1
                ax.set_xticks([])
                ax.text(
                    0.5, 0.6, "no score that both reach\nafter a start below it", ha="center", transform=ax.transAxes, fontsize=9
                )
        found = dict(pair for ax in axes for pair in zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        if found:
            axes[0].figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=3, fontsize=8)
    return path


def show_ratio_by_level(runs: list[dict], treatment: str, baseline: str, probe: str, most: int = 40) -> tuple[list, list]:
    """Scores that every seed of two arms reached after a start below it, and the ratio baseline / treatment of their compute."""
    curves = {(run["arm"], run["seed"]): run["figures"] for run in runs}
    seeds = sorted(seed for arm, seed in curves if arm == treatment and (baseline, seed) in curves)
    if not seeds:
        return [], []
    own = [(curves[treatment, seed], curves[baseline, seed]) for seed in seeds]
    low = max(each["curves"][probe][0] for pair in own for each in pair)
    high = min(max(each["curves"][probe]) for pair in own for each in pair)
    levels = np.linspace(low, high, most)[1:].tolist() if high > low + 1 else []
    at = [[[reached(each["compute"], each["curves"][probe], level) for each in pair] for pair in own] for level in levels]
    return levels, [statistics.paired_ratio([b for _, b in pairs], [t for t, _ in pairs]) for pairs in at]


def show_detection(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """The discriminator's loss, less that of one who knows the share of fakes among the words only."""
    with style.figure(path, width=6.4, height=3.6) as ax:
        for place, arm in enumerate(experiment.arms):
            own = [run["figures"] for run in runs if run["arm"] == arm.name and run["figures"]["detected"]]
            if not own or arm.settings["detect"] == "masked":  # never asked about the other tokens: its loss there means nothing
                continue
            number = len(own[0]["detected"])
            gaps = np.array([[found["detection"] - found["chance"] for found in each["detected"]] for each in own])
            compute = np.mean([each["compute"][-number:] for each in own], axis=0)
            look = style.line(place)
            for each in gaps if len(gaps) > 1 else ():
                ax.plot(compute, each, color=look["color"], lw=0.5, alpha=0.4)
            ax.plot(compute, gaps.mean(axis=0), **look, label=arm.title)
        ax.axhline(0, color="0.3", lw=1, ls=(0, (1, 3)))
        ax.set(xlabel="compute (TFLOP)", ylabel="detection loss above that of the\nshare of fakes alone (nats a token)")
        ax.legend(fontsize=8)
    return path


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """Probes along training, ratios of compute, and whether the discriminators learnt; of the short form the probes."""
    if experiment.seeds == 1:
        return [show_curves(folder / "probes.png", runs, experiment)]
    return [
        show_curves(folder / "probes.png", runs, experiment), show_ratios(folder / "compute_ratios.png", runs, experiment),
        show_detection(folder / "detection.png", runs, experiment),
    ]  # fmt: skip
