"""Checks that what a recipe names is there, before anything is read."""

from __future__ import annotations

from pathlib import Path

from pretune.missing_paths import no_such_folder
from pretune.new_folder import refuse_cut_off
from pretune.train.recipe import Recipe


def check_named_paths(recipe: Recipe) -> None:
    """Refuses a model or a tokenizer that is not there.

    Raises:
        MissingInputError: with the field, what stands near the path, and how a model of a hub is fetched.
    """
    named = (
        ("model.init (--model)", "model", recipe.model.init),
        ("data.tokenizer (--tokenizer)", "tokenizer", recipe.data.tokenizer),
    )
    for setting, what, path in named:
        if path is not None and not Path(path).exists():
            refuse_cut_off(Path(path))
            raise no_such_folder(path, what, setting)
