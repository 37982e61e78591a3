"""06: is an accumulated gradient the large batch's, what does it cost, and what did the famous bug do?

Texts of very unequal length, as in instruction tuning: requests of some 14 tokens and stretches of conversation of up to 64,
three to one. A short text has 2 tokens to predict, a long one 9.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np

from bertcraft import machine
from bertcraft.lab import pretraining
from bertcraft.lab.experiment import Arm, Claim, Comparison, Context, Experiment, Metric
from bertcraft.pretrain import held_out as held_out_loss
from bertcraft.techniques import gradient_accumulation as technique
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree, value_and_grad
from bertcraft.tensor.parallel import sharded_value_and_grad

VOCABULARY = 2048
LENGTH = 64  # longer texts are cut
MESSAGES = 8  # of a conversation in one text
CUTS = (1, 2, 4, 8, 16, 32)  # numbers of micro-batches that are tried
REPLAYED = 4  # first losses that are stored and can be replayed

# ------------------------------------------------------------------------------------------------------------- texts


@lru_cache(maxsize=1)
def texts(count: int) -> tuple[pretraining.Texts, pretraining.Texts]:
    """Requests (``count`` to train on) and stretches of conversation (a third as many), with one tokenizer."""
    from bertcraft.data.batches import frame, pad, tokenize
    from bertcraft.data.tokenizer import train_wordpiece

    parts = [pretraining.documents(corpus, VOCABULARY)[1] for corpus in ("utterances", "chitchat")]
    parts[1] = {part: _stretches(documents) for part, documents in parts[1].items()}
    tokenizer = train_wordpiece(parts[0]["train"] + parts[1]["train"], VOCABULARY, "accumulation")
    rows = []
    for kind, most in zip(parts, (count, count // 3), strict=True):
        framed = {p: frame(tokenize(tokenizer, kind[p][: most if p == "train" else 1000]), 2, 3, LENGTH) for p in kind}
        rows.append({p: pad(each, 0, LENGTH)[0] for p, each in framed.items()})
    # one text in four is a conversation: the frequencies of the mixture
    frequency = pretraining.log_frequency(np.concatenate([kind["train"] for kind in rows]), VOCABULARY)
    return tuple(pretraining.Texts(tokenizer, **kind, log_frequency=frequency) for kind in rows)


def _stretches(documents: list[str]) -> list[str]:
    lines = ([line for line in document.split("\n") if line.strip()] for document in documents)
    return [" ".join(own[i : i + MESSAGES]) for own in lines for i in range(0, len(own), MESSAGES)]


def batch_maker(settings: dict, seed: int) -> Callable[[int], dict]:
    """``make_batch(step)``: three requests for each conversation (or requests alone), newly masked, in random order.

    "grouped" sorts a batch by length, as group_by_length of transformers' Trainer does: the same texts under the same masks,
    so the full batch's gradient is the same, but short and long texts stand in micro-batches of their own.
    """
    from bertcraft.data.batches import batch_indices
    from bertcraft.train import generator

    requests, conversations = texts(settings["texts"])
    long = 0 if settings.get("requests_only") else settings["batch"] // 4
    short = settings["batch"] - long
    everything = np.concatenate([requests.train, conversations.train])

    def make_batch(step: int) -> dict:
        numbers = batch_indices(len(requests.train), short, seed, step)
        if long:
            more = batch_indices(len(conversations.train), long, seed, step)
            numbers = np.concatenate([numbers, len(requests.train) + more])
        numbers = numbers[generator(seed, step).permutation(len(numbers))]
        if settings.get("grouped"):
            numbers = numbers[np.argsort((everything[numbers] != 0).sum(axis=1), kind="stable")]
        reading = np.full(len(numbers), step)  # each step draws new masks
        return pretraining.mask(everything[numbers], numbers, reading, seed, 0.15, requests.vocabulary)

    return make_batch


def evaluator(settings: dict, config, part: str) -> Callable[[dict], dict]:
    """``evaluate(params)``: losses in nats at [MASK] on requests, on conversations and on their mixture, three to one."""
    kinds = dict(zip(("short_loss", "long_loss"), texts(settings["texts"]), strict=True))
    if settings.get("requests_only"):
        del kinds["long_loss"]
    rows = {"short_loss": 3 * settings["held_out"], "long_loss": settings["held_out"]}
    tests = {name: held_out_loss.HeldOut(getattr(kind, part)[: rows[name]], kind) for name, kind in kinds.items()}
    weights = [test.masked for test in tests.values()]

    def evaluate(params: dict) -> dict:
        losses = {name: test(params, config)["loss"] for name, test in tests.items()}
        if len(losses) == 1:
            return losses
        return {"loss": float(np.average(list(losses.values()), weights=weights)), **losses}

    return evaluate


# ---------------------------------------------------------------------------------------------------------- training


def weighting(settings: dict, micro: int) -> Callable[[dict], float] | None:
    """What a micro-batch of ``micro`` rows counts for, and the batch in all."""
    return {
        "tokens": technique.predicted,
        "equal": lambda batch: -(-len(batch["at"]) // micro),  # 1 a micro-batch: the mean of means
        "none": None,  # the sum of means
    }[settings["weight"]]


def gradient_function(settings: dict, loss: Callable, micro: int, threads: int = 1) -> Callable:
    """``(params, batch, step) -> (loss, gradients)``: the technique's sum, over threads."""
    return sharded_value_and_grad(
        loss, shard_size=micro, weight=weighting(settings, micro), prepare=masking.trimmed, threads=threads
    )


