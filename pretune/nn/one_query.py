"""Attention of one query a sequence to its slot of a cache, on the CPU: a decoded token.

`ragged_attention` gives the same by more steps of Python, a third of what a token takes between its matmuls (3 ms).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pretune.nn.spans import CacheSlots

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


def attend_once(query: Tensor, keys: Tensor, values: Tensor, slots: CacheSlots, scale: float) -> Tensor:
    """Lets each query attend to all keys of its slot. Heads of queries that share a head of keys lie side by side.

    Args:
        slots: how many keys each slot has; another may have more.

    Shape:
        query: (N, H, D); keys, values: (N, capacity, Hk, D), fp32 whatever the query is; return: (N, H * D)
    """
    count, heads, width = query.shape
    longest = slots.max_length
    mask = None if min(slots.lengths) == longest else slots.bias
    rows = query.to(keys.dtype).view(count, keys.shape[2], -1, width)
    each = (run.narrow(1, 0, longest).transpose(1, 2) for run in (keys, values))
    mixed: Tensor = _forward(rows, *each, 0.0, False, attn_mask=mask, scale=scale)[0]
    return mixed.reshape(count, heads * width).to(query.dtype)
