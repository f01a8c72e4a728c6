"""Factors: a constant one, and learned ones of a projection's input or output, one a column."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.projection import ProjectionBrick, device_of
from pretune.nn.tuned import LowRankChange, TunedProjection


class Scale(nn.Module):
    """Multiplies rows by a constant, as T5 does before a vocabulary whose vectors are those of the embedding."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, rows: Tensor) -> Tensor:
        """Shape: (K, width) -> (K, width)."""
        return rows * self.factor


class ScaledOutput(TunedProjection):
    """Multiplies what a projection answers, its bias included, by a learned vector that begins as ones.

    Source: Liu et al. 2022, (IA)^3, arXiv 2205.05638.

    Args:
        base: what stands at the place; it is expected to be frozen.

    Shape:
        scale: (out,)
    """

    def __init__(self, base: ProjectionBrick) -> None:
        super().__init__(base)
        self.scale = nn.Parameter(torch.ones(base.out_features, device=device_of(base)))

    def change(self, x: Tensor, y: Tensor, layout: Layout | None) -> Tensor:
        """Shape: x: (T, in); y, return: (T, out)."""
        return (y * self.scale).to(y.dtype)  # in fp32: in bf16 a factor near 1 would be 1

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """The matrix and bias with scaled rows. Shape: (out, in), (out,)."""
        weight, bias = self.projection.dense()
        scaled = (weight * self.scale[:, None]).to(weight.dtype)
        return scaled, None if bias is None else (bias * self.scale).to(bias.dtype)

    def low_rank(self) -> LowRankChange:
        """The factors, and a product of rank 0."""
        return LowRankChange(self.scale.new_empty(0, self.in_features), self.scale[:, None][:, :0], self.scale)

    def flops(self, rows: float) -> float:
        """Those of the base and of the product."""
        return super().flops(rows) + self.out_features * rows


class ScaledInput(TunedProjection):
    """Multiplies what a projection reads by a learned vector that begins as ones.

    Source: Liu et al. 2022, (IA)^3, arXiv 2205.05638, of the feed-forward's inner run.

    Args:
        base: what stands at the place; it is expected to be frozen.

    Shape:
        scale: (in,)
    """

    def __init__(self, base: ProjectionBrick) -> None:
        super().__init__(base)
        self.scale = nn.Parameter(torch.ones(base.in_features, device=device_of(base)))

    def read(self, x: Tensor, layout: Layout | None) -> Tensor:
        """Shape: (T, in) -> same."""
        return (x * self.scale).to(x.dtype)

    def change(self, x: Tensor, y: Tensor, layout: Layout | None) -> Tensor:
        """Leaves the answer as it is. Shape: x: (T, in); y, return: (T, out)."""
        return y

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """The matrix with scaled columns, and the bias. Shape: (out, in), (out,)."""
        weight, bias = self.projection.dense()
        return (weight * self.scale).to(weight.dtype), bias

    def flops(self, rows: float) -> float:
        """Those of the base and of the product."""
        return super().flops(rows) + self.in_features * rows
