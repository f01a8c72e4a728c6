"""Prefix tuning, whole, in one file outside of pretune: learned keys and values in front of every sequence.

Source: Li and Liang 2021, arXiv 2101.00190.
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from pretune import config
from pretune.models.model import LanguageModel
from pretune.nn.attention import Attention
from pretune.nn.prefix import LearnedPrefix


class Config(config.Config):
    """How long the prefix is.

    Attributes:
        length: keys and values of each layer.
    """

    length: int = Field(4, ge=1)


def apply(model: LanguageModel, config: Config) -> LanguageModel:
    """Freeze the body, and put a prefix into every layer."""
    model.requires_grad_(False)
    model.heads.requires_grad_(True)
    for module in model.modules():
        if isinstance(module, Attention):
            module.prefix = LearnedPrefix(config.length, module.key_heads, module.head_width)
            module.prefix.reset_parameters(0.02)
            nn.init.zeros_(module.prefix.value)
    return model


def acted(model: LanguageModel) -> list[str]:
    """The layers whose values are no longer 0."""
    return [name for name, module in model.named_modules() if isinstance(module, LearnedPrefix) and module.value.any()]
