"""What a user sees of the package, of models and of what they say, in a shell and in a notebook."""

from __future__ import annotations

import copy
import json
import pydoc
import re
from pathlib import Path

import numpy as np
import pytest
import transformers
from tinymodels import byte_tokenizer, save_bert, save_gpt2, word_tokenizer

import pretune
from pretune.api import IndependentPrediction, Model, Prediction, Predictions, Values
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.evaluate.results import Evaluation
from pretune.table import Table, readable, round_digits
from pretune.tasks.classification import ClassificationExample

LABELS = ["bad", "good", "so-so"]
TEXTS = ["the quick fox", "a hat"]
LONG_NUMBER = re.compile(r"\d\.\d{6,}")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    root = tmp_path_factory.mktemp("models")
    save_bert(root / "fill", word_tokenizer())
    save_bert(root / "labels", word_tokenizer(), transformers.BertForSequenceClassification, LABELS)
    save_gpt2(root / "gpt2", byte_tokenizer())
    return {path.name: pretune.load(path, device="cpu", precision="fp32") for path in root.iterdir()}


def test_the_package_shows_what_it_is_for_and_nothing_else() -> None:
    """`dir(pretune)` began with `Any` and `TYPE_CHECKING`; `help` named subpackages."""
    names = [name for name in dir(pretune) if not name.startswith("_")]
    classes, of_labels = ["Evaluation", "Model", "Prediction"], ["check_labels", "choose_to_label"]
    verbs = ["combine", "compress_model", "cross_validate", "finetune", "index", "join", "judge", "load", "merge"]
    assert names == [*classes, *of_labels, *verbs, "open_index", "pretrain"]
    page = pydoc.render_doc(pretune, renderer=pydoc.plaintext)
    assert "pretune.load(" in page
    assert re.search(r"^    finetune\(.*\n +Fine-tune a model", page, re.MULTILINE)


def test_a_model_says_what_it_is(models: dict[str, Model]) -> None:
    text = repr(models["labels"])
    assert text.startswith("Model(family=bert, parameters=")
    for fact in ("can=classify embed", "labels=bad, good, so-so", "device=cpu", "precision=fp32", "folder=/"):
        assert fact in text
    assert "<td" in models["labels"]._repr_html_()
    assert "labels" not in repr(models["gpt2"])
    assert "can=embed generate" in repr(models["gpt2"])


def test_predictions_print_well(models: dict[str, Model]) -> None:
    """They printed 17 digits of every label."""
    many = models["labels"].predict(TEXTS)
    assert isinstance(many, Predictions)
    assert many == [*many]
    assert many[0].probability == max(many[0].probabilities.values())
    assert [label for label, _ in many[0].top(2)] == sorted(LABELS, key=lambda label: -many[0].probabilities[label])[:2]
    shown = [repr(many), many._repr_html_(), many[0]._repr_html_(), many.table().text(), *map(repr, many)]
    assert not any(LONG_NUMBER.search(text) for text in shown)
    assert re.fullmatch(r"Prediction\(label='[a-z-]+', probability=0\.\d{1,4}\)", repr(many[0]))
    assert [line.split()[0] for line in many.table().text().splitlines()] == ["text", "the", "a"]
    assert "the first 10 of 12 predictions" in models["labels"].predict(["a hat"] * 12)._repr_html_()
    pairs = models["labels"].predict(TEXTS, ["a fox", "<b>"])
    assert "<th" in (page := pairs._repr_html_())
    assert "&lt;b&gt;" in page
    assert "second" in page


