"""A loss is a sum and a count. And the chunked cross-entropy over a vocabulary, whose logits never exist at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Term:
    """One part of a loss.

    Attributes:
        name: which objective it comes from; the metric's name.
        sum: () fp32, summed over the predictions of this batch.
        count: number of predictions, the same that `Objective.counts` gave before the forward.
        weight: factor of its mean in the total.
        correct: () or None, how many predictions were right, for the log.
    """

    name: str
    sum: Tensor
    count: int
    weight: float = 1.0
    correct: Tensor | None = None


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed negative log likelihood in fp32.

    Shape:
        logits: (K, C); labels: (K,) int64; return: (). K = 0 gives 0 that still depends on the logits.
    """
    if labels.numel() == 0:
        return logits.float().sum() * 0.0
    return F.cross_entropy(logits.float(), labels, reduction="sum")


class _LinearCrossEntropy(torch.autograd.Function):
    """Rows in chunks: logits, loss and both gradients of a chunk are made while it is in cache, then dropped."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        dtype, count = hidden.dtype, labels.shape[0]
        labels = F.pad(labels, (0, hidden.shape[0] - count))
        w = weight.to(dtype)
        need_h, need_w, need_b = ctx.needs_input_grad[:3]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
        grad_h = torch.empty_like(hidden) if need_h else None
        grad_w: Tensor | None = None
        grad_b = torch.zeros(weight.shape[0], dtype=torch.float32, device=hidden.device) if need_b else None
        for start in range(0, hidden.shape[0], chunk):
            h, y = hidden[start : start + chunk], labels[start : start + chunk]
            scores = h @ w.t()
            logits = scores.float() if bias is None else torch.add(scores, bias.float())
            picked = logits.gather(1, y[:, None])
            p = torch.softmax(
                logits, dim=1
            )  # one fused kernel; the largest share is at least 1 / V, so its log is safe
            best = logits.amax(dim=1, keepdim=True)
            real = max(count - start, 0)
            total += (best - p.amax(dim=1, keepdim=True).log() - picked)[:real].sum()
            correct += (picked == best)[:real].sum()
            if not (need_h or need_w or need_b):
                continue
            p.scatter_add_(1, y[:, None], torch.full_like(picked, -1.0))
            p[real:] = 0.0
            if grad_b is not None:
                grad_b += p.sum(dim=0)
            d = p.to(dtype)
            if grad_h is not None:
                torch.mm(d, w, out=grad_h[start : start + chunk])
            if need_w:
                part = d.t() @ h
                several = hidden.shape[0] > chunk  # their sum needs more digits than one of them
                grad_w = grad_w.add_(part) if grad_w is not None else part.float() if several else part
        ctx.save_for_backward(grad_h, grad_w, grad_b)
        ctx.weight_dtype = weight.dtype
        ctx.mark_non_differentiable(correct)
        return total, correct

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        scale = grads[0]
        h, w, b = ctx.saved_tensors
        return (
            None if h is None else h * scale,
            None if w is None else (w * scale if w.dtype == ctx.weight_dtype else w.to(ctx.weight_dtype).mul_(scale)),
            None if b is None else b * scale,
            None,
            None,
        )


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk: int = 1024
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of `hidden @ weight.T + bias`, in O(chunk x V) memory.

    Shape:
        hidden: (K, W), in the precision of the products; weight: (V, W); bias: (V,) or None; labels: (K,) int64, or
            fewer: rows after the last label are filler and count for nothing.
        return: loss () fp32 and the number of correct predictions () int64.

    Source: the idea of Cut Cross-Entropy (Wijmans et al. 2024, arXiv 2411.09009), formed in the forward as in Liger.
    """
    if labels.shape[0] == 0:
        parts = [part[:0].float().sum() for part in (hidden, weight, bias) if part is not None]
        return torch.stack(parts).sum(), labels.new_zeros(())
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    total, correct = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, labels, chunk
    )
    return total, correct
