"""What a teacher says of every task and objective, a user's own too: the same answers cost nothing, others do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from pretune.batch import Batch
from pretune.cli import main
from pretune.compress.distil import Distilled
from pretune.config import validate
from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.find import find_class, variants
from pretune.interop.huggingface import load_model, save_model
from pretune.loss import Term
from pretune.nn.model_protocol import TrainableModel
from pretune.tasks.task import Task
from pretune.train.assemble import assemble
from pretune.train.components import TrainComponents
from pretune.train.recipe import Recipe
from pretune.train.shapes import pad_to_bucket
from pretune.train.step import TrainModule
from tests.train.test_pinned import task_recipe
from tests.train.trainkit import home_recipe, make_store, recipe, replaced

UNSCORED = {"cert", "similarity", "sparse", "events", "extraction", "nested", "roles"}
"""Tasks without answers that could be softened: of vectors, and of pairs of tokens."""
TOKENIZER = "tokenizer"


def teacher_of(base: Recipe, folder: Path) -> TrainComponents:
    """An untrained model of a run, saved as its teacher."""
    components = assemble(base)
    with torch.no_grad():  # answers that are not all alike
        for head in components.model.heads.values():
            for weight in head.parameters():
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(weight))) * 0.3)
    save_model(components.model, folder, components.tokenizer)
    return components


def student_of(base: Recipe, teacher: Path, student: dict[str, Any], **distil: Any) -> TrainComponents:
    """The components of the same run with a student of the teacher's own layers."""
    tree = base.model_dump(mode="json") | {"model": {"init": str(teacher)}}
    table = {"teacher": str(teacher), "student": student, **distil}
    return assemble(validate(Recipe, {**tree, "distil": table}, "recipe"))


def batches(components: TrainComponents) -> list[Batch]:
    """A batch of each part of the objective, with the dummies that a training step adds."""
    draw = Draw(0)
    return [
        pad_to_bucket(part.build_batch(views[0].read(range(6), 0, 0, draw), draw, 0))  # type: ignore[arg-type]
        for part, views in zip(components.objective.alternatives, components.views, strict=True)
    ]


def terms_of(components: TrainComponents, batch: Batch, *, training: bool = False) -> dict[str, Term]:
    root = TrainModule(components.model, components.objective).train(training)
    for module in root.modules():
        if hasattr(module, "p"):
            module.p = 0.0  # what is dropped is another matter
    return {term.name: term for term in components.objective(cast(TrainableModel, root.model), batch)}


@pytest.mark.parametrize("task", sorted(set(variants("tasks")) - UNSCORED))
def test_every_task_compares_answers(task: str, tmp_path: Path) -> None:
    """A student of all layers answers as its teacher, to rounding; one of a single layer does not."""
    writes = find_class("tasks", task, Task).shares_head  # which no bidirectional encoder can
    base = replaced(task_recipe(tmp_path, task, "gpt2" if writes else "bert"), distil={})
    teacher_of(base, tmp_path / "teacher")
    equal = student_of(base, tmp_path / "teacher", {"keep": [0, 1]})
    (batch,) = batches(equal)
    assert batch.dummies
    same = [term for name, term in terms_of(equal, batch, training=True).items() if name.startswith("soft_")]
    other = student_of(base, tmp_path / "teacher", {"layers": 1})
    differs = [term for name, term in terms_of(other, batch, training=True).items() if name.startswith("soft_")]
    assert len(same) == len(differs) == 1
    assert same[0].sum.item() == pytest.approx(0.0, abs=1e-3)
    least = 1e-6 if writes else 1e-3  # scores of a vocabulary by random weights are nearly equal
    assert differs[0].sum.item() > max(least, 100 * abs(same[0].sum.item()))
    assert differs[0].count == other.objective.counts(batch)[differs[0].name] > 0
    differs[0].sum.backward()
    touched = [p.grad for p in other.model.stack.parameters() if p.grad is not None]
    assert touched
    assert all(bool(gradient.isfinite().all()) for gradient in touched)


@pytest.mark.parametrize("task", sorted(UNSCORED))
def test_tasks_without_scores_say_so_and_learn_from_layers(task: str, tmp_path: Path) -> None:
    base = replaced(task_recipe(tmp_path, task, "bert"), distil={})
    teacher_of(base, tmp_path / "teacher")
    with pytest.raises(UsageError, match=r"distil\.soft.*distil\.hidden, distil\.relations or distil\.vectors"):
        student_of(base, tmp_path / "teacher", {"layers": 1})
    components = student_of(base, tmp_path / "teacher", {"layers": 1}, soft=0.0, hidden=1.0, vectors=1.0)
    terms = terms_of(components, batches(components)[0])
    assert terms["distil_hidden"].sum.item() > 0
    assert terms["distil_vectors"].sum.item() > 0


