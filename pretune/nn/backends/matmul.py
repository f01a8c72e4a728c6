"""Attention on the CPU by batched matmuls over buckets of near-equal lengths, as one operator.

ATen's flash kernel is slow in bfloat16 without AMX: at length 128 its backward takes 4.5 times as long as the matmuls
here, which oneDNN does with the CPU's bfloat16 instructions (12.2 against 2.7 ms; forward 2.7 against 1.8; at length
512 still 27.9 against 20.7). Without gradients, too, flash takes 1.1 to 2.1 times as long, from 8 tokens to 1024, with
heads of 32 and of 64. Scores are rounded to bfloat16, as in the plain formulation of `transformers`.

In float32 it is for training on short sequences, whose many lengths cost the flash kernel a call each: 32 of 40 to 64
tokens take 10.8 ms instead of 16.2 with 8 heads of 16, 9.3 instead of 10.6 with 2 of 64; at length 512 flash is faster.

Sequences of near-equal lengths form a bucket, padded to its longest; one gather brings all buckets into the order of
their matmuls and one brings the result back, so a bucket costs its matmuls alone. Probabilities of short sequences
are kept for the backward, those of long ones computed again. Causal sequences are done in blocks of queries, so that
what is hidden is mostly not computed. Queries may be fewer than the keys: behind a prefix, or a last layer's, of
which only some rows are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pretune.nn.buckets import Bucket, gather, plan_buckets, scatter
from pretune.nn.call import AttentionCall
from pretune.nn.operators import operator
from pretune.nn.scores import gradient_of_scores, probabilities
from pretune.nn.structure import Bidirectional, Causal

PRIORITY = 30
_KEEP = 256  # keys of the longest sequence whose probabilities are kept
_BLOCK = 256  # queries of a causal block
_CHUNK = 1 << 20  # scores that are computed at once: they stay in cache


def refuse(call: AttentionCall) -> str | None:
    """Says why this backend cannot do the call, or None."""
    query, keys = call.query, call.keys
    if query.device.type != "cpu" or query.dtype not in (torch.bfloat16, torch.float32):
        return "matmul is for bfloat16 and float32 on the CPU"
    if query.dtype == torch.float32 and (torch.compiler.is_compiling() or keys.max_length > _KEEP):
        return f"matmul in float32 is for sequences of at most {_KEEP}, and a compiled graph must not look at lengths"
    if call.dropout > 0:
        return "matmul has no dropout"
    if type(call.structure) not in (Bidirectional, Causal):
        return f"matmul cannot render {call.structure}"
    if call.through_cache:
        return "matmul has no access to a cache"
    if call.is_causal and not _has_one_offset(call):
        return "matmul under a causal mask needs the same number of keys before the first query of every sequence"
    if query.dtype == torch.float32 and not _differentiated(query):
        return "matmul in float32 is for training; the forward of flash is faster"
    return None


def attend(call: AttentionCall) -> Tensor:
    """Computes attention bucket by bucket. Shapes as in `AttentionCall`."""
    query = call.query
    keep = _differentiated(query) and not torch.compiler.is_compiling()
    key, value = (_for_each(run, query.shape[1]) for run in (call.key, call.value))
    bounds = (call.queries.offsets, call.keys.offsets)
    out: Tensor = ragged_matmul(query, key, value, *bounds, call.is_causal, call.scale, keep)[0]
    return out


def _has_one_offset(call: AttentionCall) -> bool:
    """Whether every sequence has as many more keys than queries as the others, so that one mask serves a bucket."""
    if call.keys is call.queries:
        return True
    lengths = zip(call.queries.lengths, call.keys.lengths, strict=True)
    return len({keys - queries for queries, keys in lengths}) <= 1


def _for_each(run: Tensor, heads: int) -> Tensor:
    """Repeats keys or values for all heads of queries that share them: a copy costs less than a slower kernel."""
    times = heads // run.shape[1]
    return run if times == 1 else run.repeat_interleave(times, dim=1)


def _differentiated(query: Tensor) -> bool:
    return torch.is_grad_enabled() and query.requires_grad


def _part(padded: Tensor, first: int, rows: int, length: int) -> Tensor:
    """Takes a bucket's part of a padded run. Shape: (P, D) -> (rows, length, D)."""
    return padded.narrow(0, first, rows * length).view(rows, length, padded.shape[1])


