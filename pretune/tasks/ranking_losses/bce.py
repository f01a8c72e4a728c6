"""Pointwise binary cross-entropy: is a passage relevant to its query, whatever the others are?

Grades are probabilities, 0 and 1 where people judged. Scores are probabilities.

Related: `softmax`, which compares the passages of a query. Source: Nogueira and Cho 2019 (arXiv 1901.04085).
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pretune.tasks.ranking_losses.ranking_loss import Activation, RankingLoss


class BinaryCrossEntropy(RankingLoss):
    """Each passage for itself, as relevant or not."""

    per_query: ClassVar[bool] = False
    compares: ClassVar[bool] = False
    are_probabilities: ClassVar[bool] = True
    activation: ClassVar[Activation] = "sigmoid"

    class Config(RankingLoss.Config):
        """The balance of the classes.

        Attributes:
            pos_weight: how often a relevant passage counts, such as the number of irrelevant ones beside each.
        """

        pos_weight: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)

    config: Config

    def __call__(self, logits: Tensor, grades: Tensor, present: Tensor) -> Tensor:
        """Shape: (N, M) -> (N,)."""
        weight = torch.tensor(self.config.pos_weight, device=logits.device)
        safe = logits.masked_fill(~present, 0.0)
        each = F.binary_cross_entropy_with_logits(safe, grades, reduction="none", pos_weight=weight)
        return each.masked_fill(~present, 0.0).sum(dim=1)