def test_a_crf_is_refused_with_the_remedy(tmp_path: Path) -> None:
    base = replaced(task_recipe(tmp_path, "tagging", "bert"), task={"tagging": {"decoder": "crf"}}, distil={})
    teacher_of(base, tmp_path / "teacher")
    with pytest.raises(UsageError, match=r"a crf scores whole paths.*task.tagging.decoder = softmax"):
        student_of(base, tmp_path / "teacher", {"layers": 1})
    student_of(base, tmp_path / "teacher", {"layers": 1}, soft=0.0, relations=1.0)


def test_a_regression_is_compared_on_the_scale_of_its_head(tmp_path: Path) -> None:
    """The files of a finished model give values on the scale of labels; in training the head's is another."""
    base = replaced(task_recipe(tmp_path, "regression", "bert"), distil={}, task={"regression": {}})
    components = teacher_of(base, tmp_path / "plain")
    components.tasks[0].finalize(cast(TrainableModel, components.model))
    save_model(components.model, tmp_path / "teacher", components.tokenizer)
    equal = student_of(base, tmp_path / "teacher", {"keep": [0, 1]})
    assert terms_of(equal, batches(equal)[0])["soft_classification"].sum.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("objective", ["mlm", "clm", "nsp", "span", "denoise", "prefix"])
def test_objectives_compare_answers(objective: str, tmp_path: Path) -> None:
    base = home_recipe(objective, tmp_path / "run", make_store(tmp_path / "store", documents=20, sentinels=8))
    teacher_of(base, tmp_path / "teacher")
    equal = student_of(base, tmp_path / "teacher", {"keep": [0, 1]})
    (batch,) = batches(equal)
    terms = terms_of(equal, batch)
    (soft,) = [term for name, term in terms.items() if name.startswith("soft_")]
    assert soft.sum.item() == pytest.approx(0.0, abs=1e-2)
    assert soft.count == equal.objective.counts(batch)[soft.name] > 0
    assert objective == "nsp" or soft.count == terms[objective].count  # some windows make no pair to be judged


@pytest.mark.parametrize("objective", ["rtd", "plm"])
def test_what_runs_passes_of_its_own_is_refused(objective: str, tmp_path: Path) -> None:
    base = home_recipe(objective, tmp_path / "run", make_store(tmp_path / "store", documents=20, sentinels=8))
    teacher_of(base, tmp_path / "teacher")
    with pytest.raises(UsageError, match=rf"{objective} runs passes of its own|distil.student.layers"):
        student_of(base, tmp_path / "teacher", {"layers": 1})


def test_a_users_own_objective_is_distilled(tmp_path: Path) -> None:
    """One of a file outside of pretune, whose head and targets have names of its own."""
    own = tmp_path / "own.py"
    own.write_text(
        "from pretune.objectives.mlm import MaskedLanguageModelling\n"
        "class Own(MaskedLanguageModelling):\n"
        "    name = 'own'\n"
        "    role = 'mine'\n"
        "    def heads(self, model):\n"
        "        return {'mine': model.vocabulary_head()}\n"
    )
    base = replaced(recipe(tmp_path / "run", make_store(tmp_path / "store", documents=20)), objective={str(own): 1.0})
    teacher_of(base, tmp_path / "teacher")
    components = student_of(base, tmp_path / "teacher", {"layers": 1})
    terms = terms_of(components, batches(components)[0])
    assert terms["soft_mine"].count == terms["own"].count > 0
    assert terms["soft_mine"].sum.item() > 0


def test_what_is_kept_of_a_mixture_weighs_as_its_labels(tmp_path: Path) -> None:
    """The terms of a teacher share the weights of those of labels; validation counts labels alone."""
    store = make_store(tmp_path / "store", documents=20)
    base = replaced(recipe(tmp_path / "run", store), objective={"mlm": 1.0, "nsp": {"weight": 0.25}})
    teacher_of(base, tmp_path / "teacher")
    components = student_of(base, tmp_path / "teacher", {"layers": 1}, soft=2.0, labels=0.5, hidden=3.0)
    batch = batches(components)[0]
    weights = {name: term.weight for name, term in terms_of(components, batch, training=True).items()}
    assert weights == {"mlm": 0.5, "nsp": 0.125, "soft_mlm": 2.0, "soft_nsp": 0.5, "distil_hidden": 3.0}
    weights = {name: term.weight for name, term in terms_of(components, batch).items()}
    assert weights == {"mlm": 1.0, "nsp": 0.25, "soft_mlm": 0.0, "soft_nsp": 0.0, "distil_hidden": 0.0}


