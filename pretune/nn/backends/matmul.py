"""CPU, training: self-attention by batched products over buckets of near-equal lengths, as one operator.

ATen's flash kernel is slow in bfloat16 without AMX: at length 128 its backward takes 4.5 times as long as the products
here, which oneDNN does with the CPU's bfloat16 instructions (12.2 against 2.7 ms; forward 2.7 against 1.8; at length
512 still 27.9 against 20.7). Scores are rounded to bfloat16, as in the plain formulation of `transformers`.

In float32 it is for short sequences, whose many lengths cost the flash kernel a call each: 32 of 40 to 64 tokens take
10.8 ms instead of 16.2 with 8 heads of 16, 9.3 instead of 10.6 with 2 of 64; at length 512 flash is faster.

Probabilities of short sequences are kept for the backward, those of long ones computed again. Sequences of unequal
lengths are padded inside a bucket by less than a quarter; causal ones are done in blocks of queries, so that what is
hidden is mostly not computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pretune.batch import Layout
from pretune.nn.spans import Run
from pretune.nn.structure import Bidirectional, Causal, Structure

_FILL = 0.85  # shortest over longest sequence of a bucket
_KEEP = 256  # longest sequence whose probabilities are kept
_BLOCK = 256  # queries of a causal block
_CHUNK = 1 << 20  # scores that are worked on at once: they stay in cache


def refuse(query: Tensor, key: Tensor, queries: Layout, keys: Run, structure: Structure, dropout: float) -> str | None:
    """Why this back end cannot do the call, or None."""
    if query.device.type != "cpu" or query.dtype not in (torch.bfloat16, torch.float32):
        return "matmul is for bfloat16 and float32 on the CPU"
    if query.dtype == torch.float32 and (torch.compiler.is_compiling() or queries.longest > _KEEP):
        return f"matmul in float32 is for sequences of at most {_KEEP}, and a compiled graph must not look at lengths"
    if dropout > 0:
        return "matmul has no dropout"
    if type(structure) not in (Bidirectional, Causal):
        return f"matmul cannot render {structure}"
    if query.shape[1] != key.shape[1]:
        return "matmul needs as many key heads as query heads"
    if keys is not queries:
        return "matmul is for self-attention"
    if not (torch.is_grad_enabled() and query.requires_grad):
        return "matmul is for training; the forward of flash is more exact and nearly as fast"
    return None


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Layout,
    keys: Run,
    structure: Structure,
    dropout: float,
    scale: float,
) -> Tensor:
    """Attention bucket by bucket. Shapes as in `ragged_attention`."""
    keep = not torch.compiler.is_compiling()
    out: Tensor = ragged_matmul(query, key, value, queries.offsets, isinstance(structure, Causal), scale, keep)[0]
    return out


class Bucket(NamedTuple):
    """Sequences done together, padded to the longest.

    Attributes:
        sequences, length: shape of the padded view.
        start: first row, where the sequences are adjacent and equal and nothing is moved; then the rest is None.
        rows: (sequences * length,) row of each place; padding repeats some row.
        real: places that are not padding.
        hidden: (sequences, 1, length) -inf at padding, else 0; None where no sequence is padded.
    """

    sequences: int
    length: int
    start: int
    rows: Tensor | None = None
    real: Tensor | None = None
    hidden: Tensor | None = None


@lru_cache(maxsize=16)
def _plan(bounds: tuple[int, ...], dtype: torch.dtype) -> tuple[Bucket, ...]:
    """Sequences of near-equal lengths together; adjacent equal ones without moving them."""
    lengths = [b - a for a, b in pairwise(bounds)]
    order = sorted((n for n in range(len(lengths)) if lengths[n]), key=lambda n: -lengths[n])
    buckets: list[list[int]] = []
    for n in order:
        if buckets and lengths[n] >= _FILL * lengths[buckets[-1][0]]:
            buckets[-1].append(n)
        else:
            buckets.append([n])
    return tuple(_bucket(members, bounds, lengths, dtype) for members in buckets)


def _bucket(members: list[int], bounds: tuple[int, ...], lengths: list[int], dtype: torch.dtype) -> Bucket:
    length = lengths[members[0]]
    adjacent = members == list(range(members[0], members[0] + len(members)))
    if adjacent and lengths[members[-1]] == length:
        return Bucket(len(members), length, bounds[members[0]])
    starts = torch.tensor([bounds[n] for n in members])
    own = torch.tensor([lengths[n] for n in members])
    place = torch.arange(length)
    rows = starts[:, None] + place.minimum(own[:, None] - 1)
    inside = place < own[:, None]
    hidden = None
    if lengths[members[-1]] < length:
        hidden = torch.zeros(len(members), 1, length, dtype=dtype).masked_fill_(~inside[:, None], -torch.inf)
    return Bucket(len(members), length, 0, rows.flatten(), inside.flatten().nonzero()[:, 0], hidden)


def _load(run: Tensor, bucket: Bucket) -> Tensor:
    """(T, H, D) -> (sequences * H, length, D), contiguous."""
    total = bucket.sequences * bucket.length
    if bucket.rows is None:
        rows = run.narrow(0, bucket.start, total)
    else:
        rows = run.flatten(1).index_select(0, bucket.rows).view(total, *run.shape[1:])
    return rows.view(bucket.sequences, bucket.length, *run.shape[1:]).transpose(1, 2).flatten(0, 1).contiguous()


def _load_grad(run: Tensor, bucket: Bucket) -> Tensor:
    """As `_load`, with zeros at padding."""
    out = _load(run, bucket)
    if bucket.hidden is not None:
        padded = bucket.hidden[:, 0].isinf()
        out.view(bucket.sequences, run.shape[1], bucket.length, -1).masked_fill_(padded[:, None, :, None], 0.0)
    return out


def _store(heads: Tensor, bucket: Bucket, run: Tensor) -> None:
    """(sequences * H, length, D) -> its rows of (T, H, D)."""
    laid = heads.view(bucket.sequences, -1, *heads.shape[1:]).transpose(1, 2)
    if bucket.rows is None:
        run.narrow(0, bucket.start, bucket.sequences * bucket.length).view(laid.shape).copy_(laid)
    else:
        assert bucket.real is not None
        flat = laid.reshape(-1, run.shape[1] * run.shape[2])
        run.view(-1, flat.shape[1]).index_copy_(0, bucket.rows[bucket.real], flat[bucket.real])


class _Piece(NamedTuple):
    """Scores worked on at once: rows of (sequences * H), queries and the keys that they may see, and what is added."""

    batch: slice
    queries: slice
    keys: slice
    mask: Tensor | None


def _pieces(bucket: Bucket, heads: int, causal: bool, dtype: torch.dtype) -> Iterator[_Piece]:
    step = _BLOCK if causal else bucket.length
    hidden = None
    if bucket.hidden is not None and not causal:
        hidden = bucket.hidden.repeat_interleave(heads, dim=0)
    for first in range(0, bucket.length, step):
        last = min(first + step, bucket.length)
        keys = slice(0, last)
        triangle = _triangle(last - first, last, dtype) if causal and last > 1 else None
        rows = max(1, _CHUNK // ((last - first) * last))
        for start in range(0, bucket.sequences * heads, rows):
            batch = slice(start, min(start + rows, bucket.sequences * heads))
            mask = triangle if hidden is None else hidden[batch]
            yield _Piece(batch, slice(first, last), keys, mask)


@lru_cache(maxsize=64)
def _triangle(queries: int, keys: int, dtype: torch.dtype) -> Tensor:
    hidden = torch.ones(queries, keys, dtype=torch.bool).triu_(keys - queries + 1)
    return torch.zeros(queries, keys, dtype=dtype).masked_fill_(hidden, -torch.inf)


def _softmax(q: Tensor, k: Tensor, piece: _Piece, scale: float, out: Tensor | None = None) -> Tensor:
    """Probabilities of a piece. Shape: q, k: (n * H, L, D); return: (batch, queries, keys)."""
    query, key = q[piece.batch, piece.queries], k[piece.batch, piece.keys].transpose(1, 2)
    shape = (query.shape[0], query.shape[1], key.shape[2])
    base = q.new_empty(shape) if piece.mask is None else piece.mask.expand(shape)
    scores = torch.baddbmm(base, query, key, beta=0 if piece.mask is None else 1, alpha=scale)
    return torch.softmax(scores, dim=-1, out=out)


def _forward(
    query: Tensor, key: Tensor, value: Tensor, bounds: tuple[int, ...], causal: bool, scale: float, keep: bool
) -> tuple[Tensor, Tensor]:
    """All buckets.

    Shape:
        return: out (T, H, D) and the kept probabilities, flat.
    """
    heads = query.shape[1]
    plan = _plan(bounds, query.dtype)
    out = torch.empty(query.shape, dtype=query.dtype)
    kept = [b for b in plan if keep and b.length <= _KEEP]
    probabilities = query.new_empty(sum(b.sequences * heads * b.length**2 for b in kept))
    place = 0
    for bucket in plan:
        q, k, v = _load(query, bucket), _load(key, bucket), _load(value, bucket)
        mixed = torch.empty_like(q)
        for piece in _pieces(bucket, heads, causal, query.dtype):
            target = None
            if keep and bucket.length <= _KEEP:
                size = (piece.batch.stop - piece.batch.start) * bucket.length**2
                target = probabilities[place : place + size].view(-1, bucket.length, bucket.length)
                place += size
            p = _softmax(q, k, piece, scale, target)
            torch.bmm(p, v[piece.batch, piece.keys], out=mixed[piece.batch, piece.queries])
        _store(mixed, bucket, out)
    return out, probabilities


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    probabilities: Tensor,
    bounds: tuple[int, ...],
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    heads = query.shape[1]
    grads = tuple(torch.empty(query.shape, dtype=query.dtype) for _ in range(3))
    place = 0
    for bucket in _plan(bounds, query.dtype):
        q, k, v, g = _load(query, bucket), _load(key, bucket), _load(value, bucket), _load_grad(grad, bucket)
        blocks = causal and bucket.length > _BLOCK
        dq, dk, dv = torch.empty_like(q), _sums(k, blocks), _sums(v, blocks)
        for piece in _pieces(bucket, heads, causal, query.dtype):
            if bucket.length <= _KEEP and probabilities.numel():
                size = (piece.batch.stop - piece.batch.start) * bucket.length**2
                p = probabilities[place : place + size].view(-1, bucket.length, bucket.length)
                place += size
            else:
                p = _softmax(q, k, piece, scale)
            rows, seen = (piece.batch, piece.queries), (piece.batch, piece.keys)
            dp = torch.bmm(g[rows], v[seen].transpose(1, 2))
            ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
            dq[rows] = torch.bmm(ds, k[seen])
            if blocks:
                dv[seen] += torch.bmm(p.transpose(1, 2), g[rows])
                dk[seen] += torch.bmm(ds.transpose(1, 2), q[rows])
            else:
                torch.bmm(p.transpose(1, 2), g[rows], out=dv[piece.batch])
                torch.bmm(ds.transpose(1, 2), q[rows], out=dk[piece.batch])
        for target, made, factor in zip(grads, (dq, dk, dv), (scale, scale, 1.0), strict=True):
            _store(made if factor == 1.0 else made.mul_(factor), bucket, target)
    return grads[0], grads[1], grads[2]


def _sums(like: Tensor, blocks: bool) -> Tensor:
    """Where a gradient is gathered: over several blocks in fp32, else written once."""
    return torch.zeros_like(like, dtype=torch.float32) if blocks else torch.empty_like(like)


@torch.library.custom_op("pretune::ragged_matmul", mutates_args=())
def ragged_matmul(
    query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, causal: bool, scale: float, keep: bool
) -> tuple[Tensor, Tensor]:
    """Self-attention of a ragged run, differentiable.

    Args:
        keep: keep the probabilities of short sequences for the backward. Their size depends on the lengths, which a
            compiled graph must not look at: there it is False.

    Shape:
        query, key, value: (T, H, D); offsets: (N + 1,) int32; return: (T, H, D), probabilities (any,)
    """
    return _forward(query, key, value, tuple(offsets.tolist()), causal, scale, keep)


@ragged_matmul.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, causal: bool, scale: float, keep: bool
) -> tuple[Tensor, Tensor]:
    size = torch.library.get_ctx().new_dynamic_size() if keep else 0
    return query.new_empty(query.shape), query.new_empty(size)


@torch.library.custom_op("pretune::ragged_matmul_backward", mutates_args=())
def ragged_matmul_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    probabilities: Tensor,
    offsets: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `ragged_matmul`. Shape: as its inputs."""
    return _backward(grad, query, key, value, probabilities, tuple(offsets.tolist()), causal, scale)


@ragged_matmul_backward.register_fake
def _(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    probabilities: Tensor,
    offsets: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, offsets, ctx.causal, ctx.scale, _ = inputs
    ctx.save_for_backward(query, key, value, output[1], offsets)


def _differentiate(ctx: Any, grad: Tensor, _probabilities: Tensor) -> tuple[Tensor | None, ...]:
    grads = ragged_matmul_backward(grad.contiguous(), *ctx.saved_tensors, ctx.causal, ctx.scale)
    return (*grads, None, None, None, None)


ragged_matmul.register_autograd(_differentiate, setup_context=_save)
