"""Chooses the scales of groups: of some candidates, those that make the least error of the output.

A group is the weights of a row that share a scale. Candidates are multiples of the scale that the format itself would
choose, of both signs where its levels are not symmetric; each is then replaced by the best one for its levels.

Source: `make_qx_quants` of ggml-quants.c, which llama.cpp uses with an importance matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pretune.nn.formats.levels import LevelFormat, reciprocal

_STEPS = tuple(1 + 0.0125 * n for n in range(-9, 13))  # of the scale that the format chooses


def grouped(x: Tensor, format: LevelFormat) -> Tensor:
    """Splits columns into groups of one scale. Shape: (out, in) -> (out, groups, size)."""
    size = format.SCALED or x.shape[1]
    return x.reshape(len(x), -1, size)


def spread(scales: Tensor, format: LevelFormat, width: int) -> Tensor:
    """Gives each column the scale of its group. Shape: (out, groups) -> (out, in)."""
    return scales.repeat_interleave(format.SCALED or width, 1)


def to_levels(weight: Tensor, scales: Tensor, format: LevelFormat) -> Tensor:
    """The nearest levels. Shape: (..., n), (..., 1) -> (..., n)."""
    return (weight * reciprocal(scales)).round().clamp(format.LOWEST, format.HIGHEST)


def stored(scales: Tensor, format: LevelFormat) -> Tensor:
    """Scales as the format stores them: in fp16 where groups are short. Shape: (out, groups) -> same."""
    rounded = scales.half().float() if format.SCALED else scales
    return rounded.clone(memory_format=torch.contiguous_format)  # one group has strides that views do not accept


@torch.no_grad()
def search_scales(weight: Tensor, format: LevelFormat, importance: Tensor) -> Tensor:
    """Scales with the least error, each column's square weighted by its importance.

    Shape:
        weight: (out, in); importance: (out, in) or (1, in), not negative; return: (out, groups) as stored
    """
    groups = grouped(weight, format)
    weighted = grouped(importance.expand_as(weight), format)
    base = format.scales(weight)[..., None]
    best, least = base, torch.full_like(base, torch.inf)
    signs = (1.0,) if format.LOWEST == -format.HIGHEST else (1.0, -1.0)
    for factor in (sign * step for sign in signs for step in _STEPS):
        levels = to_levels(groups, base * factor, format)
        products = (weighted * groups * levels).sum(-1, keepdim=True)
        squares = (weighted * levels * levels).sum(-1, keepdim=True)
        scale = stored(products * reciprocal(squares), format)
        error = (weighted * (groups - scale * levels).square()).sum(-1, keepdim=True)
        better = (error < least) & (scale != 0)
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best[..., 0]


@torch.no_grad()
def fit_scales(weight: Tensor, levels: Tensor, format: LevelFormat, moments: Tensor) -> Tensor:
    """The scales of given levels that make the least error of the output, all groups of a row together.

    Shape:
        weight, levels: (out, in); moments: (in, in); return: (out, groups), as stored
    """
    size = format.SCALED or weight.shape[1]
    groups = weight.shape[1] // size
    gram, target = weight.new_empty(len(weight), groups, groups), weight.new_empty(len(weight), groups)
    for group in range(groups):
        columns = slice(group * size, (group + 1) * size)
        mixed = levels[:, columns] @ moments[columns]  # (out, in)
        gram[:, group] = (mixed * levels).view(-1, groups, size).sum(2)
        target[:, group] = (mixed * weight).sum(1)
    ridge = 1e-6 * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
    gram += ridge[:, None, None] * torch.eye(groups, device=gram.device)
    return stored(torch.linalg.solve(gram.double(), target.double()).float(), format)
