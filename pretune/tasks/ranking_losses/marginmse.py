"""Squared errors of margins: how far the first passage's score is above each other one's, as a teacher's are.

Source: Hofstätter et al. 2020, "Improving efficient neural ranking models with cross-architecture knowledge
distillation" (arXiv 2010.02666).
"""

from __future__ import annotations

from torch import Tensor

from pretune.tasks.ranking_losses.ranking_loss import RankingLoss


class MarginMSE(RankingLoss):
    """Margins between the first passage and the others."""

    def __call__(self, logits: Tensor, grades: Tensor, present: Tensor) -> Tensor:
        """Shape: (N, M) -> (N,)."""
        others, safe = present[:, 1:], logits.masked_fill(~present, 0.0)
        wrong = (safe[:, :1] - safe[:, 1:]) - (grades[:, :1] - grades[:, 1:])
        return wrong.square().masked_fill(~others, 0.0).sum(dim=1) / others.sum(dim=1).clamp(min=1)
