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


def gelu_10(x: Tensor) -> Tensor:
    """GELU between -10 and 10, which bounds what quantized layers see. Shape: any -> same."""
    return F.gelu(x).clamp(-10, 10)


def quick_gelu(x: Tensor) -> Tensor:
    """GELU by a sigmoid, as CLIP has it. Shape: any -> same.

    Source: Hendrycks and Gimpel 2016, arXiv 1606.08415.
    """
    return x * torch.sigmoid(1.702 * x)


def laplace(x: Tensor) -> Tensor:
    """The distribution function of a normal variable, as MEGA has it. Shape: any -> same.

    Source: Ma et al. 2022, arXiv 2209.10655.
    """
    return 0.5 * (1.0 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2.0))))


def relu_squared(x: Tensor) -> Tensor:
    """Source: So et al. 2021, arXiv 2109.08668. Shape: any -> same."""
    return F.relu(x).square()


def sqrt_softplus(x: Tensor) -> Tensor:
    """The root of softplus. Shape: any -> same."""
    return F.softplus(x).sqrt()


def linear(x: Tensor) -> Tensor:
    """No activation. Shape: any -> same."""
    return x


ACTIVATIONS: dict[str, Activation] = {
    **dict.fromkeys(("gelu", "gelu_python"), F.gelu),
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate", "gelu_fast"), gelu_new),
    **dict.fromkeys(("silu", "swish"), F.silu),
    "gelu_10": gelu_10,
    "hardswish": F.hardswish,
    "laplace": laplace,
    "leaky_relu": F.leaky_relu,
    "linear": linear,
    "mish": F.mish,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "relu2": relu_squared,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "sqrtsoftplus": sqrt_softplus,
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
