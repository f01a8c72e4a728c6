"""The terms of a loss, each a sum and a count, and the cross-entropy over classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Term:
    """Holds one term of a loss.

    Attributes:
        name: which objective it comes from; the metric's name.
        sum: () fp32, summed over the predictions of this batch.
        count: number of predictions, the same that `Objective.counts` gave before the forward.
        weight: factor of its mean in the total.
        correct: () or None, how many predictions were right, for the log.
    """

    name: str
    sum: Tensor
    count: int
    weight: float = 1.0
    correct: Tensor | None = None


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sums the negative log likelihood in fp32.

    Shape:
        logits: (K, C); labels: (K,) int64; return: (). K = 0 gives 0 that still depends on the logits.
    """
    if labels.numel() == 0:
        return logits.float().sum() * 0.0
    return F.cross_entropy(logits.float(), labels, reduction="sum")
