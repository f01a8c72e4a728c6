"""CUDA: flash attention for ragged runs, `torch.nn.attention.varlen.varlen_attn`; keys in cache slots included."""

from __future__ import annotations

import torch
from torch import Tensor

from pretune.batch import Layout
from pretune.nn.spans import CacheSlots, KeyLayout
from pretune.nn.structure import Bidirectional, Causal, Structure

_WINDOWS: dict[type[Structure], tuple[int, int]] = {Bidirectional: (-1, -1), Causal: (-1, 0)}


def refuse(
    query: Tensor, key: Tensor, queries: Layout, keys: KeyLayout, structure: Structure, dropout: float
) -> str | None:
    """Why the kernel cannot do this call, or None."""
    if query.device.type != "cuda":
        return "varlen needs a CUDA device"
    if query.dtype not in (torch.float16, torch.bfloat16):
        return f"varlen needs float16 or bfloat16, not {query.dtype}"
    if type(structure) not in _WINDOWS:
        return f"varlen has no kernel for {structure}"
    if dropout > 0:
        return "varlen has no dropout"
    if isinstance(keys, CacheSlots) and torch.is_grad_enabled() and query.requires_grad:
        return "varlen has no backward through a cache"
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
    """One kernel call for all sequences. Shapes as in `ragged_attention`."""
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(
        query,
        key,
        value,
        queries.offsets,
        keys.offsets,
        queries.longest,
        keys.longest,
        scale=scale,
        window_size=_WINDOWS[type(structure)],
        enable_gqa=query.shape[1] != key.shape[1],
        seqused_k=keys.used if isinstance(keys, CacheSlots) else None,
    )
    assert isinstance(out, Tensor)
    return out
