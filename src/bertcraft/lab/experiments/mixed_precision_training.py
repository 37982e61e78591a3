"""07: is a model that multiplies in float16, with master weights and a scaled loss, the model that float32 trains?

A small BERT learns from short texts. All arms of a seed read the same masked rows in the same order from the same start; they
differ in how numbers are rounded, emulated as tensor cores compute: products of 16-bit numbers, sums in float32. As in experiment
01 every seed has a part of the corpus of its own, to learn from and to be judged on: intervals need no widening.

The claim is that nothing else has to be changed: float16 with both precautions, and bfloat16 with master weights, take the rate
that trials chose for float32, and no difference of theirs comes from trials that chose differently. Arms that lack a precaution
are tuned as float32 is, each by itself: a rate of its own may make up for what rounding takes. Adam's moments are float32 in all
arms: weights, products and scaling are compared, one at a time. Unread text is judged in float32, with the weights an arm keeps.

Tried before anything reported, on the part and the development texts of seed 1000: in 1,000 steps float32 at a rate of 2e-3 comes
to 5.41 nats at [MASK], where word frequencies have 6.55 (6.06 after 375 steps); at 4e-3 it stays on the plateau (6.44). So the
grid ends at 4e-3, where a first form had 8e-3. With emulated rounding a step takes 2.3 times as long: 900 steps, an hour in all.

The last two arms train nothing: torch multiplies matrices of BERT-base's size in float32 and in bfloat16 on one core.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import count

import numpy as np

from bertcraft.bert import encoder, heads
from bertcraft.errors import InputError
from bertcraft.lab import parts, pretraining, ruled
from bertcraft.lab.experiment import Arm, Check, Claim, Comparison, Context, Experiment, Metric, Tuning, shorter
from bertcraft.lab.pretraining import Setting
from bertcraft.lab.statistics import EQUAL, EXACT
from bertcraft.pretrain import held_out as held_out_loss
from bertcraft.techniques import mixed_precision_training as technique
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree, value_and_grad
from bertcraft.train import Rule, adamw, chain, clip_by_global_norm, fit, warmup_linear

REPLAYED = 12  # first losses that are stored and can be replayed
SCALE, STOCHASTIC_SEED = 2.0**16, 3000
EXPONENTS = (-60, 12)  # powers of two between which gradients are counted
ROWS = 16  # texts whose gradients are counted
PRODUCT = (1024, 768, 3072)  # 1,024 tokens through the first map of BERT-base's feed-forward part
REPEATED = 40  # products of which the fastest counts

# ----------------------------------------------------------------------------------------------------------- training


def rule_of(settings: dict, setting: Setting, seed: int) -> Rule:
    """Clipped AdamW; its weights kept in 16 bits, with or without a stochastic rounding; its loss scaled."""
    rate = warmup_linear(setting.rate, setting.warmup, setting.steps)
    rule = chain(clip_by_global_norm(1.0), adamw(rate, b2=0.98, eps=1e-6, weight_decay=0.01))
    if not settings["master"]:
        rule = technique.kept_in(rule, settings["form"], STOCHASTIC_SEED + seed if settings.get("stochastic") else None)
    return technique.loss_scaling(rule, SCALE) if settings["scaled"] else rule


def fitted(settings: dict, seed: int, context: Context, task: ruled.Task, steps: int | None = None):
    """Train an arm, wholly or for its first steps; a ``FitResult``."""
    from bertcraft.tensor.parallel import pool, sharded_value_and_grad

    setting, form = task.setting, settings["form"]
    params = pretraining.initial(task.config, task.texts, seed)
    if not settings["master"]:
        params = tree.map(lambda leaf: technique.rounded(leaf, form), params)
    step = sharded_value_and_grad(
        technique.mixed_precision(task.loss, form), shard_size=setting.shard, weight=masking.predicted, prepare=masking.trimmed,
        threads=context.threads,
    )  # fmt: skip
    return fit(
        step, params, rule_of(settings, setting, seed), task.make_batch, steps or setting.steps, seed=seed,
        folder=None if steps else context.folder, save_every_seconds=10, signature={**settings, **asdict(setting)},
        evaluate=None if steps else lambda params: task.judge(params, task.config),
        evaluate_every=max(1, setting.steps // setting.evaluations), pool=pool(context.threads),
        report=lambda p: context.report(p.step, p.steps, f"{p.step}/{p.steps} loss {p.loss:.2f} {p.seconds_left:.0f} s left"),
    )  # fmt: skip


def trained(settings: dict, seed: int, context: Context) -> dict:
    """Train; the loss at [MASK] of unread text, what was skipped, what a gradient loses, and what memory there would be."""
    task = ruled.task_of(settings, seed)
    result = fitted(settings, seed, context, task)
    steps, seen = zip(*result.evaluations, strict=True)
    if settings.get("judged_on") == "dev":
        return {"dev_loss": seen[-1]["loss"]}
    skipped = int(np.sum(~np.isfinite(result.gradient_norms)))
    scale = SCALE * 0.5**skipped if settings["scaled"] else 1.0  # it grows after 2,000 good steps only
    by_kind = gradients(task, result.params, seed)
    found = {
        "loss": seen[-1]["loss"], "accuracy": 100 * seen[-1]["accuracy"], **parts.beside(seen[-1]),
        "curve": [each["loss"] for each in seen], "steps": list(steps), "skipped": skipped, "scale": scale,
        "first_losses": result.losses[:REPLAYED].tolist(), **memory(settings, task.setting),
    }  # fmt: skip
    form = settings["form"]
    for kind, values in by_kind.items() if form != "float32" else ():
        found["lost" if kind == "weights" else f"lost_{kind}"] = 100 * technique.lost(values, form, scale)
    if seed == 0:
        found["gradients"] = {kind: counted(values) for kind, values in by_kind.items()}
    return found


def memory(settings: dict, setting: Setting) -> dict:
    """Bytes a parameter and, of what layers keep for their backward pass, bytes a token: counted, since rounding is emulated."""
    is_half = settings["form"] != "float32"
    parts = technique.MODEL_STATE["mixed" if is_half else "float32"]
    width = setting.hidden, max(1, setting.hidden // 64)
    kept = setting.layers * technique.kept_by_a_layer(setting.batch, setting.length, *width, wide=2 if is_half else 4)
    return {
        "state_bytes": sum(size for name, size in parts.items() if settings["master"] or name != "master weights"),
        "kept_bytes": kept / (setting.batch * setting.length),
    }


def gradients(task: ruled.Task, params: dict, seed: int) -> dict[str, np.ndarray]:
    """All numbers of a batch's gradient in float32: of "weights", of "states" behind each layer, and of "scores" over the words.

    The latter two are what the backward pass hands on: gradients with respect to zeros that are added there.
    """
    batch = masking.trimmed({name: array[:ROWS] for name, array in task.make_batch(task.setting.steps + seed).items()})
    rows, length = batch["input_ids"].shape
    zeros = {
        "states": np.zeros((task.setting.layers, rows, length, task.setting.hidden), np.float32),
        "scores": np.zeros((*batch["at"].shape, len(task.texts.log_frequency)), np.float32),
    }

    def loss(given):
        layers: Iterator[int] = count()

        def wiring(*args):
            return encoder.post_layer_norm(*args) + given["states"][next(layers)]

        sockets = encoder.Sockets(wiring=wiring)
        hidden = encoder.encode(given["weights"], task.config, batch["input_ids"], batch["attention_mask"], sockets=sockets)
        scores = heads.masked_lm_logits(given["weights"], task.config, F.take_positions(hidden, batch["at"]))
        return F.cross_entropy(scores + given["scores"], batch["labels"])

    _, found = value_and_grad(loss)({"weights": params, **zeros})
    return {kind: np.concatenate([leaf.ravel() for leaf in tree.leaves(part)]) for kind, part in found.items()}


def counted(values: np.ndarray) -> list[int]:
    """How many of the numbers that are not 0 have each power of two of ``EXPONENTS``; those beyond count at the ends."""
    powers = np.clip(np.floor(np.log2(np.abs(values[values != 0]))).astype(int), *EXPONENTS)
    return np.bincount(powers - EXPONENTS[0], minlength=EXPONENTS[1] - EXPONENTS[0] + 1).tolist()


def product(form: str, seed: int, times: int) -> dict:
    """A product of two random matrices by torch on one core: processor time in ms, the fastest of some, and how far it is off."""
    try:
        import torch
    except ImportError:
        raise InputError("this arm measures torch's products: pip install torch") from None
    before, dtype = torch.get_num_threads(), getattr(torch, form)
    torch.set_num_threads(1)
    rows, inner, columns = PRODUCT
    draw = torch.Generator().manual_seed(seed)
    exact = [torch.randn(*shape, generator=draw) for shape in ((rows, inner), (inner, columns))]
    x, y = (matrix.to(dtype) for matrix in exact)
    found = []
    for _ in range(times):
        start = time.process_time()
        z = x @ y
        found.append(1000 * (time.process_time() - start))
    torch.set_num_threads(before)
    true = exact[0].double() @ exact[1].double()
    return {"product_ms": min(found), "product_error": float((z.double() - true).norm() / true.norm())}


def run(arm: Arm, seed: int, context: Context) -> dict:
    if "product" in arm.settings:
        return product(arm.settings["product"], seed, REPEATED)
    return ruled.untrained(arm.settings, seed) if arm.trivial else trained(arm.settings, seed, context)


def replay(arm: Arm, seed: int, context: Context) -> dict:
    """The training losses of an arm's first steps; of an arm without steps all but times, which never come again."""
    if "product" in arm.settings:
        return {"product_error": product(arm.settings["product"], seed, 1)["product_error"]}
    if arm.trivial:
        return ruled.untrained(arm.settings, seed)
    task = ruled.task_of(arm.settings, seed)
    return {"first_losses": fitted(arm.settings, seed, context, task, min(REPLAYED, task.setting.steps)).losses.tolist()}


