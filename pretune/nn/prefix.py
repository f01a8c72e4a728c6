"""Keys and values in front of every sequence's own: where a tuning method hangs what all queries may attend to."""

from __future__ import annotations

from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.spans import CacheSlots, KeyLayout


class KeyPrefix(Protocol):
    """What stands at `Attention.prefix`.

    Attributes:
        length: rows in front of every sequence's keys.
    """

    @property
    def length(self) -> int:
        """Rows in front of every sequence's keys."""

    def extend(self, key: Tensor, value: Tensor, keys: KeyLayout) -> tuple[Tensor, Tensor, KeyLayout]:
        """Puts its rows in front of every sequence's. Shape: key, value: (Tk, H, D) -> (Tk + N * length, H, D)."""


class NoPrefix:
    """Leaves keys and values as they are."""

    length = 0

    def extend(self, key: Tensor, value: Tensor, keys: KeyLayout) -> tuple[Tensor, Tensor, KeyLayout]:
        """Shape: (Tk, H, D) -> the same."""
        return key, value, keys


NO_PREFIX = NoPrefix()


class LearnedPrefix(nn.Module):
    """The same learned rows in front of every sequence, with positions before its first.

    A structure treats them as earlier tokens: a causal query sees them all, a query of a window those that are near.

    Args:
        length: number of rows.
        heads: of keys and values.
        head_width: of each head.

    Source: Li and Liang 2021, arXiv 2101.00190.
    """

    def __init__(self, length: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.key = nn.Parameter(torch.empty(length, heads, head_width))
        self.value = nn.Parameter(torch.empty(length, heads, head_width))

    @property
    def length(self) -> int:
        """Rows in front of every sequence's keys."""
        return len(self.key)

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draws initial values."""
        self.key.normal_(0, std)
        self.value.normal_(0, std)

    def extend(self, key: Tensor, value: Tensor, keys: KeyLayout) -> tuple[Tensor, Tensor, KeyLayout]:
        """Puts the rows in front of every sequence's. Shape: (Tk, H, D) -> (Tk + N * length, H, D)."""
        first, second = self.key.to(key.dtype), self.value.to(value.dtype)
        if isinstance(keys, CacheSlots):
            return _in_slots(first, key, keys), _in_slots(second, value, keys), _longer_slots(keys, self.length)
        index, layout = _gather_plan(keys, self.length)
        return (
            torch.cat([first, key]).index_select(0, index),
            torch.cat([second, value]).index_select(0, index),
            layout,
        )


def _gather_plan(keys: Layout, length: int) -> tuple[Tensor, Layout]:
    """Which row of [prefix, run] stands in each place, and where the longer sequences lie; made once for all layers."""
    memo_key = (LearnedPrefix, length)
    if memo_key not in keys.memo:
        prefix = np.arange(length)
        bounds = keys.bounds
        rows = [part for n in range(keys.count) for part in (prefix, np.arange(bounds[n], bounds[n + 1]) + length)]
        index = torch.from_numpy(np.concatenate([prefix[:0], *rows])).to(keys.offsets.device)
        longer = [used + length for used in keys.lengths]
        keys.memo[memo_key] = (index, Layout.of(longer, keys.offsets.device))
    return cast(tuple[Tensor, Layout], keys.memo[memo_key])


def _in_slots(prefix: Tensor, run: Tensor, keys: CacheSlots) -> Tensor:
    """Shape: prefix: (P, H, D), run: (N * capacity, H, D) -> (N * (P + max_length), H, D)."""
    used = run.view(len(keys.lengths), keys.capacity, *run.shape[1:]).narrow(1, 0, keys.max_length)
    return torch.cat([prefix.expand(len(used), *prefix.shape), used], dim=1).flatten(0, 1)


def _longer_slots(keys: CacheSlots, length: int) -> CacheSlots:
    return CacheSlots(tuple(used + length for used in keys.lengths), keys.max_length + length, keys.device)
