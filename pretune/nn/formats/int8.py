"""Whole numbers of 8 bits, with one scale in fp32 for each row: any width, a quarter of the bytes of fp32."""

from __future__ import annotations

import torch
from torch import Tensor

from pretune.nn.activation import Activation
from pretune.nn.formats.format import InputRounding, Packed
from pretune.nn.formats.levels import reciprocal, round_away
from pretune.nn.formats.rounded_matmul import derived_product
from pretune.nn.packed import Product

NAME = "int8"
BITS = 8.0
GROUP = 1
LOWEST, HIGHEST, SCALED = -127, 127, 0


def scales(weight: Tensor) -> Tensor:
    """The largest value of each row is 127. Shape: (out, in) -> (out, 1) fp32."""
    return weight.abs().amax(1, keepdim=True) / HIGHEST


def pack(weight: Tensor) -> dict[str, Tensor]:
    """Rounds to the nearest. Shape: (out, in) fp32 -> values: (out, in) int8; scale: (out,) fp32."""
    scale = scales(weight)
    return assemble(round_away(weight * reciprocal(scale)), scale)


def assemble(levels: Tensor, scales: Tensor) -> dict[str, Tensor]:
    """Stores whole numbers and scales. Shape: (out, in), (out, 1)."""
    return {"values": levels.clamp(LOWEST, HIGHEST).to(torch.int8), "scale": scales[:, 0].float()}


def stored_scales(tensors: Packed) -> Tensor:
    """Shape: (out, 1) fp32."""
    return tensors["scale"][:, None]


def levels(tensors: Packed) -> tuple[Tensor, Tensor]:
    """The whole numbers and the scales. Shape: (out, in) int8, (out, 1) fp32."""
    return tensors["values"], stored_scales(tensors)


def dense(tensors: Packed) -> Tensor:
    """Shape: (out, in) fp32."""
    return tensors["values"] * tensors["scale"][:, None]


def product(
    tensors: Packed, bias: Tensor | None, activation: Activation | None = None, inputs: InputRounding = "exact"
) -> Product:
    """Multiplies by packed rows. Shape: (T, in) -> (T, out)."""
    return derived_product(dense, tensors, bias, activation, inputs, NAME)
