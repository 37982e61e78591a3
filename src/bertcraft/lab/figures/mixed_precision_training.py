"""07: how it is drawn."""

from pathlib import Path

import numpy as np

from bertcraft.lab import style
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.experiments.mixed_precision_training import EXPONENTS
from bertcraft.lab.verdicts import difference, shared
from bertcraft.techniques.mixed_precision_training import FORMATS

KINDS = {"scores": "of the scores over words", "states": "of hidden states", "weights": "of weights"}
MARGIN = 0.02
_16 = FORMATS["float16"]
FLUSHED, SUBNORMAL, LARGEST = _16.lowest - _16.digits - 1, _16.lowest, _16.highest + 1  # powers of two where float16 loses


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """Learning curves; what each arm costs against float32, where there are seeds; gradients over float16's range."""
    paths = [show_curves(folder / "loss.png", runs, experiment)]
    if experiment.primary_seeds > 1:
        paths.append(show_costs(folder / "against_float32.png", runs, experiment))
    counted = {run["arm"]: run["figures"] for run in runs if "gradients" in run["figures"]}
    if scaled := counted.get("float16_scaled"):
        paths.append(show_gradients(folder / "gradients.png", scaled["gradients"], scaled["scale"]))
    return paths


LONGER = "_longer"  # how the names of arms end that are trained twice as long


def _trained(experiment: Experiment) -> list[str]:
    return [arm.name for arm in experiment.arms if "form" in arm.settings]


def show_curves(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Loss at [MASK] of unread text against steps, the mean over the seeds that all arms have; of arms trained as long."""
    names = [name for name in _trained(experiment) if not name.endswith(LONGER)]
    runs = shared(runs, [*names, "unigram"])
    with style.figure(path, width=7.6, height=3.6) as ax:
        for place, name in enumerate(names):
            own = [run["figures"] for run in runs if run["arm"] == name]
            if own:
                mean = np.mean([each["curve"] for each in own], axis=0)
                ax.plot(own[0]["steps"], mean, **style.line(place), label=experiment.arm(name).title)
        unigram = [run["figures"]["loss"] for run in runs if run["arm"] == "unigram"]
        if unigram:
            ax.axhline(np.mean(unigram), color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
        ax.set(xlabel="steps", ylabel="loss at [MASK] of unread text (nats)", xlim=(0, None))
        ax.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5))
    return path


def show_costs(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Loss less that of float32 trained as long, paired over seeds, with 95 % intervals; the band is what counts as the same."""
    costs = {}
    for name in _trained(experiment):
        base = "float32" + LONGER if name.endswith(LONGER) else "float32"
        if name != base and (found := difference(experiment, runs, name, base, "loss")):
            costs[name] = found
    with style.figure(path, width=6.6, height=1.2 + 0.36 * max(len(costs), 1)) as ax:
        ax.axvspan(-MARGIN, MARGIN, color="0.92", label=f"within {MARGIN} nats: the same")
        for row, (name, found) in enumerate(costs.items()):
            reach = None if found.low is None else [[found.mean - found.low], [found.high - found.mean]]
            look = {**style.line(_trained(experiment).index(name)), "linestyle": "none"}
            ax.errorbar(found.mean, row, xerr=reach, capsize=3, **look)
        ax.axvline(0, color="0.3", lw=0.9, ls=":")
        ax.set_yticks(range(len(costs)), [experiment.arm(name).title for name in costs])
        ax.set(ylim=(len(costs) - 0.5, -0.5), xlabel="loss at [MASK] less that of float32, as long (nats)")
        ax.grid(axis="y", visible=False)
        ax.legend(fontsize=7.5)
    return path


def show_gradients(path: Path, gradients: dict[str, list[int]], scale: float) -> Path:
    """How large the numbers of a real gradient are, as they are and scaled, over what float16 can hold."""
    powers = np.arange(EXPONENTS[0], EXPONENTS[1] + 1)
    shift = round(np.log2(scale))
    with style.figure(path, columns=2, width=8.6, height=3.6) as axes:
        for ax, moved, title in zip(axes, (0, shift), ("as they are", f"times the loss scale, 2$^{{{shift}}}$"), strict=True):
            ax.axvspan(powers[0] - 1, FLUSHED, color="0.85", label="float16 makes 0 of it")
            ax.axvspan(FLUSHED, SUBNORMAL, color="0.94", label="subnormal: fewer digits")
            for place, (kind, label) in enumerate(KINDS.items()):
                share = 100 * np.array(gradients[kind]) / max(sum(gradients[kind]), 1)
                look = style.line(place) | {"marker": "none"}
                ax.step(powers + moved + 0.5, share, where="mid", **look, label=label)
            ax.axvline(LARGEST, color="0.3", lw=1, ls="--", label="float16's largest")
            ax.set(title=title, xlabel="power of two of a number's size", xlim=(powers[0] - 1, LARGEST + 4), ylim=(0, None))
        axes[0].set_ylabel("share of the numbers that are not 0 (%)")
        axes[1].legend(fontsize=7, loc="upper left")
    return path
