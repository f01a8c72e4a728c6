"""What stands at a projection's place: derived forms, joined ones, and the walk that does not look inside."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pickle import dumps

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.constant_cast import ConstantCast
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


@pytest.mark.parametrize("learns", [(), ("bias",), ("weight", "bias")])
def test_what_is_frozen_is_cast_once_and_computes_the_same(learns: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    projection = Projection(8, 4)
    for name, parameter in projection.named_parameters():
        parameter.requires_grad_(name in learns)
    x = torch.randn(5, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        got, want = projection(x), F.linear(x, projection.weight, projection.bias)
    assert torch.equal(got, want)
    over = [x, *(parameter for name, parameter in projection.named_parameters() if name in learns)]
    for own, others in zip(*(torch.autograd.grad(y.float().sum(), over) for y in (got, want)), strict=True):
        assert torch.equal(own, others)
    assert list(projection.state_dict()) == ["weight", "bias"]
    assert torch.equal(projection(x), F.linear(x, projection.weight, projection.bias)), "without autocast in fp32"


def _in_place(projection: Projection) -> None:
    projection.weight.mul_(2)


def _by_state(projection: Projection) -> None:
    projection.load_state_dict({name: value + 1 for name, value in projection.state_dict().items()})


def _by_data(projection: Projection) -> None:
    projection.weight.data = projection.weight.data + 1


def _by_parameter(projection: Projection) -> None:
    projection.weight = nn.Parameter(projection.weight + 1, requires_grad=False)


@pytest.mark.parametrize("change", [_in_place, _by_state, _by_data, _by_parameter])
def test_a_frozen_matrix_that_was_changed_is_cast_again(change: Callable[[Projection], None]) -> None:
    torch.manual_seed(0)
    projection = Projection(8, 4).requires_grad_(False)
    x = torch.randn(5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        before = projection(x)
        change(projection)
        got = projection(x)
        assert not torch.equal(got, before)
        assert torch.equal(got, F.linear(x, projection.weight, projection.bias))


def test_a_cast_is_kept_and_not_copied() -> None:
    cast, weight = ConstantCast(), torch.randn(3, 2)
    kept = cast(weight, torch.bfloat16)
    assert cast(weight, torch.bfloat16) is kept
    assert cast(weight, torch.float16).dtype == torch.float16
    projection = Projection(8, 4).requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        want = projection(torch.ones(1, 8))
        assert len(dumps(projection)) == len(dumps(Projection(8, 4).requires_grad_(False)))
        assert torch.equal(deepcopy(projection)(torch.ones(1, 8)), want)
        without = deepcopy(projection)
        with torch.no_grad():
            without(torch.ones(1, 8))
        assert [tensor for each in without._casts for tensor in vars(each).values() if torch.is_tensor(tensor)] == []
    with torch.inference_mode():
        assert cast(torch.ones(2), torch.bfloat16).dtype == torch.bfloat16
