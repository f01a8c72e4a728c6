"""A Chinese review set ended at accuracy 0.56, mcc 0.0 and recall 0 for one of two labels, without a word."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from trainkit import make_tokenizer

from pretune.config import validate
from pretune.train.one_label import only_label
from pretune.train.recipe import Recipe
from pretune.train.run import finetune


def scores(mcc: float, **of_labels: tuple[float, int]) -> dict[str, float]:
    recalls = {f"eval/recall/{name}": recall for name, (recall, _) in of_labels.items()}
    return {"eval/mcc": mcc, **recalls, **{f"eval/count/{name}": float(n) for name, (_, n) in of_labels.items()}}


def test_the_only_label_of_an_evaluation() -> None:
    labels = ["a", "b", "c"]
    assert only_label(scores(0.0, a=(1.0, 3), b=(0.0, 5), c=(0.0, 1)), labels) == "a"
    assert only_label(scores(0.0, a=(1.0, 3), b=(0.0, 0), c=(0.0, 0)), labels) is None, "there was no other"
    assert only_label(scores(0.2, a=(1.0, 3), b=(0.1, 5), c=(0.0, 1)), labels) is None
    assert only_label(scores(0.0, a=(0.5, 3), b=(0.0, 5), c=(0.0, 1)), labels) is None
    assert only_label({}, labels) is None


def test_a_run_names_the_label_that_it_always_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tokenizer(tmp_path / "tokenizer")
    for name in ("train", "validation"):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            rows = [(f"w{n} w{n + 9} {name[0]}", "good" if n % 4 else "bad") for n in range(40)]
            csv.writer(file).writerows([("text", "label"), *rows])
    data = {name: str(tmp_path / f"{name}.csv") for name in ("train", "validation")}
    tree = {
        "task": "classification",
        "model": {"size": "tiny"},
        "data": {**data, "tokenizer": str(tmp_path / "tokenizer")},
        "budget": {"steps": 8},
        "optimizer": {"lr": 1e-3},
        "track": {"report": False, "progress": "plain"},
        "output": str(tmp_path / "run"),
    }
    finetune(validate(Recipe, tree, "recipe"))
    assert "warning: the model answers 'good' to every validation text (mcc 0)" in capsys.readouterr().err
