"""GPTQ against the algorithm of its paper, written out slowly; scales and descent against brute force."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pretune.compress.values import gptq
from pretune.compress.values.method import levels_of
from pretune.compress.values.scales import fit_scales, search_scales, spread, to_levels
from pretune.errors import UsageError
from pretune.nn.formats.format import find_format
from tests.compress.valueskit import Q4, correlated, matrix, rounded

LEVELS = levels_of(Q4, "gptq")


def _reference(weight: Tensor, moments: Tensor, order: Tensor, scale_of: object) -> Tensor:
    """Algorithm 1 without blocks and without Cholesky: after each column, the inverse of what is left is made anew."""
    left = weight.double().clone()
    out = torch.zeros_like(left)
    remaining = order.tolist()
    while remaining:
        inverse = torch.linalg.inv(moments.double()[remaining][:, remaining])
        column = remaining[0]
        quantized = scale_of(column, left)  # type: ignore[operator]
        out[:, column] = quantized
        error = (left[:, column] - quantized) / inverse[0, 0]
        for place, other in enumerate(remaining):
            left[:, other] -= error * inverse[0, place]
        remaining = remaining[1:]
    return out


@pytest.mark.parametrize("order", ["none", "groups", "columns"])
def test_the_algorithm_is_that_of_the_paper(order: str) -> None:
    weight, (_, inputs) = matrix(6, 160), correlated(160)
    config = gptq.Config(order=order, search=False, passes=0)
    moments = gptq.damped(inputs.moments, config.damp)
    static = LEVELS.scales(weight)
    scales: dict[int, Tensor] = {}

    def scale_of(column: int, left: Tensor) -> Tensor:
        group = column // 32
        if order == "columns":
            scale = static[:, group]
        else:
            if group not in scales:  # all columns of a group come together
                scales[group] = LEVELS.scales(left[:, group * 32 : group * 32 + 32].float())[:, 0]
            scale = scales[group]
        return (to_levels(left[:, column].float(), scale, LEVELS) * scale).double()

    expected = _reference(weight, moments, gptq.column_order(inputs.squares, LEVELS, order), scale_of)
    values = rounded("gptq", weight, inputs, order=order, search=False, passes=0)
    assert (values - expected).abs().max() < 1e-3 * weight.abs().max()


def test_each_step_lowers_the_error_of_the_output() -> None:
    weight, (x, inputs) = matrix(48, 96), correlated(96)
    plain = rounded("rtn", weight, None)
    fed_back = rounded("gptq", weight, inputs, order="columns", passes=0)
    refined = rounded("gptq", weight, inputs, order="columns", passes=3)
    errors = [float((x @ (weight - each).T).square().mean()) for each in (plain, fed_back, refined)]
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < errors[1]
    relative = float((x @ (weight - plain).T).norm() / (x @ weight.T).norm())
    assert inputs.error(weight, plain) == pytest.approx(relative, rel=1e-3)


def test_a_pass_of_descent_leaves_no_level_that_could_be_better_alone() -> None:
    weight, (_, inputs) = matrix(4, 64), correlated(64)
    moments = gptq.damped(inputs.moments, 0.01)
    scales = LEVELS.scales(weight)
    by_column = spread(scales, LEVELS, 64)
    levels = to_levels(weight, by_column, LEVELS)

    def error(levels: Tensor) -> Tensor:
        difference = (weight - levels * by_column).double()
        return ((difference @ moments.double()) * difference).sum(1)

    before = error(levels)
    for _ in range(30):
        levels = gptq.descend(weight, levels, scales, LEVELS, moments)
    after = error(levels)
    assert (after <= before + 1e-6).all()
    assert (after < 0.8 * before).all()
    for column in range(64):
        for step in (-1, 1):
            other = levels.clone()
            other[:, column] = (other[:, column] + step).clamp(-8, 7)
            assert (error(other) >= after - 1e-4 * after).all()


def test_fitted_scales_are_the_best_for_their_levels() -> None:
    weight, (_, inputs) = matrix(5, 96), correlated(96)
    levels = to_levels(weight, spread(LEVELS.scales(weight), LEVELS, 96), LEVELS)
    scales = fit_scales(weight, levels, LEVELS, inputs.moments)

    def error(scales: Tensor) -> Tensor:
        difference = (weight - levels * spread(scales, LEVELS, 96)).double()
        return ((difference @ inputs.moments.double()) * difference).sum(1)

    best = error(scales)
    for group in range(3):
        for factor in (0.97, 1.03):
            other = scales.clone()
            other[:, group] *= factor
            assert (error(other) > best).all()


def test_searched_scales_are_no_worse_than_the_formats_own() -> None:
    weight, importance = matrix(), torch.linspace(0.1, 1.1, 64)[None]

    def error(scales: Tensor) -> Tensor:
        by_column = spread(scales, LEVELS, 64)
        difference = weight - to_levels(weight, by_column, LEVELS) * by_column
        return (importance * difference.square()).view(24, 2, 32).sum(2)

    searched, own = error(search_scales(weight, LEVELS, importance)), error(LEVELS.scales(weight))
    assert (searched <= own * 1.02).all()  # levels are chosen again for the scale that is stored
    assert searched.sum() < 0.93 * own.sum()


@pytest.mark.parametrize("name", ["q8_0", "int8"])
def test_other_formats_with_levels(name: str) -> None:
    weight, (x, inputs) = matrix(16, 64), correlated(64)
    plain, fed_back = (rounded(way, weight, inputs, name) for way in ("rtn", "gptq"))
    assert (x @ (weight - fed_back).T).norm() < (x @ (weight - plain).T).norm()


def test_a_format_without_levels_and_missing_inputs_are_refused() -> None:
    with pytest.raises(UsageError, match="bf16 has none; use values rtn"):
        rounded("gptq", matrix(), correlated()[1], "bf16")
    with pytest.raises(UsageError, match="--calibration"):
        rounded("gptq", matrix(), None)


def test_inputs_that_are_all_zero_are_no_obstacle() -> None:
    weight, (_, inputs) = matrix(8, 64), correlated(64)
    inputs.moments[5] = 0.0
    inputs.moments[:, 5] = 0.0
    assert rounded("gptq", weight, inputs).isfinite().all()
    assert find_format("q4_0") is Q4
