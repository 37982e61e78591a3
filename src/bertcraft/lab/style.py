"""How every plot of the collection looks: one palette, readable in grey and by colour-blind readers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Okabe & Ito 2008 without its yellow; each colour has a marker and a dash of its own, so that none is told by colour alone.
BASELINE, TECHNIQUE = 0, 1
COLOURS = ("#222222", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c510a", "0.55")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "v")
DASHES = ("-", "-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), ":")
SETTINGS = {
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}


def line(place: int) -> dict:
    """Keyword arguments of ``axes.plot`` for the arm at a place in its experiment (0: the baseline, 1: the technique)."""
    i = place % len(COLOURS)
    return {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": DASHES[i]}


@contextmanager
def figure(path: Path, columns: int = 1, width: float = 6.4, height: float = 3.8) -> Iterator:
    """Axes (or an array of them, side by side) in the collection's style, written to a PNG file at the end."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        drawing = Figure(figsize=(width, height))
        yield drawing.subplots(1, columns)
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing.savefig(path, metadata={"Software": None})


@contextmanager
def shown(columns: int = 1, width: float = 7.0, height: float = 3.2) -> Iterator:
    """Axes (or an array of them, side by side) in the collection's style, shown on a notebook's page at the end.

    The same picture whichever backend matplotlib has: a PNG of 110 dots an inch.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        drawing = Figure(figsize=(width, height))
        yield drawing.subplots(1, columns)
        display(drawing)


def display(drawing) -> None:
    """Show a figure on a notebook's page, as a PNG of 110 dots an inch; outside of IPython it is drawn and nothing is shown."""
    import io
    import sys

    picture = io.BytesIO()
    drawing.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        import IPython.display

        IPython.display.display(IPython.display.Image(data=picture.getvalue(), format="png"))
