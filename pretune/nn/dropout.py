"""Dropout of hidden states, alone and fused with the addition to the residual stream.

What is dropped is a pure function of the row's key and of the place in the model, as all random decisions are: which
sequences share a batch, a micro-batch or a rank changes nothing. A row without a key draws one from torch's generator.

ATen's dropout costs more than the matmul before it on a CPU: its random numbers come one by one, and it multiplies.
Here a 32-bit hash of row and column decides for two values, and a dropped value is cleared by a bitwise and.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune.batch import RowKeys

_STEPS = 1 << 15  # the rate is rounded to multiples of 1 / _STEPS, and the scale is exact for the rounded rate
_GOLDEN = -0x61C88647  # 2**32 / golden ratio as int32: neighbours of the counter far apart
_INTEGERS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


class DropoutSite(nn.Module):
    """Base of the bricks that drop values: each is told apart by its place in the model.

    Attributes:
        site: 64 bits that its name in the model gives, once it is trained.
    """

    site: int = 0


class Dropout(DropoutSite):
    """Drops values at a given rate while training, and scales the rest.

    Args:
        p: the rate, at least 0 and below 1.
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, keys: RowKeys | None = None) -> Tensor:
        """Drops some of the values.

        Args:
            keys: of the rows; without them torch's generator decides.

        Shape:
            x: (T, any) -> same
        """
        if not (self.training and self.p):
            return x
        if torch.compiler.is_compiling():
            return F.dropout(x, self.p)
        return drop(x, *dice(self.site, keys, x).draw(self.p, x.shape[1:]))

    def add(self, update: Tensor, residual: Tensor, keys: RowKeys | None = None) -> Tensor:
        """`residual + dropout(update)`. Shape: (T, width) twice -> (T, width)."""
        if not (self.training and self.p):
            return residual + update
        if torch.compiler.is_compiling():
            return residual + F.dropout(update, self.p)
        keep, factor = dice(self.site, keys, update).draw(self.p, update.shape[1:])
        added: Tensor = _DropAdd.apply(update, residual, keep, factor)  # type: ignore[no-untyped-call]
        return added

    def extra_repr(self) -> str:
        """Shows the rate in the module tree."""
        return f"p={self.p}"


def drop(x: Tensor, keep: Tensor, factor: float) -> Tensor:
    """The values that were drawn to stay, multiplied by the factor. Shape: x, keep: the same -> same."""
    dropped: Tensor = _Drop.apply(x, keep, factor)  # type: ignore[no-untyped-call]
    return dropped


class Dice(NamedTuple):
    """What decides at one site of one forward.

    Attributes:
        rows: (T, 2) int32, words of the rows.
        site, call: where in the model it is, and how often it has drawn before.
    """

    rows: Tensor
    site: int
    call: int

    def draw(
        self, p: float, shape: Sequence[int], rows: slice | Tensor = slice(None), first: int = 0
    ) -> tuple[Tensor, float]:
        """Decides which values of some rows stay: a function of each row's words and a value's place in its row.

        Args:
            shape: of the values of a row.
            first: how many values of a row stand before these.

        Returns:
            int16, -1 (all bits) for values that stay and 0 for others; the factor of the first.

        Shape:
            return: (T, *shape)
        """
        words, columns = self.rows[rows], math.prod(shape)
        odd = first % 2
        lanes = _words(words, (odd + columns + 1) // 2, self.site, self.call, first // 2).view(torch.int16)
        if lanes.shape[1] > columns:
            lanes = lanes[:, odd : odd + columns].contiguous()
        threshold = min(round(p * _STEPS), _STEPS - 1)
        keep = lanes.bitwise_and_(_STEPS - 1).add_(threshold - _STEPS).bitwise_right_shift_(15)
        return keep.view(len(words), *shape), _STEPS / (_STEPS - threshold)


def dice(site: int, keys: RowKeys | None, like: Tensor) -> Dice:
    """What decides for the rows of a run at a site, by their keys; without keys torch's generator gives their words."""
    if keys is not None:
        return Dice(keys.words, site, keys.next_call(site))
    words = torch.empty(len(like), 2, dtype=torch.int32).random_(-(2**31), 2**31)
    return Dice(words.to(like.device), site, 0)


def _words(rows: Tensor, count: int, site: int, call: int, first: int = 0) -> Tensor:
    """Random int32: a hash of row and column, under a row key of 64 bits. Shape: (T, 2) int32 -> (T, count)."""
    columns, offset = _columns(site, call, 1 << (first + count - 1).bit_length(), rows.device)
    return _mix(rows[:, :1].bitwise_xor(columns[first : first + count]), rows[:, 1:].bitwise_xor(offset))


@lru_cache(maxsize=1 << 12)
def _columns(site: int, call: int, count: int, device: torch.device) -> tuple[Tensor, int]:
    """The words of the columns at a site, (count,) int32, and one for the site itself.

    Fewer columns have the first of these words: by powers of two, the lengths of sequences share what is kept here.
    """
    low, high = np.array([site], np.uint64).view(np.int32).tolist()
    words = torch.arange(count + 1, dtype=torch.int32).mul_(_GOLDEN).add_(low)
    words = _mix(_mix(words, high), call)
    return words[1:].to(device), int(words[0])


def _mix(words: Tensor, key: Tensor | int) -> Tensor:
    """Lets every bit of a word and of a key change the others, in place.

    Source: lowbias32 (Wellons 2018, "Prospecting for hash functions"), with a key in its middle.
    """
    high = torch.bitwise_right_shift(words, 16)
    words.bitwise_xor_(high).mul_(0x7FEB352D).add_(key)
    words.bitwise_xor_(torch.bitwise_right_shift(words, 15, out=high)).mul_(-0x7B935975)
    return words.bitwise_xor_(torch.bitwise_right_shift(words, 16, out=high))


def _clear(x: Tensor, keep: Tensor) -> Tensor:
    integer = _INTEGERS[x.dtype]
    return x.contiguous().view(integer).bitwise_and(keep.to(integer)).view(x.dtype)


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        ctx.save_for_backward(keep)
        return _clear(x, keep).mul_(factor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return _clear(grads[0], keep).mul_(ctx.factor), None, None


class _DropAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, update: Tensor, residual: Tensor, keep: Tensor, factor: float) -> Tensor:
        ctx.factor, ctx.dtype = factor, update.dtype
        ctx.save_for_backward(keep)
        return torch.add(residual, _clear(update, keep), alpha=factor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return _clear(grads[0].to(ctx.dtype), keep).mul_(ctx.factor), grads[0], None, None
