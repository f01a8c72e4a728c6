"""Readers of relations, events and semantic roles: records of spans and links, and what is no such file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pretune.errors import DataError
from pretune.text.readers.labelled import LabelledConfig, read_records
from pretune.text.readers.propbank import argument_of

OFFICIAL = """1\t"The system has its application in an arrayed <e1>configuration</e1> of antenna <e2>elements</e2>."
Component-Whole(e2,e1)
Comment: Not a collection: there is structure here.

2\t"The <e1>child</e1> was bound into the <e2>cradle</e2>."
Other
Comment:

"""
PLAIN = """Component-Whole(e2,e1)\tThe system is an arrayed <e1> configuration </e1> of antenna <e2> elements </e2>.
Other\tThe <e1> child </e1>'s bound into the <e2> cradle </e2>
"""
ROLES = """# sent_id = s-1
# text = Bush nominated two men to replace "retiring" jurists.
1\tBush\tBush\tPROPN\tNNP\t_\t2\tnsubj\t_\t_\t_\tARG0\t_\t_
2\tnominated\tnominate\tVERB\tVBD\t_\t0\troot\t_\t_\tnominate.01\tV\t_\t_
3\ttwo\ttwo\tNUM\tCD\t_\t4\tnummod\t_\t_\t_\t_\t_\t_
4\tmen\tman\tNOUN\tNNS\t_\t2\tobj\t_\t_\t_\tARG1\tARG0\t
5\tto\tto\tPART\tTO\t_\t6\tmark\t_\t_\t_\t_\t_\t_
6\treplace\treplace\tVERB\tVB\t_\t2\tadvcl\t_\t_\treplace.01\tARG2\tV\t_
7\t"\t"\tPUNCT\t``\t_\t8\tpunct\t_\t_\t_\t_\t_\t_
8\tretiring\tretire\tVERB\tVBG\t_\t10\tamod\t_\t_\tretire.01\t_\t_\tV
9\t"\t"\tPUNCT\t''\t_\t8\tpunct\t_\t_\t_\t_\t_\t_
10\tjurists\tjurist\tNOUN\tNNS\t_\t6\tobj\t_\t_\t_\t_\tARG1\tARG1
10.1\thas\thave\tVERB\tVBZ\t_\t_\t_\t_\t_\t\t\t\t
11\t.\t.\tPUNCT\t.\t_\t2\tpunct\t_\t_\t_\t_\t_\t_
"""
SHORT = """# sentence-text: 他 看 了 書 .
1\t他\t他\tPRON\tPRP\t_\t2\tnsubj\t_\t_\tA0
2\t看\t看\tVERB\tVV\t_\t0\troot\tY\tsee.01\t_
3\t了\t了\tPART\tAS\t_\t2\tcase\t_\t_\t_
4\t書\t书\tNOUN\tNN\t_\t2\tobj\t_\t_\tA1
5\t.\t.\tPUNCT\t.\t_\t2\tpunct\t_\t_\t_
"""


def records(path: Path, format: str) -> list[dict[str, Any]]:
    return [dict(record) for record in read_records(path, [], LabelledConfig(format=format), needs_labels=False)]


def facts(record: dict[str, Any]) -> tuple[list[tuple[str, str]], list[tuple[int, int, str]]]:
    spans = [(record["text"][span["start"] : span["end"]], span["label"]) for span in record["spans"]]
    return spans, [(link["head"], link["tail"], link["label"]) for link in record["links"]]


@pytest.mark.parametrize("body", [OFFICIAL, OFFICIAL.replace("\n", "\r\n"), OFFICIAL.rstrip()])
def test_semeval_as_published(tmp_path: Path, body: str) -> None:
    (tmp_path / "TRAIN_FILE.TXT").write_bytes(body.encode())
    first, second = records(tmp_path / "TRAIN_FILE.TXT", "semeval")
    assert first["text"] == "The system has its application in an arrayed configuration of antenna elements."
    assert (first["id"], first["label"]) == ("1", "Component-Whole(e2,e1)")
    assert facts(first) == ([("configuration", "entity"), ("elements", "entity")], [(1, 0, "Component-Whole")])
    assert facts(second) == ([("child", "entity"), ("cradle", "entity")], [])


def test_semeval_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(PLAIN)
    first, second = records(tmp_path / "train.tsv", "semeval")
    assert first["text"] == "The system is an arrayed configuration of antenna elements."
    assert facts(first) == ([("configuration", "entity"), ("elements", "entity")], [(1, 0, "Component-Whole")])
    assert second["text"] == "The child's bound into the cradle"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("Other\tNo <e1> mark </e1> of two\n", r"a\.tsv:1: the sentence has the marks <e1>, </e1>; mark one nominal"),
        ("Cause\t<e1> a </e1> and <e2> b </e2>\n", r"a\.tsv:1: the relation 'Cause' has no direction; write a name"),
        ("Other\t<e1> </e1> and <e2> b </e2>\n", r"a\.tsv:1: <e1>\.\.\.</e1> marks nothing; put the marks around"),
        ("nothing\n", r"a\.tsv:1: 'nothing' is no sentence of SemEval-2010 task 8; write RELATION, a tab"),
        ('1\t"<e1>a</e1> <e2>b</e2>"\n', r"a\.tsv:1: the last sentence has no relation below it; add the relation"),
    ],
)
def test_bad_sentences_of_semeval(tmp_path: Path, body: str, words: str) -> None:
    (tmp_path / "a.tsv").write_text(body)
    with pytest.raises(DataError, match=words):
        records(tmp_path / "a.tsv", "semeval")


def casie() -> dict[str, Any]:
    person = {"startOffset": 0, "endOffset": 5, "text": "Eve J", "type": "Person", "role": {"type": "Attacker"}}
    trigger = {"startOffset": 6, "endOffset": 11, "text": "stole"}
    events = [
        {"type": "Attack", "subtype": "Databreach", "nugget": trigger, "argument": [person]},
        {"type": "Attack", "subtype": "Phishing", "nugget": trigger, "argument": [person]},
        {"type": "Attack", "subtype": "Phishing", "nugget": trigger},
    ]
    return {"content": "Eve J stole it.", "cyberevent": {"hopper": [{"events": events}]}}


def test_casie(tmp_path: Path) -> None:
    (tmp_path / "7.json").write_text(json.dumps(casie()))
    (record,) = records(tmp_path, "casie")
    assert record["id"] == "7"
    spans = [("stole", "Attack.Databreach"), ("Eve J", "Person"), ("stole", "Attack.Phishing")]
    assert facts(record) == (spans, [(0, 1, "Attacker"), (2, 1, "Attacker")])
    assert [span["text"] for span in record["spans"]] == ["stole", "Eve J", "stole"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{", r"7\.json: not JSON: .*; fix or remove the file"),
        ("[]", r"7\.json: not a document of CASIE: TypeError .*; give it content and cyberevent\.hopper"),
        ('{"content": "a"}', r"7\.json: not a document of CASIE: KeyError 'cyberevent'; give"),
    ],
)
def test_what_is_no_document_of_casie(tmp_path: Path, body: str, words: str) -> None:
    (tmp_path / "7.json").write_text(body)
    with pytest.raises(DataError, match=words):
        records(tmp_path / "7.json", "casie")


def test_roles_on_ten_columns(tmp_path: Path) -> None:
    (tmp_path / "en.conllu").write_text(ROLES)
    (record,) = records(tmp_path / "en.conllu", "propbank")
    assert record["text"] == 'Bush nominated two men to replace "retiring" jurists.'
    assert record["id"] == "s-1"
    spans, links = facts(record)
    named = [(spans[head], spans[tail][0], label) for head, tail, label in links]
    assert named == [
        (("nominated", "predicate"), "Bush", "ARG0"),
        (("nominated", "predicate"), "two men", "ARG1"),
        (("nominated", "predicate"), 'to replace "retiring" jurists', "ARG2"),
        (("replace", "predicate"), "two men", "ARG0"),
        (("replace", "predicate"), '"retiring" jurists', "ARG1"),
        (("retiring", "predicate"), "jurists", "ARG1"),
    ]
    assert all(label == "argument" for text, label in spans if text not in ("nominated", "replace", "retiring"))


def test_roles_on_eight_columns(tmp_path: Path) -> None:
    without = SHORT.replace("Y\tsee.01", "_\t_").replace("\tA0", "").replace("\tA1", "")
    (tmp_path / "zh.conllu").write_text(f"{SHORT}\n{without}")
    first, second = records(tmp_path / "zh.conllu", "propbank")
    assert (first["text"], first["id"], second["id"]) == ("他看了書.", "1", "2")
    spans = [("看", "predicate"), ("他", "argument"), ("書", "argument")]
    assert facts(first) == (spans, [(0, 1, "A0"), (0, 2, "A1")])
    assert facts(second) == ([], [])


def test_arguments_around_a_gap_and_a_loop() -> None:
    assert argument_of([1, -1, 1, 1], 1, 0) == (1, 3)  # the predicate hangs on its argument
    assert argument_of([2, -1, 1, 0], 0, 1) == (0, 0)  # what hangs on it stands behind a gap
    assert argument_of([1, 0, 1], 2, 0) == (2, 2)  # heads in a circle end too


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("1\tBush\t_\n", r"a\.conllu:1: the sentence has not the columns of CoNLL-U; give each word"),
        (ROLES + "9\tshort\n", r"a\.conllu:3: the sentence has not the columns of CoNLL-U"),
        (ROLES.replace("\t4\tnummod", "\t44\tnummod"), r"a\.conllu:3: a word hangs on one that is not there"),
        ("\n".join(line.rpartition("\t")[0] if line[0] != "#" else line for line in ROLES.splitlines()),
         r"a\.conllu:3: 3 predicates, and no column for the arguments of number 3; give each"),
    ],
)  # fmt: skip
def test_bad_sentences_of_propbank(tmp_path: Path, body: str, words: str) -> None:
    (tmp_path / "a.conllu").write_text(body)
    with pytest.raises(DataError, match=words):
        records(tmp_path / "a.conllu", "propbank")
