"""``bertcraft bench``: bertcraft and its rivals on this machine."""

from contextlib import contextmanager
from typing import Annotated

import typer

from bertcraft.cli.models import folder_of, read_texts
from bertcraft.errors import InputError

app = typer.Typer(no_args_is_help=True)

ROUNDS = typer.Option(min=1, metavar="N", help="How often each contender is measured, in turn.")
JSON = typer.Option("--json", help="Print JSON: every round, versions, machine.")


@app.command("train")
def bench_train(
    layers: Annotated[int, typer.Option(min=1, metavar="N", help="Layers of the encoder.")] = 4,
    hidden: Annotated[int, typer.Option(min=1, metavar="N", help="Hidden size.")] = 256,
    heads: Annotated[int, typer.Option(min=1, metavar="N", help="Attention heads.")] = 4,
    vocabulary: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens in the vocabulary.")] = 8192,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Rows in a batch.")] = 32,
    length: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens in a row.")] = 128,
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="Steps timed in a round.")] = 6,
    backend: Annotated[str, typer.Option(metavar="NAME", help="jax: bertcraft under XLA as well.")] = "numpy",
    rounds: Annotated[int, ROUNDS] = 3,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Time a masked-LM training step: forward, backward, clipping, AdamW.

    Measures bertcraft, and transformers, PyTorch (eager and compiled) and JAX
    where they are installed, each in a process of its own, in turn. Prints
    time, tokens a second, peak memory, and bertcraft's share of the speed at
    which this machine multiplies matrices. Takes some minutes; use a machine
    on which nothing else runs. Writes nothing.

    [bold]Examples[/]

      bertcraft bench train
      bertcraft bench train --layers 2 --hidden 128 --heads 2 --json
      bertcraft bench train --backend jax
    """
    from bertcraft.bench import tables, train
    from bertcraft.bench.step import Sizes

    if backend not in ("numpy", "jax"):
        raise InputError(f"backend: got {backend!r}, expected numpy or jax")
    sizes = Sizes(layers, hidden, heads, vocabulary, batch, length)
    with _progress(rounds) as report:
        result = train.run(sizes, rounds, steps, report, backend=backend)
    _show(result, tables.show_train, as_json)


@app.command("encode")
def bench_encode(
    model: Annotated[str, typer.Option(metavar="MODEL", help="A folder, a hub id or a name, as for 'encode'.")] = "minilm",
    texts: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A text a line (default: 1,024 questions of BANKING77)."),
    ] = None,
    rounds: Annotated[int, ROUNDS] = 3,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Time turning sentences into vectors.

    Measures bertcraft, and sentence-transformers and onnxruntime where they
    are installed, each in a process of its own, in turn, with the same weights.
    Prints sentences a second, peak memory, and how far the vectors differ.
    Fetches the model and the texts on first use. Writes nothing.

    [bold]Examples[/]

      bertcraft bench encode
      bertcraft bench encode --model ./my_model --texts questions.txt --json
    """
    from bertcraft.bench import encode, tables

    folder = folder_of(model)
    lines = encode.default_texts() if texts is None else read_texts(texts)
    with _progress(rounds) as report:
        result = encode.run(folder, lines, rounds, report)
    _show(result, tables.show_encode, as_json)


@app.command("scaling")
def bench_scaling(
    objective: Annotated[str, typer.Option(metavar="NAME", help="masked_lm or electra.")] = "masked_lm",
    size: Annotated[str, typer.Option(metavar="SIZE", help="As for 'pretrain'.")] = "tiny",
    batch: Annotated[int, typer.Option(min=2, metavar="N", help="Rows of a step, of all processes together.")] = 64,
    length: Annotated[int, typer.Option(min=8, metavar="N", help="Tokens of a row.")] = 128,
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="Steps timed.")] = 8,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Time a training step on 1, 2 and 4 processes, beside a prediction.

    The processes train one model together through XLA and gloo, as 'pretrain'
    does with --processes. What a row, the rest of a step and the sum of the
    gradients take is measured apart, and the step is predicted from it. Needs
    jax. Takes some minutes; use a machine on which nothing else runs.

    [bold]Example[/]

      bertcraft bench scaling --size mini --batch 32
    """
    from rich.console import Console

    from bertcraft.bench import scaling, tables
    from bertcraft.pretrain.objectives import objective as checked

    checked(objective, size, scaling.VOCABULARY, length)  # what no process could train is told before one starts
    with Console(stderr=True).status("starting") as status:
        result = scaling.run(objective, size, batch, length, steps, status.update)
    _show(result, tables.show_scaling, as_json)


@contextmanager
def _progress(rounds: int):
    """Yield a function that shows on standard error what is being measured, while it is a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("starting") as status:
        yield lambda number, contender: status.update(f"round {number} of {rounds}: {contender.title}")


def _show(result: dict, table, as_json: bool) -> None:
    import json

    from rich.console import Console

    if as_json:
        print(json.dumps(result, indent=2))
    else:
        table(result, Console(highlight=False))
