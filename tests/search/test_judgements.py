"""Queries and judgements: BEIR's, TREC's and SQuAD's files say the same; what is wrong is named with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pretune.errors import DataError, MissingInputError, UsageError
from pretune.search.judgements import Judged, read_judged


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    path = tmp_path / "queries.jsonl"
    rows = [{"_id": "q1", "text": "a dog"}, {"_id": "q2", "text": "a cat"}, {"_id": "q3", "text": "a bird"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def judgements(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


BEIR = "query-id\tcorpus-id\tscore\nq1\td 1\t1\nq1\td2\t0\nq2\td2\t2\n"
TREC = "q1 0 d1 1\nq1 0 d2 0\n\nq2 0 d2 2\n"


def test_forms_of_judgements_say_the_same(queries: Path, tmp_path: Path) -> None:
    beir = read_judged(queries, judgements(tmp_path / "a.tsv", BEIR.replace("d 1", "d1")))
    trec = read_judged(queries, judgements(tmp_path / "a.txt", TREC))
    assert beir.grades == trec.grades == {"q1": {"d1": 1, "d2": 0}, "q2": {"d2": 2}}
    assert beir.texts == trec.texts == {"q1": "a dog", "q2": "a cat"}
    assert beir.unjudged == 1
    spaced = read_judged(queries, judgements(tmp_path / "b.tsv", BEIR))
    assert spaced.grades["q1"] == {"d 1": 1, "d2": 0}
    table = tmp_path / "queries.csv"
    table.write_text("id,text\nq1,a dog\nq2,a cat\n")
    assert read_judged(table, tmp_path / "a.txt").grades == trec.grades


def test_questions_of_squad_are_queries(tmp_path: Path) -> None:
    asked = [{"id": f"q{n}", "question": f"what {n}?", "answers": []} for n in range(3)]
    paragraphs = [{"context": "one", "qas": asked[:2]}, {"context": "two", "qas": asked[2:]}]
    path = tmp_path / "dev.json"
    path.write_text(json.dumps({"data": [{"title": "T", "paragraphs": paragraphs}]}))
    judged = read_judged(path)
    assert judged.texts["q2"] == "what 2?"
    assert judged.grades == {"q0": {"dev.json#1": 1}, "q1": {"dev.json#1": 1}, "q2": {"dev.json#2": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q1 0 d1 1\nq9 0 d1 1\n", r"qrels\.txt:2: query 'q9' is not in "),
        ("q1 0 d1 1\nq1 0 d1 0\n", r"qrels\.txt:2: document 'd1' of query 'q1' is judged in .*:1 too"),
        ("q1 0 d1 high\n", r"qrels\.txt:1: 'q1 0 d1 high' is no judgement; write query, document and grade"),
        ("q1 d1\n", r"qrels\.txt:1: 'q1 d1' is no judgement"),
        ("q1 0 d1 0\n", "names no relevant document"),
        ("", "names no relevant document"),
    ],
)
def test_bad_judgements_are_named_with_their_line(text: str, message: str, queries: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_judged(queries, judgements(tmp_path / "qrels.txt", text))


def test_judgements_that_name_no_document_of_the_index(queries: Path, tmp_path: Path) -> None:
    judged = read_judged(queries, judgements(tmp_path / "qrels.txt", TREC))
    judged.check(["d1", "d2"])
    with pytest.raises(DataError, match=r"qrels\.txt:4: document 'd2' of query 'q2' is not in the index, .* 'd1'"):
        judged.check(["d1"])


def test_bad_queries_are_named(queries: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give the judgements too"):
        read_judged(queries)
    with pytest.raises(MissingInputError, match="no such file of judgements"):
        read_judged(queries, tmp_path / "none.tsv")
    twice = tmp_path / "twice.jsonl"
    twice.write_text('{"_id": "q1", "text": "a"}\n{"_id": "q1", "text": "b"}\n')
    with pytest.raises(DataError, match=r"twice\.jsonl:2: id 'q1' comes twice"):
        read_judged(twice, judgements(tmp_path / "qrels.txt", TREC))
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match="no column of ids among text"):
        read_judged(bare, tmp_path / "qrels.txt")
    assert Judged({}, {}).unjudged == 0
