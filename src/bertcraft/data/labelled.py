"""From a user's table to labelled texts, and to repeated splits that share no text."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bertcraft.data.table import Malformed, Table, Unusable
from bertcraft.data.text import counted, listed, shortened, signature
from bertcraft.errors import DataError

TEXT_NAMES = frozenset(
    "text texts review reviews sentence sentences content message messages body utterance comment comments question query "
    "tweet post document description review_text".split()
)
LABEL_NAMES = frozenset(
    "label labels class classes category categories target sentiment intent topic rating ratings star stars y".split()
)
MOST_ROWS = 50_000  # more than an encoder reads in the time that a comparison takes
LONGEST_TEXT = 10_000  # characters: several times what an encoder can read
_COMPOSED = re.compile(r"\[.*[,'\"\[].*\]|\[[\d\s.+-]*\]|\{.*:.*\}")  # [1 0 1] too, as NumPy writes it; [spam] is a name
_MISSING = {"na", "n/a", "nan", "none", "null", "nil", "missing"}  # as programs write it into CSV files
_SELECTORS = dict.fromkeys(range(0xFE00, 0xFE10))  # they say how the emoji before them is drawn
DRAWS = 100  # of a split, until each side has a text of each class
FEWEST = 5  # different texts of a class: it must be in training, development and test data


@dataclass(frozen=True)
class Labelled:
    """Texts with classes. ``numbers`` are int64 indices into ``labels``; ``groups`` say which texts stay together in a split:
    those that are the same but for case and punctuation, and those of one film, writer or patient where the table says so.
    ``notes`` are for the user: what was left out or noticed, counted."""

    texts: list[str]
    labels: list[str]
    numbers: np.ndarray
    groups: np.ndarray
    notes: list[str]

    def __len__(self) -> int:
        return len(self.texts)


class Split(NamedTuple):
    """Row numbers, int64, disjoint, in ascending order."""

    train: np.ndarray
    dev: np.ndarray
    test: np.ndarray


def choose_columns(table: Table, text: str | None, label: str | None, group: str | None = None) -> tuple[str, str, list[str]]:
    """The columns of texts and of labels, and notes on those that were not named but obvious; neither is that of ``group``.

    Raises DataError when the table has no such column, when two are one, or when the choice is not obvious.
    """
    chosen = {"--text": text and table.column(text), "--label": label and table.column(label)}
    named = {"--text": text, "--label": label, "--group": group and table.column(group)}
    for one, other in (("--text", "--label"), ("--text", "--group"), ("--label", "--group")):
        if named[one] is not None and named[one] == named[other]:
            raise DataError(f"{table.path}: {one} and {other} both name {named[one]!r}; the columns are {listed(table.columns)}")
    columns = [column for column in table.columns if column != group]
    likely = {"--text": TEXT_NAMES, "--label": LABEL_NAMES}
    missing = [option for option, name in chosen.items() if name is None]
    for option in missing:
        chosen[option] = _only(c for c in columns if c.casefold() in likely[option] and c not in chosen.values())
    if len(columns) == 2:  # what is not the one is the other
        for option, other in (("--text", "--label"), ("--label", "--text")):
            if chosen[option] is None and chosen[other] is not None:
                chosen[option] = _only(c for c in columns if c != chosen[other])
    if len(table.columns) < 2:
        parted = {"CSV": ", separated by commas, semicolons, tabs or bars", "TSV": ", separated by tabs"}.get(table.kind, "")
        got = f"the column {table.columns[0]!r:.60} alone" if table.columns else "no columns"
        raise DataError(f"{table.path}: got {got}; expected one of texts and one of labels{parted}{_hint(table)}")
    if unknown := [option for option, name in chosen.items() if name is None]:
        raise DataError(
            f"{table.path}: which column holds the {unknown[0][2:]}s? Name it with {unknown[0]}; "
            f"the columns are {listed(table.columns)}{_hint(table)}"
        )
    notes = [f"{option} was not given: taken for the {option[2:]}s, {table.column(chosen[option])!r}" for option in missing]
    return chosen["--text"], chosen["--label"], notes


def _hint(table: Table) -> str:
    """What may be wrong with a table whose columns are not what was expected."""
    if table.kind in ("CSV", "TSV"):
        return " (if these are no names, put a line of names above all others)"
    if table.kind == "JSON" and table.count == 1:
        return "; the file is one object, expected a list of objects, one a row (of pandas: to_json(..., orient='records'))"
    return ""


def choose_text(table: Table, text: str | None) -> tuple[str, list[str]]:
    """The column of texts alone, and notes, as choose_columns gives them; also where a text may stand in the place of its name.

    Raises DataError when the table has no such column, or when the choice is not obvious.
    """
    if text is not None:
        return table.column(text), []
    names = [c for c in table.columns if c.casefold() in TEXT_NAMES] if len(table.columns) > 1 else table.columns
    if (name := _only(names)) is None:
        columns = listed(table.columns)
        raise DataError(
            f"{table.path}: which column holds the texts? Name it with --text; the columns are {columns}{_hint(table)}"
        )
    if len(table.columns) > 1:
        return name, [f"--text was not given: taken for the texts, {name!r}"]
    if table.kind in ("CSV", "TSV") and name.casefold() not in TEXT_NAMES:  # texts without a name above them?
        line = f"the first line, {shortened(name, 60)!r}, is taken for the name of the column"
        return name, [f"{line}; put a name above the texts if it is one of them"]
    return name, []


def _only(names: Iterable[str]) -> str | None:
    names = list(names)
    return names[0] if len(names) == 1 else None


def read_labelled(table: Table, text: str, label: str, most: int = MOST_ROWS, *, group: str | None = None) -> Labelled:
    """The texts and classes of a table: at most ``most`` rows of it, taken at random, the same ones each time.

    ``group``: the column that says which texts belong together: of one film, writer, patient. Without a value there, a text
    stands alone. Left out and counted: rows that are malformed or lack a text or a label, classes with fewer than FEWEST
    different texts, or in fewer than FEWEST groups. Raises DataError when fewer than two classes are left.
    """
    taken = np.ones(table.count, bool)
    if table.count > most:
        taken[:] = False
        taken[np.random.default_rng(0).choice(table.count, most, replace=False)] = True
    texts, names, members, unusable, counts = [], [], [], Unusable(), Counter()
    columns = (text, label) if group is None else (text, label, group)
    for row in (row for row, wanted in zip(table.rows(*columns), taken, strict=True) if wanted):
        if isinstance(row, Malformed):
            unusable.add(row)
            counts["strange"] += row.column == label
            counts["strange text"] += row.column == text
            counts["strange group"] += row.column == group
            continue
        own, name = row[0].strip(), " ".join(row[1].split())
        if not own or not name:
            counts["text" if not own else "label"] += 1
            continue
        counts["long"] += len(own) > LONGEST_TEXT
        texts.append(own[:LONGEST_TEXT])
        names.append(name)
        members.append(" ".join(row[2].split()) if group is not None else "")
    written = [name for name in names if _COMPOSED.fullmatch(name)]  # lists and objects as texts, as CSV files have them
    if counts["strange"] > len(texts) or len(written) > len(names) / 2:
        first = f"the first: {written[0]!r:.60}" if written else f"the first: {unusable.first.where}"
        raise DataError(
            f"{table.path}: the column {label!r} holds lists or objects in {counted(counts['strange'] or len(written), 'row')} "
            f"({first}); expected one label, a text or a number. A list is several labels a text (multi-label), which no "
            "comparison here can judge: give a column of one label each. Of an object give the part that names the class"
        )
    for column, part in ((text, "text"), (group, "group")):
        if counts[f"strange {part}"] > len(texts):
            rows = f"{counted(counts[f'strange {part}'], 'row')} (the first: {unusable.first.where})"
            raise DataError(
                f"{table.path}: the column {column!r} holds lists or objects in {rows}; expected one {part}{_hint(table)}"
            )
    notes = []
    if table.count > most:
        notes.append(f"{table.count:,} rows: {most:,} of them, taken at random, are used")
    notes += [f"left out: {note}" for note in unusable.notes()]
    notes += [f"left out: {counted(counts[part], 'row')} without a {part}" for part in ("text", "label") if counts[part]]
    if counts["long"]:
        notes.append(f"{counted(counts['long'], 'text')} cut to {LONGEST_TEXT:,} characters")
    if group is not None and not any(members):
        raise DataError(f"{table.path}: the column {group!r} of --group is empty; expected what texts of one group share")
    return _classes(table, label, texts, names, members if group is not None else None, notes)


def _mark(text: str) -> str:
    """What two texts share that count as one: their letters and digits, in lower case, with the signs of vowels and accents."""
    text = text.translate(_SELECTORS)
    if text.isascii():
        return signature(text) or text
    composed = unicodedata.normalize("NFC", text.casefold())
    kept = (c if c.isalnum() or unicodedata.category(c).startswith("M") else " " for c in composed)
    return " ".join("".join(kept).split()) or text


def _together(marks: list[str], members: list[str]) -> list[int]:
    """The group of each row: of rows with one text or one value, and of all that hang together through others."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    place: dict[tuple[str, str], int] = {}
    ends = [
        [place.setdefault(end, len(place)) for end in (("text", mark), ("group", own) if own else ("text", mark))]
        for mark, own in zip(marks, members, strict=True)
    ]
    one, other = np.array(ends, np.int64).reshape(-1, 2).T
    joined = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(len(place), len(place)))
    return connected_components(joined, directed=False)[1][one].tolist()


