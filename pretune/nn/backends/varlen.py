"""Attention on CUDA by `torch.nn.attention.varlen.varlen_attn`, also over keys in slots of a cache."""

from __future__ import annotations

import torch
from torch import Tensor

from pretune.nn.call import AttentionCall
from pretune.nn.spans import CacheSlots
from pretune.nn.structure import Bidirectional, Causal, SlidingWindow, Structure

PRIORITY = 40


def refuse(call: AttentionCall) -> str | None:
    """Says why the kernel cannot do this call, or None."""
    query = call.query
    if query.device.type != "cuda":
        return "varlen needs a CUDA device"
    if query.dtype not in (torch.float16, torch.bfloat16):
        return f"varlen needs float16 or bfloat16, not {query.dtype}"
    if _window(call.structure) is None:
        return f"varlen has no kernel for {call.structure}"
    if call.dropout > 0:
        return "varlen has no dropout"
    if call.through_cache and torch.is_grad_enabled() and query.requires_grad:
        return "varlen has no backward through a cache"
    return None


def _window(structure: Structure) -> tuple[int, int] | None:
    """How many keys a query sees before and after its own, -1 for all; None where the kernel has no word for it."""
    match structure:
        case Bidirectional():
            return -1, -1
        case Causal():
            return -1, 0
        case SlidingWindow(before, after):
            return before, after
    return None


def attend(call: AttentionCall) -> Tensor:
    """Computes all sequences in one kernel call. Shapes as in `AttentionCall`."""
    from torch.nn.attention.varlen import varlen_attn

    window = _window(call.structure)
    assert window is not None
    out = varlen_attn(
        call.query,
        call.key,
        call.value,
        call.queries.offsets,
        call.keys.offsets,
        call.queries.max_length,
        call.keys.max_length,
        scale=call.scale,
        window_size=window,
        enable_gqa=call.has_grouped_heads,
        seqused_k=call.keys.used if isinstance(call.keys, CacheSlots) else None,
    )
    assert isinstance(out, Tensor)
    return out
