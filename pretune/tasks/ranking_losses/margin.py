"""Pairwise hinge loss: of two passages of a query, the better one's score is higher by a margin.

Source: Joachims 2002, "Optimizing search engines using clickthrough data" (ranking SVM).
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from pretune.tasks.ranking_losses.ranking_loss import RankingLoss, differences, mean_of_pairs, ordered_pairs


class Margin(RankingLoss):
    """The hinge loss of all pairs whose grades differ."""

    class Config(RankingLoss.Config):
        """The distance.

        Attributes:
            margin: by how much the logit of the better passage must be higher.
        """

        margin: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)

    config: Config

    def __call__(self, logits: Tensor, grades: Tensor, present: Tensor) -> Tensor:
        """Shape: (N, M) -> (N,)."""
        losses = (self.config.margin - differences(logits)).relu()
        return mean_of_pairs(losses, ordered_pairs(grades, present))
