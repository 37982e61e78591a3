"""The command ``bertcraft``: its commands, and how it ends when something goes wrong.

Everything but typer is imported inside the commands, so that ``--help`` is quick.
"""

import io
import os
import sys
from typing import Annotated

import typer
from typer.core import TyperGroup

import bertcraft
from bertcraft.cli import bench, compare, data, distill, lab, learn, lessons, models, pretrain
from bertcraft.errors import BertcraftError


class Commands(TyperGroup):
    """Commands whose foreseeable failures end in one message on standard error; other exceptions are bugs."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except BertcraftError as error:
            message, status = str(error), 2
        except KeyboardInterrupt as error:
            message, status = str(error) or "interrupted", 130
        except BrokenPipeError:
            raise  # typer's own business: whoever read our output has gone
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            message, status = f"{where}{error.strerror or error}", 2
        _tell(message, "interrupted" if status == 130 else "error")
        raise typer.Exit(status)


def _tell(message: str, kind: str) -> None:
    """One message on standard error: wrapped between words on a terminal, a single line elsewhere."""
    import shutil
    import textwrap

    text = message if message.startswith(kind) else f"{kind}: {message}"
    if sys.stderr.isatty():
        width = max(40, shutil.get_terminal_size().columns)
        text = textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
    colour = "yellow" if kind == "interrupted" else "red"
    typer.secho(text, fg=None if os.environ.get("NO_COLOR") else colour, err=True)


app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"bertcraft {bertcraft.__version__}")
        raise typer.Exit


@app.callback()
def _bertcraft(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Techniques that made BERT better: plain NumPy, measured on real text.

    'bertcraft COMMAND --help' explains a command and shows examples.

    [bold]Example[/]

      bertcraft run 01 --quick
    """


app.command()(lab.run)
app.command()(lab.results)
app.command()(compare.compare)
app.command()(compare.predict)
app.command()(pretrain.pretrain)
app.command()(distill.distill)
app.command()(models.encode)
app.command()(models.fill)
app.add_typer(data.app, name="data", help="List, fetch and verify texts, tasks and model weights.")
app.add_typer(bench.app, name="bench", help="Measure bertcraft against its rivals on this machine.")
app.command()(learn.learn)
app.command()(learn.progress)
app.command("list")(learn.list_techniques)
app.add_typer(lessons.app, name="lessons", help="Build the notebooks of the course (for its authors).")


def main() -> None:
    """Entry point of the command ``bertcraft``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that is no UTF-8, or a letter that the terminal lacks, is no error
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="bertcraft")