# -------------------------------------------------------------------------------------------------------- declaration

_SHARED = ruled.SHARED | {"steps": 900, "evaluations": 6}


def _arms(shared: dict) -> tuple[Arm, ...]:
    def of(name: str, title: str, form: str, control: str = "", *, master: bool = True, scaled: bool = False, **more) -> Arm:
        return Arm(name, title, {**shared, "form": form, "master": master, "scaled": scaled, **more}, control)

    return (
        of("float32", "float32", "float32"),
        of("float16_scaled", "float16, master, scaled", "float16", scaled=True),
        of("float16_master", "float16, master", "float16", "Is scaling needed? The same without it."),
        of("float16_kept", "float16, scaled", "float16", "Are master weights needed? None.", master=False, scaled=True),
        of("float16_alone", "float16 alone", "float16", "Neither.", master=False),
        of("bfloat16_master", "bfloat16, master", "bfloat16", "Is range or are digits the point? float32's range, 8 digits."),
        of("bfloat16_alone", "bfloat16 alone", "bfloat16", "Weights of 8 binary digits, updated as such.", master=False),
        of(
            "bfloat16_stochastic", "bfloat16, stochastic", "bfloat16",
            "Is it that small updates are lost? Rounded stochastically, they count on average.", master=False, stochastic=True,
        ),
        *ruled.trivial(shared),
        Arm("product_float32", "torch product, float32", {"product": "float32"}),
        Arm("product_bfloat16", "torch product, bfloat16", {"product": "bfloat16"}, "What NumPy has not: the processor's own."),
    )  # fmt: skip


