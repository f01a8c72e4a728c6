"""A temperature close to 0 draws what temperature 0 chooses, and nothing at random."""

from __future__ import annotations

import pytest
import torch

from pretune.draw import Draw
from pretune.generate.options import GenerateConfig
from pretune.generate.sample import sample


@pytest.mark.parametrize("temperature", [1e-5, 1e-20, 1e-38, 1e-300])
@pytest.mark.parametrize("more", [{}, {"top_k": 2}, {"min_p": 0.1}, {"top_p": 0.5}])
def test_cold_is_greedy(temperature: float, more: dict[str, float]) -> None:
    logits = torch.tensor([[1.0, 5.0, 3.0, -torch.inf], [-4.0, -9.0, -2.0, -2.5]])
    config = GenerateConfig(temperature=temperature, **more)  # type: ignore[arg-type]
    for step in range(20):
        assert sample(logits, config, [Draw(0), Draw(1)], [step] * 2).tolist() == [1, 2]
