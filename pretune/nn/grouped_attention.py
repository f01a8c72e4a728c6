"""Several adapters' prefixes before the keys of one attention: each adapter's queries attend behind their own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.attention import Attention
from pretune.nn.grouped import BASE, Part, Parts
from pretune.nn.prefix import NO_PREFIX, Behind, KeyPrefix, NoPrefix
from pretune.nn.spans import CacheSlots, KeyLayout


@dataclass(frozen=True)
class GroupedBehind(Behind):
    """Moves the positions of each sequence behind those that the prefix of its adapter takes.

    Attributes:
        length: the most positions that any of them takes.
        lengths: by the numbers of the adapters.
    """

    lengths: tuple[int, ...] = ()

    @classmethod
    def of(cls, each: Sequence[Behind]) -> GroupedBehind:
        """What several adapters say."""
        lengths = tuple(one.length for one in each)
        return cls(max(lengths, default=0), lengths)

    def __call__(self, layout: Layout) -> Layout:
        """The layout with later positions, made once for all layers."""
        if not self.length or layout.group is None:
            return layout
        key = (GroupedBehind, self.lengths)
        if key not in layout.memo:
            shifts = torch.tensor([0 if number == BASE else self.lengths[number] for number in layout.group])
            rows = shifts.repeat_interleave(torch.tensor(layout.lengths)).to(layout.positions.device)
            layout.memo[key] = replace(layout, positions=layout.positions + rows)
        return cast(Layout, layout.memo[key])


class GroupedPrefix(nn.Module):
    """Several adapters' prefixes, of any lengths, before keys that lie end to end.

    Args:
        members: by the numbers of the adapters.
    """

    def __init__(self, members: Sequence[KeyPrefix]) -> None:
        super().__init__()
        self.members = tuple(members)
        self.bricks = nn.ModuleList([member for member in members if isinstance(member, nn.Module)])

    @property
    def length(self) -> int:
        """Rows in front of a sequence's keys, on average."""
        return round(sum(member.length for member in self.members) / len(self.members))

    def of(self, number: int) -> KeyPrefix:
        """The prefix of an adapter."""
        return NO_PREFIX if number == BASE else self.members[number]

    def extend(self, key: Tensor, value: Tensor, keys: KeyLayout) -> tuple[Tensor, Tensor, KeyLayout]:
        """Puts the rows of its adapter in front of each sequence's. Shape: (Tk, H, D) -> (more, H, D)."""
        if keys.group is None:
            return key, value, keys
        if isinstance(keys, CacheSlots):
            raise ValueError("prefixes of several adapters stand before keys in slots for one adapter at a time")
        parts = Parts.of(keys)
        runs = [self.of(part.number).extend(key[part.rows], value[part.rows], part.layout) for part in parts.each]
        keyed, valued = torch.cat([run[0] for run in runs]), torch.cat([run[1] for run in runs])
        together = Layout.join([cast(Layout, run[2]) for run in runs])
        order = [n for part in parts.each for n in part.sequences]
        if order == sorted(order):
            return keyed, valued, together
        rows, layout = together.select([order.index(n) for n in range(len(order))])
        return keyed[rows], valued[rows], layout

    def fill(self, run: Tensor, value: int, keys: Layout) -> Tensor:
        """Puts a number in front of every sequence's. Shape: (Tk,) -> longer."""
        raise NotImplementedError("relative attention reads the prefixes of one adapter at a time")


class GroupedAttention(Attention):
    """An attention before whose keys some adapters put a prefix."""

    prefix: GroupedPrefix
    members: nn.ModuleList

    @classmethod
    def of(cls, base: Attention, members: Sequence[Attention | None]) -> GroupedAttention:
        """The attention of several adapters.

        Args:
            base: projects into and out of it.
            members: by the numbers of the adapters; None for one that is as the base.
        """
        out = copy.copy(base)
        out.__class__ = cls
        out.__dict__.pop("prefix", None)
        each = [base if member is None else member for member in members]
        out._modules = {
            **base._modules,
            "prefix": GroupedPrefix([member.prefix for member in each]),
            "members": nn.ModuleList([_without_projections(member) for member in (*each, base)]),
        }
        out.behind = GroupedBehind.of([member.behind for member in each])
        return cast(GroupedAttention, out)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, queries: Layout, keys: KeyLayout) -> Tensor:
        """Lets each adapter's queries attend behind its prefix.

        Shape:
            query: (Tq, H, D); key, value: (Tk, Hk, D); return: (Tq, H, D)
        """
        parts = Parts.of(queries)
        if all(isinstance(self.prefix.of(part.number), NoPrefix) for part in parts.each):
            return self._of(BASE).attend(query, key, value, queries, keys)
        runs = []
        for part in parts.each:
            own_key, own_value, own_keys = _part_of(part, key, value, keys)
            runs.append(self._of(part.number).attend(query[part.rows], own_key, own_value, part.layout, own_keys))
        return parts.join(runs)

    def _of(self, number: int) -> Attention:
        return cast(Attention, self.members[number])  # that of the base is the last


def _without_projections(attention: Attention) -> Attention:
    """What attends to keys that are projected already: the copy shares all that this takes."""
    out = copy.copy(attention)
    out._modules = {name: brick for name, brick in attention._modules.items() if name in ("prefix", "relative")}
    return out


def _part_of(part: Part, key: Tensor, value: Tensor, keys: KeyLayout) -> tuple[Tensor, Tensor, KeyLayout]:
    """The keys and values of some sequences. Shape: (Tk, H, D) -> (fewer, H, D)."""
    if isinstance(keys, Layout):
        rows, layout = keys.select(part.sequences)
        return key[rows], value[rows], layout
    chosen = torch.tensor(part.sequences, device=key.device)
    slots = CacheSlots(tuple(keys.lengths[n] for n in part.sequences), keys.capacity, keys.device)
    inside = [run.view(len(keys.lengths), keys.capacity, *run.shape[1:])[chosen].flatten(0, 1) for run in (key, value)]
    return inside[0], inside[1], slots
