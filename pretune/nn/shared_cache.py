"""Keys and values of sequences that begin alike, each stored once: position-wise layers read every common row once.

Only attention sees sequences, so only there are the keys of a sequence gathered from the rows that it consists of.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pretune.batch import Layout
from pretune.nn.cache import Cache
from pretune.nn.spans import KeyLayout

KeysAndValues = tuple[Tensor, Tensor]
"""Of one layer. Shape: (rows, H, D) twice."""


class SharedCache(Cache):
    """Serves one forward over the ends of N sequences, whose beginnings other sequences of the run have, or a past run.

    Args:
        layers: of the stack.
        starts: how many first tokens of each sequence are rows of others.
        index: the row of each token of each sequence, end to end, among the past's rows and then the run's.
        past: keys and values of each layer that an earlier forward kept; none at first.
        kept: which of the past's and the run's rows a later forward will need.
        limit: tokens that a sequence can have at most; None for no limit.

    Attributes:
        kept: keys and values of each layer at the rows that were asked for, once the forward is done.

    Shape:
        index: (tokens of all sequences,) int64; kept: (K,) int64
    """

    def __init__(
        self,
        layers: int,
        starts: Sequence[int],
        index: Tensor,
        past: Sequence[KeysAndValues],
        kept: Tensor,
        limit: int | None = None,
    ) -> None:
        super().__init__(layers, len(starts), limit=limit)
        self.lengths = tuple(starts)
        self.kept: list[KeysAndValues] = []
        self._index, self._past, self._kept_rows = index, past, kept
        self._keys: Layout | None = None

    def _append(self, layer: int, key: Tensor, value: Tensor, layout: Layout) -> tuple[Tensor, Tensor, KeyLayout]:
        del layout
        if self._keys is None:
            self._keys = Layout.of(self.lengths, key.device)
        if self._past:
            before = self._past[layer]
            key, value = torch.cat([before[0], key]), torch.cat([before[1], value])
        if len(self._kept_rows):
            self.kept.append((key.index_select(0, self._kept_rows), value.index_select(0, self._kept_rows)))
        return key.index_select(0, self._index), value.index_select(0, self._index), self._keys
