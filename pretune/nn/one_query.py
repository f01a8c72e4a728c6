"""Attention of a single query on the CPU, as decoding asks for: in float32, whatever the dtype of the cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_PART = 1 << 22  # numbers of a cache that are widened at once

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def is_slow(query: Tensor) -> bool:
    """Whether ATen's kernel is slow for these queries: over 900 keys one takes 8.7 ms in bfloat16 and 1.7 in float32.

    Shape:
        query: (n, H, queries, D)
    """
    return query.shape[2] == 1 and query.device.type == "cpu" and query.dtype == torch.bfloat16


def attend_in_float(kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Computes some sequences at a time in float32, so that no second cache is held.

    Args:
        kernel: computes the attention of queries, keys, values and a mask.
        mask: added to the scores; or, of bools, which keys the queries of all sequences see.

    Shape:
        query: (n, H, 1, D); key, value: (n, Hk, keys, D); mask: (n, 1, 1, keys), or (1, keys) of bools;
        return: (n, H, 1, D)
    """
    step = max(1, _PART // max(1, key[:1].numel()))
    with torch.autocast("cpu", enabled=False):
        parts: list[Tensor] = []
        for at in range(0, len(query), step):
            q, k, v = (run[at : at + step].float() for run in (query, key, value))
            own = mask if mask is None or mask.dtype == torch.bool else mask[at : at + step].float()
            parts.append(kernel(q, k, v, own))
    return torch.cat(parts).to(query.dtype)
