"""The plots of the index notebook. Each draws what the catalogue or the stored results say, one mark a technique."""

from collections.abc import Mapping, Sequence

from bertcraft.course.catalogue import ADOPTIONS, LEVELS, TECHNIQUES, Technique
from bertcraft.lab import style

# What was found when the claims were held against their papers (Technique.judged), as the plot groups it.
FOUND = {
    "accurate": ("accurate", "accurate with a condition", "accurate for 2021"),
    "no figure claimed,\npaper cited rightly": ("accurate citation",),
    "no figure,\nno founding paper": ("no figure",),
    "imprecise": ("imprecise", "imprecise source", "imprecise for BERT"),
    "wrong": ("wrong",),
}


def levels() -> None:
    """How many techniques have which impact level."""
    rows = {level: [t for t in TECHNIQUES if t.level == level] for level in LEVELS}
    with style.shown(height=2.3) as axes:
        _tiles(axes, rows)
        axes.set_xlabel("techniques (a tile each, with its rank)")
        axes.set_title("Impact levels, as the list assigns them by rank", loc="left")


def adoption() -> None:
    """How many techniques have which adoption."""
    rows = {name: [t for t in TECHNIQUES if t.adoption == name] for name in ADOPTIONS}
    with style.shown(height=2.1) as axes:
        _tiles(axes, rows)
        axes.set_xlabel("techniques (a tile each, with its rank)")
        axes.set_title("Adoption in practice, as the list judges it", loc="left")


def truth() -> None:
    """What became of the claims when they were held against the papers."""
    rows = {found: [t for t in TECHNIQUES if t.judged in judged] for found, judged in FOUND.items()}
    with style.shown(height=2.5) as axes:
        _tiles(axes, rows)
        axes.set_xlabel("techniques (a tile each, with its rank)")
        axes.set_title("The claims, held against their papers", loc="left")


def timeline() -> None:
    """The year of the paper that the list cites, for the techniques that have one."""
    dated = sorted((t for t in TECHNIQUES if t.year), key=lambda t: (t.year, t.rank))
    with style.shown(height=5.0) as axes:
        for place, level in enumerate(LEVELS):
            own = [(i, t) for i, t in enumerate(dated) if t.level == level]
            mark = {**style.line(place), "linestyle": "none", "markersize": 6}
            axes.plot([t.year for _, t in own], [i for i, _ in own], label=level, **mark)
        axes.hlines(range(len(dated)), 2008.5, [t.year for t in dated], color="0.85", linewidth=0.8, zorder=0)
        axes.axvline(2018.8, color="0.4", linewidth=0.9, linestyle="--")
        axes.text(2018.7, -0.2, "BERT, October 2018", rotation=90, ha="right", va="top", fontsize=8, color="0.3")
        axes.set_yticks(range(len(dated)), [f"{t.title}  {t.rank:02d}" for t in dated], fontsize=8)
        axes.set_xlim(2008.5, 2021.5)
        axes.set_xticks(range(2009, 2022, 2))
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("year of the paper cited")
        axes.legend(title="impact level", loc="lower left", fontsize=8, title_fontsize=8)
        axes.set_title("When the cited papers appeared (06, 09 and 24 cite none)", loc="left")


def impact_and_adoption() -> None:
    """Impact level against adoption; colour and number are the rank."""
    cells: dict[tuple[str, str], list[Technique]] = {}
    for technique in TECHNIQUES:
        cells.setdefault((technique.adoption, technique.level), []).append(technique)
    across, up = list(reversed(ADOPTIONS)), list(reversed(LEVELS))
    spots = [
        (across.index(adopted) + shift, up.index(level), technique.rank)
        for (adopted, level), own in cells.items()
        for technique, shift in zip(own, _spread(len(own)), strict=True)
    ]
    xs, ys, ranks = zip(*spots, strict=True)
    with style.shown(height=3.6) as axes:
        drawn = axes.scatter(xs, ys, c=ranks, cmap="cividis", vmin=1, vmax=25, s=210, edgecolors="0.3", linewidths=0.6)
        for x, y, rank in spots:
            axes.text(x, y, rank, ha="center", va="center", fontsize=8, color="white" if rank < 14 else "black")
        axes.set_xticks(range(len(across)), across)
        axes.set_yticks(range(len(up)), up)
        axes.set_xlim(-0.5, len(across) - 0.5)
        axes.set_ylim(-0.5, len(up) - 0.5)
        axes.set_xlabel("adoption")
        axes.set_ylabel("impact level")
        axes.set_title("Impact against adoption (the list's judgement of both)", loc="left")
        bar = axes.figure.colorbar(drawn, ax=axes, ticks=[1, 5, 10, 15, 20, 25], pad=0.02)
        bar.set_label("rank")
        bar.ax.invert_yaxis()


def _tiles(axes, rows: Mapping[str, Sequence[Technique]]) -> None:
    """A row of numbered tiles a group; the first group on top."""
    for y, techniques in enumerate(rows.values()):
        for x, technique in enumerate(techniques):
            axes.barh(y, 0.9, left=x + 0.05, height=0.78, color=style.COLOURS[style.TECHNIQUE])
            axes.text(x + 0.5, y, f"{technique.rank:02d}", ha="center", va="center", color="white", fontsize=8)
        axes.text(len(techniques) + 0.2, y, len(techniques), va="center", fontweight="bold")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 11)  # tiles of one size in all these plots
    axes.set_xticks([])
    axes.grid(visible=False)


def _spread(count: int) -> list[float]:
    """Places side by side in a cell, its middle at 0."""
    return [0.2 * (i - (count - 1) / 2) for i in range(count)]
