"""Attention with dropout of probabilities by the keys of the queries' rows: scores and softmax written out.

Which probabilities are dropped is a function of the query's row, the key's place and the head, so that neither batches
nor ranks change it; torch's own kernels draw by place in the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pretune.nn.backends.sdpa import mask_of
from pretune.nn.call import AttentionCall
from pretune.nn.dropout import Dice, dice, drop
from pretune.nn.spans import EqualLengthGroup, groups_of, heads_of

PRIORITY = 50


def refuse(call: AttentionCall) -> str | None:
    """Says that there is nothing to drop, or None."""
    return None if call.is_keyed else "keyed is for dropout by the keys of rows"


def attend(call: AttentionCall) -> Tensor:
    """Computes each group of equal lengths. Shapes as in `AttentionCall`."""
    decide = dice(call.site, call.queries.keys, call.query)
    outputs: list[Tensor] = []
    done = 0
    for group in groups_of(call.queries, call.keys):
        outputs.append(torch.zeros_like(call.query[done : group.query_start]))
        outputs.append(_attend_group(call, group, decide))
        done = group.query_start + group.sequences * group.query_length
    return torch.cat([*outputs, torch.zeros_like(call.query[done:])])


def _attend_group(call: AttentionCall, group: EqualLengthGroup, decide: Dice) -> Tensor:
    """Shape: return: (sequences * queries, H, D)."""
    queries, keys, count = group.query_length, group.key_length, group.sequences
    query = heads_of(call.query, group.query_start, queries, count)
    key, value = (
        heads_of(run, group.key_start, keys, count).repeat_interleave(query.shape[1] // run.shape[1], dim=1)
        for run in (call.key, call.value)
    )
    scores = query @ key.transpose(2, 3) * call.scale  # (n, H, L, S)
    mask = mask_of(call.structure, queries, keys, scores)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    rows = slice(group.query_start, group.query_start + count * queries)
    keep, factor = decide.draw(call.dropout, (keys, query.shape[1]), rows)
    keep = keep.view(count, queries, keys, -1).permute(0, 3, 1, 2).contiguous()
    weights = drop(scores.softmax(dim=-1), keep, factor).to(value.dtype)
    return (weights @ value).transpose(1, 2).flatten(0, 1)
