"""09: does a rate that falls to zero train a better model than one that stays, each at the best rate it can have?

A small BERT learns from short texts (:mod:`bertcraft.lab.ruled`). All arms of a seed read the same masked rows in the same order
from the same start, for as many steps; what differs is the rate of each step. Every schedule is tuned alike, on development texts
and by a seed that is not reported: a constant rate is best at a lower one than a rate that falls, and schedules compared at one
peak are a comparison of peaks.

Two arms are what a schedule becomes when plans change. *Cut short*: a line planned for twice the steps, stopped in its middle.
*Prolonged*: a line planned for half the steps, which after three quarters of these goes on, from the rate that it has, to zero at
the end of them all. RAdam without warm-up asks whether it is Adam's variance that warm-up is for.

No weights decay, since a schedule would change that too. The regime is that of experiment 07 and was found there, on development
texts of seed 1000: 1,000 steps at a rate of 2e-3 end 1.1 nats below word frequencies, at 4e-3 on the plateau.
"""

from dataclasses import replace

import numpy as np

from bertcraft.lab import parts, pretraining, ruled
from bertcraft.lab.experiment import Arm, Check, Claim, Comparison, Context, Experiment, Metric, Tuning, shorter
from bertcraft.lab.pretraining import Setting
from bertcraft.lab.statistics import EQUAL
from bertcraft.pretrain import held_out as held_out_loss
from bertcraft.techniques import advanced_scheduling as technique
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.tensor import tree
from bertcraft.train import Rule, adamw, chain, clip_by_global_norm
from bertcraft.train.schedules import Schedule

BETAS = {"b2": 0.98, "eps": 1e-6}  # RoBERTa, section 3.1
MEASURED = 60  # first updates whose length is taken, by seed 0
EARLY, WINDOW = 60, 10  # steps in which a training loss may rise, and over how many in a row it is taken

# --------------------------------------------------------------------------------------------------------------- one run


def schedule_of(settings: dict, setting: Setting) -> Schedule:
    """The rate of each step of an arm."""
    total = round(settings["planned"] * setting.steps)
    schedule = technique.named(settings["schedule"], setting.rate, setting.warmup, total)
    return technique.resumed(schedule, round(settings["resumed"] * total), setting.steps) if "resumed" in settings else schedule


def rule_of(settings: dict, setting: Setting) -> Rule:
    """Clipped Adam, or RAdam, with an arm's rates."""
    schedule = schedule_of(settings, setting)
    own = technique.radam(schedule, **BETAS) if settings["rule"] == "radam" else adamw(schedule, weight_decay=0.0, **BETAS)
    return chain(clip_by_global_norm(1.0), own)


