"""The command distill."""

from pathlib import Path
from typing import Annotated

import typer

from bertcraft.cli.models import folder_of, read_texts
from bertcraft.errors import InputError

MOST = 50_000  # texts: more than a student reads in an hour


def distill(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The teacher: a folder, a hub id or a name of 'data list'.")],
    texts: Annotated[
        str, typer.Argument(metavar="TEXTS", help="A file with a text on each line, - for standard input, or a table (CSV ...).")
    ],
    layers: Annotated[int, typer.Option(min=1, metavar="N", help="Layers of the student, fewer than MODEL has.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the student goes; a run there goes on.")],
    text: Annotated[str | None, typer.Option(metavar="COLUMN", help="Of a table: the column of the texts.")] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Of a table: the true classes, to measure accuracy; never learnt.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Steps of the training.", show_default="30 readings or 2M tokens")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Texts of a step.")] = 32,
    rate: Annotated[float, typer.Option(metavar="X", help="Highest learning rate.")] = 5e-4,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the order, and of which texts are held out.")] = 0,
) -> None:
    """Make a smaller, faster model of your own: teach it on your texts.

    The student starts from some layers of MODEL and learns to give each text
    the same sentence vector (its nearest neighbours stay the same), or the
    same classes where MODEL is a classifier. No labels are needed. DIR opens
    with bertcraft, transformers and, of vectors, sentence-transformers.

    Ends with a table of both, measured on texts that were held out: bytes,
    texts a second, how often they agree. Ctrl-C, or a power cut, loses at most
    half a minute: the same command goes on, and ends with the same student.

    [bold]Examples[/]

      bertcraft distill minilm questions.txt --layers 3 --out small
      bertcraft distill my_model mails.csv --label topic --layers 2 --out s
    """
    from bertcraft.cli.training import Shown
    from bertcraft.distill.run import Plan
    from bertcraft.distill.run import distill as run

    plan = Plan(layers, steps, batch, rate, seed)
    plan.check()
    own, labels, notes = _texts(texts, text, label)
    folder = folder_of(model)
    shown = Shown(1, quiet=False)
    for note in notes:
        shown.say(note)
    with shown.bar:
        facts = run(folder, own, plan, out, labels=labels, told=shown.say, report=shown.step, planned=shown.expect)
    _print(facts, out)


def _texts(name: str, text: str | None, label: str | None) -> tuple[list[str], list[str] | None, list[str]]:
    """The texts, their labels where a column of them is named, and what the user is to know of what was left out."""
    import numpy as np

    from bertcraft.data.labelled import choose_text
    from bertcraft.data.table import Malformed, Unusable
    from bertcraft.data.tables import KINDS, is_table, read_table
    from bertcraft.data.text import counted

    notes: list[str] = []
    if not is_table(name):
        if given := "--text" if text else "--label" if label else None:
            raise InputError(f"{given} names a column, but {name} is no table: expected a name that ends in {', '.join(KINDS)}")
        rows = [(line,) for line in read_texts(name)]
    else:
        table = read_table(name)
        column, guesses = choose_text(table, text)
        columns = [column] if label is None else [column, table.column(label)]
        rows, unusable, unlabelled, empty = [], Unusable(), Unusable(), 0
        for own, row in zip(table.rows(column), table.rows(*columns), strict=True):  # a text whose label is malformed is used
            if isinstance(own, Malformed):
                unusable.add(own)
            elif not own[0].strip():
                empty += 1
            elif isinstance(row, Malformed):
                unlabelled.add(row)
                rows.append((*own, ""))
            else:
                rows.append(row)
        notes += [*table.notes, *guesses, *(f"left out: {note}" for note in unusable.notes())]
        if empty:
            notes.append(f"left out: {counted(empty, 'row')} without a text")
        if first := unlabelled.first:
            texts = counted(unlabelled.number, "text is taken without its label", "texts are taken without their labels")
            notes.append(f"{texts} (the first: {first.where}, {first.reason})")
    if len(rows) > MOST:
        chosen = np.random.default_rng(0).choice(len(rows), MOST, replace=False)
        notes.append(f"{MOST:,} of {len(rows):,} texts are taken, at random")
        rows = [rows[i] for i in sorted(chosen)]
    return [row[0] for row in rows], None if label is None else [" ".join(row[1].split()) for row in rows], notes


def _print(facts: dict, out: Path) -> None:
    """The table, and how the student is used."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(f"{facts['held_out']:,} held-out texts")
    for column in ("teacher", "its layers, untaught", "student"):
        table.add_column(column, justify="right")
    own = [facts["table"][name] for name in ("teacher", "start", "student")]
    for title, key, show in ROWS:
        if key in own[0]:
            table.add_row(title, *(show(each[key]) if key in each else "" for each in own))
    console.print(table)
    said = [f"Speed: all processors, tokenizing included. Training took {facts['seconds'] / 60:.1f} minutes."]
    if facts["kind"] == "vectors":
        said.append(f"Nearest neighbour: of {facts['index']:,} texts that were read, by the cosine.")
        use = f'sentence_transformers.SentenceTransformer("{out}")'
    else:
        if facts.get("labelled"):
            said.append(f"Accuracy: on {facts['labelled']:,} held-out texts with a class of the teacher's.")
        use = f'transformers.pipeline("text-classification", "{out}")'
    for line in said:
        console.print(line, markup=False)
    console.print(f"Use it: {use}", markup=False, soft_wrap=True)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


ROWS = (
    ("layers", "layers", str),
    ("parameters, millions", "parameters", lambda number: f"{number / 1e6:.2f}"),
    ("weights on disk, MB", "bytes", lambda number: f"{number / 1e6:.1f}"),
    ("texts a second", "speed", lambda number: f"{number:,.0f}"),
    ("cosine with the teacher's vector", "cosine", lambda number: f"{number:.3f}"),
    ("same nearest neighbour, %", "neighbour", _percent),
    ("same class as the teacher, %", "same", _percent),
    ("accuracy, %", "accuracy", _percent),
)
