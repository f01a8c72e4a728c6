"""Muon: orthogonal steps in the matrices of the layers, AdamW for embeddings, heads, biases, norms and added factors.

It pays where a step has thousands of tokens; `orthogonal.py` says what a step costs.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; its rate matched to AdamW's as in
Liu et al. 2025 (arXiv 2502.16982).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pretune.optim import adamw
from pretune.optim.optimizer import LearnedParameters, Purpose

if TYPE_CHECKING:  # the configuration is read without torch
    import torch
    from torch import nn


class Config(adamw.Config):
    """Settings of Muon; those of AdamW hold for the other parameters, `lr` and `weight_decay` for all.

    Attributes:
        momentum: decay of Muon's running mean.
    """

    usual_lr: ClassVar[Mapping[Purpose, tuple[float, float]]] = dict.fromkeys(
        ("objective", "task", "heads", "parts"), (1e-4, 3e-2)
    )

    momentum: float = Field(0.95, ge=0, lt=1)


def build(parameters: Mapping[str, nn.Parameter], config: Config, dtype: torch.dtype) -> torch.optim.Optimizer:
    """Muon for the matrices of the layers beside an AdamW for the rest; AdamW alone where no such matrix learns."""
    added = parameters.added if isinstance(parameters, LearnedParameters) else ()
    layers = {n: p for n, p in parameters.items() if p.dim() == 2 and ".stack." in f".{n}" and n not in added}
    rest = {name: p for name, p in parameters.items() if name not in layers}
    companion = adamw.build(rest, config, dtype)
    if not layers:
        return companion
    from pretune.optim.orthogonal import MuonWithAdamW
    from pretune.optim.without_compiler import without_compiler

    return without_compiler(MuonWithAdamW)(
        layers.values(),
        companion,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        dtype=dtype,
    )
