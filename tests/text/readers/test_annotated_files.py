"""Readers of annotated files: CoNLL columns, CoNLL-U, brat and CLUENER; every bad line named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pretune.errors import DataError
from pretune.tasks.shared.annotated import annotated_columns, read_annotated
from pretune.text.annotation import Link, Span
from pretune.text.readers.labelled import LabelledConfig, field_names, read_records
from pretune.text.readers.records import SkippedRecords


def records(path: Path, skipped: SkippedRecords | None = None, **settings: Any) -> list[dict[str, Any]]:
    config = LabelledConfig.model_validate(settings)
    columns = annotated_columns(config, True, tags=True)
    return [dict(record) for record in read_records(path, columns, config, skipped=skipped)]


CONLL = """-DOCSTART- -X- -X- O

EU NNP I-NP B-ORG
rejects VBZ I-VP O

# DT O O
1 CD O O
"""


def test_columns_of_words_and_tags(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text(CONLL)
    first, second = records(path)
    assert (first["tokens"], first["tags"]) == (["EU", "rejects"], ["B-ORG", "O"])
    assert second["tokens"] == ["#", "1"]
    (pos, _) = records(path, columns=("tokens", "tags", "chunks", "entities"))
    assert pos["tags"] == ["NNP", "VBZ"]
    assert field_names(path) == ["text", "tokens", "column 2", "column 3", "tags"]
    (tmp_path / "bare.conll").write_text("a\nb\n")
    config = LabelledConfig()
    columns = annotated_columns(config, False, tags=True)
    assert [dict(r) for r in read_records(tmp_path / "bare.conll", columns, config, False)] == [
        {"text": "a b", "tokens": ["a", "b"]}
    ]


@pytest.mark.parametrize("head", ["# newdoc id = a", "# id 5239\tdomain=en", "-DOCSTART-", "-DOCSTART-\n"])
def test_what_stands_before_the_first_word_says_nothing_of_columns(tmp_path: Path, head: str) -> None:
    path = tmp_path / "a.conll"
    path.write_text(f"{head}\n# B-X\n#tag I-X\nParis B-LOC\n")
    (record,) = records(path)
    assert (record["tokens"], record["tags"]) == (["#", "#tag", "Paris"], ["B-X", "I-X", "B-LOC"])
    assert field_names(path) == ["text", "tokens", "tags"]


def test_the_language_before_words_and_chinese_blanks(tmp_path: Path) -> None:
    path = tmp_path / "train"
    path.write_text("en::\tO\nen:Kanye\tB-PER\n\nen:en:x\tO\n")
    assert [record["tokens"] for record in records(path, format="conll")] == [[":", "Kanye"], ["en:x"]]
    path.write_text("欧 B-LOC\n美 I-LOC\n\n好 O\n")
    (first, second) = records(path, format="conll")
    example = read_annotated(first, LabelledConfig(), tags=True)
    assert (example.text, example.tags) == ("欧美", ("B-LOC", "I-LOC"))
    assert second["tags"] == ["O"]


def test_a_line_of_other_columns_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.bio"
    path.write_text("a O\nb\n\nc O\n")
    with pytest.raises(
        DataError, match=r"a\.bio:2: 1 columns, where other lines have 2: \['b'\]; give each word the same"
    ):
        records(path)
    skipped = SkippedRecords()
    assert [record["tokens"] for record in records(path, skipped)] == [["c"]]
    assert skipped.count == 1


CONLLU = """# sent_id = s1
# text = don't go
1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tdo\tdo\tAUX\tVBP\t_\t3\taux\t_\t_
2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\t_
3\tgo\tgo\tVERB\tVB\t_\t0\troot\t_\t_
3.1\tx\tx\tX\tX\t_\t_\t_\t_\t_
"""


def test_conllu(tmp_path: Path) -> None:
    path = tmp_path / "a.conllu"
    path.write_text(CONLLU)
    (record,) = records(path)
    assert (record["id"], record["tokens"], record["tags"]) == ("s1", ["do", "n't", "go"], ["AUX", "PART", "VERB"])
    (record,) = records(path, tags="xpos")
    assert read_annotated(record, LabelledConfig(tags="xpos"), tags=True).tags == ("VBP", "RB", "VB")
    path.write_text("1\tdo\n")
    with pytest.raises(DataError, match=r"a\.conllu:1: 2 columns, where CoNLL-U has 10"):
        records(path)


def brat(folder: Path, marks: str, text: str = "Angela Merkel\nwas in Paris.") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "d1.txt").write_text(text)
    (folder / "d1.ann").write_text(marks)
    return folder


def test_brat(tmp_path: Path) -> None:
    marks = (
        "T1\tPerson 0 13\tAngela Merkel\nT2\tPlace 21 26\tParis\nT3\tStay 14 17\twas\nT4\tSay 18 20\tin\n"
        "R1\tIn Arg1:T1 Arg2:T2\t\nE1\tStay:T3 Who:T1 Where:T2\nE2\tSay:T4 What:E1\nA1\tNegated E1\n#1\tNote T1\twhy\n"
    )
    (record,) = records(brat(tmp_path / "a", marks), format="brat")
    example = read_annotated(record, LabelledConfig(), links=True)
    assert record["id"] == "d1"
    assert example.spans == (
        Span(0, 13, "Person", "T1"), Span(21, 26, "Place", "T2"), Span(14, 17, "Stay", "T3"), Span(18, 20, "Say", "T4")
    )  # fmt: skip
    assert example.links == (Link(0, 1, "In"), Link(2, 0, "Who"), Link(2, 1, "Where"), Link(3, 2, "What"))
    (record,) = records(brat(tmp_path / "a", marks.replace("Say:T4", "Say:T3")), format="brat")
    with pytest.raises(DataError, match=r"'links\[3\]', 'What', leads from span 2 to itself"):
        read_annotated(record, LabelledConfig(), links=True)
    (record,) = records(brat(tmp_path / "a", "T1\tX 7 17\tMerkel was\n"), format="brat")
    assert read_annotated(record, LabelledConfig()).spans == (Span(7, 17, "X", "T1"),)


@pytest.mark.parametrize(
    ("marks", "words"),
    [
        ("T1\tX 0 3;5 7\tAng la\n", r"d1\.ann:1: T1 is in several parts \(X 0 3;5 7\), which no span is"),
        ("T1\tX 0\tAng\n", r"d1\.ann:1: T1 has no label, start and end; write it as T1"),
        ("T1\tX 0 3\tAng\nR1\tof T1\n", r"d1\.ann:2: R1 names no spans"),
    ],
)
def test_bad_marks_are_named(tmp_path: Path, marks: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        records(brat(tmp_path / "a", marks), format="brat")


def test_a_document_without_its_other_file(tmp_path: Path) -> None:
    folder = brat(tmp_path / "a", "")
    (folder / "d2.txt").write_text("alone")
    with pytest.raises(DataError, match=r"d2\.txt: no \.ann file beside it"):
        records(folder, format="brat")
    (folder / "d2.txt").unlink()
    (folder / "annotation.conf").write_text("[entities]\nPerson\n")
    assert [record["id"] for record in records(folder, format="brat")] == ["d1"]
    (folder / "d1.txt").unlink()
    with pytest.raises(DataError, match=r"d1\.ann: no d1\.txt beside it"):
        records(folder, format="brat")


def test_cluener_in_lines_and_spread_over_lines(tmp_path: Path) -> None:
    one = {"text": "彭小军认为台湾", "label": {"name": {"彭小军": [[0, 2]]}, "address": {"台湾": [[5, 6]]}}}
    path = tmp_path / "a.json"
    for text in (json.dumps(one) + "\n" + json.dumps({"text": "x", "label": {}}), json.dumps(one, indent=2)):
        path.write_text(text)
        record = records(path, format="cluener")[0]
        example = read_annotated(record, LabelledConfig())
        assert example.spans == (Span(0, 3, "name"), Span(5, 7, "address"))
        assert record["label"] == ["address", "name"]
    path.write_text('{"text": "x", "label": []}\n{"text"\n')
    with pytest.raises(DataError, match=r"a\.json:1: holds .*, not a text with its labels; write"):
        records(path, format="cluener")
    path.write_text('[{"text": "x", "label": {}}]\n')
    with pytest.raises(DataError, match=r"a\.json:1: holds .*, not a text with its labels; write"):
        records(path, format="cluener")
    path.write_text("{\n}}\n")
    with pytest.raises(DataError, match=r"a\.json:1: not JSON"):
        records(path, format="cluener")
