"""What a training run shows on standard error."""

from pathlib import Path


class Shown:
    """A live line of what is done; where there is no terminal, a line every twentieth of the run."""

    def __init__(self, steps: int, quiet: bool):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        columns = BarColumn(20), TextColumn("{task.description}"), TimeRemainingColumn()
        self.bar = Progress(*columns, console=self.console, disable=quiet or not self.console.is_terminal)
        self._task = self.bar.add_task("", total=steps)
        self.expect(steps)

    def expect(self, steps: int) -> None:
        """So many steps there will be."""
        self.bar.update(self._task, total=steps)
        self._every = max(1, steps // 20)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, emoji=False)

    def summary(self, held_out: dict) -> None:
        """What ``held_out.json`` holds, as a table."""
        from rich.table import Table

        from bertcraft.data.text import counted

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column(f"at {held_out['positions']:,} [MASK] of held-out text".replace("[", r"\["))
        for column in ("loss, nats", "words guessed, %"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_row("word frequencies", f"{held_out['unigram']:.3f}", "-")
        for name, key in (("before", "before"), (f"after {counted(held_out['steps'], 'step')}", "after")):
            table.add_row(name, f"{held_out[key]['loss']:.3f}", f"{100 * held_out[key]['accuracy']:.1f}")
        self.console.print(table)

    def step(self, progress) -> None:
        speed = f"{progress.tokens_per_second or 0:,.0f} tokens/s"
        line = f"{progress.step}/{progress.steps} training loss {progress.loss:.3f} {speed}"
        self.bar.update(self._task, completed=progress.step, description=line)
        if not self.console.is_terminal and progress.step % self._every == 0:
            self.console.print(line)


def built_folder(name: str) -> Path:
    """The folder of a model that is built on first use; while that takes its minutes, they are shown."""
    from bertcraft.pretrain import built

    if built.ready(name):
        return built.built(name)
    shown = Shown(built.RECIPES[name].steps, quiet=False)
    shown.say(f"{name} is built once, in about 20 minutes, and then kept. Ctrl-C loses nothing.")
    with shown.bar:
        return built.built(name, told=shown.say, report=shown.step)
