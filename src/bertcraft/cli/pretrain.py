"""The command pretrain."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bertcraft.cli.models import folder_of
from bertcraft.cli.training import Shown
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
    start: Annotated[
        str | None, typer.Option("--from", metavar="MODEL", help="Go on from a folder, a hub id or a name of 'data list'.")
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(metavar="all|head|top:N", help="What of MODEL is trained; top:N: last N layers and head."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="tiny, mini, small, base, large, or a config.json (its sizes).", show_default="small"),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="For masked_lm: bert, deberta, albert or roberta_prelayernorm.", show_default="bert"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Rows of a step, of all processes together.")] = 128,
    length: Annotated[int, typer.Option(min=8, metavar="N", help="Tokens of a row.")] = 128,
    rate: Annotated[float, typer.Option(metavar="X", help="Highest learning rate.")] = 5e-4,
    warmup: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Steps until it is reached.", show_default="a tenth, at most 1000"),
    ] = None,
    schedule: Annotated[str, typer.Option(metavar="NAME", help="How it falls then: linear, cosine ... (above).")] = "linear",
    clip: Annotated[float, typer.Option(min=0, metavar="X", help="Longest gradient of all parameters together; 0: any.")] = 1.0,
    vocabulary: Annotated[
        int | None, typer.Option(min=200, metavar="N", help="WordPieces to learn from the corpus.", show_default="8192")
    ] = None,
    dropout: Annotated[
        float | None,
        typer.Option(min=0, max=0.9, metavar="X", help="Of hidden states and attention.", show_default="0.1, or MODEL's"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of all random numbers.")] = 0,
    backend: Annotated[str, typer.Option(metavar="NAME", help="numpy, or jax: accelerators and several machines.")] = "numpy",
    precision: Annotated[str, typer.Option(metavar="NAME", help="Of products: float32, float16, bfloat16.")] = "float32",
    accumulate: Annotated[int, typer.Option(min=1, metavar="N", help="Parts of a batch, computed in turn: saves memory.")] = 1,
    sharded: Annotated[bool, typer.Option("--sharded", help="Cut the parameters over the devices (jax).")] = False,
    save_every: Annotated[float, typer.Option(min=0, metavar="MINUTES", help="How often the state is saved.")] = 10.0,
    workers: Annotated[int, typer.Option(min=0, metavar="N", help="Processes that tokenise ahead.")] = 1,
    coordinator: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Of rank 0, on every machine (jax).")] = None,
    processes: Annotated[int, typer.Option(min=1, metavar="N", help="How many processes there are in all.")] = 1,
    rank: Annotated[int, typer.Option(min=0, metavar="N", help="Which of them this is, from 0.")] = 0,
) -> None:
    r"""Pretrain a model for as long as you like, on texts of any size.

    Ends with DIR/model, a folder that transformers opens. Ctrl-C, or a power
    cut, loses at most --save-every minutes: the same command goes on, and ends
    with the same parameters. DIR/metrics.jsonl gets a line a step, and
    DIR/tensorboard its events where tensorboard is installed.

    Shows the loss on held-out text, before, meanwhile and after, beside that of
    word frequencies: only at positions that show \[MASK], since a word that is
    shown can be copied.

    With --from it goes on from a checkpoint, with its own tokenizer: a model
    learns the language of your texts. Where it has no masked-LM head it gets
    one. --train head or top:2 leaves the rest of it as it is, and is faster.

    --architecture deberta looks at distances in place of positions, albert has
    one layer that is applied again and again, roberta_prelayernorm normalises
    what a part of a layer reads, not what it adds up to. Of the size they are as
    wide and deep as a BERT; transformers opens them as what they are.

    --precision float16 or bfloat16 rounds what goes into matrix products and
    comes out, and keeps weights and sums in float32; in float16 the loss is
    scaled, and a step whose gradient overflows is skipped and told. It shows
    what precision does to a model; on a CPU it is slower than float32.

    --schedule says how the rate falls after warm-up, by transformers' names:
    linear, cosine, cosine_with_restarts (four times) and polynomial (a square)
    to 0 at the end, warmup_stable_decay in the last fifth alone, inverse_sqrt
    slowly, constant_with_warmup not at all. one_cycle is torch's; bert is that
    of BERT's first code, which jumps.

    On several machines give the same command to each, with --coordinator,
    --processes and its own --rank.

    [bold]Examples[/]

      bertcraft pretrain masked_lm --corpus utterances --steps 2000 --out run
      bertcraft pretrain masked_lm --from minilm --corpus faq --steps 900 --out m
      bertcraft pretrain electra --corpus texts/ --steps 90000 --out run
    """
    from bertcraft.pretrain import cluster
    from bertcraft.pretrain.run import Plan
    from bertcraft.pretrain.run import pretrain as run

    if backend != "jax" and (processes > 1 or coordinator):
        raise InputError("several processes train together with --backend jax only")
    if (processes > 1) != (coordinator is not None):
        raise InputError("give --coordinator HOST:PORT and --processes together, or neither")
    if rank >= processes:
        raise InputError(f"--rank: got {rank} of {processes} processes, expected 0 to {processes - 1}")
    options = {"--size": size, "--architecture": architecture, "--vocabulary": vocabulary}
    if start is not None and (given := [name for name, value in options.items() if value]):
        raise InputError(
            f"{given[0]} and --from contradict each other: the checkpoint brings its architecture, its sizes and its tokenizer; "
            "leave one out"
        )
    own = {} if start is None else {"start": start, "train": train or "all"}
    if start is None and train is not None:
        raise InputError("--train says what of a checkpoint is trained: give --from MODEL as well")
    warmup = min(1000, max(1, steps // 10)) if warmup is None else warmup
    size = None if start else _size(size or "small", dropout)
    plan = Plan(
        objective, size, corpus, steps, batch, length, rate, warmup, schedule=schedule,
        dropout=dropout if start or dropout is not None else 0.1, vocab_size=vocabulary or 8192, seed=seed, backend=backend,
        precision=precision, clip=clip, accumulate=accumulate, sharded=sharded, architecture=architecture, **own,
    )  # fmt: skip
    plan.check()
    if start:
        plan = replace(plan, start=str(folder_of(start)))
    if coordinator:
        cluster.join(coordinator, processes, rank)
    shown = Shown(steps, quiet=rank > 0)
    try:
        with shown.bar:
            result = run(plan, out, workers=workers, save_every_minutes=save_every, told=shown.say, report=shown.step)
    except BaseException as error:
        if coordinator and not isinstance(error, KeyboardInterrupt):  # Ctrl-C stops all of them together
            cluster.abandon(2)
        raise
    if result.held_out:
        shown.summary(result.held_out)
    if rank == 0:
        print(out / "model")


def _size(given: str, dropout: float | None) -> str | dict:
    """A name, or the fields of a config.json that say how large a model is, and its dropout where none is asked for."""
    if not given.endswith(".json"):
        return given
    from bertcraft.bert.checkpoint_files import read_object

    found = read_object(Path(given))
    return {name: found[name] for name in SIZE_FIELDS if name in found and (dropout is None or "dropout" not in name)}
