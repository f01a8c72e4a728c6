"""Evaluates a model on the folder of a token store, on the objectives that its heads were made for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.evaluate.engine import evaluate_store
from pretune.find import variants
from pretune.models.model import LanguageModel
from pretune.objectives.mixture import build
from pretune.text.store.store import TokenStore
from pretune.text.tokenizer.tokenizer import Tokenizer


def evaluate_folder(
    model: LanguageModel,
    tokenizer: Tokenizer,
    folder: Path,
    objective: Mapping[str, float | Mapping[str, Any]] | None = None,
    *,
    split: str,
    length: int,
    pack: str | None = None,
) -> dict[str, float]:
    """Losses on a split of a token store; see `evaluate_store`.

    Args:
        objective: by default what the model's heads were made for, which an encoder-decoder's do not tell.

    Raises:
        UsageError: the heads do not tell the objective, or it is evaluated in its run alone.
        DataError: a store of another tokenizer, or one in which an objective finds nothing to predict.
    """
    store = TokenStore.open(folder)
    store.check_tokenizer(tokenizer.hash)
    built = build(objective or _objective_of(model), tokenizer.vocabulary)
    built.setup(model, Draw(0))
    if built.auxiliary_models():
        raise UsageError("this objective trains a model of its own along, and is evaluated in its run alone")
    built.to(model.device)
    return evaluate_store(model, built, store.split(split), tokenizer, length=length, pack=pack)


def _objective_of(model: LanguageModel) -> dict[str, float]:
    """The objectives that the roles of a model's heads are named after."""
    known = [] if model.has_encoder else variants("objectives")
    weights = {role: 1.0 for role in model.heads if role in known}
    if not weights:
        raise UsageError(
            f"the heads of this {model.family} model do not tell on which objective to evaluate it; name "
            "one, such as denoise, span or prefix for an encoder-decoder"
        )
    return weights
