"""What a comparison on a user's own texts found: the table, and what to do, in plain words."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from bertcraft.data.text import counted
from bertcraft.lab import statistics
from bertcraft.lab.arms import FULL, PLAIN, TECHNIQUES
from bertcraft.lab.baselines import BASELINES, MAJORITY, PARTS, PROBE, TFIDF
from bertcraft.lab.budget import Plan
from bertcraft.lab.compare import SKEWED, Outcome
from bertcraft.lab.statistics import Interval

MARGIN = 1.0  # points: who is not worse by more may be taken for a small size; what brings less is little
FEWEST_SPLITS = 3  # that a recommendation is made from


def title(name: str) -> str:
    """An arm as the table names it."""
    return BASELINES.get(name) or TECHNIQUES[name].title


def difference(outcome: Outcome, name: str, other: str, level: float = statistics.LEVEL) -> Interval:
    """The mean paired difference in the metric that decides between two arms, in points, with its interval."""
    one, two = ([100 * getattr(score, outcome.metric) for score in outcome.scores[each]] for each in (name, other))
    return _interval_of(outcome, np.subtract(one, two), level)


def _interval_of(outcome: Outcome, values: np.ndarray, level: float = statistics.LEVEL) -> Interval:
    """The mean over splits of the same texts, with an interval that allows for it.

    It is no narrower than one text of the test set: few texts may agree by chance.
    """
    found = statistics.mean(values, level, outcome.overlap)
    if found.low is None or found.high is None:
        return found
    half = max(found.high - found.mean, 100 * outcome.finest)
    return found._replace(low=found.mean - half, high=found.mean + half)


def plan(plan: Plan, names: list[str], seeds: int) -> str:
    """What is about to be done, before it is."""
    texts, often = plan.steps * PLAIN.batch_size, plan.epochs
    read = f"{often:.0%} of the training texts" if often < 1 else f"{often:.2g} times the training texts"
    said = (
        f"Plan: {counted(seeds, 'split')} x {counted(len(names), 'arm')}; every arm reads the same {plan.steps} batches of "
        f"{PLAIN.batch_size} texts ({texts:,}: {read}) and is judged on {plan.test:,} test "
        f"texts. All start from the linear probe. Repeat it with --steps {plan.steps}."
    )
    if plan.cut > 0.005:
        said += f" {plan.cut:.0%} of the texts have more than {PLAIN.max_length} tokens and are cut there."
    return said


class Row(NamedTuple):
    """An arm in the table: means over splits; ``against``: the difference to the linear probe, None for the probe itself."""

    name: str
    accuracy: float  # %
    macro_f1: float  # %
    against: Interval | None  # points of the metric that decides
    share: float | None  # % of the parameters that are trained, None where it is no encoder
    seconds: float


def rows(outcome: Outcome) -> list[Row]:
    """What the table holds, the fine-tuned arms first."""
    return [
        Row(
            title(name), 100 * outcome.mean(name, "accuracy"), 100 * outcome.mean(name, "macro_f1"),
            None if name == PROBE else difference(outcome, name, PROBE),
            100 * outcome.shares[name] if name in outcome.shares else None, outcome.mean(name, "seconds"),
        )
        for name in (*outcome.names, *BASELINES)
    ]  # fmt: skip


def columns(outcome: Outcome) -> list[str]:
    """The heads of the table's columns, in two lines each."""
    what = "accuracy" if outcome.metric == "accuracy" else "macro F1"
    return ["technique", "accuracy\n%", "macro F1\n%", f"{what} against probe\npoints [95 % interval]", "trained\n%", "a run\ns"]


def cells(row: Row) -> list[str]:
    """A row of the table as texts."""
    against = "" if row.against is None else _interval(row.against)
    share = "-" if row.share is None else f"{row.share:.3g}"
    took = f"{row.seconds:.0f}" if row.seconds >= 1 else "<1"
    return [row.name, f"{row.accuracy:.1f}", f"{row.macro_f1:.1f}", against, share, took]


