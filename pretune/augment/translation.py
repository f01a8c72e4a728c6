"""Back-translation: a text is translated into another language and back by two of our own models.

Source: Sennrich et al. 2016 (arXiv 1511.06709); Edunov et al. 2018 (arXiv 1808.09381) for sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pretune.augment.augmenter import Augmented, Augmenter, Edit, Span
from pretune.draw import Draw
from pretune.errors import UsageError


class Translation(Augmenter):
    """Say it in other words."""

    name: ClassVar[str] = "translation"

    def augment(self, text: str, draw: Draw, spans: Sequence[Span] = ()) -> Augmented:
        """The whole text anew.

        Raises:
            UsageError: there are spans: a translation does not say where they went.
        """
        if spans:
            raise UsageError("back-translation cannot follow spans; take another method for texts with spans")
        return super().augment(text, draw)

    def edits(self, text: str, words: Sequence[Span], draw: Draw) -> list[Edit]:
        """One, of all."""
        if not words:
            return []
        (found,) = self.tools.translate([text], draw.key & (2**31 - 1))
        return [Edit(0, len(text), found)] if found.strip() else []
