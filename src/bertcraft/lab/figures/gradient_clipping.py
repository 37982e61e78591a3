"""20: how it is drawn."""

from pathlib import Path

import numpy as np

from bertcraft.lab import style
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.verdicts import difference, shared

# of each optimiser: the arm without clipping, its name, and which highest rate is compared
BASES = {"adamw": ("none", "AdamW", "highest"), "sgd": ("sgd_none", "gradient descent with momentum", "finite")}


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """Where each rate ended; how large gradients were; of the whole form, each arm's highest rate over that of no clipping."""
    paths = [show_rates(folder / "rates.png", runs, experiment), show_norms(folder / "norms.png", runs, experiment)]
    if experiment.primary_seeds > 1:
        paths.append(show_highest(folder / "highest.png", runs, experiment))
    return paths


def _own(runs: list[dict], arm: str) -> list[dict]:
    return [run["figures"] for run in runs if run["arm"] == arm]


def _trained(runs: list[dict], experiment: Experiment, rule: str) -> list:
    return [arm for arm in experiment.arms if not arm.trivial and arm.settings["rule"] == rule and _own(runs, arm.name)]


def show_rates(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Loss at [MASK] of texts read where each rate ended, the median over seeds of all arms; on top what was not finite."""
    rules = [rule for rule in BASES if _trained(runs, experiment, rule)]
    with style.figure(path, columns=len(rules), width=1.6 + 3.8 * len(rules), height=3.5) as axes:
        for ax, rule in zip(np.atleast_1d(axes), rules, strict=True):
            arms = _trained(runs, experiment, rule)
            compared = shared(runs, [arm.name for arm in arms])
            plateau = np.mean([own["plateau"] for own in _own(compared, arms[0].name)])
            top = plateau + 1.5
            for place, arm in enumerate(arms):
                ends = [[min(each.get("loss", np.inf), top) for each in own["attempts"]] for own in _own(compared, arm.name)]
                ends = np.median(ends, axis=0)
                title = arm.title.removeprefix("gradient descent, ")
                ax.plot(arm.settings["rates"], ends, **style.line(place), label=title)
                if ends[-1] == top:
                    ax.text(arm.settings["rates"][-1], top - 0.03, "not finite", ha="right", va="top", fontsize=8)
            ax.axhline(plateau, color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
            ax.axhline(plateau - 0.5, color="0.6", lw=0.8, label="below: it trains")
            ax.set(xscale="log", xlabel="highest learning rate", title=BASES[rule][1])
            rates = sorted({rate for arm in arms for rate in arm.settings["rates"]})
            ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
            ax.minorticks_off()
            ax.legend(fontsize=7, loc="best" if rule == "adamw" else "center left")
        np.atleast_1d(axes)[0].set_ylabel("loss at [MASK] of texts read (nats)")
    return path


def show_norms(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """The largest norm of a gradient in each tenth of a run, at each rate: unclipped, and where it was clipped at 1. One seed."""
    arms = [arm for arm in _trained(runs, experiment, "adamw") if arm.name in ("none", "norm")]
    with style.figure(path, columns=len(arms), width=0.8 + 3.6 * len(arms), height=3.2) as axes:
        for ax, arm in zip(np.atleast_1d(axes), arms, strict=True):
            for place, each in enumerate(_own(runs, arm.name)[0]["attempts"]):
                if "norms" in each:
                    tenths = np.arange(1, len(each["norms"]) + 1) / len(each["norms"])
                    ax.plot(100 * tenths, each["norms"], **style.line(place), label=f"{each['rate']:g}")
            ax.axhline(1.0, color="0.3", lw=0.9, ls=":", label="1, the threshold")
            ax.set(yscale="log", xlabel="share of the run (%)", ylim=(0.3, 100), title=arm.title)
            ax.legend(fontsize=7, title="rate", title_fontsize=7, ncols=3, loc="upper center")
        np.atleast_1d(axes)[0].set_ylabel("norm of the gradient, before clipping")
    return path


def _titled(arm, metric: str) -> str:
    return f"{arm.title}: finite, at least" if metric == "finite" else arm.title


def show_highest(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """The highest rate that trains, of gradient descent that stays finite, over that of no clipping, with 95 % intervals."""
    rows = []
    for rule, (base, _, metric) in BASES.items():
        for arm in _trained(runs, experiment, rule):
            alike = arm.settings["warmup"] == experiment.arm(base).settings["warmup"]
            if alike and arm.name != base and (found := difference(experiment, runs, arm.name, base, metric, ratio=True)):
                rows.append((arm, metric, found))
    with style.figure(path, width=6.4, height=1.0 + 0.36 * max(len(rows), 1)) as ax:
        for row, (_, metric, found) in enumerate(rows):
            reach = None if found.low is None else [[found.mean - found.low], [found.high - found.mean]]
            look = {"color": style.COLOURS[style.TECHNIQUE], "ls": "none", "capsize": 3}
            ax.errorbar(found.mean, row, xerr=reach, marker=">" if metric == "finite" else "o", **look)  # none above was tried
        ax.axvline(1, color="0.3", lw=0.9, ls=":")
        ax.set_yticks(range(len(rows)), [_titled(arm, metric) for arm, metric, _ in rows])
        ax.set(
            ylim=(len(rows) - 0.5, -0.5),
            xscale="log",
            xlim=(0.5, 10),
            xlabel="highest rate that trains, times that of no clipping",
        )
        ax.set_xticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
        ax.minorticks_off()
        ax.grid(axis="y", visible=False)
    return path
