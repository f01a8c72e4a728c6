"""Keeps the weights from before the first step, so that the finished model can be a mean of both.

Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (arXiv 2109.01903), WiSE-FT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class InitialWeights:
    """Weights of a model's body, as they were.

    Attributes:
        fraction: how much they count in the mean.
        weights: by name; those that learn, heads left out.
    """

    fraction: float
    weights: Mapping[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, fraction: float) -> InitialWeights:
        """Copies the weights of a model, where they will count; else nothing is kept."""
        if not fraction:
            return cls(0.0, {})
        learned = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        copies = {name: p.detach().to("cpu", copy=True) for name, p in learned.items() if not name.startswith("heads.")}
        return cls(fraction, copies)

    @torch.no_grad()
    def mix_into(self, model: nn.Module) -> list[str]:
        """Takes the mean of these weights and the model's.

        Returns:
            What the user should know.
        """
        if not self.fraction:
            return []
        for name, weight in model.named_parameters():
            if name in self.weights:
                weight.lerp_(self.weights[name].to(weight.device), self.fraction)
        return [f"the weights are the mean of those from before and after training, {self.fraction:.0%} before"]
