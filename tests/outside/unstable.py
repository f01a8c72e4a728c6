"""An objective whose head could not be found again: each call makes a wider one."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from pretune.nn.model_protocol import TrainableModel
from pretune.objectives.mlm import MaskedLanguageModelling


class Unstable(MaskedLanguageModelling):
    """Masked tokens, and a head of another width whenever it is asked for."""

    name: ClassVar[str] = "unstable"
    calls: ClassVar[int] = 0

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """The vocabulary's head, and one of no use."""
        type(self).calls += 1
        return {"unstable": model.vocabulary_head(), "wider": nn.Linear(model.width, 2 + self.calls)}
