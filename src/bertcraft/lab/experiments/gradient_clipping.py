"""20: up to which learning rate does a deep encoder train, with its gradients clipped and without?

Six layers in BERT's order learn from short texts at each of six rates, each twice the one before, after a warm-up
(:mod:`bertcraft.lab.stability`). The claim is of the highest rate that still trains, clipped at 1 over unclipped, under AdamW as
BERT has it: a ratio. A ladder of rates is what is asked, so no rate is chosen and nothing is tuned. All arms of a seed start
from the same weights and read the same masked rows in the same order.

Under Adam a constant factor does nothing, and so little is expected of a threshold that all gradients exceed; under gradient
descent with momentum it decides the length of a step. Both are here. Thresholds in units of the mean norm, as the paper gives
them, are of the norms of an unclipped run at the lowest rate, of the same seed.

The ladders were looked for on the part of seed 100, where word frequencies give 5.71 nats, by the loss of texts read. Unclipped
AdamW ended at 4.45 (1e-3), 5.17 (2e-3), 5.74 (4e-3, 8e-3) and 5.73 (3.2e-2): the ladder was moved down by one rate. Gradient
descent with momentum trained at none: unclipped 5.91 (0.03), 5.81 (0.12), 5.80 (0.24), not finite at step 66 (0.96); clipped 5.81
(0.24), 5.80 (0.96). In so few steps it can only be asked up to which rate its numbers stay finite; that is asked, and its ladder
was moved up by two rates. No other arm was tried, and no run of the whole form has been made.
"""

from dataclasses import replace

import numpy as np

from bertcraft.lab import architectures, parts, pretraining, stability
from bertcraft.lab.experiment import Arm, Check, Claim, Comparison, Context, Experiment, Metric, shorter
from bertcraft.lab.pretraining import Setting, Texts
from bertcraft.pretrain import held_out as held_out_loss
from bertcraft.techniques import gradient_clipping as technique
from bertcraft.tensor import grad
from bertcraft.train import Rule, adamw, chain, sgd, warmup_linear

CLIPS = {
    "none": lambda threshold: technique.none(),
    "norm": technique.by_global_norm,
    "value": technique.by_value,
    "layer": lambda threshold: technique.by_block(threshold, technique.layer_of),
    "adaptive": technique.adaptive,
}
TURNED = 4  # batches whose gradients tell how far clipping turns one

# ---------------------------------------------------------------------------------------------------------------- runs


def build(settings: dict, setting: Setting, texts: Texts, seed: int) -> architectures.Architecture:
    """The plain encoder: layer norms behind the halves of a layer."""
    return architectures.built(setting, texts, seed)


def rule_of(settings: dict, rate: float, threshold: float) -> Rule:
    """The clipping of an arm before AdamW or gradient descent with momentum; the rate rises, then falls to zero in a line."""
    schedule = warmup_linear(rate, settings["warmup"], settings["steps"])
    last = sgd(schedule, momentum=0.9) if settings["rule"] == "sgd" else adamw(schedule, b2=0.98, eps=1e-6, weight_decay=0.01)
    return chain(CLIPS[settings["clip"]](threshold), last)


def trained(settings: dict, seed: int, context: Context) -> dict:
    """Train at each rate of the ladder; and what clipping does to gradients at the start."""
    task, threshold = stability.task_of(settings, seed, build), settings["threshold"]

    def attempt(rate: float, own: dict, threshold: float, where: Context) -> dict:
        return stability.attempt(task, rate, rule_of(own, rate, threshold), seed, where, {**own, "threshold": threshold})

    rates, found = settings["rates"], []
    before = int(settings.get("of_mean", False))
    if before:  # the threshold is so many times the mean norm
        unclipped = {**settings, "clip": "none"}
        where = replace(context, folder=context.folder / "norms" if context.folder else None)
        threshold *= attempt(rates[0], unclipped, 0.0, stability.within(where, 0, len(rates) + 1))["norm"]
    for number, rate in enumerate(rates, before):
        found.append(attempt(rate, settings, threshold, stability.within(context, number, len(rates) + before)))
    return stability.figures(task, found) | {"threshold": threshold, **clipped(task, settings, threshold)}


