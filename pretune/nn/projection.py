"""The linear map that surgery replaces: called with the layout, so that a replacement may look at it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune.batch import Layout


class Projection(nn.Linear):
    """`nn.Linear` called as every brick is."""

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        """Shape: (T, in) -> (T, out)."""
        return F.linear(x, self.weight, self.bias)


def in_matmul_dtype(x: Tensor) -> Tensor:
    """Casts a run to the dtype of the matmuls, once where several of them read it (autocast would cast for each)."""
    if torch.is_autocast_enabled(x.device.type):
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x
