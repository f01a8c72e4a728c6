"""Buckets for attention in a window: sequences of near-equal lengths, and of each the keys that its queries may see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretune.nn.buckets import FILL, WASTE


class Spans(NamedTuple):
    """Where the queries and keys of sequences lie in their runs, on the host; one number for each sequence.

    Attributes:
        query_start, queries: first row of each, and how many.
        key_start, keys: the same of its keys, the shared ones among them.
    """

    query_start: tuple[int, ...]
    queries: tuple[int, ...]
    key_start: tuple[int, ...]
    keys: tuple[int, ...]


class BandBucket(NamedTuple):
    """Sequences computed together, padded to the longest.

    Attributes:
        sequences: in it.
        queries, keys: of each in the padded views, the shared keys not counted.
        ahead: place among its keys of each sequence's first query.
        skipped: how many keys, which no query sees, each sequence has before these; that of the first sequence.
        first_query, first_key: row where its part of a padded run begins, which goes by sequence, head, position.
        rows: (sequences, queries) int64, the row of each query in its run.
        own: (sequences,) int64, keys of each; None where all have as many as the longest.
    """

    sequences: int
    queries: int
    keys: int
    ahead: int
    skipped: int
    first_query: int
    first_key: int
    rows: Tensor
    own: Tensor | None


@dataclass(frozen=True)
class BandGather:
    """How a run (T, H, D), seen as (T * H, D), becomes the parts of buckets and comes back.

    Attributes:
        gather: (P,) int64, the row that stands in each padded row; padding repeats its sequence's last token.
        padding: (Z,) int64 padded rows that are padding, or None.
        rows: how many the run has, T * H.
    """

    gather: Tensor
    padding: Tensor | None
    rows: int

    @cached_property
    def scatter(self) -> tuple[Tensor, Tensor | None]:
        """(rows,) int64, the padded row of each row, any where it is in no bucket; (M,) int64 those in none, or None.

        Made where it is asked for: nobody asks for the keys of a cache, which is longer than what is seen of it.
        """
        padded = torch.arange(len(self.gather), device=self.gather.device)
        index = padded.new_full((self.rows,), -1)
        real = torch.ones_like(padded, dtype=torch.bool)
        if self.padding is not None:
            real[self.padding] = False
        index[self.gather[real]] = padded[real]
        missing = (index < 0).nonzero().flatten()
        return index.clamp_(min=0), missing if len(missing) else None

    def pad(self, run: Tensor) -> Tensor:
        """Gathers a run into buckets. Shape: (T, H, D) -> (P, D)."""
        return run.reshape(-1, run.shape[2]).index_select(0, self.gather)

    def unpad(self, padded: Tensor, like: Tensor) -> Tensor:
        """Brings buckets back into the order of a run, 0 where a row is in none. Shape: (P, D) -> (T, H, D)."""
        if not len(padded):
            return torch.zeros_like(like)
        index, missing = self.scatter
        run = padded.index_select(0, index)
        if missing is not None:
            run.index_fill_(0, missing, 0.0)
        return run.view(like.shape)


class BandPlan(NamedTuple):
    """The buckets, one after another in the padded runs of queries and of keys."""

    buckets: tuple[BandBucket, ...]
    queries: BandGather
    keys: BandGather


@lru_cache(maxsize=16)
def plan_bands(
    spans: Spans,
    totals: tuple[int, int],
    window: tuple[int, int],
    shared: int,
    heads: int,
    device: torch.device,
    by_skipped: bool,
) -> BandPlan:
    """Puts together sequences of near-equal numbers of queries whose first query stands at the same key.

    Args:
        totals: rows of the run of queries and of that of keys.
        window: keys that a query sees before and after its own.
        shared: keys of each sequence that come first and that all its queries see.
        by_skipped: whether sequences of a bucket have also as many keys that no query sees.
    """
    query_start, queries, key_start, keys = (np.array(part, np.int64) for part in spans)
    own = keys - shared
    skipped = np.maximum(own - queries - window[0], 0)
    own, ahead = own - skipped, own - queries - skipped
    members = list(_members(queries, ahead, skipped * by_skipped, keys > 0, WASTE // (heads * (sum(window) + 1))))
    buckets: list[BandBucket] = []
    query_views, key_views = [], []
    first_query = first_key = 0
    for part in members:
        count, length, width = len(part), int(queries[part].max()), int(own[part].max())
        query_view = _view(query_start[part], queries[part], length)
        at = np.arange(shared + width)
        inside = at < shared + own[part, None]
        last = shared + own[part, None] - 1
        row = np.minimum(at, last) + np.where(np.minimum(at, last) >= shared, skipped[part, None], 0)
        key_views.append((key_start[part, None] + row, inside))
        query_views.append(query_view)
        lengths = None if inside.all() else torch.from_numpy(own[part]).to(device)
        rows = torch.from_numpy(query_view[0]).to(device)
        starts = (int(ahead[part[0]]), int(skipped[part[0]]), first_query, first_key)
        buckets.append(BandBucket(count, length, width, *starts, rows, lengths))
        first_query += count * length * heads
        first_key += count * (shared + width) * heads
    sides = [_side(views, total, heads, device) for views, total in zip((query_views, key_views), totals, strict=True)]
    return BandPlan(tuple(buckets), *sides)


def _view(
    start: NDArray[np.int64], lengths: NDArray[np.int64], length: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The row in each place of sequences padded to one length, and whether it is one. Shape: return: (n, length)."""
    at = np.arange(length)
    return start[:, None] + np.minimum(at, lengths[:, None] - 1), at < lengths[:, None]


def _members(
    queries: NDArray[np.int64],
    ahead: NDArray[np.int64],
    skipped: NDArray[np.int64],
    has_keys: NDArray[np.bool_],
    waste: int,
) -> Iterator[NDArray[np.int64]]:
    """The sequences of each bucket: those that stand alike, by falling length, cut where padding would cost much."""
    order = np.lexsort((-queries, skipped, ahead))
    order = order[(queries[order] > 0) & has_keys[order]]
    first = 0
    while first < len(order):
        head = order[first]
        longest = int(queries[head])
        alike = (ahead[order] == ahead[head]) & (skipped[order] == skipped[head])
        fits = alike & (queries[order] >= min(FILL * longest, longest - waste))
        fits[:first] = False
        yield order[fits]
        first += int(fits.sum())


def _side(
    views: list[tuple[NDArray[np.int64], NDArray[np.bool_]]], total: int, heads: int, device: torch.device
) -> BandGather:
    """Lays the views of one run out by sequence, head, position."""
    rows, real = [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)]
    for token, inside in views:
        rows.append((token[:, None] * heads + np.arange(heads)[:, None]).ravel())
        real.append(np.repeat(inside[:, None], heads, axis=1).ravel())
    gather, kept = np.concatenate(rows), np.concatenate(real)
    padding = None if kept.all() else torch.from_numpy(np.flatnonzero(~kept)).to(device)
    return BandGather(torch.from_numpy(gather).to(device), padding, total * heads)
