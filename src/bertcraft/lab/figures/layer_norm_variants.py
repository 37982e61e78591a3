"""15: how it is drawn."""

from pathlib import Path

import numpy as np

from bertcraft.lab import style
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.verdicts import shared

WIRINGS = {"post": "post-LN", "pre": "pre-LN", "sandwich": "sandwich", "deep": "DeepNorm"}
_PLACES = (*WIRINGS, "post_warm", "post_clipped", "pre_rms", "post_low")  # a wiring looks the same in both plots


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """Which rates train, arm by arm; and where there are measurements of the start, gradients by layer and by depth."""
    paths = [show_rates(folder / "rates.png", runs, experiment)]
    starts = [name for name in WIRINGS if _own(runs, f"start_{name}")]
    if starts:
        paths.append(show_start(folder / "start.png", runs, experiment, starts))
    return paths


def _own(runs: list[dict], arm: str) -> list[dict]:
    return [run["figures"] for run in runs if run["arm"] == arm]


def show_rates(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Loss at [MASK] of texts read where each rate ended: a mark a seed of all arms, a line through medians; on top what was
    not finite."""
    arms = [arm for arm in experiment.arms if "rates" in arm.settings and not arm.trivial and "depths" not in arm.settings]
    arms = [arm for arm in arms if _own(runs, arm.name)]
    runs = shared(runs, [arm.name for arm in arms])
    with style.figure(path, width=7.8, height=3.8) as ax:
        plateau = np.mean([own["plateau"] for arm in arms for own in _own(runs, arm.name)])
        top = plateau + 1.0
        for place, arm in enumerate(arms):
            look, rates = style.line(_PLACES.index(arm.name)), np.array(arm.settings["rates"])
            shift = 1.04 ** (place - (len(arms) - 1) / 2)  # so that marks of two arms do not cover each other
            ends = np.array([
                [min(each.get("loss", np.inf), top) for each in own["attempts"]] for own in _own(runs, arm.name)
            ])  # fmt: skip
            scattered = {"color": look["color"], "marker": look["marker"], "s": 9, "alpha": 0.45, "linewidths": 0}
            ax.scatter(np.tile(rates * shift, len(ends)), ends.ravel(), **scattered)
            ax.plot(rates * shift, np.median(ends, axis=0), **look | {"marker": None}, label=arm.title)
        ax.axhline(plateau, color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
        ax.axhline(plateau - 0.5, color="0.6", lw=0.8, ls="-", label="below: it trains")
        ax.set(xscale="log", xlabel="highest learning rate", ylabel="loss at [MASK] of texts read (nats)", ylim=(None, top + 0.1))
        rates = sorted({rate for arm in arms for rate in arm.settings["rates"]})
        ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
        ax.minorticks_off()
        ax.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5))
    return path


def show_start(path: Path, runs: list[dict], experiment: Experiment, starts: list[str]) -> Path:
    """The expected gradient of the second feed-forward matrix at the start: by layer, and of the last layer by depth."""
    settings = experiment.arm(f"start_{starts[0]}").settings
    layers, depths = np.arange(1, settings["layers"] + 1), np.array(settings["depths"])
    with style.figure(path, columns=2, width=9.8, height=3.4) as axes:
        for place, name in enumerate(starts):
            own, look = _own(runs, f"start_{name}"), style.line(place)
            axes[0].plot(layers, np.mean([each["by_layer"] for each in own], axis=0)[:, 1], **look, label=WIRINGS[name])
            last = np.mean([each["by_depth"] for each in own], axis=0)
            axes[1].plot(depths, last, **look, label=f"{WIRINGS[name]}: power {np.mean([each['slope'] for each in own]):.2f}")
            if name == "pre":  # the lesson's (10), with what a half adds as the states grow by it
                added = (np.mean([each["states"][-1] for each in own]) - 1) / (2 * layers[-1])
                falls = np.sqrt((1 + 2 * depths[0] * added) / (1 + 2 * depths * added))
                axes[1].plot(depths, last[0] * falls, color="black", lw=1.2, ls=":", zorder=5, label="equation (10), pre-LN")
        axes[0].set(xlabel=f"layer of {layers[-1]}", ylabel="norm of the expected gradient", yscale="log")
        axes[1].set(xlabel="layers of the model", ylabel="the last layer's", xscale="log", yscale="log")
        axes[1].set_xticks(depths, [str(depth) for depth in depths])
        axes[1].set_xticks([], minor=True)
        axes[0].legend(fontsize=7.5)
        axes[1].legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5))
    return path
