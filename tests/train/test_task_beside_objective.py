"""A task that rides with an objective: one recipe and model, a view for each; both are evaluated and named."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_pinned import task_recipe
from trainkit import lines, make_store, replaced, shas, stop_at, untimed

from pretune.errors import UsageError
from pretune.interop.metadata import read_metadata
from pretune.runtime.signals import SignalError
from pretune.train.plan import make_plan
from pretune.train.recipe import Recipe
from pretune.train.run import finetune, pretrain


def both(folder: Path, run: Path, **over: object) -> Recipe:
    """Twenty steps of classification with masked language modelling beside it."""
    base = task_recipe(folder, "classification", "bert")
    tree = base.model_dump(mode="json", exclude_none=True)
    tree["data"] |= {"stores": [str(folder / "store")]}
    tree |= {"objective": {"mlm": 0.5}, "output": str(run), "budget": {"steps": 20}, "checkpoint": {"every": 10}}
    return replaced(base, **tree | over)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and labelled files with one tokenizer."""
    root = tmp_path_factory.mktemp("both")
    make_store(root / "store")
    return root


def test_both_are_trained_evaluated_and_named(folder: Path, tmp_path: Path) -> None:
    finetune(both(folder, tmp_path / "run"))
    rows = lines(tmp_path / "run")
    assert {"loss/mlm", "loss/classification"} <= {name for row in rows for name in row}
    evaluation = next(row for row in rows if "eval/loss" in row)
    assert {"eval/loss/mlm", "eval/loss/classification", "eval/accuracy/mlm", "eval/accuracy", "eval/mcc"} <= set(
        evaluation
    )
    metadata = read_metadata(tmp_path / "run")
    assert [record.name for record in metadata.objectives] == ["mlm"]
    assert metadata.task is not None
    assert metadata.task.name == "classification"
    assert {"mlm", "classification"} <= set(metadata.heads)
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert {"classifier.weight", "cls.predictions.bias"} <= set(weights)


def test_it_resumes_bit_for_bit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finetune(both(folder, tmp_path / "whole"))
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        with pytest.raises(SignalError):
            finetune(both(folder, tmp_path / "parts"))
    finetune(both(folder, tmp_path / "parts"))
    assert shas(tmp_path / "whole", 20) == shas(tmp_path / "parts", 20)
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "parts")


def test_the_plan_tells_of_both(folder: Path, tmp_path: Path) -> None:
    plan = make_plan(both(folder, tmp_path / "run"))
    assert [line.partition(":")[0] for line in plan.data] == ["stream", "examples"]


def test_pretrain_says_where_a_task_belongs(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has a task"):
        pretrain(both(folder, tmp_path / "run"))
