"""The command pretrain."""

from pathlib import Path
from typing import Annotated

import typer

from bertcraft.errors import InputError

SIZE_FIELDS = (
    "hidden_size", "embedding_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings",
    "hidden_dropout_prob", "attention_probs_dropout_prob",
)  # fmt: skip


def pretrain(
    objective: Annotated[str, typer.Argument(metavar="OBJECTIVE", help="masked_lm or electra.")],
    corpus: Annotated[
        str, typer.Option(metavar="FOLDER|NAME", help="A folder of .txt and .parquet files, or a corpus of 'data list'.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where state, metrics and model go; a run there goes on.")],
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="Steps of the whole run.")],
    size: Annotated[
        str, typer.Option(metavar="SIZE", help="tiny, mini, small, base, large, or a config.json (its sizes).")
    ] = "small",
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Rows of a step, of all processes together.")] = 128,
    length: Annotated[int, typer.Option(min=8, metavar="N", help="Tokens of a row.")] = 128,
    rate: Annotated[float, typer.Option(metavar="X", help="Highest learning rate.")] = 5e-4,
    warmup: Annotated[int, typer.Option(min=0, metavar="N", help="Steps until it is reached; it falls in a line then.")] = 1000,
    vocabulary: Annotated[int, typer.Option(min=200, metavar="N", help="WordPieces to learn from the corpus.")] = 8192,
    dropout: Annotated[float, typer.Option(min=0, max=0.9, metavar="X", help="Of hidden states and attention.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of all random numbers.")] = 0,
    backend: Annotated[str, typer.Option(metavar="NAME", help="numpy, or jax: accelerators and several machines.")] = "numpy",
    precision: Annotated[str, typer.Option(metavar="NAME", help="Of matrix products: float32, or bfloat16 (jax).")] = "float32",
    accumulate: Annotated[int, typer.Option(min=1, metavar="N", help="Parts of a batch, computed in turn: saves memory.")] = 1,
    sharded: Annotated[bool, typer.Option("--sharded", help="Cut the parameters over the devices (jax).")] = False,
    save_every: Annotated[float, typer.Option(min=0, metavar="MINUTES", help="How often the state is saved.")] = 10.0,
    workers: Annotated[int, typer.Option(min=0, metavar="N", help="Processes that tokenise ahead.")] = 1,
    coordinator: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Of rank 0, on every machine (jax).")] = None,
    processes: Annotated[int, typer.Option(min=1, metavar="N", help="How many processes there are in all.")] = 1,
    rank: Annotated[int, typer.Option(min=0, metavar="N", help="Which of them this is, from 0.")] = 0,
) -> None:
    """Pretrain a model for as long as you like, on texts of any size.

    Ends with DIR/model, a folder that transformers opens. Ctrl-C, or a power
    cut, loses at most --save-every minutes: the same command goes on, and ends
    with the same parameters. DIR/metrics.jsonl gets a line a step, and
    DIR/tensorboard its events where tensorboard is installed.

    On several machines give the same command to each, with --coordinator,
    --processes and its own --rank.

    [bold]Examples[/]

      bertcraft pretrain masked_lm --corpus utterances --steps 2000 --out run
      bertcraft pretrain electra --corpus texts/ --steps 90000 --out run
    """
    from bertcraft.pretrain import cluster
    from bertcraft.pretrain.run import Plan
    from bertcraft.pretrain.run import pretrain as train

    if backend != "jax" and (processes > 1 or coordinator):
        raise InputError("several processes train together with --backend jax only")
    if (processes > 1) != (coordinator is not None):
        raise InputError("give --coordinator HOST:PORT and --processes together, or neither")
    plan = Plan(
        objective, _size(size), corpus, steps, batch, length, rate, warmup, dropout=dropout, vocab_size=vocabulary, seed=seed,
        backend=backend, precision=precision, accumulate=accumulate, sharded=sharded,
    )  # fmt: skip
    plan.check()
    if coordinator:
        cluster.join(coordinator, processes, rank)
    shown = _Shown(steps, quiet=rank > 0)
    try:
        with shown.bar:
            result = train(plan, out, workers=workers, save_every_minutes=save_every, told=shown.say, report=shown.step)
    except BaseException as error:
        if coordinator and not isinstance(error, KeyboardInterrupt):  # Ctrl-C stops all of them together
            cluster.abandon(2)
        raise
    last = result.losses[-100:]
    shown.console.print(f"{result.step} steps; loss over the last {len(last)}: {last.mean():.3f} nats")
    if rank == 0:
        print(out / "model")


class _Shown:
    """A live line of what is done; where there is no terminal, a line every twentieth of the run."""

    def __init__(self, steps: int, quiet: bool):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        columns = BarColumn(20), TextColumn("{task.description}"), TimeRemainingColumn()
        self.bar = Progress(*columns, console=self.console, disable=quiet or not self.console.is_terminal)
        self._task = self.bar.add_task("", total=steps)
        self._every = max(1, steps // 20)

    def say(self, text: str) -> None:
        self.console.print(text)

    def step(self, progress) -> None:
        line = f"{progress.step}/{progress.steps} loss {progress.loss:.3f} {progress.tokens_per_second or 0:,.0f} tokens/s"
        self.bar.update(self._task, completed=progress.step, description=line)
        if not self.console.is_terminal and progress.step % self._every == 0:
            self.console.print(line)


def _size(given: str) -> str | dict:
    """A name, or the fields of a config.json that say how large a model is."""
    if not given.endswith(".json"):
        return given
    from bertcraft.bert.checkpoint_files import read_object

    found = read_object(Path(given))
    return {name: found[name] for name in SIZE_FIELDS if name in found}
