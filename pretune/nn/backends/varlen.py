"""Attention on CUDA by `torch.nn.attention.varlen.varlen_attn`, also over keys in slots of a cache."""

from __future__ import annotations

import torch
from torch import Tensor

from pretune.nn.call import AttentionCall
from pretune.nn.spans import CacheSlots
from pretune.nn.structure import Bidirectional, Causal, Structure

PRIORITY = 40
_WINDOWS: dict[type[Structure], tuple[int, int]] = {Bidirectional: (-1, -1), Causal: (-1, 0)}


def refuse(call: AttentionCall) -> str | None:
    """Says why the kernel cannot do this call, or None."""
    query = call.query
    if query.device.type != "cuda":
        return "varlen needs a CUDA device"
    if query.dtype not in (torch.float16, torch.bfloat16):
        return f"varlen needs float16 or bfloat16, not {query.dtype}"
    if type(call.structure) not in _WINDOWS:
        return f"varlen has no kernel for {call.structure}"
    if call.dropout > 0:
        return "varlen has no dropout"
    if call.through_cache and torch.is_grad_enabled() and query.requires_grad:
        return "varlen has no backward through a cache"
    return None


def attend(call: AttentionCall) -> Tensor:
    """Computes all sequences in one kernel call. Shapes as in `AttentionCall`."""
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(
        call.query,
        call.key,
        call.value,
        call.queries.offsets,
        call.keys.offsets,
        call.queries.max_length,
        call.keys.max_length,
        scale=call.scale,
        window_size=_WINDOWS[type(call.structure)],
        enable_gqa=call.has_grouped_heads,
        seqused_k=call.keys.used if isinstance(call.keys, CacheSlots) else None,
    )
    assert isinstance(out, Tensor)
    return out
