"""Compares the layers of a model that was changed with those that its configuration builds: `undescribed`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import nn

from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.model import Config, LanguageModel, get_family
from pretune.models.size_fields import SizeFields
from pretune.nn.attention import Attention
from pretune.nn.relative_attention import RelativeAttention
from pretune.nn.stack import Stack


def size_fields(family: str) -> Mapping[str, SizeFields]:
    """What a family says of its stacks, by their paths; nothing of a user's own that does not say it."""
    return cast(Mapping[str, SizeFields], getattr(get_family(family), "SIZE_FIELDS", {}))


def stacks(model: LanguageModel) -> dict[str, Stack]:
    """The stacks of a model that have layers, by their paths."""
    encoder = {"encoder.stack": model.encoder.stack} if isinstance(model, EncoderDecoder) else {}
    return {path: stack for path, stack in {**encoder, "stack": model.stack}.items() if stack.order}


def stacks_of(family: str, config: Config) -> dict[str, Stack]:
    """The stacks that a configuration builds, without memory, by their paths."""
    with torch.device("meta"):
        return stacks(get_family(family).build(config))


def signature(block: nn.Module) -> tuple[object, ...]:
    """What two layers have in common that can take each other's place: bricks, shapes, structures and scales."""
    own = [(m.structure, m.scale) for m in block.modules() if isinstance(m, Attention)]
    return (repr(block), *own)


def undescribed(model: LanguageModel) -> list[str]:
    """What a model's configuration does not say of its layers, a sentence each; empty where it says all of it."""
    built = stacks_of(model.family, model.config)
    sentences = []
    for path, stack in stacks(model).items():
        blocks = built[path].in_order if path in built else []
        if len(blocks) != len(stack.order):
            sentences.append(f"{path} has {len(stack.order)} layers, and config.json says {len(blocks)}")
            continue
        for number, (own, other) in enumerate(zip(stack.in_order, blocks, strict=True)):
            sentences += [f"{path}.blocks.{number}.{difference}" for difference in _differences(own, other)]
    return sentences


def _differences(own: nn.Module, built: nn.Module) -> Iterator[str]:
    """How a layer differs from the one that its configuration builds."""
    others = dict(built.named_modules())
    for name, module in own.named_modules():
        other = others.get(name)
        if isinstance(module, Attention | RelativeAttention) and isinstance(other, Attention | RelativeAttention):
            if (module.heads, module.key_heads) != (other.heads, other.key_heads):
                yield f"{name} has {module.heads} heads, and config.json says {other.heads}"
            elif isinstance(module, Attention) and isinstance(other, Attention) and module.structure != other.structure:
                yield f"{name} sees {module.structure}, and config.json says {other.structure}"
            elif isinstance(module, Attention) and isinstance(other, Attention) and module.scale != other.scale:
                yield f"{name} scales scores by {module.scale}, and config.json says {other.scale}"
    shapes = {name: tuple(parameter.shape) for name, parameter in built.named_parameters()}
    for name, parameter in own.named_parameters():
        if name in shapes and shapes[name] != tuple(parameter.shape):
            yield f"{name} has the shape {list(parameter.shape)}, and config.json says {list(shapes[name])}"
