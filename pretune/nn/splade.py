"""Sparse vectors of the vocabulary's size: for each token, how much a text says of it, by the masked language model.

    rows (T, width) x table (V, width) -> scores (T, V) -> their largest of each text (N, V) -> log(1 + relu)

The scores of all rows would be the largest tensor of a training step by far (32 texts of 128 tokens: 0.5 GB). They are
made in blocks, of which only the largest score of each text and its row are kept. A gradient reaches but that row, and
only where the score is positive, so that going back costs the products of these alone.

Source: Formal et al. 2021, SPLADE v2 (arXiv 2109.10086).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

SparsePooling = Literal["max", "sum"]
"""What makes one number of a token's scores in a text: the largest, or their sum."""
SparseActivation = Literal["relu", "log1p_relu"]
"""`log(1 + relu)`, or the logarithm of that once more, in the words of sentence-transformers."""
_COLUMNS = 4096  # of the scores that are made at once, on the CPU
_ROWS = 1024  # of the same, as far as texts are not longer
_PAIRS = 1 << 15  # products of a gradient that are made at once
_PAIR_COST = 100  # of a product by itself, in those of a matrix product


class _LargestScores(torch.autograd.Function):
    """The largest score of each token in each text, 0 where none is positive."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, table: Tensor, bias: Tensor | None, bounds: tuple[int, ...]) -> Tensor:
        count, vocabulary = len(bounds) - 1, len(table)
        largest = torch.empty(count, vocabulary, dtype=torch.float32, device=rows.device)
        needs_rows = any(ctx.needs_input_grad)
        at = torch.empty(count, vocabulary, dtype=torch.int32, device=rows.device) if needs_rows else None
        cast = table.to(rows.dtype)
        columns = _COLUMNS if rows.device.type == "cpu" else vocabulary
        for first, last in _groups(bounds):
            part = rows[bounds[first] : bounds[last]]
            for start in range(0, vocabulary, columns):
                some = slice(start, start + columns)
                scores = part @ cast[some].t()
                for n in range(first, last):
                    own = scores[bounds[n] - bounds[first] : bounds[n + 1] - bounds[first]]
                    if at is None:
                        largest[n, some] = own.amax(dim=0)
                    else:
                        values, index = own.max(dim=0)
                        largest[n, some] = values
                        at[n, some] = index.int() + bounds[n]
        if bias is not None:
            largest += bias.float()
        largest.relu_()
        ctx.save_for_backward(rows, table, largest, at)
        ctx.has_bias = bias is not None
        return largest

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        rows, table, largest, at = ctx.saved_tensors
        active = (largest > 0) & (grad != 0)
        text, token = active.nonzero(as_tuple=True)
        row, values = at[text, token].long(), grad[text, token].float()
        add = _add_pairs if len(values) * _PAIR_COST < len(rows) * len(table) else _add_blocks
        grad_rows, grad_table = add(rows, table, row, token, values)
        grad_bias = (grad.float() * active).sum(dim=0) if ctx.has_bias else None
        return grad_rows.to(rows.dtype), grad_table.to(table.dtype), grad_bias, None


def _add_pairs(rows: Tensor, table: Tensor, row: Tensor, token: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of rows and table by the products of some pairs, each by itself, where these are few.

    Shape:
        row, token, values: (pairs,); return: (T, width), (V, width) fp32
    """
    grad_rows = torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)
    grad_table = torch.zeros(table.shape, dtype=torch.float32, device=table.device)
    for start in range(0, len(values), _PAIRS):
        some = slice(start, start + _PAIRS)
        scale = values[some, None]
        grad_rows.index_add_(0, row[some], table[token[some]].float() * scale)
        grad_table.index_add_(0, token[some], rows[row[some]].float() * scale)
    return grad_rows, grad_table


def _add_blocks(rows: Tensor, table: Tensor, row: Tensor, token: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The same by matrix products of some columns at a time, where pairs are many.

    Shape:
        row, token, values: (pairs,); return: (T, width), (V, width) fp32
    """
    grad_rows = torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)
    parts = []
    for start in range(0, len(table), _COLUMNS):
        some = slice(start, start + _COLUMNS)
        own = (token >= start) & (token < start + _COLUMNS)
        block = torch.zeros(len(rows), len(table[some]), dtype=torch.float32, device=rows.device)
        block[row[own], token[own] - start] = values[own]
        block = block.to(rows.dtype)
        grad_rows += block @ table[some].to(rows.dtype)
        parts.append((block.t() @ rows).float())
    return grad_rows, torch.cat(parts)


def _groups(bounds: Sequence[int]) -> list[tuple[int, int]]:
    """Texts whose rows are scored together: (first, past the last) of each group."""
    groups, first = [], 0
    for n in range(1, len(bounds)):
        if n == len(bounds) - 1 or bounds[n + 1] - bounds[first] > _ROWS:
            groups.append((first, n))
            first = n
    return groups


def largest_scores(rows: Tensor, table: Tensor, bias: Tensor | None, bounds: Sequence[int]) -> Tensor:
    """The largest score of each token in each text, 0 where none is positive.

    Args:
        rows: of all texts.
        table: a vector for each token.
        bias: added to the score of each token.
        bounds: where each text begins, and where the last one ends; each has a row at least.

    Shape:
        rows: (T, width); table: (V, width); bias: (V,); return: (N, V) fp32
    """
    result: Tensor = _LargestScores.apply(rows, table, bias, tuple(bounds))  # type: ignore[no-untyped-call]
    return result


def saturate(scores: Tensor, activation: SparseActivation = "relu") -> Tensor:
    """Weights of scores that are not negative, which grow with their logarithm. Shape: any -> same."""
    weights = scores.log1p()
    return weights.log1p() if activation == "log1p_relu" else weights


@torch.no_grad()
def summed_weights(
    rows: Tensor, table: Tensor, bias: Tensor | None, bounds: Sequence[int], activation: SparseActivation = "relu"
) -> Tensor:
    """The sum of each token's weights over the rows of a text, for models in use that add them up.

    Shape:
        rows: (T, width); table: (V, width); bias: (V,); return: (N, V) fp32
    """
    out = torch.empty(len(bounds) - 1, len(table), dtype=torch.float32, device=rows.device)
    cast = table.to(rows.dtype)
    for start in range(0, len(table), _COLUMNS):
        some = slice(start, start + _COLUMNS)
        for n, (first, last) in enumerate(pairwise(bounds)):
            scores = (rows[first:last] @ cast[some].t()).float()
            scores = scores if bias is None else scores + bias[some].float()
            out[n, some] = saturate(scores.relu_(), activation).sum(dim=0)
    return out


def flops(vectors: Tensor) -> Tensor:
    """The FLOPS regulariser: products of a query with a document on average, smoothly. Shape: (N, V) -> ()

    Source: Paria et al. 2020 (arXiv 2004.05665), equation 4.
    """
    return vectors.abs().mean(dim=0).square().sum()
