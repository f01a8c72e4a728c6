"""What gives the inputs of some projections, where factors of these inputs can be folded into it.

    norm before a branch --> query, key, value          norm before a branch --> up, or gate and value
    value of attention ----> output                     value of a gated feed-forward ----> down

A norm after a branch also gives the residual stream, and an activation is no linear map: nothing is folded there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pretune.nn.attention import Attention
from pretune.nn.feedforward import FeedForward, GatedFeedForward
from pretune.nn.prefix import NO_PREFIX
from pretune.nn.projection import Projection
from pretune.tune.surgery import Site

_READERS = {
    "before_attention": ("attention.query", "attention.key", "attention.value"),
    "before_cross": ("cross.query",),
    "before_feedforward": ("feedforward.up", "feedforward.gate", "feedforward.value"),
}
_NORMS = (nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True)
class InputSource:
    """A module whose outputs are read by some projections and by nothing else.

    Attributes:
        module: a norm, or a projection.
        readers: all projections that read it.
    """

    module: nn.Module
    readers: tuple[Projection, ...]

    @torch.no_grad()
    def rescale(self, factors: Tensor) -> None:
        """Divides what it gives by factors, and multiplies the columns that read it. Shape: (in,)."""
        weight: Tensor = self.module.get_parameter("weight")
        weight.div_(factors.view(-1, *[1] * (weight.dim() - 1)))
        bias = getattr(self.module, "bias", None)
        if isinstance(bias, Tensor):
            bias.div_(factors)
        for reader in self.readers:
            reader.weight.mul_(factors)


def find_source(model: nn.Module, sites: Sequence[Site]) -> InputSource | None:
    """What gives the rows that some sites of a layer read; None where nothing can be folded into it."""
    first = sites[0]
    block = model.get_submodule(first.path.removesuffix(f".{first.role}"))
    roles = {site.role for site in sites}
    source = _norm(block, roles) or _value(block, roles)
    if source is None or any(type(reader) is not Projection for reader in source.readers):
        return None
    return source


def _norm(block: nn.Module, roles: set[str]) -> InputSource | None:
    norms = getattr(block, "norms", None)
    name = next((name for name, readers in _READERS.items() if roles <= set(readers)), None)
    if norms is None or name is None or not _is_known(block):
        return None
    norm = getattr(norms, name)
    uses = [other for other in norms._modules.values() if other is norm]
    if type(norm) not in _NORMS or getattr(norm, "weight", None) is None or len(uses) > 1:
        return None
    return InputSource(norm, _present(block, _READERS[name]))


def _value(block: nn.Module, roles: set[str]) -> InputSource | None:
    attention, feedforward = getattr(block, "attention", None), getattr(block, "feedforward", None)
    if roles == {"attention.output"} and type(attention) is Attention and type(attention.value) is Projection:
        if attention.heads != attention.key_heads or attention.prefix is not NO_PREFIX:
            return None
        return InputSource(attention.value, _present(block, ("attention.output",)))
    if roles == {"feedforward.down"} and type(feedforward) is GatedFeedForward:
        if type(feedforward.value) is not Projection:
            return None
        return InputSource(feedforward.value, _present(block, ("feedforward.down",)))
    return None


def _is_known(block: nn.Module) -> bool:
    """Whether nothing but the known projections can read the norms of a block."""
    attention, feedforward = getattr(block, "attention", None), getattr(block, "feedforward", None)
    return type(attention) is Attention and type(feedforward) in (FeedForward, GatedFeedForward)


def _present(block: nn.Module, roles: Sequence[str]) -> tuple[Projection, ...]:
    """The projections of those roles that a block has."""
    out = []
    for role in roles:
        parent, _, name = role.partition(".")
        brick = getattr(getattr(block, parent, None), name, None)
        if brick is not None:
            out.append(brick)
    return tuple(out)
