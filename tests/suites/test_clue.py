"""CLUE and FewCLUE: sets found in a folder, read as their authors publish them, trained, scored, and gone on with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import transformers
from tinymodels import save_bert, word_tokenizer

from pretune.cli import main
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.find import variants
from pretune.suites.clue import SETS, abstracts, idioms, questions, references, sentence_pairs, sentences
from pretune.suites.found import find_sets
from pretune.suites.results import RunResult, SetResult, SuiteResult


def write(path: Path, *records: Mapping[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return path


def pairs(count: int, odd: str = "1") -> list[dict[str, object]]:
    both = [("the quick fox", "0"), ("a lazy dog", odd)]
    return [
        {"id": n, "sentence1": f"{both[n % 2][0]} {n}", "sentence2": "ate a hat", "label": both[n % 2][1]}
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of FewCLUE with two of its parts, one of CLUE, and folders that hold no set."""
    root = tmp_path_factory.mktemp("clue")
    for part in ("train_0", "train_1", "dev_0", "dev_1", "test_public"):
        write(root / "fewclue" / "bustm" / f"{part}.json", *pairs(12))
    write(root / "fewclue" / "bustm" / "unlabeled.json", {"id": 0, "sentence1": "a", "sentence2": "b"})
    write(root / "ocnli_public" / "train.3k.json", *pairs(12))
    write(root / "ocnli_public" / "train.50k.json", *pairs(40))
    write(root / "ocnli_public" / "dev.json", *pairs(10, "-"), *pairs(6))
    write(root / "ocnli_public" / "test.json", {"id": 0, "sentence1": "a", "sentence2": "b"})
    write(root / "csl-title" / "train.json", {"abst": "no set"})
    save_bert(root / "model", word_tokenizer(), transformers.BertForMaskedLM)
    return root


def test_sets_are_found_with_the_files_that_score(folder: Path) -> None:
    ocnli, bustm = find_sets(folder, SETS)
    assert (ocnli.name, bustm.name) == ("ocnli_public", "fewclue/bustm")
    (split,) = ocnli.splits
    assert [file.name for file in (*split.train, *split.validation, *split.test)] == ["train.50k.json", "dev.json"]
    names = [[file.name for file in (*s.train, *s.validation, *s.test)] for s in bustm.splits]
    assert names == [[f"train_{n}.json", f"dev_{n}.json", "test_public.json"] for n in (0, 1)]
    assert bustm.split(3) is bustm.splits[1]
    assert [each.name for each in find_sets(folder / "fewclue" / "bustm", SETS)] == ["bustm"]
    assert [each.name for each in find_sets(folder, SETS, ["bustm"])] == ["fewclue/bustm"]


def test_what_is_not_there_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="none of the sets is here"):
        find_sets(tmp_path, SETS)
    with pytest.raises(MissingInputError, match="no such folder"):
        find_sets(tmp_path / "nothing", SETS)
    with pytest.raises(UsageError, match=r"--sets bustn: not in .*did you mean 'bustm'"):
        find_sets(folder, SETS, ["bustn"])


def test_every_task_of_a_set_is_one_of_the_tree() -> None:
    assert {each.task for each in SETS if each.task in variants("tasks")} >= {"classification"}
    assert len({each.name for each in SETS}) == len(SETS)


