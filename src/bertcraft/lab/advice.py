"""What a comparison on a user's own texts found: the table, and what to do, in plain words."""

import math
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from bertcraft.data.tables import counted
from bertcraft.lab import statistics
from bertcraft.lab.arms import BASELINES, FULL, MAJORITY, PLAIN, PROBE, TECHNIQUES, TFIDF
from bertcraft.lab.budget import Plan
from bertcraft.lab.compare import Outcome
from bertcraft.lab.statistics import Interval

MARGIN = 1.0  # points: a technique that is not worse by more may be taken for its small size


def title(name: str) -> str:
    """An arm as the table names it."""
    return BASELINES.get(name) or TECHNIQUES[name].title


def difference(outcome: Outcome, name: str, other: str, level: float = statistics.LEVEL) -> Interval:
    """The mean paired difference in test accuracy between two arms, in points, with its interval.

    The splits are of the same texts, so that their results are not independent and the plain t interval is too narrow;
    Nadeau & Bengio 2003 (section 3.2, "Inference for the generalization error") put (1/n + test/train) in place of 1/n.
    """
    one, two = ([100 * score.accuracy for score in outcome.scores[each]] for each in (name, other))
    plain = statistics.paired(one, two, level)
    if plain.low is None or plain.high is None:
        return plain
    half = (plain.high - plain.mean) * math.sqrt(1 + plain.n * outcome.overlap)
    half = max(half, 100 / outcome.plan.test)  # one text of the test set: few texts may agree by chance
    return Interval(plain.mean, plain.mean - half, plain.mean + half, plain.n)


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


def table(outcome: Outcome) -> Table:
    """A row an arm: means over splits, and the difference to the linear probe with its 95 % interval."""
    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    result.add_column("technique", no_wrap=True)
    for column in ("accuracy\n%", "macro F1\n%", "against probe, points\nmean [95 % interval]", "trained\n%", "a run\ns"):
        result.add_column(column, justify="right", no_wrap=True)
    for name in (*outcome.names, *BASELINES):
        scores = outcome.scores[name]
        means = (100 * np.mean([getattr(score, part) for score in scores]) for part in ("accuracy", "macro_f1"))
        against = "" if name == PROBE else _interval(difference(outcome, name, PROBE))
        share = f"{100 * outcome.shares[name]:.3g}" if name in outcome.shares else "-"
        seconds = outcome.seconds(name)
        took = f"{seconds:.0f}" if seconds >= 1 else "<1"
        result.add_row(title(name), *(f"{mean:.1f}" for mean in means), Text(against), share, took)
    return result


def _interval(interval: Interval) -> str:
    if interval.low is None:
        return f"{interval.mean:+.1f}"
    return f"{interval.mean:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]"


def remarks(outcome: Outcome) -> list[str]:
    """How to read the table, and what to do."""
    plan, said = outcome.plan, []
    if outcome.seeds < outcome.asked:
        said.append(f"The budget ended after {outcome.seeds} of {outcome.asked} splits.")
    if plan.enough:
        said.append("The budget was not used up: more steps would only read the same texts again.")
    probed = "" if plan.probed == 1 else f" ({plan.probed:.0%} of the training texts)"
    said.append(
        f"Means over {counted(outcome.seeds, 'random split')}, {plan.test:,} test texts each. Differences are paired; their "
        "intervals allow for splits that share texts (Nadeau & Bengio 2003). The linear probe is logistic regression on the "
        f"frozen encoder's vectors{probed}, TF-IDF that on words and pairs of words."
    )
    return [*said, *advice(outcome)]


def saved(outcome: Outcome, folder: Path) -> list[str]:
    """Which model was kept, why, and how to use it."""
    name, number, _ = outcome.best
    rows = [PROBE, *outcome.names]
    dev = {arm: f"{100 * outcome.dev(arm):.1f} %" for arm in rows}
    said = [f"Saved in {folder}: {title(name)}, split {number + 1}, the best on development texts ({dev[name]} on average)."]
    leader = max(rows, key=outcome.dev)
    if leader != name:
        said.append(f"Better there was {title(leader)} ({dev[leader]}), but no BERT of transformers has a place for its parts.")
    command = f'transformers.pipeline("text-classification", "{folder}")'
    return [*said, f"Use it: bertcraft predict {folder} FILE, or {command} with truncation=True."]


def advice(outcome: Outcome) -> list[str]:
    """What to do, in sentences, the recommendation first.

    Claims are made at a level that holds for all comparisons together (Bonferroni). What leads is chosen on development texts.
    """
    if outcome.seeds < 3:
        return [
            f"No recommendation: {counted(outcome.seeds, 'split')} tell too little of how much results vary. Give more "
            "--seeds or a larger --budget."
        ]
    candidates = [TFIDF, PROBE, *sorted(outcome.names, key=outcome.seconds)]  # the simplest first
    level = 1 - (1 - statistics.LEVEL) / len(candidates)
    if max(difference(outcome, name, MAJORITY, level).low for name in candidates) <= 0:
        return ["Recommendation: none. Nothing is shown to do better than naming the most frequent class for every text."]
    idle = [name for name in candidates if difference(outcome, name, MAJORITY).low <= 0]
    said = [recommendation(outcome, candidates, level)]
    if idle:
        said.append(f"Not shown to do better than naming the most frequent class for every text: {_titles(idle)}.")
    said += _compared(outcome, [name for name in outcome.names if name not in idle], PROBE, level)
    said += _compared(outcome, [name for name in outcome.names if name not in [*idle, FULL]], FULL, level)
    if outcome.plan.epochs < 1:
        said.append(
            f"In this budget fine-tuning read {outcome.plan.epochs:.0%} of the training texts, the baselines all of them: with a "
            "larger one the order may change."
        )
    return said


def recommendation(outcome: Outcome, candidates: list[str], level: float) -> str:
    """The simplest candidate than which the leader is not shown to be better. ``candidates``: the simplest first."""
    leader = max(candidates, key=outcome.dev)
    simpler = candidates[: candidates.index(leader)]
    against = {name: difference(outcome, leader, name, level) for name in simpler}
    chosen = next((name for name in simpler if against[name].low <= 0), leader)
    if chosen != leader:
        return (
            f"Recommendation: use {_named(chosen)}. The best on development texts, {title(leader)}, is not shown to be better "
            f"({_interval(against[chosen])} points): too little was measured to tell."
        )
    gain = f" ({_interval(against[simpler[-1]])} points on {title(simpler[-1])})" if simpler else ""
    return f"Recommendation: use {_named(leader)}{gain}."


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


def _named(name: str) -> str:
    """A candidate as a recommendation names it."""
    long = {TFIDF: "TF-IDF with logistic regression", PROBE: "the linear probe (logistic regression on the frozen encoder's vectors)"}
    return long.get(name, title(name))


def _titles(names: list[str]) -> str:
    return ", ".join(map(title, names))
