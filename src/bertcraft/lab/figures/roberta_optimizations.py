"""01: how it is drawn."""

from pathlib import Path

import numpy as np

from bertcraft.lab import style, verdicts
from bertcraft.lab.experiment import Experiment

MASKS = ("static10", "dynamic")
COPIES = 10  # of the static masks: at so many readings they are fresh ones


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """Learning curves; what static masks cost by the number of readings. Of one seed the curves."""
    paths = [_show_curves(folder / "held_out_loss.png", runs, experiment)]
    if experiment.primary_seeds > 1:
        paths.append(_show_dose(folder / "readings.png", runs, experiment))
    return paths


def _show_curves(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Loss at [MASK] on unread text against readings; thin lines are seeds. One static mask, far above, has its own panel."""
    curves = [run for run in runs if "curve" in run["figures"]]
    there = {run["arm"] for run in curves}
    panels = [[name for name in names if name in there] for names in (MASKS, (*MASKS, "static1"), ("static", "dynamic"))]
    panels = panels[2:] if "static" in there else panels[: 2 if "static1" in there else 1]
    with style.figure(path, columns=len(panels), width=1.8 + 3.6 * len(panels), height=3.5) as axes:
        for ax, names in zip(np.atleast_1d(axes), panels, strict=True):
            paired = verdicts.shared(curves, names)
            for name in names:
                own = [run["figures"] for run in paired if run["arm"] == name]
                look = style.line({"dynamic": style.TECHNIQUE, "static1": 2}.get(name, style.BASELINE))
                for each in own if len(own) > 1 else ():
                    ax.plot(each["readings"], each["curve"], color=look["color"], lw=0.5, alpha=0.4)
                mean = np.mean([each["curve"] for each in own], axis=0)
                ax.plot(own[0]["readings"], mean, **look, label=experiment.arm(name).title)
            frequencies = np.mean([run["figures"]["unigram"] for run in paired if run["arm"] in names])
            ax.axhline(frequencies, color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
            ax.set(xlabel="times that each text has been read", ylabel="loss at [MASK] of unread text (nats)", xlim=(0, None))
            ax.legend(fontsize=7.5)
    return path


def _show_dose(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """What static masks cost, by the number of readings, with 95 % intervals; hollow where an arm failed its check."""
    counts = {count: tuple(f"{name}{suffix}" for name in MASKS) for count, suffix in ((20, "_20"), (40, ""), (80, "_80"))}
    failed = {each.arm for each in verdicts.checked(experiment, runs) if not each.passed}
    with style.figure(path, width=6.2, height=3.5) as ax:
        ax.plot(COPIES, 0, "o", color="0.3", label="the same masks in both arms: 0 by construction", ls="none")
        for place, (metric, label) in enumerate({"loss": "at the end", "stopped": "each stopped early"}.items(), 1):
            look = {**style.line(place), "linestyle": "none"}
            for count, arms in counts.items():
                if not (found := verdicts.difference(experiment, runs, *arms, metric)):
                    continue
                reach = None if found.low is None else [[found.mean - found.low], [found.high - found.mean]]
                filling = "white" if failed & set(arms) else look["color"]
                x = count * (1.05 if metric == "stopped" else 1.0)
                ax.errorbar(x, found.mean, yerr=reach, capsize=3, **look, mfc=filling, label=label if count == 40 else None)
        ax.plot([], [], "s", mfc="white", mec="0.3", ls="none", label="hollow: a check failed, not testable")
        ax.axhline(0, color="0.3", lw=0.9, ls=":")
        ax.set(xscale="log", xlabel="times that each text is read, at equal steps", ylabel="what ten static masks cost (nats)")
        ax.set_xticks((10, 20, 40, 80), ("10", "20", "40", "80"))
        ax.minorticks_off()
        ax.set_xlim(8.5, 95)
        ax.legend(fontsize=8, loc="upper left")
    return path
