"""Makes several recipes of one that asks for several seeds or folds, each of which trains in a folder of its own."""

from __future__ import annotations

import os

from pretune.errors import UsageError
from pretune.train.recipe import Recipe


def asks_for_several(recipe: Recipe) -> bool:
    """Whether a recipe is of several runs."""
    return recipe.seeds is not None or (recipe.data.folds is not None and recipe.data.fold is None)


def check_single(recipe: Recipe) -> None:
    """Refuses a recipe of several runs, where one is to be made.

    Raises:
        UsageError: it asks for several seeds or folds.
    """
    if asks_for_several(recipe):
        name = "seeds" if recipe.seeds is not None else "data.folds"
        raise UsageError(
            f"recipe: field {name!r} asks for several runs; start them with pretune finetune or "
            "pretune.cross_validate, or leave it out"
        )


def expand(recipe: Recipe) -> list[Recipe]:
    """The recipe of each run, in their order: all folds of the first seed, then those of the next.

    Raises:
        UsageError: several processes, each of which is a rank of a single run.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "several seeds or folds run one after another in one process; leave torchrun out, or train one at a time "
            "(--seed, --fold)"
        )
    folds = recipe.data.folds if recipe.data.fold is None else None
    runs = []
    for seed in range(recipe.seed, recipe.seed + (recipe.seeds or 1)):
        for fold in range(1, (folds or 1) + 1):
            parts = [f"seed-{seed}"] if recipe.seeds else []
            parts += [f"fold-{fold}"] if folds else []
            data = recipe.data.model_copy(update={"fold": fold}) if folds else recipe.data
            changes = {"seeds": None, "seed": seed, "data": data, "output": f"{recipe.output}/{'-'.join(parts)}"}
            runs.append(recipe.model_copy(update=changes))
    return runs
