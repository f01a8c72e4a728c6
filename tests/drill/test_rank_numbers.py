"""Neither the number of ranks, changed in the middle of a run, nor that of micro-batches changes a result."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from drillkit import HERE
from safetensors.torch import load_file

sys.path.insert(0, str(HERE / "train"))
from apartkit import job, rank_folders, run_apart
from test_pinned import CASES
from trainkit import home_recipe, make_store, recipe, replaced

from pretune.config import merge, validate
from pretune.train.recipe import Recipe
from pretune.train.run import finetune, pretrain

pytestmark = pytest.mark.drill
OVER: dict[str, Any] = {
    "model": {"dropout": 0.1},
    "budget": {"steps": 16},
    "checkpoint": {"every": 4},
    "evaluation": {"samples": 0},
    "data": {"batch": 12},
}
RANKS = (1, 2, 3, 1)


def distance(one: Path, two: Path) -> float:
    """The largest difference of two models' weights."""
    ours, theirs = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    return max((ours[name].double() - theirs[name].double()).abs().max().item() for name in theirs)


def test_one_two_three_ranks_and_one_again_are_one(tmp_path: Path) -> None:
    (place,) = rank_folders(tmp_path, 1)
    jobs: dict[str, list[dict[str, Any]]] = {"whole": [job(place, "whole", **OVER)]}
    for accumulate in (1, 2, 4):
        over = merge(OVER, {"data": {"accumulate": accumulate}})
        for leg, size in enumerate(RANKS):
            ranks = [job(place, f"run{accumulate}", **over) for _ in range(size)]
            if leg < 3:
                ranks[-1] |= {"fault": "kill", "at": 4 * leg + 5}
            jobs[f"{accumulate}, leg {leg}"] = ranks
    actual = run_apart(tmp_path, jobs)
    assert actual["whole"]["codes"] == [0]
    for accumulate in (1, 2, 4):
        for leg in range(3):
            assert actual[f"{accumulate}, leg {leg}"]["codes"][-1] == -9, actual[f"{accumulate}, leg {leg}"]
        assert actual[f"{accumulate}, leg 3"]["codes"] == [0], actual[f"{accumulate}, leg 3"]
        assert distance(place / f"run{accumulate}", place / "whole") <= 1e-6


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_change_no_result_with_dropout(case: str, tmp_path: Path) -> None:
    from test_pinned import FAMILIES, task_recipe

    torch.set_num_threads(1)
    store = make_store(tmp_path / "store", sentinels=8)
    runs = []
    for accumulate in (1, 3):
        runs.append(tmp_path / str(accumulate))
        if case.startswith("task-"):
            base = task_recipe(tmp_path, *case.split("-")[1:])
        elif case.startswith("family-"):
            family = case.removeprefix("family-")
            objective = {"xlnet": "plm"}.get(family, FAMILIES[family])
            model = {"family": family, "size": "tiny"}
            base = replaced(recipe(runs[-1], store), model=model, objective={objective: 1.0})
        else:
            base = home_recipe(case, runs[-1], store)
        over = {"output": str(runs[-1]), "model": {"dropout": 0.1}, "data": {"accumulate": accumulate}}
        tree = merge(merge(base.model_dump(), over), {"budget": {"steps": 6}, "optimizer": {"lr": 2e-3, "eps": 1e-3}})
        (finetune if base.task else pretrain)(validate(Recipe, tree, "recipe"))
    assert distance(*runs) <= 1e-6
