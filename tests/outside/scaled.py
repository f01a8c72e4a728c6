"""Masked tokens with a learned temperature: an objective that is no part of pretune, with parameters of its own."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from pretune.batch import Batch
from pretune.draw import Draw
from pretune.loss import Term, cross_entropy
from pretune.nn.model_protocol import ModelOutput, TrainableModel
from pretune.objectives.mlm import MaskedLanguageModelling
from pretune.objectives.objective import ModelLoader, refuse_to_load


class Scaled(MaskedLanguageModelling):
    """Predict masked tokens through a bottleneck that serves training alone, with scores scaled by what is learned."""

    name: ClassVar[str] = "scaled"
    transient: ClassVar[tuple[str, ...]] = ("bottleneck",)

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """The standard head."""
        return {"mlm": model.vocabulary_head()}

    def setup(self, model: TrainableModel, draw: Draw, load: ModelLoader = refuse_to_load) -> None:
        """Make the scale, which is kept, and the bottleneck, which is not."""
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.bottleneck = nn.Linear(model.width, model.width)
        with torch.no_grad():
            self.bottleneck.weight.copy_(torch.eye(model.width))
            self.bottleneck.bias.zero_()

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy of the scaled scores."""
        index, label = batch.targets[self.name]
        scores = model.heads["mlm"](self.bottleneck(output.at(index))) * self.scale
        return [Term(self.name, cross_entropy(scores, label), len(label), self.config.weight)]
