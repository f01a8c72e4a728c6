"""Learned vectors in front of every embedded sequence, which a model reads as tokens and gives no answer for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pretune.batch import Layout, OutputRows, RowKeys

_GOLDEN = 0x9E3779B9  # odd, so that its multiples are all different


@dataclass(frozen=True)
class LongerRun:
    """Where the rows of a run stand once vectors are in front of its sequences.

    Attributes:
        layout: of the longer run; the run's own where nothing is in front.
        index: (T',) int64, which row of [vectors, run] stands in each place; None for nothing in front.
        answers: (T,) int64, which row of the longer run answers for each of the run's own.
    """

    layout: Layout
    index: Tensor | None = None
    answers: Tensor | None = None

    def put(self, vectors: Tensor, run: Tensor) -> Tensor:
        """Puts vectors in front. Shape: vectors: (P, ...), run: (T, ...) -> (T', ...)."""
        return run if self.index is None else torch.cat([vectors, run]).index_select(0, self.index)

    def fill(self, run: Tensor, value: int, length: int) -> Tensor:
        """Puts a number in front. Shape: (T,) -> (T',)."""
        return self.put(run.new_full((length,), value), run)

    def cut(self, run: Tensor) -> Tensor:
        """The rows that answer for the run's own. Shape: (T', ...) -> (T, ...)."""
        return run if self.answers is None else run.index_select(0, self.answers)

    def rows(self, rows: OutputRows | None) -> OutputRows | None:
        """The rows of the longer run that answer for some of the run's own."""
        if rows is None or self.answers is None:
            return rows
        index = self.answers[rows.index]
        return OutputRows(index, replace(rows.layout, positions=self.layout.positions[index]))


class Prompt(Protocol):
    """What stands at `Embedding.prompt`.

    Attributes:
        length: vectors in front of a sequence.
    """

    @property
    def length(self) -> int:
        """Vectors in front of a sequence."""

    def place(self, layout: Layout, before: Sequence[int] | None = None) -> LongerRun:
        """Where the rows of a run come to stand.

        Args:
            before: how many tokens of each sequence a cache holds; what is in front of those is in it too.
        """

    def extend(self, run: Tensor, longer: LongerRun) -> Tensor:
        """Puts its vectors in front. Shape: (T, width) -> (T', width)."""


class NoPrompt:
    """Leaves runs as they are."""

    length = 0

    def place(self, layout: Layout, before: Sequence[int] | None = None) -> LongerRun:
        """The run itself."""
        del before
        return LongerRun(layout)

    def extend(self, run: Tensor, longer: LongerRun) -> Tensor:
        """Shape: (T, width) -> the same."""
        del longer
        return run


NO_PROMPT = NoPrompt()


class LearnedPrompt(nn.Module):
    """The same learned vectors in front of every sequence that has a token.

    Args:
        vectors: their initial values.
        leads: the first vector answers for the first row of a sequence, which pooling may read.

    Attributes:
        largest_gradient: the largest that any of its weights ever had: 0 if nothing reached it.

    Shape:
        vectors: (P, width)

    Source: Lester et al. 2021, arXiv 2104.08691.
    """

    TRAINING_BUFFERS = ("largest_gradient",)
    largest_gradient: Tensor

    def __init__(self, vectors: Tensor, *, leads: bool = False) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors)
        self.leads = leads
        self.register_buffer("largest_gradient", torch.zeros(()))

    @property
    def length(self) -> int:
        """Vectors in front of a sequence."""
        return len(self.vectors)

    @torch.no_grad()
    def note_gradient(self) -> None:
        """Keeps the largest gradient; called while the gradients of a step are there."""
        if self.vectors.grad is not None:
            self.largest_gradient.copy_(torch.maximum(self.largest_gradient, self.vectors.grad.abs().max()))

    def place(self, layout: Layout, before: Sequence[int] | None = None) -> LongerRun:
        """Where the rows of a run come to stand, made once for a layout."""
        memo_key = (LearnedPrompt, self.length, self.leads, None if before is None else tuple(before))
        if memo_key not in layout.memo:
            layout.memo[memo_key] = self._place(layout, before)
        return cast(LongerRun, layout.memo[memo_key])

    def extend(self, run: Tensor, longer: LongerRun) -> Tensor:
        """Puts the vectors in front. Shape: (T, width) -> (T', width)."""
        return longer.put(self.vectors.to(run.dtype), run)

    def _place(self, layout: Layout, before: Sequence[int] | None) -> LongerRun:
        own, device = np.array(layout.lengths, np.int64), layout.offsets.device
        starts = np.zeros_like(own) if before is None else np.array(before, np.int64)
        front = np.where((own > 0) & (starts == 0), self.length, 0)  # vectors in front of each sequence
        if not front.any():
            return LongerRun(layout)
        total = own + front
        position = np.arange(int(total.sum())) - (np.cumsum(total) - total).repeat(total)  # in its longer sequence
        first = np.cumsum(own) - own
        row = (first - front).repeat(total) + position  # of the run; before the first one's for a vector
        in_front = position < front.repeat(total)
        index = np.where(in_front, position, row + self.length)
        answers = np.flatnonzero(~in_front)
        if self.leads:
            answers[first[front > 0]] -= self.length
        rows = torch.from_numpy(np.maximum(row, first.repeat(total))).to(
            device
        )  # a vector's: the first of its sequence
        moved = torch.from_numpy(np.where(in_front, position, front.repeat(total))).to(device)
        longer = Layout.of(total, device)
        keys = None if layout.keys is None else _keys(layout.keys, rows, np.where(in_front, position + 1, 0))
        longer = replace(longer, positions=layout.positions[rows] + moved, keys=keys, group=layout.group)
        return LongerRun(longer, torch.from_numpy(index).to(device), torch.from_numpy(answers).to(device))


def _keys(keys: RowKeys, rows: Tensor, vector: NDArray[np.int64]) -> RowKeys:
    """Keys of the longer run: a vector's is a function of its number and of the key of its sequence's first row.

    Shape:
        rows: (T',), whose key a row has; vector: (T',), 0 for rows of the run
    """
    salt = torch.from_numpy((vector * _GOLDEN).astype(np.uint32).view(np.int32)).to(rows.device)
    return replace(keys, words=keys.words.index_select(0, rows).bitwise_xor(salt[:, None]))
