"""Attention in a window by batched matmuls over chunks of queries, each with the keys near them, as one operator.

Under a dense mask every score is computed: at length 4096, with a window of 129 keys, the SDPA loop takes 1230 ms on a
core of a CPU, full attention 943. Here a chunk of queries meets only the keys that one of them sees, so time and memory
grow with the length, and not with its square; and what is hidden inside a chunk is a mask that all chunks share.

Sequences of near-equal lengths form a bucket, padded to its longest. The backward computes probabilities again, and
adds what chunks give to the keys that they share in place: without gradients of slices, which are as long as the run.
Dropout is by the keys of the queries' rows, or by words that torch's generator draws for rows without keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pretune.batch import Layout
from pretune.nn.backends import varlen
from pretune.nn.band_plan import BandBucket, BandPlan, Spans, plan_bands
from pretune.nn.call import AttentionCall
from pretune.nn.dropout import Dice, dice, drop
from pretune.nn.operators import operator
from pretune.nn.scores import gradient_of_scores, probabilities
from pretune.nn.spans import CacheSlots
from pretune.nn.structure import Prefixed, SlidingWindow, Structure

PRIORITY = 55
_CHUNK = 64  # queries at once: 128 take as long, with windows of 128 a tenth longer
_WORTH = 1.5  # times the keys of a chunk that the longest sequence has at least, where another kernel is fast
_SCORES = 1 << 20  # scores that are computed at once: they stay in cache
_VECTOR = 32  # bfloat16 values that ATen's softmax takes at once; a row of 319 takes it 6 times as long as one of 320
_HIDDEN = -1e30  # finite: a padded query may see padding alone


def refuse(call: AttentionCall) -> str | None:
    """Says why chunks cannot do or do not pay for this call, or None."""
    shared, window = _parts(call.structure)
    if type(window) is not SlidingWindow:
        return f"banded is for windows, not for {window}"
    if varlen.refuse(call) is None:
        return "varlen has a kernel for windows"
    is_slow = call.dropout > 0 or call.key.dtype == torch.bfloat16  # for ATen's kernel
    if not is_slow and call.keys.max_length - shared < _WORTH * (_CHUNK + window.before + window.after):
        return "banded is for sequences that are long beside their window"
    if call.keys is not call.queries:
        lengths = zip(call.queries.lengths, call.keys.lengths, strict=True)
        if any(0 < keys < shared + queries for queries, keys in lengths):
            return "banded needs a key for each query"
    return None


def attend(call: AttentionCall) -> Tensor:
    """Computes each bucket chunk by chunk. Shapes as in `AttentionCall`."""
    shared, window = _parts(call.structure)
    assert isinstance(window, SlidingWindow)
    query = call.query
    times = query.shape[1] // call.key.shape[1]  # a copy costs less than a slower kernel
    key, value = (run if times == 1 else run.repeat_interleave(times, dim=1) for run in (call.key, call.value))
    words, site, draw = None, 0, 0
    if call.dropout > 0:
        words, site, draw = dice(call.site, call.queries.keys, query)
    used = call.keys.used if isinstance(call.keys, CacheSlots) else None
    numbers = (window.before, window.after, shared, call.scale, call.dropout, site - (site >> 63 << 64), draw)
    if torch.compiler.is_compiling() or (
        torch.is_grad_enabled() and any(run.requires_grad for run in (query, key, value))
    ):
        out: Tensor = ragged_band(query, key, value, call.queries.offsets, call.keys.offsets, used, words, *numbers)
        return out
    return _forward(_Runs(query, key, value), _spans_of(call), words, _Numbers(*numbers))


def _parts(structure: Structure) -> tuple[int, Structure]:
    """How many keys come first, which all queries see, and the structure of the others."""
    return (structure.length, structure.base) if isinstance(structure, Prefixed) else (0, structure)


class _Runs(NamedTuple):
    """Shape: query: (Tq, H, D); key, value: (Tk, H, D)."""

    query: Tensor
    key: Tensor
    value: Tensor


class _Numbers(NamedTuple):
    """The window, the keys before it, and what scales and drops; `site` as a signed number."""

    before: int
    after: int
    shared: int
    scale: float
    dropout: float
    site: int
    draw: int


def _spans_of(call: AttentionCall) -> Spans:
    queries, keys = call.queries, call.keys
    starts = (
        keys.bounds[:-1] if isinstance(keys, Layout) else tuple(n * keys.capacity for n in range(len(keys.lengths)))
    )
    return Spans(queries.bounds[:-1], queries.lengths, starts, keys.lengths)


def _spans(query_offsets: Tensor, key_offsets: Tensor, used: Tensor | None) -> Spans:
    queries, keys = query_offsets.tolist(), key_offsets.tolist()
    lengths = [b - a for a, b in pairwise(keys)] if used is None else used.tolist()
    each = [b - a for a, b in pairwise(queries)]
    return Spans(tuple(queries[:-1]), tuple(each), tuple(keys[:-1]), tuple(lengths))


def _plan(runs: _Runs, spans: Spans, n: _Numbers) -> BandPlan:
    totals, heads = (len(runs.query), len(runs.key)), runs.query.shape[1]
    return plan_bands(spans, totals, (n.before, n.after), n.shared, heads, runs.query.device, n.dropout > 0)


class _Tile(NamedTuple):
    """Scores computed at once: rows of (sequences * H), queries, and the keys that one of them sees.

    Attributes:
        mask: (queries, shared keys and these) or (rows, queries, keys), added to the scores.
        keep: (rows, queries, keys) int16, bits of those that are not dropped, or None.
        factor: of what is not dropped.
    """

    batch: slice
    queries: slice
    keys: slice
    mask: Tensor
    keep: Tensor | None
    factor: float

    def near(self, run: Tensor, shared: int) -> Tensor:
        """The rows that all queries see, and those of this tile. Shape: (B, S, D) -> (batch, keys, D)."""
        if not shared:
            return run[self.batch, self.keys]
        behind = slice(self.keys.start + shared, self.keys.stop + shared)
        return torch.cat([run[self.batch, :shared], run[self.batch, behind]], dim=1)

    def dropped(self, values: Tensor) -> Tensor:
        """Drops some of the probabilities, or of their gradients. Shape: (batch, queries, keys) -> same."""
        return values if self.keep is None else drop(values, self.keep, self.factor)


def _tiles(bucket: BandBucket, heads: int, words: Tensor | None, n: _Numbers, dtype: torch.dtype) -> Iterator[_Tile]:
    for start in range(0, bucket.queries, _CHUNK):
        stop = min(start + _CHUNK, bucket.queries)
        offset = bucket.ahead + start  # of the first query among the keys
        first, last = max(0, offset - n.before), min(bucket.keys, bucket.ahead + stop + n.after)
        first = max(0, first - (first - last - n.shared) % _VECTOR)
        band = _band(stop - start, offset - first, last - first, n[:3], dtype, bucket.rows.device)
        step = max(1, _SCORES // (heads * band.numel()))
        for at in range(0, bucket.sequences, step):
            some = slice(at, min(at + step, bucket.sequences))
            mask, keep, factor = band, None, 1.0
            if bucket.own is not None and n.after and last > first:
                hidden = torch.arange(-n.shared, last - first, device=band.device) >= bucket.own[some, None] - first
                mask = band + hidden.repeat_interleave(heads, dim=0)[:, None] * torch.tensor(_HIDDEN, dtype=dtype)
            if words is not None:
                rows = words.index_select(0, bucket.rows[some, start:stop].flatten())
                keep, factor = _draw(rows, bucket.skipped + n.shared + first, last - first, heads, n)
                keep = keep.view(-1, stop - start, keep.shape[1], heads).transpose(1, 3).transpose(2, 3)
                keep = keep.flatten(0, 1).contiguous()
            batch = slice(some.start * heads, some.stop * heads)
            yield _Tile(batch, slice(start, stop), slice(first, last), mask, keep, factor)


def _draw(rows: Tensor, first: int, keys: int, heads: int, n: _Numbers) -> tuple[Tensor, float]:
    """What stays of the probabilities of some rows. Shape: rows: (R, 2); return: (R, shared + keys, H)."""
    decide = Dice(rows, n.site & (1 << 64) - 1, n.draw)
    keep, factor = decide.draw(n.dropout, (keys, heads), first=first * heads)
    if n.shared:
        keep = torch.cat([decide.draw(n.dropout, (n.shared, heads))[0], keep], dim=1)
    return keep, factor


@lru_cache(maxsize=64)
def _band(
    queries: int, offset: int, keys: int, window: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """What is added to the scores of a chunk.

    Args:
        offset: of its first query among these keys.
        window: keys before and after that a query sees, and those in front that all see.

    Shape:
        return: (queries, shared + keys)
    """
    before, after, shared = window
    distance = torch.arange(keys, device=device) - torch.arange(offset, offset + queries, device=device)[:, None]
    hidden = (distance < -before) | (distance > after)
    mask = torch.zeros(queries, shared + keys, dtype=dtype, device=device)
    mask[:, shared:].masked_fill_(hidden, -torch.inf)
    return mask


def _part(padded: Tensor, first: int, rows: int, length: int) -> Tensor:
    """Takes a bucket's part of a padded run. Shape: (P, D) -> (rows, length, D)."""
    return padded.narrow(0, first, rows * length).view(rows, length, padded.shape[1])


