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
from pretune.nn.pair_features import TextPairs, coverage_features, vector_features
from pretune.nn.projection import Projection
from pretune.nn.tuned import with_keys

_COVERAGE = 4  # features of a pair that its tokens give


class VectorHead(SequenceHead):
    """Scores classes linearly in the vectors of texts, so that it can be fitted in closed form.

    `transformers` has no place for it: its classes read one row of a text, mostly through a pooler, which a model that
    was trained to give mean vectors has never learned.

    Args:
        labels: names of the classes, in the order of the scores.
        pool_position: which row is read, or the mean of all.
        problem_type: what the scores are.
        apart: what is scored is a pair of texts, each a sequence, by the features of `nn.pair_features`.

    Attributes:
        apart: it scores pairs.
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
        super().__init__(4 * width + 1 + _COVERAGE if apart else width, labels, pool_position, problem_type)
        self.apart, self._width = apart, width
        self.needs_all_rows = self.needs_all_rows or self._reads_tokens

    @property
    def _reads_tokens(self) -> bool:
        """Whether it scores what the tokens of a pair say, and not their vectors alone."""
        return self.apart and self.linear.in_features > 4 * self._width + 1

    def use_columns(self, count: int) -> None:
        """Scores the first features of a pair alone, as weights that were trained before there were more of them.

        Args:
            count: columns of these weights. What no version had is left to whoever compares shapes.
        """
        if self.apart and count in (4 * self._width, 4 * self._width + 1):
            with torch.device(self.linear.weight.device):
                self.linear = Projection(count, len(self.labels))
            self.needs_all_rows = self.pool_position == "mean"

    def vectors(self, hidden: Tensor, layout: Layout, pairs: TextPairs | None = None) -> Tensor:
        """What is scored.

        Shape:
            hidden: (T, width); return: (N, width), or (N, 4 width + 5) of pairs, or what `use_columns` says; fp32
        """
        vectors = F.normalize(pool(hidden, layout, self.pool_position).float(), dim=1)
        if pairs is None:
            return vectors
        features = vector_features(vectors[pairs.first], vectors[pairs.second])
        if not self._reads_tokens:
            return features[:, : self.linear.in_features]
        return torch.cat([features, coverage_features(hidden, layout, pairs)], dim=1)

    def forward(self, hidden: Tensor, layout: Layout, pairs: TextPairs | None = None) -> Tensor:
        """Shape: (T, width) -> (N, classes)."""
        sequences = layout.first if pairs is None else layout.first[pairs.first]
        keys = None if layout.keys is None else layout.keys.at(sequences)
        return with_keys(self.linear, self.vectors(hidden, layout, pairs), keys)

    def set_linear(self, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        """Takes over what was fitted. Shape: weight: (classes, width); bias: (classes,)"""
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(weight))
            assert self.linear.bias is not None  # a sequence head has one
            self.linear.bias.copy_(torch.from_numpy(bias))
