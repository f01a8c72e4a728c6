"""Linear maps that surgery may replace, and what every module at such a place answers about itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.activation import Activation
from pretune.nn.constant_cast import ConstantCast
from pretune.nn.packed import LazyProduct, Product, bytes_to_pack, constant_product
from pretune.nn.quick_protocol import QuickProtocolMeta


@runtime_checkable
class ProjectionBrick(Protocol, metaclass=QuickProtocolMeta):
    """A linear map from `in_features` to `out_features`: a `Projection`, or what a method put at its place.

    It is called with the layout, so that it may treat sequences differently.
    """

    in_features: int
    out_features: int

    def __call__(self, x: Tensor, layout: Layout | None = None, /) -> Tensor:
        """Shape: (T, in) -> (T, out)."""

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """The matrix and the bias that compute the same. Shape: (out, in), (out,)."""

    def product(self, activation: Activation | None = None) -> Product | None:
        """A function for a model in use that computes the same; None where sequences are treated differently."""

    def flops(self, rows: float) -> float:
        """Floating-point operations of a forward of so many rows."""

    def reset_parameters(self, std: float) -> None:
        """Draws initial values; matrices with this standard deviation."""


@runtime_checkable
class JoiningBrick(Protocol, metaclass=QuickProtocolMeta):
    """A brick whose product can be joined with those of its kind without forming their matrices."""

    def joined(self, others: Sequence[object], activation: Activation | None = None) -> Product | None:
        """One function for it and the others; None where they do not join. Shape: (T, in) -> (T, sum of outs)."""


class Projection(nn.Linear):
    """`nn.Linear` called as every brick is, with a layout.

    In training what is frozen is cast to the dtype of the matmuls once, and not in every step, which keeps them
    for its backward anyway. Without gradients there is one at a time, as autocast makes them.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self._casts = ConstantCast(), ConstantCast()

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        """Shape: (T, in) -> (T, out)."""
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if torch.is_grad_enabled() and not weight.requires_grad and torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            weight = self._casts[0](weight, dtype)
            bias = bias if bias is None or bias.requires_grad else self._casts[1](bias, dtype)
        return F.linear(x, weight, bias)

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Projection:
        """A projection with the given values, on their device. Shape: (out, in), (out,)."""
        with torch.device("meta"):
            projection = cls(weight.shape[1], weight.shape[0], bias=bias is not None)
        projection.weight = nn.Parameter(weight)
        if bias is not None:
            projection.bias = nn.Parameter(bias)
        return projection

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """Its own matrix and bias. Shape: (out, in), (out,)."""
        return self.weight, self.bias

    def product(self, activation: Activation | None = None) -> Product | None:
        """Multiplies by the packed matrix; None for a subclass that computes otherwise and does not give its matrix."""
        return constant_product(*self.dense(), activation) if multiplies_by_dense(self) else None

    def flops(self, rows: float) -> float:
        """A multiply-add is two."""
        return 2.0 * self.in_features * self.out_features * rows

    @torch.no_grad()
    def reset_parameters(self, std: float = 0.02) -> None:
        """Draws a normal matrix; the bias is 0. Without memory (on the meta device) there is nothing to draw."""
        if self.weight.is_meta:  # a third of a millisecond each, in Python
            return
        self.weight.normal_(0, std)
        if self.bias is not None:
            self.bias.zero_()


def is_packed(brick: object) -> bool:
    """Whether a brick holds its matrix packed, so that no dense one should be formed and kept for it."""
    return bool(getattr(brick, "is_packed", False))


def bias_of(brick: ProjectionBrick) -> Tensor | None:
    """The bias that a brick's `dense` gives, without its matrix where that would have to be formed. Shape: (out,)."""
    return cast(Tensor | None, getattr(brick, "bias")) if hasattr(brick, "bias") else brick.dense()[1]  # noqa: B009


def device_of(brick: object) -> torch.device:
    """Where the tensors of a brick are, of which it has at least one."""
    assert isinstance(brick, nn.Module)
    return next(chain(brick.parameters(), brick.buffers())).device


def in_matmul_dtype(x: Tensor) -> Tensor:
    """Casts a run to the dtype of the matmuls, once where several of them read it (autocast would cast for each)."""
    if torch.is_autocast_enabled(x.device.type):
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x


def named_bricks(
    module: nn.Module, name: str = "", visited: set[nn.Module] | None = None
) -> Iterator[tuple[str, nn.Module]]:
    """Goes through a module tree as `named_modules` does, but not into what stands at a projection's place."""
    visited = set() if visited is None else visited
    if module in visited:
        return
    visited.add(module)
    yield name, module
    if isinstance(module, ProjectionBrick):
        return
    for child_name, child in module.named_children():
        yield from named_bricks(child, f"{name}.{child_name}" if name else child_name, visited)


def named_projections(module: nn.Module) -> Iterator[tuple[str, ProjectionBrick]]:
    """What stands at the places of projections, by name."""
    for name, brick in named_bricks(module):
        if isinstance(brick, ProjectionBrick):
            yield name, brick


@torch.no_grad()
def joined_product(bricks: Sequence[ProjectionBrick], activation: Activation | None = None) -> Product | None:
    """One function for bricks that read the same rows, with their outputs side by side.

    Bricks that multiply by their dense matrix, as `Projection` and what takes over its `product`, become one matmul.

    Shape:
        (T, in) -> (T, sum of outs)
    """
    if not all(isinstance(brick, ProjectionBrick) for brick in bricks):
        return None
    if len(bricks) == 1:
        return bricks[0].product(activation)
    if isinstance(bricks[0], JoiningBrick) and (joined := bricks[0].joined(bricks[1:], activation)) is not None:
        return joined
    if all(multiplies_by_dense(brick) for brick in bricks):
        parts = [brick.dense() for brick in bricks]
        return LazyProduct(lambda: _concatenated(parts, activation), sum(weight.nbytes for weight, _ in parts))
    products = [product for product in (brick.product(activation) for brick in bricks) if product is not None]
    return _SideBySide(products) if len(products) == len(bricks) else None


class _SideBySide:
    """Products of the same rows, with their outputs side by side."""

    def __init__(self, products: Sequence[Product]) -> None:
        self._products = products

    @property
    def bytes_to_pack(self) -> int:
        return sum(bytes_to_pack(product) for product in self._products)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([product(x) for product in self._products], -1)


def _concatenated(parts: Sequence[tuple[Tensor, Tensor | None]], activation: Activation | None) -> Product:
    """One matmul of several matrices and biases. Shape: (T, in) -> (T, sum of outs)."""
    filled = [w.new_zeros(len(w)) if b is None else b.to(w.dtype) for w, b in parts]
    bias = torch.cat(filled) if any(b is not None for _, b in parts) else None
    return constant_product(torch.cat([weight for weight, _ in parts]), bias, activation)


def multiplies_by_dense(brick: ProjectionBrick) -> bool:
    """Whether a brick's derived form is `Projection.product`, and its matrix is that of its forward."""
    cls = type(brick)
    if getattr(cls, "product", None) is not Projection.product:
        return False
    return not issubclass(cls, Projection) or cls.forward is Projection.forward or cls.dense is not Projection.dense
