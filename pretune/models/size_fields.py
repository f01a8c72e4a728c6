"""The configuration of a named size, and which of its fields say the sizes of a family's stacks.

A smaller model has a plain `config.json` by them.

A family's file, or a user's own, says it as `SIZE_FIELDS`, by the paths of its stacks: `stack`, and `encoder.stack` of
an encoder-decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pretune import config as configuration
from pretune.errors import UsageError
from pretune.find import suggest

if TYPE_CHECKING:
    from pretune.models.model import Config, Family

Part = Literal["layers", "heads", "inner"]
"""What can be cut: whole layers, heads of attention, and inner width of the feed-forward."""

_REASONS: Mapping[Part, str] = {
    "layers": "it has no field for their number",
    "inner": "the feed-forward's inner width follows from the model's width there",
    "heads": "a head is as wide there as the model's width over the number of heads: fewer would be wider",
}


@dataclass(frozen=True)
class SizeFields:
    """Names the fields that say the sizes of one stack; None for a size that the configuration cannot say.

    Attributes:
        layers: number of layers.
        inner: width between the projections of each feed-forward.
        heads: number of heads, where the width of a head is a field of its own.
        key_heads: number of heads of keys and values.
        reasons: why the configuration cannot say a size, where it is not the usual reason.
        by_layer: gives the fields that say something of each layer, from the configuration and the layers that stay.
    """

    layers: str | None = None
    inner: str | None = None
    heads: str | None = None
    key_heads: str | None = None
    reasons: Mapping[Part, str] = field(default_factory=dict)
    by_layer: Callable[[Any, Sequence[int]], Mapping[str, Any]] | None = None

    def reason(self, part: Part) -> str | None:
        """Why the configuration cannot say another size; None where it can."""
        return self.reasons.get(part, _REASONS[part]) if getattr(self, part) is None else None


def configure(family: Family, size: str, overrides: Mapping[str, Any]) -> Config:
    """The configuration of a named size with some fields replaced.

    Raises:
        UsageError: an unknown size or field, or a value out of range.
    """
    if size not in family.SIZES:
        raise UsageError(f"model.size: no size {size!r}; {suggest(size, list(family.SIZES))}")
    return configuration.validate(family.Config, {**family.SIZES[size], **overrides}, "model")
