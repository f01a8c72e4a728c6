"""Undoes the surgery of a tuning method in a copy that shares the tensors, so that a model's names are the base's."""

from __future__ import annotations

import copy

from torch import nn

from pretune.models.model import LanguageModel
from pretune.nn.attention import Attention
from pretune.nn.bottleneck import NormAdapter, ParallelAdapter
from pretune.nn.embedding import Embedding
from pretune.nn.prefix import NO_PREFIX
from pretune.nn.projection import Projection
from pretune.nn.prompt import NO_PROMPT
from pretune.nn.relative_attention import RelativeAttention
from pretune.nn.vocabulary import Vocabulary
from pretune.tune.surgery import projection_sites, vocabulary_sites


def untuned(model: LanguageModel) -> LanguageModel:
    """The model without what surgery put there; its parameters are the tuned model's own.

    Args:
        model: whose bricks stand on what was there before, as their attribute `base`.
    """
    tensors = [*model.parameters(), *model.buffers()]
    plain = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for site in (*projection_sites(plain), *vocabulary_sites(plain)):
        brick = bottom(site.brick)
        if brick is not site.brick:
            site.replace(brick)
    for module in [*plain.modules()]:
        for name, brick in module.named_children():
            if isinstance(brick, NormAdapter | ParallelAdapter):
                setattr(module, name, bottom(brick))
        if isinstance(module, Attention | RelativeAttention):
            del module.prefix  # a module may not be replaced by what is none
            module.prefix = NO_PREFIX
        if isinstance(module, Embedding):
            del module.prompt
            module.prompt = NO_PROMPT
    return plain


def bottom(brick: nn.Module) -> nn.Module:
    """What stands under all that was put at a place."""
    while not isinstance(brick, Projection | Vocabulary) and isinstance(getattr(brick, "base", None), nn.Module):
        brick = brick.get_submodule("base")
    return brick
