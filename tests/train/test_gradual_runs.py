"""Runs that unfreeze layers one after another: what is closed stays, and a stopped run ends with the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trainkit import SHAPE, recipe, run_script, shas, stop_at

from pretune.runtime.signals import SignalError
from pretune.train.recipe import Recipe
from pretune.train.run import pretrain


@pytest.fixture(scope="module")
def base(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(recipe(tmp_path_factory.mktemp("base") / "run", store, budget={"steps": 1}))


def gradual(output: Path, store: Path, base: Path, **over: Any) -> Recipe:
    tables: dict[str, Any] = {
        "model": {"init": str(base), "dropout": 0.1},
        "tune": {"top": {"layers": 2, "gradual": True}},
        "budget": {"steps": 9},
        "checkpoint": {"every": 3},
    }
    made = recipe(output, store).model_dump(mode="json")
    return Recipe.model_validate({**made, **tables, **over})


def changed(run: Path, step: int, before: dict[str, torch.Tensor]) -> set[int]:
    """Numbers of the layers that a checkpoint has changed."""
    names = {"model.stack.blocks.{}.attention.query.weight": "bert.encoder.layer.{}.attention.self.query.weight"}
    ((ours, theirs),) = names.items()
    after = load_file(run / f"checkpoint-{step}" / "model.safetensors")
    layers = range(SHAPE["num_hidden_layers"])
    return {n for n in layers if not torch.equal(after[ours.format(n)], before[theirs.format(n)])}


def test_layers_open_from_the_last_one_down_and_a_resumed_run_is_the_same(
    base: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = {"checkpoint": {"every": 3, "keep": 9}}
    run = pretrain(gradual(tmp_path / "run", store, base, **keep))
    before = load_file(base / "model.safetensors")
    assert [changed(run, step, before) for step in (3, 6, 9)] == [set(), {1}, {0, 1}]
    for step in (4, 7):
        again = gradual(tmp_path / f"again{step}", store, base, **keep)
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(SignalError):
                pretrain(again)
        assert shas(pretrain(again), 9) == shas(run, 9)


@pytest.mark.slow
def test_two_ranks_open_the_same_layers(base: Path, store: Path, tmp_path: Path) -> None:
    """Layers that wait have no gradient, for which data parallelism would wait forever."""
    over = {"optimizer": {"eps": 1e-3}, "budget": {"steps": 6}, "checkpoint": {"every": 6}}
    two = gradual(tmp_path / "two", store, base, **over).model_dump(mode="json")
    ranks = {"ranks": [{"recipe": two, "folder": str(tmp_path)}] * 2}
    (tmp_path / "jobs.json").write_text(json.dumps(ranks))
    assert run_script("ranks_apart.py", tmp_path / "jobs.json")["ranks"]["codes"] == [0, 0]
    one, other = (
        load_file(run / "checkpoint-6/model.safetensors")
        for run in (pretrain(gradual(tmp_path / "one", store, base, **over)), tmp_path / "two")
    )
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)
    assert changed(tmp_path / "two", 6, load_file(base / "model.safetensors")) == {0, 1}
