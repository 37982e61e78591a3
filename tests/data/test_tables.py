"""Every way a user's file can be wrong ends in a message that names the place, or in a counted note."""

import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertcraft.data import json_table, labelled, task
from bertcraft.data.labelled import choose_columns, choose_text, read_labelled, split
from bertcraft.data.lines import LONGEST
from bertcraft.data.table import Malformed
from bertcraft.data.tables import read_table
from bertcraft.data.text import signature
from bertcraft.errors import DataError

GOOD = "text,label\ngood film,pos\nbad film,neg\n"


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes, name: str = "reviews.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def rows(path, *names):
    return list(read_table(path).rows(*names))


def refused(path) -> str:
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


# ---- what is read


TABLE = pl.DataFrame({
    "id": [1, 2, 3, 4],
    "text": ["plain", 'with "quotes", a comma\tand a tab', "two\nlines", "Zürich 東京 👍"],
    "stars": [5.0, 4.0, 1.5, None],
    "good": [True, True, False, None],
})  # fmt: skip
EXPECTED = [
    ("plain", "5", "true"), ('with "quotes", a comma\tand a tab', "4", "true"), ("two\nlines", "1.5", "false"),
    ("Zürich 東京 👍", "", ""),
]  # fmt: skip


def test_all_four_formats_hold_the_same_table(tmp_path):
    TABLE.write_ndjson(tmp_path / "t.jsonl")
    TABLE.write_parquet(tmp_path / "t.parquet")
    TABLE.write_csv(tmp_path / "t.csv")
    TABLE.write_csv(tmp_path / "t.tsv", separator="\t")
    for name in ("t.jsonl", "t.parquet", "t.csv", "t.tsv"):
        table = read_table(tmp_path / name)
        assert (table.columns, table.count, table.notes) == (["id", "text", "stars", "good"], 4, [])
        got = list(table.rows("text", "stars", "good"))
        if name in ("t.csv", "t.tsv"):  # there a number is what is written
            got = [(text, stars.removesuffix(".0"), good) for text, stars, good in got]
        assert got == EXPECTED
        assert [row[0] for row in table.rows("id")] == ["1", "2", "3", "4"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12), min_size=1, max_size=6))
