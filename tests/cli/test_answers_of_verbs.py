"""What people get of real files: all their columns, tables on a terminal, numbers that say something, mistakes."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest
import transformers
from tinymodels import byte_tokenizer, save_bert, save_gpt2, word_tokenizer

import pretune
from pretune.cli import main
from pretune.cli.answers import AnswerRow, open_answers
from pretune.errors import DataError

LABELS = ["bad", "good", "so-so"]
TEXTS = ["the cat ate a hat", "a dog", "the quick fox jumps"]
LONG_NUMBER = re.compile(r"\d\.\d{10,}")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    save_bert(root / "fill", word_tokenizer())
    save_bert(root / "predict", word_tokenizer(), transformers.BertForSequenceClassification, LABELS)
    save_gpt2(root / "generate", byte_tokenizer())
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file as people have it: with an id, their own names, and columns that no verb reads."""
    path = tmp_path / "data.csv"
    frame = {"id": ["007", "x5", "9"], "title": TEXTS, "label": ["good", "bad", "good"], "when": ["2024-01-01"] * 3}
    pd.DataFrame(frame).to_csv(path, index=False)
    return path


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    """A standard output that says it is a terminal of 80 columns."""
    for module in ("answers", "evaluating"):
        monkeypatch.setattr(f"pretune.cli.{module}.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    return capsys


def run(*words: object) -> int:
    return main([*map(str, words), "--no-allocator", "--device", "cpu", "--precision", "fp32"])


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "xlsx"])
def test_all_columns_are_kept(suffix: str, models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """`id` and all others were dropped, and a .csv held lines of JSON."""
    out = tmp_path / f"out.{suffix}"
    assert run("predict", models["predict"], data, "--text", "title", "--id", "id", "--output", out) == 0
    readers = {"csv": pd.read_csv, "tsv": pd.read_table, "xlsx": pd.read_excel}
    frame = pd.read_json(out, lines=True, dtype=False) if suffix == "jsonl" else readers[suffix](out, dtype=str)  # type: ignore[operator]
    before = pd.read_csv(data, dtype=str)
    assert list(frame.columns[:4]) == list(before.columns)
    assert frame[before.columns].astype(str).to_numpy().tolist() == before.to_numpy().tolist()
    wanted = pretune.load(models["predict"], "cpu", "fp32").predict(TEXTS)
    assert list(frame["predicted_label"]) == [prediction.label for prediction in wanted]
    assert [float(value) for value in frame["probability"]] == pytest.approx([p.probability for p in wanted], rel=1e-6)
    assert "label" in frame.columns


@pytest.mark.parametrize("verb", ["embed", "fill", "score", "generate"])
def test_the_other_verbs_keep_all_columns_too(verb: str, models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    model = models["fill" if verb in ("embed", "fill") else "generate"]
    frame = pd.read_csv(data, dtype=str).assign(title=lambda f: f["title"] + (" [MASK]" if verb == "fill" else ""))
    frame.to_csv(data, index=False)
    out = tmp_path / "out.csv"
    assert run(verb, model, data, "--text", "title", "--output", out) == 0
    written = pd.read_csv(out, dtype=str)
    assert written[frame.columns].to_numpy().tolist() == frame.to_numpy().tolist()
    assert len(written.columns) > len(frame.columns)


def test_what_was_written_can_be_predicted_again(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """Columns of the answer that the file has already get a name of their own, and nothing is overwritten."""
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    for path, out in ((data, first), (first, second)):
        assert run("predict", models["predict"], path, "--text", "title", "--output", out) == 0
    one, two = (list(csv.DictReader(path.open(encoding="utf-8"))) for path in (first, second))
    assert [{name: row[name] for name in one[0]} for row in two] == one
    assert [row["predicted_predicted_label"] for row in two] == [row["predicted_label"] for row in one]
    assert [row["predicted_probability"] for row in two] == [row["probability"] for row in one]


def test_a_file_without_a_header_row(models: dict[str, Path], tmp_path: Path) -> None:
    path, out = tmp_path / "in.csv", tmp_path / "out.csv"
    path.write_text("".join(f"{n},{text}\n" for n, text in enumerate(TEXTS)))
    assert run("predict", models["predict"], path, "--columns", "n,text", "--output", out) == 0
    assert pd.read_csv(out)[["n", "text"]].to_numpy().tolist() == [[n, text] for n, text in enumerate(TEXTS)]
    path.write_text("".join(f"{text},{label}\n" for text, label in zip(TEXTS, LABELS, strict=True)))
    assert run("evaluate", models["predict"], path, "--columns", "text", "--columns", "label") == 0


@pytest.mark.parametrize(
    ("content", "name", "message", "flags"),
    [
        ("n;text\n1;a hat\n", "in.csv", "set --delimiter ';'", ["--delimiter", ";"]),
        ("1,a hat\n2,a dog\n", "in.csv", "as in --columns text,column2", ["--columns", "n,text"]),
        ("n\ttext\n1\ta hat\n", "in.csv", "set --format tsv", ["--format", "tsv"]),
        ("n,text\n1,a hat\n", "in.dat", "--format", ["--format", "csv"]),
    ],
)
def test_how_a_file_is_read_can_be_said(
    content: str,
    name: str,
    message: str,
    flags: list[str],
    models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The error named a setting of which the verb had no flag."""
    path = tmp_path / name
    path.write_text(content)
    assert run("predict", models["predict"], "--input", path) == 65
    assert message in capsys.readouterr().err
    assert run("predict", models["predict"], path, *flags) == 0
    assert "a hat" in capsys.readouterr().out
    assert run("evaluate", models["predict"], path, "--label", "n", *flags) == 65
    assert "label '1' was not seen in training" in capsys.readouterr().err


def test_one_reader_serves_texts_and_tables(models: dict[str, Path], tmp_path: Path) -> None:
    """The second file's first column was taken for the text of the first."""
    (tmp_path / "a.txt").write_text("a hat\n")
    (tmp_path / "b.csv").write_text("n,text\n1,a dog\n")
    assert (
        run("predict", models["predict"], tmp_path / "a.txt", tmp_path / "b.csv", "--output", tmp_path / "o.jsonl") == 0
    )
    assert [row["text"] for row in lines((tmp_path / "o.jsonl").read_text())] == ["a hat", "a dog"]


def test_a_terminal_shows_a_table(models: dict[str, Path], data: Path, terminal: pytest.CaptureFixture[str]) -> None:
    """It showed JSON with 17 digits of every label."""
    assert run("predict", models["predict"], data, "--text", "title", "--id", "id") == 0
    head, *rows = terminal.readouterr().out.splitlines()
    assert head.split() == ["id", "title", "label", "probability"]
    assert [row.split()[0] for row in rows] == ["007", "x5", "9"]
    assert all(len(row) <= 80 and re.search(r" 0\.\d{1,4} *$", row) for row in rows)
    assert run("predict", models["predict"], "a hat " * 30, "b", "--top", 3) == 0
    head = terminal.readouterr().out.splitlines()[0]
    assert head.split()[1:] == ["label", "probability", "label_2", "probability_2", "label_3", "probability_3"]
    assert run("fill", models["fill"], "the [MASK] of [MASK]", "--top", 2) == 0
    table = terminal.readouterr().out
    assert "mask 1" in table
    assert not LONG_NUMBER.search(table)
    assert run("embed", models["fill"], "a hat") == 0
    assert "... (32 numbers)" in terminal.readouterr().out
    assert run("score", models["generate"], "a hat") == 0
    assert not LONG_NUMBER.search(terminal.readouterr().out)
    assert run("predict", models["predict"], "a hat", "--json") == 0
    assert lines(terminal.readouterr().out)[0]["text"] == "a hat"


def test_a_real_terminal_is_seen(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert run("predict", models["predict"], "a hat", "--quiet") == 0
        assert run("evaluate", models["predict"], models["predict"].parent / "none.csv", "--quiet") == 66
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "a hat" in shown
    assert "probability" in shown
    assert "{" not in shown


def test_a_pipe_gets_lines_of_json(models: dict[str, Path], data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict", models["predict"], data, "--text", "title") == 0
    rows = lines(out := capsys.readouterr().out)
    assert not LONG_NUMBER.search(out)
    assert [row["id"] for row in rows] == ["007", "x5", "9"]
    assert list(rows[0]["probabilities"]) == LABELS
    assert run("fill", models["fill"], "the [MASK]", "--top", 2) == 0
    assert len(lines(capsys.readouterr().out)[0]["masks"][0]) == 2


def test_numbers_have_the_digits_of_the_dtype(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A number of bf16, which has 3 digits, was printed with 17."""
    for precision, most in (("bf16", 4), ("fp32", 7)):
        words = ["predict", str(models["predict"]), "a hat", "--precision", precision, "--device", "cpu", "--quiet"]
        assert main([*words, "--no-allocator"]) == 0
        (row,) = lines(capsys.readouterr().out)
        digits = [len(f"{value!r}".removeprefix("0.").lstrip("0")) for value in row["probabilities"].values()]
        assert most - 2 <= max(digits) <= most
    assert run("embed", models["fill"], "a hat", "--output", tmp_path / "out.jsonl") == 0
    (row,) = lines((tmp_path / "out.jsonl").read_text())
    vector = pretune.load(models["fill"], "cpu", "fp32").embed("a hat")
    assert (vector == pd.Series(row["vector"]).to_numpy("float32")).all()
    assert max(len(repr(value)) for value in row["vector"]) <= 14


def test_the_most_probable_labels(models: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("predict", models["predict"], *TEXTS, "--top", 2) == 0
    rows = lines(capsys.readouterr().out)
    wanted = pretune.load(models["predict"], "cpu", "fp32").predict(TEXTS)
    assert [(row["label"], row["label_2"]) for row in rows] == [tuple(l for l, _ in p.top(2)) for p in wanted]
    assert all(row["probability"] >= row["probability_2"] and "probabilities" not in row for row in rows)
    assert run("predict", models["predict"], "a hat", "--top", 99, "--output", tmp_path / "o.csv") == 0
    assert list(pd.read_csv(tmp_path / "o.csv").columns)[-2:] == ["label_3", "probability_3"]


def test_a_threshold_leaves_labels_out_and_says_how_many(
    models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    probabilities = [p.probability for p in pretune.load(models["predict"], "cpu", "fp32").predict(TEXTS)]
    least, middle, _ = sorted(probabilities)
    assert run("predict", models["predict"], *TEXTS, "--threshold", (least + middle) / 2) == 0
    captured = capsys.readouterr()
    labels = [row["label"] for row in lines(captured.out)]
    assert [label is None for label in labels] == [probability == least for probability in probabilities]
    assert ": 1 of 3" in captured.err
    assert "--threshold" in captured.err


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_printed_agrees_with_what_was_decided(
    models: dict[str, Path], terminal: pytest.CaptureFixture[str], precision: str
) -> None:
    """A probability of 0.89996 was printed as 0.9 beside no label, and the other way round."""
    words = ["predict", str(models["predict"]), TEXTS[0], "--precision", precision, "--device", "cpu", "--no-allocator"]
    probability = pretune.load(models["predict"], "cpu", precision).predict(TEXTS[0])["probability"]
    for threshold in (probability, math.nextafter(probability, 1.0), round(probability, 4), round(probability, 6)):
        terminal.readouterr()
        assert main([*words, "--threshold", repr(threshold), "--quiet", "--json"]) == 0
        (row,) = lines(terminal.readouterr().out)
        assert (row["label"] is None) == (probability < threshold) == (row["probability"] < threshold)
        assert main([*words, "--threshold", repr(threshold), "--quiet"]) == 0
        shown = terminal.readouterr().out.splitlines()[1].removeprefix(TEXTS[0]).split()
        assert (len(shown) == 1) == (float(shown[-1]) < threshold)


def test_labels_that_do_not_exclude_each_other(
    models: dict[str, Path], tmp_path: Path, terminal: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(models["predict"], tmp_path / "several")
    config = tmp_path / "several" / "config.json"
    fields = {"problem_type": "multi_label_classification"}
    config.write_text(json.dumps(json.loads(config.read_text()) | fields))
    probabilities = pretune.load(tmp_path / "several", "cpu", "fp32").predict(TEXTS[0])["probabilities"]
    threshold = sorted(probabilities.values())[1] - 1e-4
    wanted = [label for label, probability in probabilities.items() if probability >= threshold]
    words = ("predict", tmp_path / "several", TEXTS[0], "--threshold", threshold)
    assert run(*words, "--json") == 0
    assert lines(terminal.readouterr().out)[0]["labels"] == wanted
    assert run(*words) == 0
    assert ", ".join(wanted) in terminal.readouterr().out


def test_what_has_no_probabilities_has_no_threshold(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(models["predict"], tmp_path / "values")
    config = tmp_path / "values" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"problem_type": "regression"}))
    out = tmp_path / "out.csv"
    for flags in (["--top", "2"], ["--threshold", "0.5"]):
        assert run("predict", tmp_path / "values", "a hat", *flags, "--output", out) == 64
        assert "this model gives no probabilities of labels; leave it out" in capsys.readouterr().err
        assert not out.exists()
    assert run("predict", tmp_path / "values", "a hat", "--output", out) == 0
    assert list(pd.read_csv(out).columns) == ["text", *LABELS]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--top", "0"], "--top 0: expected at least 1"),
        (["--threshold", "1.5"], "--threshold 1.5: expected a probability, from 0 to 1"),
        (["--threshold", "nan"], "expected a probability, from 0 to 1"),
        (["--output", "out.parquet"], "expected a name that ends in one of .jsonl, .csv, .tsv, .xlsx"),
        (["--output", "out.txt"], "expected a name that ends in one of"),
        (["--id", "n"], "--id n: a column is one of a file; name the file too"),
        (["--columns", "n"], "--columns says how a file is read, and there is none; name the file too"),
        (["--format", "csv"], "--format says how a file is read, and there is none; name the file too"),
        (["--pair", "a", "b"], "not both"),
    ],
)
def test_flags_that_cannot_be_followed(
    flags: list[str], message: str, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("predict", models["predict"], "a text", *flags) == 64
    assert message in capsys.readouterr().err


def test_an_evaluation_on_a_terminal(
    models: dict[str, Path], data: Path, tmp_path: Path, terminal: pytest.CaptureFixture[str]
) -> None:
    """It printed 85 lines of JSON for 20 labels."""
    scores, errors = tmp_path / "scores.json", tmp_path / "errors.csv"
    words = ("evaluate", models["predict"], data, "--text", "title")
    assert run(*words, "--output", scores, "--errors", errors) == 0
    shown = terminal.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if line.startswith(tuple(LABELS))] == [*LABELS, *LABELS]
    assert "confusion matrix" in shown
    written = json.loads(scores.read_text())
    guesses = [p.label for p in pretune.load(models["predict"], "cpu", "fp32").predict(TEXTS)]
    truth = ["good", "bad", "good"]
    assert written["confusion"]["bad"] == {guesses[1]: 1}
    wrong = [(t, g) for t, g in zip(truth, guesses, strict=True) if t != g]
    frame = pd.read_csv(errors)
    assert sorted(zip(frame["label"], frame["prediction"], strict=True)) == sorted(wrong)
    assert list(frame.columns) == ["origin", "text", "label", "prediction", "probability"]
    assert frame["probability"].is_monotonic_decreasing
    assert run(*words, "--json") == 0
    captured = terminal.readouterr()
    assert json.loads(captured.out) == written
    assert f"wrong: {len(wrong)} of 3 examples" in captured.err


def test_an_evaluation_in_a_pipe_is_json(
    models: dict[str, Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", models["predict"], data, "--text", "title") == 0
    out = capsys.readouterr().out
    assert json.loads(out)["count/good"] == 2
    assert not LONG_NUMBER.search(out)


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--output", "s.csv"], 64, "expected a name that ends in .json"),
        (["--errors", "e.parquet"], 64, "expected a name that ends in one of"),
        (["--task", "similarity", "--second", "title", "--errors", "e.csv"], 64, "no labels that are right or wrong"),
    ],
)
def test_files_of_an_evaluation_that_cannot_be_written(
    flags: list[str], code: int, message: str, models: dict[str, Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", models["predict"], data, "--text", "when", *flags) == code
    assert message in capsys.readouterr().err


def test_a_workbook_holds_texts_as_they_are(tmp_path: Path) -> None:
    """A text that begins with "=" became a formula; a long one was cut without a word."""
    with open_answers(tmp_path / "out.xlsx") as writer:
        writer.write(AnswerRow({"text": "=1+1", "n": 7}, {"label": "good", "probability": 0.5}))
    (head, row) = openpyxl.load_workbook(tmp_path / "out.xlsx").active.iter_rows(values_only=True)  # type: ignore[union-attr]
    assert head == ("text", "n", "label", "probability")
    assert row == ("=1+1", 7, "good", 0.5)
    assert openpyxl.load_workbook(tmp_path / "out.xlsx").active["A2"].data_type != "f"  # type: ignore[index]
    for text, message in (("a" * 32_768, "32,767 characters"), ("a\x01", "control character")):
        with pytest.raises(DataError, match=message), open_answers(tmp_path / "no.xlsx") as writer:
            writer.write(AnswerRow({"text": text}, {}))
        assert not (tmp_path / "no.xlsx").exists()


def test_two_columns_of_one_name_are_not_kept_and_said(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "in.csv", tmp_path / "out.csv"
    path.write_text("text,n,n\na hat,1,2\n")
    assert run("predict", models["predict"], path, "--output", out) == 0
    assert "two columns are called 'n', and are not kept; rename one to keep them" in capsys.readouterr().err
    assert "n" not in pd.read_csv(out).columns
