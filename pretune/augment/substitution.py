"""Substitution by a masked language model: words give way to what the model would put in their places.

Source: Kobayashi 2018 (arXiv 1805.06201); Kumar et al. 2020 (arXiv 2003.02245) for BERT, without labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from pretune.augment.augmenter import Augmenter, Edit, Span, like
from pretune.draw import Draw


class Substitution(Augmenter):
    """Replace words by a model's guesses, each with all others in view."""

    name: ClassVar[str] = "substitution"

    class Config(Augmenter.Config):
        """How guesses are taken.

        Attributes:
            top: likeliest words from which one is drawn by its probability.
        """

        top: int = Field(default=10, ge=1, le=1000)

    config: Config

    def edits(self, text: str, words: Sequence[Span], draw: Draw) -> list[Edit]:
        """The chosen words; one that the model would only repeat stays."""
        chosen = [words[n] for n in self.pick(len(words), draw.at("word"))]
        if not chosen:
            return []
        asked = [f"{text[:a]}{self.tools.mask}{text[b:]}" for a, b in chosen]
        out = []
        for n, ((start, stop), found) in enumerate(zip(chosen, self.tools.fill(asked, self.config.top), strict=True)):
            old = text[start:stop]
            others = [(word, p) for word, p in found if word.lower() != old.lower() and word.isalnum()]
            if not others:
                continue
            share = np.cumsum([p for _, p in others])
            place = int(np.searchsorted(share, float(draw.at("guess").uniform(n)) * share[-1], side="right"))
            out.append(Edit(start, stop, like(old, others[min(place, len(others) - 1)][0])))
        return out
