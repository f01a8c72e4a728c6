"""The vectors of a vocabulary's tokens: what the embedding looks up, and what the head multiplies by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune.nn.cross_entropy import linear_cross_entropy, sampled_cross_entropy
from pretune.nn.packed import Product, constant_product
from pretune.nn.quick_protocol import QuickProtocolMeta


@runtime_checkable
class VocabularyBrick(Protocol, metaclass=QuickProtocolMeta):
    """One vector for each token: a `Vocabulary`, or what a method put at its place. Nobody else reads its weight."""

    @property
    def size(self) -> int:
        """Number of tokens, V."""

    @property
    def width(self) -> int:
        """Width of the vectors."""

    def lookup(self, tokens: Tensor) -> Tensor:
        """Vectors of tokens. Shape: (T,) int64 -> (T, width)."""

    def scores(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """Scores of all tokens. Shape: rows: (K, width), bias: (V,) -> (K, V)."""

    def loss(
        self, rows: Tensor, labels: Tensor, bias: Tensor | None = None, smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy and the number of correct predictions. Shape: (K, width), (K,) int64 -> (), ().

        Args:
            smoothing: fraction of each target that is spread over all tokens.
        """

    def sampled_loss(
        self, rows: Tensor, labels: Tensor, uniform: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `loss`, with a token drawn for each row. Shape: uniform: (K,) fp64 -> (), (), (K,) int64."""

    def row(self, ids: Tensor) -> Tensor:
        """Vectors of tokens as the head multiplies by them. Shape: any int64 -> (..., width)."""

    def dense(self) -> Tensor:
        """The matrix that computes the same. Shape: (V, width)."""

    def product(self, bias: Tensor | None = None) -> Product:
        """A function for a model in use that gives the scores. Shape: (K, width) -> (K, V)."""

    def flops(self, rows: float) -> float:
        """Floating-point operations of the scores of so many rows."""

    def reset_parameters(self, std: float) -> None:
        """Draws initial values; matrices with this standard deviation."""


class Vocabulary(nn.Module):
    """A plain table of vectors, which serves an embedding, a head, or both.

    Args:
        size: number of tokens.
        width: of the vectors.

    Shape:
        weight: (size, width)
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, width))
        self.reset_parameters()

    @classmethod
    def of(cls, weight: nn.Parameter) -> Vocabulary:
        """A vocabulary over a parameter, which others may share. Shape: (size, width)."""
        with torch.device("meta"):
            vocabulary = cls(*weight.shape)
        vocabulary.weight = weight
        return vocabulary

    @property
    def size(self) -> int:
        """Number of tokens, V."""
        return len(self.weight)

    @property
    def width(self) -> int:
        """Width of the vectors."""
        return self.weight.shape[1]

    def lookup(self, tokens: Tensor) -> Tensor:
        """Shape: (T,) int64 -> (T, width)."""
        return F.embedding(tokens, self.weight)

    def scores(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """Shape: rows: (K, width), bias: (V,) -> (K, V)."""
        return F.linear(rows, self.weight, bias)

    def loss(
        self, rows: Tensor, labels: Tensor, bias: Tensor | None = None, smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy, without ever holding all scores.

        Args:
            smoothing: fraction of each target that is spread over all tokens.

        Shape:
            rows: (K, width); labels: (K,) int64; return: loss () fp32, number of correct predictions () int64
        """
        return linear_cross_entropy(rows, self.weight, bias, labels, smoothing=smoothing)

    def sampled_loss(
        self, rows: Tensor, labels: Tensor, uniform: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `loss`, with a token drawn from the distribution of each row.

        Shape:
            uniform: (K,) fp64 in [0, 1); return: loss, correct, (K,) int64
        """
        return sampled_cross_entropy(rows, self.weight, bias, labels, uniform)

    def row(self, ids: Tensor) -> Tensor:
        """Shape: any int64 -> (..., width)."""
        return self.weight[ids]

    def dense(self) -> Tensor:
        """Its own table."""
        return self.weight

    def product(self, bias: Tensor | None = None) -> Product:
        """Multiplies by the packed table. Shape: (K, width) -> (K, V)."""
        return constant_product(self.dense(), bias)

    def flops(self, rows: float) -> float:
        """A multiply-add is two."""
        return 2.0 * self.weight.numel() * rows

    @torch.no_grad()
    def reset_parameters(self, std: float = 0.02) -> None:
        """Draws a normal table. Without memory (on the meta device) there is nothing to draw."""
        if not self.weight.is_meta:  # two thirds of a millisecond, in Python
            self.weight.normal_(0, std)

    @torch.no_grad()
    def extend(self, size: int, origins: Mapping[int, Sequence[int]]) -> None:
        """Adds rows at the end, in a new parameter.

        Args:
            size: number of tokens afterwards.
            origins: for each new token the old ones whose mean it is.
        """
        self.weight = nn.Parameter(longer(self.weight, size, origins))


@runtime_checkable
class PackedTable(Protocol, metaclass=QuickProtocolMeta):
    """A vocabulary that forms its table when it is asked for it, in the dtype that is wanted."""

    def values(self, dtype: torch.dtype) -> Tensor:
        """The table in a new tensor. Shape: (V, width)."""


def values_for(vocabulary: VocabularyBrick, rows: Tensor) -> Tensor:
    """The table that a loss of some rows multiplies by; a packed one's is formed in the dtype of matmuls.

    Shape:
        rows: (K, width); return: (V, width)
    """
    if not isinstance(vocabulary, PackedTable):
        return vocabulary.dense()
    device = rows.device.type
    return vocabulary.values(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rows.dtype)


def longer(rows: Tensor, size: int, origins: Mapping[int, Sequence[int]]) -> Tensor:
    """Rows with others behind them, each the mean of some. Shape: (V, ...) -> (size, ...)."""
    out = rows.new_zeros(size, *rows.shape[1:])
    out[: len(rows)] = rows
    for new, ids in origins.items():
        out[new] = rows[list(ids)].mean(dim=0)
    return out


class SubsetEmbedding(Vocabulary):
    """A table of which only the rows of some tokens are there, while it learns from those tokens alone.

    The rows left out would have no gradient: AdamW would do nothing to them but weight decay, the same to all. A last
    row, of no token, begins as ones and so ends as the factor by which decay would have scaled them.

    Args:
        table: the full table; it is kept as it is.
        tokens: that may be looked up, in any order.

    Shape:
        tokens: (any,) int64
    """

    def __init__(self, table: Vocabulary, tokens: Tensor) -> None:
        rows = torch.unique(tokens)
        full = table.weight.detach()
        weight = torch.cat([full[rows], torch.ones_like(full[:1])])
        nn.Module.__init__(self)
        self.weight = nn.Parameter(weight)
        self._rows, self._table = rows, full
        row_of = torch.full((len(full),), -1).index_copy_(0, rows, torch.arange(len(rows)))
        self.row_of: Tensor
        self.register_buffer("row_of", row_of)  # in checkpoints: it says which tokens the rows are of

    @property
    def size(self) -> int:
        """Number of tokens of the full table."""
        return len(self._table)

    def lookup(self, tokens: Tensor) -> Tensor:
        """Shape: any int64 -> (..., width)."""
        return F.embedding(self.row_of[tokens], self.weight)

    def restore(self) -> Vocabulary:
        """The table with what the rows have learned."""
        learned = self.weight.detach().to(self._table.device)
        table = (self._table * learned[-1]).index_copy_(0, self._rows, learned[:-1])
        return Vocabulary.of(nn.Parameter(table))
