"""Finds again what a finished run trained on and what it held out, from its recipe."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretune.config import flatten, read_toml
from pretune.errors import DataError, UsageError
from pretune.interop.run_names import FACTS, RECIPE
from pretune.seals import read_facts
from pretune.tasks.task import AnyTask, Example
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.train.labelled import read_labelled
from pretune.train.recipe import Recipe, read_recorded
from pretune.train.several_tasks import tasks_of


def recipe_of_run(folder: Path) -> Recipe | None:
    """The recipe of the run whose directory a folder is; None of any other folder."""
    return read_recorded(folder / RECIPE) if (folder / RECIPE).is_file() and (folder / FACTS).is_file() else None


def validation_of_run(folder: Path, tokenizer: Tokenizer) -> list[tuple[AnyTask, Sequence[Example]]]:
    """The tasks of a run and the examples that each was validated on, of a file of their own or held out.

    Raises:
        UsageError: it is no run of a task, it trained on rows in memory, or validated on none.
        DataError: the rows changed since.
    """
    recipe = recipe_of_run(folder)
    if recipe is None or not recipe.task:
        raise UsageError(f"{folder}: no run of a task, which would say what it was validated on; name a labelled file")
    if not all(task.recipe.data.train for task in tasks_of(recipe)):
        raise UsageError(f"{folder}: this run trained on rows in memory; name a labelled file")
    tasks = [data for data in read_labelled(recipe, tokenizer) if data.validation]
    if not tasks:
        raise UsageError(f"{folder}: this run was validated on no rows; name a labelled file")
    recorded = read_facts(folder / FACTS).get("data", {})
    for data in tasks:
        data.encode()
        changed = [name for name, digest in data.fingerprints().items() if recorded.get(name) != digest]
        if changed:
            raise DataError(f"{folder}: {changed[0]} changed since the run; name a labelled file")
    return [(data.task, data.validation) for data in tasks]


def trained_on_note(folder: Path, file: Path) -> str | None:
    """Warns of scores on a file that trained the model; None of any other."""
    if not (folder / RECIPE).is_file() or not (folder / FACTS).is_file():
        return None
    tree = flatten(read_toml(folder / RECIPE))  # as it is: a warning is no reason to refuse a recipe
    train: Any = tree.get("data.train", ())
    if file.resolve() not in {Path(path).resolve() for path in train}:
        return None
    held_out = read_facts(folder / FACTS).get("held_out")
    if not isinstance(held_out, dict):
        return f"warning: {file} trained this model, so that its scores are too good; evaluate on rows of another file"
    return (
        f"warning: {file} trained this model, but for {held_out.get('rows'):,} rows that were held out, so that its "
        f"scores are too good; to evaluate on those rows alone: pretune evaluate {shlex.quote(str(folder))}"
    )
