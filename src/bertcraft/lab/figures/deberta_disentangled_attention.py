"""03: how it is drawn."""

from pathlib import Path

import numpy as np

from bertcraft.lab import style, verdicts
from bertcraft.lab.experiment import Experiment

BASE = "absolute"
KINDS = {"absolute": style.BASELINE, "disentangled": style.TECHNIQUE, "t5": 2, "none": 3}  # of positions, and their looks
LONGER = "_longer"  # how the names of arms end that are trained twice as long; they stand beside one another
PACKED = "_packed"  # how the names of arms end that read packed rows
LENGTHS = (32, 64)  # learnt from, and read


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """Learning curves over compute; of the whole form also every arm against absolute positions, and what longer rows cost."""
    paths = [_show_curves(folder / "curves.png", runs, experiment)]
    if experiment.primary_seeds > 1:
        paths += [_show_ends(folder / "ends.png", runs, experiment), _show_longer(folder / "longer.png", runs, experiment)]
    return paths


def _own(runs: list[dict], arm: str) -> list[dict]:
    return [run["figures"] for run in runs if run["arm"] == arm]


def _show_curves(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Loss at [MASK] on unread rows against the operations spent, a panel for each kind of rows; thin lines are seeds."""
    kinds = {"": "a request a row", PACKED: "packed rows"}
    kinds = {ending: title for ending, title in kinds.items() if _own(runs, BASE + ending)}
    with style.figure(path, columns=len(kinds), width=1.4 + 4.0 * len(kinds), height=3.6) as axes:
        for ax, (ending, title) in zip(np.atleast_1d(axes), kinds.items(), strict=True):
            paired = verdicts.shared(runs, [name + ending for name in KINDS])
            for name, place in KINDS.items():
                if not (own := _own(paired, name + ending)):
                    continue
                look = style.line(place)
                spent = [np.array(each["steps"]) * each["step_gflops"] / 1000 for each in own]
                for each, compute in zip(own, spent, strict=True) if len(own) > 1 else ():
                    ax.plot(compute, each["curve"], color=look["color"], lw=0.5, alpha=0.4)
                ax.plot(spent[0], np.mean([each["curve"] for each in own], axis=0), **look, label=experiment.arm(name).title)
            unigram = _own(paired, BASE + ending)[0]["unigram"]
            ax.axhline(unigram, color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
            ax.set(
                xlabel="compute of training (TFLOP)", ylabel="loss at [MASK] of unread rows (nats)", xlim=(0, None), title=title
            )
            ax.legend(fontsize=8, loc="lower left")
    return path


def _show_ends(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Each arm's loss less that of absolute positions trained as long, with 95 % intervals; hollow where a check failed."""
    failed = {each.arm for each in verdicts.checked(experiment, runs) if not each.passed}
    rows = []
    for arm in experiment.arms:
        base = BASE + LONGER if arm.name.endswith(LONGER) else BASE
        if arm.trivial or arm.name == base or arm.name.endswith(PACKED):  # packed rows are other text
            continue
        if found := verdicts.difference(experiment, runs, arm.name, base, "loss"):
            rows.append((arm, base, found))
    with style.figure(path, width=7.2, height=0.9 + 0.34 * len(rows)) as ax:
        for y, (arm, base, found) in enumerate(rows):
            reach = None if found.low is None else [[found.mean - found.low], [found.high - found.mean]]
            color = style.COLOURS[KINDS.get(arm.name.removesuffix(LONGER), 4)]
            filling = "white" if failed & {arm.name, base} else color
            ax.errorbar(found.mean, y, xerr=reach, fmt="o", color=color, mfc=filling, capsize=3)
        ax.axvline(0, color="0.3", lw=0.9, ls=":")
        ax.set_yticks(range(len(rows)), [arm.title for arm, _, _ in rows])
        ax.invert_yaxis()
        ax.set(xlabel="loss at [MASK] less that with absolute positions, as long (nats)\nleft is better; hollow: a check failed")
    return path


def _show_longer(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """How far from word frequencies a model is on packed rows as long as those it learnt from, and on twice as long ones."""
    with style.figure(path, width=5.4, height=3.4) as ax:
        for name, place in KINDS.items():
            if not (own := _own(runs, name + PACKED)):
                continue
            look = style.line(place)
            gaps = np.array([[each["gap"], each[f"gap_{LENGTHS[1]}"]] for each in own])
            ax.plot(LENGTHS, gaps.T, color=look["color"], lw=0.5, alpha=0.4)
            ax.plot(LENGTHS, gaps.mean(axis=0), **look, label=experiment.arm(name).title)
        ax.axhline(0, color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
        ax.set(xlabel="tokens of a row that is read; learnt from: 32", ylabel="loss above word frequencies' (nats)")
        ax.set_xticks(LENGTHS)
        ax.legend(fontsize=8)
    return path
