"""Labelled files in every format; every bad row is named with file, line, field, value and remedy."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pretune.errors import DataError, MissingInputError
from pretune.text.readers.labelled import LabelledConfig, LabelledText, field_names, read_labelled, read_records
from pretune.text.readers.records import Column, Origin

DATA = Path(os.environ.get("PRETUNE_DATA", Path(__file__).parents[4] / "shared" / "data"))


def read(path: Path | str, needs_labels: bool = True, **settings: object) -> list[LabelledText]:
    return read_labelled(path, LabelledConfig.model_validate(settings), needs_labels)


def write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


ROWS = [{"text": "good one", "label": "pos"}, {"text": 'bad, "really"', "label": "neg"}]


def test_all_formats_give_the_same_examples(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "a.csv", 'id,label,text\n1,pos,good one\n2, neg ,"bad, ""really"""\n\n'),
        write(tmp_path / "a.tsv", 'text\tlabel\ngood one\tpos\r\nbad, "really"\tneg\n'),
        write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, ROWS))),
        write(tmp_path / "b.jsonl.gz", gzip.compress("\n".join(map(json.dumps, ROWS)).encode())),
    ]
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    for path in [*files, tmp_path / "a.parquet"]:
        actual = read(path)
        assert [(e.text, e.label, e.second) for e in actual] == [(r["text"], r["label"], None) for r in ROWS]
        assert {e.origin.source for e in actual} == {str(path)}
    assert [e.origin.row for e in read(files[0])] == [2, 3]
    assert len(read(tmp_path)) == 10


def test_pairs_and_other_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "s1\ts2\tsame\na\tb\t1\n")
    settings = {"text": "s1", "second": "s2", "label": "same"}
    assert read(path, **settings) == [LabelledText("a", "1", "b", origin=Origin(str(path), 2))]
    assert read(path, text="s1", label="same")[0].second is None
    bare = write(tmp_path / "b.tsv", "a\tb\t1\n")
    assert read(bare, columns=("s1", "s2", "same"), **settings)[0].second == "b"


@pytest.mark.parametrize(
    ("value", "label"),
    [(3, "3"), (True, "true"), (1.0, "1"), (0.5, "0.5"), ("1 ", "1"), ("0", "0"), (-1, "-1"), ("标签", "标签")],
)
def test_labels_become_text(tmp_path: Path, value: object, label: str) -> None:
    assert read(write(tmp_path / "a.jsonl", json.dumps({"text": "x", "label": value})))[0].label == label


