"""Evaluation during training: the same batches each time, shared among the ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pretune.batch import Batch
from pretune.draw import Draw
from pretune.models.model import LanguageModel
from pretune.objectives.objective import Objective
from pretune.runtime.distributed import Distributed
from pretune.runtime.precision import Precision
from pretune.tasks.task import Task
from pretune.text.readers.labelled import Example
from pretune.text.samples.sampler import divide, sweep
from pretune.text.samples.views.view import View
from pretune.train.checkpoint.state import means
from pretune.train.prefetch import add
from pretune.train.step import TermAccumulator, TrainModule


class Once:
    """A model that does not run again for the batch that it has just seen: loss and answers share one pass."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._seen: tuple[Batch, Any] | None = None

    def __call__(self, batch: Batch, **given: Any) -> Any:
        """What the model gives; with more than a batch, each time anew."""
        if given:
            return self._model(batch, **given)
        if self._seen is None or self._seen[0] is not batch:
            self._seen = batch, self._model(batch)
        return self._seen[1]

    def __getattr__(self, name: str) -> Any:
        """The model's own, such as its heads."""
        return getattr(self._model, name)


@dataclass
class Scoring:
    """A task's scores on labelled examples.

    Attributes:
        examples: in the order in which the batches name them.
        apart: batches of all examples, where those of this rank are a part of them; they are read on rank 0.
    """

    task: Task[Any]
    examples: Sequence[Example]
    apart: Sequence[Batch] | None = None

    def answers(self, model: LanguageModel, device: torch.device, precision: Precision) -> dict[str, float]:
        """The scores on `apart`."""
        found: list[Any] = []
        for batch in self.apart or ():
            with precision.autocast(device):
                found += self.task.decode(model, batch.to(device))
        return self.task.score(found, self.examples)


@dataclass
class Validation:
    """What evaluation looks at.

    Attributes:
        batches: this rank's share.
        metric: by which evaluations are compared: `loss`, or a name that evaluation gives.
        scoring: a task's further metrics.
        asked: the recipe names the metric, so it may be one that does not exist.
    """

    batches: Sequence[Batch] = ()
    metric: str = "loss"
    scoring: Scoring | None = None
    asked: bool = False

    @torch.no_grad()
    def measure(
        self,
        root: TrainModule,
        objective: Objective,
        device: torch.device,
        precision: Precision,
        world: Distributed,
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, float] | None:
        """Losses and scores of a root module as it is, over all ranks.

        Args:
            root: not wrapped for data parallelism.
            stop: asked before every batch; if it says yes, the result is None.
        """
        tally, scoring = TermAccumulator(), self.scoring
        counts: dict[str, int] = {}
        found: dict[str, float]
        answers: list[Any] = []
        model = Once(root.model)
        root.eval()
        try:
            for batch in self.batches:
                if stop():
                    return None
                add(counts, objective.counts(batch))
                with precision.autocast(device):
                    here = batch.to(device)
                    tally.add(objective(model, here))
                    if scoring is not None and scoring.apart is None:
                        answers += scoring.task.decode(model, here)
            found = self._means(tally, counts, world)
            if scoring is not None and scoring.apart is None:
                found |= scoring.task.score(answers, scoring.examples)
            elif scoring is not None:
                found |= world.broadcast(world.on_main(lambda: scoring.answers(root.model, device, precision)) or {})
        finally:
            root.train()
        return found

    @staticmethod
    def _means(tally: TermAccumulator, counts: dict[str, int], world: Distributed) -> dict[str, float]:
        total: dict[str, int] = {}
        weights: dict[str, float] = {}
        for own, weighed in world.all_gather_object([counts, tally.weights]):
            add(total, own)
            weights |= weighed
        result = tally.read(sorted(total), world)
        return means(result.sums, total, result.correct, weights)


def prepare_validation(
    objective: Objective,
    views: Sequence[Sequence[View]],
    draw: Draw,
    batch_tokens: int,
    samples: int | None,
    world: Distributed,
) -> list[Batch]:
    """This rank's batches of the evaluation set.

    Args:
        views: for each part of the objective, the validation view of each store.
        draw: the key; which samples, and what is hidden in them, follow from it.
        batch_tokens: tokens of a batch.
        samples: how many in all, None for every one.
    """
    groups = len(objective.alternatives) * max(len(stores) for stores in views)
    limit = None if samples is None else -(-samples // groups)
    rows = [
        (part, batch)
        for part, stores in enumerate(views)
        for store, view in enumerate(stores)
        for batch in sweep(view, draw, batch_tokens, store, limit)
    ]
    mine = rows[world.rank :: world.size]
    return [
        objective.alternatives[part].build_batch(divide(found, 1)[0], draw) for part, found in mine
    ]  # equal lengths together
