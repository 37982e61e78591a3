"""The experiments, one module a technique, each with one object ``EXPERIMENT``."""

import importlib
import pkgutil

from bertcraft.errors import InputError
from bertcraft.lab.experiment import Experiment


def slugs() -> list[str]:
    """The techniques that have an experiment, by name."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def experiment(name: str) -> Experiment:
    """The experiment of a technique, by its number ("02", "2") or slug. Raises InputError where there is none."""
    if name in slugs():
        return importlib.import_module(f"{__name__}.{name}").EXPERIMENT
    known = {found.number: found for found in everything()}
    if name.isdecimal() and int(name) in known:
        return known[int(name)]
    listed = ", ".join(f"{number:02d} {found.slug}" for number, found in known.items())
    raise InputError(f"{name!r} is no technique with an experiment; there are {listed}")


def everything() -> list[Experiment]:
    """All experiments, by number."""
    found = [importlib.import_module(f"{__name__}.{slug}").EXPERIMENT for slug in slugs()]
    return sorted(found, key=lambda each: each.number)
