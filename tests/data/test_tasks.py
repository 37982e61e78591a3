"""The tasks' splits share no text, say what was dropped, and the known traps of each set are gone."""

import csv
import hashlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertcraft.data import splits, task
from bertcraft.data.cards import CARDS
from bertcraft.data.splits import Row
from bertcraft.data.tasks import Task, _is_foreign, _tsv, _without_header
from bertcraft.data.text import signature

NAMES = [name for name, card in CARDS.items() if card.kind == "task"]
CLASSES = {
    "banking77": 77, "clinc150": 150, "hwu64": 64, "stackoverflow": 20, "dbpedia": 219, "newsgroups": 20,
    "trec": 47, "rotten_tomatoes": 2, "sms_spam": 2, "bbc_news": 5, "wikipedia_topics": 11,
}  # fmt: skip


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    return {name: task(name) for name in NAMES}


def parts(found):
    return {"train": found.train, "dev": found.dev, "test": found.test}


@pytest.mark.parametrize("name", NAMES)
def test_a_task_holds_what_its_card_says(tasks, name):
    found = tasks[name]
    assert tuple(map(len, parts(found).values())) == CARDS[name].holds
    assert len(found.labels) == CLASSES[name] and found.labels == sorted(set(found.labels))
    for split in parts(found).values():
        assert split.labels.dtype == np.int64 and split.labels.shape == (len(split.texts),)
        assert split.labels.min() >= 0 and split.labels.max() < len(found.labels)
        assert all(text.strip() for text in split.texts)
    assert set(found.train.labels) == set(range(len(found.labels)))  # none that only the test shows


@pytest.mark.parametrize("name", NAMES)
def test_no_text_stands_in_two_splits_or_twice_in_training(tasks, name):
    train, dev, test = ([signature(text) or text for text in split.texts] for split in parts(tasks[name]).values())
    assert not set(train) & set(dev) and not set(train) & set(test) and not set(dev) & set(test)
    assert len(train) == len(set(train))


@pytest.mark.parametrize(
    ("name", "published"),
    {
        "banking77": 3080, "clinc150": 2250, "hwu64": 1032, "stackoverflow": 5991, "dbpedia": 2000,
        "newsgroups": 2000, "trec": 490,
    }.items(),
)  # fmt: skip
def test_a_published_test_set_is_not_touched(tasks, name, published):
    assert len(tasks[name].test) == published


def test_what_was_dropped_is_said(tasks):
    assert "dropped from train: 24 texts that also stand in test" in tasks["banking77"].notes
    assert "dropped from all: 391 repeated texts" in tasks["sms_spam"].notes
    assert "dropped: 65 reviews that are not in English" in tasks["rotten_tomatoes"].notes
    assert tasks["dbpedia"].notes == ()


def test_a_task_is_the_same_on_every_machine(tasks):
    digest = hashlib.sha256()
    for split in parts(tasks["rotten_tomatoes"]).values():
        digest.update("\n".join(split.texts).encode() + split.labels.tobytes())
    assert digest.hexdigest()[:16] == "7254d3bfc3b5bdc5"


def test_the_newsgroup_is_not_named_in_the_text(tasks):
    found = tasks["newsgroups"]
    for split in parts(found).values():
        for text, label in zip(split.texts, split.labels, strict=True):
            assert found.labels[label] not in text
            assert not re.match(r"Newsgroup:|document_id:|From:|Subject:", text, re.I)
            assert "Newsgroup:" not in text and len(text) <= 100_000


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        ("sci.spaceDocument_id: 60From: n@x.org (N. N.)Subject: Re: MirIt is up.", "MirIt is up."),
        (
            "sci.spacedocument_id: 60Subject: Re: Mir, againFrom: n@x.org (N. N.)It is up.",
            "Mir, again It is up.",
        ),
        ("sci.spaceFrom: n@x.orgSubject: MirIn sci.space, M. M. writes: no.", "MirIn , M. M. writes: no."),
    ],
)
def test_headers_go_in_either_order_and_without_a_number(raw, kept):
    assert _without_header(Row(f"Newsgroup:{raw}", "sci.space")) == kept