ARMS = (
    *_arms(_SHARED)[:8],
    *(
        Arm(name, title, {**_SHARED, "form": form, "master": True, "scaled": form == "float16", **own}, control)
        for name, title, form, own, control in (
            (
                "float32_order", "float32, other order", "float32", {"shard": 16},
                "How far apart do trainings end that differ by float32's rounding alone? Sums of 16 texts, not of 32, by another "
                "release of BLAS.",
            ),
            ("float32_longer", "float32, twice as long", "float32", {"steps": 1800}, "What the next is held against."),
            (
                "float16_longer", "float16, twice as long", "float16", {"steps": 1800},
                "With master weights, scaled: does it fall behind later?",
            ),
        )
    ),
    *_arms(_SHARED)[8:],
)  # fmt: skip
_TRAINED = tuple(arm.name for arm in ARMS if "form" in arm.settings)
_AS_FLOAT32 = ("float16_scaled", "bfloat16_master")  # what is claimed to need no settings of its own

METRICS = {
    "loss": Metric("loss at [MASK]", "nats"),
    "accuracy": Metric("words guessed", "%", 1),
    "lost": Metric("weight gradients lost", "%", 2),
    "lost_states": Metric("gradients of states lost", "%", 2),
    "lost_scores": Metric("gradients of scores lost", "%", 2),
    "skipped": Metric("steps skipped", "", 1),
    "state_bytes": Metric("state", "bytes a parameter", 0),
    "kept_bytes": Metric("kept by layers", "bytes a token", 0),
    "product_ms": Metric("a product", "ms", 2),
    "product_error": Metric("it is off by", "of its norm", 6),
}

CHECKS = (Check("float32 off the plateau at [MASK]", ("float32",), "loss", most=-0.5, against="unigram", unit="nats"),)

