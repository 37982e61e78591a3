"""The glossary: its page shows all of it, a letter has one meaning, and a word used before it is explained is found."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.course.lessons import path as path_of

from bertcraft.course import builder, glossary, shape, shelf, source

TERMS, SYMBOLS = glossary.terms(), glossary.symbols()
A_LESSON = "05_knowledge_distillation"


@pytest.fixture
def unexplained(tmp_path, monkeypatch):
    """A function: the words that a lesson of these cells uses before they are explained."""
    monkeypatch.setattr(shape, "OLD_SHAPE", (A_LESSON,))  # a few cells have not the shape of a lesson

    def find(*cells: str) -> list[str]:
        path = tmp_path / f"{A_LESSON}.py"
        parts = ("\n".join(f"# {line}" for line in cell.splitlines()) for cell in cells)
        path.write_text("".join(f"# %% [markdown]\n{part}\n\n# %%\n1\n\n" for part in parts))
        found = glossary.unexplained(builder.build(path, solved=False))
        return [re.search(r"line \d+: '(.+?)'", each)[1] for each in found]

    return find


def test_the_page_shows_every_group_and_each_word_and_letter_is_there_once():
    page = "\n".join(cell.text for cell in source.read(path_of("glossary")))
    assert sorted(set(re.findall(r'table\("(.+?)"\)', page))) == sorted({term.group for term in TERMS})
    spelt = [form for term in TERMS for form in (term.name, *term.forms)]
    letters = [letter for each in SYMBOLS for letter in re.split(r",\s*", each.symbol)]
    assert len(set(spelt)) == len(spelt) and len(set(letters)) == len(letters)
    assert all(term.name in glossary.table(term.group).markdown for term in TERMS)


def test_a_meaning_is_a_few_whole_sentences():
    for term in TERMS:
        assert term.text[0].isupper() and term.text.endswith("."), term
        assert len(term.text.split()) <= 60, term


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A **warm-up** comes first. The warm-up is short.", []),
        ("A *warm-up* comes first.", []),
        ("The warm-up comes first. A **warm-up** is short.", ["warm-up"]),
        ("Warm-ups come first.", ["warm-up"]),
        ("It has a [warm-up](00_glossary.ipynb#Training).", []),
        ("It has a [warm-up](https://example.org).", ["warm-up"]),
        ("**In the\nwarm-up** phase.", []),
        ("# Warm-up\n\n`warm-up`, $warm-up$\n\n```\nwarm-up\n```", []),
        ("No [CLS] here; a unigram\nloss.", ["[CLS]", "unigram loss"]),
        ("Two * three * warm-up * four.", ["warm-up"]),
        ("Prewarm-up, an alarm, and a nation.", []),
    ],
)
def test_a_word_used_before_it_is_explained_is_found(unexplained, text, found):
    words = {"warm-up", "[CLS]", "unigram loss", "arm", "nat"}
    assert [word for word in unexplained(text) if word in words] == found


def test_what_the_foundations_explain_may_be_used_where_the_lesson_leans_on_them(unexplained):
    leaning = "You need [the foundations](00_foundations.ipynb)."
    assert "attention" in unexplained("It needs attention.")
    assert "attention" not in unexplained(leaning, "It needs attention.")
    assert "attention" in unexplained("A first cell.", leaning, "It needs attention.")


def test_an_appendix_may_use_any_word(unexplained):
    assert "warm-up" not in unexplained("One.", "## Appendix A. Rates\n\nThe warm-up.")


@given(st.sampled_from(TERMS), st.sampled_from(["", "s"]))
def test_a_word_is_found_in_all_its_forms(term, ending):
    for form in (term.name, *term.forms):
        assert term.pattern.search(f"It is about ({form}{ending}).")
        assert not term.pattern.search(f"it is about x{form}{ending}y".replace(" ", "z"))


def test_the_foundations_explain_what_every_lesson_uses():
    missing = {"token", "attention", "head", "loss", "gradient", "plateau"} - glossary._known_from_foundations()
    assert not missing and shelf.folder("lessons").joinpath(f"{glossary.PAGE}.py").exists()
