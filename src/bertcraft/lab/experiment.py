"""What an experiment is: a declaration of arms, checks, metrics, claims, tuning and budget, and one function that runs an arm.

Everything else (seeds, storage, intervals, verdicts, tables) is shared by all experiments: see :mod:`bertcraft.lab.runner`,
:mod:`bertcraft.lab.results`, :mod:`bertcraft.lab.verdicts` and :mod:`bertcraft.lab.tuning`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from bertcraft.errors import InputError
from bertcraft.lab import statistics


@dataclass(frozen=True)
class Claim:
    """What a technique is famous for, and what is really reported."""

    collection: str  # as collections of techniques state it: "4x efficiency"
    paper: str  # what the paper reports, with its conditions, in a sentence or two
    source: str  # "Clark et al. 2020, table 2, arXiv:2003.10555"


@dataclass(frozen=True)
class Metric:
    """A figure that every run of an arm reports.

    ``overlap``: where the seeds' test texts are drawn from one pool, the texts tested over those trained on; intervals are
    widened by it (see :func:`bertcraft.lab.statistics.mean`).
    """

    title: str  # "held-out loss"
    unit: str  # "nats a masked token", "%", "ms" ...
    digits: int = 3  # decimals in tables
    overlap: float = 0.0

    def mean(self, values: Sequence[float]) -> statistics.Interval:
        """The mean of an arm's seeds, with its interval. Raises InputError when there is no value or one is not finite."""
        return statistics.mean(values, overlap=self.overlap)


@dataclass(frozen=True)
class Arm:
    """One way to do it: the baseline, the technique, a control that an expert would demand, or a trivial row.

    A trivial row is what one gets for nothing (an untrained model, word frequencies, the most frequent class, TF-IDF): it has no
    settings to tune, and stands in every table.
    """

    name: str  # short, a key of the results: "dynamic"
    title: str  # as tables and plots name it: "dynamic masks"
    settings: dict[str, Any] = field(default_factory=dict)  # what makes this arm differ: numbers, texts, lists (JSON)
    control: str = ""  # for a control: the objection that it answers, in a sentence
    trivial: bool = False


@dataclass(frozen=True)
class Check:
    """What must hold of an arm before a question about it makes sense: that it has learnt what the question is about.

    The mean of ``figure`` over an arm's seeds (less that of the arm ``against``, paired) is at least ``least`` or at most
    ``most``. ``along``: a list of points among a run's figures, the worst of which is held: for a metric that is made of all.
    A comparison with an arm that fails is "not testable here", in the metrics that the check guards (all by default).
    """

    name: str  # "off the plateau at [MASK]"
    arms: tuple[str, ...]
    figure: str
    least: float | None = None
    most: float | None = None
    against: str | None = None
    unit: str = ""
    digits: int = 2
    metrics: tuple[str, ...] = ()
    along: str | None = None

    def __post_init__(self):
        if (self.least is None) == (self.most is None):
            raise InputError(f"check {self.name!r}: give least or most, one of them")
        if self.along and self.against:
            raise InputError(f"check {self.name!r}: give along or against, not both")

    def of(self, figures: Mapping[str, Any]) -> float | None:
        """What is held of a run's figures; None where it has none."""
        points = figures.get(self.along, ()) if self.along else (figures,)
        values = [point[self.figure] for point in points if self.figure in point]
        worst = min if self.least is not None else max
        return worst(values, default=None)

    def holds(self, value: float) -> bool:
        """Whether a mean lies within the bound."""
        return value >= self.least if self.least is not None else value <= self.most


