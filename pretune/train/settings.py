"""Every field of a recipe with the value that a run has resolved, for the record: what a recipe leaves open, too."""

from __future__ import annotations

from typing import Any

from pretune.config import flatten
from pretune.tasks.task import Task
from pretune.train.components import TrainComponents
from pretune.train.recipe import Recipe
from pretune.train.starting_point import tuning_method


def resolved_settings(recipe: Recipe, components: TrainComponents) -> dict[str, Any]:
    """Returns every field by its dotted name, in the order of the recipe; None where nothing was asked for.

    Fields of the chosen objectives, task and tuning method are among them, with what the training data decided (labels,
    class weights); a model that is read from a folder has its family.
    """
    tree = recipe.model_dump(mode="json")
    tree["model"]["family"] = components.model.family
    tree["objective"] = {part.name: _fields(part.config) for part in components.members if not isinstance(part, Task)}
    tree["task"] = {part.name: _fields(part.config) for part in components.members if isinstance(part, Task)}
    method = tuning_method(recipe)
    tree["tune"] = {method.name: _fields(method.config)}
    if recipe.model.init is None:
        tree["model"]["size"] = recipe.model.size or "mini"
    return flatten({name: value for name, value in tree.items() if value != {}})


def _fields(config: Any) -> dict[str, Any]:
    tree: dict[str, Any] = config.model_dump(mode="json")
    tree.pop("columns", None)  # they are those of the data
    return tree
