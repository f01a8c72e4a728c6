"""llama.cpp's Q4_0, bit for bit: groups of 32 whole numbers of 4 bits, each with a scale in fp16.

A block is 18 bytes: the scale, then 16 bytes whose lower halves are the first 16 numbers and whose upper halves the
others, each plus 8. The value of largest size in a group becomes -8, so a scale may be negative.

Source: `quantize_row_q4_0_ref` of ggml-quants.c; `gguf.quants.Q4_0`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pretune.nn.activation import Activation
from pretune.nn.formats.format import InputRounding, Packed
from pretune.nn.formats.levels import half_bytes, half_problem, half_scales, nibbles, reciprocal
from pretune.nn.formats.rounded_matmul import derived_product
from pretune.nn.packed import Product

NAME = "q4_0"
BITS = 4.5
VOCABULARY = "q8_0"  # what the vocabulary has beside such layers
GROUP = 32
LOWEST, HIGHEST, SCALED = -8, 7, 32


def _exact_scales(weight: Tensor) -> Tensor:
    groups = weight.view(len(weight), -1, GROUP)
    return groups.gather(2, groups.abs().argmax(2, keepdim=True))[..., 0] / LOWEST


def scales(weight: Tensor) -> Tensor:
    """The value of largest size in each group is -8. Shape: (out, in) -> (out, in / 32) fp32, rounded to fp16."""
    return _exact_scales(weight).half().float()


def problem(weight: Tensor) -> str | None:
    """Values whose scale fp16 cannot hold. Shape: (out, in)."""
    return half_problem(_exact_scales(weight))


def pack(weight: Tensor) -> dict[str, Tensor]:
    """Rounds to the nearest, by scales that are not yet rounded. Shape: (out, in) -> blocks: (out, bytes) uint8."""
    scale = _exact_scales(weight)
    groups = weight.view(*scale.shape, GROUP)
    levels = (groups * reciprocal(scale)[..., None] + 8.5).trunc() - 8
    return assemble(levels.view_as(weight), scale)


def assemble(levels: Tensor, scales: Tensor) -> dict[str, Tensor]:
    """Stores whole numbers and scales. Shape: (out, in), (out, in / 32)."""
    lower, upper = (levels.clamp(LOWEST, HIGHEST) + 8).to(torch.uint8).view(*scales.shape, 2, GROUP // 2).unbind(2)
    return {"blocks": torch.cat([half_bytes(scales), lower | upper << 4], 2).flatten(1)}


def _blocks(tensors: Packed) -> Tensor:
    """Shape: (out, in / 32, bytes of a block) uint8."""
    return tensors["blocks"].view(len(tensors["blocks"]), -1, GROUP // 2 + 2)


def stored_scales(tensors: Packed) -> Tensor:
    """Shape: (out, in / 32) fp32."""
    return half_scales(_blocks(tensors))


def levels(tensors: Packed) -> tuple[Tensor, Tensor]:
    """The whole numbers and the scales. Shape: (out, in) int8, (out, in / 32) fp32."""
    blocks = _blocks(tensors)
    return nibbles(blocks), half_scales(blocks)


def dense(tensors: Packed) -> Tensor:
    """Shape: (out, in) fp32."""
    values, scale = levels(tensors)
    return (values.view(*scale.shape, GROUP) * scale[..., None]).flatten(1)


def product(
    tensors: Packed, bias: Tensor | None, activation: Activation | None = None, inputs: InputRounding = "exact"
) -> Product:
    """Multiplies by packed rows. Shape: (T, in) -> (T, out)."""
    return derived_product(dense, tensors, bias, activation, inputs, NAME)