def table(outcome: Outcome) -> Table:
    """A row an arm: means over splits, and the difference to the linear probe with its 95 % interval."""
    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number, column in enumerate(columns(outcome)):
        result.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows(outcome):
        result.add_row(*map(Text, cells(row)))
    return result


def _interval(interval: Interval) -> str:
    if interval.low is None:
        return f"{interval.mean:+.1f}"
    return f"{interval.mean:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]"


def remarks(outcome: Outcome) -> list[str]:
    """How to read the table."""
    plan, said = outcome.plan, []
    if outcome.seeds < outcome.asked:
        said.append(f"The budget ended after {outcome.seeds} of {outcome.asked} splits.")
    if plan.enough:
        said.append("The budget was not used up: more steps would only read the same texts again.")
    if outcome.metric == "macro_f1":
        said.append(
            f"Judged by macro F1, in which all classes weigh alike: the largest has at least {SKEWED} times the texts of the "
            "smallest, and accuracy would hardly notice whether small ones are found."
        )
    probed = "" if plan.probed == 1 else f" ({plan.probed:.0%} of the training texts)"
    said.append(
        f"Means over {counted(outcome.seeds, 'random split')}, {plan.test:,} test texts each. Differences are paired; their "
        "intervals allow for splits that share texts (Nadeau & Bengio 2003). The linear probe is logistic regression on the "
        f"frozen encoder's vectors{probed}, TF-IDF that on words and pairs of words."
    )
    if outcome.seeds >= FEWEST_SPLITS:
        said.append("The intervals of the recommendation are wider: it is one of several candidates (Bonferroni).")
    return said


def learning_curve(outcome: Outcome) -> list[tuple[float, float]]:
    """The share of the training texts that the probe learnt from, and the mean of the metric that decides, in %."""
    whole = outcome.mean(PROBE, outcome.metric)
    parts = np.mean(outcome.curve, axis=0)
    least, most = outcome.classes / outcome.train, outcome.plan.probed
    return [(max(most * part, least), 100 * float(value)) for part, value in zip((*PARTS, 1.0), (*parts, whole), strict=True)]


def more_labels(outcome: Outcome) -> str:
    """Whether it is worth labelling more texts, from what half of them lack."""
    points = learning_curve(outcome)
    listed = ", ".join(f"{value:.1f} with {share:.1%}" for share, value in points)
    what = "accuracy" if outcome.metric == "accuracy" else "macro F1"
    said = f"{what[0].upper()}{what[1:]} of the linear probe by the part of the training texts, in %: {listed}."
    whole = [getattr(score, outcome.metric) for score in outcome.scores[PROBE]]
    gain = 100 * np.subtract(whole, np.array(outcome.curve)[:, -1])
    found = _interval_of(outcome, gain)
    if found.low is None:
        return said
    last = "last doubling" if points[-1][0] > 1.9 * points[-2][0] else "last step"  # half has a text of every class, too
    gained = f"The {last} brought {_interval(found)} points"
    if found.low > 0:
        return f"{said} {gained}: more labelled texts will help, by less at each doubling."
    if found.high < MARGIN:
        return f"{said} {gained}: more labels of this kind will bring little."
    return f"{said} {gained}: whether more labels would help cannot be told."


def saved(outcome: Outcome, folder: Path) -> list[str]:
    """Which model was kept, why, and how to use it."""
    name, number, _ = outcome.best
    dev = {arm: f"{100 * outcome.mean(arm, 'dev'):.1f} %" for arm in (PROBE, *outcome.names)}
    said = [f"Saved in {folder}: {title(name)}, split {number + 1}, the best on development texts ({dev[name]} on average)."]
    leader = max(dev, key=lambda arm: outcome.mean(arm, "dev"))
    if leader != name:
        said.append(f"Better there was {title(leader)} ({dev[leader]}), but no BERT of transformers has a place for its parts.")
    command = f'transformers.pipeline("text-classification", "{folder}")'
    return [*said, f"Use it: bertcraft predict {folder} FILE, or {command} with truncation=True."]


