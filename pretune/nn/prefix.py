"""Keys and values in front of every sequence's own: where a tuning method hangs what all queries may attend to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.spans import CacheSlots, KeyLayout


class KeyPrefix(Protocol):
    """What stands at `Attention.prefix`.

    Attributes:
        length: rows in front of every sequence's keys.
    """

    @property
    def length(self) -> int:
        """Rows in front of every sequence's keys."""

    def extend(self, key: Tensor, value: Tensor, keys: KeyLayout) -> tuple[Tensor, Tensor, KeyLayout]:
        """Puts its rows in front of every sequence's. Shape: key, value: (Tk, H, D) -> (Tk + N * length, H, D)."""

    def fill(self, run: Tensor, value: int, keys: Layout) -> Tensor:
        """Puts a number in front of every sequence's, a row of it for each of its own. Shape: (Tk,) -> longer."""


class NoPrefix:
    """Leaves keys and values as they are."""

    length = 0

    def extend(self, key: Tensor, value: Tensor, keys: KeyLayout) -> tuple[Tensor, Tensor, KeyLayout]:
        """Shape: (Tk, H, D) -> the same."""
        return key, value, keys

    def fill(self, run: Tensor, value: int, keys: Layout) -> Tensor:
        """Shape: (Tk,) -> the same."""
        return run


NO_PREFIX = NoPrefix()


@dataclass(frozen=True)
class Behind:
    """Moves the positions of sequences behind those that a prefix takes.

    Attributes:
        length: positions that the prefix takes.
    """

    length: int = 0

    def __call__(self, layout: Layout) -> Layout:
        """The layout with later positions, made once for all layers."""
        if not self.length:
            return layout
        key = (Behind, self.length)
        if key not in layout.memo:
            layout.memo[key] = replace(layout, positions=layout.positions + self.length)
        return cast(Layout, layout.memo[key])


class PrefixBrick(nn.Module):
    """Puts learned rows in front of every sequence, the same for all; a subclass says which.

    The rows count as tokens before the first one of the sequence: every query sees them, whatever its structure hides
    otherwise, and a bias by distance takes them for the nearest earlier tokens. Their keys are not rotated.

    Args:
        length: number of rows.

    Attributes:
        largest_gradient: the largest that any of its weights ever had: 0 if nothing reached it.

    Source: Li and Liang 2021, arXiv 2101.00190.
    """

    TRAINING_BUFFERS = ("largest_gradient",)
    largest_gradient: Tensor

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.register_buffer("largest_gradient", torch.zeros(()))

    def rows(self) -> tuple[Tensor, Tensor]:
        """Its keys and values. Shape: (length, H, D) each."""
        raise NotImplementedError

    def own_parameters(self) -> list[nn.Parameter]:
        """Those that it shares with no other layer."""
        raise NotImplementedError

    @torch.no_grad()
    def note_gradient(self) -> None:
        """Keeps the largest gradient of its own weights; called while the gradients of a step are there."""
        for parameter in self.own_parameters():
            if parameter.grad is not None:
                self.largest_gradient.copy_(torch.maximum(self.largest_gradient, parameter.grad.abs().max()))

    def extend(self, key: Tensor, value: Tensor, keys: KeyLayout) -> tuple[Tensor, Tensor, KeyLayout]:
        """Puts the rows in front of every sequence's. Shape: (Tk, H, D) -> (Tk + N * length, H, D)."""
        own_key, own_value = self.rows()
        first, second = own_key.to(key.dtype), own_value.to(value.dtype)
        if isinstance(keys, CacheSlots):
            return _in_slots(first, key, keys), _in_slots(second, value, keys), _longer_slots(keys, self.length)
        index, layout = _gather_plan(keys, self.length)
        return (
            torch.cat([first, key]).index_select(0, index),
            torch.cat([second, value]).index_select(0, index),
            layout,
        )

    def fill(self, run: Tensor, value: int, keys: Layout) -> Tensor:
        """Puts a number in front of every sequence's. Shape: (Tk,) -> (Tk + N * length,)."""
        return torch.cat([run.new_full((self.length,), value), run]).index_select(0, _gather_plan(keys, self.length)[0])


