"""02: how much less compute does ELECTRA need than a masked language model, for one score after fine-tuning?

Two encoders that start alike read the same short requests, one guessing masked words, the other telling replaced ones, generator
beside it. Compute is counted (:mod:`bertcraft.lab.flops`): generator, discriminator and the softmax over words, forward and
backward. The rate stays at its height, and at a sixteenth, an eighth ... all of the budget a branch lets it fall to zero
(warm-up, stable, decay): so each point of a curve is a training that was brought to its end, with its own compute, and is
fine-tuned. The claim is about the compute for *one* score. Where a curve first crosses a level is a matter of luck when twice
the compute is worth 1.5 points and a single fine-tuning is off by two. So all five points count: both curves are taken as lines
over the logarithm of the compute, their slope fixed beforehand on development texts, and the ratio is how far they are apart.

What was tried before, on development texts with seed 1000, by a script of the same parts that was not kept: these are leads and
no results (accuracy on HWU64 / TREC after 600 steps of fine-tuning at 2e-3 or, where marked, 3e-3): untrained 72.6 / 52.1
(3e-3); masked LM, 4 TFLOP, 73.7 / 62.8, 8 TFLOP, 73.6 / 62.0; ELECTRA at half width and 8 TFLOP with one table of embeddings,
weight 5, 60.2 / 44.2 (3e-3), with disentangled ones, weight 50, rate 1e-3, 72.2 / 60.7; fakes by neighbours, 8 TFLOP, 64.4 /
50.0 (3e-3); from a masked LM of 4 TFLOP, 4 TFLOP of ELECTRA, 72.5 / 59.6; a generator of a quarter, 71.7 / 59.2. So the arm
"electra" has disentangled embeddings. Requests are told by their keywords: HWU64 hardly sees whether a model was pretrained at
all, so the primary task is TREC, 47 kinds of questions. A head on [CLS] in place of the mean left fakes by neighbours at 27 on
HWU64, where no pretraining had 56.

The rate of ELECTRA is the best at which its generator has left the plateau, by a rule that came after the trials and before any
reported run was looked at. By the older rule, the best of all, seven runs had been made at half that rate; the first five are
the arm "slow", the claim with the rate that suits ELECTRA's score best.

**The claim is not testable here.** A later reader of the runs saw that the check looked at the most compute alone, while the
claim is about all five points: at four of them the generator had not left the plateau (+0.14, +0.04, -0.08, -0.27 nats), nor the
masked LM at the first two (-0.08, -0.43). So the check now holds the worst point; before, the verdict was "contradicted" (0.44
[0.22, 0.88]). What can be asked is 8 TFLOP alone. 50 were wanted; sixty trainings of 50 TFLOP would take two cores days.

An earlier form of this experiment compared linear probes of the last layer at a level that decided the verdict (60 %: cannot
tell, 61 %: contradicted), with only the masked language model's rate tuned, and is withdrawn.
"""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from bertcraft.lab import downstream, flops, forgeries, parts, pretraining, replaced_tokens
from bertcraft.lab.downstream import Finetuning
from bertcraft.lab.experiment import Arm, Check, Claim, Comparison, Context, Experiment, Metric, Tuning, shorter
from bertcraft.lab.pretraining import Setting
from bertcraft.lab.replaced_tokens import Task, detection, gradient, task_of
from bertcraft.pretrain import held_out as held_out_loss
from bertcraft.pretrain.held_out import HeldOut
from bertcraft.techniques import electra_pretraining as technique
from bertcraft.train import adamw, chain, clip_by_global_norm, fit, warmup_stable_decay

REPLAYED = 20  # first losses that are stored and can be replayed
FALLING = 0.2  # share of a training's steps in which the rate falls


# --------------------------------------------------------------------------------------------------------------- runs


def ends(settings: dict, task: Task) -> list[int]:
    """The step at which each branch of a run ends: what its budget of TFLOP buys."""
    return [max(2, round(budget * 1e12 / task.step_flops)) for budget in settings["budgets"]]


def fitted(task: Task, seed: int, context: Context, settings: dict, end: int, falling: int, folder, evaluate=None, stop=None):
    """Train to step ``end`` (or ``stop``), the rate falling in the last ``falling`` steps; a ``FitResult``."""
    warmup = min(task.setting.warmup, end - round(FALLING * end))
    schedule = warmup_stable_decay(task.setting.rate, warmup, falling, end)
    rule = chain(clip_by_global_norm(1.0), adamw(schedule, b2=0.98, eps=1e-6, weight_decay=0.01))  # RoBERTa, section 3.1

    whole = ends(settings, task)[-1]

    def report(at) -> None:
        context.report(at.step, whole, f"step {at.step} of {whole}, loss {at.loss:.2f}")

    return fit(
        gradient(task, context.threads, seed), task.start, rule, task.make_batch, stop or end, seed=seed, folder=folder,
        save_every_seconds=10, signature=settings, evaluate=evaluate, report=report,
    )  # fmt: skip