def _classes(
    table: Table, label: str, texts: list[str], names: list[str], members: list[str] | None, notes: list[str]
) -> Labelled:
    """Groups of texts that stay together, and the classes that stand in enough of them."""
    where = f"{table.path}: the column {label!r}"
    marks = [_mark(text) for text in texts]
    keys = marks if members is None else _together(marks, members)
    enough = f"{FEWEST} different texts" if members is None else f"texts in {FEWEST} different groups"
    different, owner = {name: set() for name in names}, {}
    for key, name in zip(keys, names, strict=True):
        if owner.setdefault(key, name) == name or members is not None:  # a text counts for one class, as in split
            different[name].add(key)
    small = {name: len(group) for name, group in different.items() if len(group) < FEWEST}
    if len(different) < 2:
        got = f"only the value {next(iter(different))!r}" if different else f"no value beside a text ({'; '.join(notes)})"
        raise DataError(f"{where} has {got}; expected at least two classes")
    if len(different) - len(small) < 2:
        raise DataError(
            f"{where} has {counted(len(different), 'value')} in {counted(len(texts), 'row')} with a text, and fewer than two of "
            f"them with {enough}; expected at least two such classes. Is it the column of the labels? "
            f"The columns are {listed(table.columns)}"
        )
    if small:
        kept = [i for i, name in enumerate(names) if name not in small]
        shown = ", ".join(f"{shortened(name, 30)!r} ({number})" for name, number in sorted(small.items())[:5])
        more = f" and {len(small) - 5:,} more" if len(small) > 5 else ""
        notes.append(
            f"left out: {counted(len(small), 'class', 'classes')} with fewer than {enough}, "
            f"{counted(len(texts) - len(kept), 'row')}: {shown}{more}"
        )
        texts, names, marks, keys = ([each[i] for i in kept] for each in (texts, names, marks, keys))
    labels = _in_order(set(names))
    alike = Counter(map(_value, labels))
    if (mark := _joined(labels)) is not None:
        notes.append(f"labels look like several in one, separated by {mark!r}: each combination is taken for a class of its own")
    if missing := [name for name in labels if name.casefold() in _MISSING]:
        notes.append(f"classes that may stand for a missing label: {listed(missing, 6)}; leave their rows out if they do")
    if twins := [name for name in labels if alike[_value(name)] > 1]:
        notes.append(f"classes that differ only in how they are written are kept apart: {listed(twins, 6)}")
    number = {name: i for i, name in enumerate(labels)}
    numbers, groups = np.array([number[name] for name in names], np.int64), _numbered(keys)
    if members is not None:
        notes.append(_sizes(groups))
    return Labelled(texts, labels, numbers, groups, notes + _repeats(_numbered(marks), numbers))


