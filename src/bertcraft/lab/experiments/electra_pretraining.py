"""02: with as many floating-point operations, is telling replaced tokens a better teacher than guessing masked ones?

One small encoder, initialised alike in every arm, trained on short requests by one objective or the other, each for a budget of
operations that is counted (:mod:`bertcraft.lab.flops`): generator, discriminator and vocabulary softmax, forward and backward.
An ELECTRA step costs more than a masked language model's, so the budget buys fewer of them. The frozen encoder is probed along
training. What was chosen for ELECTRA at this size was chosen on ``dev`` with one seed; what was tried stands beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial

import numpy as np

from bertcraft.bert import Config, initial_params
from bertcraft.lab import flops, pretraining, probes
from bertcraft.lab.experiment import Arm, Claim, Comparison, Context, Experiment, Metric
from bertcraft.lab.pretraining import Setting, Texts
from bertcraft.pretrain import held_out as held_out_loss
from bertcraft.pretrain.held_out import HeldOut
from bertcraft.techniques import electra_pretraining as technique
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.tensor import tree
from bertcraft.tensor.parallel import sharded_value_and_grad

REPLAYED = 20  # first losses that are stored and can be replayed
COUNTED = 4  # batches whose operations are counted; their mean is the price of a step
JUDGED = 500  # held-out texts that the discriminator's loss is taken of
LEVELS = {"bigram_shift": 60.0, "replaced_word": 58.0}  # scores whose price is compared


@dataclass(frozen=True)
class Task:
    """What is trained: texts, parameters to start from and objective; and how to look at the encoder that is kept.

    A masked language model is its own ``guesser``; ELECTRA's is the generator.
    """

    setting: Setting  # its steps are those that the budget pays for
    texts: Texts
    config: Config  # of the encoder that is kept
    guesser: Config  # of the model that guesses masked tokens
    start: dict
    split: Callable[[dict], tuple[dict, dict]]  # all parameters: the guesser's and the kept encoder's
    make_batch: Callable[[int], dict]
    loss: Callable
    weight: Callable[[dict], float] | None  # of a shard
    step_flops: float = 0.0

    @property
    def detects(self) -> bool:
        """Whether there is a discriminator."""
        return self.config.head == "replaced_token_detection"


def tasks_of(arm: Arm, seed: int) -> list[Task]:
    """An arm's training; two in a row where the arm trains a masked language model first, for a share of its budget."""
    own, first = arm.settings, arm.settings.get("first", 0.0)
    if "weight" not in own:
        return [_priced(_masked_lm(_setting(own), seed), own["budget"])]
    if not first:
        return [_priced(_electra(own, seed), own["budget"])]
    before = _setting(own, rate=own["first_rate"], evaluations=max(1, round(own["evaluations"] * first)))
    after = own | {"evaluations": max(1, own["evaluations"] - before.evaluations)}
    return [
        _priced(_masked_lm(before, seed), own["budget"] * first),
        _priced(_electra(after, seed), own["budget"] * (1 - first)),
    ]


def _setting(settings: dict, **changes) -> Setting:
    own = {field.name for field in fields(Setting)}
    return Setting(**{name: value for name, value in settings.items() if name in own} | changes)


def _priced(task: Task, budget: float) -> Task:
    """The task with the steps that so many million million operations buy, the same number between any two evaluations."""
    price = _step_flops(task)
    each = max(1, round(budget * 1e12 / price / task.setting.evaluations))
    return replace(task, setting=replace(task.setting, steps=each * task.setting.evaluations), step_flops=price)


def _step_flops(task: Task) -> float:
    """Operations of a training step, forward and backward: the mean of the first batches of seed 0, for all seeds."""
    step = sharded_value_and_grad(
        task.loss, shard_size=task.setting.shard, weight=task.weight, prepare=masking.trimmed, threads=1
    )
    batches = map(_batches(task.setting, task.texts, 0, task.detects), range(COUNTED))
    return float(np.mean([flops.count(step, task.start, batch, 0) for batch in batches]))


def _batches(setting: Setting, texts: Texts, seed: int, electra: bool) -> Callable[[int], dict]:
    """Masked texts, the same in every arm; for ELECTRA with the numbers that decide the generator's samples."""
    masked = pretraining.batch_maker(setting, texts, seed)

    def make_batch(step: int) -> dict:
        batch = masked(step)
        return technique.electra_batch(batch, np.random.default_rng((seed, 4, step)).random(batch["at"].shape))

    return make_batch if electra else masked


def _config(setting: Setting, vocab_size: int, head: str) -> Config:
    """The encoder of every arm. Its 4 attention heads let a generator have a quarter of them."""
    return pretraining.config_of(
        setting, vocab_size, family="electra", head=head, num_attention_heads=4, embedding_size=setting.hidden
    )


