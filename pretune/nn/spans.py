"""Where each sequence's keys lie: end to end (`Layout`), or in slots of a cache with spare capacity (`CacheSlots`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from pretune.batch import Layout


@dataclass(frozen=True)
class CacheSlots:
    """Keys of sequence n are rows `n * capacity` to `n * capacity + lengths[n]` of the run.

    Attributes:
        lengths: keys in use in each slot.
        capacity: rows of a slot.
        device: where the run lives.
        group: number of the adapter that reads each sequence, as in `Layout`.
    """

    lengths: tuple[int, ...]
    capacity: int
    device: torch.device
    group: tuple[int, ...] | None = None

    @cached_property
    def max_length(self) -> int:
        """Keys of the fullest slot."""
        return max(self.lengths, default=0)

    @cached_property
    def used(self) -> Tensor:
        """(N,) int32: keys in use, on the device."""
        return torch.tensor(self.lengths, dtype=torch.int32, device=self.device)

    @cached_property
    def offsets(self) -> Tensor:
        """(N + 1,) int32: first row of each slot, on the device."""
        count = len(self.lengths) + 1
        return torch.arange(count, dtype=torch.int32, device=self.device) * self.capacity

    @cached_property
    def hidden(self) -> Tensor:
        """(N, 1, 1, max_length) bool: rows below the fullest slot's length that are not in use."""
        rows = torch.arange(self.max_length, device=self.device)
        return (rows >= self.used[:, None])[:, None, None, :]

    @cached_property
    def bias(self) -> Tensor | None:
        """(N, 1, 1, max_length) fp32: added to scores so that `hidden` rows are not seen; None if there are none."""
        if min(self.lengths) == self.max_length:
            return None
        return torch.zeros(self.hidden.shape, device=self.device).masked_fill_(self.hidden, -torch.inf)

    def heads_of(self, run: Tensor) -> Tensor:
        """The used part of every slot as a batch, without a copy. Shape: (S, H, D) -> (N, H, max_length, D)."""
        slots = run.view(len(self.lengths), self.capacity, run.shape[1], run.shape[2])
        return slots.narrow(1, 0, self.max_length).transpose(1, 2)


KeyLayout = Layout | CacheSlots


class EqualLengthGroup(NamedTuple):
    """Adjacent sequences of equal lengths, which one batched kernel call computes.

    Attributes:
        adapter: that reads all of them, where the caller asked for groups of one each.
    """

    query_start: int
    query_length: int
    key_start: int
    key_length: int
    sequences: int
    adapter: int | None = None


@lru_cache(maxsize=256)
def grouped(
    query_bounds: tuple[int, ...], key_bounds: tuple[int, ...], adapters: tuple[int, ...] | None = None
) -> tuple[EqualLengthGroup, ...]:
    """Finds the groups of two runs that lie end to end; sequences without queries or without keys are left out.

    Args:
        adapters: that read the sequences, where those of different ones are not to be in one group.
    """
    groups: list[EqualLengthGroup] = []
    previous: tuple[int, int, int | None] = (-1, -1, None)
    for n in range(len(query_bounds) - 1):
        query_start, key_start = query_bounds[n], key_bounds[n]
        queries, keys = query_bounds[n + 1] - query_start, key_bounds[n + 1] - key_start
        adapter = None if adapters is None else adapters[n]
        if (queries, keys, adapter) == previous:
            groups[-1] = groups[-1]._replace(sequences=groups[-1].sequences + 1)
        elif queries and keys:
            groups.append(EqualLengthGroup(query_start, queries, key_start, keys, 1, adapter))
        previous = (queries, keys, adapter) if queries and keys else (-1, -1, None)
    return tuple(groups)


def groups_of(queries: Layout, keys: KeyLayout) -> tuple[EqualLengthGroup, ...]:
    """Finds the batched calls that cover two runs; keys in slots go one sequence at a time."""
    if isinstance(keys, Layout):
        return grouped(queries.bounds, keys.bounds)
    return tuple(
        EqualLengthGroup(start, length, n * keys.capacity, used, 1)
        for n, (start, length, used) in enumerate(zip(queries.bounds, queries.lengths, keys.lengths, strict=False))
        if length and used
    )


def covers(groups: Sequence[EqualLengthGroup], queries: int, keys: int) -> bool:
    """Whether the groups touch every row of two runs of the given totals."""
    touched = list(accumulate((g.sequences * g.query_length for g in groups), initial=0))[-1]
    return touched == queries and sum(g.sequences * g.key_length for g in groups) == keys


def heads_of(run: Tensor, start: int, length: int, count: int) -> Tensor:
    """Views a group's rows as a batch, without a copy.

    Shape:
        run: (T, H, D); return: (count, H, length, D)
    """
    return run.narrow(0, start, count * length).view(count, length, run.shape[1], run.shape[2]).transpose(1, 2)
