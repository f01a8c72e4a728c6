"""Substitution by a masked language model: replaces words by what the model predicts there.

Source: Kobayashi 2018 (arXiv 1805.06201); Kumar et al. 2020 (arXiv 2003.02245) for BERT, without labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from pretune.augment.augmenter import Augmenter, Edit, Span, match_case
from pretune.draw import Draw


class Substitution(Augmenter):
    """Replaces words by a model's predictions, each given all other words."""

    name: ClassVar[str] = "substitution"

    class Config(Augmenter.Config):
        """How predictions are drawn.

        Attributes:
            top: number of most probable words, of which one is drawn by its probability.
        """

        top: int = Field(default=10, ge=1, le=1000)

    config: Config

    def edits(self, text: str, words: Sequence[Span], draw: Draw) -> list[Edit]:
        """Replaces the chosen words; one for which the model predicts only itself stays."""
        chosen = [words[n] for n in self.choose(len(words), draw.at("word"))]
        if not chosen:
            return []
        masked = [f"{text[:a]}{self.tools.mask}{text[b:]}" for a, b in chosen]
        predicted = self.tools.fill(masked, self.config.top)
        out = []
        for n, ((start, stop), predictions) in enumerate(zip(chosen, predicted, strict=True)):
            old = text[start:stop]
            others = [(word, p) for word, p in predictions if word.lower() != old.lower() and word.isalnum()]
            if not others:
                continue
            mass = np.cumsum([p for _, p in others])
            index = int(np.searchsorted(mass, float(draw.at("guess").uniform(n)) * mass[-1], side="right"))
            out.append(Edit(start, stop, match_case(old, others[min(index, len(others) - 1)][0])))
        return out
