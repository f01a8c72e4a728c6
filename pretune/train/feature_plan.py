"""Decides before the first step whether a run keeps what is computed below the first layer that learns, and says so."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretune.batch import Batch
from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.models.boundary import Boundary, find_boundary
from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.model import LanguageModel
from pretune.objectives.objective import Objective
from pretune.text.samples.views.view import View
from pretune.train.components import TrainComponents
from pretune.train.feature_cache import FOLDER, FeatureCache, WantedRows, sequence_keys
from pretune.train.recipe import Recipe

_SAMPLED = 64  # samples of a view from which its size is estimated, and that are compared between two epochs
_FREE = 0.5  # of the disk at most, where the recipe does not say


def plan_features(
    recipe: Recipe, components: TrainComponents, facts: dict[str, Any], rank: int = 0
) -> tuple[FeatureCache | None, list[str]]:
    """The cache of a run, None where it has none, and what the user should know.

    Args:
        facts: what results depend on besides the model, such as precision and device.

    Raises:
        UsageError: the recipe wants a cache that this run cannot have.
    """
    if recipe.features.cache == "never":
        return None, []
    boundary = find_boundary(components.model)
    reason = _obstacle(recipe, components, boundary)
    if reason is None and boundary is not None:
        training, evaluation = passes(recipe, components) > 1, is_evaluated(recipe, components)
        if training or evaluation:
            model = components.model
            size = bytes_needed(recipe, components, model, boundary, training=training, evaluation=evaluation)
            reason = no_room(recipe, size)
            if reason is None:
                cache = FeatureCache(
                    Path(recipe.output) / FOLDER, facts, rank, training=training, evaluation=evaluation
                )
                return cache, [
                    f"what does not learn ({boundary.describe()}) is computed once a sample and kept in "
                    f"{cache.folder} until the run ends, about {size_text(size)} (features.cache = never: each time)"
                ]
        else:
            reason = "the run reads each sample once"
    if recipe.features.cache == "always":
        raise UsageError(f"features.cache = always: {reason}; set it to auto, or change that")
    is_worth_a_word = boundary is not None and passes(recipe, components) > 1
    return None, [f"what does not learn is computed each time: {reason}"] if is_worth_a_word else []


def _obstacle(recipe: Recipe, components: TrainComponents, boundary: Boundary | None) -> str | None:
    """Why nothing can be kept; None where something can."""
    if components.adapters:
        return "several tasks read one batch"
    if boundary is None:
        return "the embedding or the first layer learns, so that everything above it changes"
    return changing_inputs(recipe, components)


def changing_inputs(recipe: Recipe, components: TrainComponents) -> str | None:
    """Who changes what a model reads of a sample from epoch to epoch; None where nobody does."""
    seed = Draw(recipe.seed)
    for part, views in zip(components.objective.alternatives, components.views, strict=True):
        for store, view in enumerate(views):
            index = np.arange(min(len(view), _SAMPLED))
            first, second = (_keys(part, view, index, store, epoch, seed) for epoch in (0, 1))
            if first != second:
                parts = [each.name for each in part.modules() if isinstance(each, Objective) and each.name]
                return f"{' with '.join(parts)} changes in each epoch what the model reads of a sample"
    return None


def _keys(part: Objective, view: View, index: Any, store: int, epoch: int, seed: Draw) -> list[bytes]:
    batch = part.build_batch(view.read(index, store, epoch, seed), seed, epoch)
    return sequence_keys(batch, WantedRows.of(batch), mode=True)


def passes(recipe: Recipe, components: TrainComponents) -> float:
    """How often the run reads each sample; infinite where its budget is a time."""
    views = [view for views in components.views for view in views]
    samples, tokens = sum(map(len, views)), sum(view.data_stats()["used"] for view in views)
    data, budget = recipe.data, recipe.budget
    step = data.batch or max(1.0, (data.batch_tokens or 1) * samples / max(tokens, 1))
    if budget.minutes is not None:
        return math.inf
    if budget.tokens is not None:
        return budget.tokens / max(tokens, 1)
    return max(budget.epochs or 0.0, max(budget.steps or 0, budget.min_steps) * step / max(samples, 1))


def is_evaluated(recipe: Recipe, components: TrainComponents) -> bool:
    """Whether the run reads validation samples."""
    return recipe.evaluation.samples != 0 and any(components.held_out)


def bytes_needed(
    recipe: Recipe,
    components: TrainComponents,
    model: LanguageModel,
    boundary: Boundary,
    *,
    training: bool,
    evaluation: bool,
) -> float:
    """Bytes that the rows of all samples need, at four a value.

    Args:
        model: whose rows they are.
    """
    seed = Draw(recipe.seed)
    total = 0.0
    for part, *views in zip(components.objective.alternatives, components.views, components.held_out, strict=True):
        for view in _chosen(views, training=training, evaluation=evaluation):
            index = np.linspace(0, len(view) - 1, min(len(view), _SAMPLED)).astype(np.int64)
            batch = part.build_batch(view.read(index, 0, 0, seed), seed)
            total += len(view) / max(len(index), 1) * _rows(model, batch, boundary)
    return total * model.width * 4


def _chosen(views: Sequence[Sequence[View]], *, training: bool, evaluation: bool) -> Iterator[View]:
    for wanted, part in zip((training, evaluation), views, strict=True):
        yield from (view for view in part if wanted and len(view))


def _rows(model: LanguageModel, batch: Batch, boundary: Boundary) -> int:
    """Rows that are kept of a batch."""
    source = 0 if not isinstance(model, EncoderDecoder) else (batch.source or batch).layout.total
    if boundary.place == "body":
        wanted = WantedRows.of(batch) if model.supports_output_rows and not source else None
        return batch.layout.total if wanted is None else len(wanted.index)
    return source if boundary.place == "encoder" else batch.layout.total + source


def no_room(recipe: Recipe, size: float) -> str | None:
    """Why the disk does not hold so many bytes; None where it does."""
    folder = Path(recipe.output).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    limit = recipe.features.gigabytes
    if limit is not None and size > limit * 1e9:
        return f"it would need about {size_text(size)}, and features.gigabytes is {limit:g}"
    if size > (free if limit is not None else _FREE * free):
        return (
            f"it would need about {size_text(size)} in {os.fspath(folder)}, and {size_text(free)} are free; free some "
            "space, give another --output, or set features.gigabytes"
        )
    return None


def size_text(size: float) -> str:
    """A number of bytes, for people."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{max(size / 1e6, 0.1):,.1f} MB"
