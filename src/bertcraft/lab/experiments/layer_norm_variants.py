"""15: which learning rates train a deep encoder without a warm-up, where the norms stand before what reads them, and behind?

Twelve thin layers learn a few short texts at each of four rates, which fall in a line from the first step on; no gradient is
clipped. What is asked is the share of the rates that train (:mod:`bertcraft.lab.stability`): no rate has to be chosen, so nothing
is tuned. All arms of a seed begin with the same weights, norms aside (DeepNorm's are smaller by its rule), and read the same
masked rows in the same order.

The question makes sense only where a post-LN model of this depth is able to learn: each of its runs also trains once with a
warm-up, at the lowest rate, and that must mostly succeed.

The regime was looked for on the part of seed 1000, by that check alone. With 1,024 texts and 300 steps neither wiring left the
plateau at 2e-3. With 128 texts and weights that start with a deviation of 1/sqrt(64), pre-LN without a warm-up ended after 400
steps at 4.62 (2e-3), 5.46 (4e-3) and 5.56 nats (8e-3); post-LN with a warm-up stayed on the plateau of 5.77 for 600 steps (2e-3,
1e-3) or crept off it (5e-4: 5.25). With BERT's own deviation, 0.02 at 768, over the root of the width's ratio (0.07; tried:
0.06), post-LN with a warm-up of 120 was at 3.02 after 600 steps (1e-3). That was taken; no other arm had been tried with it.
Afterwards, on the same part, 300 steps without a warm-up (2e-3) ended at 5.04 in pre-LN and 5.81 in post-LN; nothing was changed.

Four arms train nothing: they measure the expected gradient of the feed-forward matrices at the start, by layer and by depth, as
Xiong et al. do, on this very model and text.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from bertcraft.bert import encoder
from bertcraft.lab import architectures, parts, pretraining, stability
from bertcraft.lab.architectures import Architecture
from bertcraft.lab.experiment import Arm, Check, Claim, Comparison, Context, Experiment, Metric, shorter
from bertcraft.lab.pretraining import Setting, Texts
from bertcraft.lab.statistics import EQUAL
from bertcraft.pretrain import held_out as held_out_loss
from bertcraft.techniques import layer_norm_variants as technique
from bertcraft.train import Rule, adamw, chain, clip_by_global_norm, warmup_linear

BATCHES = 8  # over which a gradient at the start is averaged

# --------------------------------------------------------------------------------------------------------- what is built


def build(settings: dict, setting: Setting, texts: Texts, seed: int) -> Architecture:
    """An encoder with the wiring and the norms of an arm, which knows the word frequencies."""
    config = pretraining.config_of(setting, len(texts.log_frequency))
    wiring, norms = settings["wiring"], settings["norms"]
    start = technique.initial_params(config, seed, wiring, norms, deviation=settings["deviation"])
    start["cls"]["predictions"]["bias"][:] = texts.log_frequency
    return Architecture(config, start, encode=partial(encoder.encode, sockets=technique.sockets(wiring, norms)))


def rule_of(settings: dict, rate: float, warmup: int) -> Rule:
    """AdamW with RoBERTa's numbers; the rate rises for ``warmup`` steps, then falls to zero in a line."""
    rule = adamw(warmup_linear(rate, warmup, settings["steps"]), b2=0.98, eps=1e-6, weight_decay=0.01)
    return chain(clip_by_global_norm(settings["clip"]), rule) if settings["clip"] else rule


# ---------------------------------------------------------------------------------------------------------------- runs


def trained(settings: dict, seed: int, context: Context) -> dict:
    """Train at each rate; of post-LN, also whether the lowest of them trains with a warm-up."""
    task = stability.task_of(settings, seed, build)

    rates, checked = settings["rates"], settings.get("checked_warmup")
    count = len(rates) + bool(checked)

    def attempt(number: int, rate: float, warmup: int, where: Context) -> dict:
        own = stability.within(where, number, count)
        return stability.attempt(task, rate, rule_of(settings, rate, warmup), seed, own, {**settings, "warmup": warmup})

    warmup = settings["warmup"]
    found = stability.figures(task, [attempt(number, rate, warmup, context) for number, rate in enumerate(rates)])
    found["time"] = architectures.step_milliseconds(task.architecture, task.setting, task.make_batch)
    if checked:
        where = replace(context, folder=context.folder / "warm" if context.folder else None)
        found["with_warmup"] = float(attempt(len(rates), rates[0], checked, where)["trained"])
    return found


