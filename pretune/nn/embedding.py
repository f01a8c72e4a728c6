"""Tokens -> the first hidden run: the sum of word, position and segment vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.dropout import Dropout


class Embedding(nn.Module):
    """Sum of embeddings, then norm, then dropout.

    Args:
        vocabulary: number of tokens.
        positions: learned absolute positions, the longest sequence; 0 for none.
        segments: kinds of text in a pair; 0 for none.
        norm: applied to the sum, or None.
        dropout: share of the result dropped while training.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        *,
        positions: int = 0,
        segments: int = 0,
        norm: nn.Module | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.word = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(positions, width) if positions else None
        self.segment = nn.Embedding(segments, width) if segments else None
        self.norm = norm or nn.Identity()
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor, layout: Layout, segments: Tensor | None = None) -> Tensor:
        """Look up and add; a missing `segments` is segment 0 throughout.

        Shape:
            tokens, segments: (T,) int64; return: (T, width)
        """
        x = self.word(tokens)
        if self.position is not None:
            x = x + self.position(layout.positions)
        if self.segment is not None:
            x = x + (self.segment.weight[0] if segments is None else self.segment(segments))
        return self.dropout(self.norm(x))  # type: ignore[no-any-return]


class SomeRows(nn.Embedding):
    """A table of which only the rows of some tokens are there, while it learns from those tokens alone.

    The rows left out would have no gradient: AdamW would do nothing to them but weight decay, the same to all. A last
    row, of no token, begins as ones and so ends as the factor by which decay would have scaled them.

    Args:
        table: the whole; it is kept as it is.
        tokens: that may be looked up, in any order.

    Shape:
        tokens: (any,) int64
    """

    def __init__(self, table: nn.Embedding, tokens: Tensor) -> None:
        rows = torch.unique(tokens)
        whole = table.weight.detach()
        weight = torch.cat([whole[rows], torch.ones_like(whole[:1])])
        super().__init__(len(weight), table.embedding_dim, _weight=weight)
        self.num_embeddings = table.num_embeddings
        self._rows, self._whole = rows, whole
        place = torch.full((len(whole),), -1).index_copy_(0, rows, torch.arange(len(rows)))
        self.place: Tensor
        self.register_buffer("place", place, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Shape: any int64 -> (..., width)."""
        return F.embedding(self.place[tokens], self.weight)

    def whole(self) -> nn.Embedding:
        """The table with what the rows have learned."""
        learned = self.weight.detach().to(self._whole.device)
        table = (self._whole * learned[-1]).index_copy_(0, self._rows, learned[:-1])
        return nn.Embedding(len(table), table.shape[1], _weight=table)
