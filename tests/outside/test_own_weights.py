"""What an objective trains beside the model is saved with it, or declared transient; what cannot be kept is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pretune.api import load
from pretune.errors import PretuneError
from pretune.interop.huggingface import load_model
from pretune.train.assemble import assemble
from pretune.train.recipe import Recipe
from pretune.train.run import pretrain
from tests.train.trainkit import make_store, recipe, replaced

SCALED, UNSTABLE = (str(Path(__file__).parent / f"{name}.py") for name in ("scaled", "unstable"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


def scaled(run: Path, store: Path, **over: object) -> Recipe:
    """Ten steps at a high rate."""
    return replaced(recipe(run, store, optimizer={"lr": 1e-2}, **over), objective={SCALED: 1.0})


def test_parameters_of_an_objective_are_saved_and_said(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(scaled(tmp_path / "run", store, track={"progress": "plain"}))
    text = "".join(capsys.readouterr())
    assert "saved with the model: objective.scaled.scale\n" in text
    assert "not saved, because they serve training alone: objective.scaled.bottleneck.weight" in text
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert not [name for name in weights if "bottleneck" in name]
    scale = weights["objective.scaled.scale"]
    assert scale != 1.0
    checkpoint = load_file(tmp_path / "run" / "checkpoint-10" / "model.safetensors")
    assert torch.equal(scale, checkpoint["objective.scale"])
    assert torch.equal(load_model(tmp_path / "run").extra_weights["objective.scaled.scale"], scale)
    early = load(tmp_path / "run", "cpu", "fp32", step=5).network.extra_weights
    assert early.keys() == {"objective.scaled.scale"}
    checkpoint = load_file(tmp_path / "run" / "checkpoint-5" / "model.safetensors")
    assert torch.equal(early["objective.scaled.scale"], checkpoint["objective.scale"])


def test_another_run_goes_on_from_them(store: Path, tmp_path: Path) -> None:
    pretrain(scaled(tmp_path / "run", store))
    scale = load_file(tmp_path / "run" / "model.safetensors")["objective.scaled.scale"]
    onward = replaced(scaled(tmp_path / "on", store), model={"init": str(tmp_path / "run")})
    assert assemble(onward).objective.scale.item() == scale.item()
    fresh = replaced(recipe(tmp_path / "bert", store, budget={"steps": 1}), objective={"mlm": 1.0})
    pretrain(fresh)
    onward = replaced(onward, model={"init": str(tmp_path / "bert")})
    assert assemble(onward).objective.scale.item() == 1.0


def test_what_could_not_be_found_again_is_refused_before_the_first_step(store: Path, tmp_path: Path) -> None:
    run = replaced(recipe(tmp_path / "run", store), objective={UNSTABLE: 1.0})
    with pytest.raises(PretuneError, match=r"what this run trains could not be saved and used: .*wider"):
        pretrain(run)
    assert not (tmp_path / "run").exists()