def at_the_start(settings: dict, seed: int) -> dict:
    """Norms of the expected gradient: by layer at the depth that is trained, of the last layer by depth; and states by layer.

    "slope": of the logarithm of the last layer's second matrix over that of the depth; theorem 1 has 0 or -1/2.
    """
    last, found = [], {}
    for depth in settings["depths"]:
        task = stability.task_of({**settings, "layers": depth}, seed, build)
        config, start = task.architecture.config, task.architecture.start
        batches = [task.make_batch(i) for i in range(BATCHES)]
        norms = technique.gradient_norms(task.architecture.loss, start, batches, config)
        last.append(float(norms[-1, 1]))
        if depth == settings["layers"]:
            own = technique.sockets(settings["wiring"], settings["norms"])
            sizes = technique.state_sizes(start, config, batches[0]["input_ids"], own)
            found = {"by_layer": norms.tolist(), "states": sizes.tolist(), "first": float(norms[0, 1])}
    slope = float(np.polyfit(np.log(settings["depths"]), np.log(last), 1)[0])
    return {"slope": slope, "by_depth": last, "last": last[settings["depths"].index(settings["layers"])], **found}


def run(arm: Arm, seed: int, context: Context) -> dict:
    if "depths" in arm.settings:
        return at_the_start(arm.settings, seed)
    if arm.trivial:
        return stability.trivial(stability.task_of(arm.settings, seed, build), arm.settings["method"])
    return trained(arm.settings, seed, context)


def replay(arm: Arm, seed: int, context: Context) -> dict:
    """All of an arm that does not train; else the first losses at the first rate."""
    if "depths" in arm.settings or arm.trivial:
        return run(arm, seed, context)
    settings, rate = arm.settings, arm.settings["rates"][0]
    task = stability.task_of(settings, seed, build)
    rule = rule_of(settings, rate, settings["warmup"])
    steps = min(stability.REPLAYED, task.setting.steps)
    return {"first_losses": stability.attempt(task, rate, rule, seed, context, settings, steps)["first_losses"]}


# --------------------------------------------------------------------------------------------------------- declaration

_SHARED = {
    "corpus": parts.CORPUS, "length": 16, "vocab_size": 2048, "texts": 128, "held_out": parts.TESTED, "batch": 32, "shard": 32,
    "layers": 12, "hidden": 64, "deviation": 0.07, "steps": 600, "warmup": 0, "evaluations": 6, "clip": 0.0, "norms": "layer",
    "rates": [1e-3, 2e-3, 4e-3, 8e-3],
}  # fmt: skip
_START = {"depths": [3, 6, 12, 24]}


def _arms(shared: dict) -> tuple[Arm, ...]:
    warmup = shared["steps"] // 5

    def of(name: str, title: str, wiring: str, control: str = "", **more) -> Arm:
        return Arm(name, title, {**shared, "wiring": wiring, **more}, control)

    starts = tuple(
        of(f"start_{wiring}", f"{title} at the start", wiring, "Does the theory hold of this model and text?", **_START)
        for wiring, title in (("post", "post-LN"), ("pre", "pre-LN"), ("sandwich", "sandwich"), ("deep", "DeepNorm"))
    )
    trivial = {**shared, "wiring": "post"}
    return (
        of("post", "post-LN", "post", checked_warmup=warmup),
        of("pre", "pre-LN", "pre"),
        of("post_warm", "post-LN, warm-up", "post", "Is it the warm-up that post-LN lacks?", warmup=warmup),
        of("post_clipped", "post-LN, clipped at 1", "post", "Would clipping do as well as moving the norms?", clip=1.0),
        of("deep", "DeepNorm", "deep", "Norms behind, but with a larger residual and smaller weights."),
        of("sandwich", "sandwich", "sandwich", "Norms before and behind."),
        of("pre_rms", "pre-LN, RMSNorm", "pre", "Does the norm need its mean and its bias?", norms="rms"),
        *starts,
        Arm("untrained", "untrained", {**trivial, "method": "untrained"}, trivial=True),
        Arm("unigram", "word frequencies", {**trivial, "method": "unigram"}, trivial=True),
    )  # fmt: skip


