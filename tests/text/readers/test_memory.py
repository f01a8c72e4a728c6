"""Records in memory: lists of dicts, DataFrames, Arrow tables and `datasets` objects, and what is wrong with some."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pretune.errors import DataError
from pretune.text.readers.labelled import LabelledConfig, LabelledText, read_labelled
from pretune.text.readers.records import Record

ROWS = [{"text": "good one", "label": "pos"}, {"text": "bad one", "label": "neg"}, {"text": "so so", "label": "neg"}]
FORMS: dict[str, Any] = {
    "list": ROWS,
    "tuples": [(row["text"], row["label"]) for row in ROWS],
    "lists": [[row["text"], row["label"]] for row in ROWS],
    "zip": zip((row["text"] for row in ROWS), (row["label"] for row in ROWS), strict=True),
    "generator": (dict(row) for row in ROWS),
    "pandas": pd.DataFrame(ROWS),
    "arrow": pa.Table.from_pylist(ROWS),
    "batch": pa.Table.from_pylist(ROWS).to_batches()[0],
    "datasets": datasets.Dataset.from_list(ROWS),
    "stream": datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_records(form: str) -> None:
    actual = read_labelled(FORMS[form])
    assert [(e.text, e.label) for e in actual] == [(row["text"], row["label"]) for row in ROWS]
    name = {"list": "list[2]", "pandas": "DataFrame.iloc[2]", "arrow": "Table[2]", "datasets": "Dataset[2]"}.get(form)
    assert name in (None, str(actual[2].origin))


def test_labels_of_numpy_and_columns_of_other_names() -> None:
    frame = pd.DataFrame(
        {"a": ["x", "y", "z"], "b": np.array([1, 2, 1]), "c": [1.0, 0.5, 2.0], "d": [True, False, True]}
    )
    for column, labels in (("b", ["1", "2", "1"]), ("c", ["1", "0.5", "2"]), ("d", ["true", "false", "true"])):
        config = LabelledConfig(text="a", label=column)
        assert [e.label for e in read_labelled(frame, config)] == labels
        rows = [{"a": text, column: value} for text, value in zip(frame["a"], frame[column].to_numpy(), strict=True)]
        assert [e.label for e in read_labelled(rows, config)] == labels


def test_a_record_keeps_its_place() -> None:
    records = [Record(row) for row in ROWS]
    assert [str(e.origin) for e in read_labelled(records)] == ["record[0]"] * 3


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT], ids=["None", "nan", "NA", "NaT"])
def test_a_missing_value_is_named(missing: object) -> None:
    frame = pd.DataFrame({"text": ["a", missing, "b"], "label": ["1", "2", missing]}, dtype=object)
    with pytest.raises(DataError, match=r"^DataFrame\.iloc\[1\]: field 'text' has no value .*frame\.dropna\(subset="):
        read_labelled(frame)
    frame.loc[1, "text"] = "c"
    with pytest.raises(DataError, match=r"^DataFrame\.iloc\[2\]: label in field 'label' is .*frame\.dropna"):
        read_labelled(frame)
    assert read_labelled(frame, needs_labels=False)[2].label is None
    strings = pd.DataFrame({"text": pd.array(["a", pd.NA], dtype="string"), "label": ["1", "2"]})
    with pytest.raises(DataError, match=r"DataFrame\.iloc\[1\]: field 'text' has no value"):
        read_labelled(strings)


def test_a_row_that_filtering_left_is_named_by_its_place() -> None:
    frame = pd.DataFrame({"text": ["a", "b", None], "label": ["1", "2", "3"]})[1:]
    with pytest.raises(DataError, match=r"DataFrame\.iloc\[1\]: field 'text'"):
        read_labelled(frame)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            [{"text": "a", "label": "1"}, {"sentence": "b", "label": "1"}],
            r"list\[1\]: no field 'text'; name the field that holds it with --text",
        ),
        ([{"text": "a", "labels": "1"}], r"list\[0\]: no field 'label'; .*did you mean 'labels'"),
        ([{"text": 3, "label": "1"}], r"list\[0\]: field 'text' holds the number 3, not text; fix or remove"),
        ([{"text": ["a"], "label": "1"}], r"list\[0\]: field 'text' holds the list \['a'\], not text"),
        ([{"text": "a", "label": ["1"]}], r"list\[0\]: label in field 'label' is the list .*give each row one label"),
        ([{"text": " ", "label": "1"}], r"list\[0\]: field 'text' = ' ' is empty"),
        (["text", {"text": "a"}], r"list\[0\]: holds str text, not a record; give a dict"),
        ([], r"list: no rows; give at least one record"),
        (
            [("a", "1"), ("b",)],
            r"list\[1\]: a row of 1, where \(text, label\) is read; give 2 in this order, or a dict",
        ),
        ([("a", "b", "1")], r"list\[0\]: a row of 3, where \(text, label\) is read"),
        ((["a"] * 9, ["1"] * 9), r"tuple\[0\]: a row of 9.*zip\(texts, labels\) makes rows"),
        ([("a", None)], r"list\[0\]: label in field 'label' is empty"),
        ([(float("nan"), "1")], r"list\[0\]: field 'text' has no value \(the number nan\)"),
        (
            [("a", "1"), {"text": "b", "label": "2"}, ("c", ("d", "e"))],
            r"list\[2\]: label .*is the list .*give each row one label",
        ),
        (pd.DataFrame(ROWS).set_index("text"), r"DataFrame: 'text' is its index.*give frame\.reset_index\(\)"),
        (pd.DataFrame(ROWS)["text"], r"Series\[0\]: holds str good one, not a record"),
        (
            type("LazyFrame", (), {"collect": None})(),
            r"LazyFrame: holds a query and no rows yet; give what its",
        ),
        (3, r"the number 3 holds no records; give a list of dicts"),
        ({"train": ROWS}, r"dict: a mapping with the keys 'train' .*data\['train'\]"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}), r"DatasetDict: .*data\['train'\]"),
        (
            pd.DataFrame([["a", "b", "1"]], columns=["text", "text", "label"]),
            r"DataFrame: two columns are called 'text'",
        ),
        (pa.table([["a"], ["b"], ["1"]], names=["text", "text", "label"]), r"Table: two columns are called 'text'"),
        (pd.DataFrame({"text": [], "label": []}), r"DataFrame: no rows"),
    ],
)
def test_what_cannot_be_read_is_named(data: Any, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_labelled(data)
    assert caught.value.code == 65


def test_two_settings_cannot_name_one_column() -> None:
    with pytest.raises(ValueError, match="text and second are both 'text'; give each a"):
        LabelledConfig(second="text")


def test_accessors_check_lists() -> None:
    assert Record({"words": np.array(["a", "b"])}).strings("words") == ["a", "b"]
    for value, words in (
        ("a b", r"field 'words' holds str a b, not a list of texts"),
        (["a", 3], r"field 'words\[1\]' holds the number 3, not text"),
        (["a", " "], r"field 'words\[1\]' = ' ' is empty"),
        (None, r"field 'words' has no value \(null\)"),
    ):
        with pytest.raises(DataError, match=words):
            Record({"words": value}).strings("words")
    assert LabelledText.read({"text": "a", "label": 1}, LabelledConfig()) == LabelledText("a", "1")


def test_tuples_hold_what_is_read() -> None:
    pairs = LabelledConfig(second="other")
    (pair,) = read_labelled([("a", "b", 1)], pairs)
    assert (pair.text, pair.second, pair.label) == ("a", "b", "1")
    (pair,) = read_labelled([("a", "b")], pairs, needs_labels=False)
    assert (pair.text, pair.second, pair.label) == ("a", "b", None)
    (pair,) = read_labelled([("a", "b", 1)], pairs, needs_labels=False)
    assert pair.label == "1", "scores of pairs, which a task may learn from"
    with pytest.raises(DataError, match=r"a row of 2, where \(text\) is read; give 1 in this order"):
        read_labelled([("a", "not a label")], needs_labels=False)


def test_rows_of_many_types_are_read_or_named() -> None:
    """An index that is no range does not matter; labels of many types are one, texts of other types are refused."""
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": [1, "1", 1.0]}, index=["x", "x", "y"])
    assert [row.label for row in read_labelled(frame)] == ["1", "1", "1"]
    frame = pd.DataFrame({"text": ["a", 2, "c"], "label": ["1", "2", "3"]})
    with pytest.raises(DataError, match=r"DataFrame\.iloc\[1\]: field 'text' holds the number 2, not text"):
        read_labelled(frame)
