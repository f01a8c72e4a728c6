"""Rotary positions: each pair of a head's values is rotated by an angle that grows with the token's position.

Scores of a query and a key then depend on the distance between them alone. Scalings lower the frequencies of a trained
model, so that it reads longer texts than those it was trained on.

Source: Su et al. 2021, arXiv 2104.09864; pairs are value n and value n + half, as in GPT-NeoX and all that followed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from pretune.batch import Layout


@dataclass(frozen=True)
class Scaling:
    """Changes the frequencies of the rotation; the base changes nothing."""

    def apply(self, frequency: Tensor, theta: float) -> Tensor:
        """Shape: (width / 2,) radians a position, falling -> the same."""
        return frequency

    @property
    def amplitude(self) -> float:
        """Factor of queries and keys."""
        return 1.0


@dataclass(frozen=True)
class Linear(Scaling):
    """Moves all positions closer together.

    Source: Chen et al. 2023, arXiv 2306.15595.
    """

    factor: float

    def apply(self, frequency: Tensor, theta: float) -> Tensor:
        """Divides all frequencies."""
        return frequency / self.factor


@dataclass(frozen=True)
class Llama3(Scaling):
    """Lowers low frequencies, keeps high ones and interpolates those between.

    Source: Grattafiori et al. 2024 (arXiv 2407.21783) and meta-llama/llama-models.

    Attributes:
        low, high: rotations within the original context below and above which a frequency is low or high.
        original: positions that the model was trained with.
    """

    factor: float
    low: float
    high: float
    original: int

    def apply(self, frequency: Tensor, theta: float) -> Tensor:
        """Decides by wavelength."""
        wavelength = 2 * math.pi / frequency
        smooth = (self.original / wavelength - self.low) / (self.high - self.low)
        between = (1 - smooth) * frequency / self.factor + smooth * frequency
        lowered = torch.where(wavelength > self.original / self.low, frequency / self.factor, between)
        return torch.where(wavelength < self.original / self.high, frequency, lowered)


@dataclass(frozen=True)
class Yarn(Scaling):
    """Lowers the frequencies by a ramp over the pairs, and enlarges queries and keys.

    Source: Peng et al. 2023, arXiv 2309.00071.

    Attributes:
        fast, slow: rotations within the original context at which the ramp begins and ends.
        original: positions that the model was trained with.
        attention: factor of queries and keys; None for the paper's.
        whole: the ramp begins and ends at whole indices.
    """

    factor: float
    original: int
    fast: float = 32.0
    slow: float = 1.0
    attention: float | None = None
    whole: bool = True

    def apply(self, frequency: Tensor, theta: float) -> Tensor:
        """Decides by the index of the pair."""
        width = 2 * len(frequency)
        indices = [
            width * math.log(self.original / (rotations * 2 * math.pi)) / (2 * math.log(theta))
            for rotations in (self.fast, self.slow)
        ]
        if self.whole:
            indices = [math.floor(indices[0]), math.ceil(indices[1])]
        begin, end = max(indices[0], 0), min(indices[1], width - 1)
        pair = torch.arange(len(frequency), dtype=torch.float32, device=frequency.device)
        ramp = ((pair - begin) / (end - begin or 1e-3)).clamp(0, 1)
        return frequency / self.factor * ramp + frequency * (1 - ramp)

    @property
    def amplitude(self) -> float:
        """Grows with the factor."""
        if self.attention is not None:
            return self.attention
        return 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0


class Rotary(nn.Module):
    """Rotates queries or keys, before their scores.

    Args:
        width: of a head, even.
        theta: base of the wavelengths, which go from 2 pi to 2 pi theta.
        scaling: of the frequencies.
    """

    def __init__(self, width: int, theta: float, scaling: Scaling | None = None) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"rotary positions need an even head width, got {width}")
        self.width = width
        self.theta = theta
        self.scaling = scaling or Scaling()

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Shape: (T, H, width) -> (T, H, width)."""
        cosine, sine = self._angles(layout, x.dtype)
        rotated: Tensor = _Rotate.apply(x, cosine, sine)  # type: ignore[no-untyped-call]
        return rotated

    def frequencies(self, device: torch.device | str = "cpu") -> Tensor:
        """Radians a position, of each pair. Shape: (width / 2,) fp32."""
        exponent = torch.arange(0, self.width, 2, device=device) / self.width
        return self.scaling.apply(1.0 / self.theta**exponent, self.theta)

    def _angles(self, layout: Layout, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Computes cosine and sine of each position's angles, once for all layers. Shape: (T, 1, width / 2) each."""
        key = (Rotary, self.width, self.theta, self.scaling, dtype)
        if key not in layout.memo:
            angle = layout.positions[:, None].float() * self.frequencies(layout.positions.device)
            parts = (angle.cos() * self.scaling.amplitude, angle.sin() * self.scaling.amplitude)
            layout.memo[key] = tuple(part.to(dtype)[:, None] for part in parts)
        return cast(tuple[Tensor, Tensor], layout.memo[key])

    def extra_repr(self) -> str:
        """For the module tree."""
        return f"width={self.width}, theta={self.theta:g}"


class PartialRotary(Rotary):
    """Rotates the first values of a head and leaves the others as they are.

    Args:
        width: of the rotated part, even.
        theta, scaling: as of `Rotary`.

    Source: Wang and Komatsuzaki 2021, GPT-J-6B; Black et al. 2022, arXiv 2204.06745.
    """

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Shape: (T, H, head width) -> (T, H, head width)."""
        return torch.cat([super().forward(x[..., : self.width], layout), x[..., self.width :]], dim=-1)


class _Rotate(torch.autograd.Function):
    """Keeps nothing of its input: the backward rotates the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _rotate(x, cosine, sine, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _rotate(grads[0], cosine, sine, -1), None, None


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor, direction: int) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    left, right = out.chunk(2, dim=-1)
    torch.mul(first, cosine, out=left).addcmul_(second, sine, value=-direction)
    torch.mul(second, cosine, out=right).addcmul_(first, sine, value=direction)
    return out