def curve(task: Task, seed: int, context: Context, settings: dict) -> Iterator[tuple[int, dict, list[float]]]:
    """(steps, what was seen there, first losses) for each branch; goes on where it was stopped."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(context.folder or temporary)
        for end in ends(settings, task):
            falling = round(FALLING * end)
            branch = folder / f"to-{end}"
            if not branch.exists():
                fitted(task, seed, context, settings, end, 0, folder / "stem", stop=end - falling)
                shutil.copytree(folder / "stem", folder / "copy", dirs_exist_ok=True)
                (folder / "copy").rename(branch)  # a branch is there whole or not at all
            looking = partial(look, task, settings, seed, end == ends(settings, task)[-1])
            result = fitted(task, seed, context, settings, end, falling, branch, looking)
            yield end, result.evaluations[-1][1], result.losses[:REPLAYED].tolist()


@lru_cache(maxsize=1)
def _held_out(setting: Setting) -> HeldOut:
    """Masked texts that no training reads, the same for all arms and seeds."""
    texts = pretraining.prepare(setting)
    return HeldOut(texts.held_out, texts)


def look(task: Task, settings: dict, seed: int, last: bool, params: dict) -> dict:
    """How well masked tokens are guessed, replaced ones told, and questions sorted after fine-tuning; at last also intents."""
    guesser, kept = task.split(params)
    held_out = _held_out(replace(task.setting, rate=0.0, warmup=0))
    found = {"accuracy": finetuned(task, kept, settings, seed, "trec")}
    if last and "judged_on" not in settings:
        found["intents"] = finetuned(task, kept, settings, seed, "hwu64")
    if task.guesser:
        guessed = held_out(guesser, task.guesser)
        found |= {"loss": guessed["loss"], "gap": guessed["loss"] - held_out.unigram, "unigram": held_out.unigram}
        found |= parts.beside(guessed)  # at kept tokens, at random ones, at all
    return found | (detection(task, held_out, params) if task.detects else {})


def finetuned(task: Task, kept: dict, settings: dict, seed: int, name: str) -> float:
    """What the encoder classifies right after fine-tuning on a task, in %."""
    how = Finetuning(name, settings["labels"], settings["tuned_steps"], settings["tuned_rate"], length=task.setting.length)
    return downstream.accuracy(task.config, kept, task.texts.tokenizer, how, seed, settings.get("judged_on", "test"))


def to_level(compute: list[float], scores: list[float], level: float, doubling: float) -> float:
    """The compute at which a level stands on a straight line through the middle of a curve, over the logarithm of the compute.

    ``doubling``: how many points twice the compute is worth, fixed beforehand. So the ratio of two curves' computes is
    2 ** (difference of their mean scores / doubling), whatever the level: all points count, and not the first that is lucky.
    """
    middle = float(np.exp(np.mean(np.log(compute))))
    return middle * 2 ** ((level - float(np.mean(scores))) / doubling)


def run(arm: Arm, seed: int, context: Context) -> dict:
    """One arm: trained as far as each of its budgets, and fine-tuned from there. A trial is judged on development texts alone."""
    settings = arm.settings
    if arm.trivial:
        return trivial(settings, seed)
    task = task_of(settings, seed)
    steps, seen, first = zip(*curve(task, seed, context, settings), strict=True)
    figures = {**seen[-1], "first_losses": first[0], "steps": list(steps), "step_gflops": task.step_flops / 1e9}
    compute, scores = [step * task.step_flops / 1e12 for step in steps], [found["accuracy"] for found in seen]
    figures |= {"compute": compute, "scores": scores}
    if "judged_on" in settings:
        return {**figures, "dev": float(np.mean(scores))}
    figures["seen"] = [{name: found[name] for name in ("gap", "told", "fakes") if name in found} for found in seen]
    if "level" not in settings:
        return figures
    return {
        **figures,
        "mean": float(np.mean(scores)),
        "to_level": to_level(compute, scores, settings["level"], settings["doubling"]),
    }


def trivial(settings: dict, seed: int) -> dict:
    """What one gets without pretraining."""
    tasks = {"accuracy": "trec", "intents": "hwu64"}
    if settings["method"] != "untrained":
        how = {figure: Finetuning(name, settings["labels"], 0, 0.0) for figure, name in tasks.items()}
        return {figure: downstream.of_baseline(settings["method"], each, seed, "test") for figure, each in how.items()}
    task = task_of(settings, seed)
    return {figure: finetuned(task, task.start, settings, seed, name) for figure, name in tasks.items()}


def replay(arm: Arm, seed: int, context: Context) -> dict:
    """Steps and their price, and the training losses of an arm's first steps; a baseline is measured again."""
    if arm.trivial:
        return trivial(arm.settings, seed)
    task = task_of(arm.settings, seed)
    end = ends(arm.settings, task)[0]
    losses = fitted(task, seed, context, arm.settings, end, round(FALLING * end), None, stop=min(REPLAYED, end)).losses
    return {"step_gflops": task.step_flops / 1e9, "first_losses": losses.tolist()}


