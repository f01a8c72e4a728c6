"""Fits the tokenizer of a run to its tasks, and the model's vocabulary to that tokenizer."""

from __future__ import annotations

from pathlib import Path

from pretune.errors import DataError, MissingInputError, UsageError
from pretune.field_table import CarriedFiles
from pretune.interop.file_fields import CARRIED_WHOLE
from pretune.models.model import LanguageModel
from pretune.models.vocabulary import extend_vocabulary
from pretune.tasks.shared.own_tokenizer import OwnTokenizer
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.train.labelled import read_task_config
from pretune.train.recipe import Recipe
from pretune.train.several_tasks import tasks_of
from pretune.train.starting_point import tuning_method


def fit_to_tasks(recipe: Recipe, tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with what the tasks of a recipe add to it.

    Raises:
        UsageError: tokens are added, and the tuning method has no room for their rows.
        PretuneError: a task cannot read with this tokenizer.
    """
    size = tokenizer.vocabulary.size
    for task in tasks_of(recipe) if recipe.task else []:
        if issubclass(task.task_class, OwnTokenizer):
            tokenizer = task.task_class.fit_tokenizer(read_task_config(task), tokenizer, _files(recipe))
    if tokenizer.vocabulary.size > size and recipe.model.init is not None:
        method = tuning_method(recipe)
        if method.may_be_surgery:
            raise UsageError(
                f"tune.{method.name}: the task adds {tokenizer.vocabulary.size - size} tokens to the vocabulary, and "
                "what this method learns is kept as a difference to a model without them; let the task spell them as "
                "text (task.chat.special_tokens text), or train without a tuning method"
            )
    return tokenizer


def _files(recipe: Recipe) -> dict[str, bytes]:
    """The files that come with the model, or with the tokenizer of one that is built anew."""
    carried = CarriedFiles()
    for path in (recipe.model.init, recipe.data.tokenizer):
        if path is not None and Path(path).is_dir():
            carried.read_whole(Path(path), CARRIED_WHOLE)
            break
    return carried.whole


def grow_vocabulary(recipe: Recipe, model: LanguageModel, tokenizer: Tokenizer) -> None:
    """Gives a model that was read rows for tokens that tasks added; each begins as the mean of its subwords' rows."""
    if recipe.model.init is None or not recipe.task:
        return
    try:
        known = Tokenizer.load(recipe.model.init).vocabulary.size
    except (DataError, MissingInputError):
        return  # a model without a tokenizer
    added = range(known, tokenizer.vocabulary.size)
    if added and any(issubclass(task.task_class, OwnTokenizer) for task in tasks_of(recipe)):
        origins = {number: tokenizer.encode(tokenizer.token(number)).tolist() for number in added}
        extend_vocabulary(model, tokenizer.vocabulary.size, origins)
