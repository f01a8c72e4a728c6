"""Distillation, an objective that is no part of pretune: masked tokens as a teacher predicts them.

Data: any sequences, masked as in masked language modelling. The loss is that of the masks and, at the same rows, the
divergence of the model's distribution from a frozen teacher's.

Source: Hinton et al. 2015, "Distilling the knowledge in a neural network" (arXiv 1503.02531), section 2.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from pretune.batch import Batch
from pretune.draw import Draw
from pretune.loss import Term
from pretune.nn.heads import VocabularyHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.objectives.mlm import MaskedLanguageModelling
from pretune.objectives.objective import ModelLoader, refuse_to_load


class Distillation(MaskedLanguageModelling):
    """Predict masked tokens, and what a teacher thinks of them."""

    name: ClassVar[str] = "distil"

    class Config(MaskedLanguageModelling.Config):
        """The teacher.

        Attributes:
            teacher: folder of a model with a masked-language-modelling head and the data's tokenizer.
            temperature: both distributions are softened by it.
        """

        teacher: str
        temperature: float = 2.0

    config: Config

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """The standard head, so that the finished model fills masks and exports."""
        return {"mlm": model.vocabulary_head()}

    def setup(self, model: TrainableModel, draw: Draw, load: ModelLoader = refuse_to_load) -> None:
        """Read the teacher."""
        super().setup(model, draw, load)
        self.teacher = load(self.config.teacher)

    def counts(self, batch: Batch) -> dict[str, int]:
        """As many predictions of the teacher as of the text."""
        count = sum(super().counts(batch).values())
        return {f"{self.name}_text": count, f"{self.name}_teacher": count}

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """The masked loss, and the divergence from the teacher in units of the squared temperature."""
        index, label = batch.targets[self.name]
        total, correct = get_head(model, "mlm", VocabularyHead).loss(output.at(index), label)
        scale = self.config.temperature
        student = model.heads["mlm"](output.at(index)).float() / scale
        expected = self.teacher.heads["mlm"](self.teacher(batch).at(index)).float() / scale
        divergence = F.kl_div(student.log_softmax(1), expected.log_softmax(1), reduction="sum", log_target=True)
        return [
            Term(f"{self.name}_text", total, len(label), self.config.weight, correct),
            Term(f"{self.name}_teacher", divergence * scale**2, len(label), self.config.weight),
        ]
