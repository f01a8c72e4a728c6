"""Low-rank changes of projections: LoRA, and its form that learns lengths and directions apart (DoRA)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.dropout import Dropout
from pretune.nn.projection import ProjectionBrick
from pretune.nn.tuned import TunedProjection


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
        device = base.dense()[0].device
        self.a = nn.Parameter(torch.empty(rank, base.in_features, device=device))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.scale = scale
        self.dropout = Dropout(dropout)

    @property
    def rank(self) -> int:
        """Rows of `a`."""
        return len(self.a)

    def low(self, x: Tensor, layout: Layout | None) -> Tensor:
        """What `b` multiplies by. Shape: (T, in) -> (T, rank)."""
        x = self.dropout(x, None if layout is None else layout.keys)
        return F.linear(x, self.a) * self.scale

    def change(self, x: Tensor, y: Tensor, layout: Layout | None) -> Tensor:
        """Shape: x: (T, in); y, return: (T, out)."""
        return torch.addmm(y, self.low(x, layout), self.b.t())

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """The matrix with the product added, and the bias. Shape: (out, in), (out,)."""
        weight, bias = self.projection.dense()
        return add_product(weight, self.b, self.a, self.scale), bias

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

    def change(self, x: Tensor, y: Tensor, layout: Layout | None) -> Tensor:
        """Shape: x: (T, in); y, return: (T, out)."""
        factor = self.magnitude / self._norm()
        bias = self.projection.dense()[1]
        own = y if bias is None else y - bias
        return y + ((factor - 1) * own + factor * F.linear(self.low(x, layout), self.b)).to(y.dtype)

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """Shape: (out, in), (out,)."""
        weight, bias = super().dense()
        return (self.magnitude / self._norm())[:, None] * weight, bias


def add_product(weight: Tensor, b: Tensor, a: Tensor, scale: float) -> Tensor:
    """`weight + scale * b @ a`, in the dtype of the weight. Shape: (out, in), (out, rank), (rank, in) -> (out, in)."""
    return torch.addmm(weight, b.to(weight.dtype), a.to(weight.dtype), alpha=scale)
