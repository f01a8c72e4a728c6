"""Rotary positions: each pair of a head's values is turned by an angle that grows with the token's position.

Scores of a query and a key then depend on the distance between them alone.

Source: Su et al. 2021, arXiv 2104.09864; pairs are value n and value n + half, as in GPT-NeoX and all that followed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pretune.batch import Layout


class Rotary(nn.Module):
    """Turns queries or keys, before their product.

    Args:
        width: of a head, even.
        theta: base of the wave lengths, which go from 2 pi to 2 pi theta.
    """

    def __init__(self, width: int, theta: float) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"rotary positions need an even head width, got {width}")
        self.width = width
        self.theta = theta

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Shape: (T, H, width) -> (T, H, width)."""
        cosine, sine = self._waves(layout, x.dtype)
        turned: Tensor = _Turn.apply(x, cosine, sine)  # type: ignore[no-untyped-call]
        return turned

    def _waves(self, layout: Layout, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine of each position's angles, made once for all layers. Shape: (T, 1, width / 2) each."""
        key = (Rotary, self.width, self.theta, dtype)
        if key not in layout.memo:
            exponent = torch.arange(0, self.width, 2, device=layout.positions.device) / self.width
            angle = layout.positions[:, None].float() * (1.0 / self.theta**exponent)
            layout.memo[key] = tuple(wave.to(dtype)[:, None] for wave in (angle.cos(), angle.sin()))
        cosine, sine = layout.memo[key]
        return cosine, sine

    def extra_repr(self) -> str:
        """For the module tree."""
        return f"width={self.width}, theta={self.theta:g}"


class _Turn(torch.autograd.Function):
    """Keeps nothing of its input: the backward turns the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _turn(x, cosine, sine, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _turn(grads[0], cosine, sine, -1), None, None


def _turn(x: Tensor, cosine: Tensor, sine: Tensor, way: int) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    left, right = out.chunk(2, dim=-1)
    torch.mul(first, cosine, out=left).addcmul_(second, sine, value=-way)
    torch.mul(second, cosine, out=right).addcmul_(first, sine, value=way)
    return out
