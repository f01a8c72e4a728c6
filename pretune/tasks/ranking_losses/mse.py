"""Pointwise squared errors: a passage's score is its grade, such as the score of a larger reranker.

Related: `marginmse`, which learns differences alone, so that the teacher's scale need not be learned.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from pretune.tasks.ranking_losses.ranking_loss import RankingLoss


class MeanSquaredError(RankingLoss):
    """Each passage for itself, on the scale of the grades."""

    per_query: ClassVar[bool] = False
    compares: ClassVar[bool] = False

    def __call__(self, logits: Tensor, grades: Tensor, present: Tensor) -> Tensor:
        """Shape: (N, M) -> (N,)."""
        return (logits.masked_fill(~present, 0.0) - grades).square().masked_fill(~present, 0.0).sum(dim=1)
