"""Low-rank changes of projections and of vocabularies: LoRA, and DoRA, which learns lengths apart from directions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.cross_entropy import linear_cross_entropy, sampled_cross_entropy
from pretune.nn.dropout import Dropout
from pretune.nn.packed import Product, constant_product
from pretune.nn.projection import ProjectionBrick, bias_of, device_of, is_packed
from pretune.nn.tuned import Change, LowRankChange, TunedProjection
from pretune.nn.vocabulary import VocabularyBrick, values_for

_SHORTEST = 1e-30  # a length that divides, so that what is zero everywhere, as after pruning, stays zero


class LowRankProjection(TunedProjection):
    """Adds `scale * b @ a` to the matrix of a projection, without ever forming it.

    `b` begins as zeros, so the projection is at first what it was.

    Source: Hu et al. 2021, LoRA, arXiv 2106.09685; `a` begins as in the authors' code.

    Args:
        base: what stands at the place; it is expected to be frozen.
        rank: columns of `b`, rows of `a`.
        scale: factor of the product.
        dropout: rate at which the input of `a` is dropped while training.

    Shape:
        a: (rank, in); b: (out, rank)
    """

    def __init__(self, base: ProjectionBrick, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__(base)
        device = device_of(base)
        self.a = nn.Parameter(torch.empty(rank, base.in_features, device=device))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.scale = scale
        self.dropout = Dropout(dropout)

    @property
    def rank(self) -> int:
        """Rows of `a`."""
        return len(self.a)

    @property
    def right(self) -> Tensor:
        """The right factor of the product, whose left one is `b`. Shape: (rank, in)."""
        return self.a * self.scale

    def low(self, x: Tensor, layout: Layout | None) -> Tensor:
        """What `b` multiplies by. Shape: (T, in) -> (T, rank)."""
        return F.linear(self.dropout(x, None if layout is None else layout.keys), self.right)

    def change(self, x: Tensor, y: Tensor, layout: Layout | None) -> Tensor:
        """Shape: x: (T, in); y, return: (T, out)."""
        return torch.addmm(y, self.low(x, layout), self.b.t())

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """The matrix with the product added, and the bias. Shape: (out, in), (out,)."""
        weight, bias = self.projection.dense()
        return add_product(weight, self.b, self.right), bias

    @torch.no_grad()
    def low_rank(self) -> LowRankChange | None:
        """The product as it is now."""
        return LowRankChange(self.right.detach(), self.b.detach())

    def flops(self, rows: float) -> float:
        """Those of the base and of two thin matmuls."""
        return super().flops(rows) + 2.0 * self.rank * (self.in_features + self.out_features) * rows

    def extra_repr(self) -> str:
        """Shows rank and scale in the module tree."""
        return f"rank={self.rank}, scale={self.scale:g}"


class DecomposedProjection(LowRankProjection):
    """Learns the length of each row of the matrix apart from its direction, which a low-rank product changes.

    The matrix is `magnitude * v / |v|` for each row `v` of the base's matrix with the product added. The norm counts as
    a constant in the gradient. Dropout is for the low-rank part alone; the authors drop what the base reads too, which
    takes a second matmul of full size.

    Source: Liu et al. 2024, DoRA, arXiv 2402.09353, section 4.3 for the gradient.

    Args:
        base, rank, scale, dropout: as of `LowRankProjection`.

    Shape:
        magnitude: (out,)
    """

    def __init__(self, base: ProjectionBrick, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__(base, rank, scale, dropout)
        self.magnitude = nn.Parameter(self._norm())

    def _norm(self) -> Tensor:
        """The length of each row of the matrix before it is set. Shape: (out,)."""
        with torch.no_grad(), torch.autocast(self.a.device.type, enabled=False):
            norm: Tensor = torch.linalg.vector_norm(super().dense()[0], dim=1)
        return norm

    @property
    def factor(self) -> Tensor:
        """What each row is multiplied by; the norm counts as a constant. Shape: (out,)."""
        return self.magnitude / self._norm().clamp_min(_SHORTEST)

    def change(self, x: Tensor, y: Tensor, layout: Layout | None) -> Tensor:
        """Shape: x: (T, in); y, return: (T, out)."""
        factor, bias = self.factor, bias_of(self.projection)
        own = y if bias is None else y - bias
        return y + ((factor - 1) * own + factor * F.linear(self.low(x, layout), self.b)).to(y.dtype)

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """Shape: (out, in), (out,)."""
        weight, bias = super().dense()
        return self.factor[:, None] * weight, bias

    @torch.no_grad()
    def low_rank(self) -> LowRankChange | None:
        """The product and what it is scaled by, as they are now."""
        factor, bias = self.factor.to(self.b.dtype), bias_of(self.projection)
        offset = None if bias is None else (1 - factor) * bias
        return LowRankChange(self.right, factor[:, None] * self.b, factor, offset)

    def constant_change(self) -> Change:
        """Does the same with factors that are computed once."""
        factor, bias = self.factor.detach(), bias_of(self.projection)
        offset, right = 0.0 if bias is None else (1 - factor) * bias.detach(), self.right.detach()
        left = (factor[:, None] * self.b.detach()).to(right.dtype).t()

        def change(x: Tensor, y: Tensor, layout: Layout | None) -> Tensor:
            return torch.addmm((y * factor + offset).to(y.dtype), F.linear(x, right), left)

        return change


def add_product(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`weight + left @ right`, in the dtype of the weight. Shape: (out, in), (out, rank), (rank, in) -> (out, in)."""
    return torch.addmm(weight, left.to(weight.dtype), right.to(weight.dtype))


