"""What tasks on spans predict, as plain dicts with offsets in characters."""

from __future__ import annotations

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
