"""The tuning method that trains the heads alone: the body is frozen, and no gradient runs through it."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from pretune import config
from pretune.tune.surgery import freeze_body

M = TypeVar("M", bound=nn.Module)
SURGERY = False
RATE = 1e-2  # nothing learned before can be lost


class Config(config.Config):
    """Nothing to choose."""


def apply(model: M, config: Config) -> M:
    """Freezes everything but the heads' own parameters; a weight that a head shares with the body stays frozen.

    Args:
        model: with its heads in `model.heads`.
    """
    del config
    freeze_body(model, vocabulary=True)
    return model
