"""Arrays of records in .json files: read piece by piece, with the line of each record, and exact errors."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from pretune.errors import DataError
from pretune.text.readers import json as reader
from pretune.text.readers.labelled import LabelledConfig, field_names, read_labelled

ROWS = [{"text": f"text {n} 模型", "label": str(n % 2)} for n in range(50)]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("chunk", [7, 64, 1 << 20])
def test_an_array_is_read_as_its_records(
    indent: int | None, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_text("\ufeff \n" + json.dumps(ROWS, ensure_ascii=False, indent=indent) + "\n\n")
    read = read_labelled(path)
    assert [{"text": each.text, "label": each.label} for each in read] == ROWS
    assert [each.origin.row for each in read[:3]] == ([2, 2, 2] if indent is None else [3, 7, 11])
    assert field_names(path) == ["text", "label"]


def test_lines_in_a_json_file_are_read_as_before(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    assert [each.text for each in read_labelled(path)] == [row["text"] for row in ROWS]
    assert field_names(path) == ["text", "label"]


def test_a_compressed_array(tmp_path: Path) -> None:
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(json.dumps(ROWS).encode()))
    assert len(read_labelled(path)) == 50


def test_a_long_array_of_short_records_is_no_long_record(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS))
    assert len(read_labelled(path, LabelledConfig(max_document_bytes=100))) == 50


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('[{"text": "a", "label": "b"},\n {"text": "a" "label": 1}]', r"a\.json:2: not JSON: Expecting ',' delimiter"),
        ('[{"text": "a", "label": "b"}\n {"text": "a", "label": "b"}]', r"a\.json:2: not JSON: '\{' where ',' belongs"),
        ('[{"text": "a", "label": "b"},\n\n', r"a\.json:3: not JSON: Expecting value"),
        ('[{"text": "a", "label": "b"}', r"a\.json:1: not JSON: the end of the file where ',' belongs"),
        ('[{"text": "a", "label": "b"}] {}', r"a\.json:1: there is more after the end of the array"),
        ('[{"text": "a", "label": "b"},\n"c"]', r"a\.json:2: an item of the array is str c, not an object"),
        ('[{"text": "a", "label": "b"},\n{"text": "a"}]', r"a\.json:2: no field 'label'; name the field .*--label"),
        ('[{"text": "a", "text": "c", "label": "b"}]', r"a\.json:1: field 'text' is there twice"),
        ('[{"text": "%s", "label": "b"}]' % ("a" * 300), r"a\.json:1: record longer than 200 bytes"),
        ('[{"text": "a", "label": %s}]' % ("1" * 5000), r"a\.json:1: not usable JSON: Exceeds the limit"),
        ("[]", r"a\.json: no rows"),
    ],
)
def test_bad_arrays(body: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(body)
    with pytest.raises(DataError, match=message):
        read_labelled(path, LabelledConfig(max_document_bytes=200))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"text": "\xff", "label": "b"}]')
    with pytest.raises(DataError, match=r"a\.json:1: not UTF-8; convert the file to UTF-8"):
        read_labelled(path)