def clipped(task: stability.Task, settings: dict, threshold: float) -> dict:
    """Of gradients at the start: "angle", how far clipping turns them in degrees, and "kept", their length afterwards, in %."""
    params, clip = task.architecture.start, CLIPS[settings["clip"]](threshold)
    angles, kept = [], []
    for number in range(TURNED):
        full = grad(task.architecture.loss)(params, task.make_batch(number))
        short, _ = clip.update(full, clip.init(params), params)
        angles.append(technique.angle(short, full))
        kept.append(100 * float(technique.global_norm(short) / technique.global_norm(full)))
    return {"angle": float(np.mean(angles)), "kept": float(np.mean(kept))}


def run(arm: Arm, seed: int, context: Context) -> dict:
    if arm.trivial:
        return stability.trivial(stability.task_of(arm.settings, seed, build), arm.settings["method"])
    return trained(arm.settings, seed, context)


def replay(arm: Arm, seed: int, context: Context) -> dict:
    """What clipping does to gradients at the start, where the threshold is known without training; all of a trivial arm."""
    if arm.trivial:
        return run(arm, seed, context)
    settings, task = arm.settings, stability.task_of(arm.settings, seed, build)
    if settings.get("of_mean"):
        return {"plateau": task.plateau}
    return {"plateau": task.plateau, "threshold": settings["threshold"], **clipped(task, settings, settings["threshold"])}


# --------------------------------------------------------------------------------------------------------- declaration

_SHARED = {
    "corpus": parts.CORPUS, "length": 16, "vocab_size": 2048, "texts": 128, "held_out": parts.TESTED, "batch": 32, "shard": 32,
    "layers": 6, "hidden": 64, "steps": 400, "warmup": 40, "evaluations": 6, "rule": "adamw", "threshold": 1.0,
    "rates": [5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2],
}  # fmt: skip
_DESCENT = {"rule": "sgd", "rates": [0.12, 0.24, 0.48, 0.96, 1.92, 3.84]}


def _arms(shared: dict) -> tuple[Arm, ...]:
    def of(name: str, title: str, clip: str, control: str = "", **more) -> Arm:
        return Arm(name, title, {**shared, "clip": clip, **more}, control)

    paper = "Half to ten times the mean norm, as the paper has it: does the threshold matter?"
    trivial = {**shared, "clip": "none"}
    return (
        of("none", "unclipped", "none"),
        of("norm", "global norm, 1", "norm"),
        of("half", "global norm, half the mean", "norm", paper, threshold=0.5, of_mean=True),
        of("ten", "global norm, ten times the mean", "norm", paper, threshold=10.0, of_mean=True),
        of("value", "by value, 0.01", "value", "Each number by itself: the direction turns.", threshold=0.01),
        of("adaptive", "adaptive, 0.01", "adaptive", "In proportion to the weights, as NFNets.", threshold=0.01),
        of("sgd_none", "gradient descent, unclipped", "none", "Without Adam, which divides by the size itself.", **_DESCENT),
        of("sgd_norm", "gradient descent, global norm, 1", "norm", "The same, clipped.", **_DESCENT),
        Arm("untrained", "untrained", {**trivial, "method": "untrained"}, trivial=True),
        Arm("unigram", "word frequencies", {**trivial, "method": "unigram"}, trivial=True),
    )  # fmt: skip


ARMS = (
    *_arms(_SHARED),
    *(
        Arm(
            f"cold_{clip}", f"{title}, no warm-up", _SHARED | {"clip": clip, "warmup": 0, "rates": [2.5e-4, 5e-4, 1e-3, 2e-3]},
            "Does clipping do a warm-up's work? Asked when the others had been measured.",
        )
        for clip, title in (("none", "unclipped"), ("norm", "clipped at 1"))
    ),
)  # fmt: skip
_TRAINED = tuple(arm.name for arm in ARMS if not arm.trivial)

