"""Records as examples: bad ones stop a run, or are skipped and counted; ids are unique."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pretune.errors import DataError
from pretune.tasks.classification import Classification
from pretune.tasks.shared.records import iterate_examples, read_examples
from pretune.text.readers.labelled import LabelledConfig
from pretune.text.readers.records import SkippedRecords
from pretune.text.tokenizer.tokenizer import Tokenizer
from tests.train.trainkit import make_tokenizer

LINES = [
    '{"id": 1, "text": "a", "label": "x"}',
    '{"id": 2, "text": " ", "label": "x"}',
    "{broken",
    '{"id": 1, "text": "b", "label": "y"}',
    '{"id": 3, "text": "c", "label": "y"}',
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return Tokenizer.load(folder)


def task(tokenizer: Tokenizer, **columns: object) -> Classification:
    config = Classification.Config(columns=LabelledConfig.model_validate(columns))
    return Classification(config, tokenizer.vocabulary)


def test_a_bad_record_stops_or_is_skipped_and_counted(
    tokenizer: Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(LINES))
    with pytest.raises(DataError, match=r"a\.jsonl:2: field 'text' = ' ' is empty"):
        read_examples(task(tokenizer), path)
    skipping = task(tokenizer, on_bad="skip", id="id")
    assert [example.text for example in read_examples(skipping, path)] == ["a", "c"]
    assert "bad records skipped: 3; the first: " in caplog.text
    assert "a.jsonl:2: field 'text' = ' ' is empty" in caplog.text
    counter = SkippedRecords()
    rows = list(map(json.loads, [LINES[0], LINES[1], LINES[4]]))
    assert [e.text for _, e in iterate_examples(skipping, rows, skipped=counter)] == ["a", "c"]
    assert counter.count == 1
    assert counter.first.startswith("list[1]: field 'text'")


def test_prediction_skips_nothing(tokenizer: Tokenizer) -> None:
    rows = [{"text": "a"}, {"text": ""}]
    with pytest.raises(DataError, match=r"list\[1\]"):
        read_examples(task(tokenizer, on_bad="skip"), rows, needs_labels=False, every_row=True)


def test_where_all_are_bad_there_is_no_data(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"all 2 records are bad, and were skipped; the first: list\[0\]: field 'text'"):
        read_examples(task(tokenizer, on_bad="skip"), [{"text": "", "label": "x"}, {"text": "b"}])


def test_two_records_of_one_id_are_an_error(tokenizer: Tokenizer) -> None:
    rows = [{"text": "a", "label": "x", "id": 7}, {"text": "b", "label": "x", "id": "7"}]
    with pytest.raises(DataError, match=r"list\[1\]: field 'id' = '7' is the id of list\[0\] too; give each record an"):
        read_examples(task(tokenizer, id="id"), rows)
    assert len(read_examples(task(tokenizer), rows)) == 2
    assert len(read_examples(task(tokenizer, id="id"), rows, every_row=True)) == 2
    rows = [{"text": "a", "label": "x", "id": None}, {"text": "b", "label": "x"}]
    assert len(read_examples(task(tokenizer, id="id"), rows)) == 2
