"""What stands at a projection's place: derived forms, joined ones, and the walk that does not look inside."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.projection import Projection, ProjectionBrick, joined_product, named_bricks, named_projections


class Scaled(nn.Module):
    """Another brick times a factor; its derived form is its own."""

    def __init__(self, base: Projection, factor: float) -> None:
        super().__init__()
        self.base, self.factor = base, factor
        self.in_features, self.out_features = base.in_features, base.out_features

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        return self.factor * self.base(x, layout)

    def dense(self) -> tuple[Tensor, Tensor | None]:
        weight, bias = self.base.dense()
        return self.factor * weight, None if bias is None else self.factor * bias

    def product(self, activation: object = None) -> object:
        return lambda x: self.factor * self.base(x) if activation is None else activation(self.factor * self.base(x))

    def flops(self, rows: float) -> float:
        return self.base.flops(rows)

    def reset_parameters(self, std: float) -> None:
        self.base.reset_parameters(std)


class ByLayout(Scaled):
    """Treats sequences differently, so that it has no derived form."""

    def product(self, activation: object = None) -> None:
        return None


class Unsaid(Projection):
    """Computes otherwise than its matrix, and does not say so."""

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        return -super().forward(x)


@pytest.mark.parametrize("activation", [None, torch.tanh])
@pytest.mark.parametrize("kinds", ["ppp", "psp", "sss"])
@pytest.mark.parametrize("bias", [True, False])
def test_joined_products(kinds: str, activation: object, bias: bool) -> None:
    torch.manual_seed(0)
    bricks = [Projection(8, 4, bias=bias and n != 1) for n in range(3)]
    bricks = [Scaled(brick, 2.0) if kind == "s" else brick for kind, brick in zip(kinds, bricks, strict=True)]
    x = torch.randn(5, 8)
    want = torch.cat([brick(x) for brick in bricks], dim=1)
    product = joined_product(bricks, activation)
    assert product is not None
    torch.testing.assert_close(product(x), want if activation is None else torch.tanh(want), atol=1e-5, rtol=1e-5)


def test_what_has_no_derived_form() -> None:
    plain = Projection(8, 4)
    assert Unsaid(8, 4).product() is None
    assert joined_product([plain, Unsaid(8, 4)]) is None
    assert joined_product([plain, ByLayout(plain, 2.0)]) is None
    assert joined_product([plain, nn.Linear(8, 4)]) is None


def test_the_walk_stops_at_bricks() -> None:
    shared = Projection(8, 4)
    tree = nn.ModuleDict({"one": Scaled(shared, 2.0), "two": nn.Sequential(Projection(4, 4), nn.Linear(4, 4))})
    assert [name for name, _ in named_bricks(tree)] == ["", "one", "two", "two.0", "two.1"]
    assert [name for name, _ in named_projections(tree)] == ["one", "two.0"]
    assert not isinstance(nn.Linear(2, 2), ProjectionBrick)


def test_initial_values() -> None:
    projection = Projection(64, 64)
    projection.reset_parameters(0.5)
    assert float(projection.weight.std()) == pytest.approx(0.5, rel=0.1)
    assert not projection.bias.any()
    assert projection.flops(3) == 2 * 64 * 64 * 3
