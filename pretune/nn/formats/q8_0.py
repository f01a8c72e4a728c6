"""llama.cpp's Q8_0, bit for bit: groups of 32 whole numbers of 8 bits, each with a scale in fp16.

A block is 34 bytes: the scale, then the 32 numbers.

Source: `quantize_row_q8_0_ref` of ggml-quants.c; `gguf.quants.Q8_0`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pretune.nn.formats.blocks import GROUP, BlockFormat, join_blocks
from pretune.nn.formats.levels import reciprocal, round_away

NAME = "q8_0"
BITS = 8.5
LOWEST, HIGHEST, SCALED = -127, 127, 32


def _exact_scales(weight: Tensor) -> Tensor:
    """The largest value of each group is 127. Shape: (out, in) -> (out, in / 32) fp32."""
    return weight.view(len(weight), -1, GROUP).abs().amax(2) / HIGHEST


def pack(weight: Tensor) -> dict[str, Tensor]:
    """Rounds to the nearest, by scales that are not yet rounded. Shape: (out, in) -> blocks: (out, bytes) uint8."""
    scale = _exact_scales(weight)
    groups = weight.view(*scale.shape, GROUP)
    return assemble(round_away(groups * reciprocal(scale)[..., None]).view_as(weight), scale)


def assemble(levels: Tensor, scales: Tensor) -> dict[str, Tensor]:
    """Stores whole numbers and scales. Shape: (out, in), (out, in / 32)."""
    values = levels.clamp(LOWEST, HIGHEST).to(torch.int8).view(*scales.shape, GROUP)
    return join_blocks(scales, values.view(torch.uint8))


def _unpack(blocks: Tensor) -> Tensor:
    """The whole numbers of blocks. Shape: (out, in / 32, 34) uint8 -> (out, in) int8."""
    return blocks[..., 2:].contiguous().view(torch.int8).flatten(1)


_FORMAT = BlockFormat(NAME, GROUP, _exact_scales, _unpack)
scales, problem, stored_scales = _FORMAT.scales, _FORMAT.problem, _FORMAT.stored_scales
levels, dense, product = _FORMAT.levels, _FORMAT.dense, _FORMAT.product
