"""The context of a run: what the training loop needs besides the model and its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from pretune.runtime.distributed import Distributed
from pretune.runtime.precision import Precision
from pretune.train.checkpoint.store import CheckpointStore
from pretune.train.feature_cache import FeatureCache
from pretune.train.logging.progress import Display
from pretune.train.logging.trackers import Tracker
from pretune.train.recipe import Recipe
from pretune.train.validation import Validation
from pretune.tune.method import TuningMethod


@dataclass
class TrainContext:
    """What the loop needs besides the model and its data.

    Attributes:
        recipe: the resolved recipe.
        checkpoints: checkpoints of the run directory.
        distributed: this rank among the others.
        device, precision: where and in which dtype to compute.
        display: what the user sees.
        validation: what evaluation looks at; None never evaluates.
        trackers: starts them, given the step from which training goes on; called on rank 0.
        entropy: of the training tokens' frequencies, in nats; None for a task.
        token_terms: terms whose loss is that of predicted tokens of the text.
        method: how the model is tuned; None for all of it.
        added: names of the parameters that the method added.
        features: keeps what is computed below the first layer that learns; None computes it each time.
    """

    recipe: Recipe
    checkpoints: CheckpointStore
    distributed: Distributed
    device: torch.device
    precision: Precision
    display: Display
    validation: Validation | None = None
    trackers: Callable[[int], list[Tracker]] = field(default=lambda step: [])
    entropy: float | None = None
    token_terms: tuple[str, ...] = ()
    method: TuningMethod | None = None
    added: frozenset[str] = frozenset()
    features: FeatureCache | None = None
