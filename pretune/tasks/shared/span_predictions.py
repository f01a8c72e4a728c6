"""What tasks on spans predict, as plain dicts with offsets in characters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NotRequired, TypedDict


class SpanPrediction(TypedDict):
    """A span that was found.

    Attributes:
        start, end: in characters, the end exclusive.
        probability: the mean probability of the tags of its words.
    """

    start: int
    end: int
    label: str
    text: str
    probability: float


class TaggedPrediction(TypedDict):
    """What a tagger says of a text; the tags of its words where the record had words."""

    spans: list[SpanPrediction]
    tags: NotRequired[list[str]]


def brief_spans(spans: Iterable[Mapping[str, object]], *, plain: bool = False) -> str:
    """Spans for a terminal: `Angela Merkel (PER), Paris (LOC)`.

    Args:
        plain: every word is one: `Paris/NNP is/VBZ`.
    """
    if plain:
        return " ".join(f"{span['text']}/{span['label']}" for span in spans)
    return ", ".join(f"{span['text']} ({span['label']})" for span in spans)
