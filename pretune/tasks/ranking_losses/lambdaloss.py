"""LambdaLoss: the logistic loss of pairs, each weighed by what nDCG loses where the two are in the wrong order.

The weights are those of NDCG-Loss2++, the best of the paper: a bound of nDCG and LambdaRank's.

Source: Wang et al. 2018, "The LambdaLoss framework for ranking metric optimization" (CIKM), equations 14 to 18.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pretune.tasks.ranking_losses.ranking_loss import RankingLoss, differences, mean_of_pairs, ordered_pairs


class LambdaLoss(RankingLoss):
    """Pairs weighed by their part of nDCG."""

    class Config(RankingLoss.Config):
        """The weights of pairs.

        Attributes:
            k: ranks that count: of a pair, one passage must be among the best k by its score; None for all.
            sigma: what differences of logits are multiplied by.
            mu: weight of the bound of nDCG beside LambdaRank's weights.
        """

        k: int | None = Field(default=None, ge=1)
        sigma: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
        mu: float = Field(default=10.0, ge=0.0, allow_inf_nan=False)

    config: Config

    def __call__(self, logits: Tensor, grades: Tensor, present: Tensor) -> Tensor:
        """Shape: (N, M) -> (N,)."""
        order = logits.detach().masked_fill(~present, -torch.inf).argsort(dim=1, descending=True, stable=True)
        logits, grades, present = (value.gather(1, order) for value in (logits, grades, present))
        size = logits.shape[1]
        ranks = torch.arange(size, device=logits.device)
        pairs = ordered_pairs(grades, present)
        if self.config.k is not None:
            pairs = pairs & ((ranks[:, None] < self.config.k) | (ranks < self.config.k))
        losses = self._weights(grades, present, ranks) * F.softplus(-self.config.sigma * differences(logits))
        return mean_of_pairs(losses, pairs)

    def _weights(self, grades: Tensor, present: Tensor, ranks: Tensor) -> Tensor:
        """What each pair counts, of lists in the order of their scores. Shape: (N, M) -> (N, M, M)."""
        discount = (2.0 + torch.arange(len(ranks) + 1, device=grades.device)).log2()  # of ranks from 1, one more
        gains = (torch.exp2(grades.clamp(min=0.0)) - 1.0).masked_fill(~present, 0.0)
        ideal = gains.sort(dim=1, descending=True).values / discount[:-1]
        gains = gains / ideal[:, : self.config.k].sum(dim=1, keepdim=True).clamp(min=1e-10)
        apart = (ranks[:, None] - ranks).abs()
        bound = (1.0 / discount[(apart - 1).clamp(min=0)] - 1.0 / discount[apart]).abs().masked_fill(apart == 0, 0.0)
        moved = (1.0 / discount[:-1, None] - 1.0 / discount[:-1]).abs()
        return (self.config.mu * bound + moved) * (gains[:, :, None] - gains[:, None, :]).abs()
