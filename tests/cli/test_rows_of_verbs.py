"""One answer a row, in order, by every verb that reads a file: columns, ids, blank lines, tables."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import transformers
from tinymodels import byte_tokenizer, save_bert, save_gpt2, word_tokenizer

import pretune
from pretune.cli import main
from pretune.errors import UsageError
from pretune.text.store.prepare import PrepareConfig, prepare

TEXTS = ["the cat ate a hat", "a dog", "the quick fox jumps"]
SECONDS = ["the fox", "the lazy dog and the cat", "a hat"]
VERBS = ("predict", "fill", "generate", "score", "embed")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each verb."""
    root = tmp_path_factory.mktemp("models")
    save_bert(root / "fill", word_tokenizer())
    save_bert(root / "predict", word_tokenizer(), transformers.BertForSequenceClassification, ["bad", "good"])
    save_gpt2(root / "generate", byte_tokenizer())
    return {**{path.name: path for path in root.iterdir()}, "score": root / "generate", "embed": root / "fill"}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on pairs of the columns s1 and s2."""
    root = tmp_path_factory.mktemp("pairs")
    word_tokenizer().save(root / "tokenizer")
    rows = [(a, b, "same" if a == b else "other") for a in ("cat", "dog", "hat") for b in ("cat", "dog", "hat")]
    (root / "pairs.tsv").write_text("s1\ts2\ty\n" + "".join(f"{a}\t{b}\t{y}\n" for a, b, y in rows))
    columns = {"text": "s1", "second": "s2", "label": "y"}
    data = {"train": [str(root / "pairs.tsv")], "columns": columns, "tokenizer": str(root / "tokenizer"), "length": 16}
    recipe = {"task": "classification", "data": data, "model": {"size": "tiny"}, "budget": {"steps": 2}}
    pretune.finetune({**recipe, "output": str(root / "run"), "track": {"progress": "quiet", "report": False}})
    return root


def run(*words: object) -> int:
    return main([*map(str, words), "--no-allocator", "--device", "cpu"])


def texts_of(verb: str) -> list[str]:
    return [f"{text} [MASK]" for text in TEXTS] if verb == "fill" else TEXTS


def answers(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_an_answer_a_row_with_its_id(
    verb: str, suffix: str, models: dict[str, Path], tmp_path: Path
) -> None:
    frame = pd.DataFrame({"number": [7, 5, 9], "body": texts_of(verb), "other": "x"})
    path = tmp_path / f"in.{suffix}"
    if suffix == "parquet":
        frame.to_parquet(path)
    elif suffix == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, sep="\t" if suffix == "tsv" else ",", index=False)
    out = tmp_path / "out.jsonl"
    assert run(verb, models[verb], path, "--output", out, "--text", "body", "--id", "number") == 0
    rows = answers(out)
    assert [str(row["number"]) for row in rows] == ["7", "5", "9"]
    assert [row["body"] for row in rows] == texts_of(verb)
    assert [row["other"] for row in rows] == ["x"] * 3


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("in.txt", "{0}\n\n{1}\n", 2),
        ("in.txt", "{0}\n{1}\n\n", 3),
        ("in.csv", "text\n{0}\n\n{1}\n", 3),
        ("in.csv", 'text,n\n{0},1\n"",2\n{1},3\n', 3),
        ("in.jsonl", '{{"text": "{0}"}}\n\n{{"text": "{1}"}}\n', 2),
        ("in.jsonl", '{{"text": "{0}"}}\n{{"text": null}}\n', 2),
    ],
)
def test_a_blank_row_is_refused_with_its_line(
    verb: str,
    name: str,
    content: str,
    line: int,
    models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Blank lines were left out: two answers for three lines."""
    path = tmp_path / name
    path.write_text(content.format(*texts_of(verb)), encoding="utf-8")
    assert run(verb, models[verb], "--input", path, "--output", tmp_path / "out.jsonl") == 65
    assert f"{path}:{line}: " in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_a_name_that_ends_in_csv_gives_a_table(verb: str, models: dict[str, Path], tmp_path: Path) -> None:
    path, out = tmp_path / "in.txt", tmp_path / "out.csv"
    path.write_text("\n".join(texts_of(verb)) + "\n", encoding="utf-8")
    assert run(verb, models[verb], "--input", path, "--output", out) == 0
    frame = pd.read_csv(out)
    assert frame["text"].tolist() == texts_of(verb)
    expected = {
        "predict": ["label", "probability", "probabilities.bad", "probabilities.good"],
        "fill": ["masks"],
        "generate": ["generated_text", "reason"],
        "score": ["log_prob", "bits_per_byte", "tokens"],
        "embed": ["vector.0", "vector.31"],
    }
    assert set(expected[verb]) <= set(frame.columns)
    assert run(verb, models[verb], "--input", path, "--output", tmp_path / "out.parquet") == 64


