"""`finetune --model tfidf`: logistic regression on TF-IDF, from the same recipe and files, in a second."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from pretune.baselines.folder import empty_tokenizer, save_tfidf
from pretune.baselines.tfidf import TfidfClassifier, fit_tfidf
from pretune.config import validate
from pretune.config.field_names import matches
from pretune.errors import CannotCreateError, UsageError
from pretune.evaluate.tfidf import answer_by_tfidf
from pretune.interop.run_names import RECIPE
from pretune.models.metadata import Metadata
from pretune.tasks.classification import Classification, ClassificationExample
from pretune.text.readers.labelled import NamedData
from pretune.train.labelled import read_labelled
from pretune.train.metadata import training_metadata
from pretune.train.recipe import Recipe, plain

_log = logging.getLogger("pretune")
_USED = (
    *("output", "seed", "device", "precision", "threads", "resume", "track", "model.init", "data.train"),
    *("data.validation", "data.columns", "data.holdout", "data.group", "data.folds", "data.fold"),
)
_OF_TASK = ("labels", "calibrate", "temperature", "abstain", "threshold")


def finetune_tfidf(
    recipe: Recipe, train_data: NamedData | None = None, validation_data: NamedData | None = None
) -> Path:
    """Fits a TF-IDF classifier on labelled data, and writes its folder.

    Args:
        train_data: data in memory, instead of the files of `data.train`.
        validation_data: data in memory, instead of the files of `data.validation`.

    Returns:
        The folder.

    Raises:
        UsageError: a recipe that wants more than that.
        PretuneError: as `pretune.train.run.finetune`.
    """
    output = Path(recipe.output)
    _check(recipe, output)
    (labelled,) = read_labelled(recipe, empty_tokenizer(), train_data, validation_data)
    task = labelled.task
    if not isinstance(task, Classification) or type(task).Config is not Classification.Config:  # or says more
        raise UsageError(f"recipe: --model tfidf has the task classification alone, not {task.name}")
    if task.needs_held_out and not labelled.validation:
        raise UsageError(f"recipe: field '{task.needs_held_out}' is decided on held-out rows: use --holdout 0.1")
    if unused := unused_fields(recipe):
        _log.warning("warning: not used by TF-IDF, which has no steps and reads whole texts: %s", ", ".join(unused))
    for note in labelled.notes:
        _log.info("%s", note)
    train = cast("Sequence[ClassificationExample]", labelled.train)
    held_out = cast("Sequence[ClassificationExample]", labelled.validation)
    classifier = fit_examples(train, task.labels)
    if held_out:
        if labelled.held_out is not None:
            _log.info("%s", labelled.held_out.describe())
        answers = answer_by_tfidf(classifier, held_out, task.config.temperature)
        task.config = task.calibrate(answers, held_out)
        scores = task.score(answer_by_tfidf(classifier, held_out, task.config.temperature), held_out)
        _log.info("validation accuracy %.1f%%, macro F1 %.3f", 100 * scores["accuracy"], scores["f1_macro"])
    save_tfidf(classifier, training_metadata(Metadata(), recipe, [task]), output)
    return output


def unused_fields(recipe: Recipe) -> list[str]:
    """The fields of a recipe that were given a value which TF-IDF makes no use of, by their dotted names."""
    name, *_ = recipe.task
    default = plain(validate(Recipe, {"task": [name], "model": {"init": "tfidf"}}, "recipe"))
    used = (*_USED, *(f"task.{name}.{field}" for field in _OF_TASK))
    changed = [field for field, value in plain(recipe).items() if default.get(field) != value]
    return sorted(field for field in changed if not matches(field, used) and field != "task")


def fit_examples(examples: Sequence[ClassificationExample], labels: Sequence[str]) -> TfidfClassifier:
    """Fits a TF-IDF classifier on examples, as pairs where they have second texts.

    Raises:
        DataError: no text has a word.
    """
    texts, targets = [example.text for example in examples], [str(example.label) for example in examples]
    seconds = [example.second or "" for example in examples]
    return fit_tfidf(texts, targets, seconds if any(seconds) else None, order=labels)


def _check(recipe: Recipe, output: Path) -> None:
    """Refuses what TF-IDF has not.

    Raises:
        UsageError: objectives, another tuning method, several runs.
        CannotCreateError: the folder holds a run of a network.
    """
    if len(recipe.task) != 1:
        raise UsageError("recipe: --model tfidf has one task: --task classification")
    if recipe.objective or list(recipe.tune) != ["full"]:
        raise UsageError("recipe: --model tfidf trains no network: leave objective and tune out")
    if recipe.seeds is not None or (recipe.data.folds is not None and recipe.data.fold is None):
        raise UsageError("recipe: --model tfidf makes one run without chance: leave seeds and folds out")
    if (output / RECIPE).exists():
        raise CannotCreateError(f"{output}: holds the run of a network; give another --output")
