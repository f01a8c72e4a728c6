"""Bottleneck adapters: two narrow projections with an activation between, at three places of a branch.

    houlsby:  y + f(y)          at the end of the branch, before its residual connection
    pfeiffer: norm(s + f(norm(s)))  at the norm behind it, which reads the residual stream s
    parallel: y + f(x)          beside the branch, from what stands in the residual stream before it

`f` begins as zero, so a model is at first what it was.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.activation import Activation
from pretune.nn.dropout import Dropout
from pretune.nn.projection import Projection, ProjectionBrick
from pretune.nn.tuned import Nothing, TunedBrick, TunedProjection


class Bottleneck(nn.Module):
    """Projects down, applies an activation, projects up, scales.

    Args:
        width: of what it reads and answers.
        inner: width between the projections.
        scale: factor of the answer.
        dropout: rate at which the answer is dropped while training.
        device: of its weights.

    Source: Houlsby et al. 2019, arXiv 1902.00751; the initial values of He et al. 2021, arXiv 2110.04366.
    """

    def __init__(
        self,
        width: int,
        inner: int,
        activation: Activation,
        scale: float = 1.0,
        dropout: float = 0.0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        down, up = torch.empty(inner, width, device=device), torch.zeros(width, inner, device=device)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        self.down = Projection.of(down, torch.zeros(inner, device=device))
        self.up = Projection.of(up, torch.zeros(width, device=device))
        self.activation = activation
        self.scale = scale
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        """Shape: (T, width) -> (T, width)."""
        out = self.up(self.activation(self.down(x, layout)), layout)
        if self.scale != 1:
            out = out * self.scale
        return self.dropout(out, None if layout is None else layout.keys)  # type: ignore[no-any-return]

    def flops(self, rows: float) -> float:
        """Those of both projections."""
        return self.down.flops(rows) + self.up.flops(rows)


class SerialAdapter(TunedProjection):
    """Adds a bottleneck of a projection's answer to it; the projection ends a branch.

    Source: Houlsby et al. 2019, arXiv 1902.00751.

    Args:
        base: what stands at the place; it is expected to be frozen.
    """

    def __init__(self, base: ProjectionBrick, bottleneck: Bottleneck) -> None:
        super().__init__(base)
        self.bottleneck = bottleneck

    def change(self, x: Tensor, y: Tensor, layout: Layout | None) -> Tensor:
        """Shape: x: (T, in); y, return: (T, out)."""
        return y + self.bottleneck(y, layout)  # type: ignore[no-any-return]

    def flops(self, rows: float) -> float:
        """Those of the base and of the bottleneck."""
        return super().flops(rows) + self.bottleneck.flops(rows)


class NormAdapter(TunedBrick[nn.Module]):
    """Adds a bottleneck of the normed residual stream to the stream, behind a branch, and norms again.

    Where there is no norm behind branches, as in GPT-2, it adds a bottleneck of the residual stream.

    Source: Pfeiffer et al. 2020, arXiv 2005.00247.

    Args:
        base: the norm that stands there; it is expected to be frozen.
    """

    def __init__(self, base: nn.Module, bottleneck: Bottleneck) -> None:
        super().__init__(base)
        self.bottleneck = bottleneck

    def change(self, x: Tensor, y: Tensor, layout: Layout | None) -> Tensor:
        """Shape: x, y, return: (T, width)."""
        return self.answer(x + self.bottleneck(y, layout), layout)


class ParallelAdapter(TunedBrick[Nothing]):
    """Adds a bottleneck of the residual stream to what a feed-forward answers that begins at the same stream.

    Source: He et al. 2021, arXiv 2110.04366, section 4.

    Args:
        base: what stood beside the feed-forward.
    """

    def __init__(self, base: Nothing, bottleneck: Bottleneck) -> None:
        super().__init__(base)
        self.bottleneck = bottleneck

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        """Shape: (T, width) -> (T, width)."""
        return self.bottleneck(x, layout)  # type: ignore[no-any-return]

    def change(self, x: Tensor, y: Tensor, layout: Layout | None) -> Tensor:
        """Shape: x, y, return: (T, width)."""
        return y + self.bottleneck(x, layout)  # type: ignore[no-any-return]