def advice(outcome: Outcome) -> list[str]:
    """What to do, in sentences, the recommendation first.

    Intervals are those of a level for as many comparisons as there are candidates (Bonferroni): what leads, chosen on development
    texts, is compared with each simpler one.
    """
    if outcome.seeds < FEWEST_SPLITS:
        return [
            f"No recommendation: {counted(outcome.seeds, 'split')} tell too little of how much results vary. Give more "
            "--seeds or a larger --budget."
        ]
    candidates = [TFIDF, PROBE, *sorted(outcome.names, key=lambda name: outcome.mean(name, "seconds"))]  # the simplest first
    level = 1 - (1 - statistics.LEVEL) / len(candidates)
    if max(difference(outcome, name, MAJORITY, level).low for name in candidates) <= 0:
        return ["Recommendation: none. Nothing is shown to do better than naming the most frequent class for every text."]
    idle = [name for name in candidates if difference(outcome, name, MAJORITY).low <= 0]
    said = [recommendation(outcome, [name for name in candidates if name not in idle], level)]
    if idle:
        said.append(f"Not shown to do better than naming the most frequent class for every text: {_titles(idle)}.")
    said += _compared(outcome, [name for name in outcome.names if name not in idle], PROBE, level)
    said += _compared(outcome, [name for name in outcome.names if name not in [*idle, FULL]], FULL, level)
    if outcome.plan.epochs < 1:
        said.append(
            f"In this budget fine-tuning read {outcome.plan.epochs:.0%} of the training texts, "
            f"{_read_by_baselines(outcome.plan)}: with a larger one the order may change."
        )
    return said


def recommendation(outcome: Outcome, candidates: list[str], level: float) -> str:
    """The simplest candidate than which the leader is not shown to be better. ``candidates``: the simplest first."""
    leader = max(candidates, key=lambda name: outcome.mean(name, "dev"))
    simpler = candidates[: candidates.index(leader)]
    against = {name: difference(outcome, leader, name, level) for name in simpler}
    chosen = next((name for name in simpler if against[name].low <= 0), leader)
    if chosen != leader:
        return (
            f"Recommendation: use {_named(chosen)}. The best on development texts, {_named(leader)}, is not shown to be better "
            f"({_interval(against[chosen])} points): too little was measured to tell."
        )
    if not simpler:
        return f"Recommendation: use {_named(leader)}."
    other = PROBE if PROBE in simpler else simpler[0]
    return f"Recommendation: use {_named(leader)} ({_interval(against[other])} points on {_named(other)})."


def _compared(outcome: Outcome, names: list[str], other: str, level: float) -> list[str]:
    """Which arms are better than another, worse, or neither as far as can be seen."""
    against = {name: difference(outcome, name, other, level) for name in names}
    better = [name for name in names if against[name].low > 0]
    worse = [name for name in names if against[name].high < 0]
    unclear = [name for name in names if name not in better + worse]
    than = "the linear probe" if other == PROBE else "plain full fine-tuning"
    said = [f"{which} than {than}: {_titles(some)}." for which, some in (("Better", better), ("Worse", worse)) if some]
    if unclear:
        width = np.median([(against[name].high - against[name].low) / 2 for name in unclear])
        said.append(f"No difference to {than} is shown for {_titles(unclear)}: below about {width:.1f} points it is not seen.")
    small = [name for name in unclear if other == FULL and outcome.shares[name] < 0.1 and against[name].low > -MARGIN]
    if small:
        shares = ", ".join(f"{title(name)} {100 * outcome.shares[name]:.2g}%" for name in small)
        said.append(f"At most {MARGIN:.0f} point worse, with a small part of the weights trained: {shares}.")
    return said


def _read_by_baselines(plan: Plan) -> str:
    if plan.probed == 1:
        return "the baselines all of them"
    return f"the linear probe {plan.probed:.0%} and TF-IDF all of them"


def _named(name: str) -> str:
    """A candidate as a recommendation names it."""
    long = {TFIDF: "TF-IDF with logistic regression", PROBE: "the linear probe"}
    return long.get(name, title(name))


def _titles(names: list[str]) -> str:
    return ", ".join(map(title, names))
