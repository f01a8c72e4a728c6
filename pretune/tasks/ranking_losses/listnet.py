"""Listwise cross-entropy between two distributions: the softmax of the grades and that of the scores.

Source: Cao et al. 2007, "Learning to rank: from pairwise approach to listwise approach" (ListNet, top one).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from pretune.tasks.ranking_losses.ranking_loss import RankingLoss


class ListNet(RankingLoss):
    """The distribution of the grades is that of the scores."""

    class Config(RankingLoss.Config):
        """How sharp the wanted distribution is.

        Attributes:
            scale: what grades are multiplied by before their softmax: at 1, a relevant passage among four irrelevant
                ones is wanted with a probability of 0.40 alone.
        """

        scale: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)

    config: Config

    def __call__(self, logits: Tensor, grades: Tensor, present: Tensor) -> Tensor:
        """Shape: (N, M) -> (N,)."""
        wanted = (self.config.scale * grades).masked_fill(~present, -torch.inf).softmax(dim=1)
        logs = logits.masked_fill(~present, -torch.inf).log_softmax(dim=1).masked_fill(~present, 0.0)
        return -(wanted * logs).sum(dim=1)
