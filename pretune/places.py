"""Names the places of a model: the layer and the role that a path says, and the patterns by which users name places.

A role is a path inside a layer, such as `attention.query` or `feedforward.up`, or a path in the model where it is in
none, such as `heads.classification.linear`. A pattern is a role or a part of it (`attention`, `query`), a range of
layers (`layers[-2:]`), or both (`layers[-2:].attention`); `head` is all that the heads have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pretune.errors import UsageError

_IN_LAYER = re.compile(r"((?P<side>(?:.*?\.)??)(?:stack\.)?)blocks\.(\d+)\.(.+)")
_PATTERN = re.compile(r"(layers(?:\[(-?\d*):(-?\d*)\])?(?:\.|$))?([\w.]*)")
_HEAD = re.compile(r"^head(?=\.|$)")


@dataclass(frozen=True)
class Place:
    """What a path in a model says.

    Attributes:
        side: path of what holds the stack, with its dot: empty, or `encoder.`; empty outside of layers.
        stack: path of the stack, with its dot, such as `encoder.stack.`; empty outside of layers.
        layer: number of the layer; None outside of layers.
        role: the path inside of the layer; the whole path outside of layers.
    """

    side: str
    stack: str
    layer: int | None
    role: str

    @classmethod
    def of(cls, path: str) -> Place:
        """Splits a path, of a module or a parameter."""
        match = _IN_LAYER.fullmatch(path)
        return cls("", "", None, path) if match is None else cls(match["side"], match[1], int(match[3]), match[4])


@dataclass(frozen=True)
class PlacePattern:
    """A pattern that names places.

    Attributes:
        layers: the range of layers; None for any layer, and for what is in none.
        role: a role, or a part of one; empty for any.
    """

    layers: slice | None
    role: str

    @classmethod
    def parse(cls, text: str, field: str) -> PlacePattern:
        """Reads a pattern.

        Args:
            field: of the settings that has it, for the message.

        Raises:
            UsageError: it is none.
        """
        match = _PATTERN.fullmatch(text)
        if match is None or not text:
            raise UsageError(
                f"{field}: {text!r} names no place; write one such as heads, layers[0:2] or layers[-2:].attention.query"
            )
        layers, first, last, role = match.groups()
        bounds = slice(int(first) if first else None, int(last) if last else None)
        return cls(None if layers is None else bounds, _HEAD.sub("heads", role))

    def matches(self, role: str, layer: int | None, layer_count: int, path: str | None = None) -> bool:
        """Whether it names a place.

        Args:
            role, layer: of the place.
            layer_count: layers of its stack.
            path: the whole path, where a pattern without layers may name any part of that.
        """
        if self.layers is not None and (layer is None or layer not in range(*self.layers.indices(layer_count))):
            return False
        subject = role if path is None or self.layers is not None else path
        return not self.role or f".{self.role}." in f".{subject}."
