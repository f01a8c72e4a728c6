"""Dropout of a hidden run, and dropout joined with the addition to the residual run."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """Drop a share of the values while training, and scale the rest."""

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Shape: any -> same."""
        return F.dropout(x, self.p, self.training) if self.p else x

    def add(self, update: Tensor, residual: Tensor) -> Tensor:
        """`residual + dropout(update)`. Shape: (T, width) twice -> (T, width)."""
        dropped: Tensor = self(update)
        return residual + dropped

    def extra_repr(self) -> str:
        """The share, for the module tree."""
        return f"p={self.p}"
