"""02: how it is drawn."""

from pathlib import Path

import numpy as np

from bertcraft.lab import style
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.verdicts import shared

CURVES = ("mlm", "electra")
UNTRAINED = "untrained"


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """The score against compute; where every arm ends; of the short form the first."""
    paths = [_show_scores(folder / "scores.png", runs, experiment)]
    if experiment.primary_seeds > 1:
        paths.append(_show_ends(folder / "ends.png", runs, experiment))
    return paths


def _own(runs: list[dict], arm: str) -> list[dict]:
    return [run["figures"] for run in runs if run["arm"] == arm]


def _show_scores(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Fine-tuned score, and how far guesser and discriminator have come, against the compute of pretraining; thin: seeds."""
    with style.figure(path, columns=2, width=9.4, height=3.6) as (scores, learnt):
        for place, name in enumerate(CURVES):
            if not (own := _own(runs, name)):
                continue
            look, title = style.line(place), experiment.arm(name).title
            for each in own if len(own) > 1 else ():
                scores.plot(each["compute"], each["scores"], color=look["color"], lw=0.5, alpha=0.4)
            compute = np.mean([each["compute"] for each in own], axis=0)
            scores.plot(compute, np.mean([each["scores"] for each in own], axis=0), **look, label=title)
            gaps = np.mean([[found["gap"] for found in each["seen"]] for each in own], axis=0)
            guessing = "ELECTRA's generator" if name == "electra" else title
            learnt.plot(compute, gaps, **look, label=f"{guessing}, at [MASK]")
        if none := _own(runs, UNTRAINED):
            scores.axhline(
                np.mean([each["accuracy"] for each in none]), color="0.5", lw=1, ls=":", label=experiment.arm(UNTRAINED).title
            )
        learnt.axhline(0, color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
        budgets = experiment.arm(CURVES[0]).settings["budgets"]
        for ax in (scores, learnt):
            ax.set(xscale="log", xlabel="compute of pretraining (TFLOP)")
            ax.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
            ax.set_xticks([], minor=True)
            ax.legend(fontsize=8)
        scores.set(ylabel="TREC after fine-tuning (% right)")
        learnt.set(ylabel="loss above word frequencies' (nats)")
    return path


def _show_ends(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """What every arm's encoder is worth at the end, on the seeds that all have; the majority, far below, stands in the table."""
    arms = [arm for arm in experiment.arms if _own(runs, arm.name) and arm.settings.get("method") != "majority"]
    runs = shared(runs, [arm.name for arm in arms])
    with style.figure(path, width=7.2, height=0.7 + 0.33 * len(arms)) as ax:
        for y, arm in enumerate(arms):
            values = [each["accuracy"] for each in _own(runs, arm.name)]
            color = "0.5" if arm.trivial else style.COLOURS[1 if arm.name != "mlm" else 0]
            ax.plot(values, np.full(len(values), y), "|", color=color, ms=9, alpha=0.6)
            ax.plot(np.mean(values), y, "o" if not arm.trivial else "D", color=color)
        ax.set_yticks(range(len(arms)), [arm.title for arm in arms])
        ax.invert_yaxis()
        ax.set(xlabel="TREC after fine-tuning (% right)\nmarks: the seeds that all arms have; points: their means")
    return path
