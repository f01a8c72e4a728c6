"""What `import pretune` hands on: `pretrain(recipe)` and `finetune(recipe)` train and give back a model for use.

`load(path)` gives any finished model in the same form (`pretune/model.py`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pretune import config as configuration
from pretune.evaluate.fill import Guess
from pretune.evaluate.likelihood import Score
from pretune.evaluate.results import Evaluation, Mistake
from pretune.generate.options import Continuation
from pretune.model import Model, load
from pretune.tasks.predictions import IndependentPrediction, Prediction, Predictions, Values
from pretune.text.readers.labelled import Data
from pretune.train.recipe import Recipe

__all__ = [
    "Continuation",
    "Evaluation",
    "Guess",
    "IndependentPrediction",
    "Mistake",
    "Model",
    "Prediction",
    "Predictions",
    "Score",
    "Values",
    "finetune",
    "load",
    "pretrain",
]


def pretrain(recipe: Recipe | Path | str | Mapping[str, Any]) -> Model:
    """Pretrain a model, or go on with one, as a recipe says; returns the finished model.

    Args:
        recipe: a typed recipe, a TOML file, or plain values.
    """
    from pretune.train.run import pretrain as run

    resolved = _recipe(recipe)
    return _present(run(resolved), resolved)


def finetune(
    recipe: Recipe | Path | str | Mapping[str, Any], train: Data | None = None, validation: Data | None = None
) -> Model:
    """Fine-tune a model on a task as a recipe says; returns the finished model.

    Args:
        recipe: a typed recipe, a TOML file, or plain values.
        train: what to train on instead of `data.train`: a list of dicts, a DataFrame, an Arrow table, a
            `datasets.Dataset`, or files; fields have the names that `data.columns` says.
        validation: the same instead of `data.validation`.
    """
    from pretune.train.run import finetune as run

    resolved = _recipe(recipe)
    train, validation = (list(data) if isinstance(data, Iterator) else data for data in (train, validation))
    return _present(run(resolved, train, validation), resolved, train, validation)


def _present(run: Path, recipe: Recipe, train: Data | None = None, validation: Data | None = None) -> Model:
    """The finished model of a run, after its page is written.

    Args:
        train, validation: labelled data in memory, instead of the files of the recipe.
    """
    from pretune.report.finished import report_finished

    notes: list[str] = []
    with _unsaid():
        model = load(run, recipe.device, recipe.precision)
        if recipe.track.report and os.environ.get("RANK", "0") == "0":
            notes = report_finished(run, model, recipe, train, validation)
    for note in notes:
        logging.getLogger("pretune").info("%s", note)
    return model


@contextmanager
def _unsaid() -> Iterator[None]:
    """Keeps out of the log what the run said of all its texts: its precision, what was cut, what is unknown."""
    log = logging.getLogger("pretune")

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    log.addFilter(is_error)
    try:
        yield
    finally:
        log.removeFilter(is_error)


def _recipe(recipe: Recipe | Path | str | Mapping[str, Any]) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return configuration.validate(Recipe, recipe, "recipe")
    return configuration.load(Recipe, Path(recipe))
