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
        pattern: in place of the prompt's.
    """

    prompt: str
    labels: dict[str, str]
    options: dict[str, Any]
    pattern: str | None = None


_LAST = "sentiment of this movie review is"
_CANDIDATES = {
    "Review: {text}\nSentiment: {label}": ("negative", "positive"),
    "Review: {text} Sentiment: {label}": ("negative", "positive"),
    "Sentence: {text}\nSentiment: {label}": ("negative", "positive"),
    "Movie review: {text}\nSentiment: {label}": ("negative", "positive"),
    '"{text}"\nThe ' + _LAST + " {label}": ("negative", "positive"),
    'Review: "{text}"\nThe review is {label}': ("negative", "positive"),
    "Review: {text}\nSentiment (positive or negative): {label}": ("negative", "positive"),
    "Review: {text}\nIs the review positive or negative? The review is {label}": ("negative", "positive"),
    "Review: {text}\nRating: {label}": ("bad", "good"),
    "{text} It was {label}": ("terrible", "great"),
    "{text}\n\nThis is a {label}": ("bad", "good"),
}
CANDIDATES = {
    f"candidate {n}, {'chat' if chat else 'plain'}, {calibrate or 'none'}": Setup(
        "plain",
        dict(zip(WORDS, words, strict=True)),
        ({"calibrate": calibrate} if calibrate else {}) | ({"chat": True} if chat else {}),
        pattern,
    )
    for n, (pattern, words) in enumerate(_CANDIDATES.items())
    for chat in (False, True)
    for calibrate in (None, "contextual", "batch")
}
"""Among which `sentiment` was chosen, with `--develop`, that is on training sentences."""
ZERO_SHOT = {
    "zero-shot": Setup("sentiment", WORDS, {}),
    "zero-shot, contextual": Setup("sentiment", WORDS, {"calibrate": "contextual"}),
    "zero-shot, pmi": Setup("sentiment", WORDS, {"calibrate": "pmi"}),
    "zero-shot, batch": Setup("sentiment", WORDS, {"calibrate": "batch"}),
    "zero-shot, channel": Setup("sentiment", WORDS, {"channel": 0.2}),
    "zero-shot, channel, batch": Setup("sentiment", WORDS, {"channel": 0.2, "calibrate": "batch"}),
}
FEW_SHOT = {
    f"4 shots, {choose}, {calibrate or 'plain'}": Setup(
        "sentiment",
        WORDS,
        {"shot_count": 4, "choose": choose} | ({"calibrate": calibrate} if calibrate else {}),
    )
    for choose in ("similar", "similar_balanced", "balanced", "random")
    for calibrate in (None, "contextual", "batch")
} | {
    f"4 shots, balanced, {'4 draws, ' if draws > 1 else ''}{'channel, ' if channel else ''}batch": Setup(
        "sentiment",
        WORDS,
        {"shot_count": 4, "shot_draws": draws, "choose": "balanced", "channel": channel, "calibrate": "batch"},
    )
    for draws, channel in ((1, 0.2), (4, 0.0), (4, 0.2))
}