def _masked_lm(setting: Setting, seed: int) -> Task:
    texts = pretraining.prepare(setting)
    config = _config(setting, len(texts.log_frequency), "masked_lm")
    start = initial_params(config, seed)
    start["generator_lm_head"]["bias"][:] = texts.log_frequency
    return Task(
        setting, texts, config, config, start, lambda params: (params, params), _batches(setting, texts, seed, False),
        lambda params, batch, rng: masking.masked_lm_loss(params, batch, rng, config), masking.predicted,
    )  # fmt: skip


def _electra(settings: dict, seed: int) -> Task:
    setting = _setting(settings)
    texts, sharing = pretraining.prepare(setting), settings["sharing"]
    config = _config(setting, len(texts.log_frequency), "replaced_token_detection")
    generator = technique.generator_config(config, settings["width"])
    start = technique.initial_params(generator, config, seed, sharing)
    start["generator"]["generator_lm_head"]["bias"][:] = texts.log_frequency
    loss = partial(
        technique.electra_loss, generator=generator, discriminator=config, weight=settings["weight"], sharing=sharing,
        detect=settings["detect"],
    )  # fmt: skip
    return Task(
        setting, texts, config, generator, start, lambda params: technique.models(params, sharing),
        _batches(setting, texts, seed, True), loss, None,
    )  # fmt: skip


def warm(start: dict, masked_lm: dict) -> dict:
    """ELECTRA's first parameters from a trained masked language model as large: it becomes the generator, and the
    discriminator begins as its copy (Clark et al. 2020, section 3.2, "two-stage"). Only the discriminator's head is new."""
    own = start["discriminator"]["electra"]
    body = {**own, "encoder": tree.map(np.array, masked_lm["electra"]["encoder"])}
    return {"generator": masked_lm, "discriminator": {**start["discriminator"], "electra": body}}


# --------------------------------------------------------------------------------------------------------------- runs


def fitted(arm: Arm, seed: int, context: Context, task: Task, evaluate: Callable | None = None, steps: int | None = None):
    """Train wholly, or for the first steps; a ``FitResult``."""
    own = context.folder and context.folder / ("electra" if task.detects else "masked_lm")
    return pretraining.train(
        task.setting, task.start, task.loss, task.make_batch, seed=seed, context=replace(context, folder=own),
        signature={"arm": arm.name, **arm.settings}, steps=steps, evaluate=evaluate, weight=task.weight,
    )  # fmt: skip


@lru_cache(maxsize=1)
def _looking(corpus: str, vocab_size: int, length: int, held_out: int, sentences: int):
    """The probes and the held-out masks of a setting, the same for all its arms and seeds."""
    setting = Setting(corpus=corpus, vocab_size=vocab_size, length=length, held_out=held_out)
    texts = pretraining.prepare(setting)
    return probes.Probes(setting, texts, sentences), HeldOut(texts.held_out, texts)


def look(task: Task, sentences: int, params: dict) -> dict:
    """The probes of the encoder that is kept; how well masked tokens are guessed; how well replaced ones are told."""
    s = task.setting
    probe, held_out = _looking(s.corpus, s.vocab_size, s.length, s.held_out, sentences)
    guesser, kept = task.split(params)
    guessed = held_out(guesser, task.guesser)
    found = {**probe(kept, task.config), "loss": guessed["loss"], "accuracy": 100 * guessed["accuracy"]}
    return found | (detection(task, held_out, params) if task.detects else {})


def detection(task: Task, held_out: HeldOut, params: dict) -> dict:
    """The discriminator's loss on held-out text; what one loses who knows the share of fakes among the words, and that special
    tokens are never fakes, and nothing else; that share in %."""
    masked = masking.trimmed({name: array[:JUDGED] for name, array in held_out.batch.items()})
    batch = technique.electra_batch(masked, np.random.default_rng(5).random(masked["at"].shape))
    guesser, kept = task.split(params)
    both = {"generator": guesser, "discriminator": kept}
    parts = technique.losses(both, batch, None, task.guesser, task.config, sharing="separate")
    words = float(np.sum((batch["input_ids"] >= pretraining.FIRST_WORD) | parts.replaced.masked))
    fakes = float(parts.replaced.fake.sum()) / words
    entropy = -fakes * np.log(fakes) - (1 - fakes) * np.log(1 - fakes)
    chance = words / float(batch["attention_mask"].sum()) * entropy
    return {"detection": float(parts.detection), "chance": float(chance), "fakes": 100 * fakes}


