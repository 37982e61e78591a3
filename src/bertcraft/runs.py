"""``bertcraft run``: one technique against its baseline on real text, one seed, in about a minute.

So far there is one run: 01, a BERT pretrained from scratch with masks drawn anew at each reading (RoBERTa's dynamic masking)
against masks drawn once. The texts are questions and requests that people typed, about 13 word pieces each: on two CPU
cores a minute of training reads 20,800 of them four times, and short texts leave the plateau of word frequencies early.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertcraft.errors import InputError
from bertcraft.techniques import roberta_optimizations as technique

SLUG = "roberta_optimizations"
ARMS = {"static": 1, "dynamic": None}  # how many masks a text has: one for all readings, or a new one at each
SENTENCES = (
    "how do i activate my new [MASK] ?",
    "set an [MASK] for seven in the morning",
    "what is the exchange [MASK] for euros ?",
)


@dataclass(frozen=True)
class Plan:
    """What a run trains on, and for how long."""

    corpus: str = "utterances"
    vocab_size: int = 4096
    length: int = 32
    layers: int = 2
    hidden: int = 128
    batch: int = 64
    shard: int = 16
    steps: int = 1300
    rate: float = 2e-3
    warmup: int = 50
    mask_rate: float = 0.15
    evaluations: int = 10
    held_out: int = 3000
    texts: int = 20_800  # of the corpus: as many as are read four times, as often as BERT read each of its masks


QUICK = Plan(steps=280, batch=32, rate=1e-3, warmup=20, evaluations=2, held_out=600, texts=4480)


@dataclass(frozen=True)
class Texts:
    """Token ids of a corpus with [CLS] and [SEP], padded with 0: (n, length), and the log-frequencies of the tokens."""

    tokenizer: Any
    train: np.ndarray
    held_out: np.ndarray
    log_frequency: np.ndarray
    masking: dict  # what technique.mask_tokens needs to know of the vocabulary


def prepare(plan: Plan, console) -> Texts:
    """Fetch the corpus, train its tokenizer (both kept for the next time) and encode the texts."""
    from bertcraft import data
    from bertcraft.data.tokenizer import train_wordpiece

    corpus = data.corpus(plan.corpus)
    train, held_out = [d.text for d in corpus.train], [d.text for d in corpus.held_out]
    order = np.random.default_rng(0).permutation(len(held_out))[: plan.held_out]  # the documents stand sorted by source
    held_out = [held_out[i] for i in order]
    with console.status("Training a WordPiece tokenizer ..."):
        tokenizer = train_wordpiece(train, plan.vocab_size, plan.corpus)
        train_rows, held_out_rows = (_rows(tokenizer, texts, plan.length) for texts in (train, held_out))
    train_rows = train_rows[np.random.default_rng(1).permutation(len(train))[: plan.texts]]
    counts = np.bincount(train_rows[train_rows >= 5], minlength=tokenizer.get_vocab_size()) + 1.0
    counts[:5] = 1e-3  # special tokens are never predicted
    masking = {
        "mask_id": tokenizer.token_to_id("[MASK]"), "vocab_size": tokenizer.get_vocab_size(), "first_word_id": 5,
        "rate": plan.mask_rate,
    }  # fmt: skip
    return Texts(tokenizer, train_rows, held_out_rows, np.log(counts / counts.sum()), masking)


def _rows(tokenizer, texts: list[str], length: int) -> np.ndarray:
    from bertcraft.data.batches import frame, pad, tokenize

    tokens = tokenize(tokenizer, texts)
    framed = frame(tokens, tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]"), length)
    return pad(framed, tokenizer.token_to_id("[PAD]"), length)[0]


def config_of(plan: Plan, vocab_size: int):
    """The small BERT that is trained."""
    from bertcraft.bert import Config

    return Config(
        family="bert", head="masked_lm", vocab_size=vocab_size, hidden_size=plan.hidden, num_hidden_layers=plan.layers,
        num_attention_heads=plan.hidden // 64, intermediate_size=4 * plan.hidden, max_position_embeddings=plan.length,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip


def batch_maker(plan: Plan, texts: Texts, copies: int | None, seed: int):
    """``make_batch(step)``: the texts of a step by their lengths, masked; it depends on nothing but the step."""
    from bertcraft.data.batches import batch_indices

    count = len(texts.train)

    def make_batch(step: int) -> dict:
        rows = batch_indices(count, plan.batch, seed, step)
        readings = np.arange(step * plan.batch, (step + 1) * plan.batch) // count
        order = np.argsort(-(texts.train[rows] != 0).sum(axis=1), kind="stable")
        rows, readings = rows[order], readings[order]
        ids = texts.train[rows]
        reading = technique.reading_number(readings, copies)
        random = technique.uniforms(seed, rows, reading, 3 * plan.length)
        return _batch(technique.mask_tokens(ids, random, **texts.masking), ids)

    return make_batch


def _batch(masked: technique.Masked, ids: np.ndarray) -> dict:
    return {**masked._asdict(), "attention_mask": (ids != 0).astype(np.int32)}


class HeldOut:
    """Held-out texts under masks that all arms share."""

    def __init__(self, plan: Plan, texts: Texts, config):
        ids = texts.held_out[np.argsort(-(texts.held_out != 0).sum(axis=1), kind="stable")]
        random = technique.uniforms(0, np.arange(len(ids)), np.full(len(ids), 10**6), 3 * plan.length)
        self.batch, self.config = _batch(technique.mask_tokens(ids, random, **texts.masking), ids), config
        labels = self.batch["labels"]
        self.unigram = -float(texts.log_frequency[labels[labels >= 0]].mean())

    def __call__(self, params) -> dict:
        """Mean loss in nats and accuracy over all masked tokens."""
        from bertcraft.bert import encoder, heads
        from bertcraft.tensor import functions as F

        loss = right = total = 0.0
        for start in range(0, len(self.batch["at"]), 250):
            part = technique.trimmed({name: array[start : start + 250] for name, array in self.batch.items()})
            hidden = encoder.encode(params, self.config, part["input_ids"], part["attention_mask"], at=part["at"])
            logits, labels = heads.masked_lm_logits(params, self.config, hidden), part["labels"]
            number = int((labels >= 0).sum())
            loss += float(F.cross_entropy(logits, labels)) * number
            right += int((logits.argmax(axis=-1) == labels).sum())
            total += number
        return {"loss": loss / total, "accuracy": right / total}


def train_arm(plan: Plan, texts: Texts, arm: str, seed: int, folder: Path, held_out: HeldOut, threads, report):
    """Pretrain one arm, or go on with it where it was stopped."""
    from bertcraft.bert import initial_params
    from bertcraft.tensor.parallel import cpu_count, pool, sharded_value_and_grad
    from bertcraft.train import adamw, chain, clip_by_global_norm, fit, warmup_linear

    config, threads = held_out.config, threads or cpu_count()
    params = initial_params(config, seed)
    params["cls"]["predictions"]["bias"][:] = texts.log_frequency  # start from the word frequencies: no need to learn them
    step = sharded_value_and_grad(
        lambda p, batch, rng: technique.masked_lm_loss(p, batch, rng, config),
        shard_size=plan.shard, weight=technique.predicted, prepare=technique.trimmed, threads=threads,
    )  # fmt: skip
    rate = warmup_linear(plan.rate, plan.warmup, plan.steps)
    rule = chain(clip_by_global_norm(1.0), adamw(rate, b2=0.98, eps=1e-6, weight_decay=0.01))  # RoBERTa, section 3.1
    signature = {"technique": SLUG, "arm": arm, "texts": len(texts.train), "config": config.to_dict(), **asdict(plan)}
    return fit(
        step, params, rule, batch_maker(plan, texts, ARMS[arm], seed), plan.steps,
        seed=seed, folder=folder, save_every_seconds=10, signature=signature,
        evaluate=held_out, evaluate_every=max(1, plan.steps // plan.evaluations), report=report, pool=pool(threads),
    )  # fmt: skip


def run(name: str, *, quick: bool = False, seed: int = 0, out: Path | None = None, threads: int | None = None) -> None:
    """Run technique ``name`` ("01", "1" or its slug), print what it showed, and write a plot and a model.

    Goes on with a run that was stopped if ``out`` holds one. Raises InputError for an unknown technique,
    :class:`bertcraft.train.Interrupted` on Ctrl-C.
    """
    from rich.console import Console

    if name.lstrip("0") != "1" and name != SLUG:
        raise InputError(f"{name!r} is no technique with a run; so far there is 01 ({SLUG})")
    console = Console()
    plan = QUICK if quick else Plan()
    folder = Path(out) if out else Path("runs") / f"01_{SLUG}{'_quick' if quick else ''}_seed{seed}"
    texts = prepare(plan, console)
    config = config_of(plan, texts.masking["vocab_size"])
    held_out = HeldOut(plan, texts, config)
    readings = plan.steps * plan.batch / len(texts.train)
    console.print(
        f"[bold]01 RoBERTa's optimisations[/]: {len(texts.train):,} short texts, each read {readings:.1f} times; "
        f"a BERT of {plan.layers} layers, {plan.hidden} wide, from scratch in NumPy.\n"
        f"static: one mask a text for all readings; dynamic: a new mask at each. Unigram loss {held_out.unigram:.3f} nats.",
        highlight=False,
    )
    results = {}
    for arm in ARMS:
        with training_progress(console, arm, plan.steps) as report:
            results[arm] = train_arm(plan, texts, arm, seed, folder / arm, held_out, threads, report)
    _finish(console, folder, plan, texts, held_out, results, seed)


def _finish(console, folder: Path, plan: Plan, texts: Texts, held_out: HeldOut, results: dict, seed: int) -> None:
    from rich.table import Table

    from bertcraft.bert import Model

    table = Table(title=f"Held-out loss at masks both arms share ({plan.steps} steps of {plan.batch} texts, seed {seed})")
    for column in ("masks", "loss, nats", "below unigram", "words guessed", "training"):
        table.add_column(column, justify="left" if column == "masks" else "right")
    for arm, result in results.items():
        final = result.evaluations[-1][1]
        gain = held_out.unigram - final["loss"]
        table.add_row(arm, f"{final['loss']:.3f}", f"{gain:.3f}", f"{final['accuracy']:.1%}", f"{result.seconds:.0f} s")
    console.print(table)
    console.print("One seed: a small difference between the arms is no evidence for either.", highlight=False)
    if plan == QUICK:
        console.print("Quick: enough to see that all works, too short to learn much.", highlight=False)
    console.print()

    model = Model(held_out.config, results["dynamic"].params)
    model.tokenizer = texts.tokenizer
    model.save(folder / "model")
    for sentence in SENTENCES:
        words = ", ".join(f"[bold]{word}[/] {p:.0%}" for word, p in model.fill(sentence, top=3)[0])
        console.print(sentence.replace("[MASK]", r"\[MASK]"), "->", words, highlight=False)
    plot(folder / "held_out_loss.png", plan, held_out, results)
    record = {
        "technique": SLUG, "seed": seed, "plan": asdict(plan), "unigram": held_out.unigram,
        "arms": {arm: {"evaluations": r.evaluations, "seconds": r.seconds} for arm, r in results.items()},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    console.print(f"\nplot   {folder / 'held_out_loss.png'}\nmodel  {folder / 'model'}", highlight=False, soft_wrap=True)
    console.print(
        "The model folder opens with transformers.AutoModelForMaskedLM.from_pretrained and bertcraft fill.", highlight=False
    )


def plot(path: Path, plan: Plan, held_out: HeldOut, results: dict) -> None:
    """Held-out loss against texts read, one line an arm, and the unigram loss."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4), dpi=150, layout="constrained")
    styles = {"static": ("#b2571f", "--", "s"), "dynamic": ("#1f5fa8", "-", "o")}
    for arm, result in results.items():
        colour, line, marker = styles[arm]
        steps, losses = zip(*((step, values["loss"]) for step, values in result.evaluations), strict=True)
        axes.plot(np.array(steps) * plan.batch / 1000, losses, line, color=colour, marker=marker, ms=4, label=f"{arm} masks")
    axes.axhline(held_out.unigram, color="0.45", lw=1, ls=":", label="word frequencies alone")
    axes.set(xlabel="texts read (thousands)", ylabel="held-out loss (nats a masked token)")
    axes.set_title("Masked language model from scratch: one seed", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)


def training_progress(console, arm: str, steps: int):
    """A live line (bar, loss, tokens a second, time left); on something that is no terminal, a line every tenth."""
    from contextlib import contextmanager

    from rich.progress import BarColumn, Progress, TextColumn

    @contextmanager
    def live():
        columns = TextColumn(f"{arm:8}"), BarColumn(bar_width=20), TextColumn("{task.fields[line]}")
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(arm, total=steps, line="")
            smooth = math.nan

            def report(progress) -> None:
                nonlocal smooth
                smooth = progress.loss if math.isnan(smooth) else 0.98 * smooth + 0.02 * progress.loss
                rate = f"{(progress.tokens_per_second or 0) / 1000:.0f}k tokens/s"
                line = f"{progress.step}/{steps} loss {smooth:.2f} {rate} {progress.seconds_left:.0f} s left"
                bar.update(task, completed=progress.step, line=line)
                if not console.is_terminal and progress.step % max(1, steps // 10) == 0:
                    console.print(f"{arm:8} {line}", highlight=False)

            yield report

    return live()