@dataclass(frozen=True)
class Comparison:
    """One claim under test: the paired difference treatment - baseline of a metric, over seeds, in one of the forms.

    The forms, ``better``, ``margin``, ``ratio`` and ``expected`` are those of :func:`bertcraft.lab.statistics.judge`.
    """

    name: str  # "dynamic masks against static ones"
    treatment: str  # names of arms
    baseline: str
    metric: str
    form: str = statistics.SUPERIOR
    better: int = 1  # -1 where less is better
    margin: float = 0.0
    ratio: bool = False
    expected: float | None = None

    def __post_init__(self):
        wrong = None
        if self.form not in statistics.FORMS:
            wrong = f"its form is one of {', '.join(statistics.FORMS)}, got {self.form!r}"
        elif self.better not in (1, -1):
            wrong = f"better is +1 or -1, got {self.better!r}"
        elif self.form in (statistics.NOT_WORSE, statistics.EQUAL) and not 0 < self.margin < (1 if self.ratio else math.inf):
            wrong = f"{self.form!r} needs a margin above 0{' and below 1' if self.ratio else ''}, got {self.margin!r}"
        elif self.form == statistics.SUPERIOR and self.margin:
            wrong = "'superior' has no margin"
        elif (self.form == statistics.EXACT) != (self.expected is not None):
            wrong = "'exact' says what is expected, and no other form does"
        if wrong:
            raise InputError(f"comparison {self.name!r}: {wrong}")


@dataclass(frozen=True)
class Tuning:
    """How the arms' settings are chosen: the same number of trials for each, on development texts, by seeds not reported.

    ``grids``: for an arm, the values of each setting to try, rising, at least three; all combinations are run. A trial is
    ``run`` of the arm with those values and ``settings``, which say that development texts are to judge. The arm takes the
    values whose mean ``figure`` is best among those that pass its checks; it may not lie at an end of its grid. ``like``: arms
    that take another's choice. ``uses``: arm -> a setting of its -> (another arm, the setting of that one's choice): what a
    reported run takes from others, a student the rate of its teacher. Its trials keep the value that the arm declares.
    """

    grids: Mapping[str, Mapping[str, tuple]]
    settings: Mapping[str, Any]
    figure: str
    better: int = 1
    seeds: tuple[int, ...] = (1000,)
    like: Mapping[str, str] = field(default_factory=dict)
    uses: Mapping[str, Mapping[str, tuple[str, str]]] = field(default_factory=dict)

    def __post_init__(self):
        counts = {arm: math.prod(len(values) for values in grid.values()) for arm, grid in self.grids.items()}
        if len(set(counts.values())) > 1:
            raise InputError(f"tuning: every arm has as many trials, got {counts}")
        for arm, grid in self.grids.items():
            for setting, values in grid.items():
                if len(values) < 3 or sorted(set(values)) != list(values):
                    raise InputError(f"tuning {arm}: {setting} needs three values or more, rising, got {values}")
        used = {other for each in self.uses.values() for other, _ in each.values()}
        if unknown := {*self.like.values(), *used} - set(self.grids):
            raise InputError(f"tuning: {', '.join(sorted(unknown))} is tuned by no grid")


@dataclass
class Context:
    """What a running arm is given besides its settings and seed.

    ``threads``: how many it may use; no result depends on it. ``folder``: its own, for states to resume from; it is removed
    when the run is stored. ``report(done, total, text)``: called as often as it likes; shown live.
    """

    threads: int = 1
    folder: Path | None = None
    report: Callable[[float, float, str], None] = lambda done, total, text: None


