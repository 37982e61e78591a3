"""``bertcraft run``: one technique against its baseline on real text, one seed, in about a minute."""

from pathlib import Path


def run(name: str, *, quick: bool = False, seed: int = 0, out: Path | None = None, threads: int | None = None) -> None:
    """Run technique ``name`` ("01", "1" or its slug): see :func:`bertcraft.lab.show.run_one`."""
    from bertcraft.lab import show
    from bertcraft.lab.experiments import experiment

    show.run_one(experiment(name), quick=quick, seed=seed, out=out, threads=threads)