def reached(compute: list[float], scores: list[float], level: float) -> float | None:
    """How much compute it took until a score first stood at a level, on straight lines between what was measured; None if
    it never did."""
    for i, score in enumerate(scores):
        if score >= level:
            if i == 0:
                return compute[0]
            share = (level - scores[i - 1]) / (score - scores[i - 1])
            return compute[i - 1] + share * (compute[i] - compute[i - 1])
    return None


def run(arm: Arm, seed: int, context: Context) -> dict:
    """One arm: trained for its budget, looked at before, on the way and at the end."""
    tasks, sentences = tasks_of(arm, seed), arm.settings["sentences"]
    curve, compute, params = [look(tasks[0], sentences, tasks[0].start)], [0.0], None
    for task in tasks:
        spent = compute[-1]
        if params is not None:
            task = replace(task, start=warm(task.start, params))
        result = fitted(arm, seed, context, task, partial(look, task, sentences))
        if params is None:
            first = result.losses[:REPLAYED].tolist()
        params = result.params
        curve += [found for _, found in result.evaluations]
        compute += [spent + step * task.step_flops / 1e12 for step, _ in result.evaluations]
    scores = {name: [found[name] for found in curve] for name in (*probes.TITLES, "loss")}
    figures = {
        **curve[-1], "compute": compute, "curves": scores, "first_losses": first, "steps": [t.setting.steps for t in tasks],
        "step_gflops": [task.step_flops / 1e9 for task in tasks],
        "detected": [{name: found[name] for name in ("detection", "chance", "fakes")} for found in curve if "fakes" in found],
    }  # fmt: skip
    for name, level in LEVELS.items():
        at = reached(compute, scores[name], level)
        # A level that is never reached counts as reached at the very end: a ratio of two is then nearer to 1 than the truth.
        figures[f"compute_{name}"], figures[f"reached_{name}"] = compute[-1] if at is None else at, at is not None
    return figures


