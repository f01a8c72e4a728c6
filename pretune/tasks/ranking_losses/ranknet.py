"""Pairwise logistic loss: of two passages of a query, the one with the higher grade has the higher score.

Related: `margin`, which is content with a distance; `lambdaloss`, which weighs pairs by what nDCG loses.
Source: Burges et al. 2005, "Learning to rank using gradient descent" (RankNet).
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pretune.tasks.ranking_losses.ranking_loss import RankingLoss, differences, mean_of_pairs, ordered_pairs


class RankNet(RankingLoss):
    """The logistic loss of all pairs whose grades differ."""

    class Config(RankingLoss.Config):
        """How steep the loss is.

        Attributes:
            sigma: what differences of logits are multiplied by.
        """

        sigma: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)

    config: Config

    def __call__(self, logits: Tensor, grades: Tensor, present: Tensor) -> Tensor:
        """Shape: (N, M) -> (N,)."""
        losses = F.softplus(-self.config.sigma * differences(logits))
        return mean_of_pairs(losses, ordered_pairs(grades, present))
