"""HQQ against its iteration, written out for one group."""

from __future__ import annotations

import torch

from pretune.compress.values import hqq
from tests.compress.valueskit import Q4, matrix, rounded


def test_the_iteration_is_that_of_the_paper_with_the_scale_in_the_place_of_the_zero_point() -> None:
    weight = matrix(1, 32, seed=3)
    x = weight[0].double()
    scale = float(Q4.scales(weight)[0, 0])  # type: ignore[attr-defined]
    beta, least, best = 10.0, float("inf"), None
    for _ in range(20):
        levels = (x / scale).round().clamp(-8, 7)
        error = x - levels * scale
        if float(error.abs().mean()) >= least:
            break
        best, least = levels * scale, float(error.abs().mean())
        sparse = error.sign() * (error.abs() - error.abs().pow(0.7 - 1) / beta).clamp_min(0)
        scale = float(torch.tensor(float(((x - sparse) * levels).sum() / (levels * levels).sum())).half())
        beta *= 1.01
    assert best is not None
    assert torch.allclose(rounded("hqq", weight, None)[0].double(), best, atol=1e-5)


def test_no_data_are_needed_and_the_mean_error_falls() -> None:
    weight = matrix(200, 64)
    errors = {way: float((weight - rounded(way, weight, None)).abs().mean()) for way in ("rtn", "hqq")}
    assert errors["hqq"] < errors["rtn"]


def test_the_threshold_lets_large_errors_be() -> None:
    x = torch.tensor([0.0, 0.05, -3.0])
    out = hqq.shrink(x, 10.0, 0.7)
    assert out[0] == 0
    assert out[1] == 0
    assert -3.0 < out[2] < -2.9
