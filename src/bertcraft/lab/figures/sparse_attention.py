"""10: how it is drawn."""

from pathlib import Path

import numpy as np

from bertcraft.lab import pretraining, style
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.experiments.sparse_attention import attention_of
from bertcraft.lab.pretraining import Setting


def show(folder: Path, runs: list[dict], experiment: Experiment) -> list[Path]:
    """Who sees whom; time and memory by length; quality."""
    return [
        show_patterns(folder / "patterns.png", experiment),
        show_scaling(folder / "time_and_memory.png", runs, experiment),
        show_quality(folder / "quality.png", runs, experiment),
    ]


def show_pattern(settings: dict, length: int = 64) -> np.ndarray:
    """Who sees whom in a pattern made ``length`` / 512 as large, (2 heads, length, length): what the attention itself does to
    the rows of a unit matrix when all scores are equal.
    """
    scale = 512 // length
    small = settings | {name: settings[name] // scale for name in ("window", "block") if name in settings}
    zero, one = (np.float32(value) * np.eye(2 * length, dtype=np.float32) for value in (0, 1))
    parts = {"query": {"weight": zero}, "key": {"weight": zero}, "value": {"weight": one}}
    layer = {"attention": {"self": parts, "output": {"dense": {"weight": one}}}}
    config = pretraining.config_of(Setting(layers=1, length=length), 10, hidden_size=2 * length, num_attention_heads=2)
    x = np.concatenate([np.eye(length, dtype=np.float32)] * 2, axis=1)[None]
    seen = attention_of(small)(layer, x, x, None, config)[0]
    return np.stack([seen[:, :length], seen[:, length:]]) > 0


def show_patterns(path: Path, experiment: Experiment) -> Path:
    """A small picture an arm; what only one of the two heads sees is lighter."""
    arms = [arm for arm in experiment.arms if arm.settings["lengths"]]
    with style.figure(path, columns=len(arms), width=1.75 * len(arms), height=2.3) as axes:
        for ax, arm in zip(np.atleast_1d(axes), arms, strict=True):
            ax.imshow(show_pattern(arm.settings).mean(axis=0), cmap="Blues", vmin=0, vmax=1.15, interpolation="nearest")
            ax.set(title=arm.title, xlabel="key", xticks=[], yticks=[])
            ax.title.set_fontsize(8.5)
            ax.grid(False)
            ax.spines[["top", "right"]].set_visible(True)
        np.atleast_1d(axes)[0].set_ylabel("query")
    return path


def show_scaling(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Time and memory of one text, forward and backward, both axes logarithmic, with the fitted exponents."""
    from bertcraft.lab import statistics

    panels = (("ms", "time_exponent", "time of a text (ms)"), ("mb", "memory_exponent", "peak memory of a text (MB)"))
    with style.figure(path, columns=2, width=8.4, height=4.0) as axes:
        for ax, (name, power, label) in zip(axes, panels, strict=True):
            for place, arm in enumerate(arm for arm in experiment.arms if arm.settings["lengths"]):
                own = [run["figures"] for run in runs if run["arm"] == arm.name and "lengths" in run["figures"]]
                if not own:
                    continue
                lengths = np.array(own[0]["lengths"])
                shown = lengths >= (lengths[0] if name == "ms" else 512)  # below, a process grows by as much for other reasons
                logs = [statistics.mean(values) for values in np.log([each[name] for each in own])[:, shown].T]
                grown = statistics.mean([each[power] for each in own])
                spread = "" if grown.low is None else f" ± {grown.high - grown.mean:.2f}"
                look = style.line(place)
                middle = np.exp([each.mean for each in logs])
                ax.plot(lengths[shown], middle, **look, label=f"{arm.title}: $L^{{{grown.mean:.2f}}}${spread}")
                if grown.low is not None:
                    ends = np.exp([(each.low, each.high) for each in logs]).T
                    ax.fill_between(lengths[shown], *ends, color=look["color"], alpha=0.2, lw=0)
            ax.set(xscale="log", yscale="log", xlabel="length L (tokens)", ylabel=label)
            ax.set_xscale("log", base=2)
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
                axis.set_minor_formatter(lambda value, _: "")
            ax.tick_params(axis="x", labelrotation=45)
            ax.legend(fontsize=7.5, loc="lower right")
        _show_break_even(axes[0], runs, experiment)
    return path


def _show_break_even(ax, runs: list[dict], experiment: Experiment) -> None:
    """The length from which on the headline's pattern is faster than dense attention."""
    from bertcraft.lab import statistics

    arm = experiment.comparisons[0].treatment
    found = [run["figures"]["break_even"] for run in runs if run["arm"] == arm and "break_even" in run["figures"]]
    if not found:
        return
    interval = statistics.mean(found)
    if interval.low is not None:
        ax.axvspan(interval.low, interval.high, color="0.85", lw=0)
    ax.axvline(interval.mean, color="0.3", lw=1, ls=(0, (1, 2)))
    text = f"{experiment.arm(arm).title} is\nfaster from {interval.mean:.0f} tokens on"
    ax.text((interval.low or interval.mean) / 1.05, ax.get_ylim()[1], text, fontsize=7.5, va="top", ha="right", rotation=90)


def show_quality(path: Path, runs: list[dict], experiment: Experiment) -> Path:
    """Held-out loss, accuracy and time of a training step: the mean over seeds with its 95 % interval; small dots are seeds."""
    from bertcraft.lab import statistics

    arms = [arm for arm in experiment.arms if any(run["arm"] == arm.name for run in runs)]
    periods = experiment.arms[0].settings["periods"]
    panels = {
        "loss": ("held-out loss (nats)\ndotted: chance", np.log(periods)),
        "accuracy": ("period found (%)\ndotted: chance", 100 / periods),
        "ms_step": ("time of a training step (ms)", 0),
    }
    with style.figure(path, columns=len(panels), width=9.0, height=1.2 + 0.36 * len(arms)) as axes:
        for number, (ax, (name, (label, chance))) in enumerate(zip(axes, panels.items(), strict=True)):
            for place, arm in enumerate(arms):
                values = [run["figures"][name] for run in runs if run["arm"] == arm.name]
                interval, look = statistics.mean(values), style.line(0 if arm.name == "dense" else 1)
                if interval.low is not None:
                    ax.plot((interval.low, interval.high), (-place, -place), color=look["color"], lw=2)
                    ax.plot(values, np.full(len(values), -place - 0.25), ".", color="0.6", ms=3)
                ax.plot(interval.mean, -place, look["marker"], color=look["color"], ms=6)
            ax.axvline(chance, color="0.3", lw=1, ls=(0, (1, 2)))
            ax.set(xlabel=label, ylim=(0.6 - len(arms), 0.6))
            ax.set_yticks(-np.arange(len(arms)), [arm.title for arm in arms] if number == 0 else [""] * len(arms))
            ax.tick_params(axis="y", length=0)
    return path
