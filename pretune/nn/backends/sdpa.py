"""A loop of `scaled_dot_product_attention` over groups of equal lengths: any device, structure and dropout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pretune.batch import Layout
from pretune.nn.spans import KeyLayout, groups_of, heads_of
from pretune.nn.structure import Causal, Structure


def refuse(
    query: Tensor, key: Tensor, queries: Layout, keys: KeyLayout, structure: Structure, dropout: float
) -> str | None:
    """None: what SDPA has no kernel for is given as a mask."""
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
    """Attention of each group in one call. Shapes as in `ragged_attention`."""
    pieces: list[Tensor] = []
    done = 0
    gqa = query.shape[1] != key.shape[1]
    for group in groups_of(queries, keys):
        if group.query_start > done:
            pieces.append(torch.zeros_like(query[done : group.query_start]))
        square = isinstance(structure, Causal) and group.query_length == group.key_length
        mask = None if square else mask_of(structure, group.query_length, group.key_length, query)
        out = F.scaled_dot_product_attention(
            heads_of(query, group.query_start, group.query_length, group.sequences),
            heads_of(key, group.key_start, group.key_length, group.sequences),
            heads_of(value, group.key_start, group.key_length, group.sequences),
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=square,
            scale=scale,
            enable_gqa=gqa,
        )
        pieces.append(out.transpose(1, 2).flatten(0, 1))
        done = group.query_start + group.sequences * group.query_length
    if done < query.shape[0]:
        pieces.append(torch.zeros_like(query[done:]))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces) if pieces else torch.zeros_like(query)


def mask_of(structure: Structure, queries: int, keys: int, like: Tensor) -> Tensor | None:
    """What SDPA is told: which keys are visible, or what is added to the scores; None where all are, and nothing.

    Shape:
        return: (queries, keys) bool, or (H, queries, keys) in the format of `like`
    """
    visible, added = structure.visible(queries, keys, like.device), structure.added(queries, keys)
    if added is None:
        return visible
    added = added.to(like.dtype)
    return added if visible is None else added.masked_fill(~visible, -torch.inf)
