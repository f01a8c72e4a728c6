"""Documents: ids, titles, fields; what is wrong is named with file and line, what is left out is counted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pretune.errors import DataError, MissingInputError
from pretune.search.documents import Document, DocumentConfig, DocumentStats, read_documents


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_jsonl_keeps_ids_titles_and_fields(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"_id": "x", "title": "T", "text": "one", "year": 1999, "tags": ["a"]})
    stats = DocumentStats()
    assert list(read_documents(path, stats=stats)) == [Document("x", "one", "T", {"year": 1999}, f"{path}:1")]
    assert stats.notes() == ["field 'tags' is not kept in 1 document: it holds neither a text nor a finite number"]


def test_ids_are_made_where_there_are_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,kind", "one,x", "two,y")
    assert [(d.id, d.fields) for d in read_documents(path)] == [("a.csv:2", {"kind": "x"}), ("a.csv:3", {"kind": "y"})]


def test_a_folder_of_markdown_is_a_document_a_file(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    write(tmp_path / "docs" / "a.md", "# Head", "", "Some *words*.")
    write(tmp_path / "docs" / "b.txt", "first", "", "second")
    first, second = read_documents(tmp_path / "docs")
    assert (first.id, first.text) == (str(tmp_path / "docs" / "a.md"), "Head\n\nSome words.")
    assert second.text == "first\n\nsecond"
    split = read_documents(tmp_path / "docs" / "b.txt", DocumentConfig(documents="blank-line"))
    assert [d.id.rpartition(":")[2] for d in split] == ["1", "3"]


def test_texts_of_squad_come_once(tmp_path: Path) -> None:
    asked = [{"id": n, "question": f"q{n}", "answers": []} for n in range(3)]
    paragraphs = [{"context": "one", "qas": asked[:2]}, {"context": "two", "qas": asked[2:]}]
    path = write(tmp_path / "dev.json", {"data": [{"title": "T", "paragraphs": paragraphs}]})
    assert [(d.id, d.title, d.text) for d in read_documents(path)] == [
        ("dev.json#1", "T", "one"),
        ("dev.json#2", "T", "two"),
    ]


def test_ids_that_come_twice_are_named_with_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"id": "x", "text": "one"}, {"id": "y", "text": "two"}, {"id": "x", "text": "3"})
    with pytest.raises(DataError, match=r"a\.jsonl:3: id 'x' is that of .*a\.jsonl:1 too"):
        list(read_documents(path))


@pytest.mark.parametrize("value", [{}, {"id": ""}, {"id": None}, {"id": True}])
def test_a_missing_id_is_named_with_its_line(value: dict[str, object], tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"id": "x", "text": "one"}, {"text": "two", **value})
    with pytest.raises(DataError, match=r"a\.jsonl:2: the id \(field 'id'\)"):
        list(read_documents(path))


def test_empty_texts_are_counted_and_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"id": "x", "text": "one"}, {"id": "y", "text": " "}, {"id": "z", "text": None})
    stats = DocumentStats()
    assert [d.id for d in read_documents(path, stats=stats)] == ["x"]
    assert stats.notes() == ["documents left out, as they have no text: 2"]


def test_records_in_memory() -> None:
    assert [d.id for d in read_documents([{"id": 7, "text": "one"}, {"id": 8, "text": "two"}])] == ["7", "8"]
    assert [d.id for d in read_documents([{"text": "one"}, {"text": "two"}])] == ["0", "1"]


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such file"):
        list(read_documents(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no file here that can be read"):
        list(read_documents(tmp_path / "empty"))


def test_fields_that_no_filter_compares_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "x", "text": "one", "title": ["T"], "price": 1e999, "none": NaN, "good": 2}\n')
    stats = DocumentStats()
    assert list(read_documents(path, stats=stats)) == [Document("x", "one", "", {"good": 2}, f"{path}:1")]
    assert stats.dropped == {"title": 1, "price": 1}  # NaN stands for nothing


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"id": "a\\ud800", "text": "one"}', r"field 'id' holds half a surrogate pair"),
        ('{"id": "a", "text": "one", "title": "\\ud800"}', r"field 'title' holds half a surrogate pair"),
        ('{"id": "a", "text": "one", "x": "\\u0000"}', r"field 'x' holds a NUL"),
        ('{"id": "a", "text": "one", "\\udc00": "x"}', r"field .*udc00' holds half a surrogate pair"),
    ],
)
def test_what_no_file_can_hold_is_named(row: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(row + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl:1: " + message):
        list(read_documents(tmp_path / "a.jsonl"))


def test_a_name_that_is_no_utf8_makes_an_id_that_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"a\xe9b.txt")
    try:
        path.write_text("one")
    except OSError:
        pytest.skip("this file system takes no such name")
    assert [Path(each.id).name for each in read_documents(tmp_path)] == ["a\ufffdb.txt"]
