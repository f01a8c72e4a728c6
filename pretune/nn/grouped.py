"""Several adapters at one place of a model: the base reads all sequences at once, an adapter changes those of its own.

`Layout.group` says which adapter reads a sequence: a number, or `BASE` for none. Sequences of one adapter that follow
each other cost no copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.tuned import Change, LowRankChange, TunedBrick, TunedProjection

B = TypeVar("B", bound=nn.Module)
BASE = -1
"""The number of the model without any adapter."""
_PARTS = "adapters of a layout"
_FEW_ROWS = 64  # for which all low-rank products at once are faster than one after another


@dataclass(frozen=True)
class Part:
    """The sequences of one adapter in a layout.

    Attributes:
        number: of the adapter.
        sequences: their numbers in the layout.
        rows: those of its sequences in the run.
        layout: of its sequences alone.
    """

    number: int
    sequences: tuple[int, ...]
    rows: slice | Tensor
    layout: Layout


@dataclass(frozen=True)
class Parts:
    """The adapters of a layout, each once.

    Attributes:
        each: what they read.
        inverse: (T,) int64, where each row of the run stands when the parts follow each other; None where they do.
    """

    each: tuple[Part, ...]
    inverse: Tensor | None

    @classmethod
    def of(cls, layout: Layout) -> Parts:
        """The adapters of a layout, found once for all places that read it."""
        if _PARTS not in layout.memo:
            layout.memo[_PARTS] = cls._find(layout, layout.group or (BASE,) * layout.count)
        return cast(Parts, layout.memo[_PARTS])

    @classmethod
    def _find(cls, layout: Layout, group: tuple[int, ...]) -> Parts:
        sequences: dict[int, list[int]] = {}
        for n, number in enumerate(group):
            sequences.setdefault(number, []).append(n)
        if len(sequences) < 2:
            every = tuple(range(layout.count))
            return cls(tuple(Part(number, every, slice(0, layout.total), layout) for number in sequences), None)
        parts = tuple(_part(number, tuple(of), layout) for number, of in sequences.items())
        if all(isinstance(part.rows, slice) for part in parts):  # they came in this order
            return cls(parts, None)
        index = torch.arange(layout.total, device=layout.positions.device)
        order = torch.cat([index[part.rows] for part in parts])
        return cls(parts, torch.empty_like(order).scatter_(0, order, index))

    def join(self, runs: Sequence[Tensor]) -> Tensor:
        """The runs of all parts in the order of the layout. Shape: (T of each, ...) -> (T, ...)."""
        if len(runs) == 1:
            return runs[0]
        joined = torch.cat(list(runs))
        return joined if self.inverse is None else joined.index_select(0, self.inverse)


def _part(number: int, sequences: tuple[int, ...], layout: Layout) -> Part:
    rows, own = layout.select(sequences)
    keys = None if own.keys is None else replace(own.keys, part=number)
    return Part(number, sequences, rows, replace(own, keys=keys))


class GroupedBrick(TunedBrick[B], Generic[B]):
    """Several adapters' bricks on one base.

    Args:
        base: what they all stand on.
        members: by the numbers of the adapters, each on a base that computes the same; None for an adapter that changes
            nothing here.
    """

    needs_group = True

    def __init__(self, base: B, members: Sequence[nn.Module | None]) -> None:
        super().__init__(base)
        self.members = nn.ModuleList(cast("list[nn.Module]", members))

    def member(self, number: int) -> TunedBrick[B] | None:
        """The brick of an adapter, if it has one here."""
        return None if number == BASE else cast("TunedBrick[B] | None", self.members[number])

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        """Shape: (T, in) -> (T, out)."""
        if layout is None:
            raise ValueError("which adapter reads a row is said by its layout, without which this place was called")
        x = self.read(x, layout)
        return self.change(x, self.answer(x, layout), layout)

    @property
    def reads(self) -> bool:
        """Whether any adapter changes what the base reads."""
        members = cast("list[TunedBrick[B] | None]", list(self.members))
        return any(member is not None and type(member).read is not TunedBrick.read for member in members)

    def read(self, x: Tensor, layout: Layout | None) -> Tensor:
        """What the base is to read. Shape: (T, in)."""
        if layout is None or not layout.count or not self.reads:
            return x
        parts = Parts.of(layout)
        return parts.join([self._read(part, x[part.rows]) for part in parts.each])

    def change(self, x: Tensor, y: Tensor, layout: Layout | None) -> Tensor:
        """Each adapter's answer for its own sequences. Shape: x: (T, in), y: (T, out) -> (T, out)."""
        if layout is None or not layout.count:
            return y
        parts = Parts.of(layout)
        if all(self.member(part.number) is None for part in parts.each):
            return y
        return parts.join([self._change(part, x[part.rows], y[part.rows]) for part in parts.each])

    def _read(self, part: Part, x: Tensor) -> Tensor:
        member = self.member(part.number)
        return x if member is None else member.read(x, part.layout)

    def _change(self, part: Part, x: Tensor, y: Tensor) -> Tensor:
        member = self.member(part.number)
        return y if member is None else member.change(x, y, part.layout)


