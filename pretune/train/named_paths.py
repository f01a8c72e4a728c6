"""Checks that what a recipe names is there, before anything is read."""

from __future__ import annotations

from pathlib import Path

from pretune.baselines.folder import is_tfidf
from pretune.errors import UsageError
from pretune.interop.adapter_files import is_adapter
from pretune.interop.run_folder import check_has_model, check_is_model
from pretune.missing_paths import no_such_folder
from pretune.new_folder import refuse_cut_off
from pretune.train.recipe import Recipe


def check_named_paths(recipe: Recipe) -> None:
    """Refuses a model or a tokenizer that is not there.

    Raises:
        MissingInputError: with the field, what stands near the path, and how a model of a hub is fetched.
        DataError: a writer of the folder was killed.
        UsageError: a TF-IDF classifier.
    """
    if recipe.model.init is not None:
        check_is_model(Path(recipe.model.init), "model.init (--model)")
        if is_adapter(recipe.model.init):
            check_has_model(Path(recipe.model.init))
        if is_tfidf(Path(recipe.model.init)):
            raise UsageError(
                f"model.init (--model) = {recipe.model.init!r} is a TF-IDF classifier, which no training begins with; "
                "name the folder of a language model"
            )
    if recipe.data.tokenizer is not None and not Path(recipe.data.tokenizer).exists():
        refuse_cut_off(Path(recipe.data.tokenizer))
        raise no_such_folder(recipe.data.tokenizer, "tokenizer", "data.tokenizer (--tokenizer)")
