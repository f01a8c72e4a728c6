"""Annotated records: spans, links, words and tags as they are read, and every bad one named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretune.errors import DataError
from pretune.tasks.shared.annotated import annotated_columns, read_annotated
from pretune.text.annotation import Link, Span, find_overlap
from pretune.text.readers.labelled import LabelledConfig, read_records
from pretune.text.readers.records import Origin, Record
from pretune.text.readers.words import join_words

TEXT = "Angela Merkel was in Paris."
CONFIG = LabelledConfig()


def record(needs_labels: bool = True, **fields: object) -> Record:
    return Record({"text": TEXT, **fields}, Origin("a.jsonl", 3), needs_labels=needs_labels)


def read(fields: Mapping[str, object]) -> Any:
    return read_annotated(fields, CONFIG, links=True, tags=True)


def test_a_record_becomes_spans_and_links() -> None:
    spans = [
        {"start": 0, "end": 13, "label": "PER", "id": "T1", "text": "Angela Merkel"},
        {"start": 21.0, "end": np.int64(26), "label": 7, "id": "T2"},
    ]
    example = read(record(spans=spans, links=[{"head": "T2", "tail": "T1", "label": "of"}]))
    assert example.spans == (Span(0, 13, "PER", "T1"), Span(21, 26, "7", "T2"))
    assert example.links == (Link(1, 0, "of"),)
    assert (example.text, example.words, example.tags, example.origin.row) == (TEXT, None, None, 3)


def test_numbers_of_spans_lists_and_json_in_a_cell_are_read_too() -> None:
    spans = [[0, 6, "A"], (7, 13, "B")]
    for form in (spans, tuple(spans), json.dumps(spans), np.array(spans, object)):
        example = read(record(spans=form, links=[[1, 0, "r"]]))
        assert example.spans == (Span(0, 6, "A"), Span(7, 13, "B"))
        assert example.links == (Link(1, 0, "r"),)


def test_what_is_not_needed_may_be_missing_and_an_empty_list_is_no_missing_one() -> None:
    assert read(record(needs_labels=False)).spans is None
    assert read(record(needs_labels=False, spans=float("nan"))).spans is None
    example = read(record(spans=[], links=[]))
    assert (example.spans, example.links) == ((), ())


def test_words_make_a_text() -> None:
    assert join_words(["New", "York", "."]) == ("New York .", ((0, 3), (4, 8), (9, 10)))
    assert join_words(["我", "爱", "GPU", "和", "Python", "code"])[0] == "我爱GPU和Python code"
    assert join_words(["1", "9", "年", "A", "B"])[0] == "19年AB"
    for words in (["a", "你", "b"], ["1", "2"], ["東", "京", "へ"]):
        text, places = join_words(words)
        assert [text[start:end] for start, end in places] == words
    fields = Record({"tokens": ["w1", "w2"], "tags": ["O", "B-X"]}, needs_labels=True)
    example = read_annotated(fields, CONFIG, tags=True)
    assert (example.text, example.words, example.tags) == ("w1 w2", ((0, 2), (3, 5)), ("O", "B-X"))


def test_words_stand_for_the_text_of_a_file_and_tags_for_spans(tmp_path: Path) -> None:
    columns = annotated_columns(CONFIG, True, tags=True)
    rows = [{"tokens": ["a"], "tags": ["O"]}, {"text": "b", "spans": []}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.csv").write_text('text,spans\nab c,"[[0, 2, ""X""]]"\n')
    assert [read_annotated(r, CONFIG, tags=True).text for r in read_records(tmp_path / "a.jsonl", columns)] == [
        "a",
        "b",
    ]
    (tmp_path / "w.csv").write_text('tokens,tags\n"[""a"", ""b""]","[""O"", ""B-X""]"\n')
    (words,) = read_records(tmp_path / "w.csv", columns)
    assert read_annotated(words, CONFIG, tags=True).tags == ("O", "B-X")
    (only,) = read_records(tmp_path / "a.csv", columns)
    assert read_annotated(only, CONFIG, tags=True).spans == (Span(0, 2, "X"),)
    (tmp_path / "b.jsonl").write_text('{"txt": "b", "spans": []}')
    with pytest.raises(DataError, match=r"b\.jsonl:1: no field 'text'; name the field that holds it with --text"):
        list(read_records(tmp_path / "b.jsonl", columns))
    (tmp_path / "c.jsonl").write_text('{"text": "b"}')
    with pytest.raises(DataError, match=r"c\.jsonl:1: no field 'spans'"):
        list(read_records(tmp_path / "c.jsonl", columns))


def test_overlaps_are_in_the_order_of_the_text() -> None:
    spans = [Span(8, 9, "a"), Span(0, 5, "b"), Span(5, 8, "c"), Span(1, 2, "d")]
    assert find_overlap(spans) == (1, 3)
    assert find_overlap(spans[:3]) is None
    assert find_overlap([Span(0, 9, "a"), Span(1, 2, "b"), Span(3, 4, "c")]) == (0, 1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"spans": [[0, 40, "X"]]}, r"a\.jsonl:3: 'spans\[0\]' = 0 to 40 lies outside the text, which has 27 charac"),
        ({"spans": [[-1, 4, "X"]]}, r"'spans\[0\]' = -1 to 4 lies outside the text"),
        ({"spans": [[4, 4, "X"]]}, r"'spans\[0\]' = 4 to 4 is empty; count characters from 0, the end exclusive"),
        ({"spans": [[4, 2, "X"]]}, r"'spans\[0\]' = 4 to 2 ends before it begins"),
        ({"spans": [[6, 13, "X"]]}, r"X at 6 to 13, ' Merkel' begins or ends on white space; set it to 7 to 13"),
        ({"spans": [[6, 7, "X"]]}, r"' ' begins or ends on white space; leave the span out"),
        (
            {"spans": [{"start": 7, "end": 12, "label": "X", "text": "Paris"}]},
            r"'Merke', and not 'Paris' as its 'text' says; the text has it at 21 to 26: correct the offsets",
        ),
        ({"spans": [{"start": 7, "end": 12, "label": "X", "text": "Rome"}]}, r"the text has it nowhere: correct the"),
        ({"spans": [[0, 6, "X"], [0, 6, "X"]]}, r"'spans\[1\]' = X at 0 to 6, 'Angela' is the same as 'spans\[0\]'"),
        ({"spans": [[0, 6, ""]]}, r"'spans\[0\]\.label' = '' is no label; write one text or whole number"),
        (
            {"spans": [[0, 6]]},
            r"'spans\[0\]' holds the list \[0, 6\], not an object; give an object with 'start', 'end'",
        ),
        ({"spans": [{"start": 0, "label": "X"}]}, r"'spans\[0\]' has no 'end'; give it 'start', 'end', 'label'"),
        ({"spans": [["0", 6, "X"]]}, r"'spans\[0\]\.start' holds str 0, not a whole number; count characters from 0"),
        ({"spans": [[0.5, 6, "X"]]}, r"'spans\[0\]\.start' holds the number 0\.5, not a whole number"),
        ({"spans": {"start": 0}}, r"field 'spans' holds the object .*, not a list; fix or remove the record"),
        ({"spans": "[[0,"}, r"field 'spans' is not JSON"),
        ({"spans": None}, r"field 'spans' has no value \(null\)"),
        (
            {"spans": [{"start": 0, "end": 6, "label": "X", "id": 1}, {"start": 7, "end": 9, "label": "X", "id": 1}]},
            r"'spans\[1\]' has the id '1' of 'spans\[0\]'; give each span of a record an id of its own",
        ),
        ({"spans": [[0, 6, "X"]], "links": [[0, 1, "r"]]}, r"'links\[0\]\.tail' = '1' is no span .*numbered 0 to 0"),
        (
            {"spans": [], "links": [[0, 1, "r"]]},
            r"'links\[0\]\.head' = '0' is no span of the record; the record has no",
        ),
        (
            {"spans": [{"start": 0, "end": 6, "label": "X", "id": "T1"}], "links": [["T1", "T9", "r"]]},
            r"'links\[0\]\.tail' = 'T9' is no span of the record; ids of spans: T1; name one of them",
        ),
        (
            {"spans": [[0, 6, "X"]], "links": [[0, 0, "r"], [0, 0, "r"]]},
            r"'links\[1\]', 'r' of the spans 0 and 0, is the",
        ),
        ({"text": " ", "spans": []}, r"field 'text' = ' ' is empty"),
        ({"tags": ["O"], "links": []}, r"field 'tags' has tags, and there is no field 'tokens' with their words"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, r"field 'tags' has 1 tags for 2 words; give each word one tag"),
        ({"tokens": ["a "], "tags": ["O"]}, r"'tokens\[0\]' = 'a ' has white space around it; remove it"),
        ({"tokens": [], "tags": []}, r"field 'tokens' has no words"),
        ({"tokens": [3], "tags": ["O"]}, r"field 'tokens\[0\]' holds the number 3, not text"),
    ],
)
def test_bad_records_are_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(record(**fields))
