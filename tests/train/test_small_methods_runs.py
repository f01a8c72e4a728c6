"""Whole runs of the methods that learn little: they end as the difference to the base, and resume bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from trainkit import recipe, shas, stop_at

from pretune.api import load
from pretune.runtime.signals import SignalError
from pretune.train.recipe import Recipe
from pretune.train.run import pretrain


@pytest.fixture(scope="module")
def base(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(recipe(tmp_path_factory.mktemp("base") / "run", store, budget={"steps": 1}))


METHODS: dict[str, dict[str, Any]] = {
    "bitfit": {},
    "ia3": {},
    "adapter": {"form": "pfeiffer", "dropout": 0.1},
    "adapter-houlsby": {"form": "houlsby", "dropout": 0.1},
    "adapter-parallel": {"form": "parallel", "dropout": 0.1},
}


@pytest.mark.parametrize("name", METHODS)
def test_a_run_is_the_difference_and_a_stopped_one_ends_with_the_same_bits(
    base: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tables = {
        "model": {"init": str(base), "dropout": 0.1},
        "tune": {name.partition("-")[0]: METHODS[name]},
        "budget": {"steps": 4},
        "optimizer": {"lr": 1e-2},
        "checkpoint": {"every": 2, "keep": 3},
    }

    def made(output: Path) -> Recipe:
        return Recipe.model_validate({**recipe(output, store).model_dump(mode="json"), **tables})

    run = pretrain(made(tmp_path / "run"))
    assert not (run / "model.safetensors").exists()
    difference = load_file(run / "delta.safetensors")
    assert sum(tensor.numel() for tensor in difference.values()) < 0.2 * sum(
        tensor.numel() for tensor in load_file(base / "model.safetensors").values()
    )
    assert set(load_file(run / "checkpoint-4/model.safetensors")) == {f"model.{key}" for key in difference}
    answer, before = (load(folder).fill("w1 [MASK] w3") for folder in (run, base))
    assert answer != before
    again = made(tmp_path / "again")
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(SignalError):
            pretrain(again)
    assert shas(pretrain(again), 4) == shas(run, 4)
