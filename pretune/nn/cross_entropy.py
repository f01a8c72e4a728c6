"""Cross-entropy over a vocabulary in chunks of rows, so that the logits of all rows never exist at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_ALIGNED = 64  # columns of the logits, on the CPU
_COLUMNS = 4096  # of the logits whose part of the weight's gradient stays in cache until it is added
_ROWS = {"cpu": 32}  # of the logits whose fp32 passes stay in cache
_MANY_ROWS = 1024  # where there is no such cache


class _LinearCrossEntropy(torch.autograd.Function):
    """Rows in chunks: logits, loss and all gradients of a chunk are made together, then its logits are dropped.

    The logits are a sum of products, `x @ w.T` for each pair (x, w).
    """

    @staticmethod
    def forward(
        ctx: Any,
        bias: Tensor | None,
        labels: Tensor,
        chunk: int,
        drawn: Tensor | None,
        smoothing: float,
        *pairs: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        inputs, weights, hidden = pairs[::2], pairs[1::2], pairs[0]
        count, vocabulary = labels.shape[0], weights[0].shape[0]
        labels = F.pad(labels, (0, hidden.shape[0] - count))
        aligned = [_aligned(weight, hidden.dtype) for weight in weights]
        needs = ctx.needs_input_grad[5:]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
        tokens = labels.new_empty(0 if drawn is None else count)
        grads_x = [torch.empty_like(x) if need else None for x, need in zip(inputs, needs[::2], strict=True)]
        grads_w: list[Tensor | None] = [None] * len(weights)
        grad_b = torch.zeros(vocabulary, dtype=torch.float32, device=hidden.device) if ctx.needs_input_grad[0] else None
        buffer = hidden.new_empty(min(chunk, hidden.shape[0]), aligned[0].shape[0])
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            y, real = labels[part], max(count - start, 0)
            scores = torch.mm(hidden[part], aligned[0].t(), out=buffer[: len(y)])
            for x, w in zip(inputs[1:], aligned[1:], strict=True):
                scores.addmm_(x[part], w.t())
            sample = None if drawn is None else (drawn[part], tokens[part])
            loss, right = _score(scores[:real, :vocabulary], bias, y[:real], grad_b, any(needs), sample, smoothing)
            total += loss
            correct += right
            scores[real:] = 0.0
            for n, (x, w) in enumerate(zip(inputs, aligned, strict=True)):
                if (grad_x := grads_x[n]) is not None:
                    torch.mm(scores, w, out=grad_x[part])
                if needs[2 * n + 1]:
                    grads_w[n] = _add_product(grads_w[n], scores, x[part], whole=hidden.shape[0] <= chunk)
        flat = [g for x, w in zip(grads_x, grads_w, strict=True) for g in (x, None if w is None else w[:vocabulary])]
        ctx.save_for_backward(grad_b, *flat)
        ctx.dtypes = [tensor.dtype for tensor in pairs]
        ctx.mark_non_differentiable(correct, tokens)
        return total, correct, tokens

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scale = grads[0]
        b, *flat = ctx.saved_tensors
        scaled = [
            None if g is None else (g * scale if g.dtype == dtype else g.to(dtype).mul_(scale))
            for g, dtype in zip(flat, ctx.dtypes, strict=True)
        ]
        return None if b is None else b * scale, None, None, None, None, *scaled


def _add_product(total: Tensor | None, scores: Tensor, x: Tensor, *, whole: bool) -> Tensor:
    """Adds the gradient of a weight that a chunk of rows gives.

    Args:
        whole: the chunk is all there is.

    Shape:
        total, return: (V, W); scores: (K, V); x: (K, W)
    """
    if whole:
        return scores.t() @ x
    if total is None:  # a sum over chunks needs more digits than one of them
        total = torch.zeros(scores.shape[1], x.shape[1], dtype=torch.float32, device=x.device)
    for first in range(0, len(total), _COLUMNS):
        total[first : first + _COLUMNS] += scores[:, first : first + _COLUMNS].t() @ x
    return total


def _aligned(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Casts the weight to the matmuls' dtype, with rows of zeros up to a multiple of 64 on the CPU.

    An odd number of columns in the logits costs oneDNN and MKL a tenth to a third of the matmuls' speed.
    """
    extra = -weight.shape[0] % _ALIGNED if weight.device.type == "cpu" else 0
    if not extra:
        return weight.to(dtype)
    out = torch.empty(weight.shape[0] + extra, weight.shape[1], dtype=dtype)
    out[: weight.shape[0]] = weight
    out[weight.shape[0] :] = 0.0
    return out


