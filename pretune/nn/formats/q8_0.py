"""llama.cpp's Q8_0, bit for bit: groups of 32 whole numbers of 8 bits, each with a scale in fp16.

A block is 34 bytes: the scale, then the 32 numbers.

Source: `quantize_row_q8_0_ref` of ggml-quants.c; `gguf.quants.Q8_0`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pretune.nn.activation import Activation
from pretune.nn.formats.format import InputRounding, Packed
from pretune.nn.formats.levels import half_bytes, half_problem, half_scales, reciprocal, round_away
from pretune.nn.formats.rounded_matmul import derived_product
from pretune.nn.packed import Product

NAME = "q8_0"
BITS = 8.5
GROUP = 32
LOWEST, HIGHEST, SCALED = -127, 127, 32


def _exact_scales(weight: Tensor) -> Tensor:
    return weight.view(len(weight), -1, GROUP).abs().amax(2) / HIGHEST


def scales(weight: Tensor) -> Tensor:
    """The largest value of each group is 127. Shape: (out, in) -> (out, in / 32) fp32, rounded to fp16."""
    return _exact_scales(weight).half().float()


def problem(weight: Tensor) -> str | None:
    """Values whose scale fp16 cannot hold. Shape: (out, in)."""
    return half_problem(_exact_scales(weight))


def pack(weight: Tensor) -> dict[str, Tensor]:
    """Rounds to the nearest, by scales that are not yet rounded. Shape: (out, in) -> blocks: (out, bytes) uint8."""
    scale = _exact_scales(weight)
    groups = weight.view(*scale.shape, GROUP)
    return assemble(round_away(groups * reciprocal(scale)[..., None]).view_as(weight), scale)


def assemble(levels: Tensor, scales: Tensor) -> dict[str, Tensor]:
    """Stores whole numbers and scales. Shape: (out, in), (out, in / 32)."""
    values = levels.clamp(LOWEST, HIGHEST).to(torch.int8).view(*scales.shape, GROUP).view(torch.uint8)
    return {"blocks": torch.cat([half_bytes(scales), values], 2).flatten(1)}


def _blocks(tensors: Packed) -> Tensor:
    """Shape: (out, in / 32, bytes of a block) uint8."""
    return tensors["blocks"].view(len(tensors["blocks"]), -1, GROUP + 2)


def stored_scales(tensors: Packed) -> Tensor:
    """Shape: (out, in / 32) fp32."""
    return half_scales(_blocks(tensors))


def levels(tensors: Packed) -> tuple[Tensor, Tensor]:
    """The whole numbers and the scales. Shape: (out, in) int8, (out, in / 32) fp32."""
    blocks = _blocks(tensors)
    return blocks[..., 2:].contiguous().view(torch.int8).flatten(1), half_scales(blocks)


def dense(tensors: Packed) -> Tensor:
    """Shape: (out, in) fp32."""
    values, scale = levels(tensors)
    return (values.view(*scale.shape, GROUP) * scale[..., None]).flatten(1)


def product(
    tensors: Packed, bias: Tensor | None, activation: Activation | None = None, inputs: InputRounding = "exact"
) -> Product:
    """Multiplies by packed rows. Shape: (T, in) -> (T, out)."""
    return derived_product(dense, tensors, bias, activation, inputs, NAME)
