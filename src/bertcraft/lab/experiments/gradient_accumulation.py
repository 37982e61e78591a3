"""06: what does accumulation save at an equal gradient, and whom does the famous bug favour?

*Memory and time*: a training step of one batch, of eight micro-batches, and of one batch with recomputation, each in a process
of its own (:mod:`bertcraft.lab.step_cost`). *The bug*: a mean of means in place of the mean over tokens. It needs texts of
unequal length that a small model learns within minutes: requests of some ten tokens, and three questions to a bank end to end,
some 42 tokens, three to one. (Conversations and verses of the Bible stayed at word frequencies for longer than there was time.)
All arms go on from one model that was trained on both kinds, half and half, with the right weights: where an arm
starts, loss at [MASK] is clearly below what word frequencies give, and what moves is what the weights favour.

LAMB, which stood in an earlier form at the end of its grid, is not measured here: what it does for large batches has nothing to
do with how a batch is put together. Weight decay (14) has it.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np

from bertcraft.lab import lengths, pretraining, step_cost
from bertcraft.lab.experiment import Arm, Check, Claim, Comparison, Context, Experiment, Metric, Tuning, shorter
from bertcraft.lab.statistics import EQUAL, EXACT
from bertcraft.pretrain import held_out as held_out_loss
from bertcraft.techniques import gradient_accumulation as technique
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.tensor import tree, value_and_grad
from bertcraft.tensor.parallel import sharded_value_and_grad

REPLAYED = 4  # first losses that are stored and can be replayed
WARM_SEED, WARM_RATE, WARM_BATCH = 2000, 2e-3, 64

# ---------------------------------------------------------------------------------------------------------- training


@lru_cache(maxsize=1)
def model():
    """Configuration and loss of the small masked language model."""
    config = pretraining.config_of(pretraining.Setting(length=lengths.LENGTH), lengths.VOCABULARY)
    return config, lambda p, batch, rng: masking.masked_lm_loss(p, batch, rng, config)


@lru_cache(maxsize=1)
def warm_model(steps: int) -> dict:
    """The parameters from which all arms go on: some steps on both kinds, half and half, weighted by tokens.

    The rate stays up: the arms bring it down, each to its own minimum.
    """
    from bertcraft.train import adamw, chain, clip_by_global_norm, fit

    config, loss = model()
    params = pretraining.initial(config, lengths.texts()["short"], WARM_SEED)
    step = sharded_value_and_grad(loss, shard_size=16, weight=masking.predicted, prepare=masking.trimmed, threads=1)
    rate = lambda step: WARM_RATE * np.minimum(1.0, (step + 1) / 50)  # noqa: E731
    rule = chain(clip_by_global_norm(1.0), adamw(rate, b2=0.98, eps=1e-6, weight_decay=0.01))
    make_batch = lengths.batch_maker(WARM_BATCH, WARM_BATCH // 2, WARM_SEED, grouped=True)
    return fit(step, params, rule, make_batch, steps, seed=WARM_SEED).params


def gradient_function(weight: str, micro: int) -> Callable:
    """``(params, batch, step) -> (loss, gradients)`` from micro-batches of ``micro`` texts: the technique's sum, but faster."""
    _, loss = model()
    count = {
        "tokens": technique.predicted,
        "equal": lambda batch: -(-len(batch["at"]) // micro),  # 1 a micro-batch: the mean of means
        "none": None,  # the sum of means
    }[weight]
    return sharded_value_and_grad(loss, shard_size=micro, weight=count, prepare=masking.trimmed, threads=1)


def rule_of(settings: dict, steps: int):
    """AdamW after clipping at 1, or gradient descent with momentum, unclipped; the rate rises, then falls to zero."""
    from bertcraft.train import adamw, chain, clip_by_global_norm, sgd, warmup_linear

    rate = warmup_linear(settings["rate"], max(1, steps // 10), steps)
    if settings["rule"] == "sgd":
        return sgd(rate, momentum=0.9)
    return chain(clip_by_global_norm(1.0), adamw(rate, b2=0.98, eps=1e-6, weight_decay=0.01))


def train(settings: dict, seed: int, context: Context, steps: int | None = None):
    """Go on from the warm model; with ``steps`` only the first of them. A ``FitResult``."""
    from bertcraft.train import fit

    batch, total = settings["batch"], settings["steps"]
    step = gradient_function(settings["weight"], batch // settings["cut"])
    make_batch = lengths.batch_maker(batch, batch // 4, seed, settings.get("grouped", False))
    return fit(
        step, warm_model(settings["warm"]), rule_of(settings, total), make_batch, steps or total, seed=seed,
        folder=None if steps else context.folder, signature=settings,
        report=lambda p: context.report(p.step, p.steps, f"step {p.step}/{p.steps} loss {p.loss:.2f}"),
    )  # fmt: skip


def trained(settings: dict, seed: int, context: Context) -> dict:
    """Train; the losses on held-out text, and how far the last gradients are from the whole batch's."""
    config, _ = model()
    is_trial = settings.get("judged_on") == "dev"
    fitted = train(settings, seed, context)
    figures = lengths.evaluate(lengths.model_losses(fitted.params, config), "dev" if is_trial else "held_out")
    if is_trial:
        return {"dev_loss": figures["loss"]}
    figures["first_losses"] = fitted.losses[:REPLAYED].tolist()
    figures["gradient_norm"] = float(np.median(fitted.gradient_norms))
    figures["clipped"] = 100 * float(np.mean(fitted.gradient_norms > 1))
    make_batch = lengths.batch_maker(settings["batch"], settings["batch"] // 4, seed, settings.get("grouped", False))
    batches = [make_batch(settings["steps"] + i) for i in range(2)]
    found = gradient_errors(fitted.params, partial(gradient_function, settings["weight"]), batches, settings["cuts"])
    return figures | {"gradient_errors": found, "gradient_error": dict(found)[settings["cut"]]}


# --------------------------------------------------------------------------------------------------------- gradients


def gradient_errors(params, function, batches, cuts) -> list[list[float]]:
    """For each number of micro-batches: |accumulated - whole| / |whole|, the mean over some batches."""
    errors = np.zeros((len(batches), len(cuts)))
    for i, batch in enumerate(batches):
        whole = value_and_grad(model()[1])(params, batch, None)[1]
        for j, cut in enumerate(cuts):
            errors[i, j] = distance(function(len(batch["at"]) // cut)(params, batch, 0)[1], whole)
    return [[cut, float(error)] for cut, error in zip(cuts, errors.mean(axis=0), strict=True)]


def norm(gradients) -> float:
    return float(np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in tree.leaves(gradients))))


def distance(one, other) -> float:
    """The norm of the difference of two gradients over that of the second."""
    return norm(tree.map(np.subtract, one, other)) / norm(other)


def cost(settings: dict, seed: int) -> dict:
    """Peak memory and time of a step; and in double precision, on texts of unequal length, its gradient against the whole's."""
    way, config = settings["way"], model()[0]
    params = tree.map(lambda leaf: leaf.astype(np.float64), pretraining.initial(config, lengths.texts()["short"], seed))
    batch = lengths.batch_maker(settings["batch"], settings["batch"] // 4, seed)(0)
    whole = step_cost.step_gradient(step_cost.WHOLE, params, batch, config)[1]
    figures = {"gradient_norm": norm(whole)}
    if settings.get("measured"):
        own = step_cost.step_gradient(way, params, batch, config, settings["cut"])[1]
        figures |= step_cost.in_a_child(way, settings["cut"], seed) | {"gradient_error": distance(own, whole)}
        if seed == 0 and way == step_cost.ACCUMULATED:  # a curve to look at: memory does not depend on the seed
            points = ((cut, step_cost.in_a_child(way, cut, seed)) for cut in settings["cuts"])
            figures["cost"] = [[cut, found["peak_mb"], found["step_seconds"]] for cut, found in points]
    return figures


def trivial(settings: dict) -> dict:
    """The losses of word frequencies, of a model before its first step, and of the one from which all arms go on."""
    if settings["method"] == "unigram":
        return lengths.evaluate(lengths.frequency_losses, "held_out")
    config, untrained = model()[0], settings["method"] == "untrained"
    params = pretraining.initial(config, lengths.texts()["short"], WARM_SEED) if untrained else warm_model(settings["warm"])
    return lengths.evaluate(lengths.model_losses(params, config), "held_out")


def run(arm: Arm, seed: int, context: Context) -> dict:
    if arm.trivial:
        return trivial(arm.settings)
    return cost(arm.settings, seed) if "way" in arm.settings else trained(arm.settings, seed, context)


def replay(arm: Arm, seed: int, context: Context) -> dict:
    """The norm of the whole batch's gradient, or the losses of the first steps; a trivial row is computed again."""
    if arm.trivial:
        return trivial(arm.settings)
    if "way" in arm.settings:
        return cost(arm.settings | {"measured": False}, seed)
    return {"first_losses": train(arm.settings, seed, context, REPLAYED).losses.tolist()}


# ------------------------------------------------------------------------------------------------------- declaration

_COST = {"batch": 32, "cut": 8, "cuts": (1, 2, 4, 8, 16, 32), "measured": True}
_TRAINED = {"batch": 32, "cut": 8, "cuts": (2, 4, 8, 16, 32), "steps": 150, "warm": 1000}
RULES = {"": ("adamw", "AdamW"), "sgd_": ("sgd", "SGD")}  # AdamW clipped at 1; SGD with momentum, not clipped


def _arms(cost: dict, trained: dict, rates: dict | None = None) -> tuple[Arm, ...]:
    def of_training(prefix: str, name: str, title: str, control: str = "", **own) -> Arm:
        rule, short = RULES[prefix]
        settings = {**trained, "rule": rule, **own} | ({"rate": rates[rule]} if rates else {})
        return Arm(f"{prefix}{name}", f"{title}, {short}" if prefix else title, settings, control)

    return (
        Arm("whole", "one batch", {**cost, "way": step_cost.WHOLE}),
        Arm("accumulated", "8 micro-batches", {**cost, "way": step_cost.ACCUMULATED}),
        Arm(
            "recomputed", "recomputation", {**cost, "way": step_cost.RECOMPUTED},
            "the rival for activation memory: only the layers' inputs are kept, each layer is computed again on the way back.",
        ),
        of_training("", "weighted", "by tokens", weight="tokens"),
        of_training("", "mean_of_means", "mean of means", weight="equal"),
        of_training(
            "", "grouped", "means, sorted", "the worst case: short and long texts in micro-batches of their own.",
            weight="equal", grouped=True,
        ),
        of_training(
            "", "sum_of_means", "sum of means", "what transformers 5.23 does to its masked BERT (issue 47688).", weight="none"
        ),
        of_training("sgd_", "weighted", "by tokens", weight="tokens"),
        of_training("sgd_", "mean_of_means", "mean of means", weight="equal"),
        of_training(
            "sgd_", "sum_of_means", "sum of means", "the same without what hides it: no clipping, no division by a running size.",
            weight="none",
        ),
        *(
            Arm(name, title, {"method": name, "warm": trained["warm"]}, trivial=True)
            for name, title in (("start", "where all go on"), ("untrained", "untrained"), ("unigram", "word frequencies"))
        ),
    )  # fmt: skip


ARMS = _arms(_COST, _TRAINED)

METRICS = {
    "peak_mb": Metric("peak memory", "MB", 0),
    "step_seconds": Metric("a step", "s", 2),
    "gradient_error": Metric("gradient off", "of its norm", 3),
    "loss": Metric("loss by token", "nats", 3),
    "text_loss": Metric("loss by text", "nats", 3),
    "short_loss": Metric("short texts", "nats", 3),
    "long_loss": Metric("long texts", "nats", 3),
}
_LOSSES = ("loss", "text_loss", "short_loss", "long_loss")
_CHECKED = tuple(arm.name for arm in ARMS if "weight" in arm.settings and arm.name != "sgd_sum_of_means")
CHECKS = tuple(
    Check(f"{kind} texts off the plateau", _CHECKED, f"{kind}_gain", least=0.5, unit="nats", metrics=_LOSSES)
    for kind in lengths.SOURCES
)

_MARGIN = 0.02  # nats: less than that is the same model for this collection
COMPARISONS = (
    Comparison("8 micro-batches against one batch, memory", "accumulated", "whole", "peak_mb", better=-1, ratio=True),
    Comparison("the gradient is the batch's", "accumulated", "whole", "gradient_error", EXACT, margin=1e-6, expected=0.0),
    Comparison("recomputation's too", "recomputed", "whole", "gradient_error", EXACT, margin=1e-6, expected=0.0),
    Comparison("8 micro-batches, time", "accumulated", "whole", "step_seconds", EQUAL, margin=0.1, ratio=True),
    Comparison("recomputation, memory", "recomputed", "whole", "peak_mb", better=-1, ratio=True),
    Comparison("recomputation, time", "recomputed", "whole", "step_seconds", EQUAL, margin=0.1, ratio=True),
    Comparison("mean of means, mixed: costs loss by token", "mean_of_means", "weighted", "loss", better=1),
    Comparison("sorted by length: costs loss by token", "grouped", "weighted", "loss", better=1),
    Comparison("sorted: gains in loss by text", "grouped", "weighted", "text_loss", better=-1),
    Comparison("sorted: costs on long texts", "grouped", "weighted", "long_loss", better=1),
    Comparison("sorted: gains on short texts", "grouped", "weighted", "short_loss", better=-1),
    Comparison("sum against mean of means, AdamW, clipped", "sum_of_means", "mean_of_means", "loss", EQUAL, margin=_MARGIN),
    Comparison("the same with SGD, unclipped", "sgd_sum_of_means", "sgd_mean_of_means", "loss", EQUAL, margin=_MARGIN),
    Comparison("mean of means, mixed, SGD: costs loss", "sgd_mean_of_means", "sgd_weighted", "loss", better=1),
)

TUNING = Tuning(
    grids={"weighted": {"rate": (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)}, "sgd_weighted": {"rate": (0.001, 0.003, 0.01, 0.03, 0.1)}},
    settings={"judged_on": "dev"},
    figure="dev_loss",
    better=-1,
    like={
        "mean_of_means": "weighted", "grouped": "weighted", "sum_of_means": "weighted",
        "sgd_mean_of_means": "sgd_weighted", "sgd_sum_of_means": "sgd_weighted",
    },
)  # fmt: skip

CLAIM = Claim(
    collection="memory efficiency",
    paper="No founding paper and no figure. Exact only if the loss is normalised over the whole accumulated batch; it saves "
    "activations, not weights or optimiser state. Major libraries averaged the means until October 2024.",
    source="huggingface/blog pull request 2414 (October 2024); recomputation: Chen et al. 2016, arXiv:1604.06174",
)

NOTES = (
    "Memory and time: 4 layers, 256 wide, 32 texts of 128 tokens, AdamW, float32, one thread; Python and NumPy "
    "count in the peak.",
    "Peak memory hardly differs between seeds: its narrow interval says nothing of other models or lengths.",
    "Time is that of the processor, on a machine with other work. On a GPU small micro-batches leave units idle: another ratio.",
    "Losses are those at [MASK] on 999 short and 333 long held-out texts; 2 layers, 128 wide. All arms go on from one model, for "
    "150 updates; seeds differ in the order of the texts and in their masks.",
    "The bug's arms take the rate of the arm weighted by tokens: the question is what the bug does to an unchanged recipe.",
)

WHOLE = Experiment(
    number=6,
    slug="gradient_accumulation",
    title="Gradient accumulation",
    question="How much memory does a step of 8 micro-batches save at an equal gradient, and whom does the mean of means favour?",
    scale="4 layers, 256 wide, 32 texts of 128 tokens",
    claim=CLAIM,
    arms=ARMS,
    metrics=METRICS,
    comparisons=COMPARISONS,
    checks=CHECKS,
    tuning=TUNING,
    run=run,
    replay=replay,
    minutes=20,
    code=(step_cost, lengths, pretraining, held_out_loss),
    notes=NOTES,
)

EXPERIMENT = replace(
    WHOLE,
    quick=shorter(
        WHOLE,
        "The same with a model that has read for seconds: gradients, memory and time are those of the full experiment.",
        tuple(
            arm
            for arm in _arms(_COST | {"cuts": ()}, _TRAINED | {"warm": 40, "steps": 20}, {"adamw": 1e-3, "sgd": 0.01})
            if not arm.name.startswith("sgd_")
        ),
        ("Training is too short to judge by.",),
        shorter(
            WHOLE,
            "The same with fewer arms and updates.",
            _arms(_COST | {"cuts": ()}, _TRAINED | {"warm": 10, "steps": 5}, {"adamw": 1e-3, "sgd": 0.01})[:5],
            ("Training is too short to judge by.",),
        ),
    ),
)
