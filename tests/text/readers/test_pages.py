"""Markdown, web pages and workbooks are read as they are; what cannot be read is named, with its number and remedy."""

from __future__ import annotations

import gzip
import json
import logging
import re
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from pretune.cli import main
from pretune.errors import DataError
from pretune.text.readers.corpus import CorpusConfig, DataStats, read_corpus
from pretune.text.readers.html import html_text
from pretune.text.readers.labelled import LabelledConfig, field_names, read_labelled
from pretune.text.readers.md import markdown_text

PAGE = """---
title: not text
---
# A *title*

Some **bold** words with a [link](http://x.y), `code` and a picture: ![a cat](cat.png).
Second line.

- one
- two <b>three</b>

| a | b |
|---|---|
| 1 | 2 |

```python
if x:
    y
```

<div>raw <i>html</i></div>
"""
TEXT = """A title

Some bold words with a link, code and a picture: a cat.
Second line.

one

two three

a\tb
1\t2

if x:
    y

raw html"""


def workbook(path: Path, rows: list[list[Any]], *others: str) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for name in others:
        book.create_sheet(name)
    book.save(path)
    return path


def test_markdown_is_read_as_text() -> None:
    assert markdown_text(PAGE) == TEXT
    assert markdown_text("---\n\nafter a rule\n") == "after a rule", "a rule is no front matter"
    talk = "---\nA word first.\n\n---\nThe rest.\n"
    assert markdown_text(talk) == "A word first.\n\nThe rest.", "text between two rules is no front matter"
    assert markdown_text("---\n# of the site\ntitle:\n  x\n---\ntext") == "text"
    assert markdown_text("one<br>two<br/>three <b>four</b>") == "one\ntwo\nthree four", "no words are glued"
    assert markdown_text("中文\n第二行") == "中文\n第二行"
    assert markdown_text("a < b & c > d") == "a < b & c > d"


def test_a_page_is_read_as_a_browser_shows_it() -> None:
    page = (
        "<!doctype html><html><head><title>t</title><style>p{}</style></head><body><!-- no --><h1>Head</h1>"
        "<p>A <b>bold</b>\n word,&nbsp;5 &lt; 6<br>new line</p><script>var x</script><ul><li>one<li>two</ul>"
        "<table><tr><td>1</td><td>2</td></tr></table><pre>a\n    b</pre></body></html>"
    )
    assert " ".join(html_text(page).split()) == "Head A bold word, 5 < 6 new line one two 1 2 a b"
    assert html_text("one<br/>two<br>three<br></br>four") == "one\ntwo\nthree\nfour"
    lines = html_text(page).splitlines()
    assert {"Head", "A bold word, 5 < 6", "new line", "one", "two", "1\t2", "a", "    b"} <= set(lines)


@pytest.mark.parametrize(
    ("declared", "codec"), [("gb2312", "gb18030"), ("gbk", "gbk"), ("utf-8", "utf-8"), (None, "utf-8")]
)
def test_a_page_is_read_in_its_own_encoding(tmp_path: Path, declared: str | None, codec: str) -> None:
    meta = "" if declared is None else f'<meta http-equiv="Content-Type" content="text/html; charset={declared}">'
    (tmp_path / "a.html").write_bytes(f"<html><head>{meta}</head><body>中文，镕</body></html>".encode(codec, "replace"))
    (document,) = read_corpus(tmp_path / "a.html")
    assert document.text == "中文，镕"


def test_a_page_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes("<p>中文</p>".encode("gbk"))
    with pytest.raises(DataError, match=r"a\.html: not in the encoding that it says.*save the page again as UTF-8"):
        list(read_corpus(tmp_path / "a.html"))
    (tmp_path / "b.md").write_bytes("中文".encode("gbk"))
    with pytest.raises(DataError, match=r"b\.md:1: not UTF-8.*iconv"):
        list(read_corpus(tmp_path / "b.md"))
    (tmp_path / "c.html").write_text("<p>long</p>" * 20)
    (tmp_path / "d.md").write_text("long " * 40)
    for name in ("c.html", "d.md"):
        with pytest.raises(DataError, match=f"{name}:1: record longer than 100 bytes"):
            list(read_corpus(tmp_path / name, CorpusConfig(max_document_bytes=100)))
    (tmp_path / "e.html").write_text("<![nonsense[<p>text</p>")
    with pytest.raises(DataError, match=r"e\.html: not HTML: .*fix the declaration, or leave the file out"):
        list(read_corpus(tmp_path / "e.html"))


def test_broken_and_large_pages_lose_nothing() -> None:
    assert html_text("<div>" * 100_000 + "x" + "</div>" * 100_000) == "x"
    assert html_text("<head><title>t</title><p>one<td>two<p>three") == "t\nonetwo\nthree"
    assert html_text("<p>one<object><p>two<noscript>three") == "one\ntwothree"
    assert html_text("<table><tr><td>1<td>2<tr><td>3<td>4</table>") == "1\t2\n3\t4"
    assert html_text("a <b> b</b> <i>c</i>") == "a b c"
    assert html_text("".join(f"<b>{n}</b>" for n in range(50_000))).startswith("01234")


