"""AWQ: activation-aware weight quantization, which makes the columns of large inputs larger before it rounds.

A factor for each input, a power of its mean size, multiplies the columns of all projections that read it, and divides
the input itself: the model computes the same, but the error of what matters more is smaller. The power is searched by
the error of the output. Then scales are searched, each weighted by the inputs' squares (the clipping of the paper).

Where no norm and no projection gives the inputs alone, such as after an activation, factors have no place to be folded
into, and stay 1.

Source: Lin et al. 2023, arXiv 2306.00978, section 3.2; the grid of its code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from pretune import config
from pretune.compress.values.inputs import Inputs, output_square
from pretune.compress.values.method import inputs_of, levels_of
from pretune.compress.values.scales import search_scales, spread, to_levels
from pretune.nn.formats.format import Format

NEEDS_INPUTS = True


class Config(config.Config):
    """How factors are searched.

    Attributes:
        grid: number of powers from 0 to 1 that are tried.
        clip: whether scales are searched too.
    """

    grid: int = Field(20, ge=1)
    clip: bool = True


@torch.no_grad()
def choose(weight: Tensor, format: Format, inputs: Inputs | None, config: Config) -> dict[str, Tensor]:
    """Searches the scales of a matrix whose columns have their factors. Shape: (out, in) fp32 -> (out, ...) of each."""
    chosen, known = levels_of(format, "awq"), inputs_of(inputs, "awq")
    scales = search_scales(weight, chosen, known.squares[None]) if config.clip else chosen.scales(weight)
    return chosen.assemble(to_levels(weight, spread(scales, chosen, weight.shape[1]), chosen), scales)


@torch.no_grad()
def rescale(weights: Sequence[Tensor], format: Format, inputs: Inputs, config: Config) -> Tensor | None:
    """The factors of the power with the least error of all outputs. Shape: (out, in) each -> (in,)."""
    best, least = None, torch.inf
    for step in range(config.grid):
        factors = powers(inputs.magnitude, step / config.grid)
        scaled = inputs.scaled(factors)
        total = 0.0
        for weight in weights:
            wide = weight * factors
            total += output_square(wide - format.dense(choose(wide, format, scaled, config)), scaled.moments)
        if total < least:
            best, least = (None if step == 0 else factors), total
    return best


def powers(magnitude: Tensor, power: float) -> Tensor:
    """A power of the inputs' mean sizes, around 1. Shape: (in,) -> (in,)."""
    factors = magnitude.clamp_min(1e-8).pow(power).clamp_min(1e-4)
    return factors / (factors.max() * factors.min()).sqrt()
