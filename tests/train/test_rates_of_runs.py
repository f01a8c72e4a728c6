"""Runs whose parts learn at rates of their own: a stopped run goes on with them, and a bad place stops one at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from trainkit import recipe, shas, stop_at

from pretune.errors import UsageError
from pretune.runtime.signals import SignalError
from pretune.train.run import pretrain


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_resumed_run_keeps_each_rate(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    fast = {"name": name, "rates": {"heads": 10, "layers[0:1]": 0.1}, "layer_decay": 0.5}
    over = {"optimizer": fast, "budget": {"steps": 4}}
    whole = shas(pretrain(recipe(tmp_path / "whole", store, **over)), 4)
    again = recipe(tmp_path / "again", store, **over)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(SignalError):
            pretrain(again)
    assert shas(pretrain(again), 4) == whole
    even = recipe(tmp_path / "even", store, **{**over, "optimizer": {"name": name}})
    assert shas(pretrain(even), 4) != whole


def test_a_place_that_there_is_not(store: Path, tmp_path: Path) -> None:
    wrong = recipe(tmp_path / "run", store, optimizer={"rates": {"hads": 10}})
    with pytest.raises(UsageError, match=r"optimizer.rates: nothing that learns is called 'hads'; did you mean 'heads"):
        pretrain(wrong)