def _score(
    scores: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    grad_b: Tensor | None,
    differentiate: bool,
    sample: tuple[Tensor, Tensor] | None = None,
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Computes loss and correct predictions of some rows; their scores become the gradient of the logits in place.

    It works on a few rows at a time, whose fp32 values stay in cache; passes over all of `scores` would go to memory.

    Args:
        grad_b: the bias's gradient is added to it.
        sample: a uniform number for each row, and where to put the token that it draws.
        smoothing: fraction of each target that is spread over all tokens.

    Shape:
        scores: (K, V); bias, grad_b: (V,); labels, sample: (K,); return: () fp32, () int64
    """
    rows = _ROWS.get(scores.device.type, _MANY_ROWS)
    total = torch.zeros((), dtype=torch.float32, device=scores.device)
    correct = torch.zeros((), dtype=torch.int64, device=scores.device)
    logits, p = (scores.new_empty(rows, scores.shape[1], dtype=torch.float32) for _ in range(2))
    for start in range(0, len(scores), rows):
        part, y = scores[start : start + rows], labels[start : start + rows, None]
        logits, p = logits[: len(part)], p[: len(part)]
        logits.copy_(part)
        if bias is not None:
            logits.add_(bias)
        picked, best = logits.gather(1, y), logits.amax(dim=1, keepdim=True)
        torch.softmax(logits, dim=1, out=p)  # one fused kernel; the largest is at least 1 / V, so its log is safe
        aim = picked if not smoothing else (1 - smoothing) * picked + smoothing * logits.mean(dim=1, keepdim=True)
        total += (best - p.amax(dim=1, keepdim=True).log() - aim).sum()
        correct += (picked == best).sum()
        if sample is not None:
            sample[1][start : start + rows] = draw_tokens(p, sample[0][start : start + rows])
        if differentiate or grad_b is not None:
            p.scatter_add_(1, y, torch.full_like(picked, smoothing - 1.0))
            if smoothing:
                p.sub_(smoothing / p.shape[1])
            part.copy_(p)
        if grad_b is not None:
            grad_b += p.sum(dim=0)
    return total, correct


LowRank = tuple[Tensor, Tensor]
"""A product that is added to the logits: what each row multiplies by, (K, R), and one row a token, (V, R)."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    chunk: int = 2048,
    low_rank: LowRank | None = None,
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of `hidden @ weight.T + bias`, in O(chunk x V) memory.

    Args:
        low_rank: a product that is added to the logits, or None.
        smoothing: fraction of each target that is spread over all tokens, as `label_smoothing` of torch.

    Shape:
        hidden: (K, W), in the dtype of the matmuls; weight: (V, W); bias: (V,) or None; labels: (K,) int64, or
            fewer: rows after the last label are padding and count for nothing.
        return: loss () fp32 and the number of correct predictions () int64.

    Source: the idea of Cut Cross-Entropy (Wijmans et al. 2024, arXiv 2411.09009), formed in the forward as in Liger.
    """
    pairs = (hidden, weight, *(low_rank or ()))
    if labels.shape[0] == 0:
        parts = [part[:0].float().sum() for part in (*pairs, bias) if part is not None]
        return torch.stack(parts).sum(), labels.new_zeros(())
    total, correct, _ = _apply(pairs, bias, labels, chunk, None, smoothing)
    return total, correct


def sampled_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    drawn: Tensor,
    chunk: int = 2048,
    low_rank: LowRank | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `linear_cross_entropy`, with a token drawn from each row's distribution while that is at hand.

    Shape:
        drawn: (K,) fp64, uniform in [0, 1), one for each label; return: loss, correct, and (K,) int64 tokens.
    """
    if labels.shape[0] == 0:
        return *linear_cross_entropy(hidden, weight, bias, labels, low_rank=low_rank), labels.new_empty(0)
    return _apply((hidden, weight, *(low_rank or ())), bias, labels, chunk, drawn)


def _apply(
    pairs: Sequence[Tensor],
    bias: Tensor | None,
    labels: Tensor,
    chunk: int,
    drawn: Tensor | None,
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs the autograd function, with the rows in the dtype of the matmuls."""
    cast = [_in_matmul_dtype(tensor) if n % 2 == 0 else tensor for n, tensor in enumerate(pairs)]
    result: tuple[Tensor, Tensor, Tensor] = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        bias, labels, chunk, drawn, smoothing, *cast
    )
    return result


def draw_tokens(probability: Tensor, drawn: Tensor) -> Tensor:
    """The token at which the cumulated probability passes a uniform number.

    Shape:
        probability: (K, V) fp32 or fp64, whose rows need not sum to exactly 1; drawn: (K,) fp64; return: (K,) int64
    """
    cumulated = probability.cumsum(dim=1)
    wanted = (drawn * cumulated[:, -1].double()).to(cumulated.dtype)
    tokens = torch.searchsorted(cumulated, wanted[:, None], right=True)[:, 0]
    return tokens.clamp_(max=probability.shape[1] - 1)


def _in_matmul_dtype(hidden: Tensor) -> Tensor:
    """Casts the rows to the dtype in which matmuls run now."""
    device = hidden.device.type
    return hidden.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else hidden
