"""Readers are an axis: one format a file, a user's own by path."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretune.errors import DataError, UsageError
from pretune.find import variants
from pretune.text.readers.corpus import CorpusConfig, read_corpus
from pretune.text.readers.files import suffixes
from pretune.text.readers.labelled import LabelledConfig, read_labelled

OWN = '''"""Reads texts with their labels behind a bar."""

from pretune.text.readers.lines import split_lines, text_blocks
from pretune.text.readers.records import RecordError

SUFFIXES = (".bar",)


def read(source, columns, config):
    for item in text_blocks(source, config):
        if isinstance(item, RecordError):
            yield item
            continue
        for line, text in enumerate(split_lines(item[1]), item[0]):
            parts = text.split("|")
            if len(parts) == 2:
                yield line, {"text": parts[0], "label": parts[1]}
            else:
                yield line, {} if not text else {"text": text}
'''


def test_a_reader_is_a_file_that_says_its_suffixes() -> None:
    assert variants("text.readers") == [
        "brat", "casie", "cluener", "conll", "conllu", "csv", "html", "json", "jsonl", "md", "parallel", "parquet",
        "propbank", "semeval", "squad", "tsv", "txt", "xlsx",
    ]  # fmt: skip
    assert suffixes() == {
        ".bio": "conll", ".bioes": "conll", ".bmes": "conll", ".conll": "conll", ".conllu": "conllu", ".iob": "conll",
        ".iob2": "conll",
        ".csv": "csv", ".htm": "html", ".html": "html", ".json": "json", ".jsonl": "jsonl", ".markdown": "md",
        ".md": "md", ".ndjson": "jsonl", ".parquet": "parquet", ".tsv": "tsv", ".txt": "txt", ".xhtml": "html",
        ".xlsm": "xlsx", ".xlsx": "xlsx",
    }  # fmt: skip


def test_a_reader_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "reader.py").write_text(OWN)
    data = tmp_path / "data.bar"
    data.write_text("one|1\n\ntwo|2\n")
    config = LabelledConfig(format=str(tmp_path / "reader.py"))
    assert [(e.text, e.label, e.origin.row) for e in read_labelled(data, config)] == [("one", "1", 1), ("two", "2", 3)]
    assert [d.text for d in read_corpus(data, CorpusConfig(format=config.format))] == ["one", "two"]
    data.write_text("one|1\ntwo\n")
    with pytest.raises(DataError, match=r"data\.bar:2: no field 'label'; name the field .*--label \(columns\.label\)"):
        read_labelled(data, config)


def test_an_unknown_reader_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,1\n")
    with pytest.raises(UsageError, match=r"no variant 'cvs'; did you mean 'csv'"):
        read_labelled(tmp_path / "a.csv", LabelledConfig(format="cvs"))


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("a.jsonl", '{"text": "x", "text": "y", "label": 1}', r"a\.jsonl:1: field 'text' is there twice; leave one"),
        ("a.csv", "text,text,label\nx,y,1\n", r"a\.csv:1: two columns are called 'text'; rename one"),
    ],
)
def test_a_field_with_two_values_is_refused(tmp_path: Path, name: str, body: str, words: str) -> None:
    (tmp_path / name).write_text(body)
    with pytest.raises(DataError, match=words):
        read_labelled(tmp_path / name)
