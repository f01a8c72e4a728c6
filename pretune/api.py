"""What `import pretune` hands on: `pretrain(recipe)` and `finetune(recipe)` train and give back a model for use.

`load(path)` gives any finished model in the same form (`pretune/model.py`).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pretune import config as configuration
from pretune.errors import UsageError
from pretune.evaluate.fill import Guess
from pretune.evaluate.likelihood import Score
from pretune.evaluate.results import Evaluation, Mistake
from pretune.generate.options import Continuation
from pretune.model import Model, load
from pretune.report.spread import Spread
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
    "Spread",
    "Values",
    "cross_validate",
    "finetune",
    "load",
    "pretrain",
]

_log = logging.getLogger("pretune")


def pretrain(recipe: Recipe | Path | str | Mapping[str, Any]) -> Model:
    """Pretrain a model, or continue with one, as a recipe says; returns the finished model.

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


def cross_validate(
    recipe: Recipe | Path | str | Mapping[str, Any], train: Data | None = None, validation: Data | None = None
) -> Spread:
    """Make several runs of one recipe, for each of its `seeds` and `data.folds`; returns scores and their spread.

    Each run has a folder of its own in `output`, with its model and report; started again, what has finished stays. The
    scores are in `output`/spread.json too.

    Args:
        recipe: a typed recipe, a TOML file, or plain values; with a task it fine-tunes, else it pretrains.
        train: labelled rows instead of `data.train`, as in `finetune`.
        validation: the same instead of `data.validation`; not with folds, each of which is held out in turn.

    Raises:
        UsageError: the recipe asks for one run alone.
    """
    from pretune.disk import replace_file
    from pretune.report import spread
    from pretune.train.repeats import asks_for_several, expand

    resolved = _recipe(recipe)
    if not asks_for_several(resolved):
        raise UsageError("recipe: one run has no spread; give seeds or folds, such as folds = 5")
    output = Path(resolved.output)
    spread.check_folder(output)
    train, validation = (list(data) if isinstance(data, Iterator) else data for data in (train, validation))
    scores = []
    runs = expand(resolved)
    for number, each in enumerate(runs, 1):
        _log.info("run %d of %d: %s", number, len(runs), each.output)
        if each.task:
            finetune(each, train, validation)
        else:
            pretrain(each)
        scores.append(spread.read_scores(Path(each.output)))
    result = spread.Spread.of(scores)
    replace_file(output / spread.FILE, json.dumps(result.to_json(), ensure_ascii=False, indent=2).encode())
    return result


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
