"""Activations by the names that model configurations use."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pretune.find import nearest

Activation = Callable[[Tensor], Tensor]


_CHUNK = 1 << 18  # values whose intermediates stay in a core's cache
_SMALL = 1 << 14
_SLOPE = 2 * math.sqrt(2 / math.pi)
_CUBE = 0.044715


def gelu_new(x: Tensor) -> Tensor:
    """GELU by tanh, as GPT-2 has it. Shape: any -> same.

    On the CPU this takes two thirds of the time of ATen's kernel, forward and backward: the formula is written as
    `x * sigmoid(2u)`, worked in fp32 on chunks that stay in cache, and the derivative is made along with it.

    Source: Hendrycks and Gimpel 2016, arXiv 1606.08415.
    """
    elsewhere = torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype == torch.float64
    if elsewhere or x.numel() <= _SMALL:
        return F.gelu(x, approximate="tanh")
    out: Tensor = _GeluNew.apply(x)  # type: ignore[no-untyped-call]
    return out


class _GeluNew(torch.autograd.Function):
    """Keeps the derivative instead of the input: the backward is one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        slope = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        flat, flat_out = x.view(-1), out.view(-1)
        for start in range(0, flat.numel(), _CHUNK):
            part = slice(start, start + _CHUNK)
            value = flat[part].float()
            twice = (value * value).mul_(_SLOPE * _CUBE).add_(_SLOPE).mul_(value)
            gate = twice.sigmoid()
            torch.mul(value, gate, out=flat_out[part])
            if slope is not None:  # x * d(2u)/dx = 3 * (2u - 2/3 * _SLOPE * x)
                inner = torch.ops.aten.sigmoid_backward(twice.sub_(value, alpha=_SLOPE * 2 / 3), gate)
                torch.add(gate, inner, alpha=3, out=slope.view(-1)[part])
        ctx.save_for_backward(slope)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        slope: Tensor
        (slope,) = ctx.saved_tensors
        return grads[0] * slope


ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_new": gelu_new,
    "gelu_pytorch_tanh": gelu_new,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


def activation(name: str) -> Activation:
    """The activation of that name.

    Raises:
        ValueError: an unknown name; the nearest one is given.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; {nearest(name, sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]
