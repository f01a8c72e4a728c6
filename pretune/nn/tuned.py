"""What a tuning method learned at one place of a model, standing on what was there, which stays as it is.

A tuned brick asks its base once and changes the answer. So several of them can stand on one base, each for some of the
sequences of a batch, and the base still computes all rows at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from pretune.batch import Layout, RowKeys
from pretune.nn.activation import Activation
from pretune.nn.packed import Product
from pretune.nn.projection import Projection, ProjectionBrick, is_packed

B = TypeVar("B", bound=nn.Module)
Change = Callable[[Tensor, Tensor, "Layout | None"], Tensor]
"""What `TunedBrick.change` does. Shape: x: (T, in); y, return: (T, out)."""


@dataclass(frozen=True)
class LowRankChange:
    """A change whose values are constant: `y * factor + offset + x @ a.T @ b.T`.

    Shape:
        a: (r, in); b: (out, r); factor, offset: (out,), or None for 1 and 0
    """

    a: Tensor
    b: Tensor
    factor: Tensor | None = None
    offset: Tensor | None = None


class TunedBrick(nn.Module, Generic[B]):
    """A change of what a brick reads, of what it answers, or of both; a subclass gives the change.

    Attributes:
        needs_group: it asks the layout which adapter reads a sequence, and cannot be called with rows alone.

    Args:
        base: any brick that is called with rows and their layout, or with rows alone, as norms are.
    """

    needs_group: ClassVar[bool] = False

    def __init__(self, base: B) -> None:
        super().__init__()
        self.base = base
        accepted = list(inspect.signature(base.forward).parameters.values())
        self._rows_alone = len(accepted) == 1 and accepted[0].kind is not inspect.Parameter.VAR_POSITIONAL

    def answer(self, x: Tensor, layout: Layout | None) -> Tensor:
        """What the base answers. Shape: (T, in) -> (T, out)."""
        return self.base(x) if self._rows_alone else self.base(x, layout)  # type: ignore[no-any-return]

    def read(self, x: Tensor, layout: Layout | None) -> Tensor:
        """What the base is to read instead of `x`; `x` itself, unless a subclass says otherwise. Shape: (T, in)."""
        del layout
        return x

    def change(self, x: Tensor, y: Tensor, layout: Layout | None) -> Tensor:
        """The answer instead of the base's.

        Args:
            x: what the base read; of all sequences, or of some whole ones, as the layout says.
            y: what it answered.

        Shape:
            x: (T, in); y, return: (T, out)
        """
        raise NotImplementedError

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        """Shape: (T, in) -> (T, out)."""
        x = self.read(x, layout)
        return self.change(x, self.answer(x, layout), layout)


class Nothing(nn.Module):
    """Stands where a tuning method may put a brick beside a branch: nothing is added there."""

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        """Shape: (T, width) -> same, zeros."""
        return torch.zeros_like(x)


def add_beside(brick: nn.Module, y: Tensor, x: Tensor, layout: Layout) -> Tensor:
    """The answer of a branch, with what stands beside it.

    Args:
        y: the branch's answer.
        x: the residual stream that the branch begins at, before any norm.

    Shape:
        x, y, return: (T, width)
    """
    return y if isinstance(brick, Nothing) else y + brick(x, layout)


def with_layout(brick: nn.Module, x: Tensor, layout: Layout) -> Tensor:
    """The answer of a brick that is called with rows alone, unless something tuned stands there.

    Shape:
        x: (T, in); return: (T, out)
    """
    return brick(x, layout) if isinstance(brick, TunedBrick) else brick(x)  # type: ignore[no-any-return]


def with_keys(brick: nn.Module, rows: Tensor, keys: RowKeys | None) -> Tensor:
    """The answer of a brick of a head, which is called with rows alone; what is tuned there drops them by their keys.

    Args:
        keys: of the rows; None where nothing is drawn, or torch's generator draws.

    Shape:
        rows: (K, in); return: (K, out)
    """
    if keys is None or not isinstance(brick, TunedBrick) or brick.needs_group:
        return brick(rows)  # type: ignore[no-any-return]
    count, device = len(rows), rows.device
    offsets = torch.arange(count + 1, dtype=torch.int32, device=device)
    layout = Layout((1,) * count, offsets, torch.zeros(count, dtype=torch.int64, device=device), keys)
    return brick(rows, layout)  # type: ignore[no-any-return]


class TunedProjection(TunedBrick[nn.Module]):
    """A change at a projection's place. It answers all that is asked there (`ProjectionBrick`).

    Args:
        base: the projection, or what stands there already.
    """

    base: nn.Module

    def __init__(self, base: ProjectionBrick) -> None:
        if not isinstance(base, nn.Module):
            raise TypeError(f"what stands at a projection's place must be a module, not {type(base).__name__}")
        super().__init__(base)
        self.in_features, self.out_features = base.in_features, base.out_features

    @property
    def projection(self) -> ProjectionBrick:
        """The base as what it is."""
        assert isinstance(self.base, ProjectionBrick)
        return self.base

    @property
    def is_packed(self) -> bool:
        """Whether its base holds its matrix packed, so that the change stays beside it."""
        return is_packed(self.base)

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """The matrix and bias that compute the same; a change that is not linear has none. Shape: (out, in), (out,).

        Raises:
            NotImplementedError: not linear.
        """
        raise NotImplementedError(f"{type(self).__name__} is not linear: no matrix computes the same")

    def product(self, activation: Activation | None = None) -> Product | None:
        """A function for a model in use; that of the merged matrix, for a linear change. None where there is none."""
        if self.is_packed:
            return None
        try:
            weight, bias = self.dense()
        except NotImplementedError:
            return None
        return Projection.of(weight, bias).product(activation)

    def low_rank(self) -> LowRankChange | None:
        """The change as it is now, where it is of low rank; None for any other, which is the default."""
        return None

    def constant_change(self) -> Change:
        """A function for a model in use that does what `change` does, and may write into the answer of the base."""
        return self.change

    def flops(self, rows: float) -> float:
        """Those of the base; a subclass adds its own."""
        return self.projection.flops(rows)

    def reset_parameters(self, std: float) -> None:
        """Draws initial values of the base."""
        self.projection.reset_parameters(std)
