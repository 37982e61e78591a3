"""The pages ``notebooks/evidence/NN_slug.md``: what is known of each technique, from the catalogue and the stored results."""

from pathlib import Path

from bertcraft.course import measured, shelf
from bertcraft.course.catalogue import Technique
from bertcraft.course.rankings import table
from bertcraft.lab import report


def path(each: Technique) -> Path:
    """Where a technique's page stands."""
    return shelf.folder("notebooks") / "evidence" / f"{each.name}.md"


def text(each: Technique) -> str:
    """The page in Markdown: the claim, the paper, every comparison measured here, and where each figure stands."""
    paths = " and ".join(path.name for path in each.paths)
    links = ["[all techniques](../00_technique_rankings.md)"]
    if shelf.notebook(each.name).exists():
        links.insert(0, f"[the lesson](../{each.name}.ipynb)")
    lines = [
        f"# {each.rank:02d} {each.title}: the evidence",
        ", ".join(links),
        f"{each.innovation}. Impact level: {each.level}; adoption: {each.adoption} (the list's judgement)."
        + (f" On the path {paths}." if paths else ""),
        "**Key innovations**",
        "\n".join(f"- {sentence}" for sentence in each.innovations),
        f"**What it changed**: {each.impact}",
        f"**Today**: {each.today}",
        f'**Claimed**: "{each.claimed}" (citing: {each.cited}). Held against the paper: {each.judged}.',
        f"**In the paper**: {each.paper} ({each.source})",
        f"**Measured here**: {measured.headline(each.slug)}.",
    ]
    if rows := measured.compared(each.slug):
        lines.append(table(measured.COMPARED, rows))
        notes = measured.experiment(each.slug).notes
        lines += [f"- {note}" for note in ((report.CORRECTED, *notes) if len(rows) > 1 else notes)]
    lines.append(f"**Reference**: {each.reference}")
    if origins := _origins(each):
        lines.append(f"**Where the figures stand**: {origins}.")
    return "\n\n".join(lines) + "\n"


def _origins(each: Technique) -> str:
    parts = []
    for origin, shown in each.figures.items():
        figures = ", ".join(shown.split())
        parts.append(f"{figures} {origin}" if origin.startswith("=") else f"{figures}: {origin}")
    return "; ".join(parts).replace("*", "\\*")
