"""What the lab has stored of a technique, as pages of its lesson."""

import functools
import tempfile
from pathlib import Path

from bertcraft.course import catalogue, display, shelf
from bertcraft.course.display import Page
from bertcraft.errors import InputError
from bertcraft.lab import experiments, report, verdicts, words
from bertcraft.lab.experiment import Experiment, Metric
from bertcraft.lab.figures import draw
from bertcraft.lab.results import Results

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
    """The experiment's claim as it was measured, in a sentence; "not measured yet" where nothing is stored."""
    found, stored = experiment(slug), runs(slug)
    outcome = verdicts.primary(found, stored) if stored else None
    return f"{words.headline(found, stored)} ({words.cost(outcome, stored)}; {found.scale})" if outcome else words.NOT_YET


def arms(slug: str, metrics: tuple[str, ...] = (), chosen: tuple[str, ...] = ()) -> Page:
    """A row an arm, the trivial ones last, a column a metric: the mean over seeds with its 95 % interval.

    Raises InputError for a metric or an arm that the experiment has not.
    """
    found, stored = experiment(slug), runs(slug)
    if not found or not stored:
        return NOTHING
    for name in metrics:
        if name not in found.metrics:
            raise InputError(f"the experiment has no metric {name!r}; it has {', '.join(found.metrics)}")
    titles = {name: found.metrics[name] for name in metrics or found.metrics if any(name in run["figures"] for run in stored)}
    rows = []
    for arm in [found.arm(name) for name in chosen] or report.in_order(found):
        own = [run["figures"] for run in stored if run["arm"] == arm.name]
        if own:
            values = {name: [figures[name] for figures in own if name in figures] for name in titles}
            cells = [_mean(values[name], metric) for name, metric in titles.items()]
            rows.append((arm.title, *cells, str(len(own))))
    heads = [f"{metric.title}, {metric.unit}" if metric.unit else metric.title for metric in titles.values()]
    return display.table(f"{found.title}: mean [95 % interval] over seeds", ("arm", *heads, "seeds"), rows, found.notes)


def checks(slug: str) -> Page:
    """A line a check and arm: what had to hold before the question makes sense, and whether it did."""
    found, stored = experiment(slug), runs(slug)
    held = verdicts.checked(found, stored) if stored else []
    if not held:
        return NOTHING
    rows = [words.checked(found, each) for each in held]
    return display.table("Checked first", ("arm", "check", "found", ""), rows)


def comparisons(slug: str) -> Page:
    """A row a comparison: the paired difference or ratio with its interval, what the claim says of it, the verdict."""
    rows = compared(slug)
    title = "Differences, paired over seeds [95 % interval]"
    notes = (report.CORRECTED,) if len(rows) > 1 else ()
    return display.table(title, COMPARED, rows, notes) if rows else NOTHING


def compared(slug: str) -> list[tuple[str, ...]]:
    """The rows of :func:`comparisons`, under the heads ``COMPARED``, the primary first; [] where nothing is stored."""
    found, stored = experiment(slug), runs(slug)
    return [
        (
            each.comparison.name,
            words.effect(found, each),
            words.claimed(each.comparison),
            str(each.interval.n),
            words.verdict(found, each),
        )
        for each in (verdicts.outcomes(found, stored) if stored else ())
    ]


def plot(slug: str, n: int):
    """The n-th plot of the experiment, from 1, as an image; a message where nothing is stored.

    Raises InputError for another n.
    """
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
        return [Path(path).read_bytes() for path in draw(found, Path(folder), runs(slug))]


def _mean(values: list[float], metric: Metric) -> str:
    return words.interval(metric.mean(values), f".{metric.digits}f") if values else "-"