METRICS = {
    "highest": Metric("highest rate that trains", "", 4),
    "finite": Metric("highest rate whose numbers stay finite", "", 4),
    "share": Metric("rates that train", "%", 0),
    "loss": Metric("loss at [MASK] of texts read, best rate", "nats"),
    "unread": Metric("of texts not read, the same model", "nats"),
    "lost": Metric("rates that left the plateau and came back to it", "", 1),
    "spikes": Metric("gradients ten times the median", "", 1),
    "angle": Metric("clipping turns a gradient by", "degrees", 1),
    "kept": Metric("and leaves of its length", "%", 0),
}

CHECKS = tuple(
    Check("a rate trains", (name,), "able", least=1.0, unit="of the seeds", metrics=("highest", "loss")) for name in _TRAINED
)

COMPARISONS = (
    Comparison("AdamW clipped at 1 over unclipped", "norm", "none", "highest", ratio=True),
    Comparison("Gradient descent clipped at 1 over unclipped, at least", "sgd_norm", "sgd_none", "finite", ratio=True),
    Comparison("half the mean norm over unclipped", "half", "none", "highest", ratio=True),
    Comparison("ten times the mean norm over unclipped", "ten", "none", "highest", ratio=True),
    Comparison("by value over unclipped", "value", "none", "highest", ratio=True),
    Comparison("adaptive over unclipped", "adaptive", "none", "highest", ratio=True),
    Comparison("clipped at 1 against unclipped, best rate", "norm", "none", "loss", better=-1),
    Comparison("fewer rates that do not come back", "norm", "none", "lost", better=-1),
)

CLAIM = Claim(
    collection="training stability",
    paper=(
        "Recurrent networks: a gradient whose norm exceeds a threshold is rescaled to it, which keeps a step from being thrown "
        "off a wall of the loss; thresholds from half to ten times the mean norm can still yield convergence. BERT clips at 1, "
        "RoBERTa not at all"
    ),
    source="Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063, section 3.2; BERT's and RoBERTa's code",
)

NOTES = (
    "Six layers, 64 wide, 400 steps, a warm-up of 40: which rates train in a longer run, or a larger model, is not said.",
    "The ladder has steps of two: a ratio of highest rates is a power of two for each seed. Where all rates of the ladder train, "
    "or stay finite, the highest is the ladder's end: if it is the clipped arm's, the ratio is at least what is shown.",
    "Gradient descent with momentum leaves the plateau at no rate in 400 steps: of it is asked where its numbers stay finite.",
    "A rate trains where the loss at [MASK] of texts that were read ends half a nat below the frequencies of these texts' own "
    "words. They are 128, each read 100 times.",
    "Adam's second moment forgets with 0.98, as RoBERTa's: a long gradient is remembered for some fifty steps.",
)

WHOLE = Experiment(
    number=20,
    slug="gradient_clipping",
    title="Gradient clipping",
    question="Does a deep encoder train at higher learning rates where its gradients are clipped?",
    scale="models of 6 layers, 64 wide, 400 steps on 128 short texts",
    claim=CLAIM,
    arms=ARMS,
    metrics=METRICS,
    comparisons=COMPARISONS,
    checks=CHECKS,
    beside=("Gradient descent clipped at 1 over unclipped, at least",),
    run=run,
    replay=replay,
    minutes=60,
    code=(stability, architectures, parts, pretraining, held_out_loss),
    notes=NOTES,
)


def _short(names: tuple[str, ...], quick: Experiment | None = None, **changes) -> Experiment:
    arms = tuple(arm for arm in _arms(_SHARED | changes) if arm.name in names)
    return shorter(WHOLE, WHOLE.question, arms, ("Quick: a seed, few rates, few steps: too little to judge by.",), quick)


EXPERIMENT = replace(
    WHOLE,
    quick=_short(
        ("none", "norm", "value", "unigram"),
        _short(("none", "norm", "unigram"), rates=[1e-3, 4e-3], steps=40, warmup=4, evaluations=2),
        rates=[1e-3, 4e-3, 1.6e-2], steps=120, warmup=12,
    ),
)  # fmt: skip
