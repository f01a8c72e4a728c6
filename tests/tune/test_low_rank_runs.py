"""Whole runs with LoRA and AdaLoRA: objectives and tasks, dropout by key, a run that goes on, ranks in the record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pretune
from pretune.errors import IdleMethodError
from pretune.runtime.signals import SignalError
from pretune.train.open_fields import default_rate
from pretune.train.recipe import Recipe
from pretune.train.run import pretrain
from tests.train.trainkit import clm_recipe, make_store, recipe, stop_at

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"places": ["attention", "vocabulary"], "rank": 2, "dropout": 0.1},
    "adalora": {"places": ["attention", "vocabulary"], "init_rank": 4, "target_rank": 2, "dropout": 0.1},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("low_rank")
    make_store(root / "store")
    pretrain(recipe(root / "bert", root / "store", budget={"steps": 2}))
    pretrain(clm_recipe(root / "gpt2", root / "store", budget={"steps": 2}))
    return root


def run(base: Path, output: Path, method: str, family: str = "bert", **over: Any) -> Recipe:
    make = recipe if family == "bert" else clm_recipe
    tables = {"tune": {method: METHODS[method]}, "optimizer": {"lr": 1e-2}, **over}
    tree = make(output, base / "store", **tables).model_dump(mode="json")
    tree["tune"] = tables["tune"]
    tree["model"] = {"init": str(base / family), "dropout": 0.1}
    return Recipe.model_validate(tree)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("method", METHODS)
def test_continued_pretraining(base: Path, tmp_path: Path, method: str, family: str) -> None:
    output = pretrain(run(base, tmp_path / "run", method, family))
    proof = json.loads((output / "run.json").read_text())["proof"]
    assert proof["idle"] == []
    assert proof["frozen_before"] == proof["frozen_after"]
    tensors = load_file(output / "delta.safetensors")
    assert not [name for name in tensors if "sensitivity" in name or ".base." in name]
    if method == "adalora":
        ranks = proof["ranks"]
        assert sum(ranks.values()) == 2 * len(ranks)
    model = pretune.load(output)
    if family == "gpt2":
        assert model.generate("w1 w2 w3", max_new_tokens=3)
    else:
        assert model.fill("w1 [MASK] w3")


def test_micro_batches_change_no_decision(base: Path, tmp_path: Path) -> None:
    whole = pretrain(run(base, tmp_path / "whole", "lora", data={"accumulate": 1}, budget={"steps": 3}))
    parts = pretrain(run(base, tmp_path / "parts", "lora", data={"accumulate": 2}, budget={"steps": 3}))
    one, two = (load_file(output / "delta.safetensors") for output in (whole, parts))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-4, rtol=1e-3)


def test_ranks_are_logged_while_they_fall(base: Path, tmp_path: Path) -> None:
    output = pretrain(run(base, tmp_path / "run", "adalora"))
    logged = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [entry for entry in logged if any("rank" in name for name in entry)], logged[0]


def test_a_run_that_ends_before_its_budget_fails(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pretune.tune import adalora

    monkeypatch.setattr(adalora, "allocate", lambda bricks, budget: None)
    with pytest.raises(IdleMethodError, match="rank_allocator: the ranks are"):
        pretrain(run(base, tmp_path / "run", "adalora"))


def test_each_method_has_a_rate_of_its_own() -> None:
    assert [default_rate({"tune": name}) for name in ("full", "frozen", "lora", "nothing")] == [None, 1e-2, 5e-4, None]
    tree = {"task": "classification", "tune": "lora", "model": {"init": "base"}, "budget": {"steps": 1}}
    assert Recipe.model_validate(tree).optimizer.lr == 5e-4
    assert Recipe.model_validate({**tree, "optimizer": {"lr": 1e-3}}).optimizer.lr == 1e-3


def test_micro_batches_change_no_decision_in_a_head(base: Path, tmp_path: Path) -> None:
    tune = {"lora": {"places": ["head", "layers[:1].attention"], "rank": 2, "dropout": 0.5}}
    runs = [
        run(base, tmp_path / str(parts), "lora", tune=tune, data={"accumulate": parts}, budget={"steps": 3})
        for parts in (1, 4)
    ]
    one, two = (load_file(pretrain(each) / "delta.safetensors") for each in runs)
    assert any(name.startswith("heads.") for name in one)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-4, rtol=1e-3)


def test_a_stopped_run_that_drops_in_a_head_ends_with_the_same_bits(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune = {"lora": {"places": ["head", "layers[:1].attention"], "rank": 2, "dropout": 0.5}}
    often = {"checkpoint": {"every": 2}, "budget": {"steps": 4}, "data": {"accumulate": 2}}
    whole, parts = (run(base, tmp_path / name, "lora", tune=tune, **often) for name in ("whole", "parts"))
    pretrain(whole)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(SignalError):
            pretrain(parts)
    assert not (tmp_path / "parts" / "delta.safetensors").exists()
    pretrain(parts)
    one, two = (load_file(tmp_path / name / "delta.safetensors") for name in ("whole", "parts"))
    assert one.keys() == two.keys()
    assert any(name.startswith("heads.") for name in one)
    assert all(torch.equal(one[name], two[name]) for name in one)
