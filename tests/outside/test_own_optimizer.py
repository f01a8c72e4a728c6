"""An optimizer in one file outside of pretune: trains, resumes bit for bit, with rates of its own for each group."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pretune.errors import UsageError
from pretune.runtime.signals import SignalError
from pretune.train.run import pretrain
from tests.train.trainkit import make_store, recipe, shas, stop_at, untimed

LION = str(Path(__file__).parent / "lion.py")


def test_a_users_optimizer_trains_and_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "store")
    over = {"optimizer": {"name": LION, "lr": 1e-3, "embedding_lr": 2e-4}}
    pretrain(recipe(tmp_path / "whole", store, **over))
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(SignalError):
            pretrain(recipe(tmp_path / "parts", store, **over))
    pretrain(recipe(tmp_path / "parts", store, **over))
    assert shas(tmp_path / "whole", 10) == shas(tmp_path / "parts", 10)
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "parts")
    state = json.loads((tmp_path / "whole" / "checkpoint-10" / "state.json").read_text())
    numbers = state["optimizer_numbers"]
    assert numbers["0/growth"] == pytest.approx(1.01**10)
    assert numbers["0/lr"] / numbers["1/lr"] == pytest.approx(0.2)
    assert numbers["model.embedding.word.weight/steps"] == 10
    assert set(load_file(tmp_path / "whole" / "checkpoint-10" / "optimizer.safetensors")) >= {
        "model.embedding.word.weight/mean"
    }
    assert f'name = "{LION}"' in (tmp_path / "whole" / "recipe.toml").read_text()


def test_another_optimizer_starts_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "store")
    pretrain(recipe(tmp_path / "run", store, budget={"steps": 5}))
    pretrain(recipe(tmp_path / "run", store, optimizer={"name": LION}, track={"progress": "plain"}))
    assert f"warning: {LION} starts anew: the state is adamw's" in "".join(capsys.readouterr())
    slots = load_file(tmp_path / "run" / "checkpoint-10" / "optimizer.safetensors")
    assert {name.rpartition("/")[2] for name in slots} == {"mean"}


def test_a_field_that_the_file_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown field 'optimizer\.embedding_rl'; did you mean 'embedding_lr'\?"):
        recipe(Path("run"), Path("store"), optimizer={"name": LION, "embedding_rl": 1.0})
