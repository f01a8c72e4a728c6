"""Adds what several models learned on one base: weighted sums of low-rank products and of factors, as other tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Product = tuple[Tensor, Tensor]
"""Two factors of a matrix. Shape: (out, rank), (rank, in)."""


def sum_of_products(parts: Sequence[Mapping[str, Product]], weights: Sequence[float]) -> tuple[dict[str, Tensor], int]:
    """One product at each place that is the weighted sum of all products there, by placing their factors side by side.

    A place that only some have gets rows and columns of zeros for the others, so that all have one rank.

    Args:
        parts: the products of each model, by place.

    Returns:
        `a` and `b` of each place, by the names that low-rank bricks give them, and the rank of all.
    """
    places = list(dict.fromkeys(path for part in parts for path in part))
    ranks = [max((left.shape[1] for left, _ in part.values()), default=0) for part in parts]
    out: dict[str, Tensor] = {}
    for path in places:
        rows, columns = next((b.shape[0], a.shape[1]) for part in parts if path in part for b, a in [part[path]])
        lefts, rights = [], []
        for part, weight, rank in zip(parts, weights, ranks, strict=True):
            left, right = part.get(path, (torch.zeros(rows, 0), torch.zeros(0, columns)))
            empty = rank - left.shape[1]
            lefts.append(torch.cat([weight * left, torch.zeros(rows, empty)], 1))
            rights.append(torch.cat([right, torch.zeros(empty, columns)], 0))
        out |= {f"{path}.a": torch.cat(rights, 0), f"{path}.b": torch.cat(lefts, 1)}
    return out, sum(ranks)


def sum_of_factors(parts: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """Factors that change a matrix by the weighted sum of the changes that all factors make; 1 where there are none."""
    names = dict.fromkeys(name for part in parts for name in part)
    zipped = [*zip(parts, weights, strict=True)]
    return {
        name: torch.stack([weight * (part[name] - 1) for part, weight in zipped if name in part]).sum(0) + 1
        for name in names
    }


def all_places(places: Sequence[tuple[str, ...]], default: tuple[str, ...]) -> tuple[str, ...]:
    """The places of several settings; empty where all have the default ones.

    Args:
        default: roles of the places that empty settings mean.
    """
    if not any(places):
        return ()
    return tuple(dict.fromkeys(role for each in places for role in (each or default)))
