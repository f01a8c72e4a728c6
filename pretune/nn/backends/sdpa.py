"""Attention by `scaled_dot_product_attention`, a call per group of equal lengths: any device, structure and dropout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pretune.nn.call import AttentionCall
from pretune.nn.spans import groups_of, heads_of
from pretune.nn.structure import Structure

PRIORITY = 10


def refuse(call: AttentionCall) -> str | None:
    """Refuses keyed dropout alone: what else SDPA has no kernel for becomes a mask."""
    return "sdpa draws dropout by torch's generator" if call.is_keyed else None


def attend(call: AttentionCall) -> Tensor:
    """Computes each group in one kernel call. Shapes as in `AttentionCall`."""
    query, key, value, structure = call.query, call.key, call.value, call.structure
    outputs: list[Tensor] = []
    done = 0
    for group in groups_of(call.queries, call.keys):
        if group.query_start > done:
            outputs.append(torch.zeros_like(query[done : group.query_start]))
        square = call.is_causal and group.query_length == group.key_length
        mask = None if square else mask_of(structure, group.query_length, group.key_length, query)
        parts = (
            heads_of(query, group.query_start, group.query_length, group.sequences),
            heads_of(key, group.key_start, group.key_length, group.sequences),
            heads_of(value, group.key_start, group.key_length, group.sequences),
        )
        out = F.scaled_dot_product_attention(
            *parts,
            attn_mask=mask,
            dropout_p=call.dropout,
            is_causal=square,
            scale=call.scale,
            enable_gqa=call.has_grouped_heads,
        )
        outputs.append(out.transpose(1, 2).flatten(0, 1))
        done = group.query_start + group.sequences * group.query_length
    if done < query.shape[0]:
        outputs.append(torch.zeros_like(query[done:]))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs) if outputs else torch.zeros_like(query)


def mask_of(structure: Structure, queries: int, keys: int, like: Tensor) -> Tensor | None:
    """Renders a structure as SDPA's mask: which keys are visible, or what is added to the scores; None for neither.

    Shape:
        return: (queries, keys) bool, or (H, queries, keys) in the dtype of `like`
    """
    visible, added = structure.visible(queries, keys, like.device), structure.added(queries, keys)
    if added is None:
        return visible
    added = added.to(like.dtype)
    return added if visible is None else added.masked_fill(~visible, -torch.inf)
