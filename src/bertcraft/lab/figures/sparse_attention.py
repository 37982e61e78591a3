"""10: how it is drawn."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bertcraft.lab import pretraining, report, statistics, style, words
from bertcraft.lab.experiment import Arm, Experiment
from bertcraft.lab.experiments.sparse_attention import ASKED, DISTANCES, attention_of
from bertcraft.lab.pretraining import Setting

RIVALS = {"dense": "dense attention in NumPy", "fused": "PyTorch's fused dense attention"}


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """Time of a layer by length; accuracy by distance of the two words. What was not measured says so."""
    paths = [folder / "time.png", folder / "distance.png"]
    for path, figure, draw in zip(paths, ("times", "curve"), (show_times, show_distances), strict=True):
        if own := _own(runs, experiment, figure):
            draw(path, own)
        else:
            with style.figure(path, height=0.6) as ax:
                ax.text(0.5, 0.5, words.NOT_YET, ha="center", va="center")
                ax.axis("off")
    return paths


def _own(runs: list[dict], experiment: Experiment, figure: str) -> list[tuple[Arm, list[dict]]]:
    """The arms with runs that have a figure, and those runs' figures."""
    found = [
        (arm, [run["figures"] for run in runs if run["arm"] == arm.name and figure in run["figures"]])
        for arm in report.in_order(experiment)
    ]
    return [(arm, own) for arm, own in found if own]


def show_times(path: Path, timed: Sequence[tuple[Arm, list[dict]]]) -> None:
    """Both axes logarithmic; beside it how many times as long as the window's layer."""
    by_length = [(arm, _by_length(own)) for arm, own in timed]
    window = next((found for arm, found in by_length if arm.settings["layer"] == "window"), {})
    with style.figure(path, columns=2, width=8.6, height=3.6) as (left, right):
        for place, (arm, found) in enumerate(by_length):
            look = style.line(place)
            left.plot(list(found), [np.exp(np.mean(np.log(ms))) / 1000 for ms in found.values()], label=arm.title, **look)
            both = [n for n in found if n in window]
            if not both or found is window:
                continue
            ratios = [statistics.paired_ratio(*_rounds_of_both(found[n], window[n])) for n in both]
            right.plot(both, [each.mean for each in ratios], **look)
            if ratios[0].low is not None:
                low, high = [each.low for each in ratios], [each.high for each in ratios]
                right.fill_between(both, low, high, color=look["color"], alpha=0.2)
        right.axhline(1, color=style.COLOURS[1], linewidth=1, linestyle=":")
        for ax in (left, right):
            ax.set_xscale("log", base=2)
            ax.set_xticks(list(window), [f"{n:,}" for n in window])
            ax.set(xlabel="length (tokens)", yscale="log")
            ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
        right.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "2348" else "")
        left.set_ylabel("a layer, forward and backward (s)")
        right.set_ylabel("times as long as the window's layer")
        left.legend(fontsize=8)


def told_times(runs: list[dict], experiment: Experiment) -> list[str]:
    """From which length on a window's layer is the faster one, against each rival, in sentences, and the memory of all at the
    longest; "not measured yet"."""
    timed = _own(runs, experiment, "times")
    times = {arm.settings["layer"]: _by_length(own) for arm, own in timed}
    window, told = times.pop("window", {}), []
    for name, found in times.items():
        lengths = [n for n in found if n in window]
        if not lengths:
            continue
        ratio = {n: statistics.paired_ratio(*_rounds_of_both(found[n], window[n])).mean for n in lengths}
        slower = [n for n in lengths if ratio[n] < 1]
        longest, shown = lengths[-1], ", ".join(f"{n:,}: {ratio[n]:.2f}" for n in lengths)
        if not slower:
            says = "the window's layer is faster at every length"
        elif slower[-1] == longest:
            says = f"the window's layer is slower still at {longest:,} tokens"
        else:
            after = lengths[lengths.index(slower[-1]) + 1]
            says = f"the window's layer is faster from between {slower[-1]:,} and {after:,} tokens on"
        told.append(f"{RIVALS[name]} over window ({shown}): {says}")
    if timed:
        grown = ", ".join(f"{arm.title[7:]} {statistics.mean([each['mb'] for each in own]).mean:,.0f} MB" for arm, own in timed)
        told.append(f"memory at {max(timed[0][1][0]['lengths']):,} tokens: {grown}")
    return told or [words.NOT_YET]


