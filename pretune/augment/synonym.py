"""Synonym replacement: replaces words by others of their group in the user's list.

Source: Wei and Zou 2019, EDA (arXiv 1901.11196), section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pretune.augment.augmenter import Augmenter, Edit, Span, Tools, match_case, read_groups
from pretune.draw import Draw


class Synonyms(Augmenter):
    """Replaces words by synonyms."""

    name: ClassVar[str] = "synonym"

    class Config(Augmenter.Config):
        """Where synonyms come from.

        Attributes:
            list: file of synonyms, one group per line, separated by tabs or commas.
        """

        list: str

    config: Config

    def __init__(self, config: Config, tools: Tools | None = None) -> None:
        super().__init__(config, tools)
        self._groups = read_groups(config.list, "synonyms")

    def edits(self, text: str, words: Sequence[Span], draw: Draw) -> list[Edit]:
        """Replaces the chosen ones among the words that have synonyms."""
        known = [(a, b, synonyms) for a, b in words if (synonyms := self.others(text[a:b]))]
        out = []
        for n in self.choose(len(known), draw.at("word")):
            start, stop, synonyms = known[n]
            other = synonyms[int(draw.at("other").below(n, len(synonyms)))]
            out.append(Edit(start, stop, match_case(text[start:stop], other)))
        return out

    def others(self, word: str) -> Sequence[str]:
        """Returns the synonyms of a word, whatever its capitals."""
        return self._groups.get(word) or self._groups.get(word.lower()) or ()
