"""What a lesson shows: HTML or Markdown in a notebook, plain text elsewhere."""

import html
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 100  # columns of plain text in a notebook's output


@dataclass(frozen=True)
class Page:
    """Something to show, in its forms; the text says all that the others do."""

    text: str
    html: str = ""
    markdown: str = ""

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str | None:
        return self.html or None

    def _repr_markdown_(self) -> str | None:
        return self.markdown or None


def show(page) -> None:
    """Display a page (or anything that IPython displays): in a notebook as richly as it can, else as text."""
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        ipython.display.display(page)
    else:
        print(page)


def message(mark: str, text: str, colour: str) -> Page:
    """One message: a coloured bar and a word in bold, so that it is not told by the colour alone."""
    bar = f"border-left: 4px solid {colour}; padding: 4px 10px"
    return Page(f"{mark}: {text}", f'<div style="{bar}"><b>{html.escape(mark)}</b>: {_code(text)}</div>')


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> Page:
    """A table; a column whose cells are all figures stands to the right."""
    right = [all(_is_figure(row[i]) for row in rows) for i in range(len(columns))]
    return Page(_text_table(title, columns, rows, notes, right), _html_table(title, columns, rows, notes, right))


def _is_figure(cell: str) -> bool:
    return cell in ("", "-") or cell[0] in "+-0123456789<>" and not any(c.isalpha() for c in cell.split(" ")[0])


def _html_table(title, columns, rows, notes, right) -> str:
    align = ["right" if is_right else "left" for is_right in right]

    def line(tag: str, cells) -> str:
        return "".join(f'<{tag} style="text-align: {a}">{_code(c)}</{tag}>' for c, a in zip(cells, align, strict=True))

    head = f"<thead><tr>{line('th', columns)}</tr></thead>" if any(columns) else ""
    body = "\n".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    foot = "".join(f"<br><small>{_code(note)}</small>" for note in notes)
    caption = f"<b>{_code(title)}</b>\n" if title else ""
    return f"{caption}<table>{head}<tbody>\n{body}\n</tbody></table>{foot.removeprefix('<br>')}"


def _text_table(title, columns, rows, notes, right) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, show_header=any(columns), pad_edge=False)
    for column, is_right in zip(columns, right, strict=True):
        drawn.add_column(Text(column), justify="right" if is_right else "left")
    for row in rows:
        drawn.add_row(*map(Text, row))
    stream = io.StringIO()
    plain = {"color_system": None, "force_terminal": False, "force_jupyter": False, "legacy_windows": False}
    console = Console(file=stream, width=WIDTH, **plain)
    for part in (Text(title), drawn, *map(Text, notes)):
        console.print(part)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n")


def _code(text: str) -> str:
    """HTML of a text in which `this` is code."""
    parts = html.escape(text, quote=False).split("`")
    if len(parts) % 2 == 0:  # a backquote without its partner is one
        return "`".join(parts)
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
