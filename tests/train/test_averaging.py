"""The mean of the weights at the last evaluations: which, when it is kept, and that a stopped run gets the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trainkit import recipe, replaced, stop_at

from pretune.api import load
from pretune.interop.run_names import MODEL
from pretune.report.runs import summarize
from pretune.runtime.signals import SignalError
from pretune.train import averaging
from pretune.train.run import pretrain
from pretune.train.validation import Validation

OVER: dict[str, Any] = {
    "budget": {"steps": 10},
    "evaluation": {"every": 2, "samples": 16, "keep": "average", "averaged": 3},
    "checkpoint": {"keep": 1},
}


@pytest.fixture
def mean_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(averaging, "as_good", lambda *values: True)


def finished(run: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((run / "run.json").read_text())["finished"]
    return facts


def saved(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def test_the_model_is_the_mean_of_the_last_evaluations(store: Path, tmp_path: Path, mean_is_better: None) -> None:
    run = tmp_path / "run"
    pretrain(recipe(run, store, **OVER))
    assert finished(run)["averaged_steps"] == [6, 8, 10]
    steps = [load_file(run / f"checkpoint-{step}" / MODEL) for step in (6, 8, 10)]
    model = dict(load(run, "cpu", "fp32").network.named_parameters())
    for name, parameter in model.items():
        if f"model.{name}" in steps[0] and "embedding.word" not in name and "heads" not in name:
            expected = torch.stack([step[f"model.{name}"] for step in steps]).mean(dim=0)
            torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-7)
    assert not torch.equal(steps[0]["model.embedding.norm.weight"], steps[2]["model.embedding.norm.weight"])


def test_a_stopped_run_ends_with_the_same_mean(
    store: Path, tmp_path: Path, mean_is_better: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(recipe(tmp_path / "whole", store, **OVER))
    stopped = recipe(tmp_path / "stopped", store, **OVER)
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        with pytest.raises(SignalError):
            pretrain(stopped)
    pretrain(stopped)
    ours, theirs = saved(tmp_path / "stopped"), saved(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_better_evaluation_is_kept(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(averaging, "as_good", lambda *values: False)
    base = recipe(tmp_path / "mean", store, **OVER)
    pretrain(base)
    pretrain(replaced(base, output=str(tmp_path / "best"), evaluation={**OVER["evaluation"], "keep": "best"}))
    assert "averaged" not in finished(tmp_path / "mean")
    ours, theirs = saved(tmp_path / "mean"), saved(tmp_path / "best")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("keep", ["best", "average"])
def test_of_equal_scores_the_later_weights_are_kept(
    keep: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few examples give the same accuracy at many steps: the first of them was kept, of a model hardly trained."""
    monkeypatch.setattr(Validation, "measure", lambda *values, **options: {"loss": 1.0})
    pretrain(recipe(tmp_path / "run", store, **{**OVER, "evaluation": {**OVER["evaluation"], "keep": keep}}))
    facts = finished(tmp_path / "run")
    assert (facts["best_step"], facts["weights_of_step"]) == (10, 10)
    assert facts.get("averaged_steps") == ([6, 8, 10] if keep == "average" else None)


def test_equal_scores_do_not_extend_the_patience(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Validation, "measure", lambda *values, **options: {"loss": 1.0})
    over = {**OVER, "evaluation": {"every": 1, "samples": 16, "keep": "best", "patience": 2}}
    pretrain(recipe(tmp_path / "run", store, **over))
    facts = finished(tmp_path / "run")
    assert (facts["steps"], facts["best_step"]) == (3, 3)


def test_the_mean_is_compared_with_the_best(store: Path, tmp_path: Path) -> None:
    """A learning rate that jumps about: the mean is nearer to the minimum than any of the weights."""
    over = {
        **OVER,
        "budget": {"steps": 24},
        "optimizer": {"lr": 0.1},
        "schedule": {"warmup": 0.0, "kind": "constant"},
        "evaluation": {**OVER["evaluation"], "averaged": 5},
    }
    pretrain(recipe(tmp_path / "run", store, **over))
    facts = finished(tmp_path / "run")
    assert facts["averaged_steps"] == [16, 18, 20, 22, 24]
    assert facts["averaged"]["loss"] < facts["best"]
    assert summarize(tmp_path / "run").value == pytest.approx(facts["averaged"]["loss"])


def test_without_evaluations_the_last_weights_are_kept_and_it_is_said(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    over = {**OVER, "evaluation": {**OVER["evaluation"], "samples": 0}}
    pretrain(recipe(tmp_path / "run", store, **over))
    assert "averaged" not in finished(tmp_path / "run")
    warnings = json.loads((tmp_path / "run" / "run.json").read_text())["warnings"]
    assert any("no weights are averaged" in warning for warning in warnings)