def _of(bucket: BandBucket, heads: int, shared: int, queries: list[Tensor], keys: list[Tensor]) -> Iterator[Tensor]:
    """Takes a bucket's part of several padded runs. Shape: (P, D) -> (sequences * H, length, D)."""
    rows = bucket.sequences * heads
    yield from (_part(run, bucket.first_query, rows, bucket.queries) for run in queries)
    yield from (_part(run, bucket.first_key, rows, shared + bucket.keys) for run in keys)


def _forward(runs: _Runs, spans: Spans, words: Tensor | None, n: _Numbers) -> Tensor:
    """Computes all buckets. Shape: return: (Tq, H, D)."""
    plan, heads = _plan(runs, spans, n), runs.query.shape[1]
    rows, *columns = plan.queries.pad(runs.query), plan.keys.pad(runs.key), plan.keys.pad(runs.value)
    mixed = torch.empty_like(rows)
    with torch.autocast(rows.device.type, enabled=False):
        for bucket in plan.buckets:
            q, out, k, v = _of(bucket, heads, n.shared, [rows, mixed], columns)
            for tile in _tiles(bucket, heads, words, n, rows.dtype):
                at = (tile.batch, tile.queries)
                p = tile.dropped(probabilities(q[at], tile.near(k, n.shared), tile.mask, n.scale))
                torch.bmm(p, tile.near(v, n.shared), out=out[at])
    return plan.queries.unpad(mixed, runs.query)