def _numbered(keys: list) -> np.ndarray:
    """int64: equal keys have one number, from 0 in the order of their first places."""
    place: dict = {}
    return np.array([place.setdefault(key, len(place)) for key in keys], np.int64)


def _sizes(groups: np.ndarray) -> str:
    """A note on the groups that a column gave."""
    sizes = np.bincount(groups)
    if sizes.max() == 1:
        return "--group: no two texts are of one group, so it changes nothing"
    said = f"{len(sizes):,} groups of up to {sizes.max():,} texts: each is kept on one side of every split"
    if sizes.max() > len(groups) / 10:
        said += f"; the largest has {sizes.max() / len(groups):.0%} of all texts, so splits differ much in size"
    return said


def _joined(labels: list[str]) -> str | None:
    """The sign between labels that are several in one, as in "comedy|drama": most of the parts stand in other labels too."""
    for mark in "|;,":
        several = [name.split(mark) for name in labels if mark in name]
        parts = Counter(part.strip() for name in labels for part in set(name.split(mark)))
        within = {part.strip() for name in several for part in name}
        if len(several) > 2 and sum(parts[part] > 1 for part in within) > len(within) / 2:
            return mark
    return None


def _value(name: str) -> float | str:
    """What two labels have in common that differ only in capitals, in how accents are spelt, or in the zeros of a number."""
    try:
        return float(name)
    except ValueError:
        return unicodedata.normalize("NFC", name.casefold())


