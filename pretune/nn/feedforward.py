"""The position-wise network of a block."""

from __future__ import annotations

from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.activation import Activation
from pretune.nn.projection import Projection


class FeedForward(nn.Module):
    """Up, activation, down.

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
