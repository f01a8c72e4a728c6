"""Floating-point operations that a step really executes: no padding, no rows that heads never see."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache, partial

from torch import nn

from pretune.batch import Batch
from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.model import LanguageModel, block_flops, head_flops, stack_flops
from pretune.objectives.objective import Objective


class Flops:
    """Counts the matrix products of the forwards and backwards of a step.

    The backward costs twice the forward; recomputing activations repeats the forward of the stack.

    Args:
        model: one that is not a `LanguageModel` counts as 0.
        objective: which passes a step makes; one over the batch by default.
    """

    def __init__(self, model: nn.Module, objective: Objective | None = None) -> None:
        self._model, self._objective = model, objective
        self._counts: dict[int, _Pass] = {}

    def __call__(self, batch: Batch) -> float:
        """Of one micro-batch."""
        passes = [(self._model, batch)] if self._objective is None else self._objective.passes(self._model, batch)
        total = 0.0
        for model, part in passes:
            if isinstance(model, LanguageModel):
                if id(model) not in self._counts:
                    self._counts[id(model)] = _Pass(model)
                total += self._counts[id(model)](part)
        return total


class _Pass:
    """A model's forward and backward over a batch."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._heads = {role: head_flops(model, role) for role in model.heads}
        self._stack = lru_cache(maxsize=65536)(partial(stack_flops, model.stack))
        self._last = lru_cache(maxsize=65536)(partial(block_flops, model.stack.in_order[-1]))
        self._encoder = None
        if isinstance(model, EncoderDecoder):
            self._encoder = lru_cache(maxsize=65536)(partial(stack_flops, model.encoder.stack))

    def __call__(self, batch: Batch) -> float:
        """Of one micro-batch."""
        times = 4 if self._model.stack.checkpointing else 3
        lengths = batch.layout.lengths
        sources = lengths if batch.source is None else batch.source.layout.lengths
        if self._encoder is None:
            body = sum(number * self._stack(length) for length, number in Counter(lengths).items())
        else:
            body = sum(number * self._encoder(length) for length, number in Counter(sources).items())
            pairs = Counter(zip(lengths, sources, strict=False))
            body += sum(number * self._stack(length, source) for (length, source), number in pairs.items())
        rows = {name: len(index) for name, (index, _) in batch.targets.items()}
        heads = sum(self._heads.get(name, 0.0) * count for name, count in rows.items())
        return times * (body - self._left_out(batch)) + 3 * heads

    def _left_out(self, batch: Batch) -> float:
        """What the last layer saves by giving only the rows that are read."""
        if batch.output_rows is None or not self._model.supports_output_rows:
            return 0.0
        pairs = Counter(zip(batch.output_rows.layout.lengths, batch.layout.lengths, strict=True))
        return sum(number * (self._last(keys, keys) - self._last(read, keys)) for (read, keys), number in pairs.items())
