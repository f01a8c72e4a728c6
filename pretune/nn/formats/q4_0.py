"""llama.cpp's Q4_0, bit for bit: groups of 32 whole numbers of 4 bits, each with a scale in fp16.

A block is 18 bytes: the scale, then 16 bytes whose lower halves are the first 16 numbers and whose upper halves the
others, each plus 8. The value of largest size in a group becomes -8, so a scale may be negative.

Source: `quantize_row_q4_0_ref` of ggml-quants.c; `gguf.quants.Q4_0`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pretune.nn.formats.blocks import GROUP, BlockFormat, join_blocks
from pretune.nn.formats.levels import nibbles, reciprocal

NAME = "q4_0"
BITS = 4.5
VOCABULARY = "q8_0"  # what the vocabulary has beside such layers
LOWEST, HIGHEST, SCALED = -8, 7, 32


def _exact_scales(weight: Tensor) -> Tensor:
    """The value of largest size in each group is -8. Shape: (out, in) -> (out, in / 32) fp32."""
    groups = weight.view(len(weight), -1, GROUP)
    return groups.gather(2, groups.abs().argmax(2, keepdim=True))[..., 0] / LOWEST


def pack(weight: Tensor) -> dict[str, Tensor]:
    """Rounds to the nearest, by scales that are not yet rounded. Shape: (out, in) -> blocks: (out, bytes) uint8."""
    scale = _exact_scales(weight)
    groups = weight.view(*scale.shape, GROUP)
    levels = (groups * reciprocal(scale)[..., None] + 8.5).trunc() - 8
    return assemble(levels.view_as(weight), scale)


def assemble(levels: Tensor, scales: Tensor) -> dict[str, Tensor]:
    """Stores whole numbers and scales. Shape: (out, in), (out, in / 32)."""
    lower, upper = (levels.clamp(LOWEST, HIGHEST) + 8).to(torch.uint8).view(*scales.shape, 2, GROUP // 2).unbind(2)
    return join_blocks(scales, lower | upper << 4)


_FORMAT = BlockFormat(NAME, GROUP // 2, _exact_scales, nibbles)
scales, problem, stored_scales = _FORMAT.scales, _FORMAT.problem, _FORMAT.stored_scales
levels, dense, product = _FORMAT.levels, _FORMAT.dense, _FORMAT.product
