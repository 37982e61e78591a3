"""05: how it is drawn."""

from pathlib import Path

import numpy as np

from bertcraft.lab import report, style, verdicts
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.experiments.knowledge_distillation import WINDOW
from bertcraft.lab.statistics import mean

FEW = ("few-teacher", "few-labels", "judged")
FARTHEST = -12  # points to the teacher that are drawn
PROBES = {"probe": "--", "untaught": ":"}
LIKE = {"few-teacher": "teacher", "few-labels": "labels", "judged": "distilled", "labels-longer": "labels"}  # hollow: their marks


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """Differences to the teacher; accuracy by the time of a text; losses on the way."""
    known = {run["arm"] for run in runs}
    arms = [arm for arm in report.in_order(experiment) if not arm.trivial and arm.name in known]
    paths = [folder / f"{name}.png" for name in ("kept", "price", "losses")]
    _show_kept(paths[0], arms, runs, experiment)
    _show_price(paths[1], arms, verdicts.shared(runs, [arm.name for arm in arms]), experiment)
    _show_losses(paths[2], arms, runs)
    return paths


def _figures(runs: list[dict], arm: str) -> list[dict]:
    return [run["figures"] for run in runs if run["arm"] == arm]


def _show_kept(path: Path, arms: list, runs: list[dict], experiment: Experiment) -> None:
    """Points to the teacher of as many labels, paired over seeds; the line where 3 % of the teacher's accuracy are lost."""
    rows = []
    for arm in arms:
        baseline = "few-teacher" if arm.name in FEW else "teacher"
        if arm.name != baseline and (found := verdicts.difference(experiment, runs, arm.name, baseline, "accuracy")):
            rows.append((arm, found))
    with style.figure(path, width=6.6, height=1.3 + 0.3 * max(len(rows), 2)) as ax:
        for place, (arm, found) in enumerate(rows):
            reach = None if found.low is None else [[found.mean - found.low], [found.high - found.mean]]
            if found.mean < FARTHEST:  # it would press all others together
                ax.text(FARTHEST, -place, f"\u25c2 {found.mean:.0f}", fontsize=8, va="center")
                continue
            colour = style.TECHNIQUE if arm.name == "distilled" else 4 if arm.name in FEW else 2
            ax.errorbar(found.mean, -place, xerr=reach, capsize=2, **{**style.line(colour), "linestyle": "none"})
        accuracies = [each["accuracy"] for each in _figures(runs, "teacher")]
        if accuracies:
            lost = -0.03 * mean(accuracies).mean
            ax.axvline(lost, color="0.4", linewidth=0.9, linestyle="--", zorder=0, label="97 % of the teacher\n(of all labels)")
            ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
            ax.set_title(f"teacher: {mean(accuracies).mean:.1f} %")
        ax.axvline(0, color=style.COLOURS[style.BASELINE], linewidth=0.9, zorder=0)
        ax.set_xlabel("accuracy less its teacher's, points (95 % intervals)")
        ax.set_yticks([-i for i in range(len(rows))], [arm.title for arm, _ in rows])
        ax.set(xlim=(FARTHEST, 5), ylim=(-max(len(rows), 1) + 0.4, 0.6))
        ax.grid(axis="y", visible=False)


def _show_price(path: Path, arms: list, runs: list[dict], experiment: Experiment) -> None:
    with style.figure(path, width=6.8, height=3.4) as ax:
        places = {arm.name: place for place, arm in enumerate(arm for arm in arms if arm.name not in LIKE)}
        for arm in arms:
            own = _figures(runs, arm.name)
            found = experiment.metrics["accuracy"].mean([each["accuracy"] for each in own])
            half = None if found.low is None else found.high - found.mean
            look = {**style.line(places.get(LIKE.get(arm.name, arm.name), 0)), "linestyle": "none"}
            if arm.name in LIKE:
                look |= {"mfc": "white", "alpha": 0.6 if arm.name in FEW else 1}
            ax.errorbar(np.mean([each["ms"] for each in own]), found.mean, yerr=half, capsize=2, label=arm.title, **look)
        for name, stroke in PROBES.items():
            if own := _figures(runs, name):
                title = experiment.arm(name).title
                ax.axhline(np.mean([each["accuracy"] for each in own]), color="0.4", linewidth=0.9, linestyle=stroke, label=title)
        ax.set(xlabel="processor time of a text (ms)", ylabel="accuracy on HWU64 (%)", xlim=(0, None))
        ax.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5))


def _show_losses(path: Path, arms: list, runs: list[dict]) -> None:
    """Of arms that learn from labels alone: other losses have another scale."""
    alone = [arm for arm in arms if not arm.settings.get("taught") and "smoothing" not in arm.settings]
    with style.figure(path, width=6.6, height=3.2) as ax:
        for place, arm in enumerate(alone):
            losses = np.mean([each["losses"] for each in _figures(runs, arm.name)], axis=0)
            ax.plot(WINDOW * (np.arange(len(losses)) + 0.5), losses, label=arm.title, **style.line(place))
        ax.set(xlabel="step of 16 texts", ylabel=f"training loss, mean of {WINDOW} steps (nats)", ylim=(0, None))
        if alone:
            ax.legend(fontsize=8)
