"""A head that scores the classes of sequences from their vectors: one pooling of their rows, scaled to length 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pretune.batch import Layout
from pretune.nn.heads import SINGLE_LABEL, PoolPosition, ProblemType, SequenceHead, pool


class VectorHead(SequenceHead):
    """Scores classes linearly in the vectors of texts, so that it can be fitted in closed form.

    `transformers` has no place for it: its classes read one row of a text, mostly through a pooler, which a model that
    was trained to give mean vectors has never learned.

    Args:
        labels: names of the classes, in the order of the scores.
        pool_position: which row is read, or the mean of all.
        problem_type: what the scores are.
    """

    def __init__(
        self,
        width: int,
        labels: Sequence[str],
        pool_position: PoolPosition,
        problem_type: ProblemType = SINGLE_LABEL,
    ) -> None:
        super().__init__(width, labels, pool_position, problem_type)

    def vectors(self, hidden: Tensor, layout: Layout) -> Tensor:
        """What is scored. Shape: (T, width) -> (N, width) fp32"""
        return F.normalize(pool(hidden, layout, self.pool_position).float(), dim=1)

    def forward(self, hidden: Tensor, layout: Layout) -> Tensor:
        """Shape: (T, width) -> (N, classes)."""
        return self.linear(self.vectors(hidden, layout))  # type: ignore[no-any-return]

    def set_linear(self, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        """Takes over what was fitted. Shape: weight: (classes, width); bias: (classes,)"""
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(weight))
            assert self.linear.bias is not None  # a sequence head has one
            self.linear.bias.copy_(torch.from_numpy(bias))
