"""AdamW: Adam with decoupled weight decay, on matrices and embeddings only.

Source: Loshchilov and Hutter 2019 (arXiv 1711.05101).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from pretune.optim.optimizer import OptimizerConfig, Purpose, decay_groups

if TYPE_CHECKING:  # the configuration is read without torch
    import torch
    from torch import nn

Rate = Annotated[float, Field(ge=0, lt=1)]


class Config(OptimizerConfig):
    """Settings of AdamW.

    Attributes:
        betas: decay of the running mean and of the running square.
        eps: added to the root of the running square.
        weight_decay: decoupled decay of matrices and embeddings; biases and norms have none.
    """

    usual_lr: ClassVar[Mapping[Purpose, tuple[float, float]]] = {
        "objective": (1e-5, 2e-3),
        "task": (1e-6, 5e-4),
        "heads": (1e-5, 1e-1),
        "parts": (1e-5, 5e-2),
    }

    betas: tuple[Rate, Rate] = (0.9, 0.98)
    eps: float = Field(1e-6, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(0.01, ge=0, allow_inf_nan=False)


def build(parameters: Mapping[str, nn.Parameter], config: Config, dtype: torch.dtype) -> torch.optim.AdamW:
    """AdamW with fused kernels over two groups of parameters: those that decay and those that do not."""
    import torch

    from pretune.optim.without_compiler import without_compiler

    del dtype  # it makes no matmuls
    groups = decay_groups(list(parameters.values()), config.weight_decay)
    kind = without_compiler(torch.optim.AdamW)
    return kind(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
