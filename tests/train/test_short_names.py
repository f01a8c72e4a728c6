"""The short names of fields on the command line: unique, the same in every verb, suggested for those of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pretune import config
from pretune.errors import UsageError
from pretune.train.recipe import Recipe
from pretune.train.short_names import FOREIGN_NAMES, SHORT_NAMES

NAMES = config.names_of(Recipe)


def fields(*words: str) -> dict[str, Any]:
    return config.flatten(config.parse_overrides(words, NAMES))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model", "bert", "--lr", "1e-3"], {"model.init": "bert", "optimizer.lr": 1e-3}),
        (["--train", "a.csv", "--validation", "b.csv"], {"data.train": ["a.csv"], "data.validation": ["b.csv"]}),
        (["--text", "title", "--label", "kind"], {"data.columns.text": "title", "data.columns.label": "kind"}),
        (["--columns.text", "title"], {"data.columns.text": "title"}),
        (["--epochs", "3", "--batch", "16"], {"budget.epochs": 3, "data.batch": 16}),
        (["--dropout", "0.2"], {"model.dropout": 0.2}),
        (["--no-report", "--verify=false"], {"track.report": False, "data.verify": False}),
        (["--objective", "mlm,nsp", "--stores", "s"], {"objective": "mlm,nsp", "data.stores": ["s"]}),
        # a field that holds text holds every text
        (["--text", "1", "--label", "true", "--output", "2024-01-01"],
         {"data.columns.text": "1", "data.columns.label": "true", "output": "2024-01-01"}),
        (["--text=--label", "--label=--text"], {"data.columns.text": "--label", "data.columns.label": "--text"}),
        # lists
        (["--train", "a", "--train", "b"], {"data.train": ["a", "b"]}),
        (["--train", "a,b", "--train", "c"], {"data.train": ["a", "b", "c"]}),
        (["--train", "a", "b", "--seed", "1"], {"data.train": ["a", "b"], "seed": 1}),
        (["--train", '["a", "b,c"]'], {"data.train": ["a", "b,c"]}),
        (["--stores", "a, b", "--weights", "1,2.5"], {"data.stores": ["a", "b"], "data.weights": [1, 2.5]}),
        (["--columns", "text,label"], {"data.columns.columns": ["text", "label"]}),
        (["--track.to", "tensorboard,wandb", "--to", "mlflow"], {"track.to": ["tensorboard", "wandb", "mlflow"]}),
        (["--betas", "0.9,0.99"], {"optimizer.betas": [0.9, 0.99]}),
        (["--delimiter", " "], {"data.columns.delimiter": " "}),
        (["--task.classification.labels", "1,0"], {"task.classification.labels": ["1", "0"]}),
        # fields of the chosen variants
        (["--task", "classification", "--class-weights", "balanced"],
         {"task.classification.class_weights": "balanced"}),
        (["--objective", "mlm", "--rate", "0.3", "--weight-decay", "0"],
         {"objective.mlm.rate": 0.3, "optimizer.weight_decay": 0}),
        (["--optimizer", "muon", "--momentum", "0.9"], {"optimizer.name": "muon", "optimizer.momentum": 0.9}),
    ],
)  # fmt: skip
def test_a_short_name_sets_its_field(words: list[str], expected: dict[str, Any]) -> None:
    actual = fields(*words)
    assert expected.items() <= actual.items()


def test_a_path_with_a_comma_is_one_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my,data.csv").touch()
    assert fields("--train", "my,data.csv") == {"data.train": ["my,data.csv"]}
    assert fields("--train", "my,*.csv") == {"data.train": ["my,*.csv"]}
    assert fields("--train", "my,other.csv") == {"data.train": ["my", "other.csv"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning-rate", "1"], "--learning-rate: there is no such field; did you mean --lr (optimizer.lr)?"),
        (["--text_column", "x"], "did you mean --text (data.columns.text)?"),
        (["--data", "x.csv"], "--data: there is no such field; did you mean --train (data.train)?"),
        (["--lenght", "8"], "did you mean --length (data.length)?"),
        (["--every", "8"], "use one of --spike.every, --evaluation.every, --checkpoint.every, --track.every"),
        (["--lr", "--output", "o"], "--lr: expected a value; where the value begins with dashes, write --lr=VALUE"),
        (
            ["--text", "--label", "x"],
            "--text: expected a value; where the value begins with dashes",
        ),
        (["--task"], "--task: expected a value"),
        (["--lr", "1", "2"], "'2': expected --field value, such as --lr 3e-4"),
        (["--task", "classification", "--label-smothing", "1"], "did you mean --label-smoothing"),
        (["--task", "ner", "--label-smoothing", "1"], "tasks: no variant 'ner'"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_one(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        fields(*words)
    assert message in str(error.value)


def test_every_short_name_is_of_a_field() -> None:
    assert set(SHORT_NAMES.values()) <= set(NAMES.fields)


@pytest.mark.parametrize("name", FOREIGN_NAMES)
def test_what_other_tools_call_a_field_is_suggested_and_not_taken(name: str) -> None:
    if NAMES.find(name) is not None:  # a section of ours that has this name
        return
    with pytest.raises(UsageError, match=r"did you mean --") as error:
        fields(f"--{name}", "1")
    flag = str(error.value).partition("did you mean --")[2].split()[0].rstrip("?")
    assert NAMES.find(flag.replace("-", "_")) in NAMES.fields


def test_a_short_name_at_the_top_of_a_recipe_is_answered_with_its_field() -> None:
    with pytest.raises(UsageError, match=r"unknown field 'learning_rate'; did you mean 'optimizer\.lr'\?"):
        config.validate(Recipe, {"learning_rate": 1, "budget": {"steps": 1}}, "r.toml")
    with pytest.raises(UsageError, match=r"unknown field 'epochs'; did you mean 'budget\.epochs'\?"):
        config.validate(Recipe, {"epochs": 1, "budget": {"steps": 1}}, "r.toml")


def test_problems_are_said_without_words_of_python() -> None:
    wrong = {
        "data": {"batch": 0, "train": [{"text": "x"}], "length": "long", "columns": {"columns": 1, "quotes": "maybe"}},
        "objective": {"mlm": "abc"},
        "seed": 1.5,
        "model": 3,
        "precision": "fp8",
        "budget": {"steps": 1},
    }
    with pytest.raises(UsageError) as error:
        config.validate(Recipe, wrong, "recipe")
    message = str(error.value)
    assert "field 'data.batch' (--batch) = 0: expected 1 or more" in message
    assert 'field \'data.train[0]\' = {"text": "x"}: expected text' in message
    assert "field 'data.length' (--length) = \"long\": expected a whole number" in message
    assert "field 'data.columns.columns' (--columns) = 1: expected a list" in message
    assert "field 'data.columns.quotes' = \"maybe\": expected true or false" in message
    assert "field 'objective.mlm' = \"abc\": expected a number or a table of fields" in message
    assert "field 'seed' = 1.5: expected a whole number" in message
    assert "field 'model' = 3: expected a table of fields" in message
    assert "field 'precision' = \"fp8\": expected 'auto', 'bf16' or 'fp32'" in message
    assert not {"tuple", "None", "Input", "valid", "dictionary"} & set(message.replace(",", " ").split())
