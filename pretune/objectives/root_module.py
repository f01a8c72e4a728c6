"""The root module of evaluation, on which that of training builds: a model and an objective, called as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import nn

from pretune.batch import Batch
from pretune.loss import Term
from pretune.nn.model_protocol import TrainableModel
from pretune.objectives.objective import Objective


class RootModule(nn.Module):
    """Model and objective as one module: evaluation calls its forward alone.

    Args:
        model: called by the objective.
        objective: gives the terms of a batch; may have parameters of its own.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    @property
    def called(self) -> TrainableModel:
        """The model as the objective calls it."""
        return cast(TrainableModel, self.model)

    def forward(
        self, batch: Batch, decode: Callable[[TrainableModel], None] | None = None, *, needs_loss: bool = True
    ) -> list[Term]:
        """The terms of a batch.

        Args:
            decode: called with the model, which gives for this batch the output that the terms came from: a task's
                answers need no second pass.
            needs_loss: False where answers alone are wanted; there are no terms then.
        """
        if decode is None:
            terms: list[Term] = self.objective(self.called, batch)
            return terms
        model = cast(TrainableModel, SharedForward(self.called))
        terms = self.objective(model, batch) if needs_loss else []
        decode(self.objective.model_for(model, batch))
        return terms


def unwrapped(model: TrainableModel) -> TrainableModel:
    """The model itself, for who calls it in another way than the batch of a loss."""
    return cast(TrainableModel, model.plain) if isinstance(model, SharedForward) else model


class SharedForward:
    """A model that does not run again for the batch that it has just seen: loss and answers share one pass."""

    def __init__(self, model: TrainableModel) -> None:
        self._model = model
        self._last: tuple[Batch, Any] | None = None

    def __call__(self, batch: Batch, **options: Any) -> Any:
        """What the model gives; with more than a batch, each time anew."""
        if options:
            return self._model(batch, **options)
        if self._last is None or self._last[0] is not batch:
            self._last = batch, self._model(batch)
        return self._last[1]

    @property
    def plain(self) -> object:
        """The model, which runs each time that it is called."""
        return self._model

    def __getattr__(self, name: str) -> Any:
        """The model's own attributes, such as its heads."""
        return getattr(self._model, name)