@dataclass(frozen=True)
class Experiment:
    """A declaration.

    - ``run(arm, seed, context) -> dict``: the figures of one run, JSON: at least one number for each key of ``metrics``
      (NaN is not JSON: a metric that an arm lacks is left out), beside them whatever the plot needs (curves as lists).
      All randomness comes from ``seed``; arms of one seed share data order and initial weights wherever they can.
    - ``replay(arm, seed, context) -> dict``: some of the same figures, in seconds instead of minutes (the loss after the first
      steps, say): a test holds them to the stored ones, to the last digit on the machine that made them.
    - ``quick``: the same experiment in about a minute for ``bertcraft run NN``: its arms may be fewer and its settings smaller;
      its runs are never stored in results/. See :func:`shorter`.
    - ``beside``: names of comparisons without which the claim's own result would mislead: they are told with it wherever it is.
    - ``code``: modules whose change makes stored results stale, besides the technique's and the experiment's own.
    - ``figures``: the module that draws it, :mod:`bertcraft.lab.figures` by its slug if not said.
    """

    number: int
    slug: str
    title: str
    question: str  # what is asked, in a sentence that a learner understands
    scale: str  # of what the answer is one about: "two layers, 128 wide, 46,000 requests"
    claim: Claim
    arms: tuple[Arm, ...]
    metrics: dict[str, Metric]
    comparisons: tuple[Comparison, ...]  # the first is primary: the claim itself, and what README, index and ledger say first
    run: Callable[[Arm, int, Context], dict]
    replay: Callable[[Arm, int, Context], dict]
    minutes: float  # budget of the full experiment on two cores
    checks: tuple[Check, ...] = ()
    tuning: Tuning | None = None
    seeds: int = 5
    primary_seeds: int = 10
    quick: "Experiment | None" = None
    code: tuple[ModuleType, ...] = ()
    notes: tuple[str, ...] = ()  # what limits the conclusion, printed with every table
    figures: str = ""
    beside: tuple[str, ...] = ()

    def __post_init__(self):
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise InputError(f"experiment {self.slug}: two arms have one name: {names}")
        for c in self.comparisons:
            if not {c.treatment, c.baseline} <= set(names) or c.metric not in self.metrics:
                raise InputError(f"experiment {self.slug}: the comparison {c.name!r} names an unknown arm or metric")
        if unknown := set(self.beside) - {c.name for c in self.comparisons[1:]}:
            raise InputError(f"experiment {self.slug}: beside its claim stands {', '.join(sorted(unknown))}: unknown")
        for check in self.checks:
            if unknown := {*check.arms, check.against or names[0]} - set(names) | set(check.metrics) - set(self.metrics):
                raise InputError(f"experiment {self.slug}: the check {check.name!r} names {', '.join(sorted(unknown))}: unknown")
        if self.tuning:
            tuned = {*self.tuning.grids, *self.tuning.like, *self.tuning.uses}
            if unknown := tuned - set(names):
                raise InputError(f"experiment {self.slug}: it tunes {', '.join(sorted(unknown))}: no arm of its")
            if set(self.tuning.seeds) & set(range(max(self.seeds, self.primary_seeds))):
                raise InputError(f"experiment {self.slug}: seeds of tuning {self.tuning.seeds} are reported ones")

    @property
    def name(self) -> str:
        """The stem of its files: 02_electra_pretraining."""
        return f"{self.number:02d}_{self.slug}"

    @property
    def primary(self) -> Comparison:
        """The comparison that is the claim."""
        return self.comparisons[0]

    def seeds_of(self, arm: Arm) -> int:
        """How many seeds a full experiment gives an arm: more to those of the primary comparison and what checks them."""
        primary = {self.primary.treatment, self.primary.baseline}
        checking = {check.against for check in self.checks if primary & set(check.arms)}
        return self.primary_seeds if arm.name in primary | checking else self.seeds

    def arm(self, name: str) -> Arm:
        """The arm of that name. Raises InputError when there is none."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise InputError(f"{self.slug} has no arm {name!r}; its arms are {', '.join(a.name for a in self.arms)}")


def shorter(
    whole: Experiment, question: str, arms: tuple[Arm, ...], notes: tuple[str, ...], quick: Experiment | None = None
) -> Experiment:
    """A short form of an experiment, for :attr:`Experiment.quick`: one seed of these arms, with the comparisons among them."""
    from dataclasses import replace

    names = {arm.name for arm in arms}
    among = tuple(c for c in whole.comparisons if {c.treatment, c.baseline} <= names)
    checks = tuple(
        replace(check, arms=tuple(name for name in check.arms if name in names))
        for check in whole.checks
        if names & set(check.arms) and (check.against is None or check.against in names)
    )
    return replace(
        whole, question=question, arms=arms, comparisons=among, checks=checks, tuning=None, notes=notes, quick=quick,
        beside=(), seeds=1, primary_seeds=1, minutes=1,
    )  # fmt: skip