# -------------------------------------------------------------------------------------------------------- declaration

_SHARED = {
    "corpus": "utterances", "length": 24, "vocab_size": 4096, "held_out": 600, "batch": 64, "shard": 64, "warmup": 60,
    "labels": 1920, "tuned_steps": 600, "tuned_rate": 2e-3,
}  # fmt: skip
BUDGETS = (0.5, 1.0, 2.0, 4.0, 8.0)  # TFLOP
MASKED_LM = _SHARED | {"fakes": "mask", "budgets": list(BUDGETS)}
ELECTRA = _SHARED | {
    "fakes": "generator", "width": 0.5, "weight": technique.DETECTION_WEIGHT, "sharing": "disentangled", "detect": "all",
    "budgets": list(BUDGETS),
}  # fmt: skip
LAST = {"budgets": [BUDGETS[-1]]}

ARMS = (
    Arm("mlm", "masked LM", MASKED_LM | {"level": 60.0, "doubling": 1.5}),
    Arm("electra", "ELECTRA", ELECTRA | {"level": 60.0, "doubling": 1.5}),
    Arm(
        "slow",
        "ELECTRA at half the rate",
        ELECTRA | {"level": 60.0, "doubling": 1.5, "rate": 1.25e-4},
        control="The rate at which ELECTRA scored best on development texts; its generator had hardly learnt there.",
    ),
    Arm(
        "shared",
        "ELECTRA, one table for both",
        ELECTRA | LAST | {"sharing": "shared"},
        control="The paper's own way: token embeddings that both losses pull at.",
    ),
    Arm(
        "masked",
        "ELECTRA, masked tokens judged only",
        ELECTRA | LAST | {"detect": "masked"},
        control="Is it judging all tokens that counts, or detection itself? Here the loss is on the masked 15 % alone.",
    ),
    Arm(
        "neighbours",
        "fakes by the word before",
        _SHARED | LAST | {"fakes": "neighbours"},
        control="A generator has to be paid and to learn first. These fakes are drawn from counts: they cost nothing.",
    ),
    Arm("untrained", "not pretrained", MASKED_LM | {"method": "untrained", "rate": 0.0}, trivial=True),
    Arm("tfidf", "TF-IDF", _SHARED | {"method": "tfidf"}, trivial=True),
    Arm("majority", "most frequent", _SHARED | {"method": "majority"}, trivial=True),
)

METRICS = {
    "to_level": Metric("compute for one score", "TFLOP", 2, overlap=490 / _SHARED["labels"]),
    "mean": Metric("TREC, mean of the budgets", "%", 1, overlap=490 / _SHARED["labels"]),
    "accuracy": Metric("TREC, fine-tuned", "%", 1, overlap=490 / _SHARED["labels"]),
    "intents": Metric("HWU64, fine-tuned", "%", 1, overlap=1032 / _SHARED["labels"]),
    "gap": Metric("at [MASK], to word frequencies", "nats", 2),
    "told": Metric("detection below chance", "%", 1),
    "loss": Metric("loss at [MASK]", "nats"),
    "loss_kept": Metric("loss at kept words", "nats"),
    "loss_random": Metric("loss at random words", "nats"),
}

CHECKS = (
    Check(
        "off the plateau at [MASK] at every budget",
        ("mlm", "electra", "slow"),
        "gap",
        most=-0.5,
        unit="nats",
        along="seen",
        metrics=("to_level", "mean"),
    ),
    Check("off the plateau at [MASK]", ("mlm", "electra", "slow", "shared", "masked"), "gap", most=-0.5, unit="nats"),
    Check("detection below chance", ("electra", "shared", "neighbours"), "told", least=2.0, unit="%", digits=1),
    Check("better than not pretrained", ("mlm",), "accuracy", least=0.0, against="untrained", unit="points", digits=1),
)

