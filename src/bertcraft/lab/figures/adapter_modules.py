"""12: how it is drawn."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bertcraft.lab import style
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.experiments.adapter_modules import TASKS
from bertcraft.lab.statistics import mean

_TITLES = {"accuracy": "mean of the tasks", "trec": "TREC", "intents": "HWU64", "films": "film reviews"}


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """Accuracy by method and task; accuracy by the share that is trained; losses on the way."""
    own = {arm.name: [run["figures"] for run in runs if run["arm"] == arm.name] for arm in experiment.arms}
    own = {name: figures for name, figures in own.items() if figures}
    titles = {arm.name: arm.title for arm in experiment.arms}
    return [
        _show_accuracy(folder / "accuracy.png", own, titles),
        _show_share(folder / "share.png", own, titles),
        _show_losses(folder / "losses.png", own, titles),
    ]


def _show_half(values: Sequence[float]) -> tuple[float, float]:
    """A mean and half its 95 % interval over seeds (0 for the only seed)."""
    interval = mean(values)
    return interval.mean, 0.0 if interval.high is None else interval.high - interval.mean


def _show_accuracy(path: Path, own: dict, titles: dict) -> Path:
    metrics = [name for name in _TITLES if name in next(iter(own.values()))[0]]
    with style.figure(path, columns=len(metrics), width=2 + 2.1 * len(metrics), height=1.1 + 0.3 * len(own)) as axes:
        for column, (ax, metric) in enumerate(zip(np.atleast_1d(axes), metrics, strict=True)):
            for i, (name, figures) in enumerate(own.items()):
                centre, half = _show_half([each[metric] for each in figures])
                ax.errorbar(centre, -i, xerr=half, capsize=2, **{**style.line(i), "linestyle": "none"})
                if name == "full":
                    ax.axvline(centre, color=style.COLOURS[style.BASELINE], linewidth=0.9, linestyle=":", zorder=0)
            ax.set(title=_TITLES[metric], xlabel="accuracy, %", yticks=[-i for i in range(len(own))])
            ax.set_yticklabels([titles[name] for name in own] if column == 0 else [])
            ax.grid(axis="y", visible=False)
            ax.locator_params(axis="x", nbins=4)
    return path


def _show_share(path: Path, own: dict, titles: dict) -> Path:
    with style.figure(path, width=6.4, height=3.8) as ax:
        for i, (name, figures) in enumerate(own.items()):
            centre, half = _show_half([each["accuracy"] for each in figures])
            stored = figures[0]["stored_mb"]
            label = f"{titles[name]} ({figures[0]['own']:.2g} %)"
            ax.errorbar(stored, centre, yerr=half, capsize=2, label=label, **{**style.line(i), "linestyle": "none"})
        ax.set(xscale="log", xlabel="megabytes stored for a task, head included", ylabel="accuracy, mean of the tasks, %")
        ax.legend(
            fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5), title="share trained, without head", title_fontsize=7.5
        )
    return path


def _show_losses(path: Path, own: dict, titles: dict) -> Path:
    names = [name for name in TASKS if f"losses_{name}" in next(iter(own.values()))[0]]
    with style.figure(path, columns=len(names), width=1.6 + 2.6 * len(names), height=3.4) as axes:
        for ax, task_name in zip(np.atleast_1d(axes), names, strict=True):
            for i, (name, figures) in enumerate(own.items()):
                losses = np.mean([each[f"losses_{task_name}"] for each in figures], axis=0)
                smooth = np.convolve(losses, np.full(5, 0.2), mode="valid")
                look = {**style.line(i), "marker": ""}
                ax.plot(np.arange(5, len(losses) + 1), smooth, label=titles[name], **look)
            ax.set(title=_TITLES[task_name], xlabel="step")
        np.atleast_1d(axes)[0].set_ylabel("training loss, mean of 5 steps (nats)")
        handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
        ax.figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7.5)
    return path
