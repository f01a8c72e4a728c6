"""The oracle of all backends: each sequence alone, scores and softmax written out in double precision; slow."""

from __future__ import annotations

import torch
from torch import Tensor

from pretune.nn.call import AttentionCall
from pretune.nn.dropout import dice
from pretune.nn.spans import groups_of

PRIORITY = 0


def refuse(call: AttentionCall) -> str | None:
    """Refuses nothing."""
    return None


def attend(call: AttentionCall) -> Tensor:
    """Computes attention by its definition. Shapes as in `AttentionCall`."""
    query, key, value, structure = call.query, call.key, call.value, call.structure
    out = torch.zeros_like(query, dtype=torch.float64)
    repeat = query.shape[1] // key.shape[1]
    decide = dice(call.site, call.queries.keys, query) if call.dropout > 0 else None
    for group in groups_of(call.queries, call.keys):
        for n in range(group.sequences):
            first = group.query_start + n * group.query_length
            rows = slice(first, first + group.query_length)
            start = group.key_start + n * group.key_length
            columns = slice(start, start + group.key_length)
            k = key[columns].double().repeat_interleave(repeat, dim=1)
            v = value[columns].double().repeat_interleave(repeat, dim=1)
            scores = torch.einsum("qhd,khd->hqk", query[rows].double(), k) * call.scale
            added = structure.added(group.query_length, group.key_length)
            if added is not None:
                scores = scores + added.double()
            visible = structure.visible(group.query_length, group.key_length, query.device)
            if visible is not None:
                scores = scores.masked_fill(~visible, -torch.inf)
            weights = scores.softmax(dim=-1)
            if decide is not None:
                keep, factor = decide.draw(call.dropout, (group.key_length, query.shape[1]), rows)
                weights = weights * -keep.permute(2, 0, 1) * factor
            out[rows] = torch.einsum("hqk,khd->qhd", weights, v)
    return out.to(query.dtype)
