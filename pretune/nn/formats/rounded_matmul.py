"""Matmuls with packed rows: for training what lies below, and for models in use.

No dequantised copy of a matrix is kept: rows are dequantised some at a time, multiplied, and dropped, in the backward
once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pretune.nn.activation import Activation
from pretune.nn.formats.format import ROWS, Dense, InputRounding, Packed, count_rows, take
from pretune.nn.formats.kernels import Kernels, round_inputs
from pretune.nn.packed import Product


class _RoundedMatmul(torch.autograd.Function):
    """`x @ weight.T`, with the gradient of `x` alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dense: Dense, tensors: Packed) -> Tensor:
        ctx.dense, ctx.tensors = dense, tensors
        rows = count_rows(tensors)
        if rows <= ROWS:
            return F.linear(x, dense(tensors).to(x.dtype))
        out = x.new_empty(*x.shape[:-1], rows)
        for first in range(0, rows, ROWS):
            part = slice(first, first + ROWS)
            out[..., part] = F.linear(x, dense(take(tensors, part)).to(x.dtype))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None
        total: Tensor | None = None
        for first in range(0, count_rows(ctx.tensors), ROWS):
            part = slice(first, first + ROWS)
            product = grad[..., part] @ ctx.dense(take(ctx.tensors, part)).to(grad.dtype)
            total = product if total is None else total.add_(product)
        return total, None, None


def rounded_matmul(x: Tensor, dense: Dense, tensors: Packed) -> Tensor:
    """Multiplies by packed rows, in the dtype of matmuls. Shape: x: (T, in) -> (T, out)."""
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    out: Tensor = _RoundedMatmul.apply(x, dense, tensors)  # type: ignore[no-untyped-call]
    return out


def derived_product(
    dense: Dense,
    tensors: Packed,
    bias: Tensor | None,
    activation: Activation | None,
    inputs: InputRounding,
    kernel: str | None = None,
) -> Product:
    """A function for a model in use that multiplies by packed rows.

    Args:
        kernel: name of the format among those that kernels know; None for one that they do not.

    Shape:
        (T, in) -> (T, out)
    """
    kernels = None if kernel is None else Kernels(kernel, dense, tensors, bias, inputs, activation)
    return _DerivedProduct(dense, tensors, bias, activation, inputs, kernels)


@dataclass(frozen=True)
class _DerivedProduct:
    dense: Dense
    tensors: Packed
    bias: Tensor | None
    activation: Activation | None
    inputs: InputRounding
    kernels: Kernels | None

    @property
    def bytes_to_pack(self) -> int:
        return 0 if self.kernels is None else self.kernels.bytes_to_pack

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        y = None if self.kernels is None else self.kernels.multiply(x)
        if y is not None:
            return y
        y = rounded_matmul(round_inputs(x, self.inputs), self.dense, self.tensors)
        y = y if self.bias is None else y + self.bias.to(y.dtype)
        return y if self.activation is None else self.activation(y)
