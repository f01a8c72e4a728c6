"""HQQ: half-quadratic quantization, which needs no data: a few large errors are let be, so that the others are small.

The error is split into a sparse part, found by shrinking towards zero in an lp norm with p < 1, and the rest, for which
the best scale of a group is known in closed form. The paper moves the zero point of a group; the formats here have
levels around zero, so that the scale is moved instead.

Source: Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models", and its code, from which
the numbers are.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from pretune import config
from pretune.compress.values.inputs import Inputs
from pretune.compress.values.method import levels_of
from pretune.compress.values.scales import grouped, stored, to_levels
from pretune.nn.formats.format import Format
from pretune.nn.formats.levels import reciprocal

NEEDS_INPUTS = False


class Config(config.Config):
    """How errors are split.

    Attributes:
        p: of the norm; smaller lets larger errors be.
        beta: weight of the split at the start, relative to the weights' own size.
        kappa: factor of beta after each iteration.
        iterations: at most; they end where the mean error no longer falls.
    """

    p: float = Field(0.7, gt=0, lt=1)
    beta: float = Field(10.0, gt=0)
    kappa: float = Field(1.01, ge=1)
    iterations: int = Field(20, ge=1)


@torch.no_grad()
def choose(weight: Tensor, format: Format, inputs: Inputs | None, config: Config) -> dict[str, Tensor]:
    """Chooses scales and levels in turn. Shape: (out, in) fp32 -> (out, ...) of each."""
    chosen = levels_of(format, "hqq")
    groups = grouped(weight, chosen)
    scale = chosen.scales(weight)[..., None]
    levels = to_levels(groups, scale, chosen)
    best, least, beta = (levels, scale), torch.inf, config.beta
    for _ in range(config.iterations):
        error = groups - levels * scale
        current = float(error.abs().mean())
        if current >= least:
            break
        best, least = (levels, scale), current
        rest = groups - shrink(error, beta, config.p)
        fitted = (rest * levels).sum(-1, keepdim=True) * reciprocal(levels.square().sum(-1, keepdim=True))
        scale = torch.where(fitted == 0, scale, stored(fitted, chosen))
        levels = to_levels(groups, scale, chosen)
        beta *= config.kappa
    levels, scale = best
    return chosen.assemble(levels.reshape_as(weight), scale[..., 0])


def shrink(x: Tensor, beta: float, p: float) -> Tensor:
    """Moves towards zero: the generalized soft threshold of an lp norm. Shape: any -> same."""
    size = x.abs()
    return x.sign() * (size - size.clamp_min(1e-12).pow(p - 1) / beta).clamp_min(0)
