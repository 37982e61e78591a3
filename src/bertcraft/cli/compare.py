"""``bertcraft compare`` and ``bertcraft predict``: a user's own texts."""

import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from bertcraft.errors import InputError

FILE = typer.Argument(metavar="FILE", help="A CSV, TSV, JSON, JSONL or Parquet file.")
THREADS = typer.Option(min=1, metavar="N", help="How many at once (default: one a CPU); changes no result.")
CHUNK = 2048  # texts predicted at a time
BUDGET = "10m"


def seconds(text: str) -> float:
    """The seconds of "90s", "10m", "1.5h" or "600". Raises InputError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip().lower())
    number = match and float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
    if not number:
        raise InputError(f"--budget: got {text!r}, expected a time such as 90s, 10m or 1.5h")
    return number


def compare(
    file: Annotated[Path, FILE],
    text: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of the texts (default: if obvious).")] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of the labels (default: if obvious).")] = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="What texts share that belong together: a film, writer, patient. No split parts them."
        ),
    ] = None,
    techniques: Annotated[str | None, typer.Option(metavar="A,B,...", help="What to try (default: lora), or all.")] = None,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="How many random splits.")] = 5,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Wall time for everything: 90s, 10m, 1h (default: 10m).")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Steps of a run, as a run printed them: repeats its figures."),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the model that is best on development texts in this folder."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write all that is printed, and pictures of it, as one page to send."),
    ] = None,
    figure: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the table with its intervals.")] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the first split.")] = 0,
    threads: Annotated[int | None, THREADS] = None,
) -> None:
    """Try techniques on your own labelled texts.

    Fine-tunes a pretrained encoder with each technique on the same splits, at
    equal budget: every arm reads the same texts in the same order. Beside them
    stand logistic regression on the frozen encoder's vectors and on TF-IDF.
    Prints test accuracy, the difference to the former with its interval, and
    what to use. The folder of --save opens with 'bertcraft predict' and with
    transformers.

    Techniques: adapters, adapters-8, lora, bitfit, ia3, prefix, clipping,
    adaptive, cosine, constant, stable, layerwise, adam, l2, all-decay,
    accumulation, label-smoothing.

    [bold]Examples[/]

      bertcraft compare reviews.csv --text review --label stars
      bertcraft compare mails.jsonl.gz --save my_model --html report.html
    """
    import time

    began = time.monotonic()
    from bertcraft.lab.arms import chosen
    from bertcraft.lab.budget import Clock

    names = chosen(techniques)
    limit = seconds(budget or BUDGET) if budget or steps is None else None
    _compare(file, (text, label, group), names, seeds, Clock(limit, began), steps, save, html, figure, seed, threads)


def _compare(file, columns, names, seeds, clock, steps, save, html, figure, seed, threads) -> None:
    from rich.console import Console

    from bertcraft.cli.models import check_output, make_folder
    from bertcraft.data.labelled import choose_columns, read_labelled
    from bertcraft.data.tables import read_table
    from bertcraft.data.text import counted
    from bertcraft.lab import advice
    from bertcraft.lab.compare import compare as run
    from bertcraft.lab.finetune import export
    from bertcraft.tensor.parallel import cpu_count

    console = Console(highlight=False)
    if html is not None:
        check_output(html, file, ending=(".html", ".htm"))
    if figure is not None:
        check_output(figure, file, ending=(".png",))
    for option, other in (("--html", html), ("--figure", figure)):
        if save is not None and other is not None and _within(save, other):
            raise InputError(
                f"--save: {printable(str(save))}: {printable(other.name)} is the file of {option}; choose another folder"
            )
    with _telling() as tell:
        name = printable(file.name)
        tell(f"reading {name}")
        table = read_table(file)
        text, label, guesses = choose_columns(table, *columns)
        data = read_labelled(table, text, label, group=columns[2])
        if save is not None:
            make_folder(save, "--save")
        facts = [f"{name}: {counted(len(data), 'text')}, {_classes(data)}", *table.notes, *guesses, *data.notes]
        for number, note in enumerate(facts):
            _say(console, f"- {note}" if number else note)
        outcome = run(
            data, names, seeds=seeds, seed=seed, steps=steps, clock=clock, threads=threads or cpu_count(),
            keep=save is not None, tell=tell, planned=lambda plan: _say(console, advice.plan(plan, names, seeds)),
        )  # fmt: skip
    console.print()
    console.print(advice.table(outcome))
    console.print()
    for line in (*advice.remarks(outcome), *advice.advice(outcome), advice.more_labels(outcome)):
        _say(console, line)
    took = f"Took {clock.elapsed:.0f} s."
    _write_report(html, figure, name, facts, advice.plan(outcome.plan, names, seeds), outcome, took)
    if outcome.best is not None:
        export(outcome.best[2], save, data.labels)
        for line in advice.saved(outcome, save):
            _say(console, line)
    _say(console, took)


def _within(folder: Path, file: Path) -> bool:
    """Whether a folder would be where a file will be, or inside it."""
    place = Path(os.path.realpath(folder))
    return Path(os.path.realpath(file)) in (place, *place.parents)


def printable(name: str) -> str:
    """The name of a file whose bytes may be no UTF-8, in characters that can be printed and written."""
    return os.fsencode(name).decode("utf-8", "replace")


def _write_report(html, figure, name, facts, plan, outcome, took) -> None:
    """The page and the picture that were asked for."""
    from bertcraft.bert.checkpoint_files import replace_files
    from bertcraft.lab import comparison_figures, comparison_page

    if html is not None:
        page = comparison_page.page(f"Which technique is worth it for {name}?", facts, plan, outcome, took).encode()
        replace_files(html.parent, {html.name: lambda path: path.write_bytes(page)})
    if figure is not None:
        picture = comparison_figures.differences(outcome)
        replace_files(figure.parent, {figure.name: lambda path: path.write_bytes(picture)})


def _classes(data) -> str:
    """How many classes there are, and how large."""
    import numpy as np

    from bertcraft.data.text import shortened

    sizes = np.bincount(data.numbers)
    if sizes.max() == sizes.min():
        return f"{len(sizes)} classes with {sizes[0]:,} texts each."
    most, fewest = (f"{shortened(data.labels[i], 30)!r} ({sizes[i]:,})" for i in (sizes.argmax(), sizes.argmin()))
    return f"{len(sizes)} classes: most texts in {most}, fewest in {fewest}."


def _say(console, text: str) -> None:
    """A paragraph, wrapped between words; brackets in it are no markup, a name between colons is no emoji."""
    console.print(text, markup=False, emoji=False)


@contextmanager
def _telling(shown: bool = True):
    """``tell(text, share)`` shows what is being done, on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console()
    columns = BarColumn(bar_width=20), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task("", total=None)
        yield lambda text, share=None: bar.update(
            task, description=text, total=None if share is None else 1, completed=share or 0
        )


