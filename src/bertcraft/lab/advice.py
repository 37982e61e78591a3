"""What a comparison on a user's own texts found: the table, and what to do, in plain words."""

import math
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from bertcraft.data.tables import counted
from bertcraft.lab import statistics
from bertcraft.lab.arms import BASELINES, FULL, MAJORITY, PLAIN, TECHNIQUES, TFIDF
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
        f"texts. All start from a head that was trained on the frozen encoder. Repeat it with --steps {plan.steps}."
    )
    if plan.cut > 0.005:
        said += f" {plan.cut:.0%} of the texts have more than {PLAIN.max_length} tokens and are cut there."
    return said


def table(outcome: Outcome) -> Table:
    """A row an arm: means over splits, and the difference to plain full fine-tuning with its 95 % interval."""
    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    result.add_column("technique", no_wrap=True)
    for column in ("accuracy\n%", "macro F1\n%", "against full, points\nmean [95 % interval]", "trained\n%", "a run\ns"):
        result.add_column(column, justify="right", no_wrap=True)
    for name in (*outcome.names, *BASELINES):
        scores = outcome.scores[name]
        means = (100 * np.mean([getattr(score, part) for score in scores]) for part in ("accuracy", "macro_f1"))
        against = "" if name == FULL else _interval(difference(outcome, name, FULL))
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
    said.append(
        f"Means over {counted(outcome.seeds, 'random split')}, {plan.test:,} test texts each. Differences are paired; their "
        "intervals allow for splits that share texts (Nadeau & Bengio 2003). TF-IDF is that of words and word pairs with "
        "logistic regression, trained on all training texts."
    )
    return [*said, *advice(outcome)]


def saved(outcome: Outcome, folder: Path) -> list[str]:
    """Which model was kept, why, and how to use it."""
    name, number, _ = outcome.best
    dev = {arm: f"{100 * outcome.dev(arm):.1f} %" for arm in outcome.names}
    said = [f"Saved in {folder}: {title(name)}, split {number + 1}, the best on development texts ({dev[name]} on average)."]
    leader = max(outcome.names, key=outcome.dev)
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
    techniques = [name for name in outcome.names if name != FULL]
    level = 1 - (1 - statistics.LEVEL) / (len(techniques) + 1)
    against = {name: difference(outcome, name, FULL, level) for name in techniques}
    leader = max(outcome.names, key=outcome.dev)
    light = difference(outcome, leader, TFIDF, level)
    if max(difference(outcome, name, MAJORITY, level).low for name in (*outcome.names, TFIDF)) <= 0:
        return ["Recommendation: none. Nothing is shown to do better than naming the most frequent class for every text."]
    better = [name for name in techniques if against[name].low > 0]
    worse = [name for name in techniques if against[name].high < 0]
    idle = [name for name in outcome.names if difference(outcome, name, MAJORITY).low <= 0]
    unclear = [name for name in techniques if name not in better + worse + idle]
    if light.low <= 0:
        verb = "is not shown to be better" if light.high >= 0 else "is worse"
        first = f"use TF-IDF with logistic regression. The best of the rest, {title(leader)}, {verb} ({_interval(light)} points)"
    else:
        top = max(better, key=outcome.dev) if better else FULL
        gain = f" ({_interval(difference(outcome, top, FULL, level))} points on plain full fine-tuning)" if better else ""
        first = f"use {title(top)}{gain}. Fine-tuning pays: {title(leader)} has {_interval(light)} points on TF-IDF"
    said = [f"Recommendation: {first}."]
    if idle:
        said.append(f"Not shown to do better than naming the most frequent class for every text: {_titles(idle)}.")
    if better:
        said.append(f"Better than plain full fine-tuning: {_titles(better)}.")
    if worse:
        said.append(f"Worse than plain full fine-tuning: {_titles(worse)}.")
    if unclear:
        width = np.median([(against[name].high - against[name].low) / 2 for name in unclear])
        said.append(
            f"No difference to plain full fine-tuning that this much data can show: {_titles(unclear)}. "
            f"Differences below about {width:.1f} points are not seen with {outcome.seeds} splits of {outcome.plan.test:,} "
            "test texts."
        )
    small = [name for name in unclear if outcome.shares[name] < 0.1 and against[name].low > -MARGIN]
    if small:
        shares = ", ".join(f"{title(name)} {100 * outcome.shares[name]:.2g}%" for name in small)
        said.append(f"At most {MARGIN:.0f} point worse, with a small part of the weights trained: {shares}.")
    if outcome.plan.epochs < 1:
        said.append(
            f"In this budget fine-tuning read {outcome.plan.epochs:.0%} of the training texts, TF-IDF all of them: with a larger "
            "one the order may change."
        )
    return said


def _titles(names: list[str]) -> str:
    return ", ".join(map(title, names))
