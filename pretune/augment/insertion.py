"""Random insertion: a synonym of one of the words, somewhere else in the text.

Source: Wei and Zou 2019, EDA (arXiv 1901.11196), section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pretune.augment.augmenter import Edit, Span
from pretune.augment.synonym import Synonyms
from pretune.draw import Draw


class Insertion(Synonyms):
    """Insert synonyms of words at random places before words."""

    name: ClassVar[str] = "insertion"

    def edits(self, text: str, words: Sequence[Span], draw: Draw) -> list[Edit]:
        """As many as the share of the words, at most one before each."""
        known = [found for a, b in words if (found := self.others(text[a:b]))]
        if not known:
            return []
        out = []
        for n in self.pick(len(words), draw.at("place")):
            found = known[int(draw.at("word").below(n, len(known)))]
            word = found[int(draw.at("other").below(n, len(found)))]
            place = words[n][0]
            out.append(Edit(place, place, f"{word} " if word.isascii() else word))
        return out
