"""A frozen model, which is used and never trained: a teacher, a reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from pretune.batch import Batch
from pretune.models.model import LanguageModel
from pretune.nn.model_protocol import ModelOutput


class FrozenModel(nn.Module):
    """A model in evaluation mode, without gradients, whatever becomes of the module that holds it.

    As a part of an objective it moves to the objective's device, and that is all that reaches it: it is no part of
    checkpoints, of the optimizer, of what ranks exchange, or of the finished model.

    Args:
        model: changed in place; nothing else may train it.
    """

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        object.__setattr__(self, "model", model.requires_grad_(False).eval())  # not registered as a submodule

    @torch.no_grad()
    def forward(self, batch: Batch, **options: Any) -> ModelOutput:
        """What the model gives for a batch; see `LanguageModel.forward`."""
        output: ModelOutput = self.model(batch, **options)
        return output

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.model._apply(fn, recurse)
        return self

    def __getattr__(self, name: str) -> Any:
        """The model's own, such as its heads."""
        if name == "model":  # not set yet
            raise AttributeError(name)
        return getattr(self.model, name)