def test_labels_may_be_missing_when_they_are_not_needed(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.csv", "text\nx\n"), needs_labels=False)[0].label is None
    assert read(write(tmp_path / "a.jsonl", '{"text": "x", "label": null}'), needs_labels=False)[0].label is None
    assert [e.label for e in read(write(tmp_path / "a.csv", "text,label\nx,\ny,1\n"), needs_labels=False)] == [
        None,
        "1",
    ]
    lines = read(write(tmp_path / "a.txt", "one\n\ntwo\n"), needs_labels=False)
    assert [(e.text, e.origin.row) for e in lines] == [("one", 1), ("two", 3)]


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("a.csv", "text,label\n ,1\n", r"a\.csv:2: field 'text' = ' ' is empty; fill it in or remove the row"),
        ("a.csv", "text,label\nx,\n", r"a\.csv:2: label in field 'label' is empty; write"),
        (
            "a.csv",
            "sentence,labels\nx,1\n",
            r"a\.csv:1: no column 'text'; name the column .*--text .*sentence.*no header row.*--columns text",
        ),
        (
            "a.csv",
            "text,labels\nx,1\n",
            r"a\.csv:1: no column 'label'; name .*--label .* did you mean 'labels'\?$",
        ),
        ("a.csv", "text\tlabel\nx\t1\n", r"a\.csv:1: no column 'text'.*separated by tabs: set --format tsv"),
        ("a.csv", "text;label\nx;1\n", r"a\.csv:1: no column 'text'.*separated by ';': set --delimiter ';'$"),
        ("a.tsv", "text;label\nx;1\n", r"a\.tsv:1: .*separated by ';': set --format csv --delimiter ';'$"),
        ("a.csv", "text,label\nx, y,1\n", r"a\.csv:2: 3 fields where the header has 2: 'x, y,1'; quote"),
        ("a.csv", "text,label\nx\n", r"a\.csv:2: 1 fields where the header has 2: 'x'"),
        ("a.csv", 'text,label\n"x,1\ny,2\n', r"a\.csv:2: broken quotes"),
        ("a.tsv", 'text\tlabel\n"a\tb"\t1\n5" disk\t2\n', r"a\.tsv:2: 3 fields .*--quotes true"),
        ("a.csv", b"text,label\nx,1\n\xb0\xa1,0\n", r"a\.csv:3: not UTF-8: .* 0xb0 .*iconv -f GB18030"),
        (
            "a.jsonl",
            '{"text": "x", "label": 1}\n{"text": 2, "label": 1}',
            r"a\.jsonl:2: field 'text' holds the number 2",
        ),
        ("a.jsonl", '{"text": "x", "label": ["a"]}', r"a\.jsonl:1: label .* is the list \['a'\]; give each row one"),
        ("a.jsonl", '{"text": "x", "label": NaN}', r"a\.jsonl:1: label in field 'label' is nan, which is no finite"),
        ("a.jsonl", '{"text": "x", "label": null}', r"a\.jsonl:1: label in field 'label' is empty"),
        ("a.jsonl", '{"text": "x"}', r"a\.jsonl:1: no field 'label'"),
        ("a.jsonl", '{"text": "x", "lab', r"a\.jsonl:1: not JSON"),
        ("a.csv", "text,label\n", r"a\.csv: no rows"),
        ("a.csv", "", r"a\.csv: no rows"),
        ("a.txt", "x\n", r"a\.txt: a \.txt file has no columns; set --format tsv, csv or jsonl"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, name: str, body: bytes | str, words: str) -> None:
    path = write(tmp_path / name, body)
    with pytest.raises(DataError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert caught.value.code == 65


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such file"):
        read(tmp_path / "a.csv")


@pytest.mark.skipif(not DATA.is_dir(), reason="real data are not here")
@pytest.mark.parametrize(
    ("path", "settings", "rows", "labels"),
    [
        ("classification/chnsenticorp/train.tsv", {"text": "text_a"}, 9600, 2),
        ("classification/sst2/train.tsv", {"columns": ["text", "label"]}, 6920, 2),
        ("classification/banking77/train.csv", {"label": "category"}, 10003, 77),
        ("classification/waimai_10k/waimai_10k.csv", {"text": "review"}, 11987, 2),
        ("classification/sms_spam/sms.tsv", {"columns": ["label", "text"]}, 5574, 2),
        ("classification/thucnews-titles/dev.txt", {"format": "tsv", "columns": ["text", "label"]}, 10000, 10),
        ("pairs/AFQMC/dev.txt", {"format": "tsv", "columns": ["text", "s2", "label"], "second": "s2"}, 4316, 2),
        ("pairs/glue-RTE/train.tsv", {"text": "sentence1", "second": "sentence2"}, 2490, 2),
        ("fewclue/tnews/train_few_all.json", {"text": "sentence", "label": "label_desc"}, 1185, 15),
    ],
)
def test_real_files(path: str, settings: dict[str, object], rows: int, labels: int) -> None:
    actual = read(DATA / path, **settings)
    assert (len(actual), len({e.label for e in actual})) == (rows, labels)


def test_fields_may_be_separated_by_another_character(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text;label\n"x; y";1\nz, w;2\n')
    assert [example.text for example in read(path, delimiter=";")] == ["x; y", "z, w"]
    tabs = write(path.with_name("tabs.csv"), "text\tlabel\nx, y\t1\n")
    assert [example.text for example in read(tabs, delimiter="\\t")] == ["x, y"], "as typed in a shell"
    table = write(path.with_name("semicolons.tsv"), "text;label\nx\ty;1\n")
    assert [example.text for example in read(table, format="csv", delimiter=";")] == ["x\ty"], "the remedy that is said"
    with pytest.raises(DataError, match=r"a\.csv:2: 3 fields .*; quote fields that hold a ';'"):
        read(write(path, "text;label\nx; y;1\n"), delimiter=";")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "xlsx"])
def test_a_header_is_one_whatever_columns_another_file_had(tmp_path: Path, suffix: str) -> None:
    """A model of a headerless file remembers the names of its columns; they misplaced those of a file with a header."""
    import openpyxl

    config = LabelledConfig(columns=("id", "text", "label"))
    tables = {
        "bare": [["1", "a b", "x"], ["2", "text", "y"]],
        "named": [["label", "more", "text"], ["x", "-", "a b"], ["y", "-", "text"]],
    }
    for name, rows in tables.items():
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "xlsx":
            book = openpyxl.Workbook()
            for row in rows:
                book.active.append(row)
            book.save(path)
        else:
            path.write_text("".join({"csv": ",", "tsv": "\t"}[suffix].join(row) + "\n" for row in rows))
        assert [(row.text, row.label) for row in read_labelled(path, config)] == [("a b", "x"), ("text", "y")]
        assert field_names(path, config) == (["id", "text", "label"] if name == "bare" else rows[0])
    with pytest.raises(DataError, match=rf"bare\.{suffix}: no column 'body'.*known: id, text, label"):
        read_labelled(tmp_path / f"bare.{suffix}", config.model_copy(update={"text": "body"}))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_a_table_of_other_columns_is_not_called_empty(suffix: str, tmp_path: Path) -> None:
    path, mark = tmp_path / f"table.{suffix}", "\t" if suffix == "tsv" else ","
    path.write_text(f"a{mark}b\n1{mark}2\n")
    if suffix == "parquet":
        pq.write_table(pa.table({"a": [1], "b": [2]}), path)
    columns = [Column("text", "", required=False), Column("title", "", required=False)]
    with pytest.raises(DataError, match=r"has the columns a, b, and none of those that are read; name them text, ti"):
        list(read_records(path, columns))
