"""AWQ: its factors against a plain search, and its weighted scales against llama.cpp's rule, written out slowly."""

from __future__ import annotations

import pytest
import torch

from pretune.compress.values import awq, imatrix
from pretune.compress.values.method import find_values, levels_of
from pretune.compress.values.scales import _STEPS
from tests.compress.valueskit import Q4, correlated, matrix, rounded

LEVELS = levels_of(Q4, "awq")


def test_the_factors_are_those_of_the_power_with_the_least_error_of_the_output() -> None:
    weight, (x, inputs) = matrix(48, 64), correlated(64)
    errors = []
    for step in range(20):
        factors = x.abs().mean(0).clamp_min(1e-8) ** (step / 20)
        factors = factors / (factors.max() * factors.min()).sqrt()
        quantized = Q4.dense(Q4.pack(weight * factors))
        errors.append(float(((x / factors) @ quantized.T - x @ weight.T).square().sum()))
    best = min(range(20), key=errors.__getitem__)
    assert best > 0  # inputs are of unlike sizes, so that some power pays
    chosen = find_values("awq", {"clip": False}).rescale([weight], Q4, inputs)
    assert chosen is not None
    assert torch.allclose(chosen, awq.powers(inputs.magnitude, best / 20))
    assert errors[best] < 0.8 * errors[0]


def test_inputs_of_one_size_keep_their_factors() -> None:
    x = torch.randn(500, 64, generator=torch.Generator().manual_seed(0)).sign()
    from pretune.compress.values.inputs import Moments

    moments = Moments(64, x.device)
    moments.add(x)
    assert find_values("awq", {}).rescale([matrix()], Q4, moments.inputs()) is None


def test_several_readers_share_their_factors() -> None:
    weights, (_, inputs) = [matrix(16, 64, seed) for seed in range(3)], correlated(64)
    together = find_values("awq", {"clip": False}).rescale(weights, Q4, inputs)
    joined = find_values("awq", {"clip": False}).rescale([torch.cat(weights)], Q4, inputs)
    assert together is not None
    assert torch.allclose(together, joined)


def test_weighted_scales_follow_the_rule_of_llama_cpp() -> None:
    """`make_qx_quants` for one group: steps of the scale, each replaced by the best for its levels."""
    weight, (_, inputs) = matrix(3, 32), correlated(32)
    importance = imatrix.llama_importance(weight, inputs.squares)
    values = rounded("imatrix", weight, inputs)
    for row in range(3):
        x, w = weight[row].double(), importance[row].double()
        largest = x[x.abs().argmax()] / -8
        best, least = 0.0, float("inf")
        for sign in (1, -1):
            for step in _STEPS:
                levels = (x / (largest * step * sign)).round().clamp(-8, 7)
                scale = (w * x * levels).sum() / (w * levels * levels).sum()
                error = float((w * (x - scale * levels).square()).sum())
                if error < least:
                    best, least = float(scale), error
        chosen = (x / best).round().clamp(-8, 7) * best
        error = float((w * (x - values[row]).square()).sum())
        assert error == pytest.approx(float((w * (x - chosen).square()).sum()), rel=0.02)


def test_both_make_less_error_of_the_output_than_rounding_to_the_nearest() -> None:
    weight, (x, inputs) = matrix(48, 64), correlated(64)
    errors = {way: float((x @ (weight - rounded(way, weight, inputs)).T).norm()) for way in ("rtn", "imatrix", "awq")}
    assert errors["imatrix"] < errors["rtn"]
    assert errors["awq"] < errors["rtn"]
