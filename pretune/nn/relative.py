"""Relative positions as T5 has them: a learned number for each head and each bucket of distances.

Source: Raffel et al. 2019, arXiv 1910.10683, section 2.1; the buckets are those of its authors' code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pretune.nn.embedding import LearnedTable


class RelativeBias(nn.Module):
    """Adds a learned number to the scores; one table serves all layers of a stack.

    Args:
        heads: of the attention.
        buckets: of distances; half of them for each direction where both are seen.
        max_distance: distance from which on all share the last bucket.
        both: keys may lie after the query.
    """

    def __init__(self, heads: int, buckets: int, max_distance: int, *, both: bool) -> None:
        super().__init__()
        self.table: nn.Embedding = LearnedTable(buckets, heads)
        self.max_distance = max_distance
        self.both = both

    def forward(self, queries: int, keys: int) -> Tensor:
        """The last query is aligned with the last key. Shape: return: (H, queries, keys)."""
        position = torch.arange(keys, device=self.table.weight.device)
        buckets = self.bucket(position - position[keys - queries :, None])
        return self.table(buckets).permute(2, 0, 1)  # type: ignore[no-any-return]

    def bucket(self, distance: Tensor) -> Tensor:
        """Gives small distances a bucket each; larger ones share buckets by their logarithm.

        Shape:
            distance: any int64, key less query -> same
        """
        count = self.table.num_embeddings
        first = torch.zeros_like(distance)
        if self.both:
            count //= 2
            first = (distance > 0).long() * count
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = count // 2
        fraction = torch.log(distance.float() / exact) / math.log(self.max_distance / exact)
        far = (exact + (fraction * (count - exact)).long()).clamp(max=count - 1)
        return first + torch.where(distance < exact, distance, far)