def test_a_trained_model_of_pairs_reads_both(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.csv"
    assert run("predict", pairs / "run", "--input", pairs / "pairs.tsv", "--output", out) == 0
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    model = pretune.load(pairs / "run", device="cpu")
    expected = model.predict([row["s1"] for row in rows], [row["s2"] for row in rows])
    assert [row["label"] for row in rows] == [prediction.label for prediction in expected]
    assert run("predict", pairs / "run", "--pair", "cat", "dog") == 0
    assert json.loads(capsys.readouterr().out)["second"] == "dog"


def test_the_next_command_of_a_model_of_pairs_gives_both_texts(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It gave a single text, which the model refuses."""
    names = ("--data.columns.text", "s1", "--data.columns.second", "s2", "--data.columns.label")
    data = ("--data.train", pairs / "pairs.tsv", "--data.tokenizer", pairs / "tokenizer", *names, "y")
    flags = ("--model.size", "tiny", "--data.length", 16, "--budget.steps", 1, "--track.report", "false")
    assert run("finetune", "--task", "classification", *data, *flags, "--output", tmp_path / "run") == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("  pretune predict")]
    assert run(*shlex.split(line)[1:]) == 0


@pytest.mark.parametrize("words", [["cat"], ["cat", "--pair", "dog", "hat"]])
def test_a_model_of_pairs_refuses_single_texts(
    words: list[str], pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first text alone was read."""
    assert run("predict", pairs / "run", *words) == 64
    assert "--pair" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"trained on pairs \('s1' and 's2'\); give the second texts too"):
        pretune.load(pairs / "run", device="cpu").predict(["cat"])


def test_a_foreign_model_of_pairs_is_told_the_columns(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "in.csv", tmp_path / "out.jsonl"
    pd.DataFrame({"text": TEXTS, "premise": SECONDS, "label": "bad"}).to_csv(path, index=False)
    assert run("predict", models["predict"], "--input", path, "--output", out) == 0
    assert "reading 'text'; not reading 'premise', 'label'; --second names" in capsys.readouterr().err
    assert run("evaluate", models["predict"], path) == 0
    assert "reading 'text', 'label'; not reading 'premise'; --second names" in capsys.readouterr().err
    out.unlink()
    assert run("predict", models["predict"], "--input", path, "--output", out, "--second", "premise") == 0
    probabilities = [row["probabilities"]["bad"] for row in answers(out)]
    theirs = pretune.load(models["predict"], device="cpu").predict(TEXTS, SECONDS)
    assert probabilities == pytest.approx([prediction.probabilities["bad"] for prediction in theirs], rel=1e-3)


def test_second_texts_are_embedded_and_filled(models: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    pd.DataFrame({"text": texts_of("fill"), "s2": SECONDS}).to_csv(path, index=False)
    assert run("embed", models["embed"], "--input", path, "--second", "s2", "--output", tmp_path / "v.npy") == 0
    vectors = np.load(tmp_path / "v.npy")
    model = pretune.load(models["embed"], device="cpu")
    assert vectors.shape == (3, 2, 32)
    assert np.allclose(vectors[:, 1], model.embed(SECONDS), atol=1e-5)
    out = tmp_path / "out.jsonl"
    exact = ["--precision", "fp32"]  # the best tokens of random weights are close
    assert run("fill", models["fill"], "--input", path, "--second", "s2", "--output", out, *exact) == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(models["fill"])
    theirs = transformers.BertForMaskedLM.from_pretrained(models["fill"]).eval()
    inputs = tokenizer(texts_of("fill")[0], SECONDS[0], return_tensors="pt")
    logits = theirs(**inputs).logits[0, inputs["input_ids"][0] == tokenizer.mask_token_id]
    best = logits.detach().softmax(dim=1).max(dim=1)
    ((guess,),) = pretune.load(models["fill"], "cpu", "fp32").fill(texts_of("fill")[0], 1, second=SECONDS[0])
    assert guess.probability == pytest.approx(float(best.values[0]), abs=1e-5)
    assert answers(out)[0]["masks"][0][0]["token"] == guess.token


@pytest.mark.parametrize("column", ["s2", "y", "label"])
def test_any_column_of_training_is_embedded(column: str, pairs: Path, models: dict[str, Path], tmp_path: Path) -> None:
    """The answers of a model of pairs, or a column named label, ended as a bug of pretune."""
    path, out = tmp_path / "in.csv", tmp_path / "out.jsonl"
    pd.DataFrame({"s1": "x", column: SECONDS}).to_csv(path, index=False)
    for model in (pairs / "run", models["embed"]):
        assert run("embed", model, "--input", path, "--text", column, "--output", out) == 0
        assert [row[column] for row in answers(out)] == SECONDS
        out.unlink()


def test_a_column_that_would_be_read_as_two_is_refused(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("text,label\nthe cat,good\n")
    for words in (["predict", models["predict"], "--input"], ["evaluate", models["predict"]]):
        assert run(*words, path, "--second", "text") == 64
        assert "columns: text and second are both 'text'" in capsys.readouterr().err


def test_flags_of_other_data_are_refused_by_evaluate(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A labelled file was scored as if no objective had been asked for, a store as if no task had."""
    path = tmp_path / "in.csv"
    path.write_text("text,label\nthe cat,good\n")
    for flags in (["--objective", "mlm"], ["--split", "train"], ["--length", 8], ["--pack", "stream"]):
        assert run("evaluate", models["predict"], path, *flags) == 64
        assert f"on labelled data makes no use of {flags[0][2:]};" in capsys.readouterr().err
    (tmp_path / "in.txt").write_text("the cat ate.\n\na dog.\n")
    prepare(tmp_path / "in.txt", word_tokenizer(), tmp_path / "store", PrepareConfig(processes=1))
    for flags in (["--text", "s1"], ["--truncate", "head"], ["--task", "classification"]):
        assert run("evaluate", models["fill"], tmp_path / "store", *flags) == 64
        assert "on a token store makes no use of " in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--text", "--id"])
def test_columns_without_a_file_are_refused(
    flag: str, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("embed", models["embed"], "a text", flag, "x") == 64
    assert "name the file too" in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb",
    ["predict", "fill", "embed", "score"],
)
def test_a_second_column_without_a_file_is_refused(
    verb: str, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The text was said to have no such field, or the model to have been trained on pairs."""
    assert run(verb, models[verb], "the [MASK]", "--second", "x") == 64
    assert "--second x: a column is one of a file; name the file too" in capsys.readouterr().err


def test_second_texts_beside_a_file_are_refused(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were dropped without a word."""
    (tmp_path / "in.csv").write_text("text\nthe cat\n")
    assert run("predict", models["predict"], "--input", tmp_path / "in.csv", "--pair", "a hat", "b") == 64
    assert "--pair would not be read beside the file" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_only_flags_of_the_verb_are_named_for_columns_that_are_not_read(
    verb: str, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`generate` and `score` have no --second, and named it."""
    path = tmp_path / "in.csv"
    pd.DataFrame({"text": texts_of(verb), "other": "x"}).to_csv(path, index=False)
    assert run(verb, models[verb], "--input", path, "--output", tmp_path / "out.jsonl") == 0
    message = capsys.readouterr().err
    assert "reading 'text'; not reading 'other'" in message
    assert ("--second" in message) == (verb not in ("generate", "score"))


def test_the_case_of_a_suffix_does_not_matter(models: dict[str, Path], tmp_path: Path) -> None:
    """`out.CSV` held lines of JSON, where a file of that name is read as a table."""
    assert run("predict", models["predict"], "the cat", "--output", tmp_path / "out.CSV") == 0
    assert pd.read_csv(tmp_path / "out.CSV")["text"].tolist() == ["the cat"]
    assert run("embed", models["embed"], "the cat", "--output", tmp_path / "out.NPY") == 0
    assert np.load(tmp_path / "out.NPY").shape == (1, 32)
    assert run("predict", models["predict"], "the cat", "--output", tmp_path / "out.PARQUET") == 64


@pytest.mark.parametrize("verb", VERBS)
def test_a_file_among_the_texts_is_read(
    verb: str, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its name was answered as a text, then refused."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(f"text,n\nthe {name} [MASK],{name}\n")
    files, out = (tmp_path / "a.csv", tmp_path / "b.csv"), tmp_path / "out.jsonl"
    assert run(verb, models[verb], *files, "--output", out) == 0
    assert [row["n"] for row in answers(out)] == ["a", "b"]
    for words in ((files[0], "the [MASK]"), ("the [MASK]", "--input", files[0])):
        assert run(verb, models[verb], *words) == 64
        assert "not both" in capsys.readouterr().err
    assert run(verb, models[verb], tmp_path / "c.csv") == 66
    assert "c.csv: no such file; did you mean" in capsys.readouterr().err
    assert run(verb, models[verb], "a [MASK] in no.csv", "--output", tmp_path / "o.jsonl") == 0


def test_augmented_rows_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "in.csv", tmp_path / "out.csv"
    pd.DataFrame({"text": TEXTS, "label": ["a", "b", "a"]}).to_csv(path, index=False)
    assert run("augment", path, "--methods", "swap", "--output", out) == 0
    frame = pd.read_csv(out)
    assert frame["text"].tolist()[::2] == TEXTS or frame[frame["method"].isna()]["text"].tolist() == TEXTS
    assert set(frame["method"].dropna()) == {"swap"}
    frame = pd.DataFrame({"n": [7, 5, 9], "body": TEXTS, "label": ["a", "b", "a"]})
    frame.to_csv(path, index=False)
    named = ("--text", "body", "--id", "n", "--output", tmp_path / "ids.csv")
    assert run("augment", path, "--methods", "swap", *named) == 0
    written = pd.read_csv(tmp_path / "ids.csv")
    assert (
        written[written["method"].isna()][["id", "body"]].to_numpy().tolist()
        == frame[["n", "body"]].to_numpy().tolist()
    )
    assert set(written["id"]) == {7, 5, 9}
    path.write_text("text\nthe cat ate\n\nthe dog\n")
    assert run("augment", path, "--methods", "swap", "--output", tmp_path / "o.csv") == 65
    assert f"{path}:3: " in capsys.readouterr().err