class LearnedPrefix(PrefixBrick):
    """Rows that are weights themselves.

    Args:
        length: number of rows.
        heads: of keys and values.
        head_width: of each head.
    """

    def __init__(self, length: int, heads: int, head_width: int) -> None:
        super().__init__(length)
        self.key = nn.Parameter(torch.empty(length, heads, head_width))
        self.value = nn.Parameter(torch.empty(length, heads, head_width))

    @classmethod
    def of(cls, key: Tensor, value: Tensor) -> LearnedPrefix:
        """The prefix of given rows. Shape: (length, H, D) twice."""
        brick = cls(*key.shape).to(key.device)
        brick.key.data.copy_(key)
        brick.value.data.copy_(value)
        return brick

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draws initial values."""
        self.key.normal_(0, std)
        self.value.normal_(0, std)

    def rows(self) -> tuple[Tensor, Tensor]:
        """The weights. Shape: (length, H, D) each."""
        return self.key, self.value

    def own_parameters(self) -> list[nn.Parameter]:
        """Both."""
        return [self.key, self.value]


class PrefixSource(nn.Module):
    """What all layers' rows are computed from, while they train: a vector for each row, widened.

    Args:
        length: number of rows.
        width: of the vectors.
        hidden: of the layer above them.
    """

    def __init__(self, length: int, width: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(length, width))
        self.up = nn.Linear(width, hidden)

    def forward(self) -> Tensor:
        """Shape: return: (length, hidden)."""
        return torch.tanh(self.up(self.embedding))


class ReparameterizedPrefix(PrefixBrick):
    """Rows that an MLP gives while it trains, whose first layer is that of all layers of the model.

    Args:
        source: the first layer and what it reads, one for all prefixes.
        heads: of keys and values.
        head_width: of each head.

    Source: Li and Liang 2021, arXiv 2101.00190, section 4.3.
    """

    def __init__(self, source: PrefixSource, heads: int, head_width: int) -> None:
        super().__init__(len(source.embedding))
        self.source = source
        self.down = nn.Linear(source.up.out_features, 2 * heads * head_width)
        self.heads, self.head_width = heads, head_width

    def rows(self) -> tuple[Tensor, Tensor]:
        """What the MLP gives. Shape: (length, H, D) each."""
        key, value = self.down(self.source()).view(self.length, 2, self.heads, self.head_width).unbind(1)
        return key, value

    def own_parameters(self) -> list[nn.Parameter]:
        """The last layer's."""
        return [*self.down.parameters()]


def _gather_plan(keys: Layout, length: int) -> tuple[Tensor, Layout]:
    """Which row of [prefix, run] stands in each place, and where the longer sequences lie; made once for all layers."""
    memo_key = (PrefixBrick, length)
    if memo_key not in keys.memo:
        prefix = np.arange(length)
        bounds = keys.bounds
        rows = [part for n in range(keys.count) for part in (prefix, np.arange(bounds[n], bounds[n + 1]) + length)]
        index = torch.from_numpy(np.concatenate([prefix[:0], *rows])).to(keys.offsets.device)
        longer = [used + length for used in keys.lengths]
        keys.memo[memo_key] = (index, Layout.of(longer, keys.offsets.device, group=keys.group))
    return cast(tuple[Tensor, Layout], keys.memo[memo_key])


def _in_slots(prefix: Tensor, run: Tensor, keys: CacheSlots) -> Tensor:
    """Shape: prefix: (P, H, D), run: (N * capacity, H, D) -> (N * (P + max_length), H, D)."""
    used = run.view(len(keys.lengths), keys.capacity, *run.shape[1:]).narrow(1, 0, keys.max_length)
    return torch.cat([prefix.expand(len(used), *prefix.shape), used], dim=1).flatten(0, 1)


def _longer_slots(keys: CacheSlots, length: int) -> CacheSlots:
    return CacheSlots(tuple(used + length for used in keys.lengths), keys.max_length + length, keys.device, keys.group)
