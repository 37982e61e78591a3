"""The canonical picture of a technique: boxes, arrows and the shapes of what flows along them, in one style.

::

    with drawing.schematic(columns=3, rows=1) as s:
        ids = s.box("[CLS] a good film [SEP]", at=(0, 0), kind="data")
        encoder = s.box("encoder", at=(1, 0))
        head = s.box("head", at=(2, 0), kind="new")
        s.arrow(ids, encoder, "(B, L)")
        s.arrow(encoder, head, "(B, H)")
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bertcraft.errors import InputError
from bertcraft.lab import style

# What a box or an arrow is, told by edge and filling besides the colour, so that it is read in grey:
KINDS = {
    "data": {"facecolor": "white", "edgecolor": "0.35", "linewidth": 0.9, "linestyle": "-"},  # what flows: texts, tokens, numbers
    "step": {"facecolor": "0.92", "edgecolor": "0.35", "linewidth": 0.9, "linestyle": "-"},  # what is computed as in plain BERT
    "new": {"facecolor": "#d9e8f5", "edgecolor": style.COLOURS[style.TECHNIQUE], "linewidth": 2.0, "linestyle": "-"},
    "frozen": {"facecolor": "0.92", "edgecolor": "0.35", "linewidth": 0.9, "linestyle": (0, (4, 2))},  # not trained
}
PADDING = 0.09  # inches between a text and the edge of its box
MARGIN = 0.12  # around the grid
BETWEEN = 0.2  # boxes of neighbouring cells, at least
GAP = 0.04  # between a line and its label
SMALL = 8  # size of labels; boxes have the style's own


@dataclass(frozen=True)
class Box:
    """A box drawn: its centre and its half width and height, in inches from the lower left corner."""

    x: float
    y: float
    half_width: float
    half_height: float

    def edge_towards(self, x: float, y: float) -> tuple[float, float]:
        """Where the straight line from the centre to (x, y) leaves the box."""
        across, up = x - self.x, y - self.y
        part = min(
            self.half_width / abs(across) if across else 1.0,
            self.half_height / abs(up) if up else 1.0,
        )
        return self.x + part * across, self.y + part * up


class Schematic:
    """A grid of cells into which boxes are put: ``at=(column, row)``, row 0 on top; parts of a cell such as 1.5 are fine."""

    def __init__(self, columns: int, rows: int, width: float, row_height: float):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.columns, self.rows = columns, rows
        self.cell = width / columns, row_height
        self.figure = Figure(figsize=(width + 2 * MARGIN, rows * row_height + 2 * MARGIN))
        self._renderer = FigureCanvasAgg(self.figure).get_renderer()
        self._axes = self.figure.add_axes((0, 0, 1, 1))
        self._axes.set(xlim=(-MARGIN, width + MARGIN), ylim=(-MARGIN, rows * row_height + MARGIN))  # a unit is an inch
        self._axes.axis("off")

    def box(self, text: str, at: tuple[float, float], kind: str = "step") -> Box:
        """A box around a text, at least half as wide as a cell; ``kind``: one of :data:`KINDS`.

        Raises InputError where the text is wider or higher than a cell, or the cell is not of this drawing.
        """
        from matplotlib.patches import FancyBboxPatch

        x, y = self._place(at)
        look = self._look(kind)
        drawn = self._axes.text(x, y, text, ha="center", va="center", zorder=3)
        width, height = (size + 2 * PADDING for size in self._size(drawn))
        room = self.cell[0] - BETWEEN, self.cell[1] - BETWEEN
        if width > room[0] or height > room[1]:
            raise InputError(
                f"the box {text!r} needs {width:.2f} x {height:.2f} inches, a cell has room for {room[0]:.2f} x {room[1]:.2f}: "
                "break the text into lines, or take fewer columns or a larger row_height"
            )
        width, height = max(width, self.cell[0] / 2), max(height, 0.34)
        box = Box(x, y, width / 2, height / 2)
        shape = "square,pad=0" if kind == "step" else "round,pad=0,rounding_size=0.08"
        self._axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, boxstyle=shape, zorder=2, **look))
        return box

    def arrow(self, start: Box, end: Box, label: str = "", kind: str = "step", bend: float = 0.0) -> None:
        """An arrow from box to box, with a label such as the shape of what flows.

        The label stands above a level arrow, to the right of an upright one, on any other. ``bend``: for an arrow between boxes
        of one row that goes around what lies between them, above (> 0) or below, by that part of its length.
        Raises InputError where a label is longer than its level arrow.
        """
        look = self._look(kind)
        from_, to = self._around(start, end, bend) if bend else self._ends(start, end)
        across, up = to[0] - from_[0], to[1] - from_[1]
        rad = -bend if across > 0 else bend  # of matplotlib: to the right of the way
        arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "color": look["edgecolor"], "linewidth": look["linewidth"]}
        arrow |= {"linestyle": look["linestyle"], "connectionstyle": f"arc3,rad={rad}", "mutation_scale": 9}
        self._axes.annotate("", to, from_, arrowprops=arrow, zorder=1)
        x, y = (from_[0] + to[0] + rad * up) / 2, (from_[1] + to[1] - rad * across) / 2
        if abs(up) < 0.02:
            below = bend < 0
            drawn = self._label(label, x, y - GAP if below else y + GAP, look, ha="center", va="top" if below else "bottom")
            if (length := self._size(drawn)[0]) > abs(across):
                raise InputError(
                    f"the label {label!r} has {length:.2f} inches, its arrow {abs(across):.2f}: "
                    "break it into lines, or take fewer columns or a larger width"
                )
        elif abs(across) < 0.02:
            self._label(label, x + GAP, y, look, ha="left", va="center")
        else:
            self._label(label, x, y, look, ha="center", va="center", backgroundcolor="white")

    def note(self, text: str, at: tuple[float, float]) -> None:
        """A text without a box."""
        self._label(text, *self._place(at), self._look("step"), ha="center", va="center")

    def frame(self, title: str, *boxes: Box) -> Box:
        """A dashed frame around some boxes (or frames), with its title on top; it can be the end of an arrow as a box can."""
        from matplotlib.patches import Rectangle

        margin = 0.16
        left, right = min(b.x - b.half_width for b in boxes) - margin, max(b.x + b.half_width for b in boxes) + margin
        low, high = min(b.y - b.half_height for b in boxes) - margin, max(b.y + b.half_height for b in boxes) + margin
        look = {"fill": False, "edgecolor": "0.5", "linestyle": (0, (4, 2)), "linewidth": 0.9}
        self._axes.add_patch(Rectangle((left, low), right - left, high - low, zorder=1, **look))
        self._axes.text(left, high + 0.03, title, ha="left", va="bottom", fontsize=SMALL, color="0.3", zorder=3)
        return Box((left + right) / 2, (low + high) / 2, (right - left) / 2, (high - low) / 2)

    def _place(self, at: tuple[float, float]) -> tuple[float, float]:
        column, row = at
        if not (-0.5 <= column <= self.columns - 0.5 and -0.5 <= row <= self.rows - 0.5):
            raise InputError(f"{at} is no cell of a drawing of {self.columns} columns and {self.rows} rows, counted from 0")
        return (column + 0.5) * self.cell[0], (self.rows - row - 0.5) * self.cell[1]

    def _look(self, kind: str) -> dict:
        if kind not in KINDS:
            raise InputError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
        return KINDS[kind]

    def _size(self, text) -> tuple[float, float]:
        """Width and height of a text drawn, in inches."""
        extent = text.get_window_extent(self._renderer)
        return extent.width / self.figure.dpi, extent.height / self.figure.dpi

    def _label(self, text: str, x: float, y: float, look: dict, **where):
        if where.pop("backgroundcolor", None):
            where["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
        colour = look["edgecolor"] if look is KINDS["new"] else "0.25"
        return self._axes.text(x, y, text, fontsize=SMALL, color=colour, zorder=3, **where)

    @staticmethod
    def _around(start: Box, end: Box, bend: float) -> tuple[tuple[float, float], tuple[float, float]]:
        side = 1 if bend > 0 else -1
        return (start.x, start.y + side * start.half_height), (end.x, end.y + side * end.half_height)

    @staticmethod
    def _ends(start: Box, end: Box) -> tuple[tuple[float, float], tuple[float, float]]:
        """Where an arrow leaves and arrives: level where the boxes share a height, upright where they share a place across."""
        low, high = (f(start.y, end.y) for f in (min, max))
        if high - low < max(start.half_height, end.half_height):  # beside each other
            y = start.y if start.half_height < end.half_height else end.y
            side = 1 if end.x > start.x else -1
            return (start.x + side * start.half_width, y), (end.x - side * end.half_width, y)
        if abs(start.x - end.x) < max(start.half_width, end.half_width):
            x = start.x if start.half_width < end.half_width else end.x
            side = 1 if end.y > start.y else -1
            return (x, start.y + side * start.half_height), (x, end.y - side * end.half_height)
        return start.edge_towards(end.x, end.y), end.edge_towards(start.x, start.y)


@contextmanager
def schematic(columns: int, rows: int, width: float = 7.6, row_height: float = 0.9) -> Iterator[Schematic]:
    """A drawing on a grid of ``columns`` by ``rows`` cells, ``width`` inches wide, shown on a notebook's page at the end.

    The same picture whichever backend matplotlib has; outside of a notebook nothing is shown.
    """
    import matplotlib

    with matplotlib.rc_context(style.SETTINGS | {"figure.constrained_layout.use": False}):
        drawing = Schematic(columns, rows, width, row_height)
        yield drawing
        style.display(drawing.figure)