def trained(settings: dict, seed: int, context: Context) -> dict:
    """Train; the figures at [MASK] of unread text, how far the training loss rose early, and by seed 0 the first updates."""
    setting = ruled.task_of(settings, seed).setting
    found, result = ruled.trained(rule_of(settings, setting), settings, seed, context)
    if settings.get("judged_on") == "dev" or result is None:
        return found
    found["rise"] = rise(result.losses[:EARLY], settings, seed)
    schedule = schedule_of(settings, setting)
    found["rates"] = [float(schedule(step)) for step in range(0, setting.steps, max(1, setting.steps // 200))]
    if seed == 0:
        found["updates"] = lengths(settings, seed, context.threads)
    return found


def rise(losses: np.ndarray, settings: dict, seed: int) -> float:
    """The highest mean of ten losses in a row, each less that of the untrained model on its batch; below 0 where none rose.

    One batch is harder than another by more than any rate does in these steps, so a loss is held against its own batch's.
    """
    task = ruled.task_of(settings, seed)
    params = pretraining.initial(task.config, task.texts, seed)
    before = [float(task.loss(params, task.make_batch(step), None)) for step in range(len(losses))]
    return float(np.convolve(losses - before, np.full(WINDOW, 1 / WINDOW), "valid").max())


def lengths(settings: dict, seed: int, threads: int) -> list[float]:
    """How long the first updates are: the root of the mean square of all parameters' changes, over the highest rate."""
    task = ruled.task_of(settings, seed)
    params = pretraining.initial(task.config, task.texts, seed)
    step_function, rule = ruled.gradient(task, seed, threads), rule_of(settings, task.setting)
    state, found = rule.init(params), []
    for step in range(min(MEASURED, task.setting.steps)):
        _, gradients = step_function(params, task.make_batch(step), step)
        updates, state = rule.update(tree.map(np.asarray, gradients), state, params)
        params = tree.map(np.add, params, updates)
        squares, count = (sum(of(u) for u in tree.leaves(updates)) for of in (lambda u: float(np.sum(u * u)), np.size))
        found.append(float(np.sqrt(squares / count)) / task.setting.rate)
    return found


def run(arm: Arm, seed: int, context: Context) -> dict:
    return ruled.untrained(arm.settings, seed) if arm.trivial else trained(arm.settings, seed, context)


def replay(arm: Arm, seed: int, context: Context) -> dict:
    """The training losses of an arm's first steps."""
    if arm.trivial:
        return ruled.untrained(arm.settings, seed)
    setting = ruled.task_of(arm.settings, seed).setting
    return ruled.replayed(rule_of(arm.settings, setting), arm.settings, seed, context)


# -------------------------------------------------------------------------------------------------------- declaration


def _arms(shared: dict) -> tuple[Arm, ...]:
    def of(name: str, title: str, schedule: str, control: str = "", **more) -> Arm:
        own = {"method": "train", "schedule": schedule, "planned": 1.0, "rule": "adam"}
        return Arm(name, title, {**shared, **own, **more}, control)

    return (
        of("constant", "constant", "constant_with_warmup"),
        of("linear", "line to zero", "linear"),
        of("cosine", "half cosine", "cosine", "Does the shape of the fall matter?"),
        of("stable", "flat, then down", "warmup_stable_decay", "Is it the end of the fall that pays? Flat for four fifths."),
        of("inverse_sqrt", "inverse square root", "inverse_sqrt", "Must it reach zero? The first transformer's rate does not."),
        of("cold", "line, no warm-up", "linear", "Is warm-up needed?", warmup=0),
        of("radam", "line, RAdam, no warm-up", "linear", "Is warm-up there for Adam's variance?", warmup=0, rule="radam"),
        of("cut", "line cut in its middle", "linear", "Is a schedule cut short a short schedule?", planned=2.0),
        of("prolonged", "line, prolonged", "linear", "And one that is given more steps on the way?", planned=0.5, resumed=0.75),
        *ruled.trivial(shared),
    )  # fmt: skip


_SHARED = ruled.SHARED
ARMS = (
    *_arms(_SHARED),
    *(
        replace(
            arm, name=f"{arm.name}_between", title=f"{arm.title}, {rate:g}", settings=arm.settings | {"rate": rate},
            control="Would a finer grid of rates turn the claim over? Asked when the others had been measured.",
        )
        for arm, rate in zip(_arms(_SHARED)[:2], (1.4e-3, 2.8e-3), strict=True)
    ),
)  # fmt: skip
_TRAINED = tuple(arm.name for arm in ARMS if not arm.trivial)

METRICS = {
    "loss": Metric("loss at [MASK]", "nats"),
    "accuracy": Metric("words guessed", "%", 1),
    "rise": Metric("early rise of the loss", "nats", 2),
}

CHECKS = (Check("off the plateau at [MASK]", _TRAINED, "loss", most=-0.5, against="unigram", unit="nats"),)

_MARGIN = 0.02  # nats, as wherever two recipes are called the same here
COMPARISONS = (
    Comparison("a line to zero against a constant rate", "linear", "constant", "loss", better=-1),
    Comparison("half a cosine against a line", "cosine", "linear", "loss", EQUAL, margin=_MARGIN),
    Comparison("flat, then down, against a line", "stable", "linear", "loss", EQUAL, margin=_MARGIN),
    Comparison("inverse square root: costs loss", "inverse_sqrt", "linear", "loss", better=1),
    Comparison("without warm-up: costs loss", "cold", "linear", "loss", better=1),
    Comparison("RAdam without warm-up against warm-up", "radam", "linear", "loss", EQUAL, margin=_MARGIN),
    Comparison("cut short: costs loss", "cut", "linear", "loss", better=1),
    Comparison("prolonged on the way: costs loss", "prolonged", "linear", "loss", better=1),
)

TUNING = Tuning(
    grids={
        arm.name: {"rate": (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)} for arm in ARMS if not arm.trivial and "rate" not in arm.settings
    },
    settings=ruled.TRIAL,
    figure="dev_loss",
    better=-1,
)

CLAIM = Claim(
    collection="Better convergence",
    paper=(
        "No single source and no figure. BERT warms up for 10,000 of 1,000,000 steps and falls in a line to zero; a schedule cut "
        "short is worse than one of that length (reported for language models); RAdam needs no warm-up (reported for translation)"
    ),
    source="Devlin et al. 2019, arXiv:1810.04805, A.2; Hoffmann et al. 2022, arXiv:2203.15556; Liu et al. 2020, arXiv:1908.03265",
)

NOTES = (
    "A BERT of 2 layers, 128 wide, 1,000 steps of 64 short texts: how schedules rank changes with the length of training.",
    "Warm-up is 50 steps in every arm that has one; two layers behind post-norm need it less than twelve do.",
    "Each schedule has the peak that was best for it among five, a factor of two apart, by one seed on development texts.",
    "Early rise: the highest mean of ten training losses in a row, each less the untrained model's; below 0 where none rose.",
    "The length of updates is that of seed 0: the root of the mean square over all parameters, over the highest rate.",
)

WHOLE = Experiment(
    number=9,
    slug="advanced_scheduling",
    title="Learning-rate schedules",
    question="Which course of the learning rate, each at its own best peak, leaves the better model after as many steps?",
    scale="a model of 2 layers, 128 wide; 3,840 short texts, 64,000 rows read",
    claim=CLAIM,
    arms=ARMS,
    metrics=METRICS,
    comparisons=COMPARISONS,
    checks=CHECKS,
    tuning=TUNING,
    beside=("flat, then down, against a line",),
    run=run,
    replay=replay,
    minutes=60,
    code=(ruled, parts, masking, pretraining, held_out_loss),
    notes=NOTES,
)


def _short(steps: int, names: tuple[str, ...], quick: Experiment | None = None) -> Experiment:
    own = _SHARED | {"steps": steps, "warmup": steps // 10, "rate": 2e-3, "evaluations": 4}
    arms = tuple(arm for arm in _arms(own) if arm.name in names)
    return shorter(WHOLE, WHOLE.question, arms, ("Quick: too short to judge by; every schedule has the same peak.",), quick)


EXPERIMENT = replace(
    WHOLE,
    quick=_short(
        200, ("constant", "linear", "stable", "cold", "unigram"),
        _short(60, ("constant", "linear", "unigram")),
    ),
)  # fmt: skip
