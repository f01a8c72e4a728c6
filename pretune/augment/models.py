"""Augmentation with trained models: filling masks, and translating there and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pretune.augment.augmenter import Tools
from pretune.errors import UsageError

Model = Any
"""A `pretune.api.Model`, which this package may not import: it fills masks and generates."""


class ModelTools(Tools):
    """Uses loaded models.

    Args:
        masked: masked language model.
        there, back: models that translate into another language, and back.
    """

    def __init__(self, masked: Model | None = None, there: Model | None = None, back: Model | None = None) -> None:
        self._masked, self._there, self._back = masked, there, back
        if masked is not None:
            vocabulary = masked.tokenizer.vocabulary
            if vocabulary.mask is None:
                raise UsageError("--model has no mask token; use a masked language model such as BERT")
            self.mask = masked.tokenizer.token(vocabulary.mask)

    def fill(self, texts: Sequence[str], top: int) -> list[list[tuple[str, float]]]:
        """Returns the most probable words for the mask of each text."""
        if self._masked is None:
            return super().fill(texts, top)
        return [[(guess.token, guess.probability) for guess in self._masked.fill(text, top=top)[0]] for text in texts]

    def translate(self, texts: Sequence[str], seed: int) -> list[str]:
        """Translates there by sampling, so that copies differ, and back greedily."""
        if self._there is None or self._back is None:
            return super().translate(texts, seed)
        foreign: list[str] = self._there.generate(list(texts), temperature=1.0, top_k=10, seed=seed)
        own: list[str] = self._back.generate(foreign, temperature=0.0)
        return own
