"""The prompts and settings that are compared, each found on SST-2's training sentences alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CLOZE = "sentiment_cloze"
WORDS = {"0": "negative", "1": "positive"}


@dataclass(frozen=True)
class Setup:
    """One way to ask.

    Attributes:
        prompt: name of a prompt of `pretune/prompts/`.
        labels: the word of each label.
        options: other keyword arguments of `Model.prompted`.
    """

    prompt: str
    labels: dict[str, str]
    options: dict[str, Any]


ZERO_SHOT = {
    "zero-shot": Setup("sentiment", WORDS, {}),
    "zero-shot, contextual": Setup("sentiment", WORDS, {"calibrate": "contextual"}),
    "zero-shot, pmi": Setup("sentiment", WORDS, {"calibrate": "pmi"}),
    "zero-shot, batch": Setup("sentiment", WORDS, {"calibrate": "batch"}),
}
FEW_SHOT = {
    f"4 shots, {choose}, {calibrate or 'plain'}": Setup(
        "sentiment",
        WORDS,
        {"shot_count": 4, "choose": choose} | ({"calibrate": calibrate} if calibrate else {}),
    )
    for choose in ("similar", "similar_balanced", "balanced", "random")
    for calibrate in (None, "contextual", "batch")
}