def replay(arm: Arm, seed: int, context: Context) -> dict:
    """Steps and their price, and the training losses of an arm's first steps."""
    tasks = tasks_of(arm, seed)
    losses = fitted(arm, seed, context, tasks[0], steps=REPLAYED).losses
    return {
        "steps": [task.setting.steps for task in tasks], "step_gflops": [task.step_flops / 1e9 for task in tasks],
        "first_losses": losses.tolist(),
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------------- declaration

# Tried on ``dev``, one seed, bigram shift / replaced word / loss of the guesser (probes on half as many sentences). Masked LM,
# 1.25 TFLOP: 59.6 / 59.2 / 5.56. From there 1.5 TFLOP of ELECTRA at full width, weight 50, rate 1e-3, with embeddings
# disentangled: 59.8 / 58.7 / 5.38, detection loss from 0.346 to 0.333 and falling: it starts, so the arm "warm"
# is that. "half" is the best of a trial in PyTorch with a like model: width 1/2 with weights 5 and 20, 1/4 with 50.
MASKED_LM = {
    "corpus": "utterances", "length": 32, "vocab_size": 2048, "held_out": 1000, "sentences": 1000, "batch": 64, "rate": 2e-3,
    "warmup": 80, "evaluations": 8, "budget": 5.0,
}  # fmt: skip
PAPER = MASKED_LM | {"width": 0.25, "weight": technique.DETECTION_WEIGHT, "sharing": "shared", "detect": "all"}
WARM = MASKED_LM | {
    "first": 0.5, "first_rate": 2e-3, "rate": 1e-3, "width": 1.0, "weight": technique.DETECTION_WEIGHT,
    "sharing": "disentangled", "detect": "all",
}  # fmt: skip
QUARTER = {"budget": 1.25, "evaluations": 2, "warmup": 20}

METRICS = {
    "bigram_shift": Metric(probes.TITLES["bigram_shift"], "%", 1),
    "replaced_word": Metric(probes.TITLES["replaced_word"], "%", 1),
    "intents": Metric(probes.TITLES["intents"], "%", 1),
    "compute_bigram_shift": Metric(f"compute to {LEVELS['bigram_shift']:.0f} % bigram shift", "TFLOP", 2),
    "compute_replaced_word": Metric(f"compute to {LEVELS['replaced_word']:.0f} % replaced word", "TFLOP", 2),
}


def _comparisons() -> tuple[Comparison, ...]:
    """The claim first: how many times ELECTRA's compute a masked language model needs for the same score."""
    found = []
    for probe in LEVELS:
        for arm, title in (("electra", "ELECTRA's"), ("half", "ELECTRA's, half width"), ("warm", "ELECTRA's, warm start")):
            name = f"masked LM's compute over {title}: {probes.TITLES[probe]}"
            found.append(Comparison(name, "mlm", arm, f"compute_{probe}", better=1, ratio=True))
    asked = (
        ("ELECTRA, paper's constants", "electra", "mlm"),
        ("ELECTRA, half width, weight 5", "half", "mlm"),
        ("ELECTRA, warm start", "warm", "mlm"),
        ("a quarter of the compute: ELECTRA, warm start", "warm_quarter", "mlm_quarter"),
        ("ELECTRA on a quarter against masked LM on all", "warm_quarter", "mlm"),
        ("all tokens judged, not the masked alone", "warm", "warm_masked"),
    )
    for name, treatment, baseline in asked:
        found += [Comparison(f"{name}: {probes.TITLES[probe]}", treatment, baseline, probe, better=1) for probe in probes.TITLES]
    return tuple(found)


CLAIM = Claim(
    collection="4x efficiency",
    paper=(
        "Large models, pretraining FLOPs: 7.1e20 for a GLUE dev score of 89.0, where RoBERTa took 3.2e21 (4.5 times as many) for "
        "88.9. At equal compute +1.8 over their own BERT (large), 85.1 against 82.2 (base), 79.9 against 75.1 (small)"
    ),
    source="Clark et al. 2020, tables 1 and 2, arXiv:2003.10555",
)


def _short(settings: dict, quick: Experiment | None) -> Experiment:
    arms = [Arm("mlm", "masked LM", MASKED_LM | settings), Arm("electra", "ELECTRA, paper's constants", PAPER | settings)]
    if quick:
        arms.append(Arm("warm", "ELECTRA, warm start", WARM | settings))
    return Experiment(
        number=2, slug="electra_pretraining", title="ELECTRA pretraining",
        scale="models of 2 layers, 128 wide, 5 TFLOP",
    question="Which encoder learns more from equal compute: one that guesses masked tokens, or one that finds replaced ones?",
        claim=CLAIM, arms=tuple(arms), metrics={name: METRICS[name] for name in probes.TITLES},
        comparisons=tuple(Comparison(f"{arm.title} against masked LM", arm.name, "mlm", "bigram_shift") for arm in arms[1:]),
        run=run, replay=replay, minutes=1.2 if quick else 0.4, seeds=1, quick=quick,
        notes=("Short: enough to see that all works and what a step costs, too little to learn much.",),
    )  # fmt: skip


SHORT = {"budget": 0.5, "evaluations": 2, "warmup": 10}
QUICK = {"budget": 0.06, "evaluations": 1, "warmup": 5, "sentences": 200}

EXPERIMENT = Experiment(
    number=2,
    slug="electra_pretraining",
    title="ELECTRA pretraining",
    scale="models of 2 layers, 128 wide, 5 TFLOP",
    question="At equal compute, which teaches an encoder more: guessing masked tokens, or telling replaced ones from originals?",
    claim=CLAIM,
    arms=(
        Arm("mlm", "masked LM", MASKED_LM),
        Arm("electra", "ELECTRA, paper's constants", PAPER),
        Arm(
            "half", "ELECTRA, half width, weight 5", PAPER | {"width": 0.5, "weight": 5.0},
            control="The paper's constants were found for larger models; these were chosen on dev for this one.",
        ),
        Arm(
            "warm", "ELECTRA, warm start", WARM,
            control="A discriminator that never starts says nothing of the objective: this one starts as a trained masked LM, "
            "whose compute counts.",
        ),
        Arm(
            "warm_masked", "warm start, masked tokens judged only", WARM | {"detect": "masked"},
            control="Is it judging all tokens that helps, or detection itself? Here the loss is on the masked 15 % alone.",
        ),
        Arm("mlm_quarter", "masked LM, 1/4 of the compute", MASKED_LM | QUARTER),
        Arm("warm_quarter", "ELECTRA, warm start, 1/4", WARM | QUARTER),
    ),
    metrics=METRICS,
    comparisons=_comparisons(),
    run=run,
    replay=replay,
        minutes=100,
    code=(pretraining, probes, flops, held_out_loss),
    quick=_short(SHORT, _short(QUICK, None)),
    notes=(
        "An encoder of 2 layers, 128 wide, on short requests, minutes of training. The paper's claim is about models that "
        "train for days.",
        "Equal compute: floating-point operations of all matrix products, counted; embeddings are looked up, not multiplied.",
        f"To {LEVELS['bigram_shift']:.0f} % (bigram shift) and {LEVELS['replaced_word']:.0f} % (replaced word): compute until "
        "the score first stood there, between evaluations on a straight line. Never reached counts as reached at the very end: "
        "the ratio is then nearer to 1 than the truth.",
        "Learning rates decay to zero at each run's own end; scores on the way are those of rates not yet decayed.",
        "Probes are linear and of the last layer; the paper fine-tunes. Replaced word is ELECTRA's own question.",
        "Intervals are those of training (seeds), not of the choice of texts, and not corrected for the number of comparisons.",
    ),
)  # fmt: skip
