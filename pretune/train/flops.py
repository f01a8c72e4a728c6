"""Floating-point operations that a step really executes: no padding, no rows that heads never see."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache, partial

from torch import nn

from pretune.batch import Batch
from pretune.models.model import LanguageModel, block_flops, flops_per_token, head_flops


class Flops:
    """Counts the matrix products of a forward and backward of one model.

    The backward costs twice the forward; recomputing activations repeats the forward of the stack.

    Args:
        model: one that is not a `LanguageModel` counts as 0.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model if isinstance(model, LanguageModel) else None
        self._heads: dict[str, float] = {}
        if self._model is not None:
            self._times = 4 if self._model.stack.checkpointing else 3
            self._heads = {role: head_flops(self._model, role) for role in self._model.heads}
            self._last = lru_cache(maxsize=65536)(partial(block_flops, self._model.stack.in_order[-1]))
        self._token = lru_cache(maxsize=4096)(self._of_token)

    def __call__(self, batch: Batch) -> float:
        """Of one micro-batch."""
        if self._model is None:
            return 0.0
        lengths = Counter(batch.layout.lengths)
        body = sum(number * length * self._token(length) for length, number in lengths.items()) - self._left_out(batch)
        rows = {name: len(index) for name, (index, _) in batch.targets.items()}
        return self._times * body + 3 * sum(self._heads.get(name, 0.0) * count for name, count in rows.items())

    def _left_out(self, batch: Batch) -> float:
        """What the last layer saves by giving only the rows that are read."""
        assert self._model is not None
        if batch.reads is None or not self._model.stack.can_leave_out:
            return 0.0
        pairs = Counter(zip(batch.reads.layout.lengths, batch.layout.lengths, strict=True))
        return sum(number * (self._last(keys, keys) - self._last(read, keys)) for (read, keys), number in pairs.items())

    def _of_token(self, length: int) -> float:
        assert self._model is not None
        return flops_per_token(self._model, length) if length else 0.0