def predict(
    model: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that 'compare --save' or transformers wrote.")],
    file: Annotated[Path, FILE],
    text: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of the texts (default: if obvious).")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.csv", help="The file to write (default, and -: print)."),
    ] = None,
    threads: Annotated[int | None, THREADS] = None,
) -> None:
    """Classify texts with a model of your own.

    Writes a CSV with the columns text, label and probability, a row for each
    row of the file, in its order. A row without a text gets no label and is
    counted. A file of that name is replaced when the new one is complete.

    [bold]Examples[/]

      bertcraft predict my_model new_reviews.csv --text review -o labels.csv
      bertcraft predict my_model mails.jsonl | head
    """
    from bertcraft.bert.checkpoint_files import replace_files
    from bertcraft.cli.models import check_output
    from bertcraft.data.labelled import choose_text
    from bertcraft.data.table import Unusable
    from bertcraft.data.tables import read_table
    from bertcraft.data.text import counted
    from bertcraft.lab.compare import classifier
    from bertcraft.tensor.parallel import cpu_count

    if output == Path("-"):
        output = None
    if output is not None:
        output = Path(os.path.realpath(output))  # what a link points to is replaced, not the link
        check_output(output, file)
    with _telling(shown=output is not None) as tell:  # a bar would stand among the answers
        tell(f"reading {printable(file.name)}")
        table = read_table(file)
        column, guesses = choose_text(table, text)
        tuned = classifier(model)
        counts, unusable = {"rows": 0, "without": 0}, Unusable()

        def write(target) -> None:
            _write(target, tuned, table, column, threads or cpu_count(), counts, unusable, tell)

        if output is None:
            sys.stdout.reconfigure(encoding="utf-8", newline="")  # as a file is written
            write(sys.stdout)
        else:

            def write_file(path: Path) -> None:
                with open(path, "w", encoding="utf-8", newline="") as target:
                    write(target)

            replace_files(output.parent, {output.name: write_file})
    for note in (*table.notes, *guesses, *unusable.notes()):
        print(f"note: {note}", file=sys.stderr)
    if without := counts["without"] - unusable.number:
        print(f"note: {counted(without, 'row')} without a text got no label", file=sys.stderr)
    if output is not None:
        print(f"{printable(str(output))}: {counted(counts['rows'], 'row')}")


def _write(target, tuned, table, column: str, threads: int, counts: dict, unusable, tell) -> None:
    """The CSV, a chunk at a time; malformed rows of the table are added to ``unusable``."""
    import csv
    from itertools import islice

    from bertcraft.data.table import Malformed
    from bertcraft.lab.finetune import predict as probabilities

    writer, names = csv.writer(target, lineterminator="\n"), tuned.config.labels
    writer.writerow(["text", "label", "probability"])
    rows = table.rows(column)
    while some := list(islice(rows, CHUNK)):
        for row in some:
            if isinstance(row, Malformed):
                unusable.add(row)
        chunk = ["" if isinstance(row, Malformed) else row[0] for row in some]
        places = [place for place, own in enumerate(chunk) if own.strip()]
        found = probabilities(tuned, [chunk[place] for place in places], threads) if places else []
        answers = {place: (names[p.argmax()], f"{p.max():.4f}") for place, p in zip(places, found, strict=True)}
        writer.writerows((own, *answers.get(place, ("", ""))) for place, own in enumerate(chunk))
        counts["rows"] += len(chunk)
        counts["without"] += len(chunk) - len(places)
        tell(f"{counts['rows']:,} of {table.count:,} texts", counts["rows"] / table.count)
