"""Records as examples: bad ones stop a run, or are skipped and counted; ids are unique."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pretune.errors import DataError
from pretune.find import find_class
from pretune.tasks.classification import Classification
from pretune.tasks.reading import Reading
from pretune.tasks.regression import Regression
from pretune.tasks.roles import Roles
from pretune.tasks.shared.records import iterate_examples, read_examples
from pretune.tasks.task import Task
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


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("classification", {"text": "a", "label": {"not": "one"}}),
        ("multilabel", {"text": "a", "label": [{}]}),
        ("tagging", {"tokens": ["a", "b"], "tags": ["O"]}),
        ("tagging", {"text": "a b", "spans": [[0, 9, "X"]]}),
        ("relations", {"text": "a b", "spans": [[0, 1, "X"], [2, 3, "X"]], "links": [[0, 7, "r"]]}),
        ("roles", {"text": "a b", "spans": [[0, 9, "X"]], "links": "?"}),
        ("reading", {"text": "a b", "question": "a", "answers": [{"start": 7, "text": "b"}]}),
        ("choice", {"text": "a", "choices": ["b", "c"], "label": 9}),
    ],
)
def test_prediction_does_not_read_what_it_is_to_say(tokenizer: Tokenizer, name: str, record: dict[str, object]) -> None:
    kind = find_class("tasks", name, Task)  # type: ignore[type-abstract]
    reader = kind(kind.Config(), tokenizer.vocabulary)
    with pytest.raises(DataError):
        read_examples(reader, [record])
    (example,) = read_examples(reader, [record], needs_labels=False, every_row=True)
    assert example.text == record.get("text", "a b")
    encoded = reader.encode([example], tokenizer, 16)
    assert len(encoded) >= 1


def test_given_spans_are_read_in_prediction(tokenizer: Tokenizer) -> None:
    reader = Roles(Roles.Config(given=True), tokenizer.vocabulary)
    with pytest.raises(DataError, match=r"'spans\[0\]' = 0 to 9 lies outside the text"):
        read_examples(reader, [{"text": "a b", "spans": [[0, 9, "X"]]}], needs_labels=False, every_row=True)


QUESTION = '{"text": "a cat", "question": "who", "id": "q1", "answers": [{"start": 2, "text": "cat"}]}\n'


def test_a_form_of_records_that_has_ids_has_each_once_in_a_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(2 * QUESTION)
    reading = Reading(Reading.Config(), tokenizer.vocabulary)
    with pytest.raises(
        DataError, match=r"a\.jsonl:2: field 'id' = 'q1' is the id of .*a\.jsonl:1 too; give each .* --id"
    ):
        read_examples(reading, tmp_path / "a.jsonl")
    assert len(read_examples(reading, tmp_path / "a.jsonl", every_row=True)) == 2
    for name in ("b", "c"):
        (tmp_path / f"{name}.jsonl").write_text(QUESTION)
    assert len(read_examples(reading, [tmp_path / "b.jsonl", tmp_path / "c.jsonl"])) == 2, "files count from 1 each"
    (tmp_path / "d.jsonl").write_text(2 * QUESTION.replace("id", "group"))
    assert len(read_examples(reading, tmp_path / "d.jsonl")) == 2


def test_a_label_that_is_not_finite_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": 1.5}\n{"text": "b", "label": NaN}\n')
    regression = Regression(Regression.Config(), tokenizer.vocabulary)
    with pytest.raises(
        DataError, match=r"a\.jsonl:2: label in field 'label' is nan, which is no finite number; write a"
    ):
        read_examples(regression, tmp_path / "a.jsonl")