COMPARISONS = (
    Comparison("compute for one score, masked LM's over ELECTRA's", "mlm", "electra", "to_level", ratio=True),
    Comparison("the same, ELECTRA at half its rate", "mlm", "slow", "to_level", ratio=True),
    Comparison("ELECTRA against masked LM, 8 TFLOP", "electra", "mlm", "accuracy"),
    Comparison("the same on HWU64", "electra", "mlm", "intents"),
    Comparison("ELECTRA against no pretraining", "electra", "untrained", "accuracy"),
    Comparison("all tokens judged, not the masked alone", "electra", "masked", "accuracy"),
    Comparison("embeddings disentangled, not one table", "electra", "shared", "accuracy"),
    Comparison("fakes by the word before against a generator's", "neighbours", "electra", "accuracy"),
)

TUNING = Tuning(
    grids={name: {"rate": (6.25e-5, 1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3)} for name in ("mlm", "electra")},
    settings={"judged_on": "dev", "level": 0.0, "doubling": 1.0},
    figure="dev",  # the mean over the budgets: the best curve, not the luckiest point
    like={name: "electra" for name in ("shared", "masked", "neighbours")},
)

CLAIM = Claim(
    collection="4x efficiency",
    paper=(
        "Large models, pretraining FLOPs: 7.1e20 for a GLUE dev score of 89.0, where RoBERTa took 3.2e21 (4.5 times as many) for "
        "88.9. At equal compute +1.8 over their own BERT (large), 85.1 against 82.2 (base), 79.9 against 75.1 (small)"
    ),
    source="Clark et al. 2020, tables 1 and 2, arXiv:2003.10555",
)

NOTES = (
    "An encoder of 2 layers, 128 wide, on short requests, minutes of training. The paper's small model trained for four days.",
    "Compute: floating-point operations of all matrix products, generator and softmax included; embeddings are looked up.",
    "Each point of a curve is a training whose rate fell to zero, with its own compute. Compute for one score: both curves are "
    "taken as lines over the logarithm of the compute, on which twice as much is worth 1.5 points, as it was on development "
    "texts beforehand (the curves measured here rise by 0.7). So the ratio does not depend on the level, and its being above or "
    "below 1 not on the 1.5 points; how far from 1 it is does.",
    "The claim was first judged where the check looked at the most compute alone: 0.44, contradicted. It now looks at every "
    "point that the claim is made of. 8 TFLOP were what could be afforded, where 50 were wanted.",
    f"Fine-tuned on {_SHARED['labels']:,} labelled texts of each seed's own draw, {_SHARED['tuned_steps']} steps, with a head on "
    "the mean of the last states; tested on all test texts of TREC (HWU64), so intervals are widened (Nadeau & Bengio).",
    "Rates: the best of six for either objective, by the mean over all budgets on development texts, one seed not reported, "
    "among those at which the checks hold; the other arms take ELECTRA's. At half its rate ELECTRA scored 0.7 points higher "
    "there (60.3 where the masked LM had 61.8), but its generator stood only 0.29 nats below word frequencies: it is an arm.",
    "Who learnt to judge masked tokens alone takes all others for fakes, too: far above chance in its loss over all tokens.",
    "ELECTRA's embeddings are disentangled (DeBERTa-V3), its generator half as wide: chosen on development texts for this size.",
    "Not tested: training for days, for which the claim is made; a two-stage start from a masked LM; deeper models.",
)

WHOLE = Experiment(
    number=2,
    slug="electra_pretraining",
    title="ELECTRA pretraining",
    scale=f"models of 2 layers, 128 wide, {BUDGETS[-1]:.0f} TFLOP",
    question="How much less compute does an encoder need that finds replaced words than one that guesses masked ones?",
    claim=CLAIM,
    arms=ARMS,
    metrics=METRICS,
    comparisons=COMPARISONS,
    checks=CHECKS,
    tuning=TUNING,
    run=run,
    replay=replay,
    minutes=80,
    code=(parts, pretraining, replaced_tokens, downstream, forgeries, flops, held_out_loss),
    notes=NOTES,
    beside=("ELECTRA against masked LM, 8 TFLOP",),
)

_SHORT = {"budgets": [0.25, 0.5], "rate": 2e-3, "tuned_steps": 200}
_QUICK = {"budgets": [0.03], "rate": 2e-3, "tuned_steps": 10, "warmup": 5}


def _short(settings: dict, quick: Experiment | None) -> Experiment:
    names = ("mlm", "electra", "neighbours", "untrained", "majority")
    arms = tuple(replace(arm, settings=arm.settings | settings, control="") for arm in ARMS if arm.name in names)
    notes = ("Short: enough to see that all works and what a step costs, too little to learn much.",)
    return shorter(WHOLE, WHOLE.question, arms, notes, quick)


EXPERIMENT = replace(WHOLE, quick=_short(_SHORT, _short(_QUICK, None)))
