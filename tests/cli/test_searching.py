"""Verbs of search, one after the other: what they print, write and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from tinymodels import save_bert, word_tokenizer

from pretune.cli import main

ROWS = [
    {"id": "dog", "text": "The lazy dog jumps over a hat.", "language": "en"},
    {"id": "fox", "text": "The quick brown fox jumps over the dog.", "language": "en"},
    {"id": "cat", "text": "模型 learns 语言 and the cat ate.", "language": "zh"},
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_bert(tmp_path / "m", word_tokenizer(), transformers.BertModel)
    Path("docs.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS))
    Path("queries.jsonl").write_text('{"_id": "a", "text": "fox"}\n{"_id": "b", "text": "cat"}\n')
    Path("qrels.tsv").write_text("query-id\tcorpus-id\tscore\na\tfox\t1\nb\tcat\t1\n")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert main([*words, "--device", "cpu", "--no-allocator"]) == code
    return capsys.readouterr()


def test_from_documents_to_answers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said = run(capsys, "index", "docs.jsonl", "--model", "m", "--output", "i")
    assert "indexing docs.jsonl by words and by vectors of m -> i" in said
    assert "written: i: 3 documents, 3 passages" in said
    assert 'next: pretune search i "a query"' in said
    out, said = run(capsys, "search", "i", "lazy dog", "--count", "2", "--mode", "words")
    assert "searching 3 passages of 3 documents by words (BM25)" in said
    rows = [json.loads(line) for line in out.splitlines()]
    expected = [("lazy dog", 1, "dog"), ("lazy dog", 2, "fox")]
    assert [(row["text"], row["rank"], row["document"]) for row in rows] == expected
    assert rows[0]["passage"] == ROWS[0]["text"]
    assert rows[0]["field.language"] == "en"
    out, said = run(capsys, "search", "i", "the dog", "--where", "language=zh")
    assert [json.loads(line)["document"] for line in out.splitlines()] == ["cat"]
    assert "untuned: pretune index tune i" in said
    out, said = run(capsys, "search", "i", "nothingness", "--mode", "words")
    assert (out, "queries for which nothing was found: 1" in said) == ("", True)
    run(capsys, "search", "i", "queries.jsonl", "--output", "hits.csv")
    assert Path("hits.csv").read_text().splitlines()[0].startswith("_id,text,rank,document,title,start,end,passage")


def test_an_index_changes_and_is_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "index", "docs.jsonl", "--model", "m", "--output", "i")
    Path("more.csv").write_text("id,text\ncat,A cat ate a hat.\nhat,A hat.\n")
    _, said = run(capsys, "index", "add", "i", "more.csv", code=65)
    assert "more.csv:2: id 'cat' is in the index already; delete it first, or replace such documents: --update" in said
    _, said = run(capsys, "index", "add", "i", "more.csv", "--update")
    assert "added: 2 documents; i has 4 documents, 4 passages" in said
    _, said = run(capsys, "index", "delete", "i", "hat")
    assert "deleted: 1 document, 1 passage; i has 3 documents" in said
    _, said = run(capsys, "index", "compact", "i")
    assert "freed: 2 deleted passages" in said
    out, said = run(capsys, "index", "evaluate", "i", "--queries", "queries.jsonl", "--qrels", "qrels.tsv")
    assert json.loads(out)["words"]["R@1"] == 1.0
    assert "measuring on 2 queries" in said
    out, said = run(
        capsys, "index", "tune", "i", "--queries", "queries.jsonl", "--qrels", "qrels.tsv", "--output", "scores.json"
    )
    assert "1 queries chose, 1 held-out ones measured" in said
    assert "from now on i ranks by" in said
    assert json.loads(Path("scores.json").read_text()) == json.loads(out)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("index", "--output", "i"), 64, "name a file or a folder of documents"),
        (("index", "none.jsonl", "--output", "i"), 66, "none.jsonl: no such file or folder"),
        (("index", "docs.jsonl", "--output", "i", "--tokenization", "bigram"), 64, "did you mean 'bigrams'"),
        (("index", "docs.jsonl", "--output", "i", "--size", "-1"), 64, "size"),
        (("search", "none", "dog"), 66, "none: no such index"),
        (("search", "m", "dog"), 66, "m: holds no index (no index.json); make one: pretune index FILES"),
        (("answer", "none", "dog"), 64, "give a model that answers: --reader RUN quotes, --writer MODEL writes"),
        (("index", "delete", "none"), 64, "name the ids"),
    ],
)
def test_mistakes_are_answered(
    words: tuple[str, ...], code: int, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, said = run(capsys, *words, code=code)
    assert message in said


def test_mistakes_of_a_search(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "index", "docs.jsonl", "--output", "i")
    for words, code, message in (
        (("search", "i", " "), 65, "empty"),
        (
            ("search", "i", "dog", "--where", "year>3"),
            64,
            "filter on 'year': no document of the index has such a field",
        ),
        (("search", "i", "dog", "--mode", "vectors"), 64, "has no vectors"),
        (("index", "docs.jsonl", "--output", "i"), 73, "i: holds an index already; add to it"),
        (("index", "delete", "i", "bird"), 65, "has no document 'bird'; nothing was deleted"),
    ):
        _, said = run(capsys, *words, code=code)
        assert message in said
    Path("qrels.tsv").write_text("a\tbird\t1\n")
    _, said = run(capsys, "index", "evaluate", "i", "--queries", "queries.jsonl", "--qrels", "qrels.tsv", code=65)
    assert "qrels.tsv:1: document 'bird' of query 'a' is not in the index" in said
    assert "Traceback" not in said
