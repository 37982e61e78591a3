"""A pretraining run: corpus, tokenizer, objective and engine put together, resumed where it was stopped, saved as a model."""

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertcraft.bert.model import Model
from bertcraft.data import cache, files
from bertcraft.data.stream import Stream, rows_of
from bertcraft.errors import BertcraftError, InputError
from bertcraft.pretrain import cluster, texts
from bertcraft.pretrain.held_out import HeldOut, Words, log_frequency
from bertcraft.pretrain.log import Log
from bertcraft.pretrain.objectives import FIRST_WORD, Objective, continued, family_of, merged, objective, with_blank_rows
from bertcraft.pretrain.start import Start, check_train, open_start, trained_names, with_masked_lm_head
from bertcraft.techniques import advanced_scheduling as scheduling
from bertcraft.techniques.gradient_clipping import by_global_norm
from bertcraft.techniques.mixed_precision_training import HALF, loss_scaling, mixed_precision
from bertcraft.tensor import tree
from bertcraft.train import Rule, adamw, chain
from bertcraft.train.loop import Engine, FitResult, Progress, fit_on, numpy_engine
from bertcraft.train.schedules import Schedule
from bertcraft.train.state import FILE

BACKENDS = ("numpy", "jax")
PRECISIONS = ("float32", *HALF)
SHARD = 4096  # tokens that a core works on at a time in NumPy: what fits its cache
MEASURED = 5  # times that held-out text is looked at in a run
_TOKENIZER_SAMPLE = 64  # blocks from which a tokenizer is learnt
_FREQUENCY_SAMPLE = 16  # blocks in which words are counted


@dataclass(frozen=True)
class Plan:
    """All that decides what a run computes. The same plan gives the same model, whatever stops it on the way."""

    objective: str
    size: Any  # a name, or the fields of a Config; None where the run goes on from a checkpoint
    corpus: str
    steps: int
    batch: int = 128
    length: int = 128
    rate: float = 5e-4
    warmup: int = 1000
    schedule: str = "linear"  # a name of the technique's SCHEDULES
    weight_decay: float = 0.01
    clip: float = 1.0  # the longest gradient of all parameters together; 0: any
    mask_rate: float = 0.15
    dropout: float | None = 0.1  # None: that of the checkpoint
    vocab_size: int = 8192
    seed: int = 0
    backend: str = "numpy"
    precision: str = "float32"
    accumulate: int = 1
    sharded: bool = False
    start: str | None = None  # the folder of a checkpoint to go on from, with its tokenizer
    train: str = "all"  # of the checkpoint: all, head or top:N
    architecture: str | None = None  # the family of a model that starts from random numbers; None: the objective's first

    def check(self) -> None:
        """Raise InputError for numbers that no run can have."""
        for name in ("steps", "batch", "accumulate", "vocab_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: got {getattr(self, name)}, expected 1 or more")
        if self.backend not in BACKENDS:
            raise InputError(f"backend: got {self.backend!r}, expected one of {', '.join(BACKENDS)}")
        if self.backend == "numpy" and self.sharded:
            raise InputError("cut parameters are XLA's: give --backend jax")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision: got {self.precision!r}, expected one of {', '.join(PRECISIONS)}")
        if not 0 <= self.clip < float("inf"):
            raise InputError(f"clip: got {self.clip}, expected the longest gradient, or 0 for any")
        if self.batch % self.accumulate:
            raise InputError(f"a batch of {self.batch} rows has no {self.accumulate} equal parts")
        self.rates()
        family_of(self.objective, self.architecture)
        check_train(self.train)
        if self.start is None:
            if self.train != "all":
                raise InputError(f"train: got {self.train!r} for a model that starts from random numbers: give --from as well")
        elif self.objective != "masked_lm":
            raise InputError(f"objective: got {self.objective!r}, expected masked_lm, which alone goes on from a checkpoint")
        elif self.architecture:
            raise InputError(f"architecture: got {self.architecture!r} and a checkpoint to go on from, which has its own")

    def rates(self) -> Schedule:
        """The learning rate of each step. Raises InputError for a schedule that there is not, or that has no such warm-up."""
        return scheduling.named(self.schedule, self.rate, min(self.warmup, self.steps), self.steps)


class Pretrained(NamedTuple):
    """A finished run. ``held_out``: what ``held_out.json`` in its folder holds (None where no text was held out, or in another
    process than the first): steps, positions, unigram (nats), before and after (see :class:`HeldOut`)."""

    fit: FitResult
    held_out: dict | None


