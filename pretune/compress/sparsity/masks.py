"""Chooses the smallest of some scores, by their rate or in groups of neighbours."""

from __future__ import annotations

import torch
from torch import Tensor


def smallest_in_rows(scores: Tensor, rate: float) -> Tensor:
    """Marks the smallest of every row. Shape: (rows, columns) -> the same, bool."""
    count = round(scores.shape[1] * rate)
    index = scores.topk(count, dim=1, largest=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, index, True)


def smallest_of_all(scores: Tensor, rate: float) -> Tensor:
    """Marks the smallest of all. Shape: (rows, columns) -> the same, bool."""
    return smallest_in_rows(scores.reshape(1, -1), rate).view_as(scores)


def smallest_in_groups(scores: Tensor, group: tuple[int, int]) -> Tensor:
    """Marks N of every M neighbours of a row. Shape: (rows, columns) -> the same, bool."""
    zeros, of = group
    return smallest_in_rows(scores.reshape(-1, of), zeros / of).view_as(scores)