class LowRankVocabulary(nn.Module):
    """Adds `scale * b @ a` to the vectors of a vocabulary, for the embedding and for the heads that it serves.

    Losses take the product as it is: neither the sum nor, where the base is frozen, its gradient is ever formed.
    Nothing is dropped: a vocabulary does not know of which rows of a batch its tokens are.

    Args:
        base: a vocabulary, which is expected to be frozen.
        rank, scale: as of `LowRankProjection`.

    Shape:
        a: (rank, width); b: (V, rank)
    """

    def __init__(self, base: VocabularyBrick, rank: int, scale: float) -> None:
        super().__init__()
        if not isinstance(base, nn.Module):
            raise TypeError(f"what stands at a vocabulary's place must be a module, not {type(base).__name__}")
        self.base: nn.Module = base
        device = device_of(base)
        self.a = nn.Parameter(torch.empty(rank, base.width, device=device))
        self.b = nn.Parameter(torch.zeros(base.size, rank, device=device))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.scale = scale

    @property
    def vocabulary(self) -> VocabularyBrick:
        """The base as what it is."""
        assert isinstance(self.base, VocabularyBrick)
        return self.base

    @property
    def is_packed(self) -> bool:
        """Whether its base holds its table packed."""
        return is_packed(self.base)

    @property
    def rank(self) -> int:
        """Rows of `a`."""
        return len(self.a)

    @property
    def size(self) -> int:
        """Number of tokens, V."""
        return self.vocabulary.size

    @property
    def width(self) -> int:
        """Width of the vectors."""
        return self.vocabulary.width

    @property
    def right(self) -> Tensor:
        """The right factor of the product, whose left one is `b`. Shape: (rank, width)."""
        return self.a * self.scale

    def low(self, rows: Tensor) -> Tensor:
        """What `b` multiplies by in a head. Shape: (K, width) -> (K, rank)."""
        return F.linear(rows, self.right)

    def lookup(self, tokens: Tensor) -> Tensor:
        """Shape: (T,) int64 -> (T, width)."""
        return self.vocabulary.lookup(tokens) + F.embedding(tokens, self.b) @ self.right

    def scores(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """Shape: rows: (K, width), bias: (V,) -> (K, V)."""
        return torch.addmm(self.vocabulary.scores(rows, bias), self.low(rows), self.b.t())

    def loss(
        self, rows: Tensor, labels: Tensor, bias: Tensor | None = None, smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Shape: rows: (K, width), labels: (K,) int64 -> () fp32, () int64."""
        low = (self.low(rows), self.b)
        table = values_for(self.vocabulary, rows)
        return linear_cross_entropy(rows, table, bias, labels, low_rank=low, smoothing=smoothing)

    def sampled_loss(
        self, rows: Tensor, labels: Tensor, uniform: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Shape: uniform: (K,) fp64 in [0, 1); return: loss, correct, (K,) int64."""
        low = (self.low(rows), self.b)
        return sampled_cross_entropy(rows, values_for(self.vocabulary, rows), bias, labels, uniform, low_rank=low)

    def row(self, ids: Tensor) -> Tensor:
        """Shape: any int64 -> (..., width)."""
        return self.vocabulary.row(ids) + self.b[ids] @ self.right

    def dense(self) -> Tensor:
        """The vectors with the product added. Shape: (V, width)."""
        return add_product(self.vocabulary.dense(), self.b, self.right)

    def product(self, bias: Tensor | None = None) -> Product:
        """Multiplies by the sum; where the base is packed, by it and by the product. Shape: (K, width) -> (K, V)."""
        if not is_packed(self.base):
            return constant_product(self.dense(), bias)
        base, right, left = self.vocabulary.product(bias), self.right.detach(), self.b.detach().t()

        def scores(rows: Tensor) -> Tensor:
            y = base(rows)
            return torch.addmm(y, F.linear(rows.to(right.dtype), right).to(y.dtype), left.to(y.dtype))

        return scores

    def flops(self, rows: float) -> float:
        """Those of the base and of two thin matmuls."""
        return self.vocabulary.flops(rows) + 2.0 * self.rank * (self.size + self.width) * rows

    def reset_parameters(self, std: float) -> None:
        """Draws initial values of the base."""
        self.vocabulary.reset_parameters(std)

    def extra_repr(self) -> str:
        """Shows rank and scale in the module tree."""
        return f"rank={self.rank}, scale={self.scale:g}"


class DecomposedVocabulary(LowRankVocabulary):
    """Learns the length of each column of the vectors apart from its direction, as `DecomposedProjection` does of rows.

    Columns, and not tokens, as peft has it for embeddings: so one factor a column serves lookup and scores alike.

    Args:
        base, rank, scale: as of `LowRankVocabulary`.

    Shape:
        magnitude: (width,)
    """

    def __init__(self, base: VocabularyBrick, rank: int, scale: float) -> None:
        super().__init__(base, rank, scale)
        self.magnitude = nn.Parameter(self._norm())

    def _norm(self) -> Tensor:
        """The length of each column before it is set. Shape: (width,)."""
        with torch.no_grad(), torch.autocast(self.a.device.type, enabled=False):
            norm: Tensor = torch.linalg.vector_norm(super().dense(), dim=0)
        return norm

    @property
    def factor(self) -> Tensor:
        """What each column is multiplied by; the norm counts as a constant. Shape: (width,)."""
        return self.magnitude / self._norm().clamp_min(_SHORTEST)

    def lookup(self, tokens: Tensor) -> Tensor:
        """Shape: (T,) int64 -> (T, width)."""
        return super().lookup(tokens) * self.factor

    def scores(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """Shape: rows: (K, width), bias: (V,) -> (K, V)."""
        return super().scores(rows * self.factor, bias)

    def loss(
        self, rows: Tensor, labels: Tensor, bias: Tensor | None = None, smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Shape: rows: (K, width), labels: (K,) int64 -> () fp32, () int64."""
        return super().loss(rows * self.factor, labels, bias, smoothing)

    def sampled_loss(
        self, rows: Tensor, labels: Tensor, uniform: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Shape: uniform: (K,) fp64 in [0, 1); return: loss, correct, (K,) int64."""
        return super().sampled_loss(rows * self.factor, labels, uniform, bias)

    def row(self, ids: Tensor) -> Tensor:
        """Shape: any int64 -> (..., width)."""
        return super().row(ids) * self.factor

    def dense(self) -> Tensor:
        """Shape: (V, width)."""
        return super().dense() * self.factor

    def product(self, bias: Tensor | None = None) -> Product:
        """Shape: (K, width) -> (K, V)."""
        if not is_packed(self.base):
            return constant_product(self.dense(), bias)
        scores, factor = super().product(bias), self.factor.detach()
        return lambda rows: scores((rows * factor).to(rows.dtype))