class GroupedProjection(GroupedBrick[nn.Module], TunedProjection):
    """Several adapters at a projection's place; no matrix computes the same for all sequences."""

    base: nn.Module

    @torch.no_grad()
    def constant_change(self) -> Change:
        """Writes low-rank changes into the answer of the base; for few rows those of all adapters at once."""
        members = cast("list[TunedProjection | None]", list(self.members))
        changes = [None if member is None else member.low_rank() for member in members]
        if any(member is not None and change is None for member, change in zip(members, changes, strict=True)):
            return self.change
        return _LowRankChanges(changes)

    def flops(self, rows: float) -> float:
        """Those of the base, and the mean of what the adapters add."""
        plain = self.projection.flops(rows)
        bricks = [member for member in self.members if isinstance(member, TunedProjection)]
        return plain + sum(brick.flops(rows) - plain for brick in bricks) / max(1, len(self.members))


class _LowRankChanges:
    """Low-rank changes of several adapters with constant values.

    Args:
        changes: by the numbers of the adapters; None for one that changes nothing.
    """

    def __init__(self, changes: Sequence[LowRankChange | None]) -> None:
        self.changes = changes
        some = [change for change in changes if change is not None]
        self.owners = tuple(n for n, change in enumerate(changes) if change is not None for _ in change.a)
        self.is_sum = all(change.factor is None for change in some)
        self.a, self.b = torch.cat([change.a for change in some]), torch.cat([change.b for change in some], dim=1)

    def __call__(self, x: Tensor, y: Tensor, layout: Layout | None) -> Tensor:
        """Shape: x: (T, in); y, return: (T, out), the same memory."""
        if layout is None or not layout.count:
            return y
        parts = Parts.of(layout)
        if self.is_sum and len(parts.each) > 1 and layout.total <= _FEW_ROWS:
            low = F.linear(x, self.a).mul_(self._own_columns(layout, x))
            return y.addmm_(low, self.b.t())
        for part in parts.each:
            change = None if part.number == BASE else self.changes[part.number]
            if change is not None:
                rows = y[part.rows]
                if change.factor is not None:
                    rows = (
                        rows.mul_(change.factor)
                        if change.offset is None
                        else rows.mul_(change.factor).add_(change.offset)
                    )
                rows = rows.addmm_(F.linear(x[part.rows], change.a), change.b.t())
                if not isinstance(part.rows, slice):
                    y[part.rows] = rows
        return y

    def _own_columns(self, layout: Layout, like: Tensor) -> Tensor:
        """1 where a row's adapter is that of a column of `a`. Shape: return: (T, sum of ranks)."""
        key = (_PARTS, self.owners)
        if key not in layout.memo:
            group = torch.tensor(layout.group).repeat_interleave(torch.tensor(layout.lengths))
            mask = group[:, None] == torch.tensor(self.owners)
            layout.memo[key] = mask.to(like.device, like.dtype)
        return cast(Tensor, layout.memo[key])
