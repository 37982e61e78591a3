"""What an experiment is: a declaration of arms, controls, metrics, comparisons and budget, and one function that runs an arm.

Everything else (seeds, storage, intervals, verdicts, tables) is shared by all experiments: see :mod:`bertcraft.lab.runner`,
:mod:`bertcraft.lab.results` and :mod:`bertcraft.lab.statistics`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from bertcraft.errors import InputError


@dataclass(frozen=True)
class Claim:
    """What a technique is famous for, and what is really reported."""

    collection: str  # as collections of techniques state it: "4x efficiency"
    paper: str  # what the paper reports, with its conditions, in a sentence or two
    source: str  # "Clark et al. 2020, table 2, arXiv:2003.10555"


@dataclass(frozen=True)
class Metric:
    """A figure that every run of an arm reports."""

    title: str  # "held-out loss"
    unit: str  # "nats a masked token", "%", "ms" ...
    digits: int = 3  # decimals in tables


@dataclass(frozen=True)
class Arm:
    """One way to do it: the baseline, the technique, or a control that an expert would demand."""

    name: str  # short, a key of the results: "dynamic"
    title: str  # as tables and plots name it: "dynamic masks"
    settings: dict[str, Any] = field(default_factory=dict)  # what makes this arm differ: numbers, texts, lists (JSON)
    control: str = ""  # for a control: the objection that it answers, in a sentence


@dataclass(frozen=True)
class Comparison:
    """One claim under test: the paired difference treatment - baseline of a metric, over seeds.

    ``claimed`` is the sign that the claim gives the difference: +1 or -1. With ``ratio`` the paired quotients
    treatment / baseline are compared with 1 instead (their logarithms with 0).
    """

    name: str  # "dynamic masks against static ones"
    treatment: str  # names of arms
    baseline: str
    metric: str
    claimed: int
    ratio: bool = False

    def __post_init__(self):
        if self.claimed not in (1, -1):
            raise InputError(f"comparison {self.name!r}: claimed is +1 or -1, got {self.claimed!r}")


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
      its runs are never stored in results/.
    - ``show(folder, runs, experiment)``: draws plots as PNG files into the folder and returns their paths; ``runs`` is a list of
      dicts with "arm", "seed" and "figures".
    - ``code``: modules whose change makes stored results stale, besides the technique's and the experiment's own: those that
      decide what is computed, not how it is shown.
    """

    number: int
    slug: str
    title: str
    question: str  # what is asked, in a sentence that a learner understands
    claim: Claim
    arms: tuple[Arm, ...]
    metrics: dict[str, Metric]
    comparisons: tuple[Comparison, ...]  # the first is the headline of the ledger
    run: Callable[[Arm, int, Context], dict]
    replay: Callable[[Arm, int, Context], dict]
    show: Callable[[Path, list[dict], "Experiment"], list[Path]]
    minutes: float  # budget of the full experiment on two cores
    seeds: int = 5
    quick: "Experiment | None" = None
    code: tuple[ModuleType, ...] = ()
    notes: tuple[str, ...] = ()  # what limits the conclusion, printed with every table

    def __post_init__(self):
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise InputError(f"experiment {self.slug}: two arms have one name: {names}")
        for c in self.comparisons:
            if not {c.treatment, c.baseline} <= set(names) or c.metric not in self.metrics:
                raise InputError(f"experiment {self.slug}: the comparison {c.name!r} names an unknown arm or metric")

    @property
    def name(self) -> str:
        """The stem of its files: 02_electra_pretraining."""
        return f"{self.number:02d}_{self.slug}"

    def arm(self, name: str) -> Arm:
        """The arm of that name. Raises InputError when there is none."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise InputError(f"{self.slug} has no arm {name!r}; its arms are {', '.join(a.name for a in self.arms)}")
