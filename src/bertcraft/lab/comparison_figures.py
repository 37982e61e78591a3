"""What a comparison found as pictures: the differences of the table with their intervals, and the learning curve."""

import io
from collections.abc import Callable

import numpy as np

from bertcraft.lab import advice, style
from bertcraft.lab.baselines import PROBE
from bertcraft.lab.compare import Outcome

WIDTH, DOTS = 4.8, 220  # inches, dots an inch: letters are read on a screen of 400 pixels too
NAMES = {"accuracy": "accuracy", "macro_f1": "macro F1"}


def differences(outcome: Outcome) -> bytes:
    """A PNG: the difference to the linear probe of every row but the most frequent class, with its 95 % interval, best on top."""
    rows = sorted(advice.rows(outcome)[:-1], key=lambda row: getattr(row, outcome.metric))

    def draw(axes) -> None:
        axes.axvline(0, color="0.55", linewidth=1, linestyle=(0, (4, 2)))
        for place, row in enumerate(rows):
            colour = style.COLOURS[style.TECHNIQUE if row.share is not None else style.BASELINE]
            middle = 0.0 if row.against is None else row.against.mean
            if row.against is not None and row.against.low is not None:
                axes.plot([row.against.low, row.against.high], [place, place], color=colour, solid_capstyle="butt")
            axes.plot(middle, place, "o", color=colour, markersize=6)
        axes.set_yticks(range(len(rows)), [f"{row.name}  {getattr(row, outcome.metric):.1f} %" for row in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"{NAMES[outcome.metric]} against the probe, points")

    return _png(draw, 1.0 + 0.32 * len(rows))


def learning_curve(outcome: Outcome) -> bytes:
    """A PNG: the linear probe's metric against the number of texts that it learnt from, both axes named."""
    points = advice.learning_curve(outcome)
    texts = [outcome.train * share for share, _ in points]
    seeds = zip(outcome.curve, outcome.scores[PROBE], strict=True)
    spread = 100 * np.std([[*parts, getattr(whole, outcome.metric)] for parts, whole in seeds], axis=0)

    def draw(axes) -> None:
        values = np.array([value for _, value in points])
        axes.fill_between(texts, values - spread, values + spread, color=style.COLOURS[1], alpha=0.15, linewidth=0)
        axes.plot(texts, values, **style.line(1))
        for x, y in zip(texts, values, strict=True):
            axes.annotate(f"{y:.1f}", (x, y), xytext=(-4, 4), textcoords="offset points", ha="right")
        axes.set_xscale("log", base=2)
        axes.set_xticks(texts, [f"{x:,.0f}" for x in texts])
        axes.minorticks_off()
        axes.margins(x=0.13, y=0.2)  # room for the first number, which stands to the left of its point
        axes.set_xlabel("labelled texts to learn from (logarithmic)")
        axes.set_ylabel(f"{NAMES[outcome.metric]} of the probe, %")

    return _png(draw, 2.7)


def _png(draw: Callable, height: float) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(style.SETTINGS):
        drawing = Figure(figsize=(WIDTH, height))
        draw(drawing.subplots())
        picture = io.BytesIO()
        drawing.savefig(picture, format="png", dpi=DOTS, metadata={"Software": None})
    return picture.getvalue()
