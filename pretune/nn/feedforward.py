"""The feed-forward networks of a block, plain and gated."""

from __future__ import annotations

from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.activation import Activation
from pretune.nn.projection import Projection, in_matmul_dtype


class FeedForward(nn.Module):
    """Projects up, applies the activation, projects down.

    Args:
        width: of the hidden run.
        inner: width between the two projections.
    """

    def __init__(self, width: int, inner: int, activation: Activation, *, bias: bool = True) -> None:
        super().__init__()
        self.up = Projection(width, inner, bias=bias)
        self.down = Projection(inner, width, bias=bias)
        self.activation = activation

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Shape: (T, width) -> (T, width)."""
        return self.down(self.activation(self.up(x, layout)), layout)  # type: ignore[no-any-return]


class GatedFeedForward(nn.Module):
    """Multiplies two projections up, a gate through the activation and a value; then projects down.

    Source: Shazeer 2020, arXiv 2002.05202; GeGLU with GELU, SwiGLU with SiLU.

    Args:
        width: of the hidden run.
        inner: width of each projection up.
    """

    def __init__(self, width: int, inner: int, activation: Activation, *, bias: bool = True) -> None:
        super().__init__()
        self.gate = Projection(width, inner, bias=bias)
        self.value = Projection(width, inner, bias=bias)
        self.down = Projection(inner, width, bias=bias)
        self.activation = activation

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Shape: (T, width) -> (T, width)."""
        x = in_matmul_dtype(x)
        return self.down(self.activation(self.gate(x, layout)) * self.value(x, layout), layout)  # type: ignore[no-any-return]
