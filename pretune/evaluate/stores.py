"""Evaluates a model on the folder of a token store, on the objectives that it was trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.evaluate.engine import evaluate_store
from pretune.evaluate.recorded import recorded_objectives
from pretune.find import variants
from pretune.models.model import LanguageModel
from pretune.objectives.mixture import build, mix
from pretune.objectives.objective import Objective
from pretune.text.store.store import TokenStore
from pretune.text.tokenizer.tokenizer import Tokenizer, Vocabulary
from pretune.text.tokenizer.unknown import STORE_REMEDY, describe_unknown

_log = logging.getLogger("pretune")


def evaluate_folder(
    model: LanguageModel,
    tokenizer: Tokenizer,
    folder: Path,
    objective: Mapping[str, float | Mapping[str, Any]] | None = None,
    *,
    model_folder: Path,
    split: str,
    length: int,
    pack: str | None = None,
) -> dict[str, float]:
    """Losses on a split of a token store; see `evaluate_store`.

    Args:
        objective: by default those that the model's files record, with their settings; else what its heads were made
            for, which an encoder-decoder's do not tell.
        model_folder: where the model was read, for messages.

    Raises:
        UsageError: nothing tells the objective, or it is evaluated in its run alone.
        DataError: a store of another tokenizer, a damaged one, or one in which an objective finds nothing to predict.
    """
    store = TokenStore.open(folder)
    store.check_tokenizer(tokenizer)
    store.verify(split)
    if objective:
        built = build(objective, tokenizer.vocabulary)
    else:
        built = own_objective(model, tokenizer.vocabulary, model_folder)
    built.setup(model, Draw(0))
    if built.auxiliary_models():
        raise UsageError("this objective trains a model of its own along, and is evaluated in its run alone")
    built.to(model.device)
    chosen = store.split(split)
    if note := describe_unknown(chosen.manifest.unknown, chosen.token_count, str(chosen.where), "", STORE_REMEDY):
        _log.warning("%s", note)
    return evaluate_store(model, built, chosen, tokenizer, length=length, pack=pack)


def own_objective(model: LanguageModel, vocabulary: Vocabulary, folder: Path) -> Objective:
    """The recorded objectives whose heads the model still has, else those that its heads are named after."""
    recorded = recorded_objectives(model.metadata, folder, vocabulary)
    with torch.device("meta"):
        members = [member for member in recorded if member.heads(model).keys() <= model.heads.keys()]
    return mix(members) if members else build(_named_by_heads(model), vocabulary)


def _named_by_heads(model: LanguageModel) -> dict[str, float]:
    """The objectives that the roles of a model's heads are named after, where its files record none."""
    known = [] if model.has_encoder else variants("objectives")
    weights = {role: 1.0 for role in model.heads if role in known}
    if not weights:
        raise UsageError(
            f"neither the files nor the heads of this {model.family} model tell on which objective to evaluate it; "
            "name one, such as denoise, span or prefix for an encoder-decoder"
        )
    return weights
