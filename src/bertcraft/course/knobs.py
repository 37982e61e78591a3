"""*Which knobs matter*: what five choices of a training are worth at equal steps, side by side, from stored runs alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bertcraft.course import measured
from bertcraft.lab import style, verdicts, words
from bertcraft.lab.experiment import Comparison
from bertcraft.lab.statistics import NOT_TESTABLE, UNFINISHED, Interval


@dataclass(frozen=True)
class Knob:
    """A choice, by two arms of its experiment: what the treatment gains on the baseline, each at its best rate."""

    slug: str
    title: str
    treatment: str
    baseline: str
    metric: str
    better: int  # +1: points, more is better; -1: nats, less is


KNOBS = (
    Knob("advanced_scheduling", "09 the rate falls to zero", "linear", "constant", "loss", -1),
    Knob("weight_decay", "14 matrices decay", "adamw", "none", "loss", -1),
    Knob("weight_decay", "14 beside Adam, not in its gradient", "adamw", "l2", "loss", -1),
    Knob("layer_norm_variants", "15 norms before, not behind (texts read)", "pre", "post", "loss", -1),
    Knob("gradient_clipping", "20 gradients clipped at 1 (texts read)", "norm", "none", "loss", -1),
    Knob("layerwise_learning_rates", "08 rates that fall by layer", "decay_90", "one", "accuracy", 1),
)
AXES = {-1: "loss at [MASK] is lower by (nats)", 1: "accuracy is higher by (points)"}


@dataclass(frozen=True)
class Worth:
    """What was found of a knob: the gain, more is better, or None; ``told``: what must be read with it, "" for nothing."""

    knob: Knob
    gain: Interval | None
    told: str


def worth(runs_of: Callable[[str], Sequence[dict]] = measured.runs) -> list[Worth]:
    """The knobs with what their stored runs say; an arm that failed its experiment's checks is not read."""
    found = []
    for knob in KNOBS:
        comparison = Comparison(knob.title, knob.treatment, knob.baseline, knob.metric, better=knob.better)
        experiment = measured.experiment(knob.slug)
        experiment = replace(experiment, comparisons=(experiment.primary, comparison), beside=())
        found_here = verdicts.outcomes(experiment, runs_of(knob.slug))
        outcome = next((each for each in found_here if each.comparison is comparison), None)
        if outcome is None:
            found.append(Worth(knob, None, words.NOT_YET))
        elif outcome.verdict == NOT_TESTABLE:
            found.append(Worth(knob, None, words.verdict(experiment, outcome)))
        else:
            gain = outcome.interval if knob.better > 0 else _turned(outcome.interval)
            found.append(Worth(knob, gain, UNFINISHED if outcome.verdict == UNFINISHED else ""))
    return found


def draw(found: Sequence[Worth] | None = None) -> None:
    """A row a knob: its gain with the 95 % interval, nats on the left and points on the right; or why there is none."""
    found = worth() if found is None else found
    with style.shown(columns=2, width=9.4, height=2.8) as panels:
        for ax, better in zip(panels, (-1, 1), strict=True):
            own = [each for each in found if each.knob.better == better]
            for row, each in enumerate(own):
                if each.gain:
                    low, high = (each.gain.mean if end is None else end for end in (each.gain.low, each.gain.high))
                    reach = [[each.gain.mean - low], [high - each.gain.mean]]
                    look = style.line(row) | {"linestyle": "none"}
                    ax.errorbar(each.gain.mean, row, xerr=reach, capsize=3, **look)
                if each.told:
                    place = {"transform": ax.get_yaxis_transform(), "ha": "center", "fontsize": 7.5, "color": "0.3"}
                    ax.text(0.5, row - 0.25 * bool(each.gain), each.told, va="center", **place)
            ax.axvline(0, color="0.3", lw=0.9, ls=":")
            ax.set_yticks(range(len(own)), [each.knob.title for each in own], fontsize=8)
            ax.set(ylim=(len(own) - 0.5, -0.5), xlabel=AXES[better])
            ax.grid(axis="y", visible=False)
            if not any(each.gain for each in own):
                ax.set_xticks([])


def _turned(found: Interval) -> Interval:
    """A difference of losses as a gain."""
    low, high = (None if end is None else -end for end in (found.high, found.low))
    return Interval(-found.mean, low, high, found.n)