def test_other_predictions_print_well() -> None:
    assert repr(Values({"alike": 1 / 3})) == "Values({'alike': 0.3333})"
    assert Values({"alike": 1 / 3}).value == 1 / 3
    several = IndependentPrediction("b", {"a": 0.4, "b": 0.9, "c": 0.5})
    assert several.above(0.5) == ["b", "c"]
    assert repr(several) == "IndependentPrediction(label='b', probability=0.9)"
    many = Prediction("9", {str(n): n / 45 for n in range(15)})
    assert "the 10 most probable of 15 labels" in many._repr_html_()
    assert json.loads(json.dumps(several)) == {"label": "b", "probability": 0.9, "probabilities": several.probabilities}
    assert copy.deepcopy(several).above(0.5) == ["b", "c"]
    assert Predictions([0.5, 1 / 3]).table().text().split() == ["prediction", "0.5", "0.3333"]
    assert Predictions([]).table().text() == ""


def test_an_evaluation_prints_as_tables(models: dict[str, Model], tmp_path: Path) -> None:
    rows = [{"text": text, "label": label} for text in (*TEXTS, "the cat") for label in LABELS]
    scores = models["labels"].evaluate(rows)
    guesses = [prediction.label for prediction in models["labels"].predict([row["text"] for row in rows])]
    assert scores["accuracy"] == sum(g == row["label"] for g, row in zip(guesses, rows, strict=True)) / 9
    assert sum(scores.confusion["good"].values()) == 3
    assert scores.confusion["good"].get("bad", 0) == sum(
        g == "bad" and row["label"] == "good" for g, row in zip(guesses, rows, strict=True)
    )
    wrong = scores.mistakes
    assert len(wrong) == sum(g != row["label"] for g, row in zip(guesses, rows, strict=True))
    assert [m.probability for m in wrong] == sorted((m.probability for m in wrong), reverse=True)
    assert wrong[0].origin.startswith("list[")
    assert re.fullmatch(r"Mistake\('.*': '.*' \(0\.\d+\) instead of '.*', list\[\d\]\)", repr(wrong[0]))
    text = str(scores)
    assert [line.split()[0] for line in text.splitlines() if line.startswith(tuple(LABELS))] == [*LABELS, *LABELS]
    assert "confusion matrix" in text
    assert not LONG_NUMBER.search(text + repr(scores) + scores._repr_html_())
    assert repr(scores).startswith("Evaluation(accuracy=")
    assert "precision/" not in repr(scores)


def test_losses_on_a_store_print_as_a_table() -> None:
    losses = Evaluation({"loss/mlm": 2.0123456789, "perplexity/mlm": 7.48, "predictions/mlm": 12345.0})
    assert [line.split() for line in str(losses).splitlines()[1:]] == [
        *(["loss/mlm", "2.012"], ["perplexity/mlm", "7.48"], ["predictions/mlm", "12,345"]),
    ]
    assert repr(losses) == "Evaluation(loss/mlm=2.012, perplexity/mlm=7.48, predictions/mlm=12,345)"
    assert losses.mistakes == []
    assert losses.confusion == {}


def test_columns_are_named_by_plain_values(models: dict[str, Model], tmp_path: Path) -> None:
    """A dict ended as an AttributeError."""
    path = tmp_path / "test.csv"
    path.write_text("title,topic\nthe quick fox,good\na hat,bad\n")
    columns = {"text": "title", "label": "topic"}
    assert models["labels"].evaluate(path, columns=columns)["count/good"] == 1.0
    assert len(models["labels"].predict([{"title": "a hat"}], columns=columns)) == 1
    with pytest.raises(UsageError, match="columns: unknown field 'txt'"):
        models["labels"].evaluate(path, columns={"txt": "title"})
    with pytest.raises(UsageError, match="field 'text_column' has a new name: use 'text'"):
        models["labels"].evaluate(path, columns={"text_column": "title"})


def test_the_name_of_a_file_is_a_file_in_predict_as_in_evaluate(models: dict[str, Model], tmp_path: Path) -> None:
    """It was predicted as a text."""
    path = tmp_path / "test.csv"
    path.write_text("text,label\nthe quick fox,good\na hat,bad\n")
    assert models["labels"].predict(str(path)) == models["labels"].predict(path) == models["labels"].predict(TEXTS)
    assert models["labels"].predict([str(path)]) != models["labels"].predict(path)
    assert np.allclose(models["labels"].embed(str(path)), models["labels"].embed(TEXTS), atol=1e-6)
    assert models["labels"].embed(path).shape == (2, 32)
    for use in (models["labels"].predict, models["labels"].embed):
        with pytest.raises(MissingInputError, match=r"tests\.csv: no such file; did you mean .*test\.csv"):
            use(str(tmp_path / "tests.csv"))
        use("a text that ends in tests.csv")


