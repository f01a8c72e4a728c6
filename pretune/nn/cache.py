"""The key/value cache of generation: preallocated slots, one for each sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pretune.batch import Layout
from pretune.nn.spans import CacheSlots, KeyLayout


class EncoderOutput(NamedTuple):
    """An encoder's last hidden run (T, width), and where its sequences lie."""

    hidden: Tensor
    layout: Layout


class Cache:
    """Holds keys and values of all layers for N sequences of different lengths.

    Storage is one tensor (2, layers, N, capacity, heads, head_width), made at the first append, doubled when full. On
    the CPU it is in fp32, whatever the dtype of the matmuls: attention of one query over bf16 keys takes 5 to 10 times
    as long.

    Args:
        layers: of the stack.
        sequences: N.
        capacity: tokens a sequence may have before the storage grows.
        limit: tokens that a sequence can have at most, the model's `max_length`; None for no limit.

    Attributes:
        group: number of the adapter that reads each sequence; None where there are none to choose.
    """

    def __init__(self, layers: int, sequences: int, capacity: int = 128, limit: int | None = None) -> None:
        self.layers = layers
        self.lengths: tuple[int, ...] = (0,) * sequences
        self.group: tuple[int, ...] | None = None
        self.limit = limit
        self.capacity = capacity if limit is None else min(capacity, limit)
        self._storage: Tensor | None = None
        self._views: list[tuple[Tensor, Tensor]] = []
        self._before: tuple[int, ...] = self.lengths
        self._rows: Tensor | None = None
        self._slots: CacheSlots | None = None
        self._origin: tuple[int, ...] = tuple(range(sequences))  # of each sequence among those of the encoder
        self._sources: Layout | None = None
        self._cross_kv: dict[int, tuple[Tensor, Tensor]] = {}
        self._reordered_cross_kv: tuple[Layout, dict[int, tuple[Tensor, Tensor]]] | None = None

    @property
    def has_cross_kv(self) -> bool:
        """Whether it holds keys and values of an encoder's run, so that the run itself is no longer needed."""
        return self._sources is not None

    def layout(self, lengths: Sequence[int], device: torch.device | str = "cpu") -> Layout:
        """Lays out the tokens that come next: their positions follow what the cache holds."""
        return Layout.of(lengths, device, starts=self.lengths, group=self.group)

    def begin(self, layout: Layout) -> list[LayerCache]:
        """Makes room for the tokens of `layout`; returns a handle for each layer, which takes them.

        Raises:
            ValueError: other sequences than the cache's, or more tokens than its limit.
        """
        if layout.count != len(self.lengths):
            raise ValueError(f"the cache holds {len(self.lengths)} sequences, the batch {layout.count}")
        after = tuple(a + b for a, b in zip(self.lengths, layout.lengths, strict=True))
        max_length = max(after, default=0)
        if self.limit is not None and max_length > self.limit:
            raise ValueError(f"a sequence of {max_length} tokens is longer than the model's {self.limit} positions")
        if max_length > self.capacity:
            self._grow(max_length)
        self._before, self.lengths = self.lengths, after
        self._rows = self._slots = None
        return [LayerCache(self, n) for n in range(self.layers)]

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forgets what comes after the first tokens of each sequence.

        Raises:
            ValueError: other sequences than the cache's, or more tokens than one of them has.
        """
        after = tuple(lengths)
        if len(after) != len(self.lengths) or any(a > b or a < 0 for a, b in zip(after, self.lengths, strict=False)):
            raise ValueError(f"a cache of {self.lengths} tokens cannot be cut to {after}")
        self.lengths = after
        self._rows = self._slots = None

    def reorder(self, index: Tensor | Sequence[int]) -> None:
        """Makes sequence n a copy of sequence `index[n]`: the surviving beams, or fewer sequences, or more."""
        order = torch.as_tensor(index, dtype=torch.int64)
        self.lengths = tuple(self.lengths[n] for n in order.tolist())
        self.group = None if self.group is None else tuple(self.group[n] for n in order.tolist())
        origin = tuple(self._origin[n] for n in order.tolist())
        if origin != self._origin:
            self._origin, self._reordered_cross_kv = origin, None
        if self._storage is not None:
            used = max(self.lengths, default=0)
            old = self._storage.narrow(3, 0, used).index_select(2, order.to(self._storage.device))
            if len(order) != self._storage.shape[2]:
                self._allocate(old[0, 0, :0, 0], len(order))
            self._storage.narrow(3, 0, used).copy_(old)

    def _store_cross_kv(self, layer: int, key: Tensor, value: Tensor, layout: Layout) -> None:
        self._sources = layout
        self._cross_kv[layer] = (key.to(_cached_dtype(key)), value.to(_cached_dtype(value)))

    def _get_cross_kv(self, layer: int) -> tuple[Tensor, Tensor, Layout] | None:
        """Keys and values of the encoder's runs that the sequences belong to, in their order."""
        if self._sources is None or layer not in self._cross_kv:
            return None
        if self._origin == tuple(range(self._sources.count)):
            return (*self._cross_kv[layer], self._sources)
        if self._reordered_cross_kv is None:
            group = None if self._sources.group is None else [self._sources.group[n] for n in self._origin]
            lengths = [self._sources.lengths[n] for n in self._origin]
            layout = Layout.of(lengths, self._sources.offsets.device, group=group)
            self._reordered_cross_kv = (layout, {})
        layout, reordered = self._reordered_cross_kv
        if layer not in reordered:
            bounds = self._sources.bounds
            rows = torch.cat([torch.arange(bounds[n], bounds[n + 1]) for n in self._origin])
            key, value = (x.index_select(0, rows.to(x.device)) for x in self._cross_kv[layer])
            reordered[layer] = (key, value)
        return (*reordered[layer], layout)

    def _allocate(self, like: Tensor, sequences: int) -> Tensor:
        shape = (2, self.layers, sequences, self.capacity, *like.shape[1:])
        self._storage = like.new_zeros(shape, dtype=_cached_dtype(like))
        self._views = [(self._storage[0, n], self._storage[1, n]) for n in range(self.layers)]
        return self._storage

    def _grow(self, needed: int) -> None:
        capacity = max(needed, 2 * self.capacity)
        self.capacity = capacity if self.limit is None else min(capacity, self.limit)
        old = self._storage
        if old is not None:
            self._allocate(old[0, 0, :0, 0], old.shape[2]).narrow(3, 0, old.shape[3]).copy_(old)

    def _append(self, layer: int, key: Tensor, value: Tensor, layout: Layout) -> tuple[Tensor, Tensor, KeyLayout]:
        if self._storage is None:
            self._allocate(key.detach(), layout.count)
        before, count = self._before, layout.count
        start = before[0]
        if min(before) == max(before) and min(layout.lengths) == layout.max_length:
            for store, new in zip(self._views[layer], (key, value), strict=True):
                store.narrow(1, start, layout.max_length).copy_(new.view(count, layout.max_length, *new.shape[1:]))
        else:
            if self._rows is None:
                starts = torch.arange(count) * self.capacity
                self._rows = layout.positions + starts.repeat_interleave(torch.tensor(layout.lengths)).to(key.device)
            for store, new in zip(self._views[layer], (key, value), strict=True):
                store.flatten(0, 1).index_copy_(0, self._rows, new.to(store.dtype))
        if not any(before):
            return key, value, layout
        if self._slots is None:
            self._slots = CacheSlots(self.lengths, self.capacity, key.device, layout.group)
        keys, values = self._views[layer]
        return keys.flatten(0, 1), values.flatten(0, 1), self._slots


def _cached_dtype(run: Tensor) -> torch.dtype:
    """The dtype that keys or values are held in: see `Cache`."""
    return torch.float32 if run.device.type == "cpu" and run.dtype == torch.bfloat16 else run.dtype


class LayerCache:
    """Hands one layer its part of the cache during one forward."""

    __slots__ = ("_cache", "_layer")

    def __init__(self, cache: Cache, layer: int) -> None:
        self._cache = cache
        self._layer = layer

    def append(self, key: Tensor, value: Tensor, layout: Layout) -> tuple[Tensor, Tensor, KeyLayout]:
        """Stores new rows; returns all keys and values and where they lie.

        Shape:
            key, value: (T, H, D)
        """
        return self._cache._append(self._layer, key, value, layout)

    def store_cross_kv(self, key: Tensor, value: Tensor, layout: Layout) -> None:
        """Keeps keys and values of an encoder's run. Shape: (T, H, D) twice."""
        self._cache._store_cross_kv(self._layer, key, value, layout)

    def get_cross_kv(self) -> tuple[Tensor, Tensor, Layout] | None:
        """Returns what was kept, a run for each sequence, or None before that. Shape: (T, H, D) twice."""
        return self._cache._get_cross_kv(self._layer)
