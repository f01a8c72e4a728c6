"""What a search gives: passages, each with its place in its document."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pretune.search.documents import Value


@dataclass(frozen=True)
class Hit:
    """A passage that was found.

    Attributes:
        document: its id.
        title: of the document.
        start, end: where the passage stands in the document's text, in characters.
        text: of the passage.
        score: by which it was ranked: higher is better, and it compares within one query alone.
        fields: of the document.
    """

    document: str
    title: str
    start: int
    end: int
    text: str
    score: float
    fields: dict[str, Value] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)
