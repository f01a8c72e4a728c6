"""Activations by the names that model configurations use."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pretune.find import suggest

Activation = Callable[[Tensor], Tensor]


_CHUNK = 1 << 19  # values at once, whose intermediates are still in cache
_SMALL = 1 << 14
_SLOPE = 2 * math.sqrt(2 / math.pi)
_CUBE = 0.044715


def gelu_new(x: Tensor) -> Tensor:
    """GELU by tanh, as GPT-2 has it. Shape: any -> same.

    On the CPU this takes half the time of ATen's kernel, forward and backward: the formula is written as
    `x * sigmoid(2u)`, computed in fp32 on chunks that stay in cache, and the derivative along with it.

    Source: Hendrycks and Gimpel 2016, arXiv 1606.08415.
    """
    elsewhere = torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype == torch.float64
    if elsewhere or x.numel() <= _SMALL:
        return F.gelu(x, approximate="tanh")
    out: Tensor = _GeluNew.apply(x)  # type: ignore[no-untyped-call]
    return out


class _GeluNew(torch.autograd.Function):
    """Keeps the derivative instead of the input: the backward is one multiplication."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        slope = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        buffer = torch.empty(3, min(_CHUNK, x.numel()))
        for start in range(0, x.numel(), _CHUNK):
            part = slice(start, start + _CHUNK)
            target = out.view(-1)[part]
            value, twice, gate = buffer[:, : len(target)]
            value.copy_(x.view(-1)[part])
            torch.mul(value, value, out=twice).mul_(_SLOPE * _CUBE).add_(_SLOPE).mul_(value)
            torch.sigmoid(twice, out=gate)
            if slope is None:
                target.copy_(value.mul_(gate))
                continue
            target.copy_(value * gate)
            twice.sub_(value, alpha=_SLOPE * 2 / 3)  # x * d(2u)/dx = 3 * (2u - 2/3 * _SLOPE * x)
            torch.ops.aten.sigmoid_backward.grad_input(twice, gate, grad_input=value)
            slope.view(-1)[part].copy_(gate.add_(value, alpha=3))
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
    """Returns the activation of that name.

    Raises:
        ValueError: an unknown name; the nearest one is given.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; {suggest(name, sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]
