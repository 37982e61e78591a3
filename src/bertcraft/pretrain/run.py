"""A pretraining run: corpus, tokenizer, objective and engine put together, resumed where it was stopped, saved as a model."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertcraft.bert.model import Model
from bertcraft.data import cache, files
from bertcraft.data.stream import Stream
from bertcraft.errors import BertcraftError, DataError, InputError
from bertcraft.pretrain import cluster
from bertcraft.pretrain.log import Log
from bertcraft.pretrain.objectives import Objective, objective, with_blank_rows
from bertcraft.tensor import tree
from bertcraft.train import adamw, chain, clip_by_global_norm, warmup_linear
from bertcraft.train.loop import Engine, FitResult, Progress, fit_on, numpy_engine

BACKENDS = ("numpy", "jax")
SHARD = 4096  # tokens that a core works on at a time in NumPy: what fits its cache
_TOKENIZER_SAMPLE = 64  # blocks from which a tokenizer is learnt


@dataclass(frozen=True)
class Plan:
    """All that decides what a run computes. The same plan gives the same model, whatever stops it on the way."""

    objective: str
    size: Any  # a name, or the fields of a Config
    corpus: str
    steps: int
    batch: int = 128
    length: int = 128
    rate: float = 5e-4
    warmup: int = 1000
    weight_decay: float = 0.01
    mask_rate: float = 0.15
    dropout: float = 0.1
    vocab_size: int = 8192
    seed: int = 0
    backend: str = "numpy"
    precision: str = "float32"
    accumulate: int = 1
    sharded: bool = False

    def check(self) -> None:
        """Raise InputError for numbers that no run can have."""
        for name in ("steps", "batch", "accumulate", "vocab_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: got {getattr(self, name)}, expected 1 or more")
        if self.backend not in BACKENDS:
            raise InputError(f"backend: got {self.backend!r}, expected one of {', '.join(BACKENDS)}")
        if self.backend == "numpy" and (self.precision != "float32" or self.sharded):
            raise InputError("bfloat16 and cut parameters are XLA's: give --backend jax")
        if self.batch % self.accumulate:
            raise InputError(f"a batch of {self.batch} rows has no {self.accumulate} equal parts")


def pretrain(
    plan: Plan,
    folder: Path,
    *,
    workers: int = 0,
    save_every_minutes: float = 10.0,
    told: Callable[[str], None] = lambda text: None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> FitResult:
    """Train as planned, or go on with the run whose state is in ``folder``; write ``model`` into it, a Hugging Face folder.

    With several processes (:func:`bertcraft.pretrain.cluster.join`) each calls it alike; rank 0 writes. ``workers`` tokenise
    ahead. ``told`` hears what is being prepared. Raises TrainingError, DataError or InputError as its parts do.
    """
    plan.check()
    if plan.backend == "jax":
        cluster.agree(asdict(plan))
    folder.mkdir(parents=True, exist_ok=True)
    blocks = _blocks(plan.corpus, told)
    tokenizer = _tokenizer(plan, blocks, folder, told)
    vocabulary = {"mask_id": tokenizer.token_to_id("[MASK]"), "vocab_size": tokenizer.get_vocab_size()}
    goal = objective(plan.objective, plan.size, vocabulary, plan.length, mask_rate=plan.mask_rate, dropout=plan.dropout)
    rule = chain(
        clip_by_global_norm(1.0),
        adamw(
            warmup_linear(plan.rate, min(plan.warmup, plan.steps), plan.steps), b2=0.98, eps=1e-6, weight_decay=plan.weight_decay
        ),
    )  # b2 and eps as RoBERTa has them (Liu et al. 2019, section 3.1)
    engine = _engine(plan, goal, rule)
    params = goal.initial(plan.seed, np.float32)
    with Stream(blocks, tokenizer, plan.length, plan.seed, workers=workers, counts=folder / f"rows-{engine.rank}.json") as stream:
        signature = {**asdict(plan), "corpus": stream.digest}
        if plan.backend == "jax":
            cluster.agree({"corpus and vocabulary": stream.digest})

        def make_batch(step: int) -> dict:
            numbers = np.arange(step * plan.batch, (step + 1) * plan.batch)
            return goal.batch(stream.batch(step, plan.batch), numbers, plan.seed)

        log = None

        def reported(progress: Progress) -> None:
            nonlocal log
            if engine.rank == 0:
                log = log or Log(folder, progress.step - 1)
                log.write(progress)
            report(progress)

        try:
            result = fit_on(
                engine, params, rule.init(params), make_batch, plan.steps, seed=plan.seed, folder=folder / "state",
                save_every_seconds=60 * save_every_minutes, signature=signature, report=reported,
            )  # fmt: skip
        except (RuntimeError, ValueError) as error:  # XLA raises both
            if isinstance(error, BertcraftError) or not (lost := cluster.lost(error)):
                raise
            raise lost from None
        finally:
            if log:
                log.close()
    trained = engine.host(result.params)
    if engine.rank == 0:
        _save(goal, trained, tokenizer, folder)
    return result._replace(params=trained)


def _engine(plan: Plan, goal: Objective, rule) -> Engine:
    if plan.backend == "jax":
        from bertcraft.pretrain.xla import xla_engine

        return xla_engine(
            goal.loss, rule, seed=plan.seed, accumulate=plan.accumulate, weight=goal.weight, blank=with_blank_rows,
            precision=plan.precision, sharded=plan.sharded,
        )  # fmt: skip
    from bertcraft.tensor.parallel import cpu_count, pool, sharded_value_and_grad

    rows = max(1, min(SHARD // plan.length, plan.batch // plan.accumulate))
    step = sharded_value_and_grad(goal.loss, shard_size=rows, weight=goal.weight, seed=plan.seed if plan.dropout else None)
    return numpy_engine(step, rule, pool(cpu_count()))


def _blocks(corpus: str, told: Callable[[str], None]) -> list[files.Block]:
    """The blocks of a folder, or of a corpus of the data cards, written once to the cache as a text file."""
    from bertcraft import data

    if Path(corpus).is_dir():
        return files.blocks(corpus)
    names = [card.name for card in data.cards() if card.kind == "prose"]
    if corpus not in names:
        raise DataError(f"corpus: got {corpus!r}, expected a folder that is there, or one of {', '.join(names)}")
    folder = cache.folder("pretrain", corpus)
    path = folder / "train.txt"
    with cache.lock(folder / "lock"):
        if not path.exists():
            told(f"fetching {corpus}")
            texts = ("\n".join(line for line in each.text.split("\n") if line.strip()) for each in data.corpus(corpus).train)
            cache.write(path, "\n\n".join(texts).encode() + b"\n")
    return files.blocks(folder)


def _tokenizer(plan: Plan, blocks: list[files.Block], folder: Path, told: Callable[[str], None]):
    """A WordPiece tokenizer, learnt from a sample of the corpus spread over all of it."""
    from bertcraft.data.tokenizer import train_wordpiece

    chosen = np.linspace(0, len(blocks) - 1, min(len(blocks), _TOKENIZER_SAMPLE)).astype(int)
    described = json.dumps([[vars(part) for part in blocks[i]] for i in chosen])
    name = f"pretrain_{hashlib.blake2b(described.encode(), digest_size=8).hexdigest()}"
    told("learning a vocabulary")
    return train_wordpiece([text for i in chosen for text in files.texts(blocks[i])], plan.vocab_size, name)


def _save(goal: Objective, params: Any, tokenizer, folder: Path) -> None:
    for name, (config, complete) in goal.models(params).items():
        model = Model(config, tree.map(np.asarray, complete))
        model.tokenizer = tokenizer
        model.save(folder / name)
