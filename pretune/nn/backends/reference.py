"""The oracle: every sequence alone, scores and softmax written out in double precision. Slow; any structure."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pretune.batch import Layout
from pretune.nn.spans import KeyLayout, groups_of
from pretune.nn.structure import Structure


def refuse(
    query: Tensor, key: Tensor, queries: Layout, keys: KeyLayout, structure: Structure, dropout: float
) -> str | None:
    """None: it does everything."""
    return None


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Layout,
    keys: KeyLayout,
    structure: Structure,
    dropout: float,
    scale: float,
) -> Tensor:
    """Attention by its definition. Shapes as in `ragged_attention`."""
    out = torch.zeros_like(query, dtype=torch.float64)
    repeat = query.shape[1] // key.shape[1]
    for group in groups_of(queries, keys):
        for n in range(group.sequences):
            first = group.query_start + n * group.query_length
            rows = slice(first, first + group.query_length)
            start = group.key_start + n * group.key_length
            seen = slice(start, start + group.key_length)
            k = key[seen].double().repeat_interleave(repeat, dim=1)
            v = value[seen].double().repeat_interleave(repeat, dim=1)
            scores = torch.einsum("qhd,khd->hqk", query[rows].double(), k) * scale
            added = structure.added(group.query_length, group.key_length)
            if added is not None:
                scores = scores + added.double()
            visible = structure.visible(group.query_length, group.key_length, query.device)
            if visible is not None:
                scores = scores.masked_fill(~visible, -torch.inf)
            weights = F.dropout(scores.softmax(dim=-1), dropout, dropout > 0)
            out[rows] = torch.einsum("hqk,khd->qhd", weights, v)
    return out.to(query.dtype)
