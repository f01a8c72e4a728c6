"""Whole runs that train a prefix or a prompt: what they leave on disk, reading it again, and going on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pretune
from pretune.batch import ragged
from pretune.cli import main
from pretune.errors import IdleMethodError, UsageError
from pretune.interop.tuned_model import load_delta
from pretune.runtime.signals import SignalError
from pretune.train.run import pretrain
from tests.train.trainkit import make_store, recipe, replaced, shas, stop_at

SETTINGS: dict[str, dict[str, Any]] = {
    "prefix": {"length": 5},
    "prefix by a network": {"length": 5, "projection": True, "projection_width": 8},
    "prompt": {"length": 5},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, and a base that was pretrained on it."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("virtual")
    make_store(root / "store")
    pretrain(recipe(root / "base", root / "store", budget={"steps": 2}, optimizer={"lr": 3e-3}))
    return root


def run(folder: Path, to: Path, case: str, steps: int = 6, **settings: Any) -> Path:
    plain = recipe(to, folder / "store", budget={"steps": steps}, optimizer={"lr": 1e-2, "weight_decay": 0.1})
    method = {case.split()[0]: {**SETTINGS[case], **settings}}
    return pretrain(replaced(plain, model={"init": str(folder / "base"), "dropout": 0.1}, tune=method))


@pytest.mark.parametrize("case", SETTINGS)
def test_what_a_run_leaves(
    folder: Path,
    tmp_path: Path,
    case: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The rows alone, which the base reads again; killed and resumed, the same bit for bit."""
    whole = run(folder, tmp_path / "whole", case)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(SignalError):
            run(folder, tmp_path / "parts", case)
    parts = run(folder, tmp_path / "parts", case)
    assert shas(whole, 6) == shas(parts, 6)
    one, other = (load_file(path / "delta.safetensors") for path in (whole, parts))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    learned = {name for name in one if not name.startswith("heads.")}
    layers = [f"stack.blocks.{n}.attention.prefix" for n in (0, 1)]
    bricks = {f"{layer}.{part}" for layer in layers for part in ("key", "value")}
    assert learned == ({"embedding.prompt.vectors"} if case == "prompt" else bricks)
    assert main(["merge", str(whole), "--output", str(tmp_path / "merged")])
    assert "cannot be merged into a plain model" in capsys.readouterr().err
    model = load_delta(whole).eval()
    batch = ragged([[2, 7, 8, 9, 3], [2, 11, 3]])
    assert len(model(batch).last_hidden_state) == 8
    facts = json.loads((whole / "run.json").read_text())
    assert facts["proof"]["idle"] == []
    assert facts["proof"]["frozen_before"] == facts["proof"]["frozen_after"]
    assert len(pretune.load(whole, device="cpu", precision="fp32").fill("w1 [MASK] w3")[0]) > 1


@pytest.mark.parametrize("case", ["prefix", "prompt"])
def test_a_length_that_leaves_no_room(folder: Path, tmp_path: Path, case: str) -> None:
    with pytest.raises(UsageError, match=rf"'data.length' = \d+: tune.{case} leaves 4 of the model's positions"):
        run(folder, tmp_path / "run", case, length=60)


def test_a_prefix_that_nothing_reads_fails_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weight decay moves it, and still it did not act."""
    monkeypatch.setattr("pretune.nn.prefix.PrefixBrick.note_gradient", lambda brick: None)
    with pytest.raises(IdleMethodError, match=r"stack.blocks.0.attention.prefix: had no gradient"):
        run(folder, tmp_path / "run", "prefix")
