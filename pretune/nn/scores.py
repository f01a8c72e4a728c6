"""Softmax of a batch of scores and its gradient, in the dtype in which ATen's kernels are fast."""

from __future__ import annotations

import torch
from torch import Tensor

_VECTOR = 32  # bfloat16 values that ATen's softmax takes at once; the rest of a row it takes one by one


def probabilities(query: Tensor, key: Tensor, mask: Tensor | None, scale: float, out: Tensor | None = None) -> Tensor:
    """Computes what each query gives to each key.

    Shape:
        query: (B, L, D); key: (B, S, D); mask: added to the scores, of any shape that expands to theirs;
        return: (B, L, S)
    """
    shape = (query.shape[0], query.shape[1], key.shape[1])
    base = query.new_empty(shape) if mask is None else mask.expand(shape)
    scores = torch.baddbmm(base, query, key.transpose(1, 2), beta=0 if mask is None else 1, alpha=scale)
    length = shape[2]
    if query.dtype == torch.bfloat16 and length > _VECTOR // 2 and length % _VECTOR:  # 25 keys: 1.7 ns a score, not 5.7
        wide = torch.softmax(scores, dim=-1, dtype=torch.float32)
        return wide.to(query.dtype) if out is None else out.copy_(wide)
    return torch.softmax(scores, dim=-1, out=out)


def gradient_of_scores(grad: Tensor, p: Tensor) -> Tensor:
    """Computes the gradient of the scores from that of the probabilities. Shape: (B, L, S) twice -> same."""
    if p.dtype == torch.bfloat16 and _VECTOR // 2 < p.shape[2] < _VECTOR:  # 25 keys: 0.7 ns a score, not 5.0
        wide: Tensor = torch.ops.aten._softmax_backward_data(grad.float(), p.float(), -1, torch.float32)
        return wide.to(p.dtype)
    same: Tensor = torch.ops.aten._softmax_backward_data(grad, p, -1, p.dtype)
    return same
