"""A head that scores the relation between two marked places of each sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pretune.batch import RowKeys
from pretune.nn.dropout import Dropout
from pretune.nn.projection import Projection
from pretune.nn.tuned import with_keys


class PairHead(nn.Module):
    """Scores classes of pairs of hidden states, such as those of the marks before two entities of a sentence.

    Args:
        labels: names of the classes, in the order of the logits.
        dropout: rate at which what the dense layer gives is dropped.

    Source: Baldini Soares et al. 2019 (arXiv 1906.03158), "entity start"; the dense layer as in Zhou and Chen 2021
    (arXiv 2102.01373).
    """

    def __init__(self, width: int, labels: Sequence[str], dropout: float = 0.1) -> None:
        super().__init__()
        self.labels = list(labels)
        self.dense = Projection(2 * width, width)
        self.dropout = Dropout(dropout)
        self.linear = Projection(width, len(self.labels))

    def forward(self, first: Tensor, second: Tensor, keys: RowKeys | None = None) -> Tensor:
        """Scores the relation of each pair.

        Args:
            keys: of the rows of `first`.

        Shape:
            first, second: (N, width); return: (N, classes)
        """
        pairs = torch.tanh(with_keys(self.dense, torch.cat([first, second], dim=1), keys))
        return with_keys(self.linear, self.dropout(pairs, keys), keys)
