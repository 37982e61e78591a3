"""Each text of a folder is in exactly one block, whatever the size of the blocks."""

import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcraft.data import files
from bertcraft.data.files import blocks, texts
from bertcraft.errors import DataError

lines = st.text(st.sampled_from("ab é\u4e2d"), min_size=1, max_size=30).filter(str.strip)


def read(folder, size=files.BLOCK):
    return [text for block in blocks(folder, size) for text in texts(block)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("corpus")


@settings(deadline=None)
@given(st.lists(lines, min_size=1, max_size=20), st.integers(1, 60), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_lines_are_texts_and_none_is_lost_or_read_twice(place, written, size, end, ends_with_newline):
    (place / "a.txt").write_bytes((end.join(written) + end * ends_with_newline).encode())
    assert read(place, size) == [line.strip() for line in written]


@settings(deadline=None)
@given(
    st.lists(st.lists(lines, min_size=1, max_size=3), min_size=2, max_size=8),
    st.lists(st.integers(2, 4), min_size=8, max_size=8),
    st.integers(1, 60),
    st.sampled_from(["\n", "\r\n"]),
)
def test_paragraphs_are_texts_and_none_is_lost_or_read_twice(place, written, gaps, size, end):
    paragraphs = [end.join(each) for each in written]
    (place / "a.txt").write_bytes("".join(p + end * gap for p, gap in zip(paragraphs, gaps, strict=False)).encode())
    assert read(place, size) == [paragraph.strip() for paragraph in paragraphs]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.one_of(st.none(), st.just(" "), lines), min_size=1, max_size=30), st.integers(1, 2000))
def test_rows_of_parquet_are_texts(tmp_path_factory, written, size):
    folder = tmp_path_factory.mktemp("parquet")
    polars.DataFrame(
        {"id": range(len(written)), "text": written}, schema={"id": polars.Int64, "text": polars.String}
    ).write_parquet(folder / "a.parquet")
    assert read(folder, size) == [text.strip() for text in written if text and text.strip()]


def test_small_files_share_a_block_and_large_ones_have_many(tmp_path):
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text(f"text {number}\n")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "large.txt").write_text("line\n" * 1000)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "notes.md").write_text("not a text\n")
    found = blocks(tmp_path, 500)
    assert [len(block) for block in found].count(10) == 1 and len(found) == 11
    assert sorted(read(tmp_path, 500)) == sorted([f"text {n}" for n in range(10)] + ["line"] * 1000)


def test_a_mark_at_the_beginning_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\ntwo\n".encode())
    assert read(tmp_path) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "caf\xe9\n".encode("latin-1"), "not UTF-8 about byte 0"),
        ("a.txt", "text".encode("utf-16"), "zero bytes"),
        ("a.parquet", b"nothing of the kind", "cannot be read as Parquet"),
        ("a.csv", b"text\n", "no .txt and no .parquet file"),
    ],
)
def test_what_is_no_text_is_told(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        read(tmp_path)


def test_a_folder_or_column_that_is_missing_is_told(tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        read(tmp_path / "nowhere")
    polars.DataFrame({"title": ["a"], "body": ["b"]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column 'text' and 2 columns of strings"):
        read(tmp_path)


@pytest.mark.parametrize("end", ["", "\n\n"])
def test_a_text_without_an_end_is_told_before_it_fills_the_memory(tmp_path, monkeypatch, end):
    monkeypatch.setattr(files, "LONGEST", 1000)
    (tmp_path / "a.txt").write_text(f"title\n{end}" + ("x" * 5000 if not end else "word\n" * 1000))
    with pytest.raises(DataError, match="has a text of more than"):
        read(tmp_path)
