"""Listwise cross-entropy: which passage of the list is the relevant one (localized contrastive estimation).

Each relevant passage is compared with the irrelevant ones, and not with other relevant ones; by default these count by
their grades.

Source: Gao et al. 2021, "Rethink training of BERT rerankers in multi-stage retrieval pipeline" (arXiv 2101.08751).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pretune.tasks.ranking_losses.ranking_loss import RankingLoss

_NEVER = -1e30  # of a logit that takes no part: the gradient of -inf alone would be NaN


class Softmax(RankingLoss):
    """Cross-entropy of each relevant passage among itself and the irrelevant ones."""

    def __call__(self, logits: Tensor, grades: Tensor, present: Tensor) -> Tensor:
        """Shape: (N, M) -> (N,)."""
        relevant = present & (grades > 0)
        irrelevant = logits.masked_fill(relevant | ~present, _NEVER)
        below = irrelevant.logsumexp(dim=1, keepdim=True)
        own = logits.masked_fill(~relevant, 0.0)
        losses = (torch.logaddexp(own, below) - own).masked_fill(~relevant, 0.0)
        weights = grades.masked_fill(~relevant, 0.0)
        return (losses * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
