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
from pretune.nn.tuned import with_keys

_COSINE = (
    4.0  # weight of a cosine beside the numbers of two vectors of length 1, so that few examples suffice to use it
)


def pair_features(first: Tensor, second: Tensor) -> Tensor:
    """What a linear classifier of pairs reads: both vectors, their distance, their product, and the product's sum.

    The sum says how similar the texts are. It is a direction among the products too, but one that a classifier of few
    examples, whose weights are kept small, would not find.

    Args:
        first, second: vectors of length 1.

    Shape:
        first, second: (N, width); return: (N, 4 width + 1)

    Source: Conneau et al. 2017 (arXiv 1705.02364), section 3.1, for the four parts.
    """
    product = first * second
    cosine = product.sum(dim=1, keepdim=True)
    return torch.cat([first, second, (first - second).abs(), product, _COSINE * cosine], dim=1)


class VectorHead(SequenceHead):
    """Scores classes linearly in the vectors of texts, so that it can be fitted in closed form.

    `transformers` has no place for it: its classes read one row of a text, mostly through a pooler, which a model that
    was trained to give mean vectors has never learned.

    Args:
        labels: names of the classes, in the order of the scores.
        pool_position: which row is read, or the mean of all.
        problem_type: what the scores are.
        apart: what is scored is a pair of texts, each a sequence, by `pair_features` of their vectors.
    """

    def __init__(
        self,
        width: int,
        labels: Sequence[str],
        pool_position: PoolPosition,
        problem_type: ProblemType = SINGLE_LABEL,
        *,
        apart: bool = False,
    ) -> None:
        super().__init__(4 * width + 1 if apart else width, labels, pool_position, problem_type)

    def vectors(self, hidden: Tensor, layout: Layout, pairs: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """What is scored.

        Args:
            pairs: the numbers of the sequences that are the first and the second text of each pair.

        Shape:
            hidden: (T, width); pairs: (N,) int64 each; return: (N, width), or (N, 4 width + 1) of pairs, fp32
        """
        vectors = F.normalize(pool(hidden, layout, self.pool_position).float(), dim=1)
        if pairs is None:
            return vectors
        return pair_features(vectors[pairs[0]], vectors[pairs[1]])

    def forward(self, hidden: Tensor, layout: Layout, pairs: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Shape: (T, width) -> (N, classes)."""
        sequences = layout.first if pairs is None else layout.first[pairs[0]]
        keys = None if layout.keys is None else layout.keys.at(sequences)
        return with_keys(self.linear, self.vectors(hidden, layout, pairs), keys)

    def set_linear(self, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        """Takes over what was fitted. Shape: weight: (classes, width); bias: (classes,)"""
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(weight))
            assert self.linear.bias is not None  # a sequence head has one
            self.linear.bias.copy_(torch.from_numpy(bias))
