"""``bertcraft run``: one technique against its baseline on real text, one seed, in about a minute.

So far there is one run: 01, a BERT pretrained from scratch with masks drawn anew at each reading (RoBERTa's dynamic masking)
against masks drawn once. The texts are questions and requests that people typed, about 13 word pieces each: on two CPU
cores a minute of training reads 20,800 of them four times, and short texts leave the plateau of word frequencies early.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from bertcraft.errors import InputError
from bertcraft.lab import pretraining
from bertcraft.lab.experiment import Context
from bertcraft.lab.pretraining import HeldOut, Setting, Texts
from bertcraft.techniques import roberta_optimizations as technique

SLUG = "roberta_optimizations"
ARMS = {"static": 1, "dynamic": None}  # how many masks a text has: one for all readings, or a new one at each
SENTENCES = (
    "how do i activate my new [MASK] ?",
    "set an [MASK] for seven in the morning",
    "what is the exchange [MASK] for euros ?",
)


PLAN = Setting(texts=20_800)  # as many as are read four times, as often as BERT read each of its masks
QUICK = replace(PLAN, steps=280, batch=32, rate=1e-3, warmup=20, evaluations=2, held_out=600, texts=4480)


def train_arm(plan: Setting, texts: Texts, config, arm: str, seed: int, held_out: HeldOut, context: Context):
    """Pretrain one arm, or go on with it where it was stopped."""
    return pretraining.train(
        plan, pretraining.initial(config, texts, seed), lambda p, batch, rng: technique.masked_lm_loss(p, batch, rng, config),
        pretraining.batch_maker(plan, texts, seed, ARMS[arm]), seed=seed, context=context,
        evaluate=lambda params: held_out(params, config), signature={"technique": SLUG, "arm": arm, "config": config.to_dict()},
    )  # fmt: skip


def run(name: str, *, quick: bool = False, seed: int = 0, out: Path | None = None, threads: int | None = None) -> None:
    """Run technique ``name`` ("01", "1" or its slug), print what it showed, and write a plot and a model.

    Goes on with a run that was stopped if ``out`` holds one. Raises InputError for an unknown technique,
    :class:`bertcraft.train.Interrupted` on Ctrl-C.
    """
    from rich.console import Console

    from bertcraft.tensor.parallel import cpu_count

    if name.lstrip("0") != "1" and name != SLUG:
        raise InputError(f"{name!r} is no technique with a run; so far there is 01 ({SLUG})")
    console = Console()
    plan = QUICK if quick else PLAN
    folder = Path(out) if out else Path("runs") / f"01_{SLUG}{'_quick' if quick else ''}_seed{seed}"
    with console.status("Preparing the texts ..."):
        texts = pretraining.prepare(plan)
    config = pretraining.config_of(plan, len(texts.log_frequency))
    held_out = HeldOut(texts.held_out, texts)
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
            context = Context(threads or cpu_count(), folder / arm, report)
            results[arm] = train_arm(plan, texts, config, arm, seed, held_out, context)
    _finish(console, folder, plan, texts, config, held_out, results, seed)


def _finish(console, folder: Path, plan: Setting, texts: Texts, config, held_out: HeldOut, results: dict, seed: int) -> None:
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

    model = Model(config, results["dynamic"].params)
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


def plot(path: Path, plan: Setting, held_out: HeldOut, results: dict) -> None:
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

            def report(done: float, total: float, line: str) -> None:
                bar.update(task, completed=done, line=line)
                if not console.is_terminal and done % max(1, total // 10) == 0:
                    console.print(f"{arm:8} {line}", highlight=False)

            yield report

    return live()