def _backward(grad: Tensor, runs: _Runs, spans: Spans, words: Tensor | None, n: _Numbers) -> tuple[Tensor, ...]:
    plan, heads = _plan(runs, spans, n), runs.query.shape[1]
    rows = [plan.queries.pad(run) for run in (runs.query, grad)]
    columns = [plan.keys.pad(run) for run in (runs.key, runs.value)]
    if plan.queries.padding is not None:
        rows[1].index_fill_(0, plan.queries.padding, 0.0)
    grads = [torch.empty_like(rows[0]), torch.zeros_like(columns[0]), torch.zeros_like(columns[0])]
    with torch.autocast(grad.device.type, enabled=False):
        for bucket in plan.buckets:
            q, g, dq, k, v, dk, dv = _of(bucket, heads, n.shared, [*rows, grads[0]], [*columns, *grads[1:]])
            for tile in _tiles(bucket, heads, words, n, q.dtype):
                at = (tile.batch, tile.queries)
                near_key, near_value = tile.near(k, n.shared), tile.near(v, n.shared)
                p = probabilities(q[at], near_key, tile.mask, n.scale)
                dp = tile.dropped(torch.bmm(g[at], near_value.transpose(1, 2)))
                ds = gradient_of_scores(dp, p)
                torch.bmm(ds, near_key, out=dq[at])
                _add(dk, tile, n.shared, ds, q[at])
                _add(dv, tile, n.shared, tile.dropped(p), g[at])
    dq, dk, dv = grads[0].mul_(n.scale), grads[1].mul_(n.scale), grads[2]
    return plan.queries.unpad(dq, runs.query), plan.keys.unpad(dk, runs.key), plan.keys.unpad(dv, runs.value)


def _add(total: Tensor, tile: _Tile, shared: int, weights: Tensor, rows: Tensor) -> None:
    """Adds to the gradients of a tile's keys. Shape: total: (B, S, D); weights: (b, L, keys); rows: (b, L, D)."""
    weights = weights.transpose(1, 2)
    behind = slice(tile.keys.start + shared, tile.keys.stop + shared)
    total[tile.batch, behind].baddbmm_(weights[:, shared:], rows)
    if shared:
        total[tile.batch, :shared].baddbmm_(weights[:, :shared], rows)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.numbers = inputs[7:]


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = ragged_band_backward(grad.contiguous(), *ctx.saved_tensors, *ctx.numbers)
    return (*grads, *[None] * 11)


def _shapes(query: Tensor, *_: Any) -> Tensor:
    return query.new_empty(query.shape)


def _shapes_of_gradients(_: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


@operator("pretune::ragged_band", _shapes, _differentiate, _save)
def ragged_band(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_offsets: Tensor,
    key_offsets: Tensor,
    used: Tensor | None,
    words: Tensor | None,
    before: int,
    after: int,
    shared: int,
    scale: float,
    dropout: float,
    site: int,
    draw: int,
) -> Tensor:
    """Attention of two ragged runs in a window, differentiable.

    Args:
        used: how many keys each sequence has, where its slot of a cache has room for more.
        words: of the queries' rows, which decide what is dropped; None without dropout.
        before, after: keys that a query sees on each side of its own; the last query stands at the last key.
        shared: keys of each sequence that come first and that all its queries see.
        site, draw: of the attention in its model, as a signed number, and how often it has drawn before.

    Shape:
        query: (Tq, H, D); key, value: (Tk, H, D); offsets: (N + 1,) int32; used: (N,); words: (Tq, 2) int32;
        return: (Tq, H, D)
    """
    numbers = _Numbers(before, after, shared, scale, dropout, site, draw)
    return _forward(_Runs(query, key, value), _spans(query_offsets, key_offsets, used), words, numbers)


@operator("pretune::ragged_band_backward", _shapes_of_gradients)
def ragged_band_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_offsets: Tensor,
    key_offsets: Tensor,
    used: Tensor | None,
    words: Tensor | None,
    before: int,
    after: int,
    shared: int,
    scale: float,
    dropout: float,
    site: int,
    draw: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `ragged_band`. Shape: as its inputs."""
    numbers = _Numbers(before, after, shared, scale, dropout, site, draw)
    spans = _spans(query_offsets, key_offsets, used)
    dq, dk, dv = _backward(grad, _Runs(query, key, value), spans, words, numbers)
    return dq, dk, dv
