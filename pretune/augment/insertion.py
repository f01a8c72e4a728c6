"""Random insertion: inserts a synonym of one of the words elsewhere in the text.

Source: Wei and Zou 2019, EDA (arXiv 1901.11196), section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pretune.augment.augmenter import Edit, Span
from pretune.augment.synonym import Synonyms
from pretune.draw import Draw


class Insertion(Synonyms):
    """Inserts synonyms of words at random positions, before words."""

    name: ClassVar[str] = "insertion"

    def edits(self, text: str, words: Sequence[Span], draw: Draw) -> list[Edit]:
        """Inserts as many as `rate` says, at most one before each word."""
        known = [synonyms for a, b in words if (synonyms := self.others(text[a:b]))]
        if not known:
            return []
        out = []
        for n in self.choose(len(words), draw.at("place")):
            synonyms = known[int(draw.at("word").below(n, len(known)))]
            word = synonyms[int(draw.at("other").below(n, len(synonyms)))]
            start = words[n][0]
            out.append(Edit(start, start, f"{word} " if word.isascii() else word))
        return out
