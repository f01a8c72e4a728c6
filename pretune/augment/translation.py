"""Back-translation: translates a text into another language and back with two models.

Source: Sennrich et al. 2016 (arXiv 1511.06709); Edunov et al. 2018 (arXiv 1808.09381) for sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pretune.augment.augmenter import Augmented, Augmenter, Edit, Span
from pretune.draw import Draw
from pretune.errors import UsageError


class Translation(Augmenter):
    """Rephrases a text by translating it there and back."""

    name: ClassVar[str] = "translation"

    def augment(self, text: str, draw: Draw, spans: Sequence[Span] = ()) -> Augmented:
        """Returns the whole text, rephrased.

        Raises:
            UsageError: there are spans; a translation does not tell where they went.
        """
        if spans:
            raise UsageError("back-translation cannot follow spans; use another method for texts with spans")
        return super().augment(text, draw)

    def edits(self, text: str, words: Sequence[Span], draw: Draw) -> list[Edit]:
        """Replaces the whole text."""
        if not words:
            return []
        (translated,) = self.tools.translate([text], draw.key & (2**31 - 1))
        return [Edit(0, len(text), translated)] if translated.strip() else []