def test_whatever_csv_and_json_can_write_is_read_back(tmp_path_factory, texts):
    import csv

    folder = tmp_path_factory.mktemp("any")
    with open(folder / "t.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows([["text", "n"], *([text, i] for i, text in enumerate(texts))])
    (folder / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert [text for (text,) in rows(folder / "t.csv", "text")] == texts
    assert [text for (text,) in rows(folder / "t.jsonl", "text")] == texts


@pytest.mark.parametrize("separator, name", [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_another_separator_is_found_and_said(write, separator, name):
    table = read_table(write(f"text{separator}label\na, b{separator}pos\n"))
    assert table.notes == [f"columns are separated by {name}"]
    assert list(table.rows("text", "label")) == [("a, b", "pos")]


def test_line_ends_of_all_systems_and_blank_lines(write):
    for end in ("\n", "\r\n", "\r"):
        assert rows(write(GOOD.replace("\n", end)), "label") == [("pos",), ("neg",)]
    assert rows(write("\n\ntext,label\na,pos\n\nb,neg"), "text") == [("a",), ("",), ("b",)]


def test_an_index_column_without_a_name_gets_one(write):
    assert read_table(write(",text,label\n0,a,pos\n")).columns == ["column 1", "text", "label"]


# ---- encodings


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_encodings_are_found_and_said(write, encoding, name):
    text = "Crème brûlée, 東京"
    content = f'text,label\n"{text}",good\n' if name == "t.csv" else json.dumps({"text": text}, ensure_ascii=False) + "\n"
    path = write((content if name == "t.csv" else content * 3).encode(encoding), name)
    assert rows(path, "text")[0] == (text,)
    assert read_table(path).notes == [f"encoding: {encoding}"]


def test_windows_1252_is_read_as_such_and_said(write):
    path = write("text,label\nplain,a\ncafé – “naïve” €5,b\n".encode("cp1252"))
    assert rows(path, "text") == [("plain",), ("café – “naïve” €5",)]
    (note,) = read_table(path).notes
    assert note.startswith("1 line is not UTF-8 (the first: line 3), read as Windows-1252")


def test_latin_1_bytes_that_windows_lacks_are_kept(write):
    assert rows(write(b"text,label\nx\x81\xe9y,a\n"), "text") == [("x\x81éy",)]


def test_a_file_that_mixes_encodings_loses_nothing_and_names_the_lines(write):
    path = write("text,label\ncafé,a\n".encode() + "thé,b\n".encode("cp1252") + "maté,a\n".encode())
    assert rows(path, "text") == [("café",), ("thé",), ("maté",)]
    mixed = "the file mixes encodings: 1 line is not UTF-8 (the first: line 3), read as Windows-1252; "
    assert read_table(path).notes == [mixed + "2 others are (the first: line 2)"]


def test_a_file_cut_inside_a_character(write):
    assert "line 3 is not UTF-16" in refused(write(GOOD.encode("utf-16")[:-1]))


# ---- files that are refused


def test_no_file_a_folder_a_pipe_an_unknown_name(tmp_path, write):
    assert refused(tmp_path / "none.csv").startswith("FILE: there is no such file")
    assert refused(tmp_path).startswith("FILE: is a folder")
    os.mkfifo(tmp_path / "pipe.csv")
    assert refused(tmp_path / "pipe.csv").startswith("FILE: is not a file")
    assert "ends in '.xlsx', expected one of .csv, .tsv" in refused(write(GOOD, "t.xlsx"))


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.parquet"])
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file(write, name, content):
    assert "the file is empty" in refused(write(content, name))


def test_a_header_without_rows(write, tmp_path):
    assert "no row below the names of the columns 'text', 'label'" in refused(write("text,label\n"))
    pl.DataFrame({"text": ["a"], "label": ["b"]}).clear().write_parquet(tmp_path / "t.parquet")
    assert "no row below the names of the columns 'text', 'label'" in refused(tmp_path / "t.parquet")


def test_other_formats_are_told_by_their_first_bytes(write, tmp_path):
    workbook = io.BytesIO()
    with zipfile.ZipFile(workbook, "w") as archive:
        archive.writestr("xl/workbook.xml", "<x/>")
    assert "Excel workbook" in refused(write(workbook.getvalue()))
    assert "gzip" in refused(write(gzip.compress(GOOD.encode())))
    TABLE.write_parquet(tmp_path / "t.csv")
    assert "name it .parquet" in refused(tmp_path / "t.csv")


class Bomb:
    def __reduce__(self):
        return os.system, ("touch UNPICKLED",)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.parquet"])
def test_a_pickle_is_refused_and_not_run(write, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    refused(write(pickle.dumps(Bomb()) * 3, name))
    assert not (tmp_path / "UNPICKLED").exists()


def test_nul_bytes_name_the_line(write):
    assert "line 3 holds a NUL byte" in refused(write(GOOD.replace("bad", "b\0d")))
    assert "line 2 holds a NUL byte" in refused(write('{"text": "a"}\n{"text": "b\0"}\n', "t.jsonl"))


@pytest.mark.parametrize("rest", ["", 'c,neg\n"d, e",pos\n', 'c,neg\n"",pos\nd,neg\n"x",y\n'])
def test_a_quote_left_open_names_the_line_where_it_opens(write, rest):
    message = refused(write('text,label\n"fine, this one",pos\n"two\nlines",neg\n"left open,pos\nb,neg\n' + rest))
    assert "line 5: a quote is opened and not closed" in message


def test_a_quote_inside_a_quoted_text_names_its_line(write):
    assert "line 3: a quote stands inside" in refused(write('text,label\na,b\n"He said "hi" to me",pos\n'))


def test_backslashes_before_quotes_are_understood_where_all_then_fits(write):
    table = read_table(write('text,label\nab,c\n"He said \\"hi, you\\"",pos\n'))
    assert list(table.rows("text", "label")) == [("ab", "c"), ('He said "hi, you"', "pos")]
    assert "a backslash is taken to stand before quotes" in table.notes[0] and "line 3" in table.notes[0]


def test_quotes_of_a_tsv_without_quoting_are_ordinary_characters(write):
    table = read_table(write('text\tlabel\n"Oh, he said\tpos\nb\tneg\n', "t.tsv"))
    assert list(table.rows("text")) == [('"Oh, he said',), ("b",)]
    assert "quotes are taken as ordinary characters" in table.notes[0] and "line 2" in table.notes[0]


def test_two_texts_of_direct_speech_in_a_tsv_do_not_swallow_what_stands_between(write):
    """The first begins with a quote, the other ends with one: one field of several lines, in the usual reading."""
    table = read_table(write('text\tlabel\nfine\tpos\n"I went home.\t1\nAnother\tpos\nIt was late."\t0\nlast\tneg\n', "t.tsv"))
    assert table.count == 5 and list(table.rows("text"))[1:4] == [('"I went home.',), ("Another",), ('It was late."',)]
    assert "quotes are taken as ordinary characters" in table.notes[0] and "line 3 has several lines" in table.notes[0]
    quoted = read_table(write('text\tlabel\n"two\nlines"\tpos\nb\tneg\n', "u.tsv"))  # this one means it
    assert list(quoted.rows("text")) == [("two\nlines",), ("b",)] and not quoted.notes


def test_other_backslashes_stay_where_those_before_quotes_go(write):
    table = read_table(write('text,label\n"He said \\"hi\\"\\nto C:\\temp\\\\new",pos\nb,neg\n'))
    assert next(iter(table.rows("text"))) == ('He said "hi"\\nto C:\\temp\\new',)


def test_a_blank_line_above_the_names_hides_no_separator(write):
    table = read_table(write("\ntext;label\ngood film;pos\n"))
    assert table.columns == ["text", "label"] and "semicolons" in table.notes[0]


def test_texts_of_other_scripts_are_told_apart_and_their_forms_are_one(write):
    words = ["दिन", "दान", "दीन", "दून", "देन", "मन", "मान", "मीन", "मौन", "मुनि"]
    data = labelled_rows(write, [(word, "ab"[i % 2]) for i, word in enumerate(words)])
    assert len(set(data.groups)) == len(words) and not data.notes
    cafe = labelled_rows(write, pairs(a=6, b=6) + [("caf\u00e9 d", "a"), ("CAFE\u0301 d!", "a")])
    assert len(set(cafe.groups)) == 13


def test_texts_of_emoji_are_told_apart_whether_they_have_a_selector_or_not(write):
    hearts, sun = ("\u2764\ufe0f", "\u2764"), "\u2600\ufe0f"
    data = labelled_rows(write, [*pairs(a=9, b=9), (hearts[0], "a"), (hearts[1], "a"), (sun, "b")])
    groups = dict(zip(data.texts, data.groups, strict=True))
    assert groups[hearts[0]] == groups[hearts[1]] != groups[sun]
    assert not any("different labels" in note for note in data.notes)


def test_a_quote_left_open_in_a_tsv_with_quoting(write):
    assert "line 3: a quote" in refused(write('"text"\t"label"\n"a\tb"\t"pos"\n"c\t"neg"\n', "t.tsv"))
    assert "line 4: a quote" in refused(write('text\tlabel\n"two\nlines"\tpos\n"c\tneg\nd\tpos\ne\tneg\n', "t.tsv"))


def test_a_quote_left_open_in_a_large_file_is_found_early(write):
    path = write('text,label\n"open,pos\n' + "a very ordinary line,neg\n" * (LONGEST // 20))
    assert "line 2: a quote is opened" in refused(path)


def test_a_line_without_end(write):
    assert "line 2 is longer than" in refused(write("text,label\n" + "x" * (LONGEST + 1)))


def test_rows_with_too_many_or_too_few_fields_are_counted(write):
    path = write("text,label\na,pos\nb, well,neg\nc\nd,neg,,\ne,pos\nf,neg\n")
    table = read_table(path)
    assert [type(row) for row in table.rows("text")].count(Malformed) == 2
    assert list(table.rows("text", "label"))[3] == ("d", "neg")
    message = refused(write("text,label\nb, well,neg\nc, oh,pos\nd,neg\n"))
    assert "2 rows cannot be used (the first: line 2, 3 fields where the first line names 2 columns) of 3" in message


@pytest.mark.parametrize("bad", ['{"text": "a"', "[1]", "12", "nonsense", "[" * 100_000, '{"n": ' + "1" * 5000 + "}"])
def test_a_line_of_jsonl_that_is_no_object(write, bad):
    path = write('{"text": "a", "label": 1}\n' + bad + '\n\n{"text": "b", "label": 2}\n', "t.jsonl")
    got = rows(path, "text", "label")
    assert got[0] == ("a", "1") and got[2:] == [("", ""), ("b", "2")]
    assert isinstance(got[1], Malformed) and got[1].where == "line 2"
    assert "the first: line 1" in refused(write(bad + "\n", "u.jsonl"))


def test_a_list_in_jsonl_and_half_a_character(write):
    path = write('{"text": ["a"]}\n{"text": "\\ud83d"}\n{"text": {"a": 1}}\n', "t.jsonl")
    first, second, third = rows(path, "text")
    assert first == Malformed("line 1", "a list in 'text' where a text or a label is expected", "text")
    assert second == ("\ufffd",) and isinstance(third, Malformed)


def test_keys_that_the_first_object_lacks_are_columns_too(write):
    assert read_table(write('{"text": "a"}\n{"label": 1, "text": "b"}\n', "t.jsonl")).columns == ["text", "label"]


def test_keys_that_appear_late_are_columns_too_up_to_a_number(write, monkeypatch):
    late = write('{"text": "a"}\n' * 300 + '{"text": "b", "label": "c"}\n', "t.jsonl")
    assert read_table(late).columns == ["text", "label"]
    assert rows(late, "label")[-2:] == [("",), ("c",)]
    monkeypatch.setattr(json_table, "_MOST_COLUMNS", 3)
    assert len(read_table(write("".join(f'{{"key {i}": 1}}\n' for i in range(9)), "t.jsonl")).columns) == 3


def test_spaces_around_the_names_of_columns_do_not_count(write, tmp_path):
    for name, content in (("t.csv", " text,label \na,b\n"), ("t.jsonl", '{" text": "a", "label ": "b"}\n')):
        assert rows(write(content, name), "text", "label") == [("a", "b")]
    pl.DataFrame({" text": ["a"], "label ": ["b"]}).write_parquet(tmp_path / "t.parquet")
    assert rows(tmp_path / "t.parquet", "label", "text") == [("b", "a")]
    pl.DataFrame({" text": ["a"], "text": ["b"]}).write_parquet(tmp_path / "t.parquet")
    for path in (tmp_path / "t.parquet", write('{" text": "a"}\n{"text": "b"}\n', "t.jsonl")):
        assert "the columns ' text' and 'text' differ in spaces only; give each a name of its own" in refused(path)


def test_parquet_that_is_none_or_is_cut_or_damaged(write, tmp_path):
    assert "is no Parquet file" in refused(write(GOOD, "t.parquet"))
    assert "is no Parquet file" in refused(write("PAR", "t.parquet"))
    TABLE.write_parquet(tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    assert "is cut off" in refused(write(whole[:-20], "t.parquet"))
    assert "cannot be read" in refused(write(b"PAR1" + b"\xff" * 500 + b"PAR1", "t.parquet"))
    damaged = read_table(write(whole[:4] + b"\xee" * 300 + whole[304:], "t.parquet"))
    with pytest.raises(DataError, match="cannot be read"):
        list(damaged.rows("text"))


def test_parquet_of_categories_bytes_and_lists(tmp_path):
    pl.DataFrame({
        "text": [b"caf\xc3\xa9", b"th\xe9"], "label": pl.Series(["a", "b"], dtype=pl.Categorical), "list": [[1], [2]],
    }).write_parquet(tmp_path / "t[1].parquet")  # fmt: skip
    assert rows(tmp_path / "t[1].parquet", "text", "label") == [("café", "a"), ("thé", "b")]
    assert all(isinstance(row, Malformed) for row in rows(tmp_path / "t[1].parquet", "list"))


# ---- lists of JSON, gzip


ITEMS = [{"text": "a, [b]", "label": 1}, {"text": 'two\nlines "x"', "label": None}, {"label": "z", "text": "東京"}]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.fixed_dictionaries({"text": st.text(max_size=30), "label": st.integers() | st.none()}), min_size=1), st.data())
def test_a_list_of_objects_is_read_however_it_is_laid_out(tmp_path_factory, items, data):
    folder = tmp_path_factory.mktemp("list")
    indent, piece = data.draw(st.sampled_from([None, 0, 4])), data.draw(st.integers(1, 50))
    (folder / "t.json").write_text(" \n" + json.dumps(items, indent=indent, ensure_ascii=False) + "\n", newline="")
    (folder / "t.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    before, json_table._PIECE = json_table._PIECE, piece
    try:
        assert rows(folder / "t.json", "text", "label") == rows(folder / "t.jsonl", "text", "label")
    finally:
        json_table._PIECE = before


def test_a_json_file_may_be_lines_of_objects_too(write):
    expected = [("a, [b]", "1"), ('two\nlines "x"', ""), ("東京", "z")]
    for content in (json.dumps(ITEMS), "".join(json.dumps(item) + "\n" for item in ITEMS)):
        table = read_table(write(content, "t.json"))
        assert list(table.rows("text", "label")) == expected and table.count == 3 and table.kind == "JSON"
    assert "there is no row" in refused(write("[ ]", "t.json"))


@pytest.mark.parametrize(
    "content, expected",
    [
        ('[{"text": "a"}, {"text": "b"}', "the list goes on with 'nothing' behind item 2: is it cut off?"),
        ('[{"text": "a"} {"text": "b"}]', "the list goes on with '{' behind item 1"),
        ('[{"text": "a"}, {"text": b}]', "item 2 of the list is no JSON or cut off (Expecting value)"),
        ('[{"text": "a"}, {"text": "b', "item 2 of the list is no JSON or cut off (Unterminated string"),
        ('[{"text": "a"}] [{"text": "b"}]', "'[' stands behind the end of the list"),
        ("[" * 100_000, "nested too deeply"),
        ("[1, 2]", "2 rows cannot be used (the first: item 1 of the list, a number, no object)"),
        ('{"text": [1, 2],\n "label": [3, 4]}', "expected a JSON object on each line, or a list of objects"),
    ],
)
def test_a_list_that_is_no_table(write, content, expected):
    assert expected in refused(write(content, "t.json"))


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.json", "t.jsonl"])
def test_gzip_files_are_unpacked_as_they_are_read(write, name):
    plain = {"t.csv": GOOD, "t.tsv": GOOD.replace(",", "\t"), "t.json": json.dumps(ITEMS)}
    content = plain.get(name, "".join(json.dumps(item) + "\n" for item in ITEMS)).encode("utf-16" if name == "t.csv" else "utf-8")
    packed = gzip.compress(content)
    assert rows(write(packed, name + ".gz"), "text", "label") == rows(write(content, name), "text", "label")
    assert "no gzip file" in refused(write(content, name + ".gz"))
    long = json.dumps(ITEMS * 4000).encode() if name == "t.json" else content * 4000
    assert "gzip file is cut off or damaged" in refused(write(gzip.compress(long)[:-400], name + ".gz"))
    assert "put .gz behind its name" in refused(write(packed, name))


def test_a_packed_name_of_no_known_kind(write):
    assert "ends in '.txt.gz', expected one of .csv, .tsv" in refused(write(gzip.compress(b"x"), "t.txt.gz"))
    assert "all but Parquet" in refused(write(gzip.compress(b"PAR1"), "t.parquet.gz"))


# ---- columns


def test_a_wrong_column_lists_all_and_suggests_the_nearest(write):
    table = read_table(write("Review,stars\na,1\n"))
    with pytest.raises(DataError, match=r"no column 'review'; its columns are 'Review', 'stars'; did you mean 'Review'\?"):
        table.rows("review")
    with pytest.raises(DataError, match="did you mean 'stars'"):
        choose_columns(table, "Review", "star")
    with pytest.raises(DataError, match="'stars'$"):
        table.column("zzz")


def test_two_columns_of_one_name(write):
    table = read_table(write("text,text,label\na,b,1\n"))
    with pytest.raises(DataError, match="2 columns are called 'text'"):
        table.rows("text")
    assert list(table.rows("label")) == [("1",)]


@pytest.mark.parametrize(
    "header, text, label, expected",
    [
        ("text,label", None, None, ("text", "label")),
        ("id,Review,Stars", None, None, ("Review", "Stars")),
        ("a,b", "b", None, ("b", "a")),
        ("verdict,review", None, None, ("review", "verdict")),
        ("a,b,label", "b", None, ("b", "label")),
        ("label,class,c", "label", None, ("label", "class")),
    ],
)
def test_obvious_columns_are_guessed_and_said(write, header, text, label, expected):
    *chosen, notes = choose_columns(read_table(write(header + "\n1,2,3\n"[: 2 * header.count(",") + 3])), text, label)
    assert tuple(chosen) == expected
    assert len(notes) == [text, label].count(None) and all("was not given: taken for" in note for note in notes)


@pytest.mark.parametrize(
    "header, text, label, missing",
    [
        ("a,b", None, None, "--text"),
        ("text,review,label", None, None, "--text"),
        ("text,label,class", None, None, "--label"),
        ("a,b,c", "a", None, "--label"),
    ],
)
def test_columns_that_are_not_obvious_are_asked_for(write, header, text, label, missing):
    table = read_table(write(header + "\n" + header + "\n"))
    with pytest.raises(DataError, match=f"Name it with {missing}; the columns are '{header.split(',')[0]}'"):
        choose_columns(table, text, label)


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("a.csv", "text\na\n", "got the column 'text' alone; expected one of texts and one of labels, separated by commas"),
        ("a.tsv", "text,label\na,b\n", "got the column 'text,label' alone; expected .* separated by tabs"),
        ("a.csv", "good film,pos\nbad film,neg\n", r"are 'good film', 'pos' \(if these are no names, put a line of names"),
        ("a.json", '{"data": [{"text": "a", "label": "b"}]}', "column 'data' alone.*is one object, expected a list of objects"),
        ("a.json", '{"meta": 1, "rows": []}', "'meta', 'rows'; the file is one object, expected a list.*orient='records'"),
        ("a.json", "{}", "got no columns"),
    ],
)
def test_a_table_of_another_shape_is_told_what_it_lacks(write, name, content, told):
    with pytest.raises(DataError, match=told):
        choose_columns(read_table(write(content, name)), None, None)


def test_a_line_that_tells_excel_the_separator(write):
    path = write("sep=;\ntext;label\na;b\n")
    assert read_table(path).columns == ["text", "label"] and rows(path, "label") == [("b",)]


@pytest.mark.parametrize("above", ["# mine\n", "My films\n\n"])
def test_a_title_above_the_names_is_said(write, above):
    assert "the first line must hold the names of the columns: remove what stands above it" in refused(write(above + GOOD))


def test_json_under_another_name_is_said(write):
    for content in ('[{"text": "a", "label": "b"}]', '\ufeff{"text": "a"}\n', '[\n  {\n "text": "a"}]'):
        assert "JSON: name it .json (a list of objects) or .jsonl" in refused(write(content))
    assert "a list is a .json file" in refused(write('[{"text": "a", "label": "b"}]', "a.jsonl"))
    assert "the name has no ending, expected one of .csv" in refused(write(GOOD, "reviews"))


def test_text_and_label_in_one_column(write):
    with pytest.raises(DataError, match="both name 'text'"):
        choose_columns(read_table(write(GOOD)), "text", "text")


def test_the_column_to_predict(write):
    assert choose_text(read_table(write("texts\na\n")), None) == ("texts", [])
    assert choose_text(read_table(write('{"anything": "a"}', "t.jsonl")), None) == ("anything", [])
    name, notes = choose_text(read_table(write("id,text\n1,a\n")), None)
    assert name == "text" and "was not given" in notes[0]
    with pytest.raises(DataError, match="Name it with --text"):
        choose_text(read_table(write("id,x\n1,a\n")), None)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_a_text_where_the_only_column_has_its_name_is_said(write, name):
    table = read_table(write("how do i pay\nwhere is my card\n", name))
    column, notes = choose_text(table, None)
    assert column == "how do i pay" and notes == [
        "the first line, 'how do i pay', is taken for the name of the column; put a name above the texts if it is one of them"
    ]
    assert choose_text(table, "how do i pay") == (column, [])


# ---- labelled texts


def labelled_rows(write, pairs, name="t.jsonl", **options):
    path = write("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in pairs), name)
    return read_labelled(read_table(path), "text", "label", **options)


def pairs(**classes):
    return [(f"{name} text {word}", name) for name, count in classes.items() for word in map(chr, range(97, 97 + count))]


def test_numbers_as_labels_stand_in_order_of_size(write):
    data = labelled_rows(write, [(f"{n} {word}", n) for n in (10, 9, 1.0) for word in "abcde"])
    assert data.labels == ["1", "9", "10"]
    assert [data.labels[number] for number in data.numbers[[0, 5, 10]]] == ["10", "9", "1"]


def test_rows_left_out_are_counted(write):
    rows = pairs(a=6, b=6, c=2, d=1) + [("", "a"), ("  \n", "a"), ("x", ""), ("y", None), (["list"], "a")]
    data = labelled_rows(write, rows)
    assert len(data) == 12 and data.labels == ["a", "b"]
    assert data.notes == [
        "left out: 1 row cannot be used (the first: line 20, a list in 'text' where a text or a label is expected)",
        "left out: 2 rows without a text",
        "left out: 2 rows without a label",
        "left out: 2 classes with fewer than 5 different texts, 3 rows: 'c' (2), 'd' (1)",
    ]


def test_one_class_no_class_and_a_column_of_numbers(write):
    with pytest.raises(DataError, match="only the value 'a'; expected at least two classes"):
        labelled_rows(write, pairs(a=9))
    with pytest.raises(DataError, match="no value beside a text"):
        labelled_rows(write, [("a", None)])
    with pytest.raises(DataError, match=r"has 50 values in 50 rows .* Is it the column of the labels\?"):
        labelled_rows(write, [(f"text {n}", n / 7) for n in range(50)])


@pytest.mark.parametrize("text", [["a", "b"], {"body": "a"}])
def test_texts_that_are_lists_or_objects_are_named_as_such(write, text):
    """Today's message, that no value stands beside a text, would send people to their labels."""
    with pytest.raises(DataError, match=r"'text' holds lists or objects in 12 rows \(the first: .*\); expected one text"):
        labelled_rows(write, [(text, label) for label in "ab" * 6])
    table = read_table(write('{"text": {"0": "a", "1": "b"}, "label": {"0": "x", "1": "y"}}', "pandas.json"))
    with pytest.raises(DataError, match="'text' holds lists or objects.*expected a list of objects.*orient='records'"):
        read_labelled(table, "text", "label")


def test_what_is_missing_is_said(write):
    with pytest.raises(DataError, match=r"no value beside a text \(left out: 12 rows without a text\)"):
        labelled_rows(write, [(None, label) for label in "ab" * 6])
    data = labelled_rows(write, pairs(a=6, b=6, NA=6, nan=6))
    assert data.notes == ["classes that may stand for a missing label: 'NA', 'nan'; leave their rows out if they do"]


LISTS = [["a"], ["a", "b"]], ["['a']", "['a', 'b']"], ['["a"]', "[]"], ["[1 0 1]", "[0 1 1]"], ["[a, b]", "[b, c]"]


@pytest.mark.parametrize("one, two", [*LISTS, [{"name": "a"}, {"name": "b"}], ["{'name': 'a'}", "{'name': 'b'}"]])
def test_labels_that_are_lists_or_objects_are_named_as_such(write, one, two):
    rows = [(f"text {word}", label) for word in "abcdef" for label in (one, two)]
    with pytest.raises(
        DataError, match=r"'label' holds lists or objects in 12 rows \(the first: .*several labels a text \(multi-label\)"
    ):
        labelled_rows(write, rows)


def test_names_in_brackets_are_names(write):
    assert sorted(set(labelled_rows(write, pairs(**{"[spam]": 6, "[not spam]": 6})).labels)) == ["[not spam]", "[spam]"]


def test_a_few_labels_that_are_lists_are_left_out(write):
    data = labelled_rows(write, pairs(a=6, b=6) + [("x", ["a", "b"])])
    assert data.notes == [
        "left out: 1 row cannot be used (the first: line 13, a list in 'label' where a text or a label is expected)"
    ]


def test_several_labels_in_one_are_said(write):
    films = {"comedy": 6, "drama": 6, "comedy|drama": 6, "action|drama": 6, "action|comedy": 6}
    assert labelled_rows(write, pairs(**films)).notes == [
        "labels look like several in one, separated by '|': each combination is taken for a class of its own"
    ]
    shops = {"Arts, Crafts & Sewing": 6, "Health, Beauty": 6, "Toys, Games": 6, "Books": 6}
    assert labelled_rows(write, pairs(**shops)).notes == []


def test_repeated_texts_and_contradictions_are_counted_and_kept(write):
    data = labelled_rows(write, pairs(a=6, b=6) + [("A text a!", "a"), ("a TEXT, a", "b"), ("b text b", "b")])
    assert len(data) == 15
    assert data.notes == [
        "2 texts stand there more than once (5 rows): each is kept on one side of every split",
        "1 of them with different labels (3 rows): nothing can get all of those right",
    ]


def test_classes_that_differ_in_capitals_only_are_kept_apart_and_said(write):
    data = labelled_rows(write, pairs(Pos=5) + [(f"another {text}", label) for text, label in pairs(pos=5)])
    assert data.labels == ["Pos", "pos"] and data.notes[0].startswith("classes that differ only in how they are written")


def test_classes_that_differ_in_their_composition_only_are_kept_apart_and_said(write):
    composed, parted = "caf\u00e9", "cafe\u0301"
    data = labelled_rows(write, pairs(**{"x": 9}) + [(f"text {i}", (composed, parted)[i % 2]) for i in range(20)])
    assert len(data.labels) == 3
    assert any("differ only in how they are written" in note and composed in note and parted in note for note in data.notes)


def test_a_large_table_is_sampled_the_same_way_each_time(write, monkeypatch):
    monkeypatch.setattr(labelled, "LONGEST_TEXT", 9)
    rows = [(text + " and more", label) for text, label in pairs(a=26, b=26) * 4]
    first, second = (labelled_rows(write, rows, most=60) for _ in range(2))
    assert len(first) == 60 and first.texts == second.texts and max(map(len, first.texts)) == 9
    assert first.notes[:2] == ["208 rows: 60 of them, taken at random, are used", "60 texts cut to 9 characters"]


# ---- splits


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(5, 30), min_size=2, max_size=5), st.integers(0, 100), st.integers(1, 4))
def test_splits_are_disjoint_stratified_and_share_no_text(sizes, seed, copies):
    texts = [f"text {c} {i}" for c, size in enumerate(sizes) for i in range(size)] * copies
    numbers = np.array([c for c, size in enumerate(sizes) for _ in range(size)] * copies)
    groups = np.tile(np.arange(sum(sizes)), copies)
    order = np.random.default_rng(seed).permutation(len(texts))
    texts, numbers, groups = [texts[i] for i in order], numbers[order], groups[order]
    data = labelled.Labelled(texts, [str(c) for c in range(len(sizes))], numbers, groups, [])
    parts = split(data, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(texts)))
    marks = [{signature(texts[i]) for i in part} for part in parts]
    assert not (marks[0] & marks[1] or marks[0] & marks[2] or marks[1] & marks[2])
    for part, share in zip(parts, (0.7, 0.1, 0.2), strict=True):
        got = np.bincount(numbers[part], minlength=len(sizes)) / copies
        assert (got >= 1).all() and (abs(got - share * np.array(sizes)) <= 1.5).all()
    again = split(data, seed)
    assert all((a == b).all() for a, b in zip(parts, again, strict=True))


def test_splits_differ_by_seed_and_cover_real_data(write):
    source = task("banking77").train
    data = labelled_rows(write, [(text, int(label)) for text, label in zip(source.texts, source.labels, strict=True)])
    assert len(data.labels) == 77 and len(data) == len(source)
    first, second = split(data, 0), split(data, 1)
    assert not np.array_equal(first.test, second.test)
    assert 0.19 < len(first.test) / len(data) < 0.21 and 0.09 < len(first.dev) / len(data) < 0.11


def grouped_rows(write, rows, **options):
    """``rows``: (text, label, film)."""
    path = write(
        "".join(json.dumps(dict(zip(("text", "label", "film"), row, strict=True))) + "\n" for row in rows), "films.jsonl"
    )
    return read_labelled(read_table(path), "text", "label", group="film", **options)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(6, 40), st.integers(1, 9), st.integers(0, 100))
def test_texts_of_a_group_stay_together_though_their_labels_differ(write, films, most, seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, most + 1, films)
    sizes[:6] = 2  # both classes stand in six films at least
    rows = [(f"{film} {i}", "ab"[(i + film) % 2], f"film {film}") for film, size in enumerate(sizes) for i in range(size)]
    rows = [rows[i] for i in rng.permutation(len(rows))]
    data = grouped_rows(write, rows)
    said = f"{films:,} groups of up to {sizes.max()} texts: each is kept on one side of every split"
    if sizes.max() > sizes.sum() / 10:
        said += f"; the largest has {sizes.max() / sizes.sum():.0%} of all texts, so splits differ much in size"
    assert said in data.notes
    parts = split(data, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(rows)))
    owners = [{rows[i][2] for i in part} for part in parts]
    assert not (owners[0] & owners[1] or owners[0] & owners[2] or owners[1] & owners[2])
    assert all({data.numbers[i] for i in part} == {0, 1} for part in parts)


def test_equal_texts_join_their_groups_and_a_text_without_a_group_stands_alone(write):
    rows = [(f"{film} {i}", "ab"[i % 2], film) for film in "pqrstuv" for i in range(2)]
    data = grouped_rows(write, [*rows, ("P 0!", "a", "q"), ("alone", "a", None), ("alone too", "b", " ")])
    groups = dict(zip(data.texts, data.groups.tolist(), strict=True))
    assert groups["p 0"] == groups["p 1"] == groups["q 0"] == groups["P 0!"] != groups["r 0"] == groups["r 1"]
    assert len(set(groups.values())) == 6 + 2 and groups["alone"] != groups["alone too"]
    assert any(note.startswith("1 text stands there more than once (2 rows)") for note in data.notes)


def test_a_column_of_groups_that_helps_nobody_is_told(write):
    unique = grouped_rows(write, [(text, label, number) for number, (text, label) in enumerate(pairs(a=6, b=6))])
    assert "--group: no two texts are of one group, so it changes nothing" in unique.notes
    with pytest.raises(DataError, match="the column 'film' of --group is empty; expected what texts of one group share"):
        grouped_rows(write, [(text, label, "") for text, label in pairs(a=6, b=6)])
    with pytest.raises(DataError, match="the column 'film' holds lists or objects in 12 rows .*expected one group"):
        grouped_rows(write, [(text, label, ["x"]) for text, label in pairs(a=6, b=6)])
    with pytest.raises(DataError, match="fewer than two of them with texts in 5 different groups"):
        grouped_rows(write, [(text, label, text[-1] in "abc") for text, label in pairs(a=9, b=9)])


def test_groups_that_cannot_be_parted_are_refused(write):
    rows = [(f"{film} {i}", label, film) for film in range(40) for i, label in enumerate("ab")]
    rows += [(f"{film} c", "c", film) for film in range(5)]
    data = grouped_rows(write, rows)
    joined = replace(data, groups=np.maximum(data.groups - 3, 0))  # c stands in two groups: three sides cannot have it
    with pytest.raises(DataError, match=r"in 100 random splits of the 37 groups.* \(the last one lacked 'c'\); give more groups"):
        split(joined, 0)


def test_the_column_of_groups_is_neither_that_of_texts_nor_of_labels(write):
    table = read_table(write("film,words,stars\nx,a,1\n", "films.csv"))
    assert choose_columns(table, None, None, "film")[:2] == ("words", "stars")
    with pytest.raises(DataError, match="--text and --group both name 'film'"):
        choose_columns(table, "film", None, "film")
    with pytest.raises(DataError, match="--label and --group both name 'stars'"):
        choose_columns(table, None, "stars", "stars")
    with pytest.raises(DataError, match="no column 'movie'"):
        choose_columns(table, None, None, "movie")


# ---- size


def test_a_large_file_is_read_within_little_memory(tmp_path):
    path = tmp_path / "large.csv"
    line = "a review of some length, " * 8
    with open(path, "w") as file:
        file.write("text,label\n")
        for i in range(300):
            file.write("".join(f'"{line}{i} {j}",{j % 3}\n' for j in range(1000)))
    assert path.stat().st_size > 60e6
    code = (
        "import resource, sys\nfrom bertcraft.data.tables import read_table\n"
        "from bertcraft.data.labelled import read_labelled\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "data = read_labelled(read_table(sys.argv[1]), 'text', 'label', most=2000)\n"
        "print(len(data), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    rows, kilobytes = map(int, done.stdout.split())
    assert rows == 2000 and kilobytes < 15_000
