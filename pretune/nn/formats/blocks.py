"""llama.cpp's blocks: 32 weights of a row share a scale in fp16, which stands before their whole numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pretune.nn.activation import Activation
from pretune.nn.formats.format import InputRounding, Packed
from pretune.nn.formats.levels import half_bytes, half_problem, half_scales
from pretune.nn.formats.rounded_matmul import derived_product
from pretune.nn.packed import Product

GROUP = 32


@dataclass(frozen=True)
class BlockFormat:
    """What formats of such blocks have in common.

    Attributes:
        name: of the format.
        size: bytes of the whole numbers of a block.
        exact_scales: those of a matrix, before they are rounded. Shape: (out, in) -> (out, in / 32) fp32.
        unpack: gives the whole numbers of blocks. Shape: (out, in / 32, size + 2) uint8 -> (out, in) int8.
    """

    name: str
    size: int
    exact_scales: Callable[[Tensor], Tensor]
    unpack: Callable[[Tensor], Tensor]

    def scales(self, weight: Tensor) -> Tensor:
        """The scales as they are stored. Shape: (out, in) -> (out, in / 32) fp32, rounded to fp16."""
        return self.exact_scales(weight).half().float()

    def problem(self, weight: Tensor) -> str | None:
        """What keeps a matrix from being packed, with a remedy: a scale that fp16 cannot hold. Shape: (out, in)."""
        return half_problem(self.exact_scales(weight))

    def stored_scales(self, tensors: Packed) -> Tensor:
        """Shape: (out, in / 32) fp32."""
        return half_scales(self._blocks(tensors))

    def levels(self, tensors: Packed) -> tuple[Tensor, Tensor]:
        """The whole numbers and the scales. Shape: (out, in) int8, (out, in / 32) fp32."""
        blocks = self._blocks(tensors)
        return self.unpack(blocks), half_scales(blocks)

    def dense(self, tensors: Packed) -> Tensor:
        """Shape: (out, in) fp32."""
        values, scales = self.levels(tensors)
        return (values.view(*scales.shape, GROUP) * scales[..., None]).flatten(1)

    def product(
        self,
        tensors: Packed,
        bias: Tensor | None,
        activation: Activation | None = None,
        inputs: InputRounding = "exact",
    ) -> Product:
        """Multiplies by packed rows. Shape: (T, in) -> (T, out)."""
        return derived_product(self.dense, tensors, bias, activation, inputs, self.name)

    def _blocks(self, tensors: Packed) -> Tensor:
        """Shape: (out, in / 32, bytes of a block) uint8."""
        return tensors["blocks"].view(len(tensors["blocks"]), -1, self.size + 2)


def join_blocks(scales: Tensor, values: Tensor) -> dict[str, Tensor]:
    """Stores scales, each before its whole numbers.

    Shape:
        scales: (out, in / 32) fp32; values: (out, in / 32, size) uint8; blocks: (out, in / 32 * (size + 2)) uint8
    """
    return {"blocks": torch.cat([half_bytes(scales), values], 2).flatten(1)}
