"""Dropout of hidden states, alone and fused with the addition to the residual stream.

On the CPU, ATen's dropout costs more than the matmul before it: its random numbers come one by one, and it
multiplies. Here a 32-bit hash of a counter decides for two values, and a dropped value is cleared by a bitwise and.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STEPS = 1 << 15  # the rate is rounded to multiples of 1 / _STEPS, and the scale is exact for the rounded rate
_GOLDEN = -0x61C88647  # 2**32 / golden ratio as int32: neighbours of the counter far apart
_WORDS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


class Dropout(nn.Module):
    """Drops values at a given rate while training, and scales the rest.

    Args:
        p: the rate, at least 0 and below 1.
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Shape: any -> same."""
        if not (self.training and self.p):
            return x
        if not _bitwise(x):
            return F.dropout(x, self.p)
        dropped: Tensor = _Drop.apply(x, self.p)  # type: ignore[no-untyped-call]
        return dropped

    def add(self, update: Tensor, residual: Tensor) -> Tensor:
        """`residual + dropout(update)`. Shape: (T, width) twice -> (T, width)."""
        if not (self.training and self.p):
            return residual + update
        if not _bitwise(update):
            return residual + F.dropout(update, self.p)
        added: Tensor = _DropAdd.apply(update, residual, self.p)  # type: ignore[no-untyped-call]
        return added

    def extra_repr(self) -> str:
        """Shows the rate in the module tree."""
        return f"p={self.p}"


def _bitwise(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in _WORDS and not torch.compiler.is_compiling()


def _draw(shape: torch.Size, p: float) -> tuple[Tensor, float]:
    """int16, -1 (all bits) for values that stay and 0 for others, by torch's generator; the factor of the first."""
    count = shape.numel()
    threshold = min(round(p * _STEPS), _STEPS - 1)
    lanes = _words((count + 1) // 2).view(torch.int16)[:count].view(shape)
    keep = lanes.bitwise_and_(_STEPS - 1).neg_().add_(threshold - 1).bitwise_right_shift_(15)
    return keep, _STEPS / (_STEPS - threshold)


def _words(count: int) -> Tensor:
    """Random int32, a hash of a counter under a key of 64 bits that torch's generator gives, on all cores.

    Source: the mixing of lowbias32 (Wellons 2018, "Prospecting for hash functions"), its key in two places.
    """
    first, second = torch.empty(2, dtype=torch.int64).random_(-(2**31), 2**31).tolist()
    words = torch.arange(count, dtype=torch.int32).mul_(_GOLDEN).add_(first)
    for shift, factor in ((16, 0x7FEB352D), (15, -0x7B935975)):
        words.bitwise_xor_(words.bitwise_right_shift(shift)).mul_(factor).add_(second)
    return words.bitwise_xor_(words.bitwise_right_shift(16))


def _clear(x: Tensor, keep: Tensor) -> Tensor:
    word = _WORDS[x.dtype]
    return x.contiguous().view(word).bitwise_and(keep.to(word)).view(x.dtype)


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        keep, ctx.factor = _draw(x.shape, p)
        ctx.save_for_backward(keep)
        return _clear(x, keep).mul_(ctx.factor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return _clear(grads[0], keep).mul_(ctx.factor), None


class _DropAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, update: Tensor, residual: Tensor, p: float) -> Tensor:
        keep, ctx.factor = _draw(update.shape, p)
        ctx.save_for_backward(keep)
        ctx.dtype = update.dtype
        return torch.add(residual, _clear(update, keep), alpha=ctx.factor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (keep,) = ctx.saved_tensors
        return _clear(grads[0].to(ctx.dtype), keep).mul_(ctx.factor), grads[0], None
