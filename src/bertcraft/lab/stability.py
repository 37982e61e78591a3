"""Which learning rates train a model: a short training at each of several, from one start, and what became of it.

A rate *trains* where the loss at [MASK], of texts that the model has read, ends at least ``GAP`` below the plateau: what the
frequencies of the words in these very texts give, as they stand, not smoothed. The texts are few, and a model that has learnt
which words they hold and nothing else is far below the smoothed frequencies that it started from. It is asked of texts read
because the question is whether an optimiser gets anywhere, not whether what it finds carries over. As in experiment 01 every seed
has a part of the corpus of its own.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from bertcraft.errors import TrainingError
from bertcraft.lab import architectures, parts
from bertcraft.lab.architectures import Architecture, Judge
from bertcraft.lab.experiment import Context
from bertcraft.lab.pretraining import Setting, Texts, batch_maker
from bertcraft.pretrain.objectives import FIRST_WORD
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.tensor import functions as F
from bertcraft.tensor.parallel import pool, sharded_value_and_grad
from bertcraft.train import Rule, fit

GAP = 0.5  # nats
MASKS = 2  # under which a text that was read is judged
SPIKE = 10.0  # times the median norm of a run's gradients
REPLAYED = 10  # first losses that are stored and can be replayed


@dataclass(frozen=True)
class Task:
    """What a seed trains, on what, and how it is judged."""

    setting: Setting
    texts: Texts
    architecture: Architecture
    make_batch: Callable[[int], dict]
    read: Judge
    unread: Judge

    @property
    def plateau(self) -> float:
        """The loss at [MASK] of one who knows how often each word stands in the texts read, and nothing else; in nats."""
        words = self.texts.train[self.texts.train >= FIRST_WORD]
        counts = np.bincount(words, minlength=len(self.texts.log_frequency))
        batch = self.read.batch
        masked = np.take_along_axis(batch["input_ids"], batch["at"], axis=1) == self.texts.vocabulary["mask_id"]
        labels = batch["labels"][masked & (batch["labels"] != F.IGNORED)]
        return float(-np.log(counts[labels] / len(words)).mean())


def task_of(settings: dict, seed: int, build: Callable[[dict, Setting, Texts, int], Architecture]) -> Task:
    """The task that an arm's settings describe."""
    setting = architectures.setting_of(settings)
    texts = parts.texts_of(setting, seed)
    read, unread = Judge(np.concatenate([texts.train] * MASKS), texts), Judge(texts.held_out, texts)
    return Task(setting, texts, build(settings, setting, texts, seed), batch_maker(setting, texts, seed), read, unread)


def attempt(task: Task, rate: float, rule: Rule, seed: int, context: Context, signature: dict, steps: int | None = None) -> dict:
    """Train at a rate, wholly or for the first ``steps``, and say what became of it.

    "trained"; "loss" and "unread" at [MASK], "curve" of the former on the way; "norm", the mean of the gradients' norms,
    "spikes", how many were ``SPIKE`` times their median, "norms", the largest of every tenth of the run; "back" is False where
    the model had once been off the plateau and ended on it. A training that was not finite has "trained", False, and "stopped",
    its step.
    """
    setting, architecture, last = task.setting, task.architecture, 0

    def report(progress) -> None:
        nonlocal last
        last = progress.step
        text = f"rate {rate:g}: {progress.step}/{progress.steps} loss {progress.loss:.2f}"
        context.report(progress.step, progress.steps, text)

    step = sharded_value_and_grad(
        architecture.loss, shard_size=setting.shard, weight=masking.predicted, prepare=masking.trimmed, threads=context.threads
    )
    try:
        result = fit(
            step, architecture.start, rule, task.make_batch, steps or setting.steps, seed=seed,
            folder=None if steps or not context.folder else context.folder / f"rate-{rate:g}", save_every_seconds=10,
            signature={**signature, **asdict(setting), "rate": rate}, report=report, pool=pool(context.threads),
            evaluate=None if steps else lambda params: task.read(architecture, params)["loss"],
            evaluate_every=max(1, setting.steps // setting.evaluations),
        )  # fmt: skip
    except TrainingError:
        return {"rate": rate, "trained": False, "stopped": last + 1}
    if steps:
        return {"rate": rate, "first_losses": result.losses.tolist()}
    curve = [loss for _, loss in result.evaluations]
    enough, norms = task.plateau - GAP, result.gradient_norms
    parts = np.array_split(norms, min(10, len(norms)))
    return {
        "rate": rate, "trained": curve[-1] <= enough, "loss": curve[-1],
        "unread": task.unread(architecture, result.params)["loss"],
        "curve": curve, "norm": float(norms.mean()), "spikes": int(np.sum(norms > SPIKE * np.median(norms))),
        "norms": [float(part.max()) for part in parts], "back": curve[-1] <= enough or min(curve) > enough,
        "first_losses": result.losses[:REPLAYED].tolist(),
    }  # fmt: skip


def within(context: Context, number: int, of: int) -> Context:
    """The context of attempt ``number``, from 0, of several: what it reports is its part of the whole."""
    return replace(context, report=lambda done, total, text: context.report(number * total + done, of * total, text))


def figures(task: Task, found: list[dict]) -> dict:
    """Of attempts at several rates: "share", those that train in %; "highest", the highest of these; "able", 1 where there is
    one; "finite", the highest rate whose run ended in finite numbers; "loss" and "unread" of the one whose loss is lowest;
    "lost", those that did not come back; and all of them."""
    trained = [each for each in found if each["trained"]]
    ended = [each for each in found if "loss" in each]
    best = min(ended, key=lambda each: each["loss"]) if ended else {}
    return {
        "share": 100 * len(trained) / len(found), "able": float(bool(trained)), "attempts": found, "plateau": task.plateau,
        "lost": sum(not each.get("back", True) for each in found), "spikes": sum(each.get("spikes", 0) for each in found),
        **({"highest": max(each["rate"] for each in trained)} if trained else {}),
        **({"finite": max(each["rate"] for each in ended)} if ended else {}),
        **{name: best[name] for name in ("loss", "unread") if best},
    }  # fmt: skip


def trivial(task: Task, method: str) -> dict:
    """The losses at [MASK] of "unigram", the frequencies of the words in the texts read, or of the model "untrained"."""
    if method == "unigram":
        return {"loss": task.plateau, "unread": task.unread.unigram}
    judged = (judge(task.architecture, task.architecture.start)["loss"] for judge in (task.read, task.unread))
    return dict(zip(("loss", "unread"), judged, strict=True))
