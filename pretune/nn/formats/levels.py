"""Formats whose values are a scale times a small whole number: what methods of rounding need to know of them.

GPTQ, AWQ and HQQ choose scales and whole numbers in another way than by rounding to the nearest; they ask a format for
its scales, choose among its levels, and let it store the choice.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pretune.nn.formats.format import Format, Packed

LARGEST_HALF = 65504.0
"""The largest number of fp16."""


@runtime_checkable
class LevelFormat(Format, Protocol):
    """A format with levels.

    Attributes:
        LOWEST, HIGHEST: of the whole numbers.
        GROUP: weights that must divide the width.
        SCALED: weights in a row that share a scale; 0 for the whole row.
    """

    LOWEST: int
    HIGHEST: int
    SCALED: int

    def scales(self, weight: Tensor) -> Tensor:
        """The scales of groups, as `pack` chooses and stores them. Shape: (out, in) -> (out, groups) fp32."""

    def stored_scales(self, tensors: Packed) -> Tensor:
        """The scales of packed rows. Shape: (out, groups) fp32."""

    def assemble(self, levels: Tensor, scales: Tensor) -> dict[str, Tensor]:
        """Stores a choice. Shape: levels: (out, in), whole; scales: (out, groups) fp32, rounded as stored."""

    def levels(self, tensors: Packed) -> tuple[Tensor, Tensor]:
        """The whole numbers and the scales of packed rows. Shape: (out, in) int8, (out, groups) fp32."""


def round_away(x: Tensor) -> Tensor:
    """Rounds to whole numbers, halves away from zero as C's `roundf`. Shape: any -> same."""
    size = x.abs()
    whole = size.floor()
    return (whole + (2 * (size - whole)).floor()).copysign(x)


def reciprocal(scales: Tensor) -> Tensor:
    """One over each scale, and 0 for 0. Shape: any -> same."""
    return torch.where(scales == 0, 0.0, 1 / scales)


def half_bytes(scales: Tensor) -> Tensor:
    """Scales as the two bytes of fp16. Shape: (out, groups) fp32 -> (out, groups, 2) uint8."""
    return scales.to(torch.float16).contiguous().view(torch.uint8).view(*scales.shape, 2)


def half_scales(blocks: Tensor) -> Tensor:
    """The scales of blocks that begin with fp16. Shape: (out, groups, bytes) uint8 -> (out, groups) fp32."""
    return blocks[..., :2].contiguous().view(torch.float16)[..., 0].float()


def nibbles(blocks: Tensor) -> Tensor:
    """The whole numbers, from -8, of blocks whose bytes behind fp16 hold two each: lower halves first.

    Shape:
        blocks: (out, groups, bytes) uint8; return: (out, groups * numbers) int8
    """
    pairs = blocks[..., 2:]
    return (torch.cat([pairs & 15, pairs >> 4], 2).view(torch.int8) - 8).flatten(1)


def half_problem(scales: Tensor) -> str | None:
    """What keeps scales from being stored in fp16: one that is too large, with a remedy. Shape: (out, groups)."""
    if not scales.abs().max() > LARGEST_HALF:
        return None
    row = int(scales.abs().amax(1).argmax())
    return f"row {row} holds values so large that their scale is infinite in fp16; use int8 there, or keep it as it is"
