"""The results of a benchmark as tables that fit 80 columns."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

BUSY = 0.5  # average number of running processes above which a machine is not quiet


def show_train(result: dict, console: Console) -> None:
    """Print the result of :func:`bertcraft.bench.train.run`."""
    sizes = result["sizes"]
    console.print(
        f"[bold]A masked-LM training step[/]: layers {sizes['layers']}, hidden size {sizes['hidden']}, "
        f"heads {sizes['heads']}, vocabulary {sizes['vocabulary']:,}, batch {sizes['batch']} x "
        f"{sizes['length']} tokens, {sizes['predicted_positions']} predicted in each row."
    )
    _show_setting(result, f"rounds: {result['rounds']}, steps in each: {result['steps_a_round']}", console)
    table = _table("ms/step", "lowest-highest", "tokens/s", "peak MB", "time", "memory")
    for entry in result["contenders"]:
        if entry["status"] != "ok":
            table.add_row(entry["title"], *_absent(entry))
            continue
        low, high = min(entry["rounds_milliseconds"]), max(entry["rounds_milliseconds"])
        table.add_row(
            entry["title"], _number(entry["milliseconds"]), f"{_number(low)}-{_number(high)}",
            _number(entry["tokens_per_second"]), _number(entry["peak_mb"]),
            _times(entry["time_ratio"]), _times(entry["memory_ratio"]),
        )  # fmt: skip
    console.print(table)
    _show_problems(result, console)
    console.print(_products(result["matrix_products"]))
    _show_notes(result, "time and memory: relative to bertcraft; ms/step: median over the rounds.", console)


def _products(products: dict) -> Text:
    work = f"{products['gflop_a_step']:,.3g} GFLOP of matrix products"
    if products["status"] != "ok":
        return Text(f"bertcraft's step has {work}; their peak could not be measured: {products['error']}")
    share = f" at {products['share_of_peak']:.0%} of the measured peak" if "share_of_peak" in products else ""
    return Text.assemble(
        (f"bertcraft: {work} a step{share}.", "bold"),
        f" Peak: {products['gflops']:,.0f} GFLOP/s, {products['blas']}, 2048 x 2048 x 2048 in float32 "
        f"(a product in each thread with one BLAS thread: {products['one_blas_thread_each']:,.0f}; one "
        f"product over all BLAS threads: {products['all_blas_threads']:,.0f}; the better counts).",
    )


def show_encode(result: dict, console: Console) -> None:
    """Print the result of :func:`bertcraft.bench.encode.run`."""
    console.print(f"[bold]Sentences into vectors[/]: {result['sentences']:,} sentences.")
    console.print(Text(f"Model: {result['model']}"), soft_wrap=True)
    _show_setting(result, f"rounds: {result['rounds']}", console)
    table = _table("sentences/s", "lowest-highest", "peak MB", "speed", "difference")
    for entry in result["contenders"]:
        if entry["status"] != "ok":
            table.add_row(entry["title"], *_absent(entry))
            continue
        low, high = min(entry["rounds_sentences_per_second"]), max(entry["rounds_sentences_per_second"])
        difference = "" if entry["name"] == "bertcraft" else f"{entry.get('largest_difference', float('nan')):.0e}"
        table.add_row(
            entry["title"], _number(entry["sentences_per_second"]), f"{_number(low)}-{_number(high)}",
            _number(entry["peak_mb"]), _times(entry["speed_ratio"]), difference,
        )  # fmt: skip
    console.print(table)
    _show_problems(result, console)
    explanation = (
        "speed: how many times faster bertcraft is; difference: the largest of any number in the vectors, from bertcraft's."
    )
    _show_notes(result, explanation, console)


def show_scaling(result: dict, console: Console) -> None:
    """Print the result of :func:`bertcraft.bench.scaling.run`."""
    given = result["settings"]
    console.print(
        f"[bold]A step of {given['objective']}, {given['size']}[/] ({result['parameters']:,} parameters), {given['batch']} x "
        f"{given['length']} tokens, over processes."
    )
    _show_machine(result, console)
    table = _table("ms/step", "predicted", "measured/predicted", "rows alone", "sum")
    for entry in result["entries"]:
        table.add_row(
            f"{entry['processes']} processes" if entry["processes"] > 1 else "1 process", _number(1e3 * entry["step"]),
            _number(1e3 * entry["predicted"]), _times(entry["step"] / entry["predicted"]),
            _number(1e3 * entry["alone"]), _number(1e3 * entry["all_reduce"]),
        )  # fmt: skip
    console.print(table)
    console.print(
        Text(
            "Predicted: what one process alone takes for its share of the rows, times the processes that share a CPU, and the "
            "sum of the gradients among them (all in ms). One process: by construction.",
            style="dim",
        )
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _absent(entry: dict) -> list[Text]:
    return [Text("-", style="dim") if entry["status"] == "not installed" else Text("failed", style="red")]


def _number(value: float) -> str:
    """Three significant digits below 100, whole numbers above."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _show_setting(result: dict, rounds: str, console: Console) -> None:
    console.print(f"Contenders in turn, each in a process of its own; {rounds}.")
    _show_machine(result, console)


def _show_machine(result: dict, console: Console) -> None:
    about = result["machine"]
    found = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    console.print(f"{about['cpu']}, CPUs: {about['threads']}; bertcraft {result['bertcraft']}, {found}.")
    load = about["load_before"] or 0
    if load > BUSY:
        console.print(
            f"This machine was busy (load {load:.1f} before the start): the figures are not reliable.",
            style="yellow",
        )
    console.print()


def _show_problems(result: dict, console: Console) -> None:
    """Why contenders are missing from the table, one paragraph each."""
    for entry in result["contenders"]:
        if entry["status"] != "ok":
            became = entry["status"] if entry["status"] == "failed" else f"is {entry['status']}"
            console.print(Text(f"{entry['title']} {became}: {entry['error']}"))
    console.print()


def _show_notes(result: dict, first: str, console: Console) -> None:
    for note in (first, *result["notes"]):
        console.print(Text(note, style="dim"))