def fields(records: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    return [dict(record) for record in records]


def test_records_are_those_of_the_files(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.json", {"sentence": "好", "label": 100, "label_desc": "x"}, {"content": "坏", "label": "y"}
    )
    assert fields(list(sentences(path))) == [{"text": "好", "label": "100"}, {"text": "坏", "label": "y"}]
    path.write_text('{"sentence": "one\u2028line", "label": 1}\n')
    assert fields(list(sentences(path))) == [{"text": "one\u2028line", "label": "1"}]
    lines = tmp_path / "b.txt"
    lines.write_text("甲\t乙\t1\n")
    assert fields(list(sentence_pairs(lines))) == [{"text": "甲", "second": "乙", "label": "1"}]
    path = write(tmp_path / "c.json", {"abst": "文", "keyword": ["一", "二"], "label": "0"})
    assert fields(list(abstracts(path))) == [{"text": "文", "second": "一、二", "label": "0"}]


def test_a_pronoun_and_its_noun_are_marked(tmp_path: Path) -> None:
    target = {"span1_text": "他", "span1_index": 5, "span2_text": "毛豆", "span2_index": 0}
    path = write(tmp_path / "a.json", {"target": target, "text": "毛豆说他和他", "label": "true"})
    assert fields(list(references(path))) == [{"text": "[毛豆]说他和_他_", "label": "true"}]
    target["span2_text"] = "黄豆"
    write(path, {"target": target, "text": "毛豆说他和他", "label": "true"})
    with pytest.raises(DataError, match=r"a\.json:1: span '黄豆' is not in the text"):
        list(references(path))


def test_idioms_are_choices_in_both_forms(tmp_path: Path) -> None:
    choices = ["画蛇添足", "雪中送炭"]
    path = write(tmp_path / "few.json", {"content": "给你#idiom#,但", "candidates": choices, "answer": 1})
    assert fields(list(idioms(path))) == [{"text": "给你___,但", "choices": choices, "label": 1}]
    path = write(tmp_path / "dev.json", {"content": ["甲#idiom01#乙#idiom02#", "丙#idiom03#"], "candidates": choices})
    with pytest.raises(DataError, match="no answer for #idiom01#"):
        list(idioms(path))
    write(tmp_path / "dev_answer.json", {"#idiom01#": 0, "#idiom02#": 1, "#idiom03#": 1})
    assert [(record["text"], record["label"]) for record in idioms(path)] == [
        ("甲___乙___", 0),
        ("甲___乙___", 1),
        ("丙___", 1),
    ]


def test_questions_name_their_answer_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / "d-dev.json"
    asked = [{"question": "谁?", "choice": ["我", "你"], "answer": "你"}]
    path.write_text(json.dumps([[["甲", "乙"], asked, "id"]]))
    assert fields(list(questions(path))) == [{"text": "谁? 甲 乙", "choices": ["我", "你"], "label": 1}]
    asked[0]["answer"] = "他"
    path.write_text(json.dumps([[["甲", "乙"], asked, "id"]]))
    with pytest.raises(DataError, match="answer '他' is no choice"):
        list(questions(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"a\.json:1: no JSON"),
        ("[1]", r"a\.json:1: list, expected an object"),
        ('{"label": 1}', "'sentence' is missing"),
    ],
)
def test_damaged_files_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=message):
        list(sentences(tmp_path / "a.json"))


def run(folder: Path, output: Path, *flags: str) -> int:
    words = [
        "evaluate",
        "clue",
        str(folder),
        "--model",
        str(folder / "model"),
        "--output",
        str(output),
        "--device",
        "cpu",
    ]
    return main([*words, "--precision", "fp32", "--length", "16", "--steps", "2", *flags])


def test_each_set_is_trained_scored_and_gone_on_with(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(folder, tmp_path / "out", "--seeds", "1") == 0
    first = json.loads(capsys.readouterr().out)
    assert list(first["sets"]) == ["ocnli_public", "fewclue/bustm"]
    ocnli = first["sets"]["ocnli_public"]
    assert ocnli["runs"]["0"]["test"] == 11  # five of sixteen have no gold label
    assert ocnli["baselines"]["majority"] == pytest.approx(8 / 11)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clue.json"]
    assert run(folder, tmp_path / "out", "--seeds", "2", "--sets", "bustm", "--keep-models") == 0
    captured = capsys.readouterr()
    second = json.loads(captured.out)
    assert second["sets"]["ocnli_public"] == ocnli
    bustm = second["sets"]["fewclue/bustm"]
    assert bustm["runs"]["0"] == first["sets"]["fewclue/bustm"]["runs"]["0"]
    assert list(bustm["runs"]) == ["0", "1"]
    assert "seed 1" in captured.err
    assert "seed 0" not in captured.err
    assert (tmp_path / "out" / "fewclue-bustm-1" / "config.json").is_file()
    assert second["mean"] == pytest.approx((ocnli["mean"] + bustm["mean"]) / 2)
    assert run(folder, tmp_path / "out", "--lr", "1e-3") == 64
    assert "holds results with fields" in capsys.readouterr().err


def test_a_damaged_file_of_results_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clue.json"
    path.write_text('{"suite": "clue"}')
    with pytest.raises(DataError, match="holds no results"):
        SuiteResult.read(path)


def test_the_table_has_mean_spread_and_total() -> None:
    runs = {
        str(n): RunResult({"accuracy": value, "mcc": 0.0}, 0.5, 160, 610) for n, value in enumerate((0.5, 0.6, 0.7))
    }
    result = SuiteResult(
        "clue", "model", {}, {"eprstmt": SetResult("classification", "accuracy", {"majority": 0.5}, runs)}
    )
    rows = result.table().rows
    assert rows[0] == ["eprstmt", "classification", 160, 610, "accuracy", "60.00 ± 10.00", "50.00", 3, 1.5]
    assert rows[1][5] == "60.00"