def _rounds_of_both(one: list[float], other: list[float]) -> tuple[list[float], list[float]]:
    """Rounds are numbered from 0 in every arm: those that both have are the first."""
    both = min(len(one), len(other))
    return one[:both], other[:both]


def _by_length(own: list[dict]) -> dict[int, list[float]]:
    """The times of an arm's rounds at each length, in ms."""
    rounds = [dict(zip(each["lengths"], each["times"], strict=True)) for each in own]
    return {n: [each[n] for each in rounds if n in each] for n in sorted({n for each in rounds for n in each})}


def show_distances(path: Path, asked: Sequence[tuple[Arm, list[dict]]]) -> None:
    """A panel an arm: the mean by distance with its interval, and in grey what an ear of that reach can answer at most."""
    names = [f"{a + 1} to {b}" for a, b in zip(DISTANCES, DISTANCES[1:], strict=False)]
    names = names[: len(asked[0][1][0]["curve"])]
    asked = [(arm, own) for arm, own in asked if arm.name != "majority"]
    with style.figure(path, columns=len(asked), width=1.2 + 1.25 * len(asked), height=2.7) as axes:
        for ax, (arm, own) in zip(np.atleast_1d(axes), asked, strict=True):
            found = [statistics.mean(column) for column in zip(*(each["curve"] for each in own), strict=True)]
            x, look = np.arange(len(names)), style.line(0 if arm.trivial or arm.name == "dense" else 1)
            if not arm.trivial:
                ax.plot(x, at_most(arm.settings)[: len(names)], drawstyle="steps-mid", color="0.6", linewidth=3.5, alpha=0.6)
            half = None if found[0].low is None else [each.high - each.mean for each in found]
            ax.errorbar(x, [each.mean for each in found], yerr=half, capsize=2, **look)
            ax.axhline(50, color="0.3", linewidth=0.9, linestyle=":")
            ax.set(ylim=(40, 104), title=arm.title.replace(" + ", "\n+ ").replace(", ", ",\n"))
            ax.title.set_fontsize(8)
            ax.set_xticks(x, names, rotation=90, fontsize=7)
            ax.tick_params(axis="y", labelleft=ax is np.atleast_1d(axes)[0])
        np.atleast_1d(axes)[0].set_ylabel("right (%)")
        np.atleast_1d(axes)[len(asked) // 2].set_xlabel("distance of the two words (tokens)")


def at_most(settings: dict) -> list[float]:
    """By distance, the accuracy in % of one who answers all pairs that are heard and guesses the others."""
    length = settings["length"]
    sees = who_sees_whom(attention_of(settings), length).any(axis=0)
    heard = np.eye(length, dtype=bool)
    for _ in range(settings["layers"]):
        heard = (sees.astype(np.float32) @ heard) > 0
    distance = np.arange(length) - ASKED
    bins = [(distance > a) & (distance <= b) for a, b in zip(DISTANCES, DISTANCES[1:], strict=False)]
    return [float(50 + 50 * heard[ASKED, inside].mean()) if inside.any() else 50.0 for inside in bins]


def who_sees_whom(attention, length: int, heads: int = 2) -> np.ndarray:
    """Booleans (heads, length, length): what the attention does to the rows of a unit matrix when all scores are equal."""
    width = heads * length
    zero, one = (np.float32(value) * np.eye(width, dtype=np.float32) for value in (0, 1))
    parts = {"query": {"weight": zero}, "key": {"weight": zero}, "value": {"weight": one}}
    layer = {"attention": {"self": parts, "output": {"dense": {"weight": one}}}}
    config = pretraining.config_of(Setting(layers=1, length=length), 10, hidden_size=width, num_attention_heads=heads)
    x = np.concatenate([np.eye(length, dtype=np.float32)] * heads, axis=1)[None]
    seen = attention(layer, x, x, None, config)[0]
    return np.stack(np.split(seen, heads, axis=1)) > 0
