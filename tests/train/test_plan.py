"""A plan is what the run then does: the same weights, samples and steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from trainkit import make_store, recipe

from pretune.errors import MissingInputError
from pretune.train.plan import make_plan
from pretune.train.run import pretrain


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return make_store(folder)


def test_plan_agrees_with_the_run(tmp_path: Path, store: Path) -> None:
    run_recipe = recipe(tmp_path / "run", store, budget={"steps": None, "epochs": 2.0})
    plan = make_plan(run_recipe)
    assert not (tmp_path / "run").exists()
    facts = json.loads((pretrain(run_recipe) / "run.json").read_text())
    assert plan.parameters == facts["parameters"]
    assert plan.trained == facts["trained_parameters"]
    assert plan.steps == facts["finished"]["steps"]
    assert plan.memory["weights"] == 4 * plan.parameters


def test_tree_counts_every_weight_once(tmp_path: Path, store: Path) -> None:
    plan = make_plan(recipe(tmp_path / "run", store))
    top = [row.weights for row in plan.modules if row.depth == 1]
    assert sum(top) == plan.modules[0].weights == plan.parameters
    assert any("shared" in row.description for row in plan.modules)  # the vocabulary of the mlm head is the embedding's
    assert any("(2 equal)" in row.name for row in plan.modules)


def test_micro_batches_share_the_activations(tmp_path: Path, store: Path) -> None:
    def activations(accumulate: int, checkpointing: bool = False) -> int:
        model = {"checkpointing": checkpointing}
        return list(
            make_plan(recipe(tmp_path / "run", store, data={"accumulate": accumulate}, model=model)).memory.values()
        )[-1]

    whole = activations(1)
    assert 0.3 * whole < activations(2) < 0.7 * whole
    assert activations(1, checkpointing=True) < 0.7 * whole


def test_activations_grow_with_the_model_and_not_with_its_weights(tmp_path: Path, store: Path) -> None:
    plan = make_plan(recipe(tmp_path / "run", store))
    tokens = 8 * 30
    per_token_and_layer = list(plan.memory.values())[-1] / tokens / 2
    assert 32 * 4 * 10 < per_token_and_layer < 32 * 4 * 60  # between 10 and 60 values of the width, in fp32


def test_render_is_text_that_fits_a_terminal(tmp_path: Path, store: Path) -> None:
    text = make_plan(recipe(tmp_path / "run", store)).render()
    assert max(map(len, text.splitlines())) <= 110
    assert "the run (10 steps): 10 steps" in text


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        make_plan(recipe(tmp_path / "run", tmp_path / "absent"))


def test_a_plan_leaves_torch_as_it_was(tmp_path: Path, store: Path) -> None:
    threads = torch.get_num_threads()
    make_plan(recipe(tmp_path / "run", store))
    assert torch.get_num_threads() == threads