_MARGIN = 0.02  # nats, as wherever two recipes are called the same here
COMPARISONS = (
    Comparison(
        "float16, master weights, scaled loss against float32", "float16_scaled", "float32", "loss", EQUAL, margin=_MARGIN
    ),
    Comparison("bytes of state a parameter", "float16_scaled", "float32", "state_bytes", EXACT, margin=1e-6, expected=0.0),
    Comparison("without scaling: costs loss", "float16_master", "float16_scaled", "loss", better=1),
    Comparison("without master weights: costs loss", "float16_kept", "float16_scaled", "loss", better=1),
    Comparison("float16 alone: costs loss", "float16_alone", "float32", "loss", better=1),
    Comparison("scaling: fewer numbers of weights' gradients lost", "float16_scaled", "float16_master", "lost", better=-1),
    Comparison("bfloat16, master weights against float32", "bfloat16_master", "float32", "loss", EQUAL, margin=_MARGIN),
    Comparison("bfloat16 alone: costs loss", "bfloat16_alone", "bfloat16_master", "loss", better=1),
    Comparison("stochastic rounding: gains on bfloat16 alone", "bfloat16_stochastic", "bfloat16_alone", "loss", better=-1),
    Comparison("bfloat16, stochastic against float32", "bfloat16_stochastic", "float32", "loss", EQUAL, margin=_MARGIN),
    Comparison("float32, summed in another order, against itself", "float32_order", "float32", "loss", EQUAL, margin=_MARGIN),
    Comparison(
        "float16, scaled, against float32, twice as long", "float16_longer", "float32_longer", "loss", EQUAL, margin=_MARGIN
    ),
    Comparison("torch's bfloat16 product, time", "product_bfloat16", "product_float32", "product_ms", better=-1, ratio=True),
)

TUNING = Tuning(
    grids={
        name: {"rate": (5e-4, 1e-3, 2e-3, 4e-3)}
        for name in _TRAINED
        if name not in (*_AS_FLOAT32, "float32_order", "float32_longer", "float16_longer")
    },
    settings=ruled.TRIAL,
    figure="dev_loss",
    better=-1,
    like=dict.fromkeys((*_AS_FLOAT32, "float32_order", "float32_longer", "float16_longer"), "float32"),
)

CLAIM = Claim(
    collection="2x speed, 50% memory",
    paper=(
        "The accuracy of float32, with master weights, loss scaling and sums in float32, at float32's settings; memory less by "
        '"nearly 2x"; 2 to 6 times faster single operations on a Volta GPU where memory or arithmetic bounds them. No speed of '
        "training from end to end. Model state with Adam takes 16 bytes a parameter both ways"
    ),
    source="Micikevicius et al. 2018, arXiv:1710.03740, sections 3 to 5; bytes: Rajbhandari et al. 2020, arXiv:1910.02054",
)

NOTES = (
    "2 layers, 128 wide, 900 steps (twice as long: 1,800) of 64 short texts: in larger models, or late in long trainings, "
    "gradients are smaller.",
    "Rounding is emulated in float32: products of rounded numbers, sums in float32, results rounded, as torch.autocast casts.",
    "float16 with both precautions and bfloat16 with master weights take float32's rate, as do float32 in another order and what "
    "is trained twice as long; the other arms were tuned alone, and all chose the same rate.",
    "Adam's moments are float32 in every arm. A model that is wholly float16 keeps them in float16 too, where squares of small "
    "gradients are 0.",
    "Memory is counted: what arrays of those types would take. Of what layers keep, dropout's masks count a byte.",
    "Lost: of a float32 gradient's numbers that are not 0, the share that the scaled format makes 0; after training, 16 texts.",
    "Products: processor time of torch on one core of the machine named with the results, no other processor.",
)

WHOLE = Experiment(
    number=7,
    slug="mixed_precision_training",
    title="Mixed precision",
    question="Is a model whose products are of 16-bit numbers as good as one in float32, and which precautions does it need?",
    scale="a model of 2 layers, 128 wide; 3,840 short texts, 57,600 rows read (twice as long: 115,200)",
    claim=CLAIM,
    arms=ARMS,
    metrics=METRICS,
    comparisons=COMPARISONS,
    checks=CHECKS,
    tuning=TUNING,
    run=run,
    replay=replay,
    minutes=60,
    code=(ruled, parts, masking, pretraining, held_out_loss),
    notes=NOTES,
)


def _short(steps: int, names: tuple[str, ...], quick: Experiment | None = None) -> Experiment:
    own = _SHARED | {"steps": steps, "warmup": steps // 10, "rate": 2e-3, "evaluations": 4}
    arms = tuple(arm for arm in _arms(own) if arm.name in names)
    return shorter(WHOLE, WHOLE.question, arms, ("Quick: too short to judge by; every arm has the same rate.",), quick)


EXPERIMENT = replace(
    WHOLE,
    quick=_short(
        200, ("float32", "float16_scaled", "float16_alone", "bfloat16_alone", "unigram"),
        _short(60, ("float32", "float16_scaled", "unigram")),
    ),
)  # fmt: skip
