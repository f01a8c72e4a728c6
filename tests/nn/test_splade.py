"""The largest scores of texts in blocks, against all scores at once."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from pretune.nn import splade
from pretune.nn.splade import flops, largest_scores, saturate, summed_weights

BOUNDS = (0, 3, 4, 11, 13)


def inputs(vocabulary: int = 50, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(BOUNDS[-1], 8, generator=generator).to(dtype)
    table = torch.randn(vocabulary, 8, generator=generator)
    bias = torch.randn(vocabulary, generator=generator)
    return rows.requires_grad_(), table.requires_grad_(), bias.requires_grad_()


def whole(rows: Tensor, table: Tensor, bias: Tensor) -> Tensor:
    """The definition: all scores, then their largest, of each text."""
    scores = torch.log1p((rows @ table.T + bias).relu())
    return torch.stack([scores[first:last].amax(dim=0) for first, last in pairwise(BOUNDS)])


@pytest.mark.parametrize(
    ("columns", "rows_at_once", "cost"), [(4096, 1024, 0), (7, 1, 0), (16, 8, 0), (4096, 1024, 1e9), (7, 1, 1e9)]
)
def test_values_and_gradients_are_those_of_all_scores(
    monkeypatch: Any, columns: int, rows_at_once: int, cost: float
) -> None:
    monkeypatch.setattr(splade, "_PAIR_COST", cost)
    monkeypatch.setattr(splade, "_COLUMNS", columns)
    monkeypatch.setattr(splade, "_ROWS", rows_at_once)
    monkeypatch.setattr(splade, "_PAIRS", 5)
    weights = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    own, wanted = inputs(), inputs()
    vectors = saturate(largest_scores(*own, BOUNDS))
    assert torch.allclose(vectors, whole(*wanted), atol=1e-6)
    assert 0 < (vectors > 0).sum() < vectors.numel()
    (vectors * weights).sum().backward()
    (whole(*wanted) * weights).sum().backward()
    for ours, theirs in zip(own, wanted, strict=True):
        assert ours.grad is not None
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(largest_scores(*own, BOUNDS).log1p(), vectors)


def test_rows_of_half_precision_are_scored_as_they_are() -> None:
    rows, table, bias = inputs(dtype=torch.bfloat16)
    vectors = largest_scores(rows, table, bias, BOUNDS)
    assert vectors.dtype == torch.float32
    vectors.sum().backward()
    assert rows.grad is not None
    assert table.grad is not None
    assert (rows.grad.dtype, table.grad.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_sums_are_those_of_all_weights(activation: Any) -> None:
    rows, table, bias = inputs()
    weights = torch.log1p((rows @ table.T + bias).relu())
    weights = torch.log1p(weights) if activation == "log1p_relu" else weights
    wanted = torch.stack([weights[first:last].sum(dim=0) for first, last in pairwise(BOUNDS)])
    assert torch.allclose(summed_weights(rows, table, bias, BOUNDS, activation), wanted, atol=1e-5)


def test_scores_of_all_rows_are_never_held() -> None:
    """What is kept for the way back is a number of a text and a token, and not of a row and a token."""
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    rows, table, bias = inputs(vocabulary=3000)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        largest_scores(rows, table, bias, BOUNDS)
    assert max(kept) == 3000 * 8  # the table; all scores would be 13 * 3000
    assert sum(kept) == 13 * 8 + 3000 * 8 + 2 * 4 * 3000


def test_flops_are_products_on_average() -> None:
    vectors = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]])
    assert float(flops(vectors)) == pytest.approx(2.0**2 + 1.0**2)
