"""Linear chains over ragged rows: scores of labels that follow each other, and the best sequence of labels.

Rows are taken position by position: the first rows of all sequences, the longest sequence first, then all second rows,
and so on. The sequences that go on are then always the first ones of a position, and a position is one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from pretune.batch import Layout

_BLOCK = 1 << 20  # numbers that a step of the search holds at most, so that they stay in cache


@dataclass(frozen=True)
class Transitions:
    """Scores of labels that follow each other, and of those at the ends; -inf forbids.

    Attributes:
        first: (L,) of the first label of a sequence.
        between: (L, L) from a label (row) to the next one (column).
        last: (L,) of the last label of a sequence.
    """

    first: Tensor
    between: Tensor
    last: Tensor

    @classmethod
    def allowed(cls, first: Sequence[bool], between: Sequence[Sequence[bool]], last: Sequence[bool]) -> Transitions:
        """Scores of 0 for what is allowed, and -inf for all else."""
        tables = (torch.tensor(part, dtype=torch.bool) for part in (first, between, last))
        return cls(*(torch.zeros(part.shape).masked_fill(~part, -torch.inf) for part in tables))

    def __add__(self, other: Transitions) -> Transitions:
        """Both together: what either forbids is forbidden."""
        return Transitions(self.first + other.first, self.between + other.between, self.last + other.last)

    def to(self, other: Tensor) -> Transitions:
        """The same without gradients, with the dtype and on the device of another tensor."""
        return Transitions(*(part.detach().to(other) for part in (self.first, self.between, self.last)))


@dataclass(frozen=True)
class ByPosition:
    """The rows of ragged sequences position by position, the longest sequence first.

    Attributes:
        index: (T,) int64, the row of the run that stands at each place.
        sizes: sequences that have a row at each position, which never grow.
        owner: (T,) int64, the sequence of each place, in the order of the layout.
    """

    index: Tensor
    sizes: tuple[int, ...]
    owner: Tensor

    @classmethod
    def of(cls, layout: Layout) -> ByPosition:
        """That of a layout, which remembers it."""
        known = layout.memo.get("by_position")
        if isinstance(known, cls):
            return known
        lengths = np.asarray(layout.lengths, dtype=np.int64)
        order = np.argsort(-lengths, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        owner = np.arange(len(lengths)).repeat(lengths)
        position = np.arange(len(owner)) - (lengths.cumsum() - lengths).repeat(lengths)
        index = np.argsort(position * max(len(lengths), 1) + rank[owner])
        sizes = tuple(np.bincount(position).tolist()) if len(position) else ()
        device = layout.offsets.device
        out = cls(torch.from_numpy(index).to(device), sizes, torch.from_numpy(owner[index]).to(device))
        layout.memo["by_position"] = out
        return out

    @cached_property
    def ends(self) -> Tensor:
        """(N with rows,) int64: the place of each sequence's last row, the shortest sequence first."""
        starts = [0, *accumulate(self.sizes)]
        later = [*self.sizes[1:], 0]
        runs = [
            range(start + after, start + size)
            for start, size, after in zip(starts, self.sizes, later, strict=False)
            if size > after
        ]
        return torch.tensor([row for run in runs for row in run], dtype=torch.int64, device=self.index.device)

    @cached_property
    def previous(self) -> Tensor:
        """(T - N with rows,) int64: the place of the row before, for each place after those of the first position."""
        starts = [0, *accumulate(self.sizes)]
        parts = [np.arange(start, start + size) for start, size in zip(starts, self.sizes[1:], strict=False)]
        return torch.from_numpy(np.concatenate(parts) if parts else np.zeros(0, np.int64)).to(self.index.device)

    def split(self, values: Tensor) -> list[Tensor]:
        """Views of the rows of each position. Shape: (T, ...) -> (size, ...) each."""
        return list(torch.split(values, list(self.sizes)))


def viterbi(scores: Tensor, layout: Layout, transitions: Transitions) -> Tensor:
    """Gives the labels with the highest sum of scores for each sequence, the first of equals.

    Shape:
        scores: (T, L); return: (T,) int64
    """
    with torch.no_grad(), torch.autocast(scores.device.type, enabled=False):
        rows, x = ByPosition.of(layout), in_fp32(scores)
        out = torch.empty(len(x), dtype=torch.int64, device=x.device)
        if layout.total:
            tables = transitions.to(x)
            out[rows.index] = _backtrack(_best_sums(x[rows.index], tables, rows), tables)
        return out


def _best_sums(x: Tensor, transitions: Transitions, rows: ByPosition) -> list[Tensor]:
    """The sum of the best path to each label, position by position; at the end of a sequence with the last score.

    Sequences stand in columns, along which the maximum over labels is one run through memory.

    Shape:
        x: (T, L); return: (L, size) each
    """
    sums = [part.t().contiguous() for part in rows.split(x)]
    sums[0] += transitions.first[:, None]
    between = transitions.between[:, :, None]
    block = max(1, _BLOCK // between.numel())
    for before, now in pairwise(sums):
        for start in range(0, now.shape[1], block):
            part = now[:, start : start + block]
            part += (before[:, None, start : start + part.shape[1]] + between).amax(dim=0)
    for part, later in zip(sums, [*rows.sizes[1:], 0], strict=True):
        part[:, later:] += transitions.last[:, None]
    return sums


def _backtrack(sums: Sequence[Tensor], transitions: Transitions) -> Tensor:
    """The labels of the best paths, from their ends. Shape: return: (T,)."""
    labels: list[Tensor] = []
    chosen = torch.empty(0, dtype=torch.int64, device=transitions.first.device)
    for part in reversed(sums):
        part[:, : len(chosen)] += transitions.between[:, chosen]
        chosen = part.argmax(dim=0)
        labels.append(chosen)
    return torch.cat(labels[::-1])


def in_fp32(scores: Tensor) -> Tensor:
    """Without gradients, in fp32 or better."""
    return scores.detach().to(torch.promote_types(scores.dtype, torch.float32))