ARMS = (
    *_arms(_SHARED),
    Arm(
        "post_low", "post-LN, lower rates", {**_SHARED, "wiring": "post", "rates": [2.5e-4, 5e-4]},
        "Does it train without a warm-up below the rates of the claim? Asked when the others had been measured.",
    ),
)  # fmt: skip

METRICS = {
    "share": Metric("rates that train", "%", 0),
    "loss": Metric("loss at [MASK] of texts read, best rate", "nats"),
    "unread": Metric("of texts not read, the same model", "nats"),
    "time": Metric("a step's gradient", "ms", 1),
    "last": Metric("gradient of the last layer at the start", "", 3),
    "first": Metric("of the first layer", "", 3),
    "slope": Metric("its power of the depth", "", 2),
}

CHECKS = (
    Check("post-LN trains with a warm-up", ("post",), "with_warmup", least=0.5, unit="of the seeds", metrics=("share",)),
    Check("a rate trains", ("pre",), "able", least=0.5, unit="of the seeds"),
    Check("a rate trains", ("pre_rms",), "able", least=0.5, unit="of the seeds", metrics=("loss",)),
)

COMPARISONS = (
    Comparison("pre-LN against post-LN, no warm-up, rates of 0.001 to 0.008", "pre", "post", "share"),
    Comparison("post-LN: with a warm-up against without", "post_warm", "post", "share"),
    Comparison("pre-LN without a warm-up against post-LN with one", "pre", "post_warm", "share"),
    Comparison("post-LN: clipped at 1 against not", "post_clipped", "post", "share"),
    Comparison("DeepNorm against post-LN", "deep", "post", "share"),
    Comparison("sandwich against post-LN", "sandwich", "post", "share"),
    Comparison("RMSNorm against layer norm, pre-LN", "pre_rms", "pre", "loss", EQUAL, margin=0.02),
    Comparison("the same, time of a step", "pre_rms", "pre", "time", better=-1, ratio=True),
    Comparison("gradient at the start, its power of the depth: pre-LN less", "start_pre", "start_post", "slope", better=-1),
)

CLAIM = Claim(
    collection="training stability",
    paper=(
        "Post-LN's expected gradients near the output are large at the start, whatever the depth; pre-LN's are smaller by the "
        'root of the number of layers. Pre-LN trains without a warm-up, with "comparable results" and "significantly less '
        'training time"; post-LN on IWSLT14 without one reaches 8.45 BLEU instead of 34. RMSNorm, of another paper, takes 7 to '
        "64 % less time"
    ),
    source="Xiong et al. 2020, arXiv:2002.04745, section 3; RMSNorm: Zhang & Sennrich 2019, arXiv:1910.07467",
)

NOTES = (
    "Twelve layers, 64 wide, for 600 steps: deep for its width, and short. Which rates train in a longer run is not said.",
    "A rate trains where the loss at [MASK] of texts that were read ends half a nat below the frequencies of these texts' own "
    "words. They are 128, each read 150 times: the model is asked whether it gets anywhere, not whether it is good.",
    "No gradient is clipped but in one arm. The weights start with a deviation of 0.07: BERT's 0.02 at 768, over "
    "the root of the ratio of widths. With 1/sqrt(64), nearly twice that, post-LN hardly left the plateau even with a warm-up.",
    "RMSNorm stands within the layers and behind them; that of the embeddings is a layer norm in every arm.",
)

WHOLE = Experiment(
    number=15,
    slug="layer_norm_variants",
    title="Layer-norm variants",
    question="Does a deep encoder train without a warm-up where its norms stand before what reads them?",
    scale="models of 12 layers, 64 wide, 600 steps on 128 short texts",
    claim=CLAIM,
    arms=ARMS,
    metrics=METRICS,
    comparisons=COMPARISONS,
    checks=CHECKS,
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
        ("post", "pre", "start_post", "start_pre", "unigram"),
        _short(("post", "pre", "unigram"), rates=[1e-3, 4e-3], steps=30, evaluations=2),
        rates=[1e-3, 2e-3], steps=300,
    ),
)  # fmt: skip