def test_layers_of_a_window_pattern_and_shared_layers_are_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", documents=20)
    base = replaced(recipe(tmp_path / "run", store), model={"family": "albert", "size": "tiny"}, objective={"mlm": 1.0})
    teacher_of(base, tmp_path / "teacher")
    with pytest.raises(UsageError, match=r"distil.student.layers = 1: .*albert"):
        student_of(base, tmp_path / "teacher", {"layers": 1})


def test_dummies_and_other_sequences_of_a_batch_change_no_term(tmp_path: Path) -> None:
    """A sequence's terms are those that it has alone."""
    base = replaced(task_recipe(tmp_path, "classification", "bert"), distil={})
    teacher_of(base, tmp_path / "teacher")
    every = {"hidden": 1.0, "attention": 1.0, "relations": 1.0, "vectors": 1.0}
    components = student_of(base, tmp_path / "teacher", {"layers": 1}, **every)
    (part,), draw = components.objective.alternatives, Draw(0)
    view = components.views[0][0]
    names = ["soft_classification", "distil_hidden", "distil_attention", "distil_relations", "distil_vectors"]
    alone = [terms_of(components, part.build_batch(view.read([n], 0, 0, draw), draw, 0)) for n in range(3)]  # type: ignore[arg-type]
    together = terms_of(components, pad_to_bucket(part.build_batch(view.read(range(3), 0, 0, draw), draw, 0)))  # type: ignore[arg-type]
    for name in names:
        assert together[name].sum.item() == pytest.approx(sum(t[name].sum.item() for t in alone), rel=1e-4), name
        assert together[name].count == sum(t[name].count for t in alone)


def test_checkpointing_gives_the_same_gradients(tmp_path: Path) -> None:
    """Layers that are computed again in the backward are compared as others are."""
    store = make_store(tmp_path / "store", documents=20)
    base = replaced(recipe(tmp_path / "run", store), objective={"mlm": 1.0})
    teacher_of(base, tmp_path / "teacher")
    gradients = []
    for checkpointing in (False, True):
        components = student_of(base, tmp_path / "teacher", {"layers": 1}, attention=1.0, relations=1.0)
        components.model.stack.checkpointing = checkpointing
        terms = terms_of(components, batches(components)[0], training=True)
        torch.stack([term.sum for term in terms.values()]).sum().backward()
        gradients.append([p.grad for p in components.model.stack.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        assert ours is not None
        assert theirs is not None
        torch.testing.assert_close(ours, theirs)


def test_nothing_stays_behind_in_the_models(tmp_path: Path) -> None:
    """Hooks, recorders and replaced methods go with the forward, even where it fails."""
    store = make_store(tmp_path / "store", documents=20)
    base = replaced(recipe(tmp_path / "run", store), objective={"mlm": 1.0})
    teacher_of(base, tmp_path / "teacher")
    components = student_of(base, tmp_path / "teacher", {"layers": 1}, relations=1.0)
    objective = components.objective
    assert isinstance(objective, Distilled)
    batch = batches(components)[0]
    terms_of(components, batch)
    draw = Draw(0)
    wide = _longer(objective.alternatives[0].build_batch(components.views[0][0].read(range(2), 0, 0, draw), draw, 0))  # type: ignore[arg-type]
    with pytest.raises(DataError):  # longer than the positions
        objective(cast(TrainableModel, components.model), wide)
    for model in (components.model, objective.teacher.model):
        for module in model.modules():
            assert not module._forward_hooks
            assert "loss" not in module.__dict__
            assert getattr(module, "preferred", ()) == ()


def _longer(batch: Batch) -> Batch:
    """The batch as one sequence, longer than the model's positions."""
    from pretune.batch import Layout

    tokens = batch.tokens.repeat(8)
    return replace(batch, tokens=tokens, layout=Layout.of([len(tokens)]), segments=None)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`pretune compress distil` makes a student of the model's own layers, and says so."""
    base = replaced(task_recipe(tmp_path, "classification", "bert"), distil={})
    teacher_of(base, tmp_path / "teacher")
    data = [str(tmp_path / f"{part}.jsonl") for part in ("train", "validation")]
    words = ["compress", "distil", str(tmp_path / "teacher"), "--train", data[0], "--evaluate", data[1]]
    words += ["--length", "32", "--steps", "3", "--device", "cpu", "--precision", "fp32", "--no-allocator"]
    words += ["--second", "second", "--evaluation.speed", "false", "--output"]
    assert main([*words, str(tmp_path / "alone")]) == 64
    assert "the model would be its own teacher" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "small"), "--student.layers", "1", "--hidden", "0.5"]) == 0
    assert len(load_model(tmp_path / "small").stack.order) == 1
    record = json.loads((tmp_path / "small" / "compression.json").read_text())
    assert record["steps"][0]["training"]["distil"]["teacher"] == str(tmp_path / "teacher")
    assert not (tmp_path / "alone").exists()
