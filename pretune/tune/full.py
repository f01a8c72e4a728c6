"""The tuning method that trains every parameter."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from pretune import config
from pretune.tune.surgery import refuse_rounded

M = TypeVar("M", bound=nn.Module)
SURGERY = False


class Config(config.Config):
    """Nothing to choose."""


def apply(model: M, config: Config) -> M:
    """Lets every parameter train.

    Raises:
        UsageError: the model has rounded matrices.
    """
    del config
    refuse_rounded("full", model)
    return model.requires_grad_(True)
