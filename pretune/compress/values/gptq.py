"""GPTQ: rounds column after column, and lets the columns that are left make up for the error of the output.

1. The moments of the inputs, damped, are inverted; their Cholesky factor says how much each later column takes over.
2. Columns are rounded in order, 128 together before the rest of the matrix is corrected.
3. The scale of a group is searched when its first column is reached, on the weights as they are then; where columns are
   ordered one by one, all scales are searched before.
4. Then `passes` times: the scales of all groups are fitted to the levels, and each level is chosen again with all
   others as they are, which can only lower the error.

Source: Frantar et al. 2022, arXiv 2210.17323, algorithm 1; the order by the size of inputs is `act_order` of its code.
Step 4: Behdin et al. 2023, arXiv 2309.01885 (QuantEase), whose cyclic descent starts from GPTQ here.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pretune import config
from pretune.compress.values.inputs import Inputs
from pretune.compress.values.method import inputs_of, levels_of
from pretune.compress.values.scales import fit_scales, search_scales, spread, to_levels
from pretune.nn.formats.format import Format
from pretune.nn.formats.levels import LevelFormat

NEEDS_INPUTS = True
_BLOCK = 128  # columns that are rounded before the rest is corrected


class Config(config.Config):
    """How columns are gone through.

    Attributes:
        damp: added to the diagonal of the moments, as a fraction of its mean.
        order: of columns: as they are, whole groups by the size of their inputs, or each column by it.
        search: whether scales are searched; else they are the format's own.
        passes: how often scales are fitted and levels chosen again afterwards, which fits the calibration data closer
            and so wants many of them (see benchmarks/LOG.md).
    """

    damp: float = Field(0.01, gt=0, le=1)
    order: Literal["none", "groups", "columns"] = "none"
    search: bool = True
    passes: int = Field(0, ge=0, le=64)


@torch.no_grad()
def choose(weight: Tensor, format: Format, inputs: Inputs | None, config: Config) -> dict[str, Tensor]:
    """Rounds with error feedback. Shape: (out, in) fp32 -> (out, ...) of each."""
    chosen = levels_of(format, "gptq")
    moments = damped(inputs_of(inputs, "gptq").moments, config.damp)
    levels, scales = round_columns(weight, chosen, moments, config)
    for _ in range(config.passes):
        scales = fit_scales(weight, levels, chosen, moments)
        levels = descend(weight, levels, scales, chosen, moments)
    return chosen.assemble(levels, scales)


def damped(moments: Tensor, damp: float) -> Tensor:
    """Moments whose diagonal is raised, so that they can be inverted. Shape: (in, in)."""
    mean = float(moments.diagonal().mean()) or 1.0
    return moments + damp * mean * torch.eye(len(moments), device=moments.device)


def round_columns(weight: Tensor, format: LevelFormat, moments: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """Algorithm 1 of the paper. Shape: (out, in), (in, in) -> (out, in), (out, groups)."""
    width, squares = weight.shape[1], moments.diagonal()
    order, size = column_order(squares, format, config.order), format.SCALED or width
    is_static = config.order == "columns" or not format.SCALED
    scales = _scales(weight, format, squares, config)
    left = weight[:, order].clone()
    group_of = order // size
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments[order][:, order]))
    factor = torch.linalg.cholesky(inverse, upper=True)
    levels = torch.empty_like(left)
    for first in range(0, width, _BLOCK):
        end = min(first + _BLOCK, width)
        block, errors = left[:, first:end], torch.empty_like(left[:, first:end])  # a view: it is corrected in place
        for n in range(first, end):
            group = int(group_of[n])
            if not is_static and n % size == 0:
                columns = slice(n, n + size)
                part = left[:, columns] if n + size <= end else _corrected(left, errors, factor, first, n, size)
                scales[:, group] = _scales(part, format, squares[order[columns]], config)[:, 0]
            scale = scales[:, group]
            column = block[:, n - first]
            levels[:, n] = to_levels(column, scale, format)
            error = (column - levels[:, n] * scale) / factor[n, n]
            block[:, n - first + 1 :] -= error[:, None] * factor[n, n + 1 : end]
            errors[:, n - first] = error
        left[:, end:] -= errors @ factor[first:end, end:]
    return torch.empty_like(levels).index_copy_(1, order, levels), scales


def _corrected(left: Tensor, errors: Tensor, factor: Tensor, first: int, n: int, size: int) -> Tensor:
    """Columns of a group that reaches beyond its block, as they are after all corrections so far."""
    part = left[:, n : n + size].clone()
    end = first + errors.shape[1]
    part[:, end - n :] -= errors[:, : n - first] @ factor[first:n, end : n + size]
    return part


def _scales(weight: Tensor, format: LevelFormat, squares: Tensor, config: Config) -> Tensor:
    return search_scales(weight, format, squares[None]) if config.search else format.scales(weight)


def column_order(squares: Tensor, format: LevelFormat, order: str) -> Tensor:
    """The order in which columns are rounded, those with the largest inputs first. Shape: (in,) -> (in,)."""
    width = len(squares)
    if order == "none":
        return torch.arange(width, device=squares.device)
    if order == "columns":
        return squares.argsort(descending=True)
    size = format.SCALED or width
    groups = squares.view(-1, size).mean(1).argsort(descending=True)
    return (groups[:, None] * size + torch.arange(size, device=squares.device)).flatten()


def descend(weight: Tensor, levels: Tensor, scales: Tensor, format: LevelFormat, moments: Tensor) -> Tensor:
    """Chooses each level again, the others as they are, and takes what lowers the error. Shape: (out, in).

    With D the difference of the matrices and H the moments, the error is least where column n of D H is 0 but for the
    column's own part.
    """
    width = weight.shape[1]
    by_column = spread(scales, format, width)
    difference = weight - levels * by_column
    gradient = difference @ moments
    levels = levels.clone()
    for first in range(0, width, _BLOCK):
        end = min(first + _BLOCK, width)
        changes = torch.zeros_like(levels[:, first:end])
        of_block = gradient[:, first:end].clone()
        for n in range(first, end):
            square = moments[n, n]
            wanted = levels[:, n] * by_column[:, n] + of_block[:, n - first] / square
            chosen = to_levels(wanted, by_column[:, n], format)
            change = (levels[:, n] - chosen) * by_column[:, n]  # of the difference
            changes[:, n - first] = change
            levels[:, n] = chosen
            of_block += change[:, None] * moments[n, first:end]
        gradient += changes @ moments[first:end]
    return levels
