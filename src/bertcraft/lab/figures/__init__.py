"""How results are drawn, one module a technique: ``show(folder, runs, experiment)`` writes PNG files and returns their paths.

``runs`` is a list of dicts with "arm", "seed" and "figures". Nothing here changes a figure, so nothing here makes one stale.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path

from bertcraft.lab.experiment import Experiment


def draw(experiment: Experiment, folder: Path, runs: Sequence[dict]) -> list[Path]:
    """The plots of an experiment's runs, as PNG files in a folder; their paths."""
    module = importlib.import_module(experiment.figures or f"{__name__}.{experiment.slug}")
    return module.show(Path(folder), list(runs), experiment)
