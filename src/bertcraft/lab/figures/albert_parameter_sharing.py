"""04: how it is drawn."""

from pathlib import Path

import numpy as np

from bertcraft.lab import style, verdicts
from bertcraft.lab.experiment import Experiment

PLACES = {  # of an arm in the palette
    "own": 0, "shared": 1, "attention": 2, "feed_forward": 3, "once": 4, "wide": 5, "wide_flops": 6, "embedding64": 7,
    "embedding32": 8,
}  # fmt: skip
LAYERS, PAIRS = ("own", "shared"), ("words", "next", "order")
ASKED = {"order": "their order", "next": "whether the second follows"}
CHANCE = 50.0


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """Loss against parameters and operations; what each layer does to the states; what pairs teach; all that has runs."""
    paths = [_show_costs(folder / "parameters_and_operations.png", runs, experiment)]
    if any("angle" in run["figures"] for run in runs):
        paths.append(_show_layers(folder / "layers.png", runs, experiment))
    if any(run["arm"] in PAIRS for run in runs):
        paths.append(_show_pairs(folder / "pairs.png", runs, experiment))
    return paths


def _own(runs: list[dict], arm: str, figure: str) -> list:
    return [run["figures"][figure] for run in runs if run["arm"] == arm and figure in run["figures"]]


def _mean(runs: list[dict], arm: str, figure: str) -> float:
    """Of an arm's runs; parameters in millions."""
    return float(np.mean(_own(runs, arm, figure))) / (1e6 if figure == "parameters" else 1)


def _show_costs(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Each arm a point, small marks the seeds that all have: by parameters, and by operations; hollow: what fails a check."""
    failed = {each.arm for each in verdicts.checked(experiment, runs) if not each.passed}
    runs = verdicts.shared(runs, list(PLACES))
    with style.figure(path, columns=2, width=9.6, height=4.0) as axes:
        for ax, figure, label in zip(
            axes, ("parameters", "tflop"), ("parameters (millions)", "operations of the training (TFLOP)"), strict=True
        ):
            for name, place in PLACES.items():
                if not (losses := _own(runs, name, "loss")):
                    continue
                look, x = {**style.line(place), "linestyle": "none"}, _mean(runs, name, figure)
                ax.plot(np.full(len(losses), x), losses, "_", color=look["color"], ms=7, alpha=0.5)
                look |= {"markersize": 7} | ({"mfc": "white"} if name in failed else {})
                ax.plot(x, np.mean(losses), **look, label=experiment.arm(name).title)
            ax.set(xscale="log", xlabel=label, ylabel="loss at [MASK] of unread text (nats)")
            ax.minorticks_off()
            ticks: list[float] = []
            for x in (_mean(runs, name, figure) for name in PLACES if _own(runs, name, figure)):  # the first arms' come first
                if all(max(x, tick) > 1.15 * min(x, tick) for tick in ticks):
                    ticks.append(x)
            ax.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
        title = "hollow: a check failed\nmeans of the seeds that all have"
        axes[1].legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5), title=title, title_fontsize=7.5)
    return path


def _show_layers(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """From the input to the output of each layer: distance and angle, mean over the tokens; thin: the seeds that both have."""
    runs = verdicts.shared(runs, LAYERS)
    with style.figure(path, columns=2, width=8.4, height=3.3) as axes:
        for ax, figure, label in zip(axes, ("distance", "angle"), ("distance (Euclidean)", "angle (degrees)"), strict=True):
            for name in LAYERS:
                if not (own := _own(runs, name, figure)):
                    continue
                look, layers = style.line(PLACES[name]), np.arange(1, len(own[0]) + 1)
                for each in own if len(own) > 1 else ():
                    ax.plot(layers, each, color=look["color"], lw=0.5, alpha=0.4)
                ax.plot(layers, np.mean(own, axis=0), **look, label=experiment.arm(name).title)
            ax.set(xlabel="layer", ylabel=f"input to output: {label}", ylim=(0, None))
            ax.set_xticks(layers)
            ax.legend(fontsize=8)
    return path


def _show_pairs(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """What is told right after fine-tuning, by what was asked before; small marks are the seeds that all have."""
    runs = verdicts.shared(runs, PAIRS)
    arms = [arm for arm in experiment.arms if arm.name in PAIRS]
    with style.figure(path, width=7.2, height=1.1 + 0.5 * len(arms)) as ax:
        for y, name in enumerate(arm.name for arm in arms):
            for place, (figure, label) in enumerate(ASKED.items(), 1):
                if values := _own(runs, name, figure):
                    look = style.line(place)
                    at = y + 0.12 * (2 * place - 3)
                    ax.plot(values, np.full(len(values), at), "|", color=look["color"], ms=8, alpha=0.6)
                    named = {"label": f"told: {label}"} if y == 0 else {}
                    ax.plot(np.mean(values), at, look["marker"], color=look["color"], ms=6, **named)
        ax.axvline(CHANCE, color="0.3", lw=1, ls=(0, (1, 3)), label="chance")
        ax.set_yticks(range(len(arms)), [arm.title for arm in arms])
        ax.invert_yaxis()
        ax.set(xlabel="pairs told right after fine-tuning (%); marks: seeds, points: means")
        ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return path
