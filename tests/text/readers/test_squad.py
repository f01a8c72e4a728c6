"""Files of SQuAD: a record for each question, and what is wrong with a file that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pretune.errors import DataError
from pretune.text.readers.files import SourceConfig
from pretune.text.readers.labelled import field_names, read_records
from pretune.text.readers.records import Column

COLUMNS = [Column("text", "columns.text"), Column("question", "columns.question"), Column("answers", "", False)]
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Tesla",
            "paragraphs": [
                {
                    "context": "Tesla died in 1943.",
                    "qas": [
                        {"id": "a", "question": "When?", "answers": [{"text": "1943", "answer_start": 14}]},
                        {
                            "id": "b",
                            "question": "Why?",
                            "answers": [],
                            "plausible_answers": [{"text": "1943", "answer_start": 14}],
                            "is_impossible": True,
                        },
                        {"id": "c", "question": "Where?"},
                    ],
                }
            ],
        }
    ],
}


def read(path: Path, content: object) -> list[dict[str, Any]]:
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), "utf-8")
    config = SourceConfig(format="squad")
    return [dict(record) for record in read_records(path, COLUMNS, config, needs_labels=False)]


def test_each_question_is_a_record(tmp_path: Path) -> None:
    same: dict[str, Any] = {"title": "Tesla", "text": "Tesla died in 1943."}
    assert read(tmp_path / "squad.json", SQUAD) == [
        {"id": "a", **same, "question": "When?", "answers": [{"start": 14, "text": "1943"}]},
        {"id": "b", **same, "question": "Why?", "answers": []},
        {"id": "c", **same, "question": "Where?"},
    ]
    assert field_names(tmp_path / "squad.json", SourceConfig(format="squad"))[-1] == "answers"


def test_a_file_of_squad_needs_no_name_of_its_format(tmp_path: Path) -> None:
    expected = read(tmp_path / "squad.json", SQUAD)
    for indent in (None, 2):
        (tmp_path / "squad.json").write_text(json.dumps(SQUAD, indent=indent), "utf-8-sig")
        assert [
            dict(record) for record in read_records(tmp_path / "squad.json", COLUMNS, needs_labels=False)
        ] == expected
        assert field_names(tmp_path / "squad.json") == ["id", "title", "text", "question", "answers"]
    (tmp_path / "lines.json").write_text('{"text": "a", "question": "b", "data": [1]}\n')
    assert len(list(read_records(tmp_path / "lines.json", COLUMNS, needs_labels=False))) == 1


def test_the_own_form_of_cmrc_is_read_too(tmp_path: Path) -> None:
    question = {"query_id": "q1", "query_text": "他住在哪里？", "answers": ["北京", "北京。"]}
    item = {"context_id": "c1", "context_text": "他住在北京。", "title": "他", "qas": [question]}
    (record,) = read(tmp_path / "cmrc.json", [item])
    assert record["answers"] == [{"start": None, "text": "北京"}, {"start": None, "text": "北京。"}]
    assert (record["id"], record["text"], record["question"]) == ("q1", "他住在北京。", "他住在哪里？")


def test_a_start_in_units_of_utf_16_is_one_in_characters_where_the_answer_is_there(tmp_path: Path) -> None:
    text = "𫚭鱼生活在海里。"

    def starts(*answers: tuple[str, int]) -> list[object]:
        question = {"question": "?", "answers": [{"text": words, "answer_start": start} for words, start in answers]}
        (record,) = read(tmp_path / "x.json", {"data": [{"paragraphs": [{"context": text, "qas": [question]}]}]})
        return [answer["start"] for answer in record["answers"]]

    assert starts(("海里", 6), ("海里", 5), ("海里", 4), ("湖", 6), ("海里", -1)) == [5, 5, 4, 6, -1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"x\.json: not JSON: .*set another --format"),
        ("", r"x\.json: not JSON"),
        ({"rows": []}, r"x\.json:1: not a file of SQuAD: no field 'data'; give it data, paragraphs"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, r"x\.json:1: not a file of SQuAD: no field 'context'"),
        ({"data": [3]}, r"x\.json:1: not a file of SQuAD: 'int' object is not subscriptable"),
        ({"data": []}, r"x\.json: no rows"),
        ({"data": [{"paragraphs": [{"context": "a", "qas": [{"id": 1}]}]}]}, r"x\.json:1: .* no field 'question'"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / "x.json", content)


def test_a_field_that_the_file_cannot_have_is_named(tmp_path: Path) -> None:
    (tmp_path / "squad.json").write_text(json.dumps(SQUAD))
    columns = [Column("context", "columns.text")]
    with pytest.raises(DataError, match=r"squad\.json:1: no field 'context'.*--text \(columns\.text\)"):
        list(read_records(tmp_path / "squad.json", columns, SourceConfig(format="squad"), needs_labels=False))
