"""What the lab has stored of a technique, as pages of its lesson."""

import functools
import tempfile
from pathlib import Path

from bertcraft.course import catalogue, display, shelf
from bertcraft.course.display import Page
from bertcraft.errors import InputError
from bertcraft.lab import experiments, statistics
from bertcraft.lab.experiment import Experiment
from bertcraft.lab.results import Results, compare

COMPARED = ("comparison", "difference", "claimed", "seeds", "verdict")
NOTHING = display.message("Not measured yet", "nothing is stored of this technique.", "#5b5b5b")


def experiment(slug: str) -> Experiment | None:
    """The experiment of a technique; None where there is none."""
    return experiments.experiment(slug) if slug in experiments.slugs() else None


def runs(slug: str) -> list[dict]:
    """The stored runs of a technique's experiment, by arm and seed."""
    found = experiment(slug)
    return Results(found, shelf.folder("results")).runs() if found else []


def claim(slug: str) -> Page:
    """As collections state it, as the paper reports it, what that makes of the claim, and as it was measured here."""
    technique = catalogue.technique(slug)
    rows = [
        ("as collections state it", technique.claimed),
        ("as the paper reports it", f"{technique.paper} ({technique.source})"),
        ("so the claim is", technique.judged),
        ("as measured here", headline(slug)),
    ]
    return display.table("The claim", ("", ""), rows)


def headline(slug: str) -> str:
    """The first comparison of the experiment in a sentence; "not measured yet" where nothing is stored."""
    found, stored = experiment(slug), runs(slug)
    outcome = compare(found.comparisons[0], stored) if found and stored else None
    if outcome is None:
        return "not measured yet"
    comparison = found.comparisons[0]
    interval, verdict = outcome
    minutes = sum(run["seconds"] for run in stored) / 60
    return (
        f"{comparison.name}: {_difference(found, comparison, interval)} in {found.metrics[comparison.metric].title}; "
        f"{verdict} ({counted(interval.n, 'seed')}, {len(stored)} runs, {minutes:.0f} minutes)"
    )


def arms(slug: str, metrics: tuple[str, ...] = (), chosen: tuple[str, ...] = ()) -> Page:
    """A row an arm, a column a metric: the mean over seeds with its 95 % interval."""
    found, stored = experiment(slug), runs(slug)
    if not found or not stored:
        return NOTHING
    for name in metrics:
        if name not in found.metrics:
            raise InputError(f"the experiment has no metric {name!r}; it has {', '.join(found.metrics)}")
    titles = {name: found.metrics[name] for name in metrics or found.metrics if any(name in run["figures"] for run in stored)}
    rows = []
    for arm in [found.arm(name) for name in chosen] or found.arms:
        own = [run["figures"] for run in stored if run["arm"] == arm.name]
        if own:
            values = {name: [figures[name] for figures in own if name in figures] for name in titles}
            cells = [_mean(values[name], metric.digits) for name, metric in titles.items()]
            rows.append((arm.title, *cells, str(len(own))))
    heads = [f"{metric.title}, {metric.unit}" if metric.unit else metric.title for metric in titles.values()]
    return display.table(f"{found.title}: mean [95 % interval] over seeds", ("arm", *heads, "seeds"), rows, found.notes)


def comparisons(slug: str) -> Page:
    """A row a comparison: the paired difference or ratio with its interval, what the claim says of it, the verdict."""
    rows = compared(slug)
    title = "Differences, paired over seeds [95 % interval]"
    return display.table(title, COMPARED, rows) if rows else NOTHING


def compared(slug: str) -> list[tuple[str, ...]]:
    """The rows of :func:`comparisons`, under the heads ``COMPARED``; [] where nothing is stored."""
    found, stored = experiment(slug), runs(slug)
    rows = []
    for comparison in found.comparisons if found else ():
        outcome = compare(comparison, stored)
        if outcome:
            interval, verdict = outcome
            claimed = f"{'above' if comparison.claimed > 0 else 'below'} {1 if comparison.ratio else 0}"
            difference = _difference(found, comparison, interval)
            rows.append((comparison.name, difference, claimed, str(interval.n), verdict))
    return rows


def plot(slug: str, n: int):
    """The n-th plot of the experiment, from 1, as an image; a message where nothing is stored."""
    found, stored = experiment(slug), runs(slug)
    if not found or not stored:
        return NOTHING
    images = _plots(slug)
    if not 1 <= n <= len(images):
        raise InputError(f"plot {n}: the experiment has plots 1 to {len(images)}")
    from IPython.display import Image

    return Image(data=images[n - 1], format="png", width=640)


@functools.cache
def _plots(slug: str) -> list[bytes]:
    found = experiment(slug)
    with tempfile.TemporaryDirectory() as folder:
        return [Path(path).read_bytes() for path in found.show(Path(folder), runs(slug), found)]


def _difference(found: Experiment, comparison, interval: statistics.Interval) -> str:
    metric = found.metrics[comparison.metric]
    form = ".2f" if comparison.ratio else f"+.{metric.digits}f"
    return f"{_interval(interval, form)} {'times' if comparison.ratio else metric.unit}".strip()


def _mean(values: list[float], digits: int) -> str:
    return _interval(statistics.mean(values), f".{digits}f") if values else "-"


def _interval(interval: statistics.Interval, form: str) -> str:
    if interval.low is None:
        return f"{interval.mean:{form}}"
    return f"{interval.mean:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def counted(number: int, noun: str) -> str:
    """ "1 seed", "5 seeds"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
