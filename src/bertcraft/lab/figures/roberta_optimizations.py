"""01: how it is drawn."""

from pathlib import Path

import numpy as np

from bertcraft.lab import style, verdicts
from bertcraft.lab.experiment import Experiment

CURVES = ("static10", "dynamic", "static1", "static")
MASKS = ("static10", "dynamic")
COPIES = 10  # of the static masks: at so many readings they are fresh ones


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """Learning curves; what static masks cost by the number of readings. Of one seed the curves."""
    paths = [_show_curves(folder / "held_out_loss.png", runs, experiment)]
    if experiment.primary_seeds > 1:
        paths.append(_show_dose(folder / "readings.png", runs, experiment))
    return paths


def _show_curves(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Loss at [MASK] on unread text against readings; thin lines are seeds."""
    with style.figure(path, width=6.0, height=3.6) as ax:
        curves = [run for run in runs if run["arm"] in CURVES and "curve" in run["figures"]]
        for place, name in enumerate(name for name in CURVES if any(run["arm"] == name for run in curves)):
            own = [run["figures"] for run in curves if run["arm"] == name]
            look = style.line(style.TECHNIQUE if name == "dynamic" else (0, 1, 2)[place])
            for each in own if len(own) > 1 else ():
                ax.plot(each["readings"], each["curve"], color=look["color"], lw=0.5, alpha=0.4)
            mean = np.mean([each["curve"] for each in own], axis=0)
            ax.plot(own[0]["readings"], mean, **look, label=experiment.arm(name).title)
        frequencies = np.mean([run["figures"]["unigram"] for run in curves])
        ax.axhline(frequencies, color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
        ax.set(xlabel="times that each text has been read", ylabel="loss at [MASK] of unread text (nats)", xlim=(0, None))
        ax.legend(fontsize=8)
    return path


def _show_dose(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """The loss that static masks cost, by the number of readings, with 95 % intervals: at the end, and stopped early."""
    counts = {count: tuple(f"{name}{suffix}" for name in MASKS) for count, suffix in ((20, "_20"), (40, ""), (80, "_80"))}
    with style.figure(path, width=5.8, height=3.4) as ax:
        for place, (metric, label) in enumerate({"loss": "at the end", "stopped": "each stopped early"}.items(), 1):
            found = {n: verdicts.difference(experiment, runs, *arms, metric) for n, arms in counts.items()}
            found = {n: each for n, each in found.items() if each}
            x = np.array(list(found)) * (1.04 if metric == "stopped" else 1.0)
            reach = [[0, 0] if e.low is None else [e.mean - e.low, e.high - e.mean] for e in found.values()]
            if reach:
                y = [e.mean for e in found.values()]
                ax.errorbar(x, y, yerr=np.transpose(reach), capsize=3, **style.line(place), label=label)
        ax.plot(COPIES, 0, "o", mfc="white", color="0.3", label="the same masks in both arms: 0 by construction", ls="none")
        ax.axhline(0, color="0.3", lw=0.9, ls=":")
        ax.set(xscale="log", xlabel="times that each text is read, at equal steps", ylabel="what ten static masks cost (nats)")
        ax.set_xticks((10, 20, 40, 80), ("10", "20", "40", "80"))
        ax.minorticks_off()
        ax.set_xlim(8.5, 95)
        ax.legend(fontsize=8, loc="upper left")
    return path
