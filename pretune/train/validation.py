"""Evaluation during training: the same batches each time, shared among the ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pretune.batch import Batch
from pretune.draw import Draw
from pretune.objectives.objective import Objective
from pretune.text.sampler import sweep
from pretune.text.views import View
from pretune.train.feed import add
from pretune.train.parallel import World
from pretune.train.precision import Precision
from pretune.train.state import means
from pretune.train.step import Tally

Scorer = Callable[[], dict[str, float]]


@dataclass
class Validation:
    """What evaluation looks at.

    Attributes:
        batches: this rank's share.
        metric: by which evaluations are compared: `loss`, or a name that evaluation gives.
        score: further metrics of the model as it is, such as a task's; called on rank 0.
        asked: the recipe names the metric, so it may be one that does not exist.
    """

    batches: Sequence[Batch] = ()
    metric: str = "loss"
    score: Scorer | None = None
    asked: bool = False

    @torch.no_grad()
    def measure(
        self,
        root: nn.Module,
        objective: Objective,
        device: torch.device,
        precision: Precision,
        world: World,
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, float] | None:
        """Losses and scores of a root module as it is, over all ranks.

        Args:
            root: not wrapped for data parallelism.
            stop: asked before every batch; if it says yes, the result is None.
        """
        tally = Tally()
        counts: dict[str, int] = {}
        root.eval()
        try:
            for batch in self.batches:
                if stop():
                    return None
                add(counts, objective.counts(batch))
                with precision.autocast(device):
                    tally.add(root(batch.to(device)))
            found = self._means(tally, counts, world)
            if self.score is not None:
                found |= world.share(world.once(self.score) or {})
        finally:
            root.train()
        return found

    @staticmethod
    def _means(tally: Tally, counts: dict[str, int], world: World) -> dict[str, float]:
        total: dict[str, int] = {}
        weights: dict[str, float] = {}
        for own, weighed in world.gather([counts, tally.weights]):
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
    world: World,
) -> list[Batch]:
    """This rank's batches of the evaluation set.

    Args:
        views: for each part of the objective, the validation view of each store.
        draw: the key; which samples, and what is hidden in them, follow from it.
        batch_tokens: tokens of a batch.
        samples: how many in all, None for every one.
    """
    groups = len(objective.parts) * max(len(stores) for stores in views)
    limit = None if samples is None else -(-samples // groups)
    rows = [
        (part, batch)
        for part, stores in enumerate(views)
        for store, view in enumerate(stores)
        for batch in sweep(view, draw, batch_tokens, store, limit)
    ]
    return [objective.parts[part].make(found, draw) for part, found in rows[world.rank :: world.size]]
