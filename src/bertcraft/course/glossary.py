"""The words and symbols that the lessons share, and which of them a lesson uses before it has explained them.

They stand in ``glossary.toml``: the page ``00_glossary`` is made from it, and the builder looks for its words in the lessons. A
word is explained on a page where its first use is set off (*so* or **so**) or is a link to the glossary; or where the lesson's
first cell sends the reader to the foundations and these set it off. Headings, code and formulas are not looked at.
"""

import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from bertcraft.course import display, shape, shelf
from bertcraft.course.display import Page

PAGE = "00_glossary"
FOUNDATIONS = ("00_foundations", "00_foundations_2")
_LINK = re.compile(r"\[([^\[\]]*)\]\(([^)]*)\)")
_SET_OFF = re.compile(r"(?<!\*)(\*{1,2})(?![\s*])(?:[^*]*[^\s*])\1(?!\*)")
_UNREAD = re.compile(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|^#+ .*?$|<[^>]+>", re.S | re.M)


@dataclass(frozen=True)
class Term:
    """A word of the glossary: its group, what it means in one to four sentences, other forms in which lessons use it."""

    group: str
    name: str
    text: str
    forms: tuple[str, ...] = ()

    @functools.cached_property
    def pattern(self) -> re.Pattern:
        """Finds the word in prose, in the plural too; small letters of the glossary also as capitals at a sentence's start."""
        spelt = sorted((self.name, *self.forms), key=len, reverse=True)
        one = "|".join(r"\s+".join(map(_any_case, form.split())) for form in spelt)
        return re.compile(rf"(?<![\w-])(?:{one})s?(?![\w])")


@dataclass(frozen=True)
class Symbol:
    """A letter of the lessons' formulas, in LaTeX: one meaning in all of them."""

    symbol: str
    shape: str
    meaning: str


@functools.cache
def terms() -> tuple[Term, ...]:
    """All words, in the order of the page."""
    return tuple(Term(**row | {"forms": tuple(row.get("forms", ()))}) for row in _data()["term"])


@functools.cache
def symbols() -> tuple[Symbol, ...]:
    """All letters, in the order of the page."""
    return tuple(Symbol(**row) for row in _data()["symbol"])


def table(group: str) -> Page:
    """The words of a group with their meanings."""
    rows = [(term.name, term.text) for term in terms() if term.group == group]
    markdown = "\n".join(f"- **{name}**: {text}" for name, text in rows)
    return Page(display.table("", ("", ""), rows).text, markdown=markdown)


def notation() -> Page:
    """The letters with their shapes and meanings."""
    rows = [(f"${each.symbol}$", each.shape, each.meaning) for each in symbols()]
    columns = ("letter", "shape", "meaning")
    lines = [f"| {' | '.join(row)} |" for row in (columns, ("---",) * 3, *rows)]
    return Page(display.table("", columns, rows).text, markdown="\n".join(lines))


def unexplained(notebook) -> list[str]:
    """The words that a lesson uses before they are explained, with the line of the cell; [] for a page of the foundations."""
    about = notebook.metadata[shelf.MARK]
    if about["lesson"].startswith("00_"):
        return []
    leans = any(f"{name}.ipynb" in notebook.cells[0].source for name in FOUNDATIONS)
    known = _known_from_foundations() if leans else frozenset()
    found = []
    for term in terms():
        if term.name in known:
            continue
        for cell in shape.main_line(notebook):
            if cell.cell_type != "markdown" or (is_set_off := _first_is_set_off(term, cell.source)) is None:
                continue
            if not is_set_off:
                line = cell.metadata[shelf.MARK]["line"]
                found.append(
                    f"line {line}: {term.name!r} is used before it is explained: set it off (**{term.name}**) where it is "
                    f"explained, or link it ([{term.name}]({PAGE}.ipynb))"
                )
            break
    return found


def _first_is_set_off(term: Term, markdown: str) -> bool | None:
    """Whether the first use of a word in a cell is set off or a link to the glossary; None where the cell does not use it."""
    prose = _prose(markdown)
    first = term.pattern.search(prose)
    if first is None:
        return None
    return any(span.start() < first.end() and first.start() < span.end() for span in _SET_OFF.finditer(prose))


@functools.cache
def _known_from_foundations() -> frozenset[str]:
    """The words that the foundations set off somewhere."""
    from bertcraft.course import source

    paths = [shelf.folder("lessons") / f"{name}.py" for name in FOUNDATIONS]
    spans = [
        span[0]
        for path in paths
        if path.exists()
        for cell in source.read(path)
        if cell.type == "markdown"
        for span in _SET_OFF.finditer(_prose(cell.text))
    ]
    return frozenset(term.name for term in terms() if any(map(term.pattern.search, spans)))


def _prose(markdown: str) -> str:
    """A cell's text without headings, code and formulas; a link to the glossary becomes bold, another its words."""
    text = _UNREAD.sub(" ", markdown)
    return _LINK.sub(lambda link: f"**{link[1]}**" if f"{PAGE}.ipynb" in link[2] else link[1], text)


def _any_case(word: str) -> str:
    """A pattern of a word whose first letter may be a capital."""
    first = word[0]
    return (f"[{first.upper()}{first}]" if first.islower() else re.escape(first)) + re.escape(word[1:])


@functools.cache
def _data() -> dict:
    return tomllib.loads((Path(__file__).parent / "glossary.toml").read_text(encoding="utf-8"))
