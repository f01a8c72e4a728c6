"""Attention with relative positions as Transformer-XL has them, for the two streams of XLNet.

The score of a query and a key is a sum of three: content against content; content against the encoding of their
distance; and content against whether both are of the same text. Each has a bias of its own on the query's side.

The content stream has a query for every row. The query stream has one for each row that is to be predicted, without
its content; both attend to the content stream's keys. What a row may see follows from `order`: its rank in the
factorization, -1 for rows that all may see.

Source: Dai et al. 2019 (arXiv 1901.02860), section 3.3; Yang et al. 2019 (arXiv 1906.08237), section 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.embedding import Sinusoidal
from pretune.nn.prefix import NO_PREFIX, KeyPrefix
from pretune.nn.projection import Projection, in_matmul_dtype
from pretune.nn.spans import EqualLengthGroup, grouped


@dataclass(frozen=True)
class QueryStream:
    """The queries of one stream.

    Attributes:
        layout: how many each sequence has.
        position: (M,) int64, of each among its sequence's keys.
        order: (M,) int64, or None where everything is visible.
        segments: (M,) int64.
    """

    layout: Layout
    position: Tensor
    order: Tensor | None
    segments: Tensor

    def part(self, rows: slice) -> QueryStream:
        """Some rows; the layout stays that of all."""
        order = None if self.order is None else self.order[rows]
        return replace(self, position=self.position[rows], order=order, segments=self.segments[rows])


@dataclass(frozen=True)
class Keys:
    """What queries of either stream attend to.

    Attributes:
        key, value: (Tk, H, D), of each sequence first its past.
        layout: of that run.
        order: (Tk,) int64, or None where everything is visible; -1 in the past.
        segments: (Tk,) int64; 0 in the past.
    """

    key: Tensor
    value: Tensor
    layout: Layout
    order: Tensor | None
    segments: Tensor

    def part(self, rows: slice) -> Keys:
        """Some rows; the layout stays that of all."""
        order = None if self.order is None else self.order[rows]
        return replace(self, key=self.key[rows], value=self.value[rows], order=order, segments=self.segments[rows])


class RelativeAttention(nn.Module):
    """One layer's attention, for both streams.

    Args:
        width: of the hidden run.
        head_width: of each head.

    Attributes:
        prefix: what stands in front of every sequence's keys and values; nothing, until a tuning method sets it.
    """

    prefix: KeyPrefix

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads, self.head_width = heads, head_width
        self.query = Projection(width, inner, bias=False)
        self.key = Projection(width, inner, bias=False)
        self.value = Projection(width, inner, bias=False)
        self.output = Projection(inner, width, bias=False)
        self.position = Projection(width, inner, bias=False)
        self.content_bias = nn.Parameter(torch.empty(heads, head_width))
        self.position_bias = nn.Parameter(torch.empty(heads, head_width))
        self.segment_bias = nn.Parameter(torch.empty(heads, head_width))
        self.segment = nn.Parameter(torch.empty(2, heads, head_width))
        self._encoding = Sinusoidal(None, width)
        self.prefix = NO_PREFIX

    @property
    def key_heads(self) -> int:
        """Heads of keys and values."""
        return self.heads

    @property
    def any_queries(self) -> bool:
        """Whether queries may be any rows of their sequence: no, their positions count."""
        return False

    def flops(self, queries: int, keys: int) -> float:
        """Floating-point operations of a forward for one sequence."""
        projections = self.query.flops(queries) + self.key.flops(keys) + self.value.flops(keys)
        keys += self.prefix.length
        distances = 2 * keys
        inner = self.heads * self.head_width
        scores = 4.0 * inner * queries * keys + 2.0 * inner * queries * distances
        return projections + self.output.flops(queries) + self.position.flops(distances) + scores

    def keys(self, x: Tensor, layout: Layout, order: Tensor | None, segments: Tensor) -> Keys:
        """Keys and values of the content stream, its past included, behind the prefix, which all rows see.

        Shape:
            x: (Tk, width); order, segments: (Tk,)
        """
        x = in_matmul_dtype(x)
        key, value = (project(x, layout).unflatten(1, (self.heads, -1)) for project in (self.key, self.value))
        order = None if order is None else self.prefix.fill(order, -1, layout)
        segments = self.prefix.fill(segments, 0, layout)
        key, value, keys = self.prefix.extend(key, value, layout)
        assert isinstance(keys, Layout)
        return Keys(key, value, keys, order, segments)

    def forward(self, x: Tensor, stream: QueryStream, keys: Keys, *, include_self: bool) -> Tensor:
        """Mix what each row may see into it.

        Args:
            include_self: a row sees its own content, as in the content stream.

        Shape:
            x: (M, width); return: (M, width)
        """
        layout = stream.layout
        if self.prefix.length:
            stream = replace(stream, position=stream.position + self.prefix.length)
        query = self.query(in_matmul_dtype(x), layout).unflatten(1, (self.heads, -1))
        out = torch.zeros_like(query)
        outputs: list[Tensor] = []
        rows: list[Tensor] = []
        for group in grouped(layout.bounds, keys.layout.bounds, layout.group):  # their adapter reads positions
            at = slice(group.query_start, group.query_start + group.sequences * group.query_length)
            key_rows = slice(group.key_start, group.key_start + group.sequences * group.key_length)
            outputs.append(self._mix(query[at], stream.part(at), keys.part(key_rows), group, include_self))
            rows.append(torch.arange(at.start, at.stop, device=x.device))
        if outputs:
            whole = len(outputs) == 1 and len(outputs[0]) == len(query)
            out = outputs[0] if whole else out.index_copy(0, torch.cat(rows), torch.cat(outputs))
        return self.output(out.flatten(1), layout)  # type: ignore[no-any-return]

    def _mix(
        self, query: Tensor, stream: QueryStream, keys: Keys, group: EqualLengthGroup, include_self: bool
    ) -> Tensor:
        """Sequences of equal lengths together. Shape: query: (count * a, H, D); return: the same."""
        count = group.sequences
        q = query.view(count, -1, *query.shape[1:])
        at = stream.position.view(count, -1)
        key, value, key_segments = (
            run.view(count, -1, *run.shape[1:]) for run in (keys.key, keys.value, keys.segments)
        )
        scale = self.head_width**-0.5
        content, position, segment = (
            (q + bias.to(q.dtype)) * scale for bias in (self.content_bias, self.position_bias, self.segment_bias)
        )
        added = self._by_distance(position, at, key.shape[1], include_self, group.adapter)
        added = added + self._by_segment(segment, stream.segments.view(count, -1), key_segments)
        blind: Tensor | None = None
        if keys.order is not None and stream.order is not None:
            key_order = keys.order.view(count, 1, -1)
            hidden = (key_order >= stream.order.view(count, -1, 1)) & (key_order >= 0)
            if include_self:
                hidden &= at[:, :, None] != torch.arange(key.shape[1], device=at.device)
            else:
                blind = hidden.all(dim=2, keepdim=True)  # a row that sees nothing
                hidden &= ~blind
            added = added.masked_fill(hidden[:, None], -torch.inf)
        rows, columns, values = (run.transpose(1, 2).flatten(0, 1) for run in (content, key, value))
        scores = torch.baddbmm(added.flatten(0, 1), rows, columns.transpose(1, 2))  # one pass; SDPA's takes five
        weights = scores.softmax(dim=-1)
        mixed = torch.bmm(weights.to(values.dtype), values).view(count, self.heads, q.shape[1], -1).transpose(1, 2)
        if blind is not None:
            mixed = mixed.masked_fill(blind[..., None], 0.0)
        return mixed.flatten(0, 1)

    def _by_distance(self, query: Tensor, at: Tensor, keys: int, consecutive: bool, adapter: int | None) -> Tensor:
        """Scores of queries against the encodings of their distances.

        Args:
            consecutive: the queries are the last rows of their sequences, so that each begins a column further to the
                left than the one before it, and no index is needed.
            adapter: that reads the sequences.

        Shape:
            query: (n, a, H, D); at: (n, a); return: (n, H, a, keys)
        """
        distance = torch.arange(keys - 1, -keys, -1, device=at.device)
        layout = Layout.of([len(distance)], at.device, group=None if adapter is None else (adapter,))
        encoding = self.position(self._encoding(distance).to(query.dtype), layout).unflatten(1, (self.heads, -1))
        scores = torch.einsum("nahd,mhd->nham", query, encoding)
        rows, columns = scores.shape[2:]
        if consecutive and columns > 1:
            skewed = scores.flatten(2)[..., rows - 1 : rows - 1 + rows * (columns - 1)]
            return skewed.view(*scores.shape[:2], rows, columns - 1)[..., :keys]
        column = keys - 1 - at[:, :, None] + torch.arange(keys, device=at.device)
        return scores.gather(3, column[:, None].expand(-1, self.heads, -1, -1))

    def _by_segment(self, query: Tensor, query_segments: Tensor, key_segments: Tensor) -> Tensor:
        """Scores of queries against whether a key is of the same text.

        Shape:
            query: (n, a, H, D); segments: (n, a) and (n, k); return: (n, H, a, k)
        """
        same, other = torch.einsum("nahd,shd->snha", query, self.segment.to(query.dtype))[..., None]
        return torch.where((query_segments[:, :, None] == key_segments[:, None, :])[:, None], same, other)


def after(past: Tensor, before: Layout, run: Tensor, layout: Layout) -> tuple[Tensor, Layout]:
    """Puts each sequence behind its past. Shape: past: (P, ...), run: (T, ...) -> (P + T, ...)."""
    parts = []
    for (a, b), (c, d) in zip(pairwise(before.bounds), pairwise(layout.bounds), strict=True):
        parts += [past[a:b], run[c:d]]
    lengths = [a + b for a, b in zip(before.lengths, layout.lengths, strict=True)]
    return torch.cat([run[:0], *parts]), Layout.of(lengths, run.device, group=layout.group)