def test_a_folder_of_notes_makes_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of `.md` alone ended with "no text in 0 files"."""
    for n in range(3):
        (tmp_path / "notes" / str(n)).mkdir(parents=True)
        (tmp_path / "notes" / str(n) / "a.md").write_text(f"# Note {n}\n\nThe {('cat', 'dog', 'fox')[n]} sat.\n")
    (tmp_path / "notes" / "paper one.pdf").write_bytes(b"%PDF")
    (tmp_path / "notes" / "letter.docx").write_bytes(b"PK")
    words = ["tokenizer", "train", f"{tmp_path}/notes", "--output", f"{tmp_path}/tokenizer", "--vocab_size", "300"]
    assert main([*words, "--kind", "bpe"]) == 0
    said = capsys.readouterr().err
    assert "files skipped, as their formats are not known: 2 (1 .docx, 1 .pdf), such as" in said
    assert f"convert them first, as with: pandoc {tmp_path}/notes/letter.docx -o {tmp_path}/notes/letter.md" in said
    assert "3 documents: 3 used" in said


def test_what_cannot_be_read_is_named_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "a b.pdf").write_bytes(b"%PDF")
    remedy = rf"pdftotext '{tmp_path}/a b\.pdf' '{tmp_path}/a b'\.txt"
    with pytest.raises(DataError, match=rf"a b\.pdf: \.pdf files cannot be read; convert it first, as with: {remedy}"):
        read_corpus(tmp_path / "a b.pdf")
    with pytest.raises(DataError, match=rf"no file here that can be read; files skipped.*: 1 \(1 \.pdf\).*{remedy}"):
        list(read_corpus(tmp_path))
    assert field_names(tmp_path) == []
    with pytest.raises(DataError, match=rf"no file here that can be read; files skipped.*: 1 \(1 \.pdf\).*{remedy}"):
        read_labelled(tmp_path)
    stats = DataStats()
    (tmp_path / "a.txt").write_text("x\n")
    assert [d.text for d in read_corpus(tmp_path, None, stats)] == ["x"]
    assert stats.ignored == [str(tmp_path / "a b.pdf")]


ROWS: list[list[Any]] = [["id", "text", "label"], [1, "a cat", "x"], [], [2.0, 2024, True], [3, "z", 1.0]]


def test_a_workbook_is_read_as_its_csv(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = workbook(tmp_path / "a.xlsx", ROWS, "second")
    with caplog.at_level(logging.WARNING):
        rows = read_labelled(path)
    assert [(r.text, r.label, r.origin.row) for r in rows] == [("a cat", "x", 2), ("2024", "true", 4), ("z", "1", 5)]
    assert caplog.text.count("only the first sheet (Sheet) is read; not read: second") == 1
    assert field_names(path) == ["id", "text", "label"]
    (tmp_path / "a.xlsx.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert [r.text for r in read_labelled(tmp_path / "a.xlsx.gz")] == [r.text for r in rows]
    bare = workbook(tmp_path / "b.xlsx", ROWS[1:])
    assert read_labelled(bare, LabelledConfig(columns=("id", "text", "label")))[0].label == "x"
    assert [d.text for d in read_corpus(path)] == ["a cat", "2024", "z"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([["text", "label"], ["a", "x"], ["=1/0", "y"]], r"a\.xlsx:3: field 'text' = '' is empty"),
        ([["text", "label"], ["a", "x", "y"]], r"a\.xlsx:2: 3 cells where the header has 2; name the columns"),
        ([["text", "text"], ["a", "x"]], r"a\.xlsx:1: no column 'label'"),
        ([["text", "label"], ["a"]], r"a\.xlsx:2: label in field 'label' is empty"),
        ([["text", "label"]], r"a\.xlsx: no rows"),
    ],
)
def test_bad_rows_of_a_workbook_are_named(tmp_path: Path, rows: list[list[Any]], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_labelled(workbook(tmp_path / "a.xlsx", rows))


def test_what_is_no_workbook_is_named(tmp_path: Path) -> None:
    for content in (b"", b"text,label\n", b"PK\x03\x04 cut off"):
        (tmp_path / "a.xlsx").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.xlsx: not a readable workbook: .*export the sheet as CSV"):
            read_labelled(tmp_path / "a.xlsx")
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("xl/sharedStrings.xml", bytes(80 << 20))
    with pytest.raises(DataError, match="unfolds to more than 200 times its own size"):
        read_labelled(tmp_path / "a.xlsx")
    with zipfile.ZipFile(tmp_path / "b.xlsx", "w") as parts:
        parts.writestr("a.txt", json.dumps({}))
    with pytest.raises(DataError, match="not a readable workbook"):
        read_labelled(tmp_path / "b.xlsx")


def test_an_error_in_a_cell_is_named(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["text", "label"])
    book.active.append(["a", "#N/A"])
    book.active["B2"].data_type = "e"
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match=r"a\.xlsx:2: cell B2 holds the error #N/A; fix its formula"):
        read_labelled(tmp_path / "a.xlsx")


def test_all_rows_of_a_workbook_are_read(tmp_path: Path) -> None:
    """Some programs write a dimension that is too small (`A1`), beyond which openpyxl reads nothing when it streams."""
    path = workbook(tmp_path / "a.xlsx", [["text", "label"], ["a", "x"], ["b", "y"]])
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.xlsx", "w") as new:
        for part in old.namelist():
            new.writestr(part, re.sub(rb'<dimension ref="[^"]*"', b'<dimension ref="A1"', old.read(part)))
    assert [(row.text, row.label) for row in read_labelled(tmp_path / "b.xlsx")] == [("a", "x"), ("b", "y")]


def test_the_first_sheet_that_is_seen_is_read(tmp_path: Path) -> None:
    book = openpyxl.load_workbook(workbook(tmp_path / "a.xlsx", [["lists"], ["hidden"]], "data"))
    for row in (["text", "label"], ["a", "x"]):
        book["data"].append(row)
    book["Sheet"].sheet_state = "hidden"
    book.save(tmp_path / "b.xlsx")
    assert [row.text for row in read_labelled(tmp_path / "b.xlsx")] == ["a"]