def train(step_function, params, make_batch, settings: dict, seed: int, context: Context, steps: int, evaluate=None):
    """``steps`` steps by the settings' rule; goes on where the run in ``context.folder`` was stopped. A ``FitResult``."""
    from bertcraft.train import adamw, chain, clip_by_global_norm, fit, lamb, warmup_linear

    total = settings["steps"]
    rate = warmup_linear(settings["rate"], max(1, total // 10), total)
    rule = {"adamw": adamw, "lamb": lamb}[settings["rule"]](rate, b2=0.98, eps=1e-6, weight_decay=0.01)
    return fit(
        step_function, params, chain(clip_by_global_norm(1.0), rule), make_batch, steps, seed=seed,
        folder=context.folder, save_every_seconds=10, signature=settings, evaluate=evaluate,
        evaluate_every=max(1, total // 5),
        report=lambda p: context.report(p.step, p.steps, f"step {p.step}/{p.steps} loss {p.loss:.2f}"),
    )  # fmt: skip


def masked_lm_start(settings: dict, seed: int):
    """Configuration, first parameters and loss of the small masked language model."""
    config = pretraining.config_of(pretraining.Setting(length=LENGTH), VOCABULARY)
    params = pretraining.initial(config, texts(settings["texts"])[0], seed)
    return config, params, lambda p, batch, rng: masking.masked_lm_loss(p, batch, rng, config)


def masked_lm(settings: dict, seed: int, context: Context, steps: int | None = None) -> dict:
    """Train; the losses on held-out text, how far the gradient is from the full batch's, memory and time."""
    config, params, loss = masked_lm_start(settings, seed)
    make_batch = batch_maker(settings, seed)
    step = gradient_function(settings, loss, settings["micro"], context.threads)
    evaluate = None if steps else evaluator(settings, config, "held_out")
    fitted = train(step, params, make_batch, settings, seed, context, steps or settings["steps"], evaluate)
    figures = {"first_losses": fitted.losses[:REPLAYED].tolist()}
    if steps:
        return figures
    own = settings["batch"] // settings["micro"]
    figures |= fitted.evaluations[-1][1]
    figures["curve"] = [[done, losses["loss"]] for done, losses in fitted.evaluations]
    figures["gradient_norm"] = float(np.mean(fitted.gradient_norms[-(settings["steps"] // 4) :]))
    if settings.get("cuts"):
        batches = [make_batch(settings["steps"] + i) for i in range(4)]
        function = partial(gradient_function, settings, loss)
        figures["gradient_errors"] = gradient_errors(fitted.params, loss, function, batches, settings["cuts"])
        figures["gradient_error"] = dict(figures["gradient_errors"])[own]
    if settings.get("cost"):
        figures["cost"] = [cost(cut) for cut in settings["cost"]]
        at_own = next(point for point in figures["cost"] if point["micro_batches"] == own)
        figures |= {"peak_mb": at_own["peak_mb"], "step_seconds": at_own["step_seconds"]}
    return figures


def large_batch(settings: dict, seed: int, context: Context, steps: int | None = None) -> dict:
    """Train with each of the learning rates, keep the one that is best on ``dev``, and report it on held-out text."""
    config, params, loss = masked_lm_start(settings, seed)
    make_batch = batch_maker(settings, seed)
    step = gradient_function(settings, loss, settings["micro"], context.threads)
    dev, tried = evaluator(settings, config, "dev"), []
    for i, rate in enumerate(settings["rates"]):
        own = settings | {"rate": rate}
        told = partial(_one_of, context.report, i, len(settings["rates"]))
        where = replace(context, folder=context.folder and context.folder / f"rate{i}", report=told)
        fitted = train(step, params, make_batch, own, seed, where, steps or settings["steps"])
        if steps:
            return {"first_losses": fitted.losses[:REPLAYED].tolist()}
        tried.append((dev(fitted.params)["short_loss"], rate, fitted))
    _, rate, best = min(tried, key=lambda each: each[0])
    figures = {"first_losses": tried[0][2].losses[:REPLAYED].tolist(), "rate": rate}
    figures["dev_losses"] = [[rate, loss] for loss, rate, _ in tried]
    return figures | evaluator(settings, config, "held_out")(best.params)


def _one_of(report: Callable, i: int, count: int, done: float, total: float, text: str) -> None:
    report(i * total + done, count * total, f"learning rate {i + 1} of {count}, {text}")


# --------------------------------------------------------------------------------------------------------- gradients


def gradient_errors(params, loss, function, batches, cuts) -> list[list[float]]:
    """For each number of micro-batches: |accumulated - full| / |full| in %, the mean over some batches (in float32)."""
    errors = np.zeros((len(batches), len(cuts)))
    for i, batch in enumerate(batches):
        whole = value_and_grad(loss)(params, batch, None)[1]
        for j, cut in enumerate(cuts):
            part = function(len(batch["at"]) // cut)(params, batch, 0)[1]
            errors[i, j] = 100 * norm(tree.map(np.subtract, part, whole)) / norm(whole)
    return [[cut, float(error)] for cut, error in zip(cuts, errors.mean(axis=0), strict=True)]


def norm(gradients) -> float:
    return float(np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in tree.leaves(gradients))))


def cosine(a, b) -> float:
    products = (np.sum(np.multiply(x, y, dtype=np.float64)) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))
    return float(sum(products)) / (norm(a) * norm(b))


# ------------------------------------------------------------------------------------------------- memory and time


def cost(micro_batches: int) -> dict:
    """Peak memory and time of a training step, in a process of its own: a peak never comes down."""
    command = [sys.executable, "-m", __name__, str(micro_batches)]
    done = subprocess.run(command, env=machine.child_environment(), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def measure_cost(micro_batches: int, steps: int = 4) -> dict:
    """Steps of AdamW on 32 texts of 128 tokens, 2 layers of width 256: what this process needed at most, and the time.

    Neither depends on what the tokens are, so they are drawn at random.
    """
    from bertcraft.bert import initial_params
    from bertcraft.train import adamw, apply

    rows, length, vocabulary, rng = 32, 128, 8192, np.random.default_rng(0)
    config = pretraining.config_of(pretraining.Setting(hidden=256, length=length), vocabulary)
    params, rule = initial_params(config, 0), adamw(1e-3)
    state = rule.init(params)
    ids = rng.integers(5, vocabulary, (rows, length))
    words = {"mask_id": 4, "vocab_size": vocabulary, "first_word_id": pretraining.FIRST_WORD}
    batch = pretraining.mask(ids, np.arange(rows), np.zeros(rows), 0, 0.15, words)
    loss = lambda p, b, r: masking.masked_lm_loss(p, b, r, config)  # noqa: E731
    step = gradient_function({"weight": "tokens"}, loss, rows // micro_batches)
    before, times = machine.peak_memory(), []
    for i in range(steps):
        start = time.perf_counter()
        state = apply(rule, step(params, batch, i)[1], state, params)
        times.append(time.perf_counter() - start)
    return {
        "micro_batches": micro_batches, "peak_mb": machine.peak_memory(), "before_mb": before,
        "step_seconds": float(np.median(times[1:])),  # the first one touches memory
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------- contrastive loss

PAIR_LENGTH = 32


@lru_cache(maxsize=1)
def pairs(count: int) -> dict[str, dict[str, np.ndarray]]:
    """Verses in two translations: ``count`` pairs to train on, and pairs of other books that are held out."""
    from bertcraft.data import pairs as read
    from bertcraft.data.batches import frame, pad, tokenize
    from bertcraft.data.tokenizer import train_wordpiece

    found = read("bible_pairs")
    order = np.random.default_rng(0).permutation(len(found.train))[:count]
    parts = {"train": [found.train[i] for i in order], "held_out": found.test}
    tokenizer = train_wordpiece([verse for pair in parts["train"] for verse in pair], VOCABULARY, "verses")

    def rows(verses):
        return pad(frame(tokenize(tokenizer, verses), 2, 3, PAIR_LENGTH), 0, PAIR_LENGTH)[0]

    sides = ("first", "second")
    return {part: {s: rows([pair[i] for pair in own]) for i, s in enumerate(sides)} for part, own in parts.items()}


def contrastive(settings: dict, seed: int, context: Context, steps: int | None = None) -> dict:
    """Train an encoder to find a verse's other translation; negatives are the other pairs of the batch."""
    from bertcraft.bert import encode, initial_params
    from bertcraft.data.batches import batch_indices

    config = pretraining.config_of(pretraining.Setting(length=PAIR_LENGTH), VOCABULARY, head="base")
    parts = pairs(settings["pairs"])

    def encoded(params, batch, rng):
        masks = [(batch[side] != 0).astype(np.int32) for side in ("first", "second")]
        hidden = [encode(params, config, batch[side], m) for side, m in zip(("first", "second"), masks, strict=True)]
        return tuple(F.mean_pool(h, m) for h, m in zip(hidden, masks, strict=True))

    def accumulated(micro: int) -> Callable:
        def loss(params, batch, rng):
            return technique.in_batch_negatives(*encoded(params, batch, rng))

        return sharded_value_and_grad(loss, shard_size=micro, weight=lambda b: len(b["first"]), threads=context.threads)

    def cached(micro: int) -> Callable:
        def step(params, batch, number):
            pieces = technique.micro_batches(batch, micro)
            return technique.cached_value_and_grad(encoded, technique.in_batch_negatives, params, pieces)

        return step

    def make_batch(step: int) -> dict:
        numbers = batch_indices(len(parts["train"]["first"]), settings["batch"], seed, step)
        return {side: rows[numbers] for side, rows in parts["train"].items()}

    ways = {"accumulated": accumulated, "cached": cached}
    start = initial_params(config, seed)
    step = ways[settings["gradient"]](settings["micro"])
    fitted = train(step, start, make_batch, settings, seed, context, steps or settings["steps"])
    figures = {"first_losses": fitted.losses[:REPLAYED].tolist()}
    if steps:
        return figures
    held_out = {side: rows[: settings["held_out"]] for side, rows in parts["held_out"].items()}
    first, second = map(F.normalize, encoded(fitted.params, held_out, None))
    found = np.argmax(first @ second.T, axis=1) == np.arange(len(first))
    figures["retrieval"] = 100 * float(found.mean())
    if settings.get("cuts"):
        batch, cosines = make_batch(settings["steps"]), []
        whole = accumulated(settings["batch"])(fitted.params, batch, 0)[1]
        for cut in settings["cuts"]:
            part = ways[settings["gradient"]](settings["batch"] // cut)(fitted.params, batch, 0)[1]
            cosines.append([cut, cosine(part, whole)])
        figures["cosines"] = cosines
    return figures


# ------------------------------------------------------------------------------------------------------------ drawing


# ------------------------------------------------------------------------------------------------------- declaration

TASKS = {"masked_lm": masked_lm, "large_batch": large_batch, "contrastive": contrastive}


def run(arm: Arm, seed: int, context: Context) -> dict:
    return TASKS[arm.settings["task"]](arm.settings, seed, context)


def replay(arm: Arm, seed: int, context: Context) -> dict:
    """The losses of the first steps."""
    return TASKS[arm.settings["task"]](arm.settings, seed, replace(context, folder=None), steps=REPLAYED)


# Rate: after 400 steps the loss on dev was 6.146 with 1e-3, 6.150 with 2e-3 and 6.380 with 4e-3 (weighted by tokens, seed 100).
MASKED = {
    "task": "masked_lm", "texts": 12_000, "batch": 32, "micro": 4, "steps": 400, "rule": "adamw", "rate": 1e-3,
    "weight": "tokens", "held_out": 250, "cuts": CUTS,
}  # fmt: skip
LARGE = {  # by tokens the order changes no gradient: grouped by length there is less padding to compute
    "task": "large_batch", "texts": 12_000, "requests_only": True, "batch": 256, "micro": 32, "grouped": True, "steps": 60,
    "weight": "tokens", "held_out": 250,
}  # fmt: skip
PAIRS = {
    "task": "contrastive", "pairs": 8000, "batch": 64, "micro": 8, "steps": 60, "rule": "adamw", "rate": 1e-3,
    "gradient": "accumulated", "held_out": 500, "cuts": CUTS,
}  # fmt: skip

ARMS = (
    Arm("full", "full batch", MASKED | {"micro": 32, "cuts": (), "cost": (1,)}),
    Arm("weighted", "weighted by tokens", MASKED | {"cost": CUTS}),
    Arm("mean_of_means", "mean of means", MASKED | {"weight": "equal"}),
    Arm(
        "grouped", "mean of means, grouped by length", MASKED | {"weight": "equal", "grouped": True},
        control="The worst case: short and long texts in micro-batches of their own. The batch is the same, so the full batch "
        "is the baseline here too.",
    ),
    Arm(
        "sum_of_means", "sum of means", MASKED | {"weight": "none"},
        control="What transformers 5.23 does to its masked BERT (issue 47688): is it worse, with clipping and Adam?",
    ),
    Arm("adamw", "AdamW, batch 256", LARGE | {"rule": "adamw", "rates": (1e-3, 2e-3, 4e-3)}),
    Arm("lamb", "LAMB, batch 256", LARGE | {"rule": "lamb", "rates": (1e-2, 2e-2, 4e-2)}),
    Arm("pairs_full", "64 pairs at once", PAIRS | {"micro": 64, "cuts": ()}),
    Arm("pairs_accumulated", "accumulated", PAIRS),
    Arm(
        "pairs_cached", "GradCache", PAIRS | {"gradient": "cached"},
        control="The same micro-batches with an exact gradient: what accumulation loses is negatives, not precision.",
    ),
)  # fmt: skip
METRICS = {  # short titles: seven columns in 80 characters
    "loss": Metric("loss", "nats", 4),  # held out, as the next two
    "short_loss": Metric("short texts", "nats", 4),
    "long_loss": Metric("long texts", "nats", 4),
    "gradient_error": Metric("off by", "%", 2),
    "peak_mb": Metric("peak", "MB", 0),
    "step_seconds": Metric("step", "s", 2),
    "retrieval": Metric("found", "%", 1),
}
COMPARISONS = (
    Comparison("mean of means against the full batch", "mean_of_means", "full", "loss", better=1),
    Comparison("mean of means grouped by length, against the full batch", "grouped", "full", "loss", better=1),
    Comparison("the same on long texts, which count too little", "grouped", "full", "long_loss", better=1),
    Comparison("the same on short texts, which count too much", "grouped", "full", "short_loss", better=-1),
    Comparison("weighted by tokens against the full batch (none expected)", "weighted", "full", "loss", better=1),
    Comparison("sum of means against mean of means", "sum_of_means", "mean_of_means", "loss", better=1),
    Comparison("memory: 8 micro-batches against one", "weighted", "full", "peak_mb", better=-1, ratio=True),
    Comparison("time: 8 micro-batches against one", "weighted", "full", "step_seconds", better=1, ratio=True),
    Comparison("LAMB against AdamW, batch of 256", "lamb", "adamw", "short_loss", better=-1),
    Comparison("contrastive: accumulated against all pairs at once", "pairs_accumulated", "pairs_full", "retrieval", better=-1),
    Comparison("contrastive: GradCache against all at once", "pairs_cached", "pairs_full", "retrieval", better=-1),
)
CLAIM = Claim(
    collection="memory efficiency",
    paper="No founding paper and no figure. Exact only if the loss is normalised over the whole accumulated batch; it saves "
    "activations, not weights or optimiser state. Major libraries averaged the means until October 2024.",
    source="huggingface/blog pull request 2414 (October 2024); LAMB: You et al. 2020, arXiv:1904.00962",
)


def _short(question: str, names: tuple[str, ...], steps: int, cuts: tuple[int, ...], quick: Experiment | None) -> Experiment:
    smaller = {"texts": 3000, "held_out": 60, "pairs": 2000, "steps": steps}
    fewer = {"cuts": cuts, "cost": (1, 8, 32)}
    arms = []
    for arm in ARMS:
        if arm.name in names:
            own = {name: value for name, value in smaller.items() if name in arm.settings}
            own |= {"held_out": 500} if "pairs" in own else {}  # as many to find it among
            own |= {name: values for name, values in fewer.items() if len(arm.settings.get(name, ())) > 1}
            arms.append(Arm(arm.name, arm.title, arm.settings | own, arm.control))
    return Experiment(
        number=6, slug="gradient_accumulation", title="Gradient accumulation", question=question, claim=CLAIM,
        scale="a BERT of 2 layers, 128 wide, in its first minute",
        arms=tuple(arms), metrics=METRICS, comparisons=tuple(c for c in COMPARISONS if {c.treatment, c.baseline} <= set(names)),
        run=run, replay=replay, minutes=1, seeds=1, quick=quick,
        notes=("Quick: the gradients, memory and time are those of the full experiment; training is too short to judge by.",),
    )  # fmt: skip


EXPERIMENT = Experiment(
    number=6,
    slug="gradient_accumulation",
    title="Gradient accumulation",
    scale="a BERT of 2 layers, 128 wide, in its first minute",
    question="Is a gradient accumulated over micro-batches the large batch's, what does it save, and what did the bug cost?",
    claim=CLAIM,
    arms=ARMS,
    metrics=METRICS,
    comparisons=COMPARISONS,
    run=run,
    replay=replay,
        minutes=17,
    code=(pretraining, held_out_loss),
    quick=_short(
        "Is a gradient accumulated over micro-batches that of the large batch?",
        ("full", "weighted", "mean_of_means", "grouped", "pairs_full", "pairs_accumulated", "pairs_cached"), 30, CUTS,
        _short("Is an accumulated gradient exact?", ("full", "weighted", "mean_of_means"), 10, (1, 2, 8, 32), None),
    ),
    notes=(
        "Losses are on held-out text, in nats a masked token. Off by: the distance of the arm's gradient from the full batch's, "
        "in % of its norm. Found: verses whose other translation came first among 500.",
        "A BERT of 2 layers, 128 wide, in its first minute: 0.3 nats below word frequencies. All arms of masked language "
        "modelling have one learning rate, chosen for the correct gradient.",
        "Three texts in four are short (2 tokens to predict, long ones 9). How far the bug reaches depends on that mixture, and "
        "held-out loss is over the same.",
        "Peak memory is that of a process, Python and NumPy included: 2 layers, 256 wide, 32 texts of 128 tokens. On a CPU small "
        "micro-batches fit the cache, so time need not grow with their number as it does on a GPU.",
        "AdamW and LAMB: three learning rates each, a factor of two apart; every seed chooses on dev text.",
        "Intervals are those of training (seeds) and not corrected for the number of comparisons.",
    ),
)  # fmt: skip

if __name__ == "__main__":  # one point of the curves of memory and time
    print(json.dumps(measure_cost(*map(int, sys.argv[1:]))))
