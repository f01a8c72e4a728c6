"""An objective with a teacher, in one file outside of pretune: from the command line to `transformers`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import pretune
from pretune.cli import main
from pretune.errors import DataError, PretuneError
from pretune.interop.huggingface import load_model, save_model
from pretune.models.frozen import FrozenModel
from pretune.runtime.signals import SignalError
from pretune.train.assemble import assemble
from pretune.train.plan import make_plan
from pretune.train.recipe import Recipe
from pretune.train.run import pretrain
from pretune.train.step import TrainModule
from tests.train.trainkit import lines, make_store, recipe, replaced, shas, stop_at, untimed

DISTIL = str(Path(__file__).parent / "distil.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, and a teacher that was trained on it."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("distil")
    make_store(root / "store")
    teacher = recipe(root / "teacher", root / "store", budget={"steps": 30}, optimizer={"lr": 3e-3})
    pretrain(replaced(teacher, objective={"mlm": 1.0}))
    return root


def distilled(folder: Path, run: Path, **over: object) -> Recipe:
    """A recipe with the teacher, of the same size as the model."""
    base = recipe(run, folder / "store", **over)
    return replaced(base, objective={DISTIL: {"teacher": str(folder / "teacher")}})


def test_from_the_command_line_to_transformers(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["--data.stores", f"{folder}/store", "--data.length", "32", "--budget.steps", "6", "--device", "cpu"]
    words += ["--model.size", "tiny", "--checkpoint.every", "3", "--output", str(run), "--precision", "fp32"]
    words += ["--quiet", "--no-allocator"]
    code = main(["pretrain", f"--objective.{DISTIL}.teacher", str(folder / "teacher"), *words])
    assert code == 0
    assert {"loss/distil_text", "loss/distil_teacher"} <= set(lines(run)[-2]) | set(lines(run)[-1])
    model = pretune.load(run, device="cpu", precision="fp32")
    assert len(model.fill("w1 w2 [MASK] w4", top=3)[0]) == 3
    model.export(tmp_path / "exported")
    theirs, info = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "exported", output_loading_info=True)
    assert not info["missing_keys"]
    assert theirs.num_parameters() == sum(p.numel() for p in model.network.parameters())


def test_it_resumes_bit_for_bit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrain(distilled(folder, tmp_path / "whole"))
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(SignalError):
            pretrain(distilled(folder, tmp_path / "parts"))
    pretrain(distilled(folder, tmp_path / "parts"))
    assert shas(tmp_path / "whole", 10) == shas(tmp_path / "parts", 10)
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "parts")


def test_the_teacher_is_in_no_checkpoint_and_not_in_the_model(folder: Path, tmp_path: Path) -> None:
    before = load_file(folder / "teacher" / "model.safetensors")
    pretrain(distilled(folder, tmp_path / "run"))
    checkpoint = load_file(tmp_path / "run" / "checkpoint-10" / "model.safetensors")
    assert checkpoint
    assert not [name for name in checkpoint if "teacher" in name]
    slots = load_file(tmp_path / "run" / "checkpoint-10" / "optimizer.safetensors")
    assert not [name for name in slots if "teacher" in name]
    student = load_file(tmp_path / "run" / "model.safetensors")
    assert student.keys() == before.keys()
    after = load_file(folder / "teacher" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_teacher_stays_in_evaluation_mode_without_gradients(folder: Path, tmp_path: Path) -> None:
    components = assemble(distilled(folder, tmp_path / "run", model={"dropout": 0.5}))
    root = TrainModule(components.model, components.objective).train()
    teacher = components.objective.teacher
    assert isinstance(teacher, FrozenModel)
    assert not any(module.training for module in [teacher, *teacher.model.modules()])
    assert not any(p.requires_grad for p in teacher.model.parameters())
    names = [name for name, _ in root.named_parameters()] + list(root.state_dict())
    assert names
    assert not [name for name in names if "teacher" in name]
    root.to(torch.float64)  # where the objective goes, the teacher goes
    assert {p.dtype for p in teacher.model.parameters()} == {torch.float64}


def test_another_teacher_in_the_middle_of_a_run_is_refused(folder: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    pretrain(replaced(recipe(teacher, folder / "store"), objective={"mlm": 1.0}))
    over = replaced(recipe(tmp_path / "run", folder / "store"), objective={DISTIL: {"teacher": str(teacher)}})
    pretrain(replaced(over, budget={"steps": 5}))
    weights = load_model(teacher, heads=["mlm"])
    with torch.no_grad():
        weights.embedding.word.weight.add_(1.0)
    save_model(weights, teacher)
    with pytest.raises(DataError, match=r"frozen model .*teacher: the data changed since this run began"):
        pretrain(over)


def test_the_plan_counts_the_teacher(folder: Path, tmp_path: Path) -> None:
    memory = make_plan(distilled(folder, tmp_path / "run")).memory
    teacher = load_file(folder / "teacher" / "model.safetensors")
    assert memory["weights of frozen models"] == 4 * sum(tensor.numel() for tensor in teacher.values())


@pytest.mark.parametrize("teacher", ["nowhere", "other"])
def test_a_teacher_that_is_gone_or_of_another_tokenizer_is_refused(folder: Path, tmp_path: Path, teacher: str) -> None:
    other = make_store(tmp_path / "store", sentinels=3)
    run = replaced(recipe(tmp_path / "other", other, budget={"steps": 2}), objective={"mlm": 1.0})
    pretrain(run)
    base = recipe(tmp_path / "run", folder / "store")
    with pytest.raises(PretuneError, match=r"nowhere|its tokenizer .* is not that of the data"):
        pretrain(replaced(base, objective={DISTIL: {"teacher": str(tmp_path / teacher)}}))
    assert not (tmp_path / "run").exists()


def test_the_run_knows_its_teacher(folder: Path, tmp_path: Path) -> None:
    pretrain(distilled(folder, tmp_path / "run", budget={"steps": 2}))
    data = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert len(data[f"frozen model {folder / 'teacher'}"]) == 64
