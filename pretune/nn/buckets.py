"""Buckets of sequences of near-equal lengths for batched matmuls, and the gathers into them and back."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FILL = 0.85  # shortest over longest sequence of a bucket, where less would compute more than
WASTE = 1 << 15  # scores at padding of a sequence, about what a bucket of its own costs


class Bucket(NamedTuple):
    """Sequences computed together, padded to the longest; parts of two runs that are laid out by heads.

    Attributes:
        sequences: in it.
        queries, keys: of each sequence in the padded views.
        first_query, first_key: row where its part of a run begins, which goes by sequence, head, position.
        hidden: (sequences * heads, 1, keys) -inf at padding, else 0; None where no sequence's keys are padded.
    """

    sequences: int
    queries: int
    keys: int
    first_query: int
    first_key: int
    hidden: Tensor | None


class GatherPlan(NamedTuple):
    """How a run (T, H, D), seen as (T * H, D), becomes the parts of buckets and comes back: one gather each way.

    Attributes:
        gather: (P,) int64, the row that stands in each padded row; padding repeats its sequence's last token.
        scatter: (T * H,) int64, the padded row of each row.
        padding: (Z,) int64 padded rows that are padding, or None.
    """

    gather: Tensor
    scatter: Tensor
    padding: Tensor | None


class BucketPlan(NamedTuple):
    """The buckets, one after another in the padded runs of queries and of keys."""

    buckets: tuple[Bucket, ...]
    queries: GatherPlan
    keys: GatherPlan


@lru_cache(maxsize=16)
def plan_buckets(
    query_bounds: tuple[int, ...], key_bounds: tuple[int, ...], heads: int, dtype: torch.dtype
) -> BucketPlan:
    """Puts sequences of near-equal numbers of keys together, the longest first."""
    lengths = np.diff(key_bounds)
    order = np.argsort(-lengths, kind="stable")
    members = _buckets(order[lengths[order] > 0], lengths, heads)
    keys, key_views = _side(key_bounds, members, heads)
    queries, query_views = (keys, key_views) if query_bounds == key_bounds else _side(query_bounds, members, heads)
    buckets: list[Bucket] = []
    first_query = first_key = 0
    for part, query_view, inside in zip(members, query_views, key_views, strict=True):
        hidden = None
        if not inside.all():
            hidden = torch.zeros(inside.shape, dtype=dtype).masked_fill_(~torch.from_numpy(inside), -torch.inf)
            hidden = hidden.repeat_interleave(heads, dim=0)[:, None]
        buckets.append(Bucket(len(part), query_view.shape[1], inside.shape[1], first_query, first_key, hidden))
        first_query, first_key = first_query + query_view.size * heads, first_key + inside.size * heads
    return BucketPlan(tuple(buckets), queries, keys)


def _side(
    bounds: tuple[int, ...], members: list[NDArray[np.int64]], heads: int
) -> tuple[GatherPlan, list[NDArray[np.bool_]]]:
    """Puts one run into buckets, and says where each bucket's padded view (sequences, length) holds a row."""
    starts, lengths = np.array(bounds[:-1]), np.diff(bounds)
    rows, real, views = [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)], []
    for part in members:
        own, length = lengths[part, None], int(lengths[part].max())
        inside = np.arange(length) < own
        token = np.minimum(starts[part, None] + np.minimum(np.arange(length), np.maximum(own - 1, 0)), bounds[-1] - 1)
        rows.append((token[:, None] * heads + np.arange(heads)[:, None]).ravel())
        real.append(np.repeat(inside[:, None], heads, axis=1).ravel())
        views.append(inside)
    gather, kept = np.concatenate(rows), np.concatenate(real)
    scatter = np.empty(bounds[-1] * heads, np.int64)
    scatter[gather[kept]] = np.flatnonzero(kept)
    padding = None if kept.all() else torch.from_numpy(np.flatnonzero(~kept))
    return GatherPlan(torch.from_numpy(gather), torch.from_numpy(scatter), padding), views


def _buckets(order: NDArray[np.int64], lengths: NDArray[np.int64], heads: int) -> list[NDArray[np.int64]]:
    """Cuts `order`, which goes by falling length, into parts that are nearly as long as their first sequence."""
    buckets, first = [], 0
    while first < len(order):
        max_length = int(lengths[order[first]])
        min_length = min(FILL * max_length, math.sqrt(max(max_length**2 - WASTE / heads, 0)))
        last = first + int(np.searchsorted(-lengths[order[first:]], -min_length, side="right"))
        buckets.append(order[first:last])
        first = last
    return buckets


def gather(run: Tensor, side: GatherPlan) -> Tensor:
    """Gathers a run into buckets. Shape: (T, H, D) -> (P, D)."""
    return run.reshape(-1, run.shape[2]).index_select(0, side.gather)


def scatter(padded: Tensor, side: GatherPlan, like: Tensor) -> Tensor:
    """Brings buckets back into the order of a run. Shape: (P, D) -> (T, H, D)."""
    return padded.index_select(0, side.scatter).view(like.shape)
