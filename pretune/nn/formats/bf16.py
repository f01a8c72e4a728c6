"""The upper half of fp32: 8 bits of exponent, 8 of precision, no scale. Half the bytes, and nothing to choose."""

from __future__ import annotations

import torch
from torch import Tensor

from pretune.nn.activation import Activation
from pretune.nn.formats.format import InputRounding, Packed
from pretune.nn.formats.rounded_matmul import derived_product
from pretune.nn.packed import Product

NAME = "bf16"
BITS = 16.0
GROUP = 1


def pack(weight: Tensor) -> dict[str, Tensor]:
    """Rounds to the nearest, halves to even. Shape: (out, in) fp32 -> values: (out, in) bf16."""
    return {"values": weight.to(torch.bfloat16)}


def dense(tensors: Packed) -> Tensor:
    """The same values in fp32. Shape: (out, in)."""
    return tensors["values"].float()


def product(
    tensors: Packed, bias: Tensor | None, activation: Activation | None = None, inputs: InputRounding = "exact"
) -> Product:
    """Multiplies by packed rows. Shape: (T, in) -> (T, out)."""
    return derived_product(dense, tensors, bias, activation, inputs, NAME)
