"""From the plain text files that people typed or scanned to clean prose: one paragraph, one line.

A file of Project Gutenberg has lines of about 70 characters, a header and a footer that differ from file to
file, tables of contents, footnotes, page ornaments and verse. Instead of knowing every variant, the rules
below keep what looks like a paragraph of prose and drop the rest.
"""

import html
import itertools
import re
import statistics

from bertcraft.data.text import plain

_SENTENCE_END = re.compile(r"""[.!?:;,—-]["')\]]*$""")
_HEADING = re.compile(r"(chapter|book|letter|part|section|volume|scene|act|canto|plate|fig|no)\b.{0,12}$", re.I)
_NOTE = re.compile(r"\[?\*|\[\s|\[(\d+|[a-z]|note|footnote|endnote|illustration|transcriber)\b|\(\d+\)|\d+[.)]", re.I)
_BOILERPLATE = (
    "gutenberg", " etext", " e-text", "distributed proofread", "transcriber", "pgdp.net", "html version",
    "this ebook", "all rights reserved", "copyright", "http:", "https:", "www.", "public domain",
    "spelling and punctuation", "{greek}",
)  # fmt: skip
_BRACKETED = re.compile(r"\[(?:Illustration|Footnote|Endnote|Sidenote|Note|Transcriber)\b[^\[\]]*\]", re.IGNORECASE)
# The licence, wherever it stands (in one file between two chapters), and what follows the end of the book.
_LICENCE = re.compile(
    r"\**The Project Gutenberg E(?:text|book) of.*?END\W*THE SMALL PRINT[^\n]*"
    r"|End of (?:The )?Project Gutenberg.*",
    re.S | re.I,
)


def paragraphs(text: str) -> list[str]:
    """The paragraphs of prose of a hard-wrapped text file, each on one line.

    Dropped: headings, tables of contents, verse, tables, footnotes, illustrations, boilerplate, and a last
    sentence that the file cuts off. Removed inside paragraphs: markers of italics (``_so_``), of bold
    (``=so=``), of notes (``[12]``) and of verses (``1:12``, ``[Matt. 26:29]``).
    """
    text = re.sub(r"\r*\n", "\n", html.unescape(text))  # some lines end in two carriage returns
    text = _LICENCE.sub("", text)
    # A note may run over several paragraphs: its brackets are the only sign of where it ends.
    text = _BRACKETED.sub("", text)
    blocks = [[line.strip() for line in block.split("\n")] for block in re.split(r"\n(?:[ \t]*\n)+", text)]
    blocks = [[line for line in block if line] for block in blocks]
    lengths = [len(line) for block in blocks for line in block]
    if not lengths:
        return []
    full = statistics.quantiles(lengths, n=10)[-1] if len(lengths) > 1 else lengths[0]
    running = (b for b in blocks if b and not _is_broken_early(b, full) and not _NOTE.match(b[0]))
    joined = map(_join, running)
    # The title page, its date and its publisher end where the first real paragraph begins.
    return list(itertools.dropwhile(lambda line: len(line) < 100, filter(is_prose, joined)))


def _is_broken_early(block: list[str], full: float) -> bool:
    """Whether lines end well before the margin, as in verse, lists and tables (prose: only the last one)."""
    return len(block) > 2 and statistics.fmean(len(line) for line in block[:-1]) < 0.72 * full


def _join(block: list[str]) -> str:
    line = " ".join(block)
    line = re.sub(r"(?<=[a-z])- (?=[a-z])", "-", line)  # "red-" and "skinned" on two lines
    line = re.sub(r"\[\s*[\d*a-z]{1,4}\s*\]|<\d+>|\{\d+\}", "", line)
    line = re.sub(r" ?\[[^\[\]]{1,30}\d[:\d, -]*\]", "", line)  # [Matt. 26:29]
    line = re.sub(r"\b\d{1,3}:\d{1,3} ", "", line)
    line = re.sub(r"(?<!\w)([_=])(?=\S)(.+?)(?<=\S)\1(?!\w)", r"\2", line).replace("_", " ")
    return plain(line)


def is_prose(line: str) -> bool:
    """Whether a line reads like a sentence of running text rather than a heading, a table or a note."""
    start = line[:400]
    letters = sum(map(str.isalpha, start))
    lower = sum(map(str.islower, start))
    signs = len(start) - start.count(" ")
    return (
        letters + 3 > 0.72 * signs  # three for the quotes of a short answer
        and lower > 0.45 * letters
        and bool(_SENTENCE_END.search(line[-5:]))
        and not _HEADING.match(line)
        and not _NOTE.match(line)
        and not (len(line) < 600 and _is_boilerplate(line.lower()))
    )


def _is_boilerplate(line: str) -> bool:
    return line.startswith("produced by ") or any(mark in line for mark in _BOILERPLATE)
