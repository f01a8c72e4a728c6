"""Tokens -> the first hidden run: the sum of word, position and segment vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.dropout import Dropout


class Learned(nn.Embedding):
    """A vector for each position.

    Args:
        longest: sequence, in tokens.
        offset: rows of the table before that of the first position: RoBERTa and BART keep two that stand for padding.
    """

    def __init__(self, longest: int, width: int, offset: int = 0) -> None:
        super().__init__(longest + offset, width)
        self.longest = longest
        self.offset = offset

    def forward(self, positions: Tensor) -> Tensor:
        """Shape: (T,) int64 -> (T, width)."""
        return super().forward(positions + self.offset if self.offset else positions)


class Sinusoidal(nn.Module):
    """Waves of falling frequency: sines in the first half of the vector, cosines in the second.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.5, in the order of its authors' code.

    Args:
        longest: sequence that the model was made for, in tokens; None for no limit.
        width: even.
    """

    def __init__(self, longest: int | None, width: int) -> None:
        super().__init__()
        self.longest = longest
        self.width = width

    def forward(self, positions: Tensor) -> Tensor:
        """Shape: (T,) int64 -> (T, width) fp32."""
        place = torch.arange(0, self.width, 2, device=positions.device) / self.width
        angle = positions[:, None].float() / 10000.0**place
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class Embedding(nn.Module):
    """Sum of embeddings, then norm, then dropout, then a projection.

    Args:
        vocabulary: number of tokens.
        width: of the vectors that are added.
        position: vectors of positions, or None.
        segments: kinds of text in a pair; 0 for none.
        scale: factor of the word vectors.
        norm: applied to the sum, or None.
        dropout: share of the result dropped while training.
        project: to the width of the stack, where that is another.
        word: the table of another embedding, to share it.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        *,
        position: Learned | Sinusoidal | None = None,
        segments: int = 0,
        scale: float = 1.0,
        norm: nn.Module | None = None,
        dropout: float = 0.0,
        project: nn.Linear | None = None,
        word: nn.Embedding | None = None,
    ) -> None:
        super().__init__()
        self.word = word or nn.Embedding(vocabulary, width)
        self.position = position
        self.segment = nn.Embedding(segments, width) if segments else None
        self.norm = norm or nn.Identity()
        self.dropout = Dropout(dropout)
        self.project = project
        self.scale = scale

    @property
    def width(self) -> int:
        """Of what it gives."""
        return self.word.embedding_dim if self.project is None else self.project.out_features

    def forward(self, tokens: Tensor, layout: Layout, segments: Tensor | None = None) -> Tensor:
        """Look up and add; a missing `segments` is segment 0 throughout.

        Shape:
            tokens, segments: (T,) int64; return: (T, width)
        """
        x = self.word(tokens)
        if x.dtype == torch.bfloat16 and torch.is_autocast_enabled(x.device.type):
            x = x.float()  # the vocabulary was rounded for its head's products; the residual run is not
        if self.scale != 1.0:
            x = x * self.scale
        if self.position is not None:
            x = x + self.position(layout.positions)
        if self.segment is not None:
            x = x + (self.segment.weight[0] if segments is None else self.segment(segments))
        x = self.dropout(self.norm(x))
        return x if self.project is None else self.project(x)  # type: ignore[no-any-return]


class SubsetEmbedding(nn.Embedding):
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