def _in_order(names: set[str]) -> list[str]:
    """By value where all are numbers, else by alphabet."""
    values = {name: _value(name) for name in sorted(names)}
    numeric = all(isinstance(value, float) for value in values.values())
    return sorted(values, key=values.get) if numeric else list(values)


def _repeats(groups: np.ndarray, numbers: np.ndarray) -> list[str]:
    """Notes on texts that stand there more than once."""
    sizes = np.bincount(groups)
    repeated = sizes[sizes > 1]
    if not len(repeated):
        return []
    pairs = np.unique(np.stack([groups, numbers], axis=1), axis=0)[:, 0]
    contradictory = np.flatnonzero(np.bincount(pairs) > 1)
    notes = [
        f"{counted(len(repeated), 'text stands', 'texts stand')} there more than once ({repeated.sum():,} rows): each is kept on "
        "one side of every split"
    ]
    if len(contradictory):
        rows = int(sizes[contradictory].sum())
        notes.append(f"{len(contradictory):,} of them with different labels ({rows:,} rows): nothing can get all of those right")
    return notes


def split(data: Labelled, seed: int, test: float = 0.2, dev: float = 0.1) -> Split:
    """A random split that gives each class its share, at least one text, on every side; the texts of a group stay together.

    Shares are those of the groups: where these differ in size, sides have a text more or less. Raises DataError where groups
    of several classes leave a side without a text of some class, however they are drawn.
    """
    rng = np.random.default_rng((seed, 1))
    order = np.argsort(data.groups, kind="stable")
    first = order[np.unique(data.groups[order], return_index=True)[1]]  # a group's class is that of its first row
    for _ in range(DRAWS):
        side = np.zeros(len(first), np.int8)
        for number in range(len(data.labels)):
            own = rng.permutation(np.flatnonzero(data.numbers[first] == number))
            tests, devs = (max(1, round(share * len(own))) for share in (test, dev))
            side[own[:tests]], side[own[tests : tests + devs]] = 2, 1
        sides = side[data.groups]
        held = np.zeros((3, len(data.labels)), bool)
        held[sides, data.numbers] = True
        if held.all():  # always at the first draw, where a group is of one class
            return Split(*(np.flatnonzero(sides == place) for place in range(3)))
    lacking = data.labels[int(held.all(axis=0).argmin())]
    raise DataError(
        f"--group: in {DRAWS} random splits of the {len(first):,} groups, training, development and test texts never all had a "
        f"text of each class (the last one lacked {shortened(lacking, 30)!r}); give more groups, or leave the rarest classes out"
    )