def _parts(bucket: Bucket, heads: int, queries: list[Tensor], keys: list[Tensor]) -> Iterator[Tensor]:
    """Takes a bucket's part of several padded runs. Shape: (P, D) -> (sequences * H, length, D)."""
    rows = bucket.sequences * heads
    yield from (_part(run, bucket.first_query, rows, bucket.queries) for run in queries)
    yield from (_part(run, bucket.first_key, rows, bucket.keys) for run in keys)


class _Tile(NamedTuple):
    """Scores computed at once: rows of (sequences * H), queries and the keys that they may see, and what is added."""

    batch: slice
    queries: slice
    keys: slice
    mask: Tensor | None


def _tiles(bucket: Bucket, heads: int, causal: bool, dtype: torch.dtype) -> Iterator[_Tile]:
    step = _BLOCK if causal else max(bucket.queries, 1)
    hidden = None if causal else bucket.hidden
    offset = bucket.keys - bucket.queries  # keys before the first query, the same for all under a causal mask
    for first in range(0, bucket.queries, step):
        last = min(first + step, bucket.queries)
        visible = offset + last if causal else bucket.keys
        triangle = _triangle(last - first, visible, dtype) if causal and last > 1 else None
        rows = max(1, _CHUNK // ((last - first) * visible))
        for start in range(0, bucket.sequences * heads, rows):
            batch = slice(start, min(start + rows, bucket.sequences * heads))
            mask = triangle if hidden is None else hidden[batch]
            yield _Tile(batch, slice(first, last), slice(0, visible), mask)


@lru_cache(maxsize=64)
def _triangle(queries: int, keys: int, dtype: torch.dtype) -> Tensor:
    hidden = torch.ones(queries, keys, dtype=torch.bool).triu_(keys - queries + 1)
    return torch.zeros(queries, keys, dtype=dtype).masked_fill_(hidden, -torch.inf)


def _softmax(q: Tensor, k: Tensor, tile: _Tile, scale: float, out: Tensor | None = None) -> Tensor:
    """Probabilities of a tile. Shape: q, k: (n * H, L, D); return: (batch, queries, keys)."""
    return probabilities(q[tile.batch, tile.queries], k[tile.batch, tile.keys], tile.mask, scale, out)


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: tuple[tuple[int, ...], tuple[int, ...]],
    causal: bool,
    scale: float,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """Computes all buckets.

    Shape:
        return: out (Tq, H, D) and the kept probabilities, flat.
    """
    heads = query.shape[1]
    plan = plan_buckets(*bounds, heads, query.dtype)
    rows, *columns = gather(query, plan.queries), gather(key, plan.keys), gather(value, plan.keys)
    mixed = torch.empty_like(rows)
    kept = [b for b in plan.buckets if keep and b.keys <= _KEEP]
    probabilities = query.new_empty(sum(b.sequences * heads * b.queries * b.keys for b in kept))
    start = 0
    for bucket in plan.buckets:
        q, out, k, v = _parts(bucket, heads, [rows, mixed], columns)
        for tile in _tiles(bucket, heads, causal, query.dtype):
            target = None
            if keep and bucket.keys <= _KEEP:
                target = _kept(probabilities, start, tile, bucket)
                start += target.numel()
            p = _softmax(q, k, tile, scale, target)
            torch.bmm(p, v[tile.batch, tile.keys], out=out[tile.batch, tile.queries])
    return scatter(mixed, plan.queries, query), probabilities


def _kept(probabilities: Tensor, start: int, tile: _Tile, bucket: Bucket) -> Tensor:
    """Takes a tile's part of the kept probabilities. Shape: (batch, queries, keys)."""
    rows = tile.batch.stop - tile.batch.start
    return probabilities.narrow(0, start, rows * bucket.queries * bucket.keys).view(rows, bucket.queries, bucket.keys)


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    probabilities: Tensor,
    bounds: tuple[tuple[int, ...], tuple[int, ...]],
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    heads = query.shape[1]
    plan = plan_buckets(*bounds, heads, query.dtype)
    rows, columns = (
        [gather(run, plan.queries) for run in (query, grad)],
        [gather(run, plan.keys) for run in (key, value)],
    )
    if plan.queries.padding is not None:
        rows[1].index_fill_(0, plan.queries.padding, 0.0)
    grads = [torch.empty_like(rows[0]), torch.empty_like(columns[0]), torch.empty_like(columns[0])]
    start = 0
    for bucket in plan.buckets:
        q, g, dq, k, v, *more = _parts(bucket, heads, [*rows, grads[0]], [*columns, *grads[1:]])
        blocks = causal and bucket.queries > _BLOCK
        if blocks or not bucket.queries:
            dk, dv = (torch.zeros_like(run, dtype=torch.float32) for run in more)
        else:
            dk, dv = more
        for tile in _tiles(bucket, heads, causal, query.dtype):
            if bucket.keys <= _KEEP and probabilities.numel():
                p = _kept(probabilities, start, tile, bucket)
                start += p.numel()
            else:
                p = _softmax(q, k, tile, scale)
            at_queries, at_keys = (tile.batch, tile.queries), (tile.batch, tile.keys)
            dp = torch.bmm(g[at_queries], v[at_keys].transpose(1, 2))
            ds = gradient_of_scores(dp, p)
            torch.bmm(ds, k[at_keys], out=dq[at_queries])
            if blocks:
                dv[at_keys] += torch.bmm(p.transpose(1, 2), g[at_queries])
                dk[at_keys] += torch.bmm(ds.transpose(1, 2), q[at_queries])
            else:
                torch.bmm(p.transpose(1, 2), g[at_queries], out=dv[tile.batch])
                torch.bmm(ds.transpose(1, 2), q[at_queries], out=dk[tile.batch])
        if dk is not more[0]:
            for target, total in zip(more, (dk, dv), strict=True):
                target.copy_(total)
    dq, dk, dv = grads[0].mul_(scale), grads[1].mul_(scale), grads[2]
    return scatter(dq, plan.queries, query), scatter(dk, plan.keys, key), scatter(dv, plan.keys, value)


def _bounds(queries: Tensor, keys: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    known = tuple(keys.tolist())
    return (known if queries is keys else tuple(queries.tolist())), known


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # else autograd makes zeros of the probabilities' size
    query, key, value, query_offsets, key_offsets, ctx.causal, ctx.scale, _ = inputs
    ctx.save_for_backward(query, key, value, output[1], query_offsets, key_offsets)


def _differentiate(ctx: Any, grad: Tensor, _probabilities: Tensor) -> tuple[Tensor | None, ...]:
    grads = ragged_matmul_backward(grad.contiguous(), *ctx.saved_tensors, ctx.causal, ctx.scale)
    return (*grads, None, None, None, None, None)


def _shapes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_offsets: Tensor,
    key_offsets: Tensor,
    causal: bool,
    scale: float,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    size = torch.library.get_ctx().new_dynamic_size() if keep else 0
    return query.new_empty(query.shape), query.new_empty(size)


def _shapes_of_gradients(_: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


@operator("pretune::ragged_matmul", _shapes, _differentiate, _save)
def ragged_matmul(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_offsets: Tensor,
    key_offsets: Tensor,
    causal: bool,
    scale: float,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """Attention of two ragged runs, differentiable.

    Args:
        keep: keep the probabilities of short sequences for the backward. Their size depends on the lengths, which a
            compiled graph must not look at: there it is False.

    Shape:
        query: (Tq, H, D); key, value: (Tk, H, D); offsets: (N + 1,) int32; return: (Tq, H, D), probabilities (any,)
    """
    return _forward(query, key, value, _bounds(query_offsets, key_offsets), causal, scale, keep)


@operator("pretune::ragged_matmul_backward", _shapes_of_gradients)
def ragged_matmul_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    probabilities: Tensor,
    query_offsets: Tensor,
    key_offsets: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `ragged_matmul`. Shape: as its inputs."""
    bounds = _bounds(query_offsets, key_offsets)
    return _backward(grad, query, key, value, probabilities, bounds, causal, scale)
