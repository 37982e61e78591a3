"""``bertcraft encode`` and ``bertcraft fill``: what a model makes of texts."""

import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from bertcraft.errors import InputError

MODEL = typer.Argument(
    metavar="MODEL", help="A checkpoint folder, a Hugging Face hub id, or a name from 'data list' (minilm, minilm_mlm)."
)


def folder_of(model: str) -> Path:
    """The folder that the argument MODEL stands for; weights with a card are fetched, or built, on first use."""
    from bertcraft.bert.checkpoint import resolve

    if not Path(model).is_dir():
        from bertcraft import data
        from bertcraft.cli.training import built_folder
        from bertcraft.pretrain import built

        if model in built.RECIPES:
            return built_folder(model)

        if model in {card.name for card in data.cards() if card.kind == "weights"}:
            return data.weights(model)
    return resolve(model)


def read_texts(name: str) -> list[str]:
    """The lines of a UTF-8 file, or of standard input for "-". Raises InputError unless each holds a text, and for a table."""
    from bertcraft.data.tables import is_table

    if name != "-" and (Path(name).is_dir() or not Path(name).exists()):
        what = "is a folder" if Path(name).is_dir() else "there is no such file"
        raise InputError(f"{name}: {what}; expected a file with a text on each line, or - for standard input")
    if is_table(name):
        raise InputError(
            f"{name}: by its name a table; expected a file with a text on each line: write its texts alone into a .txt file"
        )
    content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    shown = "standard input" if name == "-" else name
    if content.startswith(b"\x1f\x8b"):
        raise InputError(f"{shown}: is a gzip file; expected a text on each line: unpack it first")
    try:
        texts = re.split("\r\n|\r|\n", content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = len(re.split(b"\r\n|\r|\n", content[: error.start]))
        raise InputError(f"{shown}: line {line} is not UTF-8; save the file as UTF-8") from None
    if not any(text.strip() for text in texts):
        raise InputError(f"{shown} is empty: expected a text on each line")
    if not texts[-1].strip():  # the end of the last line
        texts.pop()
    empty = [number for number, text in enumerate(texts, 1) if not text.strip()]
    if empty:
        lines = ", ".join(map(str, empty[:5])) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        raise InputError(f"{shown}: expected a text on each line, got none on line {lines}; remove the empty lines")
    return texts


def encode(
    model: Annotated[str, MODEL],
    texts: Annotated[
        str,
        typer.Argument(metavar="TEXTS", help="A UTF-8 file with a text on each line, or - for standard input."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write; - is standard output.", metavar="FILE.npy")],
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="What to put before each text.")] = None,
    prompt_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The prompt that the model's folder has under this name.")
    ] = None,
) -> None:
    """Turn texts into vectors.

    A text's vector is the mean over its tokens in the last layer, scaled to
    length 1, so that the product of two vectors is their cosine similarity;
    a folder of sentence-transformers says itself how its vectors are made
    (pooling, dense layers, scaling, longest text, prompt), and that is done.
    Writes a NumPy file, float32 (texts, width), row by row in the order of
    the lines. A file of that name is replaced when the new one is complete.

    [bold]Examples[/]

      bertcraft encode minilm questions.txt -o vectors.npy
      sort -u log.txt | bertcraft encode ./my_model - -o vectors.npy
      bertcraft encode ./e5 asked.txt -o asked.npy --prompt-name query
    """
    import io
    import time

    import numpy as np

    lines = read_texts(texts)
    printed = output == Path("-")
    if printed and sys.stdout.isatty():
        raise InputError("-o -: vectors are no text to show in a terminal; name a file, or send them to another command")
    target = Path(os.path.realpath(output))  # what a link points to is replaced, not the link
    if not printed:
        check_output(target, *([] if texts == "-" else [Path(texts)]))
    from bertcraft import load

    opened = load(folder_of(model))
    start = time.perf_counter()
    vectors = opened.encode(lines, prompt=prompt, prompt_name=prompt_name)
    seconds = time.perf_counter() - start
    if printed:
        file = io.BytesIO()  # np.save asks a file for its place, and a pipe has none
        np.save(file, vectors)
        sys.stdout.buffer.write(file.getbuffer())
    else:
        _save(target, vectors)
    rows, width = vectors.shape
    speed = f"{seconds:.1f} s, {rows / seconds:,.0f} texts a second"
    name = "standard output" if printed else output
    print(f"{name}: float32 ({rows}, {width}), encoded in {speed}", file=sys.stderr if printed else sys.stdout)


def check_output(path: Path, *others: Path, ending: tuple[str, ...] = ()) -> None:
    """Refuse a file that could not be written in the end, before the work is done, or is one of ``others``, which are read."""
    if ending and path.suffix.lower() not in ending:
        raise InputError(f"{path}: expected a name that ends in {ending[0]}")
    for other in others:
        if os.path.realpath(path) == os.path.realpath(other):
            raise InputError(f"{path}: would be written over {other}; choose another name")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is a folder or a device: expected the name of a file to write")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder, so {path.name} cannot be written there; make it first")
    _check_writable(path.parent, str(path.parent))


def make_folder(path: Path, option: str) -> None:
    """Make the folder that an option names, before the work is done. Raises InputError, also where it cannot be written into."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{option}: {path}: a file stands there, expected a folder to write into") from None
    except OSError as error:
        raise InputError(f"{option}: {path}: cannot be made ({error.strerror}); choose another folder") from None
    _check_writable(path, f"{option}: {path}")


def _check_writable(folder: Path, named: str) -> None:
    import tempfile

    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        why = str(error.strerror).lower()
        raise InputError(f"{named}: nothing can be written there ({why}); choose another folder") from None


def _save(path: Path, vectors) -> None:
    """Write an .npy file whole or not at all."""
    import numpy as np

    from bertcraft.bert.checkpoint_files import replace_files

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:  # np.save would add .npy to a name
            np.save(file, vectors)

    try:
        replace_files(path.parent, {path.name: write})
    except OSError as error:
        size = vectors.nbytes / 1e6
        raise InputError(f"{path} ({size:,.1f} MB) could not be written: {error.strerror or error}; free space there") from None


def fill(
    model: Annotated[str, MODEL],
    text: Annotated[str, typer.Argument(metavar="TEXT", help=r"A text with one or more \[MASK] where words are missing.")],
    top: Annotated[int, typer.Option(min=1, metavar="N", help="How many words to show for each mask.")] = 5,
) -> None:
    r"""Guess the missing words of a text.

    Prints the most probable words for each mask with their probabilities.
    The model must have a masked-language-model head, as the folders that
    'bertcraft run' and 'bertcraft pretrain masked_lm' write do. minilm_mlm is
    built on first use, which takes about 20 minutes.

    [bold]Examples[/]

      bertcraft fill runs/01_roberta_optimizations_seed0/model \
          "set an \[MASK] for seven in the morning"
      bertcraft fill minilm_mlm "paris is the capital of \[MASK]."
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from bertcraft import load

    guesses = load(folder_of(model)).fill(text, top)
    console = Console()
    for number, words in enumerate(guesses, 1):
        title = f"mask {number} of {len(guesses)}" if len(guesses) > 1 else None
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
        table.add_column("word")
        table.add_column("probability", justify="right")
        for word, probability in words:
            table.add_row(Text(word), f"{probability:.1%}")
        console.print(table)
