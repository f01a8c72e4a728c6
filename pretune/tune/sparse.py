"""Trains all parameters, but for the weights that are zero in the model's projections: these stay zero.

For a model whose weights were pruned one by one (`pretune compress prune --sparsity`), which is trained again.

Source: Han et al. 2015, arXiv 1506.02626, section 3.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from pretune import config as configuration
from pretune.errors import UsageError
from pretune.nn.projection import Projection
from pretune.tune.surgery import projection_sites

M = TypeVar("M", bound=nn.Module)
SURGERY = False
_ZEROS = "_pruned"
_FEW = 0.01  # of a matrix: as many may be zero by chance


class Config(configuration.Config):
    """Nothing to set."""


def apply(model: M, config: Config) -> M:
    """Notes where zeros are.

    Raises:
        UsageError: no projection has zeros.
    """
    model.requires_grad_(True)
    for site in projection_sites(model):
        if isinstance(site.brick, Projection) and not site.brick.weight.is_meta:
            zeros = site.brick.weight == 0
            if float(zeros.float().mean()) > _FEW:
                setattr(site.brick, _ZEROS, zeros)
    if not acted(model) and not next(model.parameters()).is_meta:
        raise UsageError(
            "tune: 'sparse' keeps zeros of pruned weights, and no projection of this model has any; prune first "
            "(pretune compress prune --sparsity wanda), or use --tune full"
        )
    return model


@torch.no_grad()
def after_step(model: nn.Module, fraction: float) -> None:
    """Sets what was zero to zero again."""
    for site in projection_sites(model):
        zeros: Tensor | None = getattr(site.brick, _ZEROS, None)
        if zeros is not None:
            assert isinstance(site.brick, Projection)
            site.brick.weight.masked_fill_(zeros.to(site.brick.weight.device), 0.0)


def acted(model: nn.Module) -> list[str]:
    """The projections whose zeros stay."""
    return [site.path for site in projection_sites(model) if getattr(site.brick, _ZEROS, None) is not None]