def test_no_movie_is_in_two_splits(tasks):
    """Reviews of one movie share their group; here it is told by the reviews' own mention of the title."""
    found = tasks["rotten_tomatoes"]
    for title in ("Harry Potter", "Spider-Man", "Minority Report", "Y Tu Mamá También", "Derrida"):
        counts = {name: sum(title in text for text in split.texts) for name, split in parts(found).items()}
        assert max(counts.values()) >= 0.75 * sum(counts.values()) > 0, (title, counts)
    assert not any("película" in text for split in parts(found).values() for text in split.texts)
    shares = [np.mean(split.labels == found.labels.index("fresh")) for split in parts(found).values()]
    assert max(shares) - min(shares) < 0.1


def test_spam_that_differs_in_digits_only_is_not_split(tasks):
    seen = {}
    for name, split in parts(tasks["sms_spam"]).items():
        for text in split.texts:
            template = re.sub(r"[\W\d_]+", " ", text.casefold()).strip() or text
            assert seen.setdefault(template, name) == name
    assert not any("&lt;" in text for text in tasks["sms_spam"].train.texts)


def test_labels_are_clean(tasks):
    for found in tasks.values():
        assert all(label == label.strip() and "\r" not in label for label in found.labels)
    assert tasks["trec"].labels[0] == "class_00"
    assert "Uncategorized" not in tasks["wikipedia_topics"].labels
    assert not any('\\"' in text for text in tasks["dbpedia"].train.texts)


def test_questions_of_a_permuted_class_still_belong_together(tasks):
    found = tasks["trec"]
    labelled = zip(found.train.texts, found.train.labels, strict=True)
    who = [label for text, label in labelled if text.startswith("Who ")]
    assert np.bincount(who).max() > 0.8 * len(who)


def test_a_quoted_field_may_hold_tabs_lines_and_megabytes_and_the_limit_of_csv_stays():
    before = csv.field_size_limit(1000)
    long = "x" * 300_000
    rows = _tsv(f'text\tlabel\n"a\tb\nc"\td\n{long}\te\n')
    assert rows == [["text", "label"], ["a\tb\nc", "d"], [long, "e"]]
    assert csv.field_size_limit(before) == 1000


def test_foreign_text_is_told_from_english_text():
    assert _is_foreign("Una película, se diría, más allá de toda lógica.")
    assert _is_foreign("O Último Suspeito ganha força ao também funcionar em uma esfera adicional")
    assert not _is_foreign("Y Tu Mamá También is hilariously, gloriously alive.")
    assert not _is_foreign("Execrable.")


words = st.text("abAB .!1", max_size=6)
rows = st.lists(st.builds(Row, words, st.sampled_from("xyz"), st.sampled_from("gh")), max_size=30)


@given(rows, rows, rows)
def test_any_published_splits_become_disjoint(train, dev, test):
    found = splits.separate({"train": train, "dev": dev, "test": test}, notes := [])
    marks = {part: [signature(row.text) for row in kept] for part, kept in found.items()}
    assert found["test"] == test
    assert not set(marks["train"]) & (set(marks["dev"]) | set(marks["test"]))
    assert not set(marks["dev"]) & set(marks["test"])
    assert len(marks["train"]) == len(set(marks["train"]))
    dropped = sum(map(len, (train, dev, test))) - sum(map(len, found.values()))
    assert dropped == sum(int(re.search(r": (\d+) texts|: (\d+) repeated", n)[0].split()[1]) for n in notes)


@given(rows)
def test_a_text_with_two_labels_is_dropped_and_others_stay_once(found):
    kept = splits.distinct(found, [])
    labels = {}
    for row in found:
        labels.setdefault(signature(row.text), set()).add(row.label)
    assert {signature(row.text) for row in kept} == {mark for mark, names in labels.items() if len(names) == 1}
    assert len(kept) == len({signature(row.text) for row in kept})


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=40))
def test_groups_that_share_a_long_text_are_never_cut_apart(pairs):
    found = [Row(f"a sentence that is long enough to be a review {text}", "x", f"movie {g}") for text, g in pairs]
    merged = splits.merge_groups(found, [])
    divided = splits.divide(merged)
    assert sum(map(len, divided.values())) == len(found)
    place = {}
    for part, kept in divided.items():
        for row in kept:
            assert place.setdefault(row.text, part) == part
            assert place.setdefault(row.group, part) == part


def test_a_hash_divides_in_the_shares_it_promises():
    divided = splits.divide(Row(f"text {i}", "x") for i in range(20_000))
    assert [round(len(divided[part]) / 20_000, 2) for part in ("train", "dev", "test")] == [0.7, 0.1, 0.2]
