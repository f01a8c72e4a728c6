"""Tokens -> the first hidden run: the sum of word, position and segment vectors."""

from __future__ import annotations

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
