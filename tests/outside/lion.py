"""Lion, an optimizer that is no part of pretune: sign steps, a slower rate for embeddings, and a counter of its own.

Source: Chen et al. 2023, "Symbolic discovery of optimization algorithms" (arXiv 2302.06675), program 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pretune.optim.optimizer import OptimizerConfig


class Config(OptimizerConfig):
    """Settings of Lion.

    Attributes:
        lr: of all but the embeddings.
        embedding_lr: of tables of embeddings.
        betas: of the interpolation and of the running mean.
    """

    lr: float = 1e-3
    embedding_lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)


class Lion(torch.optim.Optimizer):
    """Steps of equal size in the direction of a running mean's sign; they grow by a hundredth after each step."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step."""
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["mean"], state["steps"] = torch.zeros_like(p), 0
                state["steps"] += 1
                direction = torch.lerp(p.grad, state["mean"], first).sign()
                p.add_(direction, alpha=-group["lr"] * group["growth"] * (1 + 1e-3 * state["steps"]))
                state["mean"].lerp_(p.grad, 1 - second)
            group["growth"] *= 1.01


def build(parameters: Mapping[str, nn.Parameter], config: Config, dtype: torch.dtype) -> Lion:
    """Lion over two groups, each with its own learning rate."""
    embeddings = [p for name, p in parameters.items() if ".embedding." in name]
    others = [p for name, p in parameters.items() if ".embedding." not in name]
    groups: list[dict[str, Any]] = [{"params": embeddings, "lr": config.embedding_lr}, {"params": others}]
    return Lion(groups, {"lr": config.lr, "betas": config.betas, "growth": 1.0})
