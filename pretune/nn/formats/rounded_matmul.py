"""Matmuls with packed rows: for training what lies below, and for models in use.

No dequantised copy of a matrix is kept: rows are dequantised some at a time, multiplied, and dropped, in the backward
once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pretune.nn.activation import Activation
from pretune.nn.formats.format import ROWS, InputRounding, Packed, count_rows, take
from pretune.nn.packed import Product

_INPUT_GROUP = 32
Dense = Callable[[Packed], Tensor]
"""The values that packed rows stand for. Shape: (out, ...) of each -> (out, in) fp32."""


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


class _Round(torch.autograd.Function):
    """Rounds rows to 8 bits in groups of 32; the gradient passes as if nothing was rounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        groups = F.pad(x.float(), (0, -x.shape[-1] % _INPUT_GROUP)).reshape(*x.shape[:-1], -1, _INPUT_GROUP)
        scale = groups.abs().amax(-1, keepdim=True) / 127
        levels = (groups * torch.where(scale == 0, 0.0, 1 / scale)).round()
        rounded: Tensor = (levels * scale).flatten(-2)[..., : x.shape[-1]].to(x.dtype)
        return rounded

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def round_inputs(x: Tensor) -> Tensor:
    """The values of rows rounded to 8 bits in groups of 32, each with its own scale in fp32. Shape: (T, in) -> same."""
    out: Tensor = _Round.apply(x)  # type: ignore[no-untyped-call]
    return out


def derived_product(
    dense: Dense,
    tensors: Packed,
    bias: Tensor | None,
    activation: Activation | None,
    inputs: InputRounding,
    few_rows: Callable[[Tensor], Tensor] | None = None,
    most: int = 0,
) -> Product:
    """A function for a model in use that multiplies by packed rows.

    Args:
        few_rows: a faster matmul without bias for at most `most` rows, where there is one.

    Shape:
        (T, in) -> (T, out)
    """

    @torch.no_grad()
    def run(x: Tensor) -> Tensor:
        x = round_inputs(x) if inputs == "int8" else x
        y = rounded_matmul(x, dense, tensors) if few_rows is None or len(x) > most else few_rows(x)
        y = y if bias is None else y + bias.to(y.dtype)
        return y if activation is None else activation(y)

    return run
