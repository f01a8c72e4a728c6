"""A finished model names its objectives, its task with labels, columns and truncation, and a user's files."""

from __future__ import annotations

from pathlib import Path

from test_pinned import task_recipe
from trainkit import recipe, replaced

from pretune.interop.metadata import read_metadata
from pretune.train.run import finetune, pretrain

DISTIL = Path(__file__).parent.parent / "outside" / "distil.py"


def test_a_pretrained_model_names_its_objectives_in_order(store: Path, tmp_path: Path) -> None:
    base = recipe(tmp_path / "run", store, budget={"steps": 1})
    pretrain(replaced(base, objective={"nsp": 0.5, "mlm": {"rate": 0.3}}))
    metadata = read_metadata(tmp_path / "run")
    assert [record.name for record in metadata.objectives] == ["nsp", "mlm"]
    assert metadata.objectives[0].config["weight"] == 0.5
    assert metadata.objectives[1].config["rate"] == 0.3
    assert metadata.task is None
    assert set(metadata.heads) >= {"mlm", "nsp"}


def test_a_users_objective_is_named_by_its_path_and_digest(store: Path, tmp_path: Path) -> None:
    base = recipe(tmp_path / "teacher", store, budget={"steps": 1})
    pretrain(replaced(base, objective={"mlm": 1.0}))
    own = {f"{DISTIL.parent}/../outside/distil.py": {"teacher": str(tmp_path / "teacher")}}
    pretrain(replaced(base, output=str(tmp_path / "run"), objective=own))
    (record,) = read_metadata(tmp_path / "run").objectives
    assert record.name == str(DISTIL.resolve())
    assert record.sha256 is not None
    assert record.config["temperature"] == 2.0


def test_a_fine_tuned_model_names_its_task_and_keeps_its_objectives(store: Path, tmp_path: Path) -> None:
    pretrain(replaced(recipe(tmp_path / "bert", store, budget={"steps": 1}), objective={"mlm": 1.0}))
    (tmp_path / "task").mkdir()
    base = task_recipe(tmp_path / "task", "classification", "bert")
    tree = {**base.model_dump(mode="json"), "task": {"classification": {"truncate": "tail"}}, "budget": {"steps": 1}}
    tree["model"] = {"init": str(tmp_path / "bert")}
    finetune(replaced(base, **tree))
    metadata = read_metadata(tmp_path / "task" / "run")
    assert [record.name for record in metadata.objectives] == ["mlm"]
    assert metadata.task is not None
    assert metadata.task.name == "classification"
    assert metadata.task.config["labels"] == ["0", "1", "2"]
    assert metadata.task.config["truncate"] == "tail"
    assert metadata.task.columns["second"] == "second"
    assert metadata.task.length == 32
