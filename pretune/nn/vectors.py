"""Bricks that make one vector of a text's rows: poolings, and the layers that may come before and after them.

They compute what the modules of `sentence-transformers` compute, on ragged runs, and keep the names of its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.errors import UsageError
from pretune.nn.splade import SparseActivation, SparsePooling

PoolingMode = Literal["mean", "cls", "last", "max", "weightedmean", "mean_sqrt_len_tokens"]
"""What makes one vector of a sequence's rows: their mean, the first, the last, the largest values, the mean weighted by
position, the sum over the square root of their number."""

Feature = Literal["token_embeddings", "sentence_embedding"]
"""What a module reads or writes: the rows of all tokens, or the vectors of the texts."""


@dataclass
class TextFeatures:
    """Holds what modules hand on to each other.

    Attributes:
        rows: (T, width), of all tokens.
        layout: of the rows.
        prompt: tokens at the beginning of each text that are the prompt's.
        vectors: (N, width), once a module made them.
    """

    rows: Tensor
    layout: Layout
    prompt: int = 0
    vectors: Tensor | None = None

    def read(self, feature: Feature) -> Tensor:
        """The rows, or the vectors."""
        if feature == "token_embeddings":
            return self.rows
        assert self.vectors is not None  # the order of modules was checked when they were read
        return self.vectors

    def write(self, feature: Feature, value: Tensor) -> None:
        """Puts other rows or vectors into their place."""
        if feature == "token_embeddings":
            self.rows = value
        else:
            self.vectors = value


class VectorBrick(nn.Module):
    """Base of the modules.

    Args:
        reads, writes: what it works on.
    """

    def __init__(self, reads: Feature = "sentence_embedding", writes: Feature | None = None) -> None:
        super().__init__()
        self.reads: Feature = reads
        self.writes: Feature = reads if writes is None else writes

    def width(self, width: int) -> int:
        """The width of what it gives for rows or vectors of some width."""
        return width

    def compute(self, value: Tensor) -> Tensor:
        """Shape: (n, width) -> (n, another width)."""
        raise NotImplementedError

    def forward(self, features: TextFeatures) -> None:
        """Reads one feature and writes one."""
        features.write(self.writes, self.compute(features.read(self.reads)))


class Pooling(VectorBrick):
    """One or several poolings, side by side.

    Args:
        modes: in the order of the parts of the vector.
        include_prompt: count the rows of the prompt.
    """

    def __init__(self, modes: Sequence[PoolingMode], include_prompt: bool = True) -> None:
        super().__init__("token_embeddings", "sentence_embedding")
        self.modes, self.include_prompt = tuple(modes), include_prompt

    def width(self, width: int) -> int:
        """As many widths as there are poolings."""
        return len(self.modes) * width

    def forward(self, features: TextFeatures) -> None:
        """Pools the rows of each text."""
        skip = 0 if self.include_prompt else features.prompt
        parts = [pool(features.rows, features.layout, mode, skip) for mode in self.modes]
        features.vectors = torch.cat(parts, dim=1)


class SparsePool(VectorBrick):
    """Makes a weight for each token of the vocabulary of its scores in all rows of a text: see `nn.splade`.

    Args:
        mode: the largest score, or the sum over rows.
        activation: of the scores.
    """

    def __init__(self, mode: SparsePooling = "max", activation: SparseActivation = "relu") -> None:
        super().__init__("token_embeddings", "sentence_embedding")
        self.mode: SparsePooling = mode
        self.activation: SparseActivation = activation

    def width(self, width: int) -> int:
        """None: it gives no vectors of rows.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "this model makes sparse vectors: use Model.embed_sparse (pretune embed), or name a pooling of its last "
            "layer's rows"
        )


class Dense(VectorBrick):
    """A linear layer with an activation, and optionally a residual branch around it."""

    def __init__(
        self,
        inner: int,
        outer: int,
        bias: bool,
        activation: nn.Module,
        residual: bool = False,
        reads: Feature = "sentence_embedding",
    ) -> None:
        super().__init__(reads)
        self.linear = nn.Linear(inner, outer, bias=bias)
        self.activation = activation
        self.has_residual = residual
        if residual and inner != outer:
            self.residual = nn.Linear(inner, outer, bias=False)

    def width(self, width: int) -> int:
        """That of the layer."""
        return self.linear.out_features

    def compute(self, value: Tensor) -> Tensor:
        """Shape: (n, inner) -> (n, outer)."""
        out: Tensor = self.activation(self.linear(value))
        if not self.has_residual:
            return out
        return out + (self.residual(value) if hasattr(self, "residual") else value)


class Normalize(VectorBrick):
    """Scales each row or vector to length 1."""

    def compute(self, value: Tensor) -> Tensor:
        """Shape: (n, width) -> (n, width)."""
        return F.normalize(value, dim=-1)


class VectorNorm(VectorBrick):
    """Layer normalization of the vectors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def compute(self, value: Tensor) -> Tensor:
        """Shape: (n, width) -> (n, width)."""
        out: Tensor = self.norm(value)
        return out


def pool(rows: Tensor, layout: Layout, mode: PoolingMode, skip: int = 0) -> Tensor:
    """Makes one vector of each sequence's rows.

    Args:
        skip: rows at the beginning of each sequence that are left out, fewer than each has.

    Shape:
        rows: (T, width); return: (N, width)
    """
    if mode == "last":
        return rows[layout.last]
    if mode == "cls":
        return rows[layout.first + skip]
    lengths = layout.offsets.diff().long() - skip
    positions = layout.positions
    if skip:
        rows, positions = rows[positions >= skip], positions[positions >= skip]
    if mode in ("mean", "max"):
        return torch.segment_reduce(rows, mode, lengths=lengths)
    if mode == "weightedmean":
        weights = (positions + 1).to(rows.dtype)
        total = torch.segment_reduce(rows * weights[:, None], "sum", lengths=lengths)
        return total / torch.segment_reduce(weights, "sum", lengths=lengths)[:, None]
    return torch.segment_reduce(rows, "sum", lengths=lengths) / lengths.to(rows.dtype).sqrt()[:, None]
