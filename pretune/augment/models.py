"""Augmentation with trained models: filling masks, and translating there and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pretune.augment.augmenter import Tools
from pretune.errors import UsageError
from pretune.text.tokenizer.tokenizer import Tokenizer


class Guess(Protocol):
    """A token for a mask, and its probability."""

    @property
    def token(self) -> str:
        """Its text."""

    @property
    def probability(self) -> float:
        """By the model."""


class MaskFiller(Protocol):
    """What augmentation uses of a masked language model; `pretune.Model`, which this package may not import, has it."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of its texts."""

    def fill(self, text: str, top: int = 5) -> Sequence[Sequence[Guess]]:
        """The most probable tokens for each mask of a text, best first."""


class Translator(Protocol):
    """What augmentation uses of an encoder-decoder that translates; `pretune.Model` has it too."""

    def generate(self, prompts: list[str], *, temperature: float, top_k: int = 0, seed: int = 0) -> list[str]:
        """The translation of each text."""


class ModelTools(Tools):
    """Uses loaded models.

    Args:
        masked: masked language model.
        there, back: models that translate into another language, and back.
    """

    def __init__(
        self, masked: MaskFiller | None = None, there: Translator | None = None, back: Translator | None = None
    ) -> None:
        self._masked, self._there, self._back = masked, there, back
        self.models = tuple(model for model in (masked, there, back) if model is not None)
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
        foreign = self._there.generate(list(texts), temperature=1.0, top_k=10, seed=seed)
        return self._back.generate(foreign, temperature=0.0)