def test_an_unknown_precision_is_refused(models: dict[str, Model]) -> None:
    """It was fp32 without a word."""
    with pytest.raises(UsageError, match="precision 'fp64': expected one of auto, bf16, fp32"):
        pretune.load(models["fill"].facts.rows[-1][1], "cpu", "fp64")  # type: ignore[arg-type]


def test_a_confusion_matrix_is_narrow_enough() -> None:
    """Numbers were cut under the long names of their columns."""
    labels = [f"a rather long label {n}" for n in range(12)]
    examples = [ClassificationExample("a", label) for label in labels]
    predictions = [Prediction(label, {label: 1.0}) for label in [*labels[1:], labels[0]]]
    scores = {f"{name}/{label}": 1.0 for name in ("precision", "recall", "f1", "count") for label in labels}
    table = Evaluation(scores, labels, predictions, examples).tables()[-1].text(80)
    assert "…" not in table
    assert table.splitlines()[1].split() == ["label", *map(str, range(1, 13))]
    assert table.splitlines()[3].startswith("2 a rather long label 1")
    many = [*labels, *(f"label {n}" for n in range(12))]
    scores = {f"{name}/{label}": 1.0 for name in ("precision", "recall", "f1", "count") for label in many}
    table = Evaluation(scores, many, predictions, examples).tables()[-1].text()
    assert table.splitlines()[0] == "the 20 most frequent confusions"


def test_one_text_is_taken_as_many_are(models: dict[str, Model]) -> None:
    """`embed` and `score` refused what `predict` and `generate` accepted."""
    vector = models["fill"].embed("a hat")
    assert vector.shape == (32,)
    assert np.allclose(vector, models["fill"].embed(["a hat"])[0])
    score = models["gpt2"].score("a hat")
    assert score == models["gpt2"].score(["a hat"])[0]
    assert not LONG_NUMBER.search(repr(score))
    assert score.log_prob == models["gpt2"].log_prob("a hat")
    assert models["labels"].predict("a hat").label == models["labels"].predict(["a hat"])[0].label
    with pytest.raises(DataError, match="score: text 2 has no value"):
        models["gpt2"].score(["a", None])  # type: ignore[list-item]


def test_guesses_print_well_and_models_are_saved(models: dict[str, Model], tmp_path: Path) -> None:
    ((guess, *_),) = models["fill"].fill("a [MASK]")
    assert re.fullmatch(r"Guess\('.+', 0\.\d{1,6}\)", repr(guess))
    models["labels"].save(tmp_path / "out")
    assert pretune.load(tmp_path / "out", "cpu", "fp32").predict("a hat").label in LABELS


def test_numbers_for_people() -> None:
    values = [0.123456789, 1234567.8, 1.0, 12, 1234567, True, None, "a", 1e-7, 0.99999]
    assert [readable(value) for value in values] == [
        *("0.1235", "1,234,568", "1", "12", "1,234,567", "True", "", "a", "1e-07", "1"),
    ]
    assert round_digits(0.123456789, 4) == 0.1235
    assert [round_digits(value, 4, [0.5, 0.9]) for value in (0.89996, 0.90004, 0.499999, 0.5, 0.3)] == [
        *(0.89996, 0.9, 0.499999, 0.5, 0.3),
    ]
    assert round_digits(0.1 + 0.2, 4, [0.1 + 0.2]) == 0.1 + 0.2
    assert Table(["name", "n"], [["[b]x[/b] :smile:", 1], ["", None]]).text().splitlines()[1].split()[0] == "[b]x[/b]"
