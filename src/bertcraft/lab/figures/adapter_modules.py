"""12: how it is drawn."""

from pathlib import Path

import numpy as np

from bertcraft.lab import report, style, verdicts
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.experiments.adapter_modules import WINDOW
from bertcraft.lab.statistics import mean


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """Differences to full fine-tuning; accuracy by what is stored; losses on the way."""
    paired = verdicts.shared(runs, [arm.name for arm in experiment.arms if not arm.trivial])
    trained = [
        (arm, found) for arm in report.in_order(experiment)
        if not arm.trivial and (found := [run["figures"] for run in paired if run["arm"] == arm.name])
    ]  # fmt: skip
    paths = [folder / f"{name}.png" for name in ("kept", "share", "losses")]
    _show_kept(paths[0], runs, experiment)
    _show_share(paths[1], trained, paired, experiment)
    _show_losses(paths[2], trained)
    return paths


def _show_kept(path: Path, runs: list[dict], experiment: Experiment) -> None:
    """Points to full fine-tuning, paired over seeds, with the paper's margin and that of the other comparisons.

    Trivial rows are left out: they lie more than ten points away.
    """
    arms = [
        (arm, found) for arm in report.in_order(experiment) if not arm.trivial and arm.name != "full"
        and (found := verdicts.difference(experiment, runs, arm.name, "full", "accuracy"))
    ]  # fmt: skip
    with style.figure(path, width=6.6, height=1.2 + 0.3 * max(len(arms), 2)) as ax:
        for place, (arm, found) in enumerate(arms):
            reach = None if found.low is None else [[found.mean - found.low], [found.high - found.mean]]
            colour = style.TECHNIQUE if arm.name == "houlsby-64" else 2
            ax.errorbar(found.mean, -place, xerr=reach, capsize=2, **{**style.line(colour), "linestyle": "none"})
        for margin, dash in ((-0.4, "--"), (-1.0, ":")):
            ax.axvline(margin, color="0.4", linewidth=0.9, linestyle=dash, zorder=0, label=f"{margin:g} points")
        full = [run["figures"]["accuracy"] for run in runs if run["arm"] == "full"]
        ax.axvline(0, color=style.COLOURS[style.BASELINE], linewidth=0.9, zorder=0)
        ax.set(
            title=f"full fine-tuning: {mean(full).mean:.1f} %" if full else "",
            xlabel="accuracy less full fine-tuning's, points (95 % intervals)",
        )
        ax.set_yticks([-i for i in range(len(arms))], [arm.title for arm, _ in arms])
        ax.set_ylim(-len(arms) + 0.4, 0.6)
        ax.grid(axis="y", visible=False)
        ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), title="margins", title_fontsize=8)


def _show_share(path: Path, trained: list, runs: list[dict], experiment: Experiment) -> None:
    with style.figure(path, width=6.8, height=3.4) as ax:
        for place, (arm, figures) in enumerate(trained):
            found, first = experiment.metrics["accuracy"].mean([each["accuracy"] for each in figures]), figures[0]
            half = None if found.low is None else found.high - found.mean
            label = f"{arm.title} ({first['own']:.2g} %)"
            look = {**style.line(place), "linestyle": "none"}
            ax.errorbar(first["stored_mb"], found.mean, yerr=half, capsize=2, label=label, **look)
        probe = [run["figures"]["accuracy"] for run in runs if run["arm"] == "probe"]
        if probe:
            ax.axhline(mean(probe).mean, color="0.4", linewidth=0.9, linestyle=":", label="frozen probe")
        ax.set(xscale="log", xlabel="stored for a task, head included (MB)", ylabel="accuracy on TREC (%)")
        ax.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5), title="trained, % of the encoder", title_fontsize=7.5)


def _show_losses(path: Path, trained: list) -> None:
    with style.figure(path, width=6.6, height=3.4) as ax:
        for place, (arm, figures) in enumerate(trained):
            losses = np.mean([each["losses"] for each in figures], axis=0)
            ax.plot(WINDOW * (np.arange(len(losses)) + 0.5), losses, label=arm.title, **style.line(place))
        ax.set(xlabel="step of 16 questions", ylabel=f"training loss, mean of {WINDOW} steps (nats)", ylim=(0, None))
        ax.legend(fontsize=7.5, ncols=2)
