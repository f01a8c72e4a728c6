"""A run proves in run.json what its method did; one of which a part did not act fails and keeps its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import pretune
from pretune.cli import main
from pretune.errors import IdleMethodError
from pretune.train.run import pretrain
from tests.train.trainkit import lines, make_store, recipe, replaced

OUTSIDE = Path(__file__).parents[1] / "outside"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, and a base that was pretrained on it."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("proof")
    make_store(root / "store")
    pretrain(recipe(root / "base", root / "store", budget={"steps": 4}))
    return root


def tuned(folder: Path, run: Path, method: Path, **settings: object) -> Path:
    plain = recipe(run, folder / "store", budget={"steps": 4}, optimizer={"lr": 1e-2}, track={"every": 2})
    return pretrain(replaced(plain, model={"init": str(folder / "base")}, tune={str(method): settings}))


def test_the_proof_of_a_run(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "lora.py"
    own.write_text(
        (OUTSIDE / "lora.py").read_text()
        + "\n\ndef ranks(model):\n    return {name: len(update.down) for name, update in updates(model).items()}\n"
    )
    run = tuned(folder, tmp_path / "run", own, places=["attention.query"], rank=2)
    facts = json.loads((run / "run.json").read_text())
    proof = facts["proof"]
    assert proof["method"] == str(own)
    assert proof["learned"] == facts["trained_parameters"]
    assert 0 < proof["share"] < 0.1
    factors = {f"stack.blocks.{n}.attention.query.update.{factor}" for n in (0, 1) for factor in ("up", "down")}
    assert set(proof["changes"]) == factors
    assert all(0 < value < 1 for value in proof["places"].values())
    assert proof["frozen"] > 20
    assert proof["frozen_before"] == proof["frozen_after"]
    assert proof["idle"] == proof["moved"] == []
    assert [row["rank/layer.1"] for row in lines(run) if "rank/layer.1" in row] == [2.0, 2.0]
    assert main(["report", str(run)]) == 0
    assert "What the tuning method changed" in (run / "report.html").read_text()


def test_a_prefix_without_a_gradient_fails_the_run(folder: Path, tmp_path: Path) -> None:
    own, run = tmp_path / "idle.py", tmp_path / "run"
    text = (OUTSIDE / "prefix.py").read_text().partition("def acted")[0]
    text += (
        "class Cut(LearnedPrefix):\n"
        "    def extend(self, key, value, keys):\n"
        "        key, value, keys = super().extend(key, value, keys)\n"
        "        return key.detach(), value.detach(), keys\n"
    )
    own.write_text(text.replace("module.prefix = LearnedPrefix(", "module.prefix = Cut("))
    with pytest.raises(IdleMethodError, match=r"2 parts of the method did not act: stack\.blocks\.0") as failure:
        tuned(folder, run, own)
    assert f"No model was written; the weights of the last step are in {run / 'checkpoint-4'}" in str(failure.value)
    facts = json.loads((run / "run.json").read_text())
    assert any("no gradient reached 4 tensors" in warning for warning in facts["warnings"])
    assert "finished" not in facts
    assert "2 parts of the method did not act" in facts["failed"]["reason"]
    assert len(facts["proof"]["idle"]) == 2
    assert not (run / "delta.safetensors").exists()
    assert (run / "checkpoint-4").is_dir()
    assert pretune.load(run, device="cpu", precision="fp32", step=4).fill("w1 [MASK] w3")
    assert main(["report", str(run)]) == 0
    assert "These parts of the method did not act" in (run / "report.html").read_text()


def test_the_best_weights_may_be_from_before_all_parts_acted(folder: Path, tmp_path: Path) -> None:
    """A method that lets layers learn later has acted, although no evaluation afterwards was the best."""
    own = tmp_path / "late.py"
    own.write_text(
        "from pretune.tune.frozen import Config, apply\n\n\n"
        "def changes(model):\n    return ['embedding.norm.bias']\n\n\n"
        "def after_step(model, fraction):\n    if fraction == 1:\n        model.embedding.norm.bias.data[0] = 1000.0\n"
    )
    plain = recipe(tmp_path / "run", folder / "store", budget={"steps": 4}, evaluation={"every": 2, "keep": "best"})
    pretrain(replaced(plain, model={"init": str(folder / "base")}, tune={str(own): {}}))
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["finished"]["weights_of_step"] == 2
    assert facts["proof"]["idle"] == []
    assert any("nothing that it trains below the heads" in line for line in facts["proof"]["early"])
    assert any("the best weights are from before all parts acted" in warning for warning in facts["warnings"])


def test_a_factor_that_is_still_zero_fails_the_run(folder: Path, tmp_path: Path) -> None:
    """The other factor shrinks by weight decay, so its values alone would not show it: the method says so."""
    own = tmp_path / "stuck.py"
    text = (OUTSIDE / "lora.py").read_text().partition("def acted")[0].replace("self.up)", "self.up.detach())")
    text = text.replace(
        "from pretune.tune.surgery", "from pretune.tune.proof import still_zero\nfrom pretune.tune.surgery"
    )
    text += "def idle(model):\n    return still_zero(model, Update, 'up')\n"
    own.write_text(text)
    with pytest.raises(IdleMethodError, match=r"stack\.blocks\.0\.attention\.query\.update: up is still 0"):
        tuned(folder, tmp_path / "run", own, places=["attention.query"])
    words = ["pretrain", str(tmp_path / "run" / "recipe.toml"), "--quiet", "--no-allocator"]
    assert main(words) == 70