def pretrain(
    plan: Plan,
    folder: Path,
    *,
    workers: int = 0,
    save_every_minutes: float = 10.0,
    told: Callable[[str], None] = lambda text: None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Pretrained:
    """Train as planned, or go on with the run whose state is in ``folder``; write ``model`` into it, a Hugging Face folder.

    With several processes (:func:`bertcraft.pretrain.cluster.join`) each calls it alike; rank 0 writes. ``workers`` tokenise
    ahead. ``told`` hears what is being prepared. Raises TrainingError, DataError or InputError as its parts do, InputError where
    ``folder`` is a file, DataError where another process works in it.
    """
    plan.check()
    if plan.backend == "jax":
        cluster.agree(asdict(plan))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: --out names a folder to make")
    start = open_start(plan.start, plan.length) if plan.start else None
    blocks, kept_back = texts.divided(plan.corpus, told)
    tokenizer = start.model.tokenizer if start else _tokenizer(plan, blocks, told)
    vocab_size = start.model.config.vocab_size if start else tokenizer.get_vocab_size()
    frequency = _frequency(blocks, tokenizer, plan.length, start, vocab_size)
    goal = _goal(plan, start, tokenizer, frequency)
    rule = _rule(plan)
    engine = _engine(plan, goal, rule)
    params = goal.initial(plan.seed, np.float32)
    held_out = _held_out(kept_back, tokenizer, plan, Words(goal.vocabulary, frequency)) if engine.rank == 0 else None
    folder.mkdir(parents=True, exist_ok=True)
    counts = folder / f"rows-{engine.rank}.json"
    with _alone(folder, engine), Stream(blocks, tokenizer, plan.length, plan.seed, workers=workers, counts=counts) as stream:
        signature = {**asdict(plan), "corpus": stream.digest, "start": start.digest if start else None}
        if plan.backend == "jax":
            cluster.agree({"corpus and vocabulary": stream.digest, "checkpoint to go on from": signature["start"]})

        def make_batch(step: int) -> dict:
            numbers = np.arange(step * plan.batch, (step + 1) * plan.batch)
            return goal.batch(stream.batch(step, plan.batch), numbers, plan.seed)

        def measured(trained: Any) -> dict | None:
            config, complete = goal.models(trained)[goal.guesser]
            return held_out(complete, config) if held_out else None

        def evaluate(trained: Any) -> dict | None:
            nonlocal found
            found = measured(engine.host(trained))  # several processes give their parts
            return found

        def reported(progress: Progress) -> None:
            nonlocal log, found
            if engine.rank == 0:
                log = log or Log(folder, progress.step - 1)
                log.write(progress, found)
            if progress.skipped:
                told(f"step {progress.step:,} skipped: a gradient overflowed; the loss scale is now {progress.loss_scale:g}")
            if found:
                told(f"step {progress.step:,}: {_shown(found)}")
                found = None
            report(progress)

        if not (folder / "state" / FILE).exists():  # too little text is told before there is a state that another plan would find
            stream.batch(0, plan.batch)
        log = found = before = None
        if held_out:
            before = measured(params)
            told(f"held-out text: word frequencies alone {held_out.unigram:.3f} nats at {held_out.masked:,} [MASK]")
            told(f"before: {_shown(before)}")
        elif engine.rank == 0:
            told("no text could be held out to measure by: give more of it")
        try:
            result = fit_on(
                engine, params, rule.init(params), make_batch, plan.steps, seed=plan.seed, folder=folder / "state",
                save_every_seconds=60 * save_every_minutes, signature=signature, report=reported, evaluate=evaluate,
                evaluate_every=max(1, plan.steps // MEASURED),
            )  # fmt: skip
        except (RuntimeError, ValueError) as error:  # XLA raises both
            if isinstance(error, BertcraftError) or not (lost := cluster.lost(error)):
                raise
            raise lost from None
        finally:
            if log:
                log.close()
        trained, summary = engine.host(result.params), None
        if engine.rank == 0:
            _save(goal, trained, tokenizer, start, folder)
            if held_out:
                after = result.evaluations[-1][1]
                summary = {"steps": result.step, "positions": held_out.masked, "unigram": held_out.unigram}
                summary |= {"before": before, "after": after}
                cache.write(folder / "held_out.json", json.dumps(summary, indent=2).encode() + b"\n")
    return Pretrained(result._replace(params=trained), summary)


def _alone(folder: Path, engine: Engine) -> AbstractContextManager:
    """Keep other runs out of the folder; the first process does, for all of this run."""
    if engine.rank:
        return nullcontext()
    return cache.lock(folder / "lock", busy=f"{folder} is in use: another run pretrains into it; wait for it or end it")


def _shown(found: dict) -> str:
    return f"loss {found['loss']:.3f} nats at [MASK], {found['accuracy']:.1%} of the words guessed"


def _goal(plan: Plan, start: Start | None, tokenizer, frequency: np.ndarray) -> Objective:
    if start is None:
        vocabulary = {"mask_id": tokenizer.token_to_id("[MASK]"), "vocab_size": tokenizer.get_vocab_size()}
        return objective(
            plan.objective, plan.size, vocabulary, plan.length, architecture=plan.architecture, mask_rate=plan.mask_rate,
            dropout=plan.dropout,
        )  # fmt: skip
    config, params = with_masked_lm_head(start.model.config, start.model.params, frequency)
    trained = trained_names(config, params, plan.train)
    return continued(config, params, trained, start.vocabulary, mask_rate=plan.mask_rate, dropout=plan.dropout)


def _frequency(blocks: list[files.Block], tokenizer, length: int, start: Start | None, vocab_size: int) -> np.ndarray:
    """Logarithm of the words' shares in a sample of the blocks spread over all of them."""
    first = start.vocabulary["first_word_id"] if start else FIRST_WORD
    chosen = np.linspace(0, len(blocks) - 1, min(len(blocks), _FREQUENCY_SAMPLE)).astype(int)
    rows = np.concatenate([rows_of(blocks[i], tokenizer.to_str(), length) for i in chosen])
    return log_frequency(rows, vocab_size, first)


def _held_out(kept_back: list[str], tokenizer, plan: Plan, words: Words) -> HeldOut | None:
    rows = texts.rows(kept_back, tokenizer, plan.length)
    if not len(rows):
        return None
    found = HeldOut(rows, words, plan.mask_rate, pad_id=-1)  # no row has padding
    return found if found.masked else None


def _rule(plan: Plan) -> Rule:
    """AdamW with RoBERTa's b2 and eps (Liu et al. 2019, section 3.1), clipped; of float16 the loss is scaled."""
    clip = [by_global_norm(plan.clip)] if plan.clip else []
    rule = chain(*clip, adamw(plan.rates(), b2=0.98, eps=1e-6, weight_decay=plan.weight_decay))
    return loss_scaling(rule) if plan.precision == "float16" else rule


def _engine(plan: Plan, goal: Objective, rule) -> Engine:
    if plan.backend == "jax":
        from bertcraft.pretrain.xla import xla_engine

        return xla_engine(
            goal.loss, rule, seed=plan.seed, accumulate=plan.accumulate, weight=goal.weight, blank=with_blank_rows,
            precision=plan.precision, sharded=plan.sharded, fixed=goal.fixed,
        )  # fmt: skip
    from bertcraft.tensor.parallel import cpu_count, pool, sharded_value_and_grad

    rows = max(1, min(SHARD // plan.length, -(-plan.batch // (2 * plan.accumulate))))  # a small batch still keeps two cores busy
    drops = goal.describe["hidden_dropout_prob"] or goal.describe["attention_probs_dropout_prob"]
    loss = mixed_precision(goal.loss, plan.precision)
    step = sharded_value_and_grad(
        lambda params, batch, rng: loss(merged(params, goal.fixed), batch, rng),
        shard_size=rows, weight=goal.weight, seed=plan.seed if drops else None,
    )  # fmt: skip
    return numpy_engine(step, rule, pool(cpu_count()))


def _tokenizer(plan: Plan, blocks: list[files.Block], told: Callable[[str], None]):
    """A WordPiece tokenizer, learnt from a sample of the corpus spread over all of it."""
    from bertcraft.data.tokenizer import train_wordpiece

    chosen = np.linspace(0, len(blocks) - 1, min(len(blocks), _TOKENIZER_SAMPLE)).astype(int)
    described = json.dumps([[vars(part) for part in blocks[i]] for i in chosen])
    name = f"pretrain_{hashlib.blake2b(described.encode(), digest_size=8).hexdigest()}"
    told("learning a vocabulary")
    return train_wordpiece([text for i in chosen for text in files.texts(blocks[i])], plan.vocab_size, name)


def _save(goal: Objective, params: Any, tokenizer, start: Start | None, folder: Path) -> None:
    for name, (config, complete) in goal.models(params).items():
        model = Model(config, tree.map(np.asarray, complete), start.model.folder if start else None)
        if start is None:  # else the tokenizer's files are copied as they are
            model.tokenizer = tokenizer
        model.save(folder / name)
