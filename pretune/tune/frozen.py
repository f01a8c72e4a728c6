"""The tuning method that trains the heads alone: the body is frozen, and no gradient runs through it."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from pretune import config

M = TypeVar("M", bound=nn.Module)
SURGERY = False


class Config(config.Config):
    """Nothing to choose."""


def apply(model: M, config: Config) -> M:
    """Freezes everything but the heads' own parameters; a weight that a head shares with the body stays frozen.

    Args:
        model: with its heads in `model.heads`.
    """
    del config
    body = {id(p) for name, p in model.named_parameters(remove_duplicate=False) if not name.startswith("heads.")}
    model.requires_grad_(False)
    for parameter in model.get_submodule("heads").parameters():
        parameter.requires_grad_(id(parameter) not in body)
    return model
