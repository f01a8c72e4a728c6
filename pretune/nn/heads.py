"""What is read off the hidden run: a token of the vocabulary for chosen rows, or a class for each sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from pretune.batch import Layout, short
from pretune.loss import linear_cross_entropy
from pretune.nn.activation import Activation
from pretune.nn.dropout import Dropout
from pretune.nn.projection import Projection

Anchor = Literal["first", "last"]


class Transform(nn.Module):
    """Dense, activation, norm: what BERT puts before its vocabulary."""

    def __init__(self, width: int, activation: Activation, norm: nn.Module) -> None:
        super().__init__()
        self.dense = Projection(width, width)
        self.activation = activation
        self.norm = norm

    def forward(self, rows: Tensor) -> Tensor:
        """Shape: (K, width) -> (K, width)."""
        return self.norm(self.activation(self.dense(rows)))  # type: ignore[no-any-return]


class VocabularyHead(nn.Module):
    """Scores of all tokens for the rows that are asked for, never for all.

    Args:
        weight: (V, width), the embedding's own parameter where they are tied.
        transform: applied to the rows before the product.
        bias: (V,) or None.
    """

    def __init__(self, weight: Tensor, transform: nn.Module | None = None, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.transform = transform or nn.Identity()
        self.weight = weight
        self.bias = bias

    def forward(self, rows: Tensor) -> Tensor:
        """Shape: (K, width) -> (K, V)."""
        return F.linear(self.transform(rows), self.weight, self.bias)

    def loss(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy, without ever holding all scores.

        Shape:
            rows: (K, width); labels: (K,) int64; return: loss () fp32, number of correct predictions () int64
        """
        if rows.device.type == "cpu" and len(rows):  # fewer different shapes
            rows = F.pad(rows, (0, 0, 0, short(len(rows))))
        return linear_cross_entropy(self.transform(rows), self.weight, self.bias, labels)


class Pooler(nn.Module):
    """Dense and tanh over one row of each sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = Projection(width, width)

    def forward(self, rows: Tensor) -> Tensor:
        """Shape: (N, width) -> (N, width)."""
        return self.dense(rows).tanh()  # type: ignore[no-any-return]


class SequenceHead(nn.Module):
    """One decision a sequence, read at its first or last token.

    Args:
        labels: names of the classes, in the order of the logits.
        anchor: which token is read.
        pooler: applied to the row, or None; it may be shared with other heads.
        dropout: share of the pooled row dropped while training.
    """

    def __init__(
        self,
        width: int,
        labels: Sequence[str],
        anchor: Anchor,
        *,
        pooler: nn.Module | None = None,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.labels = list(labels)
        self.anchor = anchor
        self.pooler = pooler or nn.Identity()
        self.dropout = Dropout(dropout)
        self.linear = Projection(width, len(self.labels), bias=bias)

    def rows(self, layout: Layout) -> Tensor:
        """(N,) int64: the row of the hidden run that decides for each sequence."""
        return layout.first if self.anchor == "first" else layout.last

    def forward(self, hidden: Tensor, layout: Layout) -> Tensor:
        """Shape: (T, width) -> (N, classes)."""
        return self.linear(self.dropout(self.pooler(hidden[self.rows(layout)])))  # type: ignore[no-any-return]
